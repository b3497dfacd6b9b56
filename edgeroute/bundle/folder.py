"""Open a bundle: a folder of three files, read once, hashed, and used as the very bytes that were hashed."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleNotFoundError, IntegrityError
from .manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, is_digest, parse_manifest

_CHUNK = 1 << 20
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose manifest was read and whose digest holds; ``read`` checks and returns its files."""

    path: Path
    manifest: Manifest

    def read(self, *names: str) -> dict[str, bytes]:
        """Hash every file of the bundle and return the bytes of ``names``.

        Each file is read once: what is returned is what was hashed. Raises ``IntegrityError`` naming every file that is
        changed, missing, unlisted, of another size, or no regular file, with the expected and the found hash.
        """
        kept, problems = self.check(*names)
        if problems:
            raise IntegrityError(f"{self.path} does not contain its bundle:\n" + "\n".join(f"  {p}" for p in problems))
        return kept

    def check(self, *names: str) -> tuple[dict[str, bytes], list[str]]:
        """What ``read`` does, without raising: the good files of ``names``, and a line for each thing wrong."""
        listed = self.manifest.files
        problems = [f"{name}: not listed in the manifest" for name in sorted(_names(self.path) - {MANIFEST, *listed})]
        kept: dict[str, bytes] = {}
        for name, entry in sorted(listed.items()):
            try:
                found, data = _hash(self.path / name, entry.size, keep=name in names)
            except _UnreadableError as error:
                problems.append(f"{name}: {error}")
                continue
            if found != entry.sha256:
                problems.append(f"{name}: expected sha256 {entry.sha256}, found {found}")
            elif name in names:
                kept[name] = data
        return kept, problems


def open_bundle(path: str | os.PathLike[str], *, digest: str | None = None) -> Bundle:
    """Read and check the manifest in the folder ``path``.

    ``digest`` (``sha256:…``) pins the bundle. Raises ``BundleNotFoundError``, ``ManifestError`` or ``IntegrityError``.
    """
    if digest is not None and not is_digest(digest):
        raise IntegrityError(
            f"expected a digest of sha256: and 64 hex digits, found {digest!r}; to pin nothing, leave it out"
        )
    folder = Path(path)
    if not os.path.isdir(folder):  # Path.is_dir raises where the name is too long or a parent may not be searched
        raise BundleNotFoundError(f"no bundle at {folder}: not a folder")
    if MANIFEST not in _names(folder):
        raise BundleNotFoundError(f"no bundle at {folder}: it has no {MANIFEST}")
    try:
        data = _read_bounded(folder / MANIFEST, MAX_MANIFEST_BYTES)
    except _UnreadableError as error:
        raise IntegrityError(f"{folder / MANIFEST}: {error}") from None
    manifest = parse_manifest(data)
    if digest is not None and digest != manifest.digest:
        raise IntegrityError(f"{folder}: expected the bundle {digest}, found {manifest.digest}")
    return Bundle(folder, manifest)


class _UnreadableError(Exception):
    """Why one file cannot be read; becomes a line of an ``IntegrityError``."""


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise IntegrityError(f"{folder} cannot be listed: {error.strerror}") from None


def _open_regular(path: Path) -> int:
    """Open without blocking on a FIFO; only regular files, or links to them, pass."""
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except FileNotFoundError:
        raise _UnreadableError("missing") from None
    except OSError as error:
        raise _UnreadableError(f"cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _UnreadableError("not a regular file")
    return descriptor


def _read_bounded(path: Path, limit: int) -> bytes:
    with os.fdopen(_open_regular(path), "rb") as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise _UnreadableError(f"cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise _UnreadableError(f"more than {limit} bytes")
    return data


def _hash(path: Path, size: int, *, keep: bool) -> tuple[str, bytes]:
    """Return the SHA-256 of a file of exactly ``size`` bytes and, where asked, the bytes."""
    with os.fdopen(_open_regular(path), "rb", buffering=0) as file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise _UnreadableError(f"expected {size} bytes, found {found}")
        try:
            if keep:
                data = file.read(size + 1) or b""
                while len(data) < size and (more := file.read(size - len(data))):
                    data += more
                return hashlib.sha256(data).hexdigest(), data
            hasher = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
            return hasher.hexdigest(), b""
        except OSError as error:
            raise _UnreadableError(f"cannot be read: {error.strerror}") from None
