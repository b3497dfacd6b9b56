"""Write the tables of docs/serving.md from the committed results: python benchmarks_latency/serving_report.py

What serving.py --save NAME measured stands in results/serving/NAME.json; a test compares page and results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report import DOCS, RESULTS, _table, replace_tables

from edgeroute.bench.tables import describe

Found = dict[str, Any]
ADDED_P50_MS, ADDED_P99_MS, REQUESTS_PER_S = 4.0, 12.0, 155.0
"""The targets: added latency in the open loop; requests a second when saturated (the paper's MF router on an L4)."""
NOTHING = "Not yet measured: `python benchmarks_latency/serving.py open --save NAME`, then `saturate` and `soak`."


def read_results(folder: Path = RESULTS / "serving") -> dict[str, Found]:
    """Each machine's results by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def render(results: dict[str, Found]) -> str:
    """All machines, one after the other, as Markdown; then the long soaks."""
    parts = [part for name, found in results.items() for part in _machine(name, found)]
    for name, found in read_results(RESULTS / "soak").items():
        parts += _long_soak(name, found)
    return "\n\n".join(parts) or NOTHING


def _long_soak(name: str, run: Found) -> list[str]:
    found = run["found"]
    about = f"{run['seconds'] / 60:g} minutes, `{run['bundle']}`, commit `{run['commit']}` ({run['date']})"
    text = (
        f"`soak.py`, {about}, on {describe(run['machine'])}. Sixteen callers ask for streams and whole answers. Of a "
        "hundred prompts eight meet a fault: the upstream breaks off, resets, falls silent, answers 500 or 429, sends "
        "megabytes, garbage or no usage. Of fifty callers one leaves at once, one in the middle, and one reads slowly. "
        "Every seven seconds the TOML is loaded again, by a change or by SIGHUP, beside fifty silent connections."
    )
    rows = [
        ["calls", str(found["calls"])],
        ["answered whole", str(found["whole"])],
        ["told that they failed", str(found["told"])],
        ["broken off as the upstream did", str(found["broken"])],
        ["left by the caller", str(found["left"])],
        ["lost or wrong", str(found["lost"] + found["wrong"])],
        ["doubled at an endpoint", str(found["doubled"])],
        ["ids missing in the log, or there twice", str(found["ids_missing_in_the_log"] + found["ids_twice"])],
        ["answers with other tokens in the log than the upstream counted", str(found["tokens_miscounted"])],
        ["US dollars by the log, by the budget's file", f"{found['usd_log']}, {found['usd_budget']}"],
        ["reloads", str(found["reloads"])],
        ["keys, prompts or tracebacks in what was written", str(found["secrets_written"] + found["bugs_written"])],
        ["resident MB, from the first minute to the end", ", ".join(map(str, found["resident_mb"]))],
        ["growth after the first minute, MB (at most 15)", str(found["growth_mb"])],
    ]
    return [f"### A long soak: {name}", text, _table([["", "found"], *rows])]


def _machine(name: str, found: Found) -> list[str]:
    parts = [f"### {name}", f"{describe(found['machine'])}. Upstream, server and callers share the cores."]
    for what, make in (("open", _open), ("saturate", _saturate), ("soak", _soak)):
        if what in found:
            parts += make(found[what])
    runs = [
        f"{what} {bundle} `{run['commit']}` ({run['date']})" for what in found for bundle, run in _runs(found, what)
    ]
    return [*parts, f"Commits: {', '.join(runs)}."]


def _runs(found: Found, what: str) -> list[tuple[str, Found]]:
    return [] if what == "machine" else list(found[what].items())


def _open(runs: Found) -> list[str]:
    head = ["bundle", "p50 direct, ms", "routed", "added", f"≤ {ADDED_P50_MS:g}"]
    head += ["p99 direct, ms", "routed", "added", f"≤ {ADDED_P99_MS:g}"]
    rows = []
    for bundle, run in runs.items():
        each, row = run["found"], [f"`{bundle}`"]
        for q, most in ((50, ADDED_P50_MS), (99, ADDED_P99_MS)):
            row += [f"{each[f'{part}_p{q}_ms']:.1f}" for part in ("direct", "routed", "added")]
            row.append(_met(each[f"added_p{q}_ms"] <= most))
        rows.append(row)
    one = next(iter(runs.values()))
    about = f"{one['rate']:g} requests a second for {one['seconds']} s, an upstream of {one['wait_s'] * 1e3:g} ms"
    return [f"Open loop: {about}.", _table([head, *rows])]


def _saturate(runs: Found) -> list[str]:
    head = ["bundle", "direct, requests/s", "routed", f"≥ {REQUESTS_PER_S:g}", "routed p50, ms", "p99"]
    rows = [
        [
            f"`{bundle}`",
            f"{run['found']['direct']['requests_per_s']:.0f}",
            f"{run['found']['routed']['requests_per_s']:.0f}",
            _met(run["found"]["routed"]["requests_per_s"] >= REQUESTS_PER_S),
            *(f"{run['found']['routed'][key]:.0f}" for key in ("p50_ms", "p99_ms")),
        ]
        for bundle, run in runs.items()
    ]
    one = next(iter(runs.values()))
    return [
        f"Saturation: `wrk`, {one['callers']} callers, {one['seconds']} s, each prompt scored.",
        _table([head, *rows]),
    ]


def _soak(runs: Found) -> list[str]:
    keys = ("sent", "whole", "broken", "left", "wrong", "doubled")
    rows = [
        [f"`{bundle}`", *(str(run["found"][key]) for key in keys), ", ".join(map(str, run["found"]["resident_mb"]))]
        for bundle, run in runs.items()
    ]
    text = (
        "Soak: streams of which the upstream breaks 1% and callers leave 1%. Resident MB after a quarter, half and all "
        "of it. It fails when any is lost, wrong or doubled, when memory grows, or when a key or prompt is written."
    )
    return [text, _table([["bundle", *keys, "resident MB"], *rows])]


def _met(met: bool) -> str:
    return "yes" if met else "**no**"


def main() -> None:
    page = DOCS / "serving.md"
    page.write_text(replace_tables(page.read_text(encoding="utf-8"), render(read_results())), encoding="utf-8")


if __name__ == "__main__":
    main()
