"""Measure everything that docs/latency.md shows, on this machine, into benchmarks_latency/results/NAME.json.

    python benchmarks_latency/run.py NAME --weights BUNDLE=CHECKPOINT[,ENCODER] --teacher BUNDLE=CHECKPOINT[,ENCODER]
    python benchmarks_latency/run.py NAME --stage bundles --stage cold ...

Stages, each replacing its own part of the file: contenders (others on the weights of the default bundle, and its
teacher in PyTorch), bundles (edgeroute itself, every bundle with and without a deadline), cold, memory, floors,
frontier (quality against time, with the bundles in --beside),
cascade (what the deadline's roads do to decisions, on the label files in --labels).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from measuring import interleave, over_prompts, summary

from edgeroute import Router
from edgeroute.bench.bench import POOL, readers_of
from edgeroute.bench.prompts import mixed_prompts, prompt_of
from edgeroute.bundle.store import shipped_folder, shipped_index
from edgeroute.engine.machine import describe_machine, resident_mib

Found = dict[str, Any]
HERE = Path(__file__).parent
RESULTS = HERE / "results"
STAGES = ("contenders", "bundles", "cold", "memory", "floors", "frontier", "cascade")
LENGTHS = (8, 16, 32, 64, 128, 256)
DEADLINE_MS = 10
OURS = "edgeroute"
LIBRARIES = ("torch", "transformers", "optimum", "onnxruntime", "openvino", "nncf", "sentence-transformers", "numpy")


@click.command(help=__doc__)
@click.argument("name")
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Only this; may be repeated.")
@click.option("--weights", metavar="BUNDLE=CHECKPOINT[,ENCODER]", help="The default bundle's checkpoint.")
@click.option("--teacher", metavar="BUNDLE=CHECKPOINT[,ENCODER]", help="Timed in PyTorch alone.")
@click.option("--labels", type=click.Path(exists=True, path_type=Path), help="Folder of label files, for cascade.")
@click.option("--beside", type=click.Path(exists=True, path_type=Path), help="Folder of bundles that do not ship.")
@click.option("--threads", multiple=True, type=click.IntRange(1), default=(1, 2), show_default=True)
@click.option("--rounds", type=click.IntRange(2), default=7, show_default=True, help="Rounds of contenders.")
@click.option("--prompts", type=click.IntRange(8), default=160, show_default=True, help="Of the mix, for contenders.")
@click.option("--calls", type=click.IntRange(1), default=2000, show_default=True, help="Calls of each row of a bundle.")
@click.option("--memory-calls", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--scratch", type=click.Path(path_type=Path), default=Path("build/latency"), show_default=True)
def main(name: str, stages: tuple[str, ...], **options: Any) -> None:
    place = RESULTS / f"{name}.json"
    found: Found = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    machine = asdict(describe_machine())
    if found and found["machine"]["cpu"] != machine["cpu"]:
        raise click.UsageError(f"{name} was measured on {found['machine']['cpu']}: take another name for this machine.")
    for stage in stages or [each for each in STAGES if options["labels"] or each != "cascade"]:
        start = time.monotonic()
        print(f"== {stage}", file=sys.stderr)
        found |= {"machine": machine, "date": time.strftime("%Y-%m-%d")}
        found[stage] = {"commit": _commit(), **globals()[f"measure_{stage}"](options)}
        found[stage]["seconds"] = round(time.monotonic() - start)
        RESULTS.mkdir(exist_ok=True)
        place.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"== {stage}: {found[stage]['seconds']} s", file=sys.stderr)


def measure_contenders(options: Found) -> Found:
    """Everybody on the same weights and prompts, at each length and on the mix, for each number of threads."""
    from contenders import disagreement, make_contenders
    from weights import reference

    if options["weights"] is None:
        raise click.UsageError("The stage contenders needs --weights.")
    same = _weights(options["weights"])
    groups = [(same, False)] + ([(_weights(options["teacher"]), True)] if options["teacher"] else [])
    probe = mixed_prompts(24, seed=7, chats=False)
    found: Found = {"bundle": same.name, "teacher": groups[-1][0].name, "agreement": {}, "threads": {}}
    found["versions"] = {each: _version(each) for each in LIBRARIES}
    expected = {weights.name: reference(weights, probe) for weights, _ in groups}
    for threads in options["threads"]:
        ours, prepare = _ours(same.name, threads), {}
        calls: dict[str, Any] = {key: router.choose for key, router in ours.items()}
        readers = [each for router in ours.values() for each in readers_of(router)]
        for weights, torch_only in groups:
            for each in make_contenders(weights, threads, options["scratch"], torch_only=torch_only):
                found["agreement"][each.name] = round(disagreement(each, probe, expected[weights.name]), 6)
                calls[each.name], prepare[each.name] = each.score, each.prepare
        lengths = {}
        for tokens in [each for each in LENGTHS if each <= same.max_tokens]:
            texts = [prompt_of(tokens, seed=seed) for seed in range(POOL)]
            at_length = {key: partial(_numbered, call, texts) for key, call in calls.items()}
            lengths[str(tokens)] = summary(interleave(at_length, options["rounds"], 3, prepare), OURS)
            print(f"{threads} threads, {tokens} tokens", file=sys.stderr)
        mix = mixed_prompts(options["prompts"], seed=11, chats=False, readers=readers)
        on_mix = summary(over_prompts(calls, mix, prepare), OURS)
        found["threads"][str(threads)] = {"lengths": lengths, "mix": on_mix}
    return found


def _numbered(call: Callable[[str], object], texts: list[str], number: int) -> object:
    return call(texts[number % len(texts)])


def _ours(name: str, threads: int) -> dict[str, Router]:
    router = Router.load(shipped_folder() / name, provider="cpu", threads=threads)
    nano = Router.load("nano", provider="cpu", threads=threads)
    bounded = Router.load(shipped_folder() / name, deadline_ms=DEADLINE_MS, provider="cpu", threads=threads)
    return {OURS: router, "edgeroute nano": nano, f"edgeroute, deadline {DEADLINE_MS} ms": bounded}


def measure_bundles(options: Found) -> Found:
    """``edgeroute bench`` of every bundle with a deadline, and of the default without."""
    index = shipped_index()
    runs = [(index["default"], None)]
    runs += [(name, DEADLINE_MS) for name in index["bundles"]]
    reports = [_bench(name, limit, options["calls"]) for name, limit in runs]
    return {"reports": reports}


def _bench(name: str, deadline_ms: float | None, calls: int) -> Found:
    """The command's own report, from a process that has nothing else in its memory."""
    command = [sys.executable, "-m", "edgeroute", "bench", "--model", str(shipped_folder() / name), "--json"]
    command += ["--calls", str(calls), "--provider", "cpu"]
    command += [] if deadline_ms is None else ["--deadline-ms", str(deadline_ms)]
    found: Found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    p99 = found["rows"]["mix"]["p99_ms"]
    print(f"{name}, deadline {deadline_ms}: p99 {p99} ms on the mix", file=sys.stderr)
    return found


