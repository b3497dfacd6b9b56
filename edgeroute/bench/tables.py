"""What ``bench`` found, as rows of tables; ``cli/table.py`` draws them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Found = Mapping[str, Any]
"""``dataclasses.asdict`` of a ``bench.Report`` or of a part of it."""
Table = list[list[str]]


def describe(machine: Found) -> str:
    """The machine of ``asdict(Machine)`` in one line, which goes with every table."""
    quota = "no quota" if machine["quota"] is None else f"quota {machine['quota']:g}"
    memory = "" if machine["memory_mib"] is None else f", {machine['memory_mib'] / 1024:.0f} GiB"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    cpu = f"{machine['cpu']} ({', '.join(machine['features']) or 'no vector extensions that matter'})"
    return f"{cpu}, {machine['cores']} cores, {quota}{memory}, {machine['system']}; {versions}"


def tables(report: Found) -> list[tuple[str, Table]]:
    """Titles and tables of a whole report, the most asked first."""
    deadline = "no deadline" if report["deadline_ms"] is None else f"deadline {report['deadline_ms']:g} ms"
    opening = f"{report['bundle']}, {report['precision']} on {report['provider']}, {report['threads']} threads"
    found = [
        (f"{opening}, {deadline}: milliseconds from prompt to decision", timing_table(report["rows"])),
        ("Callers at once, on the mix (waiting for each other is part of the time)", callers_table(report)),
    ]
    batch, overhead, memory = (report[part] for part in ("batch", "overhead", "memory"))
    facts = [
        ["what", "found"],
        ["score_batch against one by one", f"{batch['ratio']:.2f} x ({batch['batch_per_s']:g} prompts/s)"],
        ["outside tokenizer and graph", f"{overhead['rest_us']:g} us of {overhead['total_us']:g} us"],
        ["tokenizer / graph", f"{overhead['tokenizer_us']:g} us / {overhead['run_us']:g} us"],
        ["memory after load", _mib(memory["loaded_mib"])],
        [f"memory after {memory['calls']} calls", _mib(memory["after_mib"])],
    ]
    if report["cold_ms"] is not None:
        facts.append(["a cold process with one score", f"{report['cold_ms']:g} ms"])
    return [*found, ("Batches, overhead, memory", facts)]


def timing_table(rows: Mapping[str, Found]) -> Table:
    """One line a row of ``Timing``; deadline tiers where any but the full one was taken."""
    head = ["prompt", "tokens", "p50", "p90", "p99", "max", "calls", "tiers"]
    return [head] + [
        [
            name,
            str(row["tokens"]),
            *(f"{row[key]:.3g}" for key in ("p50_ms", "p90_ms", "p99_ms", "max_ms")),
            str(row["calls"]),
            ", ".join(f"{road} {count / row['calls']:.1%}" for road, count in sorted(row["roads"].items())),
        ]
        for name, row in rows.items()
    ]


def callers_table(report: Found) -> Table:
    """One line a number of callers."""
    return [["callers", "decisions/s", "p50, ms", "p99, ms"]] + [
        [str(each["callers"]), f"{each['per_s']:.0f}", f"{each['p50_ms']:.3g}", f"{each['p99_ms']:.3g}"]
        for each in report["callers"]
    ]


def _mib(value: int | None) -> str:
    return "unknown here" if value is None else f"{value} MiB"
