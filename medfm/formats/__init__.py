"""File formats: bytes <-> array + geometry, units and identity. One module a format; nothing is interpreted
here.

:func:`read` finds the format from the content and returns a :class:`~medfm.types.Signal`. A record inside a
container has an address such as ``exams.hdf5#17``. Every failure is a :class:`~medfm.types.ReadError`
sentence.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

from medfm.formats.base import checked_rate, existing_file, reading, window
from medfm.formats.refusals import REFUSED, refuse
from medfm.formats.sniff import SUFFIXES, sniff
from medfm.types import ReadError, Signal

__all__ = ["SUFFIXES", "is_candidate", "read", "records"]

# format: module, and which of the arguments of `read` its reader takes itself
READERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "wfdb": ("medfm.formats.wfdb", ("start", "stop")),
    "edf": ("medfm.formats.edf", ("start", "stop")),
    "dicom": ("medfm.formats.dicom", ()),
    "ecg_xml": ("medfm.formats.ecg_xml", ()),
    "table": ("medfm.formats.table", ("fs",)),
    "arrays": ("medfm.formats.arrays", ("row", "fs")),
    "hdf5": ("medfm.formats.hdf5", ("row", "fs")),
    "kardia": ("medfm.formats.kardia", ()),
    "empatica": ("medfm.formats.empatica", ()),
    "vitaldb": ("medfm.formats.vitaldb", ()),
    "wearable_arrays": ("medfm.formats.wearable_arrays", ("fs",)),
    "wearable_csv": ("medfm.formats.wearable_csv", ("fs",)),
}


def read(path: str | Path, fs: float | None = None, start: float = 0.0, stop: float | None = None) -> Signal:
    """Read one record: a file, a WFDB record with or without ``.hea``, or a container's ``file.h5#17``.

    Args:
        path: the record's address. fs: sampling rate in Hz for formats that state none (arrays, tables
        without a time column); where a file
            states its own, the two must agree.
        start, stop: read only these seconds. WFDB and EDF decode nothing else, so a Holter need not fit into
        memory.

    Raises:
        ReadError: no such file, an unknown or refused format, a damaged file, or a sampling rate that is
        missing or
            contradicts the file's.
    """
    file, row = split_address(path)
    if fs is not None:
        fs = checked_rate(file, fs)
    name = _format(file)
    module, takes = READERS[name]
    offered: dict[str, Any] = {"row": row, "fs": fs, "start": start, "stop": stop}
    if row is not None and "row" not in takes:
        raise ReadError(f"{path}: {file.name} holds one record; drop '#{row}' from its address.")
    signal: Signal = importlib.import_module(module).read(file, **{k: offered[k] for k in takes})
    if fs is not None and abs(signal.fs - fs) > 0.01 * fs:
        raise ReadError(
            f"{path}: states {signal.fs:g} Hz, and {fs:g} Hz were given (the table's 'fs' column?); "
            "correct or drop it."
        )
    if "start" not in takes and (start > 0 or stop is not None):
        first, last = window(file, signal.x.shape[1], signal.fs, start, stop)
        signal = dataclasses.replace(signal, x=signal.x[:, first:last].copy())
    return signal


def records(path: str | Path) -> list[str]:
    """Addresses of the records in a file: ``[path]``, or ``file.h5#0``, ``file.h5#1``, ... of a container."""
    file, row = split_address(path)
    name = _format(file)
    if row is not None or name not in ("hdf5", "arrays"):
        return [str(path)]
    found = importlib.import_module(READERS[name][0]).records(file)
    if isinstance(found, int):
        return [str(path)] if found <= 1 else [f"{path}#{i}" for i in range(found)]
    return [f"{path}#{i}" for i in found] if found else [str(path)]


def is_candidate(path: str | Path) -> bool:
    """Would a folder scan take this file for one record, or one container of records?

    A header counts and its data files do not; a segment counts inside its multi-segment record only; layout
    headers, sidecars, tables of records and pictures do not count. SCP-ECG, ISHNE and PDF files do, so that a
    scan names them.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.name.startswith(".") or not path.is_file():
        return False
    if suffix == ".hea":
        from medfm.formats.wfdb_header import segments_in

        return not path.stem.endswith("_layout") and path.stem not in segments_in(path.parent)
    if suffix in (".mat", ".dat", ".edf") and path.with_suffix(".hea").is_file():
        return False
    try:
        return _holds_signal(path, suffix)
    except OSError:  # a file that may not be opened is reported when it is read
        return True


def _holds_signal(path: Path, suffix: str) -> bool:
    name = sniff(path) if suffix in SUFFIXES or not suffix else None
    if not suffix:
        return name in ("dicom", "edf", "hdf5")
    if name == "table":
        from medfm.formats.table import looks_like_signal

        return looks_like_signal(path)
    if suffix == ".json":
        with path.open("rb") as file:
            return b'"samples"' in file.read(65_536)
    return name in READERS or name in ("scp", "ishne", "pdf")


def split_address(path: str | Path) -> tuple[Path, str | None]:
    """``file.h5#17`` -> file and ``17``; a file whose own name holds a `#` stays whole."""
    whole = Path(path)
    text = str(path)
    file, mark, row = text.rpartition("#")
    if not mark or _exists(whole) or not _exists(Path(file)):
        return whole, None
    return Path(file), row


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a NUL byte: the reader says so in its sentence
        return False


def _format(path: Path) -> str:
    """Format of a record's address, refused formats refused."""
    suffix = path.suffix.lower()
    if (
        not _exists(path)
        or suffix in (".hea", ".dat")
        or (suffix == ".mat" and path.with_suffix(".hea").is_file())
    ):
        from medfm.formats.wfdb_header import header_path

        if suffix in (".hea", ".dat", ".mat") or _exists(path.with_name(path.name + ".hea")):
            header_path(path)  # raises the sentence where the header is missing
            return "wfdb"
    existing_file(path)
    with reading(path, "a file"):
        name = sniff(path)
    if name is None:
        known = " ".join(s for s, f in SUFFIXES.items() if f in READERS)
        raise ReadError(f"{path}: its format is not recognised; signals are read from {known}.")
    if name in REFUSED:
        refuse(path, name)
    return name
