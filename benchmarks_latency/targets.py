"""The targets of the latency promise, each with what a run found, so that a miss says so by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Found = dict[str, Any]
P99_MS, DEFAULT_P50_MS, NANO_P50_MS = 10.0, 3.0, 0.15
THREADS = "2"
"""The promise is for two cores."""


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the table."""

    what: str
    wanted: str
    found: str
    met: bool


def targets(found: Found) -> list[Target]:
    """Every target that the stages in ``found`` can tell of."""
    lines: list[Target] = []
    if "bundles" in found:
        lines += _bundles(found["bundles"]["reports"])
    if "contenders" in found:
        lines += _contenders(found["contenders"])
    if "cold" in found:
        ratio, imported = found["cold"]["ratio"], found["cold"]["import_only_ms"]
        lines.append(_most("cold score over importing its libraries", ratio, 1.5, " x"))
        lines.append(_most("`import edgeroute`", imported, 50, " ms"))
    if "memory" in found:
        lines.append(_most("resident after load", found["memory"]["loaded_mib"], 150, " MiB"))
    if "cascade" in found:
        lines += _cascade(found["cascade"])
    return lines


def _cascade(found: Found) -> Iterator[Target]:
    row = found["bundles"][found["default"]]["cases"]["this machine"]
    for name, each in row["apgr"].items():
        yield _most(f"deadline, {name}: change of APGR, either way", abs(each["change"]), 0.01, "")
    off = max(abs(value - row["full_shares"][share]) for share, value in row["shares"].items())
    yield _most("deadline: strong share off the full tier's", 100 * off, 2, " points")


def _bundles(reports: list[Found]) -> Iterator[Target]:
    for report in reports:
        if report["deadline_ms"] is not None:
            worst = max(report["rows"], key=lambda name: report["rows"][name]["p99_ms"])
            title = f"`{report['bundle']}`, deadline {report['deadline_ms']:g} ms: worst p99 ({worst})"
            yield _most(title, report["rows"][worst]["p99_ms"], P99_MS, " ms", strict=True)
    default = reports[0]
    bounded = [each for each in reports if each["bundle"] == default["bundle"] and each["deadline_ms"] is not None]
    for report in bounded:
        mix = report["rows"]["mix"]
        full = mix["roads"].get("full", 0) / mix["calls"]
        yield _least(f"`{report['bundle']}` on the mix: full tier", 100 * full, 95, "%")
    cap = [row for name, row in default["rows"].items() if name.endswith("tokens") and row["tokens"] >= 256]
    if cap:
        title = f"`{default['bundle']}` without a deadline: p99 at 256 tokens"
        yield _most(title, max(row["p99_ms"] for row in cap), P99_MS, " ms", strict=True)
    yield _most(f"`{default['bundle']}` on the mix: p50", default["rows"]["mix"]["p50_ms"], DEFAULT_P50_MS, " ms")
    for report in reports:
        if report["bundle"] == "nano" and "64 tokens" in report["rows"]:
            yield _most("`nano` at 64 tokens: p50", report["rows"]["64 tokens"]["p50_ms"], NANO_P50_MS, " ms")
            break
    yield from _sides(default)


def _sides(report: Found) -> Iterator[Target]:
    """Overhead, callers and batches of one bundle."""
    yield _most("around tokenizer and graph", report["overhead"]["rest_us"], 50, " us")
    by_count = {each["callers"]: each for each in report["callers"]}
    if {1, 64} <= by_count.keys():
        one, many = by_count[1], by_count[64]
        yield _least("64 callers: throughput over that of one", many["per_s"] / one["per_s"], 1, " x")
        waited = many["p99_ms"] / (64 * one["p50_ms"])
        yield _most("64 callers: p99 over 64 x the single caller's p50", waited, 1.5, " x")
    yield _least("`score_batch` over one by one, on the mix", report["batch"]["ratio"], 1.5, " x")


def _contenders(found: Found) -> Iterator[Target]:
    if THREADS not in found["threads"]:
        return
    mix = found["threads"][THREADS]["mix"]
    same, teacher = found["bundle"], found["teacher"]
    wanted = {f"{teacher}: PyTorch fp32": 10.0, f"{same}: PyTorch fp32": 4.0, f"{same}: optimum pipeline": 3.0}
    openvino = {name: row for name, row in mix.items() if name.startswith(f"{same}: OpenVINO")}
    if openvino:
        wanted[min(openvino, key=lambda name: openvino[name]["total_ratio"]["value"])] = 1.0
    for name, least in wanted.items():
        if name in mix:
            ratios = {key: mix[name][key]["value"] for key in ("ratio", "total_ratio")}
            text = f"{ratios['ratio']:.2f} x by median, {ratios['total_ratio']:.2f} x by whole time"
            yield Target(f"{name}, on the mix", f">= {least:g} x", text, min(ratios.values()) >= least)


def _most(what: str, value: float | None, limit: float, unit: str, *, strict: bool = False) -> Target:
    if value is None:
        return Target(what, f"<= {limit:g}{unit}", "unknown", met=False)
    met = value < limit if strict else value <= limit
    return Target(what, f"{'<' if strict else '<='} {limit:g}{unit}", f"{value:.3g}{unit}", met)


def _least(what: str, value: float, limit: float, unit: str) -> Target:
    return Target(what, f">= {limit:g}{unit}", f"{value:.3g}{unit}", value >= limit)
