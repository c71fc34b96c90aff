"""NRRD volumes (.nrrd, .nhdr): header and voxels read here, because a header may point at any file and any size.

The format is frozen (teem, NRRD0001 to NRRD0005); pynrrd is the oracle of the tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medfm.formats.base import existing_file, reading
from medfm.formats.packed import values
from medfm.formats.volume_space import LPS_TO_RAS, VolumeHead, checked_affine, checked_shape
from medfm.formats.volume_values import finished
from medfm.types import ReadError, Volume

_MAX_HEADER = 1 << 20
# type name -> numpy, without byte order; the format allows many spellings
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(
        ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"
    ),
    "float": "f4",
    "double": "f8",
}
_ENCODINGS = {
    "raw": "raw", "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2", "txt": "text", "text": "text",
    "ascii": "text",
}  # fmt: skip
# Signs that bring a space's first two axes to right and front
_SPACES = {
    "left-posterior-superior": (-1, -1), "lps": (-1, -1), "right-anterior-superior": (1, 1), "ras": (1, 1),
    "left-anterior-superior": (-1, 1), "las": (-1, 1),
}  # fmt: skip
_UNITS = {"mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "m": 1000.0, "um": 1e-3, "µm": 1e-3, "cm": 10.0}


@dataclass(frozen=True)
class _Header:
    fields: dict[str, str]
    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype
    encoding: str


def read(path: str | Path, *, label: bool = False) -> Volume:
    """An NRRD volume with its voxels attached or in a file beside the header.

    Raises:
        ReadError: several volumes, one slice, colour, no ``space`` or ``space directions``, or a damaged file.
    """
    path = existing_file(path)
    with reading(path, "NRRD"), path.open("rb") as file:
        header = _header(path, file)
        beside = header.fields.get("data file") or header.fields.get("datafile")
        if beside is None:
            raw = _voxels(path, file, header)
        else:
            with beside_of(path, beside).open("rb") as data:
                raw = _voxels(path, data, header)
        return finished(path, raw, header.affine, "nrrd", label=label)


def describe(path: str | Path) -> VolumeHead:
    """What the header says, no voxel read."""
    path = existing_file(path)
    with reading(path, "NRRD"), path.open("rb") as file:
        header = _header(path, file)
        return VolumeHead(str(path), "nrrd", header.shape, header.affine, header.dtype.name)


def beside_of(path: Path, name: str) -> Path:
    """The file of voxels that a header names, which must lie in the header's folder."""
    name = name.strip()
    if "%" in name or name.upper().split()[:1] == ["LIST"]:
        raise ReadError(f"{path}: keeps its voxels in several files; save it as one file.")
    if Path(name).name != name or name in ("", ".", ".."):
        raise ReadError(
            f"{path}: points at a file outside its folder; save it as one file, or put both in one folder."
        )
    return existing_file(path.with_name(name))


def _header(path: Path, file: BinaryIO) -> _Header:
    if not re.match(rb"NRRD000[1-5]\r?\n", file.readline(64)):
        raise ReadError(f"{path}: is no NRRD file, whatever its name says; export it again.")
    fields: dict[str, str] = {}
    while line := file.readline(_MAX_HEADER):
        text = line.decode("utf-8", "replace").strip()
        if not text:
            break
        key, colon, value = text.partition(":")
        # `key:=value` is a remark of the writer, not a field
        if colon and not text.startswith("#") and not value.startswith("="):
            fields[key.strip().lower()] = value.strip()
    needed = [k for k in ("type", "dimension", "sizes", "encoding") if k not in fields]
    if needed:
        raise ReadError(f"{path}: its header lacks {', '.join(needed)}: it was cut short. Export it again.")
    kind, encoding = _TYPES.get(fields["type"].lower()), _ENCODINGS.get(fields["encoding"].lower())
    if kind is None or encoding is None:
        raise ReadError(
            f"{path}: has values of type {fields['type']!r}, encoding {fields['encoding']!r}, which are not read; save it "
            "as short or float, gzip."
        )
    if kind[1] != "1" and encoding != "text" and "endian" not in fields:
        raise ReadError(f"{path}: states no endian, so its values cannot be read; export it again.")
    dtype = np.dtype(kind).newbyteorder(">" if fields.get("endian", "little").lower() == "big" else "<")
    sizes = [int(n) for n in fields["sizes"].split()]
    directions = _vectors(fields.get("space directions", ""))
    shape, spatial = _axes(path, fields, sizes, directions)
    return _Header(fields, shape, _affine(path, fields, spatial), dtype, encoding)


