"""Write a bundle as a Triton model repository: verified, whole or not at all, the same bytes each time.

DIR/<model>/config.pbtxt
DIR/<model>/warmup/ones.16
DIR/<model>/<version>/model.onnx        and its .data file, under the name that the graph gives it
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..bundle.folder import Bundle, open_bundle
from ..bundle.manifest import GraphEntry, is_flat_name
from ..bundle.store import locate
from ..engine.contract import check_manifest
from ..engine.session import Session
from ..errors import BackendError
from .config import Model, Settings, config_text, mask_files, models_of

CONFIG, WARM_UP = "config.pbtxt", "warmup"


@dataclass(frozen=True, slots=True)
class Exported:
    """A model that was written: its name and folder, which graph it is, and whether Triton batches it."""

    model: str
    path: Path
    graph: str
    precision: str
    provider: str
    batched: bool
    digest: str


def export_repository(
    name_or_path: str | os.PathLike[str] | None,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    digest: str | None = None,
    settings: Settings | None = None,
) -> list[Exported]:
    """Write the bundle ``name_or_path`` into ``folder``, which must not exist or be empty; what was written.

    ``name`` of the model, by default the bundle's; a bundle of several graphs becomes several models, ``<name>-int8``
    and so on. ``digest`` pins the bundle. Every file is hashed and every graph opened, as ``Router.load`` does, before
    anything is written; the bytes hashed are the bytes written. Raises ``BundleError`` and its kinds, ``BackendError``.
    """
    settings = settings or Settings()
    place = locate(name_or_path)
    bundle = open_bundle(place.path, digest=place.digest if digest is None else digest)
    manifest = bundle.manifest
    models = models_of(manifest, manifest.name if name is None else name)
    for model in models:
        if not is_flat_name(model.name):
            raise BackendError(f"expected a model name of letters, digits and ._-, found {model.name!r}")
    target = Path(folder)
    _refuse_occupied(target)
    files = _read_checked(bundle)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            for model in models:
                _write_model(scratch / model.name, model, bundle, files, settings)
            scratch.chmod(0o755)  # Triton runs as another user than the one who exports
            os.replace(scratch, target)  # onto an empty folder too; one that was filled meanwhile stays
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise BackendError(f"{target} cannot be written: {error.strerror or error}") from None
    return [
        Exported(
            model.name,
            target / model.name,
            model.graph.file,
            model.graph.precision,
            model.provider,
            model.may_batch and settings.max_batch > 0,
            manifest.digest,
        )
        for model in models
    ]


def _refuse_occupied(folder: Path) -> None:
    try:
        occupied = any(folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise BackendError(f"{folder} is not a folder that can be written to: {error.strerror}") from None
    if occupied:
        raise BackendError(f"{folder} is not empty: name a new or empty folder")


def _read_checked(bundle: Bundle) -> dict[str, bytes]:
    """The bytes of all graphs, hashed, each held to the contract by onnxruntime itself."""
    graphs = bundle.manifest.graphs
    files = bundle.read(*{name for graph in graphs for name in _names(graph)})
    for graph in {graph.file: graph for graph in graphs}.values():
        data = (graph.data, files[graph.data]) if graph.data else None
        check_manifest(Session(files[graph.file], threads=1, data=data).contract, bundle.manifest, graph)
    return files


def _names(graph: GraphEntry) -> tuple[str, ...]:
    return (graph.file,) if graph.data is None else (graph.file, graph.data)


def _write_model(folder: Path, model: Model, bundle: Bundle, files: dict[str, bytes], settings: Settings) -> None:
    version = folder / str(settings.version)
    version.mkdir(parents=True)
    _write(folder / CONFIG, config_text(model, bundle.manifest, settings).encode("ascii"))
    _write(version / "model.onnx", files[model.graph.file])
    if model.graph.data:
        _write(version / model.graph.data, files[model.graph.data])
    masks = mask_files(model, bundle.manifest)
    if masks:
        (folder / WARM_UP).mkdir()
    for name, length in masks.items():
        _write(folder / WARM_UP / name, np.ones(length, "<i8").tobytes())


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
