"""Write the tables and plots of docs/latency.md from the committed results: python benchmarks_latency/report.py

Everything between the markers in latency.md is written by this file and by nobody else; a test compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from targets import targets

from edgeroute.bench.tables import callers_table, describe, timing_table
from edgeroute.cli.table import markdown

Found = dict[str, Any]
HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCS = HERE.parent / "docs"
BEGIN, END = "<!-- tables: written by benchmarks_latency/report.py -->", "<!-- end of tables -->"
OURS = "edgeroute"
BENCHMARKS = {"outcomes_mmlu": "MMLU", "outcomes_gsm8k": "GSM8K"}
NOTHING = "Not yet measured: `python benchmarks_latency/run.py NAME` writes the results that this part is made from."


def read_results(folder: Path = RESULTS) -> dict[str, Found]:
    """Each machine's results by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def render(results: dict[str, Found]) -> str:
    """All machines, one after the other, as Markdown."""
    return "\n\n".join("\n\n".join(_machine(name, found)) for name, found in results.items()) or NOTHING


def _machine(name: str, found: Found) -> list[str]:
    parts = [f"## {name}", f"{describe(found['machine'])}. Measured on {found['date']}.", *_targets(found)]
    for stage, make in (
        ("bundles", _bundles),
        ("contenders", _contenders),
        ("floors", _floors),
        ("cold", _cold),
        ("memory", _memory),
        ("frontier", _frontier),
        ("cascade", _cascade),
    ):
        if stage in found:
            parts += make(found[stage])
    parts.append("Commits: " + ", ".join(f"{each} `{found[each]['commit']}`" for each in sorted(_stages(found))) + ".")
    return parts


def _stages(found: Found) -> list[str]:
    return [key for key, value in found.items() if isinstance(value, dict) and "commit" in value]


def _targets(found: Found) -> list[str]:
    rows = [[each.what, each.wanted, each.found, "yes" if each.met else "**no**"] for each in targets(found)]
    if not rows:
        return []
    return ["### Targets", _table([["target", "wanted", "found", "met"], *rows])]


def _bundles(found: Found) -> list[str]:
    reports = found["reports"]
    rows = list(dict.fromkeys(name for each in reports for name in each["rows"]))
    p99 = [["p99, ms", *rows]] + [[_title(each), *(_cell(each, row, "p99_ms") for row in rows)] for each in reports]
    p50 = [["p50, ms", *rows]] + [[_title(each), *(_cell(each, row, "p50_ms") for row in rows)] for each in reports]
    calls = min(row["calls"] for each in reports for row in each["rows"].values())
    parts = [
        "### Every bundle, from `str` to decision",
        f"{reports[0]['threads']} threads, {calls} calls of each row, interleaved. Prompts beyond the cap are cut.",
        _table(p99),
        _table(p50),
    ]
    for each in _told(reports):
        overhead, batch, memory = (each[part] for part in ("overhead", "batch", "memory"))
        parts += [
            f"#### {_title(each)}",
            _table(timing_table(each["rows"])),
            _table(callers_table(each)),
            f"`score_batch` {batch['ratio']:.2f} x one by one.",
            _around(overhead),
            f"Resident {memory['loaded_mib']} MiB after load, {memory['after_mib']} MiB after {memory['calls']} calls.",
        ]
    return parts


def _around(overhead: Found) -> str:
    inside = f"tokenizer ({overhead['tokenizer_us']:.0f} us) and graph ({overhead['run_us']:.0f} us)"
    return f"Around {inside}: {overhead['rest_us']:.0f} us."


def _told(reports: list[Found]) -> list[Found]:
    """The reports shown in full: the default bundle's, which come first, and nano's."""
    return [each for each in reports if each["bundle"] in (reports[0]["bundle"], "nano")]


def _title(report: Found) -> str:
    limit = "" if report["deadline_ms"] is None else f", deadline {report['deadline_ms']:g} ms"
    return f"`{report['bundle']}`{limit}"


def _cell(report: Found, row: str, key: str) -> str:
    return f"{report['rows'][row][key]:.3g}" if row in report["rows"] else "-"


