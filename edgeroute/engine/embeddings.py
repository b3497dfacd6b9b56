"""Prompts that come as embeddings: checked, read from ``.npy``, and made from a seed for golden scores."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ..bundle.manifest import Manifest
from ..errors import BundleError, InputFileError, PromptError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_EMBEDDING_BYTES = 4 << 30
"""The largest ``.npy`` file that is read."""


MAX_NUMBER = 1e6
"""No embedding holds more. Bytes of another type read as float32 do, and what overflows inside the graph may still give
a score: the sigmoid of infinity is 1."""


def takes_embeddings(manifest: Manifest) -> BundleError:
    """What to raise where a prompt is given to a bundle that takes embeddings."""
    width = manifest.input.width if manifest.input else 0
    return BundleError(
        f"the bundle {manifest.name} takes embeddings of width {width}, not text: embed the prompt with "
        f"{manifest.training.base}, and use score_embeddings, choose_embeddings or rank_embeddings; on the command "
        "line, edgeroute score --embeddings FILE.npy"
    )


def check_embeddings(embeddings: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return ``embeddings`` as they are; raises ``PromptError`` unless float32 ``[n, width]``, finite, of sane size."""
    if not isinstance(embeddings, np.ndarray):
        raise PromptError(
            f"expected an array of embeddings, float32 [n, {width}], found {type(embeddings).__name__}: "
            "use np.array(..., dtype=np.float32)"
        )
    if embeddings.dtype != np.float32:
        raise PromptError(f"expected embeddings of float32, found {embeddings.dtype}: use .astype(np.float32)")
    if embeddings.ndim != 2 or embeddings.shape[1] != width:
        hint = ": one embedding is x[None]" if embeddings.shape == (width,) else ""
        raise PromptError(f"expected embeddings of shape [n, {width}], found {list(embeddings.shape)}{hint}")
    wrong = np.flatnonzero(~(np.abs(embeddings) <= MAX_NUMBER).all(axis=1))  # NaN compares false
    if len(wrong):
        raise PromptError(
            f"embedding {wrong[0]} holds NaN, infinity or a number beyond {MAX_NUMBER:.0e} "
            f"({len(wrong)} of {len(embeddings)} do)"
        )
    return embeddings


def read_embeddings(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read a ``.npy`` file of float32 ``[n, width]``, never a pickle, and only as large as its header says.

    Raises ``InputFileError`` for anything else, before its data is read.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise InputFileError(f"{path} is not a regular file: embeddings are read from a .npy file")
            if about.st_size > MAX_EMBEDDING_BYTES:
                raise InputFileError(f"{path} has {about.st_size >> 20} MB, more than {MAX_EMBEDDING_BYTES >> 20}")
            shape, fortran = _header(path, file)
            left = about.st_size - file.tell()
            if left != 4 * shape[0] * shape[1]:
                raise InputFileError(f"{path}: expected {4 * shape[0] * shape[1]} bytes of data, found {left}")
            data = file.read(left)
    except OSError as error:
        raise InputFileError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) != left:
        raise InputFileError(f"{path} changed while it was read")
    return np.frombuffer(data, "<f4").reshape(shape, order="F" if fortran else "C").astype(np.float32)


def _without_waiting(path: str, flags: int) -> int:
    """Open without blocking on a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _header(path: str | os.PathLike[str], file: BinaryIO) -> tuple[tuple[int, int], bool]:
    """Shape, and whether columns come first."""
    layout = np.lib.format
    try:
        version = layout.read_magic(file)
        read = {(1, 0): layout.read_array_header_1_0, (2, 0): layout.read_array_header_2_0}[version]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy says so where Python 2 wrote the header
            shape, fortran, dtype = read(file)
    except OSError:
        raise
    except Exception as error:  # a header is a Python literal, and each kind of nonsense has an exception of its own
        raise InputFileError(f"{path} is not a readable .npy file ({type(error).__name__}): use np.save") from None
    if dtype != np.dtype("<f4"):
        raise InputFileError(f"{path}: expected float32, found {dtype}: use np.save(path, x.astype(np.float32))")
    if len(shape) != 2 or not all(type(axis) is int and 0 <= axis < 1 << 48 for axis in shape):
        raise InputFileError(f"{path}: expected an array of shape [n, width], found {list(shape)}")
    return shape, bool(fortran)


def golden_vector(seed: int, width: int) -> NDArray[np.float32]:
    """The unit vector, float32 ``[width]``, that stands for ``seed`` in a manifest.

    Its direction is SHAKE-128 of the seed's decimal digits, read as little-endian int32: numpy's generators may change
    from version to version.
    """
    stream = hashlib.shake_128(str(seed).encode()).digest(4 * width)
    values = np.frombuffer(stream, "<i4").astype(np.float64)
    unit: NDArray[np.float32] = (values / np.sqrt(values @ values)).astype(np.float32)
    return unit
