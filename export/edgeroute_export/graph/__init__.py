"""Graphs: traced, assembled with a head, quantized."""
