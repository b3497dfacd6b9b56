"""A calibration on the user's own traffic: the file that ``edgeroute calibrate`` writes and a router loads.

A bundle's calibration sample is somebody else's traffic: this one takes its place, so that a strong share means a share
of prompts like the user's.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from .bundle.manifest import Calibration
from .bundle.schema import decode, parse_json
from .errors import CalibrationError

if TYPE_CHECKING:
    from .bundle.manifest import GraphEntry, Manifest

MAX_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class TrafficCalibration:
    """What ``edgeroute calibrate`` writes: quantiles of one graph's score on the user's prompts, and a threshold.

    ``strong_share`` is what the threshold sends to the strong model of these prompts, ``share_low`` and ``share_high``
    the interval for others like them at ``confidence``. ``chat`` is the chat policy they were scored by, the bundle's
    or the operator's, and ``sticky`` whether only a conversation's beginning was.
    """

    format: int
    bundle: str
    digest: str
    graph: str
    chat: str | None
    sample: str
    n: int
    quantiles: tuple[float, ...]
    threshold: float
    strong_share: float
    share_low: float
    share_high: float
    confidence: float
    sticky: bool = False

    def as_receipt(self) -> Calibration:
        """The form in which a graph carries its calibration: put in its place, it changes what shares mean."""
        return Calibration(self.sample, self.n, self.quantiles)


def write_calibration(path: Path, calibration: TrafficCalibration) -> None:
    """Write a calibration file, whole or not at all. Raises ``CalibrationError``."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(dataclasses.asdict(calibration)) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise CalibrationError(f"{path} cannot be written: {error.strerror}") from None


def read_calibration(
    path: Path, manifest: Manifest, graph: GraphEntry, *, chat: str | None = None, sticky: bool = False
) -> TrafficCalibration:
    """Read a calibration file and see that it was taken on this graph of this bundle, and on the same text.

    ``chat`` and ``sticky`` are the caller's own. Raises ``CalibrationError`` that says what differs.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror}") from None
    problems: list[str] = []
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES >> 10} KB")
        found: TrafficCalibration = decode(TrafficCalibration, parse_json(data), "calibration", problems)
    except ValueError as error:
        problems.append(f"not a JSON file of edgeroute calibrate: {error}")
    if not problems and not _sound(found):
        problems.append("expected rising quantiles from 0 to 1 and a threshold among them")
    if problems:
        raise CalibrationError(f"{path}: {'; '.join(problems)}")
    own = manifest.text.chat if manifest.text else None
    for what, theirs, ours in (
        ("the bundle", f"{found.bundle} {found.digest}", f"{manifest.name} {manifest.digest}"),
        ("the graph", found.graph, graph.file),
        ("the chat policy", found.chat, chat or own),
        ("sticky =", str(found.sticky).lower(), str(sticky).lower()),
    ):
        if theirs != ours:
            raise CalibrationError(
                f"{path} was taken on {what} {theirs}, and this is {ours}: scores differ, run edgeroute calibrate again"
            )
    return found


def _sound(found: TrafficCalibration) -> bool:
    quantiles = found.quantiles
    rising = all(a <= b for a, b in pairwise(quantiles))
    return len(quantiles) >= 2 and rising and quantiles[0] >= 0 and quantiles[-1] <= 1 and 0 <= found.threshold <= 1.01