def _vectors(text: str) -> list[list[float] | None]:
    """``(1,0,0) none (0,1,0)`` -> vectors; None, and a vector of NaN, for an axis that is none of space."""
    found: list[list[float] | None] = []
    for word in re.findall(r"\([^)]*\)|none", text, re.IGNORECASE):
        vector = None if word[0] != "(" else [float(v) for v in word[1:-1].split(",")]
        found.append(None if vector is None or not np.isfinite(vector).any() else vector)
    return found


def _axes(
    path: Path, fields: dict[str, str], sizes: list[int], directions: list[list[float] | None]
) -> tuple[tuple[int, int, int], list[list[float]]]:
    """The three axes of space; one of another kind (colour, time, segments) may have one element only."""
    if not directions:
        raise ReadError(
            f"{path}: states no space directions, so its spacing and orientation are not known; export it again with "
            "them (3D Slicer does)."
        )
    if len(directions) != len(sizes):
        raise ReadError(
            f"{path}: states {len(sizes)} sizes and {len(directions)} space directions; export it again."
        )
    kinds = fields.get("kinds", "").lower().split()
    others = [i for i, d in enumerate(directions) if d is None]
    if colour := [
        k for i, k in enumerate(kinds) if i in others and k.startswith(("rgb", "hsv", "xyz")) and sizes[i] > 1
    ]:
        raise ReadError(
            f"{path}: holds colour ({colour[0]}), not one measured number a voxel; save the values themselves."
        )
    kept = [n for i, n in enumerate(sizes) if i not in others or n > 1]
    shape = checked_shape(path, kept)
    return shape, [d for d in directions if d is not None]


def _affine(path: Path, fields: dict[str, str], directions: list[list[float]]) -> np.ndarray:
    space = fields.get("space", "").lower().removesuffix("-time")
    if space not in _SPACES:
        stated = f"the space {fields['space']!r}" if space else "no space"
        raise ReadError(
            f"{path}: states {stated}, so left and right are not known; save it with the space left-posterior-superior "
            "or right-anterior-superior."
        )
    origin = next(iter(_vectors(fields.get("space origin", ""))), None) or [0.0, 0.0, 0.0]
    units = re.findall(r'"([^"]*)"', fields.get("space units", "")) or fields.get("space units", "").split()
    if unknown := [u for u in units[:3] if u.lower() not in _UNITS]:
        raise ReadError(f"{path}: states its spacing in {unknown[0]!r}; save it in mm.")
    scale = [_UNITS[u.lower()] for u in units[:3]] if len(units) >= 3 else [1.0] * 3
    if any(len(v) < 3 for v in (*directions, origin)) or len(directions) != 3:
        raise ReadError(
            f"{path}: its space directions are not three vectors of three numbers; export it again."
        )
    affine = np.eye(4)
    affine[:3, :3] = np.array([d[:3] for d in directions]).T
    affine[:3, 3] = origin[:3]
    affine[:3] *= np.array(scale)[:, None]
    signs = _SPACES[space]
    affine = (LPS_TO_RAS if signs == (-1, -1) else np.diag([*signs, 1.0, 1.0])) @ affine
    return checked_affine(path, affine, "space directions")


def _voxels(path: Path, file: BinaryIO, header: _Header) -> np.ndarray:
    fields = header.fields
    for _ in range(int(fields.get("line skip", fields.get("lineskip", 0)) or 0)):
        file.readline(_MAX_HEADER)
    skip = int(fields.get("byte skip", fields.get("byteskip", 0)) or 0)
    if skip == -1 and header.encoding == "raw":
        file.seek(-int(np.prod(header.shape)) * header.dtype.itemsize, 2)
    elif skip > 0:
        file.seek(skip, 1)
    return values(path, file, header.shape, header.dtype, header.encoding)
