"""Which format a file is: its first bytes first, its suffix where the content says nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path

from medfm.formats import empatica, wearable_arrays, wearable_csv
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
    ".zip": "empatica",
    ".vital": "vitaldb",
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
    name = _sniff(path)
    if name in ("arrays", "hdf5") and wearable_arrays.recognise(path, name):
        return "wearable_arrays"
    return name


def _sniff(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(1024)
        if head.startswith(_HDF5) or (len(head) > 512 and head[512:].startswith(_HDF5)):
            return "hdf5"
    suffix = path.suffix.lower()
    if (suffix in (".csv", ".tsv", ".txt") or head.startswith(b"PAR1")) and wearable_csv.recognise(
        path, head
    ):
        return "wearable_csv"
    if suffix == ".csv" and (part := empatica.part(path, head)):
        return "empatica" if part == "bvp" else None
    if suffix == ".vital" and head.startswith(b"\x1f\x8b"):
        return "vitaldb"
    for at, magic, name in _MAGIC:
        if head[at:].startswith(magic):
            return name
    if head.startswith(b"PK\x03\x04"):
        return (
            "arrays"
            if suffix == ".npz" or _holds_arrays(path)
            else "office"
            if suffix in (".xlsx", ".ods")
            else "empatica"
            if empatica.is_session(path)
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
