"""Checkpoint to bundle: trace, put the head inside the graph, quantize, verify against PyTorch, write whole or not."""
