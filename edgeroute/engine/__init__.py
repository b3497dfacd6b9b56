"""From a prompt to a score: text, onnxruntime sessions, threads, devices, calibration, deadlines."""