def measure_cold(_options: Found) -> Found:
    """A process from start to first score, against one that only imports the libraries, in turn."""
    from cold import IMPORT, LIBRARIES, NOTHING, SCORE, seconds

    commands = {"libraries": LIBRARIES, "score": SCORE, "import": IMPORT, "nothing": NOTHING}
    times: dict[str, list[float]] = {key: [] for key in commands}
    for _ in range(20):
        for key, command in commands.items():
            times[key].append(seconds(command) * 1e3)
    ratios = [score / libraries for score, libraries in zip(times["score"], times["libraries"], strict=True)]
    imports = [with_ours - without for with_ours, without in zip(times["import"], times["nothing"], strict=True)]
    return {
        **{f"{key}_ms": round(statistics.median(each), 1) for key, each in times.items()},
        "ratio": round(statistics.median(ratios), 3),
        "import_only_ms": round(statistics.median(imports), 1),
    }


def measure_memory(options: Found) -> Found:
    """Resident memory of a process of its own: after load and a score, and along many mixed calls."""
    code = f"import run; run.report_memory({options['memory_calls']})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    return json.loads(ran.stdout)


def report_memory(calls: int) -> None:
    """Print resident MiB of the default bundle as JSON; called in a fresh process. Two callers share the calls."""
    router = Router.load(provider="cpu", deadline_ms=DEADLINE_MS)
    router.choose("hi")
    loaded, prompts, along = resident_mib(), mixed_prompts(2000, readers=readers_of(router)), {}
    done = 0

    def work(numbers: range) -> None:  # one task a caller: 50,000 queued ones were 40 MiB of the benchmark's own
        for number in numbers:
            router.choose(prompts[number % len(prompts)])

    with ThreadPoolExecutor(2) as pool:
        for upto in sorted({max(1, calls // part) for part in (100, 10, 2, 1)}):
            for _ in pool.map(work, (range(done + caller, upto, 2) for caller in range(2))):
                pass
            along[str(upto)], done = resident_mib(), upto
    print(json.dumps({"bundle": router.manifest.name, "loaded_mib": loaded, "after_mib": along}))


def measure_floors(options: Found) -> Found:
    """The products of the default bundle alone, its weights over memory bandwidth, and the bundle beside them."""
    from floors import bandwidth, floor_runs, memory_ms, read_shapes

    router = Router.load(provider="cpu")
    graph = shipped_folder() / router.manifest.name / router.graph.file
    shapes, speed, found = read_shapes(graph), bandwidth(), {}
    for threads in options["threads"]:
        ours = Router.load(provider="cpu", threads=threads)
        rows = {}
        for tokens in LENGTHS:
            texts = [prompt_of(tokens, seed=seed) for seed in range(POOL)]
            runs = {key: partial(_at, run, tokens) for key, run in floor_runs(graph, threads).items()}
            runs[OURS] = partial(_numbered, ours.choose, texts)
            rows[str(tokens)] = summary(interleave(runs, options["rounds"], 5, {}), OURS)
            rows[str(tokens)]["floor: its weights from memory"] = {"p50_ms": round(memory_ms(shapes, speed, tokens), 4)}
        found[str(threads)] = rows
    return {"bundle": router.manifest.name, "bandwidth_gb_s": round(speed / 1e9, 2), "threads": found}


def measure_frontier(options: Found) -> Found:
    """All bundles of the default's pair, and those beside them that do not ship."""
    from frontier import frontier

    index, shipped = shipped_index(), shipped_folder()
    names = [index["default"], *(name for name in index["bundles"] if name != index["default"])]
    others = sorted(path.parent for path in options["beside"].glob("*/router.json")) if options["beside"] else []
    return frontier([*(shipped / name for name in names), *others], shipped, 3 * options["rounds"])


def measure_cascade(options: Found) -> Found:
    """The deadline tiers of every bundle that has a fallback, on dev prompts."""
    from cascade import cascade

    if options["labels"] is None:
        raise click.UsageError("The stage cascade needs --labels.")
    bundles = {}
    for name in shipped_index()["bundles"]:
        if Router.load(shipped_folder() / name, provider="cpu").manifest.fallback is not None:
            bundles[name] = cascade(shipped_folder() / name, options["labels"], DEADLINE_MS)
            print(f"{name}: {bundles[name]['cases']['this machine']}", file=sys.stderr)
    return {"deadline_ms": DEADLINE_MS, "default": shipped_index()["default"], "bundles": bundles}


def _at(run: Callable[[int], None], tokens: int, _number: int) -> None:
    run(tokens)


def _weights(text: str) -> Any:
    from weights import weights_of

    name, _, places = text.partition("=")
    checkpoint, _, encoder = places.partition(",")
    if not checkpoint:
        raise click.UsageError(f"expected BUNDLE=CHECKPOINT[,ENCODER], found {text!r}")
    manifest = Router.load(shipped_folder() / name, provider="cpu").manifest
    pair = (manifest.pair.strong, manifest.pair.weak)
    cap = manifest.text.max_tokens if manifest.text else 0
    return weights_of(name, Path(checkpoint), Path(encoder) if encoder else None, pair, cap)


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
