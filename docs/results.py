"""Measure every bundle of the repository on the labels' dev splits, and write the tables and plots of results.md.

    python docs/results.py LABELS                         measure, keep the numbers in docs/results.json, and write
    python docs/results.py LABELS --left-out NAME=BUNDLE  measure, on the source NAME, a bundle trained without it
    python docs/results.py LABELS --probes                measure the baselines and the probes only
    python docs/results.py                                write again from docs/results.json

LABELS is the folder of label files, which are not in this repository. NAME is one of its files without its ending, such
as outcomes_mmlu_pro. Everything between the markers in results.md is written by this file and by nobody else; a test
compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeroute import Router
from edgeroute.cli.table import markdown
from edgeroute.data.labels import Battle, read_battles, read_outcomes
from edgeroute.evaluation.benchmarks import Benchmark, read_benchmarks
from edgeroute.evaluation.evaluate import baseline_scores, evaluate, length_scores, score_all
from edgeroute.evaluation.keywords import keyword_baselines
from edgeroute.evaluation.metrics import Interval, apgr, auc, bootstrap, paired_bootstrap, routed, spearman
from edgeroute.evaluation.plots import plot_curves
from edgeroute.evaluation.probes import LANGUAGES, Score, probe
from edgeroute_train.bradley_terry import fit_strengths

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
    "CRUX, gpt-4o / Llama-3 8B": ("outcomes_crux", "gpt-4o-2024-05-13", "Meta-Llama-3-8B-Instruct"),
    "Tulu, ChatGPT / Tulu 7B": ("outcomes_tulu", "chatgpt", "tulu_7B"),
}
QLORA, FASTCHAT = "OpenAssistant, rank correlation", "hard chat votes, AUC"
NEEDS = {QLORA: "outcomes_qlora", FASTCHAT: "battles_fastchat"}
SMALL = ("guanaco-7b", "guanaco-13b", "guanaco-33b", "vicuna-13b")
"""Whose misses say what a prompt of OpenAssistant needs."""
JOINT = [title for title in (*TRANSFER, *NEEDS) if not title.startswith("five small")]
"""What the joint mean is of; a rank correlation counts as half of one plus itself."""
MAIN = {"MMLU": ("outcomes_mmlu", *PAIR), "GSM8K": ("outcomes_gsm8k", *PAIR)}
BASELINES = ("random", "length", "oracle")
BEGIN, END = "<!-- tables: written by docs/results.py -->", "<!-- end of tables -->"


def measure(labels: Path) -> Found:
    """Every number of the tables, for every bundle of the index."""
    index = json.loads((MODELS / "index.json").read_text(encoding="utf-8"))
    main = [_benchmark(labels, *where) for where in MAIN.values()]
    others = _others(labels)
    battles = list(read_battles(labels / "battles_arena.jsonl.gz", split="dev"))
    probe = [json.loads(line) for line in (HERE.parent / "tests" / "probe.jsonl").read_text().splitlines()]
    found: Found = {
        "default": index["default"],
        "routers": {},
        "baselines": measure_baselines(main, others),
        "probes": measure_probes(),
    }
    curves: dict[str, dict[str, np.ndarray]] = {each.name: {} for each in main}
    for name in index["bundles"]:
        router = Router.load(MODELS / name)
        score = _reads(router)
        entry = _facts(router, index["bundles"][name])
        for benchmark in main:
            scores = curves[benchmark.name][name] = score(benchmark.prompts)
            entry[benchmark.name] = asdict(evaluate(name, benchmark, scores, ties=router.manifest.training.ties))
            entry[benchmark.name]["against"] = {
                rival: asdict(paired_bootstrap(apgr, scores, theirs, benchmark.gain, benchmark.base))
                for rival, theirs in [(each, baseline_scores(each, benchmark)) for each in ("random", "length")]
            }
        entry["transfer"] = {title: asdict(each.of(score)) for title, each in others.items()}
        entry["arena"] = _arena(score([each.prompt for each in battles]), battles)
        demanding = np.array([row["scores"][PAIR[0]] > row["scores"][PAIR[1]] for row in probe])
        entry["probe"] = asdict(bootstrap(auc, score([row["prompt"] for row in probe]), demanding))
        found["routers"][name] = entry
        print(name, entry["outcomes_mmlu"]["compat"]["apgr"], file=sys.stderr)
    plot_curves(HERE / "curves.png", [(each, curves[each.name]) for each in main])
    plot_curves(HERE / "curves.svg", [(each, curves[each.name]) for each in main])
    return found


@dataclass(frozen=True, slots=True)
class Measure:
    """``metric`` of scores ``[n]`` and ``columns``, each ``[n]``, on the prompts of one source."""

    prompts: tuple[str, ...]
    columns: tuple[np.ndarray, ...]
    metric: Callable[..., float]

    def of(self, score: Score) -> Interval:
        """What a router is worth, with its interval."""
        return bootstrap(self.metric, score(self.prompts), *self.columns)


def _others(labels: Path) -> dict[str, Measure]:
    """What other makers' prompts say, by title: APGR of pairs, and two that have no pair."""
    found = {}
    for title, where in (MAIN | TRANSFER).items():
        each = _benchmark(labels, *where)
        found[title] = Measure(tuple(each.prompts), (each.gain, each.base), apgr)
    rows = list(read_outcomes(labels / f"{NEEDS[QLORA]}.jsonl.gz", split="dev"))
    missed = np.array([1 - np.mean([row.scores[name] for name in SMALL if name in row.scores]) for row in rows])
    found[QLORA] = Measure(tuple(row.prompt for row in rows), (missed,), lambda score, need: spearman(score, need))
    battles = list(read_battles(labels / f"{NEEDS[FASTCHAT]}.jsonl.gz", split="dev"))
    strength = _strengths(labels)
    sides = [strength.get(each.model_a, 0.0) >= strength.get(each.model_b, 0.0) for each in battles]
    won = np.array([each.winner == ("a" if side else "b") for each, side in zip(battles, sides, strict=True)])
    metric = lambda score, better: auc(score, better > 0.5)  # noqa: E731
    found[FASTCHAT] = Measure(tuple(each.prompt for each in battles), (won,), metric)
    return {title: each for title, each in found.items() if title not in MAIN}


