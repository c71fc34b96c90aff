"""Pictures by content: :func:`read` finds the format of a file and returns an :class:`~medfm.types.Image`.

The same four questions that :mod:`medfm.formats` answers for signals, so that a scan can ask either.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from medfm.formats.base import existing_file, reading
from medfm.types import Image, ReadError

__all__ = ["SUFFIXES", "is_candidate", "read", "records", "split_address"]

SUFFIXES: dict[str, str] = {
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
    ".png": "image",
    ".tif": "image",
    ".tiff": "image",
    ".jpg": "image",
    ".jpeg": "image",
    ".bmp": "image",
    ".nii": "nifti",
    ".nii.gz": "nifti",
}
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"II*\x00", "image"),
    (b"MM\x00*", "image"),
    (b"BM", "image"),
)
_OTHERS = {
    b"GIF8": "a GIF, whose 256 colours cannot hold a radiograph; export PNG or DICOM",
    b"%PDF": "a PDF; export the picture itself as DICOM or PNG",
    b"PK\x03\x04": "an archive; unpack it first and give the folder",
    b"\x00\x00\x00\x0cjP": "a bare JPEG 2000 file; export DICOM, or PNG of 16 bits",
}


def read(path: str | Path) -> Image:
    """One picture from a file, or a frame of a multi-frame DICOM as ``file.dcm#12``.

    Raises:
        ReadError: no such file, an unknown format, or what the reader of the format refuses.
    """
    file, row = split_address(path)
    existing_file(file)
    kind = _kind(file)
    if kind == "dicom":
        from medfm.formats import radiograph

        return radiograph.read(file, None if row is None else int(row))
    if row is not None:
        raise ReadError(f"{path}: {file.name} holds one picture; drop '#{row}' from its address.")
    if kind is None:
        known = " ".join(sorted(SUFFIXES))
        raise ReadError(f"{path}: {_unknown(file)}; pictures are read from {known}.")
    from medfm.formats import image

    found = image.read(file)
    return found if found.record else dataclasses.replace(found, record=file.stem)


def records(path: str | Path) -> list[str]:
    """``[path]``: a file is one picture. Frames of a multi-frame object are never taken all by themselves."""
    return [str(path)]


def is_candidate(path: str | Path) -> bool:
    """Would a folder scan take this file for a picture? Files without a suffix are looked into."""
    path = Path(path)
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    if _suffix(path) in SUFFIXES:
        return True
    try:
        return _kind(path) == "dicom"  # UIDs as names: the archive's export has dots in them, and no suffix
    except (OSError, ReadError):
        return False


def split_address(path: str | Path) -> tuple[Path, str | None]:
    """``file.dcm#12`` -> file and ``12``; a file whose own name holds a `#` stays whole."""
    file, mark, row = str(path).rpartition("#")
    if not mark or not row.isdigit():
        return Path(path), None
    try:
        whole = Path(path).exists()
    except OSError:
        whole = False
    return (Path(path), None) if whole else (Path(file), row)


def _suffix(path: Path) -> str:
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def _kind(path: Path) -> str | None:
    """The format by its first bytes, by its suffix where they say nothing."""
    suffix = _suffix(path)
    with reading(path, "a file"), path.open("rb") as file:
        head = file.read(352)
    if head[128:132] == b"DICM":
        return "dicom"
    for magic, kind in _MAGIC:
        if head.startswith(magic) and (magic != b"BM" or suffix in (".bmp", ".dib")):
            return kind
    if SUFFIXES.get(suffix) == "nifti" or head[344:348] in (b"n+1\0", b"ni1\0"):
        return "nifti"
    # Without a preamble a data set opens with group 2 or 8, little endian, and a small element number.
    if head[:2] in (b"\x02\x00", b"\x08\x00") and len(head) > 8 and head[3] == 0:
        return "dicom"
    if any(head.startswith(magic) for magic in _OTHERS):
        return None
    return SUFFIXES.get(suffix) if SUFFIXES.get(suffix) != "image" else None


def _unknown(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(16)
    suffix = _suffix(path)
    unknown = (
        f"is no {suffix} file, whatever its name says"
        if suffix in SUFFIXES
        else "its format is not recognised"
    )
    return next((f"is {what}" for magic, what in _OTHERS.items() if head.startswith(magic)), unknown)