def _contenders(found: Found) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    parts = [
        "### Against others",
        (
            f"Same weights as `{found['bundle']}`, same prompts, one run, order drawn anew each round; "
            f"`{found['teacher']}` is the teacher. Ratios are each one's time over edgeroute's: the median over "
            f"prompts (or rounds), its 95% interval, and that of the whole time. {versions}."
        ),
    ]
    for threads, each in found["threads"].items():
        head = ["the mix", "p50, ms", "p90", "p99", "ratio, median", "ratio, whole"]
        mix = [
            [name, *_percentiles(row), _ratio(row["ratio"]), _ratio(row["total_ratio"])]
            for name, row in _by_time(each["mix"])
        ]
        lengths = list(each["lengths"])
        names = [name for name, _ in _by_time(each["lengths"][lengths[-1]])]
        by_length = [["p50, ms, at tokens", *lengths]] + [
            [name, *(_with_ratio(each["lengths"][tokens][name]) for tokens in lengths)] for name in names
        ]
        parts += [f"#### {threads} thread{'s' * (threads != '1')}", _table([head, *mix]), _table(by_length)]
    agreement = [[name, f"{value:.5f}"] for name, value in sorted(found["agreement"].items())]
    return [*parts, "Mean difference of their scores from PyTorch's fp32:", _table([["contender", "mean"], *agreement])]


def _by_time(rows: Found) -> list[tuple[str, Found]]:
    return sorted(rows.items(), key=lambda each: each[1]["p50_ms"])


def _percentiles(row: Found) -> list[str]:
    return [f"{row[key]:.3g}" for key in ("p50_ms", "p90_ms", "p99_ms")]


def _ratio(each: Found) -> str:
    return f"{each['value']:.2f} [{each['low']:.2f}, {each['high']:.2f}]"


def _with_ratio(row: Found) -> str:
    return f"{row['p50_ms']:.3g} ({row['ratio']['value']:.2f} x)"


def _floors(found: Found) -> list[str]:
    parts = [
        "### What it could not be below",
        (
            f"The matrix products of `{found['bundle']}` alone, and its weights read once at "
            f"{found['bandwidth_gb_s']:g} GB/s (one thread; weights that stay in a cache come faster). p50, ms."
        ),
    ]
    for threads, rows in found["threads"].items():
        lengths = list(rows)
        table = [[f"threads: {threads}", *lengths]]
        for name in rows[lengths[0]]:
            table.append([name, *(f"{rows[tokens][name]['p50_ms']:.3g}" for tokens in lengths)])
        parts.append(_table(table))
    return parts


def _cold(found: Found) -> list[str]:
    return [
        "### Cold start",
        (
            f"A new process with one score: {found['score_ms']:.0f} ms, {found['ratio']:.2f} x one that imports numpy, "
            f"onnxruntime, tokenizers and click ({found['libraries_ms']:.0f} ms). `import edgeroute`: "
            f"{found['import_only_ms']:.0f} ms over an empty process."
        ),
    ]


def _memory(found: Found) -> list[str]:
    along = ", ".join(f"{mib} MiB after {calls}" for calls, mib in found["after_mib"].items())
    loaded = f"`{found['bundle']}` in a process of its own, two callers: {found['loaded_mib']} MiB after load"
    return ["### Memory", f"{loaded}, {along} calls."]


def _frontier(found: Found) -> list[str]:
    head = [
        "router",
        "encoder",
        "MB",
        "MMLU",
        "GSM8K",
        *(f"p50 at {n}, ms" for n in _first(found["routers"])["p50_ms"]),
    ]
    rows = []
    for name, each in sorted(found["routers"].items(), key=lambda item: item[1]["p50_ms"]["64"]):
        quality = [_interval(each["quality"].get(benchmark)) for benchmark in BENCHMARKS]
        times = [f"{value:.3g}" for value in each["p50_ms"].values()]
        title = f"`{name}`" if each["shipped"] else f"{name} (not shipped)"
        rows.append([title, each["base"], f"{each['size_mb']:.1f}", *quality, *times])
    text = f"APGR on `dev` by each one's receipt, p50 of all in one run, in turns, {found['threads']} threads."
    return ["### Quality against time", text, "![APGR against p50 at 64 tokens](frontier.png)", _table([head, *rows])]


def _first(routers: Found) -> Found:
    found: Found = next(iter(routers.values()))
    return found


def _interval(values: list[float] | None) -> str:
    return "-" if values is None else "{:.3f} [{:.3f}, {:.3f}]".format(*values)


