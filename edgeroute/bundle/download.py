"""Read files from a folder that is a local path or an http(s) URL: bounded in size and time, verified and resumable.

requests speaks HTTP. What is ours is what it leaves to its callers: an end to the whole call (its timeouts begin anew
with every byte), a size, ranges, and redirects that lead to https only.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from ..errors import PullError
from .manifest import FileEntry

if TYPE_CHECKING:
    import requests

Location = str | Path
"""An http(s) URL, or a local path."""
Progress = Callable[[str, int, int], None]
"""Told of a file's name, the bytes that are there, and its size."""

TIMEOUT_S = (10.0, 30.0)
"""To connect, and between two reads."""
MAX_REDIRECTS = 5
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Terms:
    """``pinned``: a digest is known, so that plain http may bring the bytes. ``ends``: when, by ``time.monotonic``."""

    pinned: bool
    ends: float


class DiskError(PullError):
    """The cache folder takes no more."""


def parse_location(text: str) -> Location:
    """A URL when ``text`` has a scheme, else a path. Raises ``PullError`` for other schemes and for queries."""
    if "://" not in text:
        return Path(text)
    parts = _split(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PullError(f"{show(text)}: expected an https URL or a path")
    if parts.query or parts.fragment:
        raise PullError(f"{show(text)}: expected the URL of a folder or an index, without ? or #")
    return text


def join(folder: Location, relative: str) -> Location:
    """``relative`` (a path, or a URL) as seen from ``folder``."""
    if "://" in relative:
        return parse_location(relative)
    if isinstance(folder, Path):
        return folder / relative
    return urljoin(folder.rstrip("/") + "/", relative)


def parent(location: Location) -> Location:
    """The folder in which a file lies."""
    return location.parent if isinstance(location, Path) else urljoin(location, ".")


def show(location: Location) -> str:
    """A location for messages: without user, password and query, which may be secrets."""
    if isinstance(location, Path):
        return str(location)
    parts = _split(location)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # brackets that are no IPv6 address
        raise PullError("expected an https URL or a path, found a URL that cannot be read") from None


def read_small(location: Location, limit: int, terms: Terms) -> bytes:
    """The bytes of a file of at most ``limit``."""
    data = b""
    try:
        _, chunks = _open(location, 0, terms)
        for chunk in chunks:
            data += chunk
            if len(data) > limit:
                raise PullError(f"{show(location)} has more than {limit} bytes")
    except _CutError as error:
        raise PullError(f"{show(location)} ended after {len(data)} bytes ({error})") from None
    return data


def fetch_file(location: Location, target: Path, entry: FileEntry, terms: Terms, progress: Progress) -> None:
    """Bring one file of a bundle to ``target``, going on from what already lies there.

    Raises ``PullError``: after a cut, what came stays for the next try; a file with a wrong hash is deleted. Raises
    ``DiskError`` where the file cannot be written.
    """
    have = target.stat().st_size if target.exists() else 0
    if have > entry.size:
        target.unlink()
        have = 0
    if have < entry.size or not target.exists():
        try:
            _append(location, target, have, entry.size, terms, progress)
        except OSError as error:  # the disk: what goes wrong with the source is a PullError by now
            raise DiskError(f"{target} cannot be written: {error.strerror}") from None
    try:
        with open(target, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PullError(f"{target} cannot be read: {error.strerror}") from None
    if found != entry.sha256:
        target.unlink()
        raise PullError(f"{show(location)}: expected sha256 {entry.sha256}, found {found}; the download was deleted")


def _append(location: Location, target: Path, have: int, size: int, terms: Terms, progress: Progress) -> None:
    done = have
    try:
        done, chunks = _open(location, have, terms)
        with open(target, "ab" if done else "wb") as file:
            for chunk in chunks:
                if done + len(chunk) > size:
                    file.truncate(0)  # nothing to go on from
                    raise PullError(f"{show(location)} has more than the {size} bytes that the manifest names")
                file.write(chunk)
                done += len(chunk)
                progress(target.name, done, size)
    except _CutError as error:
        raise PullError(_cut(location, done, size, str(error))) from None
    if done < size:
        raise PullError(_cut(location, done, size, "it ended"))


def _cut(location: Location, done: int, size: int, why: str) -> str:
    return f"{show(location)} ended after {done} of {size} bytes ({why}); pull again to continue from there"


class _CutError(Exception):
    """The source broke off in the middle of a file."""


def _open(location: Location, offset: int, terms: Terms) -> tuple[int, Iterator[bytes]]:
    """A file from ``offset`` on, and the offset at which its bytes truly start: 0 when it cannot be skipped to."""
    stream = _read_path(location, offset) if isinstance(location, Path) else _in_time(location, offset, terms)
    start = next(stream)
    assert isinstance(start, int)
    return start, stream  # type: ignore[return-value]  # after the offset come bytes only


def _read_path(path: Path, offset: int) -> Iterator[int | bytes]:
    try:
        file = open(path, "rb")  # noqa: SIM115  (closed below; errors of the with body are not the source's)
    except OSError as error:
        raise PullError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        file.seek(offset)
        yield offset
        yield from _chunks(lambda: file.read(_CHUNK), OSError)


def _in_time(url: str, offset: int, terms: Terms) -> Iterator[int | bytes]:
    """What ``_read_url`` yields, read by a thread: a server that sends a byte now and then holds up nobody else."""
    items: queue.Queue[Any] = queue.Queue(8)
    over = threading.Event()

    def put(item: Any) -> None:
        while not over.is_set():
            with contextlib.suppress(queue.Full):
                items.put(item, timeout=0.1)
                return

    def read() -> None:
        try:
            with contextlib.closing(_read_url(url, offset, terms.pinned)) as stream:
                for item in stream:
                    put(item)
                    if over.is_set():
                        return
            put(None)
        except Exception as error:
            put(error)

    threading.Thread(target=read, name="edgeroute-pull", daemon=True).start()
    try:
        while True:
            try:
                item = items.get(timeout=max(0.0, terms.ends - time.monotonic()))
            except queue.Empty:
                raise _CutError("the time for it is over") from None
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        over.set()


def _read_url(url: str, offset: int, pinned: bool) -> Generator[int | bytes]:
    import requests
    from urllib3.exceptions import HTTPError

    asked = url
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    with requests.Session() as session:
        # Else requests looks at redirects itself, and to that end reads their whole body, however long.
        session.get_redirect_target = lambda _: None  # type: ignore[method-assign,assignment]
        for _ in range(MAX_REDIRECTS + 1):
            _check_scheme(url, asked, pinned)
            try:
                response = session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=TIMEOUT_S)
            except (requests.RequestException, ValueError) as error:
                raise PullError(f"{show(url)} cannot be reached: {_cause(error)}") from None
            if not response.is_redirect:
                break
            response.close()
            url = _redirected(url, response.headers["location"])
        else:
            raise PullError(f"{show(asked)} redirects more than {MAX_REDIRECTS} times")
        with response:
            yield _start(response, offset, url)
            # What has come, not what is asked for: a slow file is written as it comes, and the end is noticed.
            read = getattr(response.raw, "read1", response.raw.read)
            yield from _chunks(lambda: read(_CHUNK, decode_content=False), (OSError, HTTPError))


def _redirected(url: str, to: str) -> str:
    try:
        return urljoin(url, to)
    except ValueError:
        raise PullError(f"{show(url)} redirects to no URL") from None


def _check_scheme(url: str, asked: str, pinned: bool) -> None:
    """Refuse bytes that anyone on the way could have changed, unless a digest tells; and redirects to plain http."""
    scheme = _split(url).scheme
    if scheme == "https":
        return
    if url != asked:
        raise PullError(f"{show(asked)} redirects to {show(url)}, which is not https: refused")
    if not pinned:
        raise PullError(f"{show(url)} is not https: give the bundle's digest with --digest, or an https URL")


def _start(response: requests.Response, offset: int, url: str) -> int:
    """The offset at which the body starts; raises ``PullError`` when it is no file."""
    status = response.status_code
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise PullError(f"{show(url)} was sent compressed, although edgeroute did not ask for that")
    if status == 200:
        return 0
    if status == 206 and offset and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        return offset
    raise PullError(f"{show(url)}: the server answered {status} {response.reason or ''}".rstrip())


def _chunks(read: Callable[[], bytes], errors: type[Exception] | tuple[type[Exception], ...]) -> Iterator[bytes]:
    try:
        while chunk := read():
            yield chunk
    except errors as error:
        raise _CutError(_cause(error)) from None


def _cause(error: BaseException) -> str:
    """The first cause in a few words. The messages around it hold URLs, and so perhaps secrets."""
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or type(error).__name__
