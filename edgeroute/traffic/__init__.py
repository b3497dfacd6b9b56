"""The operator's own traffic: its decision log, and what calibration, drift and replay make of it."""
