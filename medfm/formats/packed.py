"""Packed values of NIfTI, NRRD and MetaImage: read no further than the header promises, and not less."""

from __future__ import annotations

import bz2
import gzip
import math
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medfm.types import ReadError


def values(
    path: Path, file: BinaryIO, shape: tuple[int, int, int], dtype: np.dtype, encoding: str = "raw"
) -> np.ndarray:
    """The array ``[X, Y, Z]``, the first axis fastest in the file, from where ``file`` stands.

    encoding: raw, gzip, bzip2, zlib or text. What unpacks to more than the header promises is left unread, so that a
    small file never fills the memory.

    Raises:
        ReadError: a file that ends early, or whose packed stream is damaged.
    """
    count = math.prod(shape)
    if encoding == "text":
        return _text(path, file, count).reshape(shape, order="F").astype(dtype)
    needed = count * dtype.itemsize
    try:
        raw = _unpacked(file, needed, encoding)
    except EOFError as error:
        raise ReadError(
            f"{path}: ends in the middle of its voxels: it was cut short. Copy it again."
        ) from error
    except (zlib.error, OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise
        raise ReadError(
            f"{path}: its packed voxels are damaged ({error}); copy or export it again."
        ) from error
    if len(raw) < needed:
        raise ReadError(
            f"{path}: holds {len(raw):,} of the {needed:,} bytes of its voxels: it was cut short. Copy it again."
        )
    return np.frombuffer(raw, dtype, count).reshape(shape, order="F")


def _unpacked(file: BinaryIO, needed: int, encoding: str) -> bytearray:
    """At most ``needed`` bytes, in memory that may be written to."""
    if encoding == "zlib":
        return bytearray(zlib.decompressobj().decompress(file.read(), needed))
    if encoding == "gzip":
        with gzip.GzipFile(fileobj=file) as packed:
            return _filled(packed, needed)
    if encoding == "bzip2":
        with bz2.BZ2File(file) as stream:
            return _filled(stream, needed)
    return _filled(file, needed)


def _filled(file: Any, needed: int) -> bytearray:
    raw = bytearray()
    while len(raw) < needed and (block := file.read(min(needed - len(raw), 1 << 24))):
        raw += block
    if isinstance(file, gzip.GzipFile):
        file.read(1)  # its checksum follows the last byte, and tells damage
    return raw


def _text(path: Path, file: BinaryIO, count: int) -> np.ndarray:
    words = file.read(32 * count).split()
    if len(words) < count:
        raise ReadError(
            f"{path}: holds {len(words):,} of its {count:,} values: it was cut short. Copy it again."
        )
    return np.array(words[:count], dtype="S32").astype(np.float64)
