"""Fetch a bundle that the wheel does not carry into the cache folder, verified before anyone can see it.

Several processes may share the folder:

bundles/<digest>/    whole bundles, addressed by content: written once, by rename
names/<name>         the digest that a name stands for
partial/<digest>/    what an interrupted download left, to go on from
locks/<digest>       held by the process that downloads it
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError, PullError
from .download import Location, Progress, fetch_file, join, parent, parse_location, read_small, show
from .folder import open_bundle
from .index import INDEX_VARIABLE, load_index
from .manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, is_digest, is_flat_name, parse_manifest
from .store import INDEX, cache_folder, find_shipped, pulled_folder, shipped_folder


@dataclass(frozen=True, slots=True)
class Pulled:
    """A bundle that lies verified on this machine.

    ``by_name``: whether ``name`` finds it; a bundle that the wheel carries under the same name comes first.
    """

    name: str
    digest: str
    path: Path
    by_name: bool


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Where a bundle is to come from; name and digest where an index or the caller gave them."""

    folder: Location
    name: str | None
    digest: str | None


def pull(
    what: str, *, index: str | None = None, digest: str | None = None, progress: Progress = lambda *_: None
) -> Pulled:
    """Fetch a bundle, verify it, and let its name stand for it from now on.

    ``what``: a name in the index, or the URL or path of a bundle's folder. ``index``: path or URL of an index, by
    default ``$EDGEROUTE_INDEX``, else the one that edgeroute carries. ``digest`` pins the bundle; plain http is only
    taken for a pinned one. What is already there is not fetched again, a cut download goes on where it stopped, and
    processes that share the cache folder wait for each other. Raises ``PullError``.
    """
    if digest is not None and not is_digest(digest):
        raise PullError(f"expected a digest of sha256: and 64 hex digits, found {digest!r}")
    wanted = _resolve(what, index, digest)
    if wanted.name and wanted.digest and (shipped := find_shipped(wanted.name)) and shipped.digest == wanted.digest:
        return Pulled(wanted.name, wanted.digest, shipped.path, True)
    with _disk_errors():
        if wanted.digest is not None and is_pulled(wanted.digest):
            manifest = open_bundle(pulled_folder(wanted.digest), digest=wanted.digest).manifest
        else:
            manifest = _fetch(wanted, progress)
        _check_name(manifest, wanted)
        point(manifest.name, manifest.digest)
    path = pulled_folder(manifest.digest)
    return Pulled(manifest.name, manifest.digest, path, find_shipped(manifest.name) is None)


def _resolve(what: str, index: str | None, digest: str | None) -> _Wanted:
    if not is_flat_name(what):
        return _Wanted(parse_location(what), None, digest)
    location, bundles = load_index(index, pinned=digest is not None)
    entry = bundles.get(what)
    if entry is None:
        if Path(what).is_dir():
            return _Wanted(Path(what), None, digest)
        raise PullError(f"{show(location)} has no bundle named {what!r}; it has {', '.join(sorted(bundles)) or 'none'}")
    if digest is not None and digest != entry.digest:
        raise PullError(f"expected the bundle {digest}, but {show(location)} has {what} as {entry.digest}")
    if entry.url is None:
        shipped = find_shipped(what)
        if shipped is None:
            raise PullError(f"{show(location)} does not say where {what} lies")
        return _Wanted(shipped.path, what, entry.digest)
    folder = join(parent(location), entry.url)
    if location == shipped_folder() / INDEX and isinstance(folder, Path) and not folder.is_dir():
        raise PullError(
            f"this installation knows {what} but neither has it nor knows where it lies: give --index, the path or "
            f"URL of an index beside the bundles (models/edgeroute_models/{INDEX} in edgeroute's repository), or set "
            f"{INDEX_VARIABLE}"
        )
    return _Wanted(folder, what, entry.digest)


def _fetch(wanted: _Wanted, progress: Progress) -> Manifest:
    """Bring the bundle into the cache, unless another process did so while this one waited for it."""
    manifest, data = _read_manifest(wanted)
    digest = manifest.digest
    with locked(digest):
        if is_pulled(digest):
            return manifest
        folder = partial_folder(digest)
        for name, entry in sorted(manifest.files.items()):
            source = join(wanted.folder, name)
            fetch_file(source, folder / name, entry, pinned=wanted.digest is not None, progress=progress)
        (folder / MANIFEST).write_bytes(data)
        publish(digest)
    return manifest


def _read_manifest(wanted: _Wanted) -> tuple[Manifest, bytes]:
    try:
        if isinstance(wanted.folder, Path):
            open_bundle(wanted.folder).read()  # no device or pipe is read below
        data = read_small(join(wanted.folder, MANIFEST), MAX_MANIFEST_BYTES, pinned=wanted.digest is not None)
        manifest = parse_manifest(data)
    except BundleError as error:
        raise PullError(f"no bundle to pull at {show(wanted.folder)}: {error}") from None
    if wanted.digest is not None and manifest.digest != wanted.digest:
        raise PullError(f"{show(wanted.folder)}: expected the bundle {wanted.digest}, found {manifest.digest}")
    _check_name(manifest, wanted)
    return manifest, data


def _check_name(manifest: Manifest, wanted: _Wanted) -> None:
    if wanted.name is not None and manifest.name != wanted.name:
        raise PullError(f"the index has {wanted.name}, but the bundle at {show(wanted.folder)} is {manifest.name}")


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise PullError(f"the cache folder cannot be written: {where}{error.strerror or error}") from None


def is_pulled(digest: str) -> bool:
    """Whether the bundle of ``digest`` lies whole in the cache: every byte of it is hashed."""
    try:
        open_bundle(pulled_folder(digest), digest=digest).read()
    except BundleError:
        return False
    return True


def partial_folder(digest: str) -> Path:
    """The folder, made if missing, in which a download is put together."""
    folder = cache_folder() / "partial" / _hex(digest)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def publish(digest: str) -> Path:
    """Make the finished partial folder of ``digest`` visible in one step; returns its final path.

    Raises ``PullError`` when the folder does not hold the bundle, and deletes it: there is nothing to go on from.
    """
    partial, final = partial_folder(digest), pulled_folder(digest)
    try:
        open_bundle(partial, digest=digest).read()
    except BundleError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise PullError(f"what was fetched is not the bundle, and was deleted: {error}") from None
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():  # damaged, or is_pulled would have found it whole
        broken = Path(tempfile.mkdtemp(dir=partial.parent))
        final.rename(broken / "bundle")
        shutil.rmtree(broken, ignore_errors=True)
    partial.rename(final)
    return final


def point(name: str, digest: str) -> None:
    """Let ``name`` stand for the pulled bundle of ``digest``, in one step."""
    names = cache_folder() / "names"
    names.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=cache_folder(), prefix="name-")
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(digest + "\n")
        os.replace(temporary, names / name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def locked(digest: str) -> Iterator[None]:
    """Hold the lock of ``digest``; waits for a process that has it. The system drops it when a process dies."""
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _hex(digest), "ab") as file:
        _lock(file.fileno())
        yield


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
