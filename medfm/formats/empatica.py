"""Empatica E4 sessions: the zip that E4 connect gives out, its unpacked folder by its ``BVP.csv``.

A file of a session begins with a row of start times (Unix s, one a column) and a row of sampling rates (Hz); samples
follow. The pulse wave (BVP, 64 Hz, nW) sets the grid; acceleration (ACC, 32 Hz, 1/64 g) is brought to it.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable
from io import StringIO
from pathlib import Path, PurePosixPath

import numpy as np

from medfm.formats.base import build, check_size, checked_rate, existing_file, reading
from medfm.types import Finding, ReadError, Signal

PARTS = ("bvp", "acc", "eda", "temp", "hr", "ibi")
MAX_BYTES = 2_000_000_000
ACC_UNIT = 1 / 64  # g
EPOCH = (1e9, 4e9)  # Unix seconds that a recorder's clock may show


def is_session(path: Path) -> bool:
    """Is this zip an E4 session?"""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(n).name == "BVP.csv" for n in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def part(path: Path, head: bytes) -> str | None:
    """Which file of an unpacked session this is (``bvp``, ``acc``, ...), by name and first rows; None: of none."""
    if (name := path.stem.lower()) not in PARTS:
        return None
    try:
        cell = head.split(b"\n", 1)[0].split(b",")[0]
        return name if EPOCH[0] < float(cell) < EPOCH[1] else None
    except ValueError:
        return None


def read(path: str | Path) -> Signal:
    """One session: channels BVP and, where it was recorded, ACC_X, ACC_Y, ACC_Z in g, at the rate of BVP.

    Raises:
        ReadError: a damaged zip, no BVP in it, more than one session, or a file that is not of an E4.
    """
    path = existing_file(path)
    with reading(path, "an Empatica E4 session", "Download the session from E4 connect again."):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _session(path, lambda name: _member(path, archive, name))
        return _session(path, lambda name: _beside(path, name))


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> str | None:
    found = [m for m in archive.infolist() if PurePosixPath(m.filename).name == name]
    if len(found) > 1:
        raise ReadError(f"{path}: holds {len(found)} sessions; unpack it and give the folder.")
    if not found:
        return None
    if found[0].file_size > MAX_BYTES:
        raise ReadError(
            f"{path}: its {name} unpacks to more than {MAX_BYTES / 1e9:g} GB; unpack it and check it."
        )
    return archive.read(found[0]).decode("utf-8-sig")


def _beside(path: Path, name: str) -> str | None:
    file = path.with_name(name)
    return file.read_text(encoding="utf-8-sig") if file.is_file() and file.stat().st_size else None


def _session(path: Path, text_of: Callable[[str], str | None]) -> Signal:
    text = text_of("BVP.csv")
    if not text:
        raise ReadError(f"{path}: holds no BVP.csv with samples; without a pulse wave nothing of it is read.")
    start, fs, bvp = _columns(path, "BVP.csv", text)
    rows, names, units, findings = [bvp[0]], ["BVP"], ["nW"], []
    if text := text_of("ACC.csv"):
        begin, rate, acc = _columns(path, "ACC.csv", text)
        if len(acc) != 3:
            raise ReadError(
                f"{path}: its ACC.csv has {len(acc)} columns and not three axes; download it again."
            )
        at = (np.arange(len(bvp[0])) / fs + start - begin) * rate
        grid = np.arange(acc.shape[1])
        rows += [np.interp(at, grid, axis * ACC_UNIT, left=np.nan, right=np.nan) for axis in acc]
        names, units = [*names, "ACC_X", "ACC_Y", "ACC_Z"], [*units, "g", "g", "g"]
        message = f"acceleration brought from {rate:g} Hz to the {fs:g} Hz of the pulse wave."
        findings.append(Finding("resampled-channel", message, "info"))
    record = path.stem if path.stem.lower() != "bvp" else path.parent.name
    return build(
        path, "empatica-e4", np.stack(rows), fs, names, units, record=record,
        meta={"start": start}, findings=findings,
    )  # fmt: skip


def _columns(path: Path, name: str, text: str) -> tuple[float, float, np.ndarray]:
    """Start (Unix s), rate (Hz) and samples ``[C, T]`` of one file."""
    head = list(csv.reader(StringIO(text[:1000])))[:2]
    if len(head) < 2 or len(head[0]) != len(head[1]):
        raise ReadError(f"{path}: its {name} does not begin with a start time and a rate; download it again.")
    start, fs = float(head[0][0]), checked_rate(path, head[1][0])
    if not EPOCH[0] < start < EPOCH[1] or fs > 1000 or len(set(map(float, head[1]))) > 1:
        raise ReadError(
            f"{path}: its {name} begins with {head[0][0]} and {head[1][0]}: no start time and rate of an E4."
        )
    rows = text.rstrip().count("\n") - 1
    if rows < 1:
        raise ReadError(f"{path}: its {name} holds no samples; download the session again.")
    check_size(path, rows * len(head[0]))
    return start, fs, np.loadtxt(StringIO(text), delimiter=",", skiprows=2, ndmin=2, dtype=np.float64).T
