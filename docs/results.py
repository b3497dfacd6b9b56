"""Measure every bundle of the repository on the labels' dev splits, and write the tables and plots of results.md.

    python docs/results.py LABELS     measure, keep the numbers in docs/results.json, and write
    python docs/results.py            write again from docs/results.json

LABELS is the folder of label files, which are not in this repository. Everything between the markers in results.md is
written by this file and by nobody else; a test compares.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeroute import Router
from edgeroute.data.labels import Battle, read_battles
from edgeroute.evaluation.benchmarks import Benchmark, read_benchmarks
from edgeroute.evaluation.evaluate import baseline_scores, evaluate, score_all
from edgeroute.evaluation.metrics import apgr, auc, bootstrap, paired_bootstrap
from edgeroute.evaluation.plots import plot_curves

Found = dict[str, Any]
HERE = Path(__file__).parent
MODELS = HERE.parent / "models" / "edgeroute_models"
PAIR = ("gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1")
PUBLISHED = {"mf": (0.597, 0.565), "bert": (0.572, 0.531), "causal": (0.600, 0.622), "sw": (0.603, 0.568)}
"""APGR of the paper's augmented rows, MMLU and GSM8K."""
TRANSFER = {
    "MMLU-Pro, Llama-3.1 70B / 8B": ("outcomes_mmlu_pro", "Meta-Llama-3.1-70B-Instruct", "Meta-Llama-3.1-8B-Instruct"),
    "MMLU-Pro, gpt-4o / Mixtral 8x7B": ("outcomes_mmlu_pro", "gpt-4o-2024-05-13", "Mixtral-8x7B-Instruct-v0.1"),
    "five small models, 8B / 1B": ("outcomes_small5", "llama-3.1-8b-instruct", "llama-3.2-1b-instruct"),
    "RouterBench, gpt-4 / Mixtral 8x7B": ("outcomes_routerbench", "gpt-4-1106-preview", "mixtral-8x7b-chat"),
}
BASELINES = ("random", "length", "oracle")
BEGIN, END = "<!-- tables: written by docs/results.py -->", "<!-- end of tables -->"


def measure(labels: Path) -> Found:
    """Every number of the tables, for every bundle of the index."""
    index = json.loads((MODELS / "index.json").read_text(encoding="utf-8"))
    main = [_benchmark(labels, f"outcomes_{name}", *PAIR) for name in ("mmlu", "gsm8k")]
    others = {title: _benchmark(labels, *where) for title, where in TRANSFER.items()}
    battles = list(read_battles(labels / "battles_arena.jsonl.gz", split="dev"))
    probe = [json.loads(line) for line in (HERE.parent / "tests" / "probe.jsonl").read_text().splitlines()]
    found: Found = {"default": index["default"], "routers": {}, "baselines": {}}
    curves: dict[str, dict[str, np.ndarray]] = {each.name: {} for each in main}
    for name in index["bundles"]:
        router = Router.load(MODELS / name)
        score = partial(score_all, router)
        entry = _facts(router, index["bundles"][name])
        for benchmark in main:
            scores = curves[benchmark.name][name] = score(benchmark.prompts)
            entry[benchmark.name] = asdict(evaluate(name, benchmark, scores, ties=router.manifest.training.ties))
            entry[benchmark.name]["against"] = {
                rival: asdict(paired_bootstrap(apgr, scores, theirs, benchmark.gain, benchmark.base))
                for rival, theirs in [(each, baseline_scores(each, benchmark)) for each in ("random", "length")]
            }
        entry["transfer"] = {
            title: asdict(bootstrap(apgr, score(each.prompts), each.gain, each.base)) for title, each in others.items()
        }
        entry["arena"] = _arena(score([each.prompt for each in battles]), battles)
        demanding = np.array([row["scores"][PAIR[0]] > row["scores"][PAIR[1]] for row in probe])
        entry["probe"] = asdict(bootstrap(auc, score([row["prompt"] for row in probe]), demanding))
        found["routers"][name] = entry
        print(name, entry["outcomes_mmlu"]["compat"]["apgr"], file=sys.stderr)
    for name in BASELINES:
        rows = {each.name: asdict(evaluate(name, each, baseline_scores(name, each))) for each in main}
        found["baselines"][name] = rows
    plot_curves(HERE / "curves.png", [(each, curves[each.name]) for each in main])
    plot_curves(HERE / "curves.svg", [(each, curves[each.name]) for each in main])
    return found


def _benchmark(labels: Path, file: str, strong: str, weak: str) -> Benchmark:
    (found,) = read_benchmarks(labels / f"{file}.jsonl.gz", strong, weak, split="dev")
    return found


def _facts(router: Router, entry: Found) -> Found:
    graph = router.manifest.graphs[0]
    parity, latency = graph.parity, graph.latency
    if parity is None or latency is None:
        raise SystemExit(f"{router.manifest.name} has no receipt of parity or latency")
    return {
        "kind": router.manifest.kind,
        "pair": [router.manifest.pair.strong, router.manifest.pair.weak],
        "digest": router.manifest.digest,
        "size": entry["size"],
        "precision": graph.precision,
        "flips": dict(parity.flips),
        "rank_correlation": parity.rank_correlation,
        "latency": {str(row.tokens): row.p50_ms for row in latency.rows},
    }


