"""Which format a file is: its first bytes first, its suffix where the content says nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path

from medfm.formats.refusals import recognise

SUFFIXES: dict[str, str] = {
    ".hea": "wfdb",
    ".edf": "edf",
    ".bdf": "edf",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".xml": "ecg_xml",
    ".csv": "table",
    ".tsv": "table",
    ".txt": "table",
    ".parquet": "table",
    ".npy": "arrays",
    ".npz": "arrays",
    ".mat": "arrays",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".atc": "kardia",
    ".json": "kardia",
    ".scp": "scp",
    ".ecg": "ishne",
    ".pdf": "pdf",
}
"""Suffix to format. `scp`, `ishne` and `pdf` are recognised and refused with what to export instead."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (128, b"DICM", "dicom"),
    (0, b"\x93NUMPY", "arrays"),
    (0, b"PAR1", "table"),
    (0, b"ALIVE\0\0\0", "kardia"),
    (0, b"0       ", "edf"),
    (0, b"\xffBIOSEMI", "edf"),
    (0, b"MATLAB 7.3", "hdf5"),
    (0, b"MATLAB 5", "arrays"),
)
_HDF5 = b"\x89HDF\r\n\x1a\n"


def sniff(path: Path) -> str | None:
    """Name of the format of an existing file, of a refused one too; None where neither content nor suffix
    tells.
    """
    with path.open("rb") as file:
        head = file.read(1024)
        if head.startswith(_HDF5) or (len(head) > 512 and head[512:].startswith(_HDF5)):
            return "hdf5"
    suffix = path.suffix.lower()
    for at, magic, name in _MAGIC:
        if head[at:].startswith(magic):
            return name
    if head.startswith(b"PK\x03\x04"):
        return (
            "arrays"
            if suffix == ".npz" or _holds_arrays(path)
            else "office"
            if suffix in (".xlsx", ".ods")
            else "archive"
        )
    if refused := recognise(head, suffix):
        return refused
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"<?xml", b"<")) or head.startswith((b"\xff\xfe<\x00", b"\xfe\xff\x00<")):
        return "ecg_xml"
    return SUFFIXES.get(suffix)


def _holds_arrays(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            members = file.namelist()
    except (
        zipfile.BadZipFile,
        OSError,
        ValueError,
        NotImplementedError,
    ):  # a damaged archive is not an .npz either
        return False
    return bool(members) and all(m.endswith(".npy") for m in members)
