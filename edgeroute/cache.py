"""The cache folder of pulled bundles, which several processes may share.

bundles/<digest>/    whole bundles, addressed by content: written once, by rename
names/<name>         the digest that a name stands for
partial/<digest>/    what a cut download left, to go on from
locks/<digest>       held by the process that downloads it
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .bundle import open_bundle
from .errors import BundleError, PullError
from .store import cache_folder, pulled_folder


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
