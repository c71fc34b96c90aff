"""MetaImage volumes (.mha, .mhd with its .raw or .zraw), ITK's own format: patient axes are always LPS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medfm.formats.base import existing_file, reading
from medfm.formats.nrrd import beside_of
from medfm.formats.packed import values
from medfm.formats.volume_space import LPS_TO_RAS, VolumeHead, checked_affine, checked_shape
from medfm.formats.volume_values import finished
from medfm.types import Finding, ReadError, Volume

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_MATRIX = ("TransformMatrix", "Rotation", "Orientation")
_ORIGIN = ("Offset", "Position", "Origin")


@dataclass(frozen=True)
class _Header:
    fields: dict[str, str]
    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype
    encoding: str
    findings: tuple[Finding, ...]


def read(path: str | Path, *, label: bool = False) -> Volume:
    """A MetaImage volume, its voxels in the same file or beside it.

    Raises:
        ReadError: several volumes, one slice, several channels, no spacing, or a damaged file.
    """
    path = existing_file(path)
    with reading(path, "MetaImage"), path.open("rb") as file:
        header = _header(path, file)
        where = header.fields["ElementDataFile"]
        if where.upper() == "LOCAL":
            raw = _voxels(path, file, header)
        else:
            with beside_of(path, where).open("rb") as data:
                raw = _voxels(path, data, header)
        return finished(path, raw, header.affine, "metaimage", label=label, findings=header.findings)


def describe(path: str | Path) -> VolumeHead:
    """What the header says, no voxel read."""
    path = existing_file(path)
    with reading(path, "MetaImage"), path.open("rb") as file:
        header = _header(path, file)
        return VolumeHead(
            str(path), "metaimage", header.shape, header.affine, header.dtype.name, None, header.findings
        )


def _header(path: Path, file: BinaryIO) -> _Header:
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = file.readline(1 << 16)
        key, equals, value = line.decode("latin-1").partition("=")
        if not equals or len(fields) > 1000:
            raise ReadError(f"{path}: is no MetaImage file, or its header was cut short; export it again.")
        fields[key.strip()] = value.strip()
    needed = [k for k in ("DimSize", "ElementType") if k not in fields]
    if needed:
        raise ReadError(f"{path}: its header lacks {', '.join(needed)}; export it again.")
    if fields["ElementType"] not in _TYPES or fields.get("ElementNumberOfChannels", "1") != "1":
        raise ReadError(
            f"{path}: holds {fields.get('ElementNumberOfChannels', '1')} value(s) of {fields['ElementType']} a voxel (colour "
            "or vectors); save one measured number a voxel."
        )
    shape = checked_shape(path, [int(n) for n in fields["DimSize"].split()])
    big = _true(fields, "BinaryDataByteOrderMSB") or _true(fields, "ElementByteOrderMSB")
    dtype = np.dtype(_TYPES[fields["ElementType"]]).newbyteorder(">" if big else "<")
    packed = _true(fields, "CompressedData")
    text = fields.get("BinaryData", "True").lower().startswith("f")
    affine, findings = _affine(path, fields)
    return _Header(fields, shape, affine, dtype, "text" if text else "zlib" if packed else "raw", findings)


def _true(fields: dict[str, str], key: str) -> bool:
    return fields.get(key, "").lower().startswith("t")


def _affine(path: Path, fields: dict[str, str]) -> tuple[np.ndarray, tuple[Finding, ...]]:
    """The matrix lists one axis of the grid after the other, each as a direction in the patient."""
    if "ElementSpacing" not in fields:
        raise ReadError(f"{path}: states no ElementSpacing, so its size in mm is not known; export it again.")
    spacing = _three(path, fields, "ElementSpacing")
    matrix_key = next((k for k in _MATRIX if k in fields), None)
    origin_key = next((k for k in _ORIGIN if k in fields), None)
    numbers = [float(v) for v in fields[matrix_key].split()] if matrix_key else np.eye(3).ravel().tolist()
    dimensions = round(len(numbers) ** 0.5)
    if dimensions < 3 or dimensions**2 != len(numbers):
        raise ReadError(f"{path}: its {matrix_key} is no matrix of three axes; export it again.")
    axes = np.array(numbers).reshape(dimensions, dimensions)[:3, :3]
    if not np.allclose(np.linalg.norm(axes, axis=1), 1, atol=1e-2):
        raise ReadError(f"{path}: the axes in its {matrix_key} do not have length 1; export it again.")
    affine = np.eye(4)
    affine[:3, :3] = axes.T * spacing
    if origin_key:
        affine[:3, 3] = _three(path, fields, origin_key)
    findings = []
    if matrix_key is None:
        message = "its header states no orientation; the format's default was taken (axes to the left, back and head)."
        findings.append(Finding("orientation-default", message))
    return checked_affine(path, LPS_TO_RAS @ affine, "TransformMatrix"), tuple(findings)


def _three(path: Path, fields: dict[str, str], key: str) -> np.ndarray:
    numbers = [float(v) for v in fields[key].split()]
    if len(numbers) < 3:
        raise ReadError(f"{path}: its {key} holds {len(numbers)} numbers, not 3; export it again.")
    return np.array(numbers[:3])


def _voxels(path: Path, file: BinaryIO, header: _Header) -> np.ndarray:
    skip = int(header.fields.get("HeaderSize", 0) or 0)
    if skip == -1 and header.encoding == "raw":
        file.seek(-int(np.prod(header.shape)) * header.dtype.itemsize, 2)
    elif skip > 0:
        file.seek(skip)
    return values(path, file, header.shape, header.dtype, header.encoding)
