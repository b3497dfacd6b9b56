"""What ``edgeroute evaluate`` found, as tables for people and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ..evaluation.evaluate import Comparison, Evaluation
from ..evaluation.metrics import Interval
from ..evaluation.noise import Robustness
from ..evaluation.slices import Slice
from .output import opened_output

if TYPE_CHECKING:
    from .evaluate import Results

_NONE = "-"
Row = tuple[str, ...]


def write_tables(results: Results) -> None:
    """Print a table for each part that has rows."""
    for title, rows in (
        (None, _evaluations(results.evaluations)),
        (None, _savings(results.evaluations)),
        ("Difference in APGR, same prompts resampled together", _comparisons(results.comparisons)),
        ("APGR by slice; - where the strong model is no better there", _slices(results.slices)),
        ("The same prompts under noise that leaves the meaning alone", _robustness(results.robustness)),
    ):
        if len(rows) > 1:
            click.echo(f"\n{title}" if title else "")
            click.echo("\n".join(_table(rows)))


def write_csv(path: str, evaluations: Iterable[Evaluation]) -> None:
    """Write one row an evaluation, nested fields joined by an underscore; - is stdout."""
    records = [dict(_flat(asdict(each))) for each in evaluations]
    columns = list(dict.fromkeys(key for record in records for key in record))
    rows: list[list[Any]] = [columns, *([record.get(name) for name in columns] for record in records)]
    with opened_output(path) as write:
        for row in rows:
            buffer = io.StringIO()
            csv.writer(buffer, lineterminator="").writerow(row)
            write(buffer.getvalue())


def _flat(value: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, each in value.items():
        if isinstance(each, dict):
            yield from _flat(each, f"{prefix}{key}_")
        else:
            yield prefix + key, each


def _evaluations(found: Sequence[Evaluation]) -> list[Row]:
    head: Row = ("benchmark", "router", "n", "weak", "strong", "APGR", "exact", "CPT20", "CPT50", "CPT80", "AUC", "ECE")
    return [head] + [
        (
            each.benchmark,
            each.router,
            str(each.n),
            _number(each.weak_quality),
            _number(each.strong_quality),
            _interval(each.compat.apgr),
            _number(each.exact.apgr.value),
            *(f"{value:.1%}" for value in (each.compat.cpt_20, each.compat.cpt_50, each.compat.cpt_80)),
            _number(None if each.auc is None else each.auc.value),
            _number(each.calibration_error),
        )
        for each in found
    ]


def _savings(found: Sequence[Evaluation]) -> list[Row]:
    rows: list[Row] = [("benchmark", "router", "strong calls for 95%", "saved on 1,000 calls")]
    for each in found:
        share = each.share_for_95
        calls = f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"
        saved = _NONE
        if each.saved_dollars is not None and each.saved_fraction is not None:
            saved = f"${1000 * each.saved_dollars:,.2f} ({each.saved_fraction:.0%})"
        rows.append((each.benchmark, each.router, calls, saved))
    return rows


def _comparisons(found: Sequence[Comparison]) -> list[Row]:
    head: Row = ("benchmark", "router", "against", "difference", "p")
    return [head] + [
        (
            each.benchmark,
            each.router,
            each.against,
            f"{each.difference.value:+.3f} [{each.difference.low:+.3f}, {each.difference.high:+.3f}]",
            f"{each.difference.p:.3f}",
        )
        for each in found
    ]


def _slices(found: Sequence[Slice]) -> list[Row]:
    """One row a slice, one column a router."""
    routers = list(dict.fromkeys(each.router for each in found))
    rows: dict[Row, dict[str, str]] = {}
    for each in found:
        key = (each.benchmark, each.kind, each.label, str(each.n))
        rows.setdefault(key, {})[each.router] = _interval(each.apgr)
    head: Row = ("benchmark", "kind", "slice", "n", *routers)
    return [head] + [(*key, *(cells.get(router, _NONE) for router in routers)) for key, cells in rows.items()]


def _robustness(found: Sequence[Robustness]) -> list[Row]:
    head: Row = ("benchmark", "router", "noise", "n", "rank correlation", "decisions flipped")
    return [head] + [
        (each.benchmark, each.router, each.noise, str(each.n), _number(each.rank_correlation), f"{each.flips:.1%}")
        for each in found
    ]


def _table(rows: Sequence[Row]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _interval(value: Interval | None) -> str:
    return _NONE if value is None else f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"
