"""A run: its output folder, its settings, and which of its parts are done."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..bundle.manifest import ChatPolicy
from ..bundle.store import locate
from ..engine.conversation import policy_of
from ..errors import BundleError, EdgeRouteError
from ..router import Router
from .output import read_footer, replace_text, sweep
from .parts import ROWS_A_PART, Inputs, Part, Receipt, cut, find_inputs
from .work import Settings

RUN_FILE = "_edgeroute.json"
_LOCK = ".edgeroute.lock"


@dataclass(frozen=True, slots=True)
class Run:
    """What an engine needs: ``todo`` in order, and ``done``, a receipt for each part that an earlier call finished."""

    settings: Settings
    inputs: Inputs
    todo: list[Part]
    done: list[Receipt]


@contextlib.contextmanager
def open_run(
    source: str,
    output: str,
    router: Router,
    *,
    model: str | None = None,
    chat: ChatPolicy | None = None,
    strong_share: float | None = None,
    threshold: float | None = None,
    column: str = "prompt",
    prefix: str = "",
    threads: int = 1,
    backend: str | None = None,
) -> Iterator[Run]:
    """Plan the scoring of ``source`` (a file, a folder or a pattern) into the folder ``output``, or its resumption.

    ``model``, ``chat`` and ``backend``: what ``router`` was loaded with. The folder is made if missing, and locked
    while the context is open. Raises ``InputFileError`` for no inputs; ``EdgeRouteError`` for a folder that holds
    anything but this very run (another bundle, graph, text policy, share, column, prefix, version or input
    folder), for an input that changed since it was scored, and for a folder in which another process is at work;
    ``BundleError`` for a bundle that takes embeddings.
    """
    folder, place = Path(output).resolve(), locate(model)
    inputs = find_inputs(source, folder)
    parts = cut(inputs)
    recorded = _recorded(inputs, router, chat, column, prefix, strong_share, threshold)
    with _locked(folder):
        run = _begin(folder, recorded)
        sweep(folder, run)
        done = [receipt for part in parts if (receipt := _finished(folder, run, part))]
        finished = {each.output for each in done}
        settings = Settings(
            output=str(folder),
            run=run,
            bundle=model if place.digest else str(place.path.resolve()),
            digest=router.manifest.digest,
            graph=router.graph.file,
            provider=router.provider,
            chat=chat,
            strong_share=strong_share,
            threshold=threshold,
            column=column,
            prefix=prefix,
            threads=threads,
            backend=backend,
        )
        yield Run(settings, inputs, [part for part in parts if part.output not in finished], done)
        sweep(folder, run)


def _recorded(
    inputs: Inputs,
    router: Router,
    chat: ChatPolicy | None,
    column: str,
    prefix: str,
    strong_share: float | None,
    threshold: float | None,
) -> dict[str, Any]:
    """What makes a run this run: all that its results depend on."""
    manifest = router.manifest
    if manifest.text is None:
        raise BundleError(
            f"the bundle {manifest.name} takes embeddings, not text: edgeroute score --embeddings FILE.npy"
        )
    text = dataclasses.replace(manifest.text, chat=policy_of(manifest.text, chat) or manifest.text.chat)
    limit, share = router.threshold(strong_share=strong_share, threshold=threshold)
    return {
        "edgeroute": __version__,
        "bundle": manifest.name,
        "digest": manifest.digest,
        "graph": router.graph.file,
        "precision": router.graph.precision,
        "provider": router.provider,
        "text": asdict(text),
        "threshold": limit,
        "strong_share": share,
        "inputs": str(inputs.root.resolve()),
        "column": column,
        "prefix": prefix,
        "rows_a_part": ROWS_A_PART,
    }


def _begin(folder: Path, recorded: dict[str, Any]) -> str:
    """Write the run's file, or compare with the one there is; returns the run's id."""
    text = json.dumps(recorded, indent=2) + "\n"
    run = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / RUN_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if others := sorted(each.name for each in folder.iterdir() if not each.name.startswith(".")):
            raise EdgeRouteError(
                f"{folder} holds other files ({others[0]} …) and no {RUN_FILE}: choose an empty or a new folder"
            ) from None
        replace_text(path, text, run)
        found = recorded
    except (OSError, ValueError) as error:
        raise EdgeRouteError(f"{path} cannot be read ({type(error).__name__}): choose another folder") from None
    if not isinstance(found, dict) or found != json.loads(text):
        raise EdgeRouteError(
            f"{folder} holds the results of another run: {_difference(found, json.loads(text))}. "
            "Give the same settings to resume it, or choose another folder"
        )
    return run


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    if not isinstance(found, dict):
        return f"its {RUN_FILE} is no object"
    keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    return "; ".join(f"{key} was {json.dumps(found.get(key))}, is {json.dumps(wanted.get(key))}" for key in keys)


def _finished(folder: Path, run: str, part: Part) -> Receipt | None:
    """The receipt of a part that is done, from its output's footer."""
    path = folder / part.output
    if not path.exists():
        return None
    footer = read_footer(path)
    if footer.get("run") != run or footer.get("input") != part.name:
        raise EdgeRouteError(f"{path} is of another run: move it away, or choose another folder")
    if {key: footer.get(key) for key in part.identity} != part.identity:
        raise EdgeRouteError(
            f"{part.name} changed since it was scored: delete {path} to score it again, or choose another folder"
        )
    return Receipt(part.output, part.name, footer["scored"], footer["errors"])


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / _LOCK, "ab")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise EdgeRouteError(f"{folder} cannot be written: {error.strerror}") from None
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows: two at once would do each part twice, with the same result
            pass
        except OSError:
            raise EdgeRouteError(f"another process is scoring into {folder}: wait for it, or stop it") from None
        yield
