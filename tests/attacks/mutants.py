"""Load and score many mutated bundles, re-hashed so that each gets past promise 1; run as a process of its own.

    python mutants.py BUNDLE FOLDER KIND FIRST COUNT

A broken graph can make onnxruntime crash, hang or ask for gigabytes, so memory and time are limited, and what happened
is written to ``FOLDER/log`` as it goes: one line a mutant, seed and outcome. Standard output must stay empty.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from edgeroute.bundle.manifest import canonical, seal
from edgeroute.errors import EdgeRouteError
from edgeroute.router import Router

MEMORY = 4 << 30
PROMPTS = ["hello", "Prove that there are infinitely many primes.", "milk " * 50, "\ud800 é \0", ""]
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    0.5,
    -0.5,
    1e308,
    "",
    "x",
    "../x",
    "\0",
    "é",
    [],
    [[]],
    {},
]


def mutate_bytes(data: bytes, choose: random.Random) -> bytes:
    """Flip, cut, repeat, insert or overwrite a few bytes."""
    changed = bytearray(data)
    for _ in range(choose.choice([1, 1, 2, 4, 16])):
        at = choose.randrange(len(changed) or 1)
        match choose.randrange(6):
            case 0 | 1:
                changed[at : at + 1] = bytes([changed[at] ^ 1 << choose.randrange(8)]) if changed else b""
            case 2:
                changed[at : at + 1] = bytes([choose.randrange(256)])
            case 3:
                del changed[at : at + choose.randrange(1, 20)]
            case 4:
                changed[at:at] = choose.randbytes(choose.randrange(1, 10))
            case 5:
                changed[at:at] = changed[at : at + choose.randrange(1, 40)]
    return bytes(changed)


def mutate_json(value: Any, choose: random.Random) -> Any:
    """Replace, remove, repeat or rename something somewhere in a JSON value."""
    value = json.loads(json.dumps(value))
    here = value
    while True:
        keys: list[Any] = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return value
        key = choose.choice(keys)
        inner = here[key]
        if isinstance(inner, dict | list) and inner and choose.random() < 0.8:
            here = inner
            continue
        match choose.randrange(5):
            case 0 | 1:
                here[key] = choose.choice(ODD)
            case 2:
                del here[key]
            case 3 if isinstance(here, list):
                here.insert(key, inner)
            case 4 if isinstance(here, dict):
                here[choose.choice(["x", "", str(key) + "_"])] = here.pop(key)
            case _:
                here[key] = [inner] * 3 if choose.random() < 0.5 else {"x": inner}
        return value


def mutate(folder: Path, kind: str, choose: random.Random) -> None:
    """Change one file of the bundle in ``folder`` and make sizes, hashes and digest true again."""
    manifest = json.loads((folder / "router.json").read_bytes())
    if kind == "manifest":
        for _ in range(choose.choice([1, 1, 3])):
            manifest = mutate_json(manifest, choose)
        try:
            data = seal(manifest) if choose.random() < 0.8 else mutate_bytes(canonical(manifest), choose)
        except ValueError:
            data = json.dumps(manifest).encode()
        (folder / "router.json").write_bytes(data)
        return
    path = folder / {"tokenizer": "tokenizer.json", "graph": "model.int8.onnx"}[kind]
    if kind == "tokenizer" and choose.random() < 0.8:
        value = json.loads(path.read_bytes())
        for _ in range(choose.choice([1, 1, 3])):
            value = mutate_json(value, choose) if isinstance(value, dict | list) else value
        path.write_bytes(json.dumps(value).encode())
    else:
        path.write_bytes(mutate_bytes(path.read_bytes(), choose))
    from bundles import file_entry

    manifest["files"][path.name] = file_entry(path)
    (folder / "router.json").write_bytes(seal(manifest))


def outcome(folder: Path) -> str:
    """Load and score; the name of the error, or ``scored``. Any other exception escapes."""
    try:
        router = Router.load(folder, threads=1)
    except EdgeRouteError as error:
        str(error).encode("utf-8", "replace")
        return type(error).__name__
    for prompt in PROMPTS:
        try:
            assert 0 <= router.choose(prompt).score <= 1
        except EdgeRouteError as error:
            str(error)
    try:
        router.score_batch(PROMPTS[:3])
    except EdgeRouteError:
        return "loaded"
    return "scored"


def main(bundle: str, work: str, kind: str, first: str, count: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    folder = Path(work) / "mutant"
    with (Path(work) / "log").open("a") as log:
        for seed in range(int(first), int(first) + int(count)):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(bundle, folder)
            mutate(folder, kind, random.Random(f"{kind} {seed}"))
            print(seed, "", end="", file=log, flush=True)
            try:
                print(outcome(folder), file=log, flush=True)
            except BaseException as error:
                print(f"ESCAPED {type(error).__name__}: {str(error)[:200]!r}", file=log, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
