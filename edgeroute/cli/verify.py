"""``edgeroute verify``: is this bundle what it says it is."""

from __future__ import annotations

from dataclasses import asdict

import click

from ..engine.verify import Replay, Report
from ..engine.verify import verify as verify_bundle
from .commands import CORE
from .output import FAILED, OK, counted, echo, write_json

_WORD = {True: "ok", False: "wrong", None: "not run"}


@click.command(short_help=CORE["verify"])
@click.argument("name_or_path")
@click.option("--golden", is_flag=True, help="Show every golden score: at export, now, and the difference.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, golden scores included.")
def verify(name_or_path: str, golden: bool, as_json: bool) -> int:
    """Check the bundle NAME_OR_PATH in full and report everything that is wrong.

    It checks the manifest's schema and digest, size and hash of every file, the tokenizer, and for each graph and
    provider that runs here the graph contract, the longest input with the highest token id, and the golden scores,
    which are compared with those at export. The exit code is 1 when anything is wrong.
    """
    report = verify_bundle(name_or_path)
    if as_json:
        write_json(asdict(report) | {"ok": report.ok})
    else:
        echo("\n".join(_as_text(report, golden)))
    return OK if report.ok else FAILED


def _replayed(each: Replay) -> str:
    if each.found is None:
        return f"{each.what:<9}  {each.expected:.6f} at export, no score now"
    return f"{each.what:<9}  {each.expected:.6f} at export, {each.found:.6f} now, {each.found - each.expected:+.6f}"


def _as_text(report: Report, golden: bool) -> list[str]:
    lines = []
    for check in report.checks:
        lines.append(f"{_WORD[check.ok]:<8} {check.what}")
        lines += [f"           {detail}" for detail in check.detail]
        lines += [f"           {_replayed(each)}" for each in check.golden if golden]
    wrong = sum(check.ok is False for check in report.checks)
    name = f"{report.name} {report.digest}" if report.name else str(report.path)
    lines.append(
        f"{name}: " + (f"{wrong} of {counted(len(report.checks), 'check')} failed" if wrong else "nothing is wrong")
    )
    return lines