def _arena(scores: np.ndarray, battles: list[Battle]) -> Found:
    won = np.array([each.winner == "a" for each in battles])
    gpt4 = np.array(["gpt-4" in each.model_a or "gpt-4" in each.model_b for each in battles])
    parts = {"all": np.ones(len(won), bool), "without GPT-4": ~gpt4}
    return {
        title: {"n": int(rows.sum()), **asdict(bootstrap(auc, scores[rows], won[rows]))}
        for title, rows in parts.items()
    }


def render(found: Found) -> str:
    """The tables as Markdown."""
    routers = found["routers"]
    ours = {name: each for name, each in routers.items() if each["pair"] == [*PAIR]}
    return "\n\n".join(
        [
            "Compat APGR on `dev`, 95% bootstrap intervals over prompts; random is .500.",
            _table(
                ["router", "MMLU (n 5,441)", "published", "GSM8K (n 547)", "published", "exact, both"],
                [_quality_row(name, each) for name, each in ours.items()]
                + [_baseline_row(name, each) for name, each in found["baselines"].items()],
            ),
            _DETAILS,
            _table(
                ["router", "benchmark", "over random", "over length", "CPT 50%", "CPT 80%", "95% of strong", "ECE"],
                [_detail_row(name, each, bench) for name, each in ours.items() for bench in _BENCHES],
            ),
            "Transfer: the same weights on other pairs of models (APGR), and on human votes (AUC of a strict win).",
            _table(
                ["router", *TRANSFER, "arena (411)", "arena without GPT-4", "easy / demanding"],
                [_transfer_row(name, each) for name, each in routers.items()],
            ),
            _COSTS,
            _table(
                ["router", "kind", "size", "precision", "p50, ms", "flips", "rank correlation"],
                [_cost_row(name, each) for name, each in routers.items()],
            ),
        ]
    )


_BENCHES = {"outcomes_mmlu": "MMLU", "outcomes_gsm8k": "GSM8K"}
_DETAILS = (
    "Against one random router, that of the first table, and against prompt length on the same resamples; strong "
    "calls needed to recover half and 80% of the gap, and for 95% of the strong model's own score; expected "
    "calibration error."
)
_COSTS = (
    "What each costs. Latency: p50 of `str` to score on two cores, at 16 / 64 / 256 tokens; flips: decisions that "
    "quantization changed at a strong share of 50%, against PyTorch fp32."
)


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(each)} |" for each in [header, ["---"] * len(header), *rows])


def _interval(each: Found) -> str:
    return f"{_3(each['value'])} [{_3(each['low'])}, {_3(each['high'])}]"


def _3(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def _quality_row(name: str, each: Found) -> list[str]:
    published = [_3(value) for value in PUBLISHED[each["kind"]]] if each["kind"] in PUBLISHED else ["-", "-"]
    mmlu, gsm8k = (each[bench] for bench in _BENCHES)
    exact = f"{_3(mmlu['exact']['apgr']['value'])} / {_3(gsm8k['exact']['apgr']['value'])}"
    return [
        f"`{name}`", _interval(mmlu["compat"]["apgr"]), published[0],
        _interval(gsm8k["compat"]["apgr"]), published[1], exact,
    ]  # fmt: skip


def _baseline_row(name: str, each: Found) -> list[str]:
    return _quality_row(name, {"kind": "", **each})


def _detail_row(name: str, each: Found, bench: str) -> list[str]:
    found = each[bench]
    against = [_interval(found["against"][rival]) for rival in ("random", "length")]
    shares = [f"{100 * found['compat'][key]:.1f}%" for key in ("cpt_50", "cpt_80")]
    kept = found["share_for_95"]
    headline = f"{100 * kept['value']:.0f}% [{100 * kept['low']:.0f}, {100 * kept['high']:.0f}]"
    return [f"`{name}`", _BENCHES[bench], *against, *shares, headline, _3(found["calibration_error"])]


def _transfer_row(name: str, each: Found) -> list[str]:
    arena = [_interval(part) for part in each["arena"].values()]
    return [f"`{name}`", *(_interval(each["transfer"][title]) for title in TRANSFER), *arena, _interval(each["probe"])]


def _cost_row(name: str, each: Found) -> list[str]:
    latency = " / ".join(
        f"{each['latency'][tokens]:.2g}" for tokens in ("16", "64", "256") if tokens in each["latency"]
    )
    return [
        f"`{name}`", each["kind"], f"{each['size'] / 1e6:.1f} MB", each["precision"], latency,
        f"{100 * each['flips']['0.5']:.1f}%", f"{each['rank_correlation']:.4f}",
    ]  # fmt: skip


def replace_tables(document: str, tables: str) -> str:
    """The document with what stands between its markers replaced. Raises ``ValueError`` when a marker is missing."""
    before, _, rest = document.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"the document has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def main() -> None:
    """Measure where a folder of labels is given, then write."""
    store, document = HERE / "results.json", HERE / "results.md"
    if len(sys.argv) > 1:
        store.write_text(json.dumps(measure(Path(sys.argv[1])), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    found = json.loads(store.read_text(encoding="utf-8"))
    document.write_text(replace_tables(document.read_text(encoding="utf-8"), render(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
