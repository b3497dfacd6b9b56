"""Two commits side by side: scores to the bit, digests, exit codes, JSON keys, cold start and memory.

python benchmarks_latency/compare.py BASE [ROUNDS]

``BASE`` is a commit; the other side is the working tree. Exit code 1 where anything but a time differs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SCORES = """
import json, sys, warnings
from pathlib import Path
from edgeroute import EdgeRouteError, Router
warnings.simplefilter("ignore")
prompts = json.loads(sys.stdin.read())
chat = [{"role": "user", "content": prompts[0]}, {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": prompts[3]}]


def said(call, *arguments):
    try:
        return call(*arguments)
    except EdgeRouteError as error:
        return type(error).__name__


def decided(router, prompt):
    each = router.choose(prompt, strong_share=0.3)
    return each.target, each.score.hex(), each.threshold.hex(), each.n_tokens, each.truncated, each.road


found = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    if not (folder / "router.json").exists():
        continue
    router = Router.load(folder)
    readable = [each for each in prompts if not isinstance(said(router.score, each), str)]
    found[folder.name] = {
        "digest": router.manifest.digest,
        "scores": [said(lambda: router.score(each).hex()) for each in (*prompts, chat)],
        "batch": [float(each).hex() for each in router.score_batch(readable)],
        "decisions": [said(decided, router, each) for each in prompts],
        "ranking": [(each.model, each.strength.hex()) for each in router.rank(prompts[0]).standings]
                   if router.manifest.models else [],
    }
print(json.dumps(found))
"""
MEMORY = (
    "from edgeroute import Router; r = Router.load(); r.score('hi');"
    "print(next(line for line in open('/proc/self/status') if line.startswith('VmRSS')).split()[1])"
)
COMMANDS = [
    "score hi", "score hi --json", "score --json --strong-share 0.3 hi", "score hi --explain", "score",
    "score hi --model nothing", "score hi --strong-share 2", "score hi --nonsense", "score --file PROMPTS --json",
    "score --file absent.jsonl", "score --file BROKEN --json", "rank hi --json", "rank hi --models nobody",
    "models --json", "verify --json", "verify nothing", "inspect mf-small --json", "doctor --json", "nonsense",
    "pull nothing", "bench --nonsense", "calibrate --prompts PROMPTS --json", "calibrate --prompts absent.jsonl",
    "replay absent.jsonl", "ask hi --config absent.toml", "serve --config absent.toml",
    "evaluate OUTCOMES --strong s --weak w --json", "evaluate absent.csv",
]  # fmt: skip
PROMPTS = [
    "hi", "What is the capital of Peru?", "Prove that there are infinitely many primes.",
    "Summarise this:\n" + "The meeting moved to Thursday because the room is being painted. " * 40,
    "def f(x):\n    return x + 1\n" * 30, "\u4f60\u597d\uff0c\u8bf7\u89e3\u91ca\u91cf\u5b50\u7ea0\u7f20\u3002",
    "Which is right?\nA. one\nB. two\nC. three\nD. four\nAnswer:", "a " * 3000, "?", "\U0001f600 ok",
    *(" ".join(f"word{i}" for i in range(n)) for n in (10, 30, 60, 100, 150, 300)),
]  # fmt: skip


def run(tree: Path, *arguments: str, given: str = "", cwd: Path) -> subprocess.CompletedProcess[str]:
    """Python with the packages of ``tree``; ``cwd`` comes before them on its path, so it holds none."""
    roots = [tree, *(tree / name for name in ("export", "train", "models"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots)), "COLUMNS": "120"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, input=given, capture_output=True, text=True, check=False, cwd=cwd)


def shape(value: Any) -> Any:
    """Keys of JSON, without the values."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__


def told(done: subprocess.CompletedProcess[str]) -> Any:
    """Exit code, and the keys of what was printed where it is JSON."""
    try:
        keys = shape(json.loads(done.stdout))
    except ValueError:
        keys = [shape(json.loads(line)) if line.startswith("{") else "text" for line in done.stdout.splitlines()[:1]]
    return done.returncode, keys


def commands(tree: Path, folder: Path) -> dict[str, Any]:
    """What every command of ``COMMANDS`` gives."""
    rows = [json.dumps({"prompt": each, "scores": {"s": 1, "w": i % 2}}) for i, each in enumerate(PROMPTS)]
    files = {"PROMPTS": rows, "OUTCOMES": rows, "BROKEN": [*rows[:3], "{", '{"prompt": ""}']}
    for name, lines in files.items():
        (folder / f"{name.lower()}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = {}
    for each in COMMANDS:
        words = [f"{word.lower()}.jsonl" if word in files else word for word in each.split()]
        found[each] = told(run(tree, "-m", "edgeroute", *words, cwd=folder))
    return found


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """Where two values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        return [each for key in keys for each in differences(before.get(key), after.get(key), f"{where}/{key}")]
    if isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        return [
            e for i, (a, b) in enumerate(zip(before, after, strict=True)) for e in differences(a, b, f"{where}/{i}")
        ]
    return [] if before == after else [f"{where}: {str(before)[:300]} -> {str(after)[:300]}"]


def cold_ms(tree: Path, folder: Path) -> float:
    """Wall time of one ``edgeroute score hi``."""
    start = time.perf_counter()
    run(tree, "-m", "edgeroute", "score", "hi", cwd=folder)
    return (time.perf_counter() - start) * 1e3


def main() -> int:
    """Compare, print, and say by the exit code whether anything differs."""
    base, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 15
    with tempfile.TemporaryDirectory() as scratch:
        tree, folder = Path(scratch) / "base", Path(scratch) / "cwd"
        folder.mkdir()
        subprocess.run(["git", "worktree", "add", "-q", "--detach", tree, base], cwd=ROOT, check=True)
        try:
            return compare(tree, folder, rounds)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def compare(tree: Path, folder: Path, rounds: int) -> int:
    """Everything about the tree before and the one that this file is in."""
    sides = (tree, ROOT)
    bundles = [tree / "models" / "edgeroute_models", ROOT / "models" / "edgeroute_models"]
    done = [
        run(s, "-c", SCORES, str(b), given=json.dumps(PROMPTS), cwd=folder) for s, b in zip(sides, bundles, strict=True)
    ]
    for each in done:
        if each.returncode:
            print(each.stderr)
            return 1
    scores = [json.loads(each.stdout) for each in done]
    numbers = sum(len(each["scores"]) + len(each["batch"]) + len(each["ranking"]) for each in scores[0].values())
    changed = differences(*scores)
    print(f"{len(scores[0])} bundles, {numbers} scores and strengths: {len(changed)} differences")
    answers = [commands(side, folder) for side in sides]
    codes = differences(*answers)
    print(f"{len(COMMANDS)} commands, exit codes and JSON keys: {len(codes)} differences")
    for each in changed + codes:
        print(f"  {each}")
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, found in zip(sides, times, strict=True):
            found.append(cold_ms(side, folder))
    ratio = statistics.median(after / before for before, after in zip(*times, strict=True))
    print(
        f"cold start, after / before: median of {rounds} ratios {ratio:.3f}; least {min(times[1]) / min(times[0]):.3f}"
    )
    memory = [
        statistics.median(int(run(side, "-c", MEMORY, cwd=folder).stdout) for _ in range(3)) / 1024 for side in sides
    ]
    print(f"resident memory after load and one score: {memory[0]:.1f} -> {memory[1]:.1f} MiB")
    return 1 if changed or codes else 0


if __name__ == "__main__":
    sys.exit(main())
