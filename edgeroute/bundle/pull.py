"""Fetch a bundle that the wheel does not carry into the cache folder, verified before anyone can see it.

Several processes may share the folder:

bundles/<digest>/             whole bundles, addressed by content: written once, by rename
names/<name>                  the digest that a name stands for
partial/<digest>-<source>/    what an interrupted download from one source left, to go on from
locks/<digest>-<source>       held by the process that downloads from there: a slow source keeps nobody from another
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError, PullError
from .download import DiskError, Location, Progress, Terms, fetch_file, join, parent, parse_location, read_small, show
from .folder import open_bundle
from .index import INDEX_VARIABLE, READ_S, load_index
from .manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, is_digest, is_flat_name, parse_manifest
from .store import INDEX, cache_folder, find_pulled, find_shipped, pulled_folder, shipped_folder, shipped_index

MAX_PULL_BYTES = 64 << 30
"""All files of one bundle: two graphs of the largest size with their data."""
SLOWEST_BYTES_PER_S = 100_000
"""Without a timeout a download may be this slow; what has come when its time is over stays for the next try."""
ABANDONED_S = 7 * 86_400
"""A download on which nobody went on for so long is removed."""


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
    what: str,
    *,
    index: str | None = None,
    digest: str | None = None,
    replace: bool = False,
    timeout_s: float | None = None,
    progress: Progress = lambda *_: None,
) -> Pulled:
    """Fetch a bundle, verify it, and let its name stand for it from now on.

    ``what``: a name in the index, or the URL or path of a bundle's folder. ``index``: path or URL of an index, by
    default ``$EDGEROUTE_INDEX``, else the one that edgeroute carries. ``digest`` pins the bundle; plain http is only
    taken for a pinned one. ``replace``: let the name of a bundle from a URL or path stand for it, though it stands for
    another one so far. ``timeout_s``: for all of it, by default a minute and what the files take at
    ``SLOWEST_BYTES_PER_S``. What is already there is not fetched again, a cut download goes on where it stopped, and
    processes that pull from one source wait for each other. Raises ``PullError``.
    """
    if digest is not None and not is_digest(digest):
        raise PullError(f"expected a digest of sha256: and 64 hex digits, found {digest!r}")
    terms = Terms(digest is not None, time.monotonic() + (READ_S if timeout_s is None else timeout_s))
    wanted = _resolve(what, index, digest, terms)
    if wanted.name and wanted.digest and (shipped := find_shipped(wanted.name)) and shipped.digest == wanted.digest:
        return Pulled(wanted.name, wanted.digest, shipped.path, True)
    with _disk_errors():
        if wanted.digest is not None and is_pulled(wanted.digest):
            manifest, data = open_bundle(pulled_folder(wanted.digest), digest=wanted.digest).manifest, None
        else:
            manifest, data = _read_manifest(wanted, terms)
        _check_name(manifest, wanted, replace)
        if data is not None:
            _fetch(wanted, manifest, data, terms if timeout_s is not None else _slowest(manifest, wanted), progress)
        point(manifest.name, manifest.digest)
    path = pulled_folder(manifest.digest)
    return Pulled(manifest.name, manifest.digest, path, find_shipped(manifest.name) is None)


def _slowest(manifest: Manifest, wanted: _Wanted) -> Terms:
    seconds = READ_S + sum(entry.size for entry in manifest.files.values()) / SLOWEST_BYTES_PER_S
    return Terms(wanted.digest is not None, time.monotonic() + seconds)


def _resolve(what: str, index: str | None, digest: str | None, terms: Terms) -> _Wanted:
    if not is_flat_name(what):
        return _Wanted(parse_location(what), None, digest)
    location, bundles = load_index(index, terms)
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
            raise PullError(f"{show(location)} does not say where {what} is")
        return _Wanted(shipped.path, what, entry.digest)
    folder = join(parent(location), entry.url)
    if location == shipped_folder() / INDEX and isinstance(folder, Path) and not folder.is_dir():
        raise PullError(
            f"this installation knows the name {what} but not where the bundle is: give --index, the path or URL of "
            f"the index in a folder of bundles (models/edgeroute_models/{INDEX} in edgeroute's repository), or set "
            f"{INDEX_VARIABLE}"
        )
    return _Wanted(folder, what, entry.digest)


def _fetch(wanted: _Wanted, manifest: Manifest, data: bytes, terms: Terms, progress: Progress) -> None:
    """Bring the bundle into the cache, unless another process did so while this one waited for it."""
    digest = manifest.digest
    folder = partial_folder(digest, wanted.folder)
    with locked(folder.name, terms.ends):
        if is_pulled(digest):
            return
        _check_space(manifest, folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for name, entry in sorted(manifest.files.items()):
                fetch_file(join(wanted.folder, name), folder / name, entry, terms, progress)
            (folder / MANIFEST).write_bytes(data)
        except DiskError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        publish(folder, digest)
    _remove_abandoned(digest)


def _read_manifest(wanted: _Wanted, terms: Terms) -> tuple[Manifest, bytes]:
    terms = Terms(wanted.digest is not None, terms.ends)
    try:
        if isinstance(wanted.folder, Path):
            open_bundle(wanted.folder).read()  # no device or pipe is read below
        data = read_small(join(wanted.folder, MANIFEST), MAX_MANIFEST_BYTES, terms)
        manifest = parse_manifest(data)
    except BundleError as error:
        raise PullError(f"no bundle to pull at {show(wanted.folder)}: {error}") from None
    if wanted.digest is not None and manifest.digest != wanted.digest:
        raise PullError(f"{show(wanted.folder)}: expected the bundle {wanted.digest}, found {manifest.digest}")
    return manifest, data


def _check_name(manifest: Manifest, wanted: _Wanted, replace: bool) -> None:
    """Names are an index's to give, or the user's: what a URL holds cannot take the name of another bundle."""
    name = manifest.name
    if wanted.name is not None:
        if name != wanted.name:
            raise PullError(f"the index has {wanted.name}, but the bundle at {show(wanted.folder)} is {name}")
        return
    if replace or find_shipped(name) is not None:  # a name of the wheel stays the wheel's
        return
    pulled = find_pulled(name)
    holder = pulled.digest if pulled else shipped_index()["bundles"].get(name, {}).get("digest")
    if holder not in (None, manifest.digest):
        raise PullError(
            f"the bundle at {show(wanted.folder)} is named {name}, a name that stands for {holder}, and is "
            f"{manifest.digest}: pull it with --replace to let the name stand for it"
        )


def _check_space(manifest: Manifest, folder: Path) -> None:
    """Raise ``PullError`` before the first byte where the files would not fit."""
    total = sum(entry.size for entry in manifest.files.values())
    if total > MAX_PULL_BYTES:
        raise PullError(f"{manifest.name} has {total} bytes; at most {MAX_PULL_BYTES} are pulled")
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    here = sum(path.stat().st_size for path in folder.glob("*"))
    disk = shutil.disk_usage(cache)
    free = disk.free - min(1 << 30, disk.total // 20)  # others need the disk too
    if total - here > free:
        raise PullError(f"{manifest.name} needs {total - here} bytes more in {cache}, where {max(0, free)} can be used")


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


def partial_folder(digest: str, source: Location) -> Path:
    """The folder in which a download from ``source`` is put together."""
    place = hashlib.sha256(show(source).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return cache_folder() / "partial" / f"{_hex(digest)}-{place}"


def publish(partial: Path, digest: str) -> None:
    """Make the finished folder ``partial`` visible as the bundle of ``digest``, in one step.

    Raises ``PullError`` when the folder does not hold the bundle, and deletes it: there is nothing to go on from.
    """
    final = pulled_folder(digest)
    try:
        open_bundle(partial, digest=digest).read()
    except BundleError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise PullError(f"the download is not the bundle and was deleted: {error}") from None
    with locked(_hex(digest)):  # by another source, at the same moment
        if not is_pulled(digest):
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.exists():  # damaged
                broken = Path(tempfile.mkdtemp(dir=partial.parent))
                final.rename(broken / "bundle")
                shutil.rmtree(broken, ignore_errors=True)
            partial.rename(final)
    shutil.rmtree(partial, ignore_errors=True)


def _remove_abandoned(digest: str) -> None:
    """Remove what other sources sent of a bundle that is here now, and downloads on which nobody went on."""
    for folder in (cache_folder() / "partial").iterdir():
        with contextlib.suppress(OSError, PullError):
            old = time.time() - folder.stat().st_mtime > ABANDONED_S
            if old or folder.name.startswith(_hex(digest)):
                with locked(folder.name, ends=0.0):
                    shutil.rmtree(folder)


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
def locked(name: str, ends: float | None = None) -> Iterator[None]:
    """Hold a lock; waits for a process that has it, until ``ends``, then raises ``PullError``.

    The system drops the lock when a process dies.
    """
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "ab") as file:
        while not _lock(file.fileno()):
            if ends is not None and time.monotonic() >= ends:
                raise PullError("another process is pulling this bundle from there, and was not done in time")
            time.sleep(0.05)
        yield


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