def plot_frontier(results: dict[str, Found], place: Path) -> None:
    """APGR with its interval against p50 at 64 tokens, a panel a benchmark, for the first machine that has it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    machines = [found["frontier"]["routers"] for found in results.values() if "frontier" in found]
    if not machines:
        return
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for i, (benchmark, title) in enumerate(BENCHMARKS.items(), 1):
        axes = figure.add_subplot(1, len(BENCHMARKS), i)
        for name, each in machines[0].items():
            if benchmark not in each["quality"]:
                continue
            value, low, high = each["quality"][benchmark]
            at, style = each["p50_ms"]["64"], "o" if each["shipped"] else "x"
            axes.errorbar(at, value, [[value - low], [high - value]], fmt=style, capsize=2)
            axes.annotate(name, (at, value), textcoords="offset points", xytext=(4, 4), fontsize="x-small")
        axes.axhline(0.5, color="grey", linewidth=0.8)
        axes.set(xscale="log", title=f"{title}, dev", xlabel="p50 at 64 tokens, ms", ylabel="APGR (random: .5)")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    with mpl.rc_context({"svg.hashsalt": "edgeroute"}):
        figure.savefig(place, metadata={"Date": None} if place.suffix == ".svg" else None)


def _cascade(found: Found) -> list[str]:
    head = ["bundle", "affordable", "then", "MMLU", "GSM8K", "arena: cheaper", "strong at 10 / 25 / 50 / 75%"]
    rows = []
    for name, bundle in found["bundles"].items():
        for case, row in bundle["cases"].items():
            length = f"{bundle['affordable']} tokens, {case}" if case == "this machine" else case
            shares = " / ".join(f"{100 * value:.1f}" for value in row["shares"].values())
            apgr = [_changed(row["apgr"][benchmark]) for benchmark in ("MMLU", "GSM8K")]
            rows.append([f"`{name}`", length, row["road"], *apgr, f"{row['cheaper']:.1%}", f"{shares}%"])
    return [
        "### What the deadline tiers do to decisions",
        (
            f"A deadline of {found['deadline_ms']:g} ms, and other machines by what they afford: change of APGR on "
            "`dev` against the full tier everywhere, with its paired 95% interval and the portion of prompts on the "
            "cheaper tier; of the arena's `dev` prompts that portion, and the share of strong calls where so many were "
            "asked for."
        ),
        _table([head, *rows]),
    ]


def _changed(apgr: Found) -> str:
    return f"{apgr['change']:+.4f} [{apgr['low']:+.4f}, {apgr['high']:+.4f}] ({apgr['cheaper']:.0%})"


def _table(rows: list[list[str]]) -> str:
    return "\n".join(markdown(rows))


def replace_tables(document: str, tables: str) -> str:
    """The document with what stands between its markers replaced. Raises ``ValueError`` when a marker is missing."""
    before, _, rest = document.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"the document has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def plot(results: dict[str, Found], place: Path) -> None:
    """p50 against tokens, a panel for each machine and number of threads."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = [
        (name, threads, found)
        for name, found in results.items()
        for threads in found.get("contenders", {}).get("threads", {})
    ]
    if not panels:
        return
    figure = Figure(figsize=(7 * len(panels), 5.5), layout="constrained")
    for i, (name, threads, found) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), i)
        lengths = found["contenders"]["threads"][threads]["lengths"]
        floors = found.get("floors", {}).get("threads", {}).get(threads, {})
        for rows, style in ((lengths, "-"), (floors, ":")):
            for contender in [each for each in next(iter(rows.values()), {}) if style == "-" or each != OURS]:
                times = [row[contender]["p50_ms"] for row in rows.values()]
                width = 2.5 if contender.startswith(OURS) else 1
                axes.plot(list(map(int, rows)), times, style, linewidth=width, marker=".", label=contender)
        axes.axhline(10, color="grey", linewidth=0.8)
        axes.set(xscale="log", yscale="log", title=f"{name}, {threads} threads", xlabel="tokens", ylabel="p50, ms")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="x-small")
    with mpl.rc_context({"svg.hashsalt": "edgeroute"}):
        figure.savefig(place, metadata={"Date": None} if place.suffix == ".svg" else None)


def main() -> None:
    """Write document and plots."""
    results, document = read_results(), DOCS / "latency.md"
    document.write_text(replace_tables(document.read_text(encoding="utf-8"), render(results)), encoding="utf-8")
    for ending in ("png", "svg"):
        plot(results, DOCS / f"latency.{ending}")
        plot_frontier(results, DOCS / f"frontier.{ending}")


if __name__ == "__main__":
    main()
