"""State of a run on disk, written whole or not at all: the last good one outlives a kill, a NaN and a full disk."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from edgeroute.errors import EdgeRouteError
from edgeroute_formats.checkpoints import write_files

STATE = "training.pt"


def save_state(folder: Path, run: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Replace the state in ``folder``. ``run`` says which run it belongs to: settings, data, shapes.

    Raises ``EdgeRouteError`` when the disk cannot be written; the state before is untouched then.
    """
    partial = folder / f"{STATE}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save({"run": dict(run), **state}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / STATE)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        partial.unlink(missing_ok=True)
        kept = "the checkpoint before it is kept" if (folder / STATE).exists() else "there is none before it"
        raise EdgeRouteError(f"a checkpoint cannot be written in {folder} ({error}); {kept}") from None


def load_state(folder: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state to go on from, or ``None``.

    Raises ``EdgeRouteError`` when it is damaged, or is of another run: other data, settings or shapes.
    """
    path = folder / STATE
    if not path.exists():
        return None
    advice = f"choose another output, or replace it by --overwrite (or remove {path})"
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = state["run"]
    except Exception as error:  # a damaged pickle raises anything
        raise EdgeRouteError(f"the checkpoint cannot be read ({type(error).__name__}): {advice}") from None
    for key, expected in run.items():
        if found.get(key) != expected:
            raise EdgeRouteError(
                f"the checkpoint is of another run: {key} is {_brief(found.get(key))} there and {_brief(expected)} "
                f"here; {advice}"
            )
    return state


def discard_other(folder: Path, run: Mapping[str, Any]) -> None:
    """Remove what ``load_state`` would refuse: the state of another run, or a damaged one."""
    try:
        load_state(folder, run)
    except EdgeRouteError:
        (folder / STATE).unlink(missing_ok=True)


def finish(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a scratch folder, move its files into ``folder``, and drop the state of the run.

    Raises ``EdgeRouteError`` when the disk cannot be written; the state stays, so that the run can be finished later.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".result.", dir=folder) as scratch:
            write(Path(scratch))
            for path in sorted(Path(scratch).iterdir()):
                shutil.move(path, folder / path.name)
    except Exception as error:
        # safetensors reports a full disk by an error of its own
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        raise EdgeRouteError(
            f"the result cannot be written in {folder} ({error}); its last checkpoint is kept"
        ) from None
    (folder / STATE).unlink(missing_ok=True)


def write_weights(
    folder: Path,
    kind: str,
    weights: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Write the checkpoint of a ``kind`` and ``extra`` files into ``folder``, whole or not at all.

    The record gets the versions of what trained it. Raises ``EdgeRouteError`` when the disk cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgeRouteError(f"no checkpoint can be written in {folder}: {error}") from None
    recorded = {**config, "versions": versions()}
    finish(folder, lambda scratch: write_files(scratch, kind, weights, recorded, extra))


def versions() -> dict[str, str]:
    """What a run depends on."""
    names = ("torch", "transformers", "tokenizers", "numpy")
    return {name: metadata.version(name) for name in names} | {"python": platform.python_version()}


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
