"""Triton Inference Server: write a bundle as its model repository, and score through it over KServe's v2 protocol.

Triton runs the graph; the tokenizer, the calibration and the decision stay with the caller's bundle. ``repository``
writes the folder that Triton reads and needs nothing beyond the runtime; ``server`` asks it by ``tritonclient`` (extra
``[triton]``) and falls back to the local graph. ``docs/triton.md`` is the manual.
"""
