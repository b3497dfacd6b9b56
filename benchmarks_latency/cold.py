"""Cold start: ``edgeroute score "hi"`` against importing its libraries, interleaved; memory after load; import time.

python benchmarks_latency/cold.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

LIBRARIES = [sys.executable, "-c", "import numpy, onnxruntime, tokenizers, click"]
SCORE = [sys.executable, "-m", "edgeroute", "score", "hi"]
IMPORT = [sys.executable, "-c", "import edgeroute"]
NOTHING = [sys.executable, "-c", "pass"]
MEMORY = (
    "from edgeroute import Router; r = Router.load(); r.score('hi');"
    "print(next(line for line in open('/proc/self/status') if line.startswith('VmRSS')).split()[1])"
)


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    times: dict[str, list[float]] = {"libraries": [], "score": [], "import": [], "nothing": []}
    for _ in range(rounds):
        for name, command in zip(times, (LIBRARIES, SCORE, IMPORT, NOTHING), strict=True):
            times[name].append(seconds(command))
    ratios = [score / libraries for score, libraries in zip(times["score"], times["libraries"], strict=True)]
    for name, values in times.items():
        print(f"{name:<10} median {statistics.median(values) * 1e3:6.0f} ms, least {min(values) * 1e3:6.0f} ms")
    print(
        f"score / libraries: median of ratios {statistics.median(ratios):.2f}, of the least {ratio_of_least(times):.2f}"
    )
    memory = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    print(f"resident memory after load and one score: {int(memory.stdout) / 1024:.0f} MiB")


def ratio_of_least(times: dict[str, list[float]]) -> float:
    """The ratio of the fastest runs: what the machine can do when nobody else runs."""
    return min(times["score"]) / min(times["libraries"])


if __name__ == "__main__":
    main()
