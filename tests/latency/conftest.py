"""The scripts of ``benchmarks_latency`` can be imported by name, as they import each other."""

from __future__ import annotations

from latency_scripts import load_script

load_script("measuring")
