"""Volumes by content: :func:`read_volume` finds the format of a file, folder or zip and returns a Volume.

NIfTI, NRRD and MetaImage files, and DICOM: a folder or zip of slices, or one enhanced multi-frame file. Of several
series ``FOLDER#number`` or ``FOLDER#SeriesInstanceUID`` is one.
"""

from __future__ import annotations

import gzip
import importlib
from pathlib import Path
from typing import Any

from medfm.formats.base import existing_file, reading
from medfm.formats.series import Repair, describe_series, find_series, read_series
from medfm.formats.series_header import is_dicom
from medfm.formats.volume_space import VolumeHead
from medfm.types import ConfigError, ReadError, Volume

__all__ = [
    "SUFFIXES",
    "describe_volume",
    "find_series",
    "is_candidate",
    "read_volume",
    "records",
    "split_address",
]

SUFFIXES: dict[str, str] = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "metaimage",
    ".mhd": "metaimage",
    ".zip": "zip",
}
_READERS = {
    "nifti": "medfm.formats.nifti_volume",
    "nrrd": "medfm.formats.nrrd",
    "metaimage": "medfm.formats.metaimage",
}


def read_volume(
    path: str | Path, *, gaps: Repair = "refuse", tilt: Repair = "refuse", label: bool = False
) -> Volume:
    """One volume on its own grid, values after rescale, ``[X, Y, Z]`` with an affine to mm in RAS+.

    gaps, tilt: of a DICOM series; see :func:`~medfm.formats.series.read_series`. label: the file is a mask: whole
    numbers are kept exactly and the unit is ``"label"``.

    Raises:
        ReadError: no such file, an unknown format, or what its reader refuses. ConfigError: a wrong word for gaps or tilt.
    """
    if {gaps, tilt} - {"refuse", "resample"}:
        raise ConfigError(f"gaps={gaps!r}, tilt={tilt!r}: each is 'refuse' or 'resample'.")
    file, part = split_address(path)
    kind = _kind(file, part)
    if kind == "dicom":
        return read_series(file, part, gaps=gaps, tilt=tilt, label=label)[0]
    found: Volume = importlib.import_module(_READERS[kind]).read(file, label=label)
    return found


def describe_volume(path: str | Path) -> VolumeHead:
    """Shape, spacing, orientation, type, unit and findings from headers, no voxel decoded."""
    file, part = split_address(path)
    kind = _kind(file, part)
    if kind == "dicom":
        return describe_series(file, part)
    found: VolumeHead = importlib.import_module(_READERS[kind]).describe(file)
    return found


def records(path: str | Path) -> list[str]:
    """Addresses of the volumes in a file, a zip, or a tree (DICOM series, and every other volume file)."""
    path = Path(path)
    if path.is_dir():
        files = [str(p) for p in sorted(path.rglob("*")) if is_candidate(p) and _suffix(p) != ".zip"]
        return [r.address for r in find_series(path)] + files
    existing_file(path)
    return [r.address for r in find_series(path)] if _kind(path, None) == "dicom" else [str(path)]


def is_candidate(path: str | Path) -> bool:
    """Would a folder scan take this one file for a volume? Slices of DICOM count through :func:`find_series`."""
    path = Path(path)
    return not path.name.startswith(".") and _suffix(path) in SUFFIXES and path.is_file()


def split_address(path: str | Path) -> tuple[Path, str | None]:
    """``FOLDER#2`` -> folder and ``2``; a file or folder whose own name holds a `#` stays whole."""
    base, mark, part = str(path).rpartition("#")
    try:
        whole = not mark or not part or Path(path).exists() or not Path(base).exists()
    except (OSError, ValueError):  # a name too long, a NUL byte: the reader says so in its sentence
        whole = True
    return (Path(path), None) if whole else (Path(base), part)


def _suffix(path: Path) -> str:
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def _kind(path: Path, part: str | None) -> str:
    """The format by first bytes, by suffix where they say nothing (a reader then says what is wrong)."""
    if _is_folder(path):
        return "dicom"
    existing_file(path)
    with reading(path, "a file"), path.open("rb") as file:
        head = file.read(352)
        if head[:2] == b"\x1f\x8b":
            head = _unpacked_head(path, head)
    kind = _by_content(path, head) or SUFFIXES.get(_suffix(path))
    if kind in (None, "zip"):
        known = " ".join(sorted(SUFFIXES))
        raise ReadError(
            f"{path}: its format is not recognised; volumes are read from {known}, and from folders of DICOM slices."
        )
    if part is not None and kind != "dicom":
        raise ReadError(f"{path}#{part}: {path.name} holds one volume; drop '#{part}' from its address.")
    return str(kind)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _unpacked_head(path: Path, packed: bytes) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(352)
    except (OSError, EOFError):
        return packed


def _by_content(path: Path, head: bytes) -> str | None:
    size: Any = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    if 348 in size or 540 in size:
        return "nifti"
    if head.startswith(b"NRRD000"):
        return "nrrd"
    if head.startswith((b"ObjectType", b"NDims", b"Comment = ")):
        return "metaimage"
    return "dicom" if head.startswith(b"PK\x03\x04") or is_dicom(path) else None
