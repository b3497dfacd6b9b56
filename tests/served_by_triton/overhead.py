"""What asking a server costs over the local graph, here: python tests/served_by_triton/overhead.py [BUNDLE [ROUNDS]].

The server is the tests' own, a Python process, over loopback: not Triton. The ratio bounds what tokenizing, the client
and the protocol add; it says nothing of Triton's speed.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeroute import Router
from edgeroute.triton.config import Settings
from edgeroute.triton.repository import export_repository

WORDS = (6, 50, 180)


def serve(folder: str, scheme: str, pipe: Any) -> None:
    """Until told to stop."""
    from model_repository import ModelRepository
    from serving_v2 import SERVERS

    with SERVERS[scheme](ModelRepository(Path(folder))) as port:
        pipe.send(port)
        pipe.recv()


def median_ms(router: Router, prompt: str, backend: str) -> float:
    """Of one decision."""
    decision = router.choose(prompt)
    assert decision.backend == backend, decision
    return decision.latency_ms


def main(bundle: str = "mf-small", rounds: str = "200") -> None:
    """Print medians and ratios; local and served calls take turns."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        (model, *_) = export_repository(bundle, Path(scratch) / "m", settings=Settings(threads=1))
        local = Router.load(bundle, threads=1, provider="cpu")
        for scheme in ("triton", "triton+http"):
            pipe, other = context.Pipe()
            process = context.Process(target=serve, args=(str(Path(scratch) / "m"), scheme, other))
            process.start()
            try:
                url = f"{scheme}://127.0.0.1:{pipe.recv()}/{model.model}"
                remote = Router.load(bundle, threads=1, provider="cpu", backend=url)
                for words in WORDS:
                    prompt = " ".join(["contract"] * words)
                    taken: tuple[list[float], list[float]] = ([], [])
                    for _ in range(int(rounds)):
                        taken[0].append(median_ms(local, prompt, "local"))
                        taken[1].append(median_ms(remote, prompt, "triton"))
                        time.sleep(0.001)
                    here, there = (float(np.median(each)) for each in taken)
                    where = f"{scheme:12} {local.choose(prompt).n_tokens:4} tokens"
                    print(f"{where}  local {here:6.2f} ms  served {there:6.2f} ms  ratio {there / here:.2f}")
            finally:
                pipe.send(None)
                process.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
