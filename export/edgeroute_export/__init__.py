"""Checkpoint to bundle: trace, put the head inside the graph, quantize, verify against PyTorch, write whole or not."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reports to its maker otherwise; see SECURITY.md
