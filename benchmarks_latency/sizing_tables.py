"""The tables of docs/deploy.md from what sizing.py measured; what stands between the markers is written here alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sizing import CALLERS, CONCURRENCY, HEADROOM, plan

BEGIN, END = "<!-- sizing: written by benchmarks_latency/sizing.py tables -->", "<!-- end of sizing -->"
LOADS = (
    ("decisions or short answers, 0.2 s", 0.2, 0),
    ("whole answers, 2 s", 2.0, 0),
    ("streams of 100 events, 2 s", 2.0, 100),
    ("streams of 300 events, 6 s", 6.0, 300),
)
RATES = (10, 100, 1000)


def write(results: dict[str, Any], document: Path) -> None:
    """Replace what stands between the markers."""
    document.write_text(replaced(document.read_text(encoding="utf-8"), results), encoding="utf-8")


def replaced(text: str, results: dict[str, Any]) -> str:
    """The document with the tables of these results. Raises ``ValueError`` when a marker is missing."""
    before, _, rest = text.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"the document has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{render(results)}\n\n{END}{after}"


def render(results: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    machine = results["machine"]
    name = f"{machine['cpu']} ({', '.join(machine['features'])})"
    parts = [f"Measured on {results['date']} on one core of {name}; the upstream and the callers had another."]
    parts.append(_cores(results["bundles"]))
    for bundle, found in results["bundles"].items():
        parts += [f"### `{bundle}`", _calls(found), _replicas(found)]
    return "\n\n".join(parts)


def _cores(bundles: dict[str, Any]) -> str:
    rows = []
    for bundle, found in bundles.items():
        call, event = found["calls"][-1]["cpu_ms"], found["event_cpu_ms"]
        rows.append(
            [
                f"`{bundle}`",
                f"{call:.2f} ms",
                f"{1e3 / call:.0f}",
                f"{event * 1e3:.0f} us",
                f"{1e3 / event:.0f}",
                f"{found['memory_mb']:.0f} MB",
                f"{found['calls'][-1]['memory_mb']:.0f} MB",
                f"{found['streams'][-1]['memory_mb']:.0f} MB",
            ]
        )
    heads = ["bundle", "CPU a call", "calls/s a core", "CPU an event", "events/s a core"]
    heads += ["memory, idle", f"{CALLERS[-1]} callers", f"{CONCURRENCY} streams open"]
    return _table(heads, rows)


def _calls(found: dict[str, Any]) -> str:
    keys = ("callers", "per_s", "p50_ms", "p99_ms")
    rows = [
        [*(f"{each[key]:g}" for key in keys), f"{each['cpu_share']:.0%}", f"{each['memory_mb']:.0f} MB"]
        for each in found["calls"]
    ]
    lead = "Callers without a pause, and an endpoint that takes 200 ms:"
    return f"{lead}\n\n" + _table(["callers", "calls/s", "p50, ms", "p99, ms", "CPU", "memory"], rows)


def _replicas(found: dict[str, Any]) -> str:
    rows = []
    for text, seconds, events in LOADS:
        cells = [text]
        for rate in RATES:
            need = plan(found, rate, seconds, events)
            cpu, places = int(need["for_cpu"]), int(need["for_concurrency"])
            cells.append(f"{max(cpu, places)} ({'CPU' if cpu >= places else 'calls under way'})")
        rows.append(cells)
    lead = (
        f"Replicas at {HEADROOM:.0%} of one core and of {CONCURRENCY} calls under way, and which of them asks for more:"
    )
    return f"{lead}\n\n" + _table(["", *(f"{rate}/s" for rate in RATES)], rows)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
