"""What an export is given beside its checkpoint: files to take receipts on, the bundle's name, a fallback.

All of it is read and checked before the work begins: nothing here needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeroute.bundle.folder import open_bundle
from edgeroute.bundle.manifest import Fallback, Pair
from edgeroute.bundle.store import locate
from edgeroute.data.labels import Outcome, read_outcomes
from edgeroute.engine.deadline import check_fallback
from edgeroute.engine.text import Prompt
from edgeroute.errors import BundleError

from . import samples
from .samples import Sample


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where receipts come from, all read and none trained on.

    ``calibrate`` is any file of prompts (of one with splits ``calibration``), ``check`` one for parity (``dev``, the
    first ``check_rows``; ``calibrate`` in its place where it is missing), ``quality`` outcome files (split ``dev``)
    that hold both models of the pair. Without the first two, generated prompts take their place, ``check_rows`` and at
    most 256, and no shares are promised.
    """

    calibrate: Path | None
    check: Path | None
    quality: tuple[Path, ...]
    check_rows: int = 2000

    def check_sample(self, pair: tuple[str, str]) -> Sample:
        """The prompts that a graph is compared with PyTorch on."""
        return samples.check_sample(self.check, self.check_rows, pair, self.calibrate)

    def calibration_sample(self) -> tuple[str, Sequence[Prompt]]:
        """Name and prompts that the quantiles are taken on."""
        return samples.calibration_sample(self.calibrate, self.check_rows)

    def read(self, pair: tuple[str, str]) -> None:
        """Raise ``BundleError`` or ``InputFileError`` for a file that cannot serve."""
        self.check_sample(pair)
        self.calibration_sample()
        for path in self.quality:
            quality_outcomes(path, pair)


@dataclass(frozen=True, slots=True)
class Naming:
    """What the bundle is called and how its manifest describes it."""

    name: str
    version: str
    description: str
    licence: str = "unknown"


def quality_outcomes(path: Path, pair: tuple[str, str]) -> list[Outcome]:
    """The dev outcomes of both models; raises ``BundleError`` where there are none."""
    found = [each for each in read_outcomes(path, split="dev") if set(pair) <= each.scores.keys()]
    if not found:
        raise BundleError(f"{path} has no dev outcomes of both {pair[0]} and {pair[1]}")
    return found


def fallback_of(name: str, pair: tuple[str, str], evidence: Evidence) -> Fallback:
    """The fallback's name and digest, where it fits: the same pair, and calibrated on the same sample."""
    cheaper = open_bundle(locate(name).path).manifest
    sample, prompts = evidence.calibration_sample()
    check_fallback(cheaper, Pair(*pair), sample, len(prompts))
    return Fallback(cheaper.name, cheaper.digest)
