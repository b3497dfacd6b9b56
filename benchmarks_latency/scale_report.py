"""The tables of ``docs/ray.md`` from ``results/scale.json``; a test compares."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from edgeroute.cli.table import markdown

DOCUMENT = Path(__file__).parents[1] / "docs" / "ray.md"
BEGIN, END = "<!-- measured: benchmarks_latency/scale.py report -->", "<!-- end -->"
PROMPTS = 100_000_000
CORES = (2, 8, 16, 64)
_NAMES = {
    "plain1": "one plain process",
    "plain2": "two plain processes",
    "ray1": "Ray, one worker",
    "ray2": "Ray, two workers",
}


def write_report(results: dict[str, Any]) -> None:
    """Replace what is between the marks."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{report(results)}\n{END}{after}", encoding="utf-8")


def report(results: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    found = results["throughput"]
    return "\n\n".join([_throughput(found), _kills(results["kills"]), _sheet(found)])


def _throughput(found: dict[str, Any]) -> str:
    ways, one = found["ways"], _rate(found, "plain1")
    machine = f"{found['cpu']}, {found['cores']} cores, {found['date']}"
    lines = [
        f"{found['bundle']}, {found['rows']} prompts of the mix, {found['rounds']} rounds, {machine}.",
        "Medians; one thread a worker; start is what passes before the first part.",
        "",
        "| | prompts/s | per worker, of one process | start, s | memory of a worker, MB, by quarters of the run |",
        "|---|---|---|---|---|",
    ]
    for way, name in _NAMES.items():
        rate, workers = _rate(found, way), int(way[-1])
        start = median(each["start_s"] for each in ways[way])
        memory = max((each for run in ways[way] for each in run["memory_mb"].values()), key=max, default=[])
        shown = " → ".join(f"{each:.0f}" for each in memory)
        lines.append(f"| {name} | {rate:.0f} | {rate / workers / one:.2f} | {start:.1f} | {shown} |")
    ratio = found["ray2_of_plain2"]
    met = "met" if ratio["median"] >= 0.85 else "**missed**"
    each = ", ".join(f"{value:.3f}" for value in ratio["each"])
    lines += ["", f"Two Ray workers against two plain processes, by rounds: {each}; median {ratio['median']:.3f}."]
    lines.append(f"Target 0.85: {met}.")
    return "\n".join(lines)


def _kills(found: dict[str, Any]) -> str:
    order = ", ".join(f"a {each['killed']} after {each['parts_done']}" for each in found["kills"])
    same = "the same bits as" if found["same_bits_as_one_process"] else "**other bits than**"
    return (
        f"Kills: {found['rows']} rows in {found['parts']} parts, {found['bundle']}, two Ray workers. "
        f"Killed with SIGKILL: {order} parts; the run was resumed after the driver. "
        f"Lost: {found['lost']}. Doubled: {found['doubled']}. Scores: {same} one process."
    )


def _sheet(found: dict[str, Any]) -> str:
    cost = 1 / _rate(found, "plain1")
    efficiency = min(1.0, _rate(found, "ray2") / 2 * cost)
    hours = PROMPTS * cost / 3600
    rate = 1 / cost
    read, written = (found[f"bytes_{way}_per_row"] for way in ("read", "written"))
    lines = [
        f"One prompt costs {cost * 1e3:.2f} ms of a core: {PROMPTS / 1e6:.0f}M prompts are {hours:.0f} core-hours.",
        f"With the {efficiency:.2f} that a Ray worker keeps of a process, by machines and their cores:",
        "",
    ]
    rows: list[list[object]] = [["machines", *(f"{cores} cores" for cores in CORES)]]
    for machines in (1, 4, 16):
        rows.append([machines, *(f"{hours / (machines * cores * efficiency):.1f} h" for cores in CORES)])
    lines += markdown(rows)
    lines += [
        "",
        "| what | a core asks for | found here | cores until it is full |",
        "|---|---|---|---|",
        _row("disk, read and written", (read + written) * rate / 1e6, found["disk_mb_per_s"], "MB/s"),
        _row(
            "memory, if no weight stayed in a cache", found["graph_bytes"] * rate / 1e9, found["copy_gb_per_s"], "GB/s"
        ),
        "",
        f"A row is {read:.0f} bytes of Parquet read and {written:.0f} written.",
        f"All of them are {PROMPTS * read / 1e9:.0f} GB in and {PROMPTS * written / 1e9:.0f} GB out.",
    ]
    return "\n".join(lines)


def _row(what: str, asked: float, found: float, unit: str) -> str:
    return f"| {what} | {asked:.2f} {unit} | {found:.1f} {unit} | {found / asked:.0f} |"


def _rate(found: dict[str, Any], way: str) -> float:
    return median(each["rows_per_s"] for each in found["ways"][way])
