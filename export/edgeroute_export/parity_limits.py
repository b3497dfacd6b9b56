"""Whether a graph decides as PyTorch does: limits on its parity receipt, and the table printed after an export."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeroute.bundle.manifest import Parity
from edgeroute.errors import BundleError

from .write import as_record

PRECISIONS = ("int8", "fp16", "fp32")
MAX_ABS = {"fp16": 2e-3, "fp32": 1e-4}
"""Largest |Δscore| that rounding explains; int8 is judged by its decisions."""
SHARE = "0.5"
RECEIPT = "receipt.json"
NEXT = """To go on: find a recipe that holds them with edgeroute tune and pass it to --recipe; or export with
--precision fp32, which changes no decision; or loosen --max-flips,
--max-delta-apgr or --min-rank-correlation (--no-limits: none)."""


@dataclass(frozen=True, slots=True)
class ParityLimits:
    """Limits on what export may do to scores and decisions; flips and ΔAPGR are the point estimates."""

    max_flips: float = 0.03
    max_delta_apgr: float = 0.005
    min_rank_correlation: float = 0.995


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table. ``ok`` is ``None`` where there is no limit."""

    what: str
    found: str
    limit: str
    ok: bool | None


def judge(limits: ParityLimits | None, precision: str, parity: Parity) -> list[Verdict]:
    """What the receipt ``parity`` of one graph says against ``limits``; without limits nothing can fail."""
    if parity.max_abs is None:
        return []
    most = MAX_ABS.get(precision) if limits else None
    found = [_at_most("max |Δscore|", parity.max_abs, f"{parity.max_abs:.2g}", most, "{:.4f}")]
    if (correlation := parity.rank_correlation) is not None:
        floor = limits.min_rank_correlation if limits else None
        bounded = "" if floor is None else f"at least {floor}"
        holds = None if floor is None else correlation >= floor
        found.append(Verdict("rank correlation", f"{correlation:.5f}", bounded, holds))
    for share, flips in parity.flips.items():
        bounds = (parity.flip_intervals or {})[share]
        text = f"{flips:.2%} ({bounds.low:.2%} to {bounds.high:.2%})"
        most = limits.max_flips if limits and share == SHARE else None
        found.append(_at_most(f"flips at {float(share):.0%}", flips, text, most, "{:.1%}"))
    if (change := parity.delta_apgr) is not None:
        text = f"{change.value:+.4f} ({change.low:+.4f} to {change.high:+.4f})"
        most = limits.max_delta_apgr if limits else None
        found.append(_at_most("ΔAPGR", abs(change.value), text, most, "{}"))
    return found


def as_table(file: str, parity: Parity, verdicts: Sequence[Verdict]) -> list[str]:
    """Lines for people."""
    if not verdicts:
        return [f"{file}: reference {parity.reference}, nothing to compare with"]
    claim = "" if parity.claim == "shares" else f": {parity.claim}, no shares are promised"
    lines = [f"{file} against {parity.reference} on {parity.n} prompts ({parity.sample}){claim}"]
    word = {True: "ok", False: "FAILED", None: ""}
    lines += [f"  {v.what:<17} {v.found:<28} {v.limit:<15} {word[v.ok]}".rstrip() for v in verdicts]
    return lines


def reject(output: Path, files: Mapping[str, bytes], parity: Parity, table: Sequence[str]) -> BundleError:
    """Keep a failed graph and its receipt in a new folder beside ``output``; the error to raise names it."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        kept = Path(tempfile.mkdtemp(prefix=f"{output.name}.rejected-", dir=output.parent))
        for name, data in files.items():
            (kept / name).write_bytes(data)
        (kept / RECEIPT).write_text(
            json.dumps({"parity": as_record(parity), "table": list(table)}, indent=2) + "\n", "utf-8"
        )
    except OSError as error:
        return BundleError(
            "\n".join([f"the parity limits do not hold, and {output.parent} cannot be written: {error}", *table])
        )
    return BundleError("\n".join([f"the parity limits do not hold; graph and receipt are in {kept}", *table, NEXT]))


def _at_most(what: str, value: float, text: str, limit: float | None, shown: str) -> Verdict:
    if limit is None:
        return Verdict(what, text, "", None)
    return Verdict(what, text, f"at most {shown.format(limit)}", value <= limit)