def _strengths(labels: Path) -> dict[str, float]:
    """Bradley-Terry strengths of the models in both files of battles, from their rows for training."""
    files = ("battles_arena", "battles_fastchat")
    battles = [each for file in files for each in read_battles(labels / f"{file}.jsonl.gz", split="train")]
    names = sorted({name for each in battles for name in (each.model_a, each.model_b)})
    at = {name: i for i, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)))
    for each in battles:
        share = {"a": 1.0, "b": 0.0, "tie": 0.5, "b_or_tie": 0.3}[each.winner]
        wins[at[each.model_a], at[each.model_b]] += share
        wins[at[each.model_b], at[each.model_a]] += 1 - share
    return dict(zip(names, fit_strengths(wins).tolist(), strict=True))


def measure_baselines(main: list[Benchmark], others: dict[str, Measure]) -> Found:
    """Random, length, oracle, and LiteLLM's classifiers where it is installed."""
    scorers: dict[str, Score] = {"length": length_scores, **keyword_baselines()}
    scores = {name: {each.name: baseline_scores(name, each) for each in main} for name in BASELINES}
    scores |= {name: {each.name: score(each.prompts) for each in main} for name, score in keyword_baselines().items()}
    found: Found = {
        name: {each.name: asdict(evaluate(name, each, rows[each.name])) for each in main}
        for name, rows in scores.items()
    }
    for name, score in scorers.items():
        found[name]["transfer"] = {title: asdict(each.of(score)) for title, each in others.items()}
    return found


def measure_probes() -> Found:
    """The probes of every bundle of the index, of length and of LiteLLM's classifiers where it is installed."""
    index = json.loads((MODELS / "index.json").read_text(encoding="utf-8"))
    scorers: dict[str, Score] = {name: partial(score_all, Router.load(MODELS / name)) for name in index["bundles"]} | {
        "length": length_scores,
        **keyword_baselines(),
    }
    found = {}
    for name, score in scorers.items():
        found[name] = asdict(probe(name, score))
        print(name, found[name]["short_long"], file=sys.stderr)
    return found


def measure_left_out(labels: Path, source: str, bundle: str) -> Found:
    """What a bundle that was trained without a source is worth on it, and the default, which was trained with it."""
    sources = {title: where[0] for title, where in TRANSFER.items()} | NEEDS
    titles = [title for title, each in sources.items() if each == source]
    if not titles:
        raise SystemExit(f"nothing here is measured on {source}; there are {', '.join(sorted({*sources.values()}))}")
    index = json.loads((MODELS / "index.json").read_text(encoding="utf-8"))
    without, default = Router.load(bundle), Router.load(MODELS / index["default"])
    found: Found = {"bundle": without.manifest.name, "digest": without.manifest.digest, "pairs": {}}
    others = _others(labels)
    for title in titles:
        found["pairs"][title] = {
            name: asdict(others[title].of(_reads(router)))
            for name, router in (("left out", without), ("shipped", default))
        }
    return found


