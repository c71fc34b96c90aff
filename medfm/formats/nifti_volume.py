"""NIfTI-1 and NIfTI-2 volumes (.nii, .nii.gz), read by content; nibabel knows the header, the voxels are read here."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from medfm.formats.base import existing_file, reading
from medfm.formats.packed import values
from medfm.formats.volume_space import VolumeHead, checked_affine, checked_shape
from medfm.formats.volume_values import finished
from medfm.types import Finding, ReadError, Volume

_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}
CONFLICT_MM = 0.5
"""How far qform and sform may place a corner of the volume apart before that is reported."""


@dataclass(frozen=True)
class _Header:
    nifti: Any
    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype
    findings: tuple[Finding, ...]


def read(path: str | Path, *, label: bool = False) -> Volume:
    """A NIfTI volume; the sform places it where its code is set and its matrix can be, else the qform.

    Raises:
        ReadError: several volumes, one slice, colour, no orientation, or a damaged file.
    """
    path = existing_file(path)
    with reading(path, "NIfTI"), opened(path) as file:
        header = _header(path, file)
        file.seek(int(header.nifti.get_data_offset()))
        raw = values(path, file, header.shape, header.dtype)
        slope, intercept = header.nifti.get_slope_inter()
        scale = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
        return finished(
            path, raw, header.affine, "nifti", scale=scale, label=label, findings=header.findings,
            meta={"description": _text(header.nifti["descrip"])},
        )  # fmt: skip


def describe(path: str | Path) -> VolumeHead:
    """What the header says, no voxel read."""
    path = existing_file(path)
    with reading(path, "NIfTI"), opened(path) as file:
        header = _header(path, file)
        return VolumeHead(
            str(path), "nifti", header.shape, header.affine, header.dtype.name, None, header.findings
        )


def opened(path: Path) -> BinaryIO:
    """The file's bytes, unpacked where it is gzip, whatever its suffix says."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if packed else path.open("rb")


def _header(path: Path, file: BinaryIO) -> _Header:
    from nibabel import Nifti1Header, Nifti2Header

    try:
        head = file.read(540)
    except (EOFError, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        raise ReadError(f"{path}: its gzip stream is damaged or cut short; copy it again.") from error
    file.seek(0)
    size = {int.from_bytes(head[:4], order) for order in ("little", "big")}  # type: ignore[arg-type]
    if 348 in size and head[344:348] == b"ni1\0":
        raise ReadError(
            f"{path}: is half of a pair of files (.hdr and .img); save it as one .nii.gz (nibabel or FSL do)."
        )
    if (348 in size and head[344:348] != b"n+1\0") or not size & {348, 540}:
        raise ReadError(f"{path}: is no NIfTI file, whatever its name says; export it again as .nii.gz.")
    if len(head) < (348 if 348 in size else 540):
        raise ReadError(f"{path}: ends inside its header: it was cut short. Copy it again.")
    nifti: Any = (Nifti1Header if 348 in size else Nifti2Header).from_fileobj(file, check=False)
    dtype = nifti.get_data_dtype()
    if dtype.fields is not None or dtype.kind not in "iuf":
        raise ReadError(
            f"{path}: holds {'colour' if dtype.fields else dtype.name + ' values'}, not one measured number a voxel; save "
            "the measured values themselves."
        )
    shape = checked_shape(path, nifti.get_data_shape())
    affine, findings = _affine(path, nifti, shape)
    return _Header(nifti, shape, affine, dtype, findings)


def _affine(path: Path, nifti: Any, shape: tuple[int, int, int]) -> tuple[np.ndarray, tuple[Finding, ...]]:
    """Sform before qform: it is the one that registration and DICOM converters keep; in mm."""
    unit = _MILLIMETRES.get(nifti.get_xyzt_units()[0], 1.0)
    millimetres = np.diag([unit, unit, unit, 1.0])
    sform = nifti.get_sform() if int(nifti["sform_code"]) > 0 else None
    qform = nifti.get_qform() if int(nifti["qform_code"]) > 0 else None
    if sform is None and qform is None:
        raise ReadError(
            f"{path}: states no orientation (sform and qform codes are 0), so left and right are not known; convert it "
            "again from DICOM, or set its sform from the original."
        )
    if sform is None:
        return checked_affine(path, millimetres @ qform, "qform"), ()
    if qform is None:
        return checked_affine(path, millimetres @ sform, "sform"), ()
    if not np.isfinite(sform).all() or abs(np.linalg.det(sform[:3, :3])) < 1e-9:
        affine = checked_affine(path, millimetres @ qform, "qform")
        return affine, (Finding("sform-wrong", "its sform holds no spacing; its qform was taken."),)
    affine = checked_affine(
        path, millimetres @ sform, "sform"
    )  # a qform cannot hold a shear, and would hide it
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    corners[:, :3] *= np.array(shape) - 1
    apart = np.linalg.norm((corners @ (affine - millimetres @ qform).T)[:, :3], axis=1).max()
    if apart <= CONFLICT_MM:
        return affine, ()
    message = f"its sform and qform place it up to {apart:.1f} mm apart; the sform was taken."
    return affine, (Finding("sform-qform-conflict", message),)


def _text(value: Any) -> str:
    return bytes(value.tobytes()).split(b"\0")[0].decode("latin-1").strip()