def _reads(router: Router) -> Score:
    """What a router scores, as ``edgeroute evaluate`` counts what it cannot read."""
    return lambda prompts: routed(score_all(router, prompts))


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


def plot_sources(path: Path, found: Found) -> None:
    """One point a router: other makers' prompts across, short hard prompts over long easy ones upwards."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axes = figure.add_subplot()
    rows = found["routers"] | found["baselines"]
    for name, probed in found["probes"].items():
        if "transfer" not in rows.get(name, {}):
            continue
        x, y = joint(rows[name]["transfer"]), probed["short_long"]["value"]
        colour = "#0072b2" if name == found["default"] else "#767676"
        axes.plot(x, y, "o", color=colour, markersize=9 if name == found["default"] else 6)
        axes.annotate(name, (x, y), xytext=(6, 5), textcoords="offset points", color=colour, fontsize="small")
    axes.axhline(0.5, color="#bbbbbb", linewidth=0.8)
    axes.axvline(0.5, color="#bbbbbb", linewidth=0.8)
    axes.set(
        title="Does a router see the task, or the length?",
        xlabel="other makers' prompts, joint mean (chance .5)",
        ylabel="hard and short over easy and long, AUC",
        ylim=(-0.05, 1.05),
    )
    axes.margins(x=0.15)
    with mpl.rc_context({"svg.hashsalt": "edgeroute"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def render(found: Found) -> str:
    """The tables as Markdown."""
    routers = found["routers"]
    ours = {name: each for name, each in routers.items() if each["pair"] == [*PAIR]}
    return "\n\n".join(
        [
            *_render_probes(found),
            "Compat APGR on `dev`, 95% bootstrap intervals over prompts; random is .500.",
            _table(
                ["router", "MMLU (n 5,441)", "published", "GSM8K (n 547)", "published", "exact, both"],
                [_quality_row(name, each) for name, each in ours.items()]
                + [_baseline_row(name, each) for name, each in found["baselines"].items()],
            ),
            _DETAILS,
            _table(
                [
                    "router",
                    "benchmark",
                    "length-controlled",
                    "over random",
                    "over length",
                    "CPT 50%",
                    "CPT 80%",
                    "95% of strong",
                    "ECE",
                ],
                [_detail_row(name, each, bench) for name, each in ours.items() for bench in _BENCHES],
            ),
            _OTHERS,
            _table(
                ["router", *TRANSFER, *NEEDS, "joint mean"],
                [
                    _transfer_row(name, each)
                    for name, each in {**routers, **found["baselines"]}.items()
                    if "transfer" in each
                ],
            ),
            "Human votes of the arena (AUC of a strict win), and 30 easy prompts against 30 demanding ones (AUC).",
            _table(
                ["router", "arena (411)", "arena without GPT-4", "easy / demanding"],
                [_votes_row(name, each) for name, each in routers.items()],
            ),
            _COSTS,
            _table(
                ["router", "kind", "size", "precision", "p50, ms", "flips", "rank correlation"],
                [_cost_row(name, each) for name, each in routers.items()],
            ),
            *_render_left_out(found),
        ]
    )


def _render_probes(found: Found) -> list[str]:
    """The opening table, and the languages; nothing where the probes were not measured yet."""
    probes = found.get("probes", {})
    if not probes:
        return []
    benches = found["routers"] | found["baselines"]
    probed = ["others, joint", "short/long, AUC", "languages, AUC", "flips, mean", "flips, worst", "affixes, worst"]
    return [
        _OPENING,
        _table(
            ["router", "MMLU, APGR", "GSM8K, APGR", *probed],
            [_opening_row(name, each, benches.get(name, {})) for name, each in probes.items()],
        ),
        "AUC by language; `-` where more than half of the prompts cannot be read.",
        _table(["router", *LANGUAGES], [_language_row(name, each["by_language"]) for name, each in probes.items()]),
    ]


def _language_row(name: str, languages: Found) -> list[str]:
    areas = (languages[code]["auc"] for code in LANGUAGES)
    return [f"`{name}`", *("-" if area is None else _3(area) for area in areas)]


def _opening_row(name: str, each: Found, benches: Found) -> list[str]:
    values = [_3(benches[bench]["compat"]["apgr"]["value"]) if bench in benches else "-" for bench in _BENCHES]
    values.append(_3(joint(benches["transfer"])) if "transfer" in benches else "-")
    flips = {change: by_share["0.5"] for change, by_share in each["stability"]["rewordings"].items()}
    worst, affixes = max(flips, key=flips.__getitem__), each["stability"]["affixes"]
    return [
        f"`{name}`", *values, _interval(each["short_long"]), _interval(each["languages"]),
        f"{100 * sum(flips.values()) / len(flips):.1f}%", f"{100 * flips[worst]:.1f}% ({worst.replace('_', ' ')})",
        f"{100 * max(by_share['0.5'] for by_share in affixes.values()):.1f}%",
    ]  # fmt: skip


def _render_left_out(found: Found) -> list[str]:
    """What a bundle does on a source that it was not trained on, beside the shipped default, which was."""
    rows = [
        [source, title, f"`{each['bundle']}`", _interval(pair["left out"]), _interval(pair["shipped"])]
        for source, each in found.get("left_out", {}).items()
        for title, pair in each["pairs"].items()
    ]
    if not rows:
        return []
    header = ["source left out", "pair", "trained without it", "APGR", "the default, trained with it"]
    return [
        "Each source left out: the same recipe trained without it, measured on its `dev` split.",
        _table(header, rows),
    ]


_BENCHES = {"outcomes_mmlu": "MMLU", "outcomes_gsm8k": "GSM8K"}
_OPENING = (
    "Benchmarks and probes side by side. Short/long: 100 hard questions of a line against 100 easy instructions on "
    "long texts; languages: hard against easy prompts of like length in thirteen languages; flips: decisions changed "
    "by 16 harmless rewordings, and by text without a task, at a strong share of 50%. A prompt that a bundle cannot "
    "read goes to the strong model. `litellm-v1` and `litellm-v2` are LiteLLM's local classifiers."
)
_OTHERS = (
    "Prompts of other makers: the same weights on other pairs of models (APGR), and on chat prompts without a pair. "
    "OpenAssistant: rank correlation with how badly four small models do. Hard chat votes: AUC of a strict win of the "
    "stronger side. The joint mean leaves the five small models out, and counts a rank correlation r as (1 + r) / 2."
)
_DETAILS = (
    "APGR within bands of like length; against one random router, that of the first table, and against prompt length "
    "on the same resamples; strong "
    "calls needed to recover half and 80% of the gap, and for 95% of the strong model's own score; expected "
    "calibration error."
)
_COSTS = (
    "What each costs. Latency: p50 of `str` to score on two cores, at 16 / 64 / 256 tokens; flips: decisions that "
    "quantization changed at a strong share of 50%, against PyTorch fp32."
)


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(markdown([header, *rows]))


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
    return [
        f"`{name}`",
        _BENCHES[bench],
        _interval(found["length_controlled"]),
        *against,
        *shares,
        headline,
        _3(found["calibration_error"]),
    ]


def _transfer_row(name: str, each: Found) -> list[str]:
    return [
        f"`{name}`",
        *(_interval(each["transfer"][title]) for title in (*TRANSFER, *NEEDS)),
        _3(joint(each["transfer"])),
    ]


def joint(transfer: Found) -> float:
    """The mean over the sources of other makers."""
    values = [transfer[title]["value"] for title in JOINT]
    return float(
        np.mean([0.5 + value / 2 if title == QLORA else value for title, value in zip(JOINT, values, strict=True)])
    )


def _votes_row(name: str, each: Found) -> list[str]:
    return [f"`{name}`", *(_interval(part) for part in each["arena"].values()), _interval(each["probe"])]


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
    """Measure what is asked for, then write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", nargs="?", type=Path, metavar="LABELS")
    parser.add_argument("--left-out", action="append", default=[], metavar="NAME=BUNDLE")
    parser.add_argument("--probes", action="store_true")
    given = parser.parse_args()
    store, document = HERE / "results.json", HERE / "results.md"
    found = json.loads(store.read_text(encoding="utf-8"))
    if given.left_out:
        if given.labels is None:
            parser.error("--left-out needs LABELS")
        for source, _, bundle in (each.partition("=") for each in given.left_out):
            found.setdefault("left_out", {})[source] = measure_left_out(given.labels, source, bundle)
    elif given.probes:
        if given.labels is None:
            parser.error("--probes needs LABELS")
        main = [_benchmark(given.labels, *where) for where in MAIN.values()]
        found["baselines"] = measure_baselines(main, _others(given.labels))
        found["probes"] = measure_probes()
    elif given.labels is not None:
        found = measure(given.labels) | {"left_out": found.get("left_out", {})}
    if given.labels is not None:
        for ending in (".png", ".svg"):
            plot_sources(HERE / f"sources{ending}", found)
    store.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    document.write_text(replace_tables(document.read_text(encoding="utf-8"), render(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
