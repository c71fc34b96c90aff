"""HDF5: CODE-15 % files of many records, MATLAB v7.3, and data sets with attributes. Opened lazily, row by
row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from medfm.formats.arrays import SIGNAL_KEYS, make
from medfm.formats.base import CHANNEL_KEYS, FS_KEYS, UNIT_KEYS, build, check_size, existing_file, reading
from medfm.formats.layout import Sidecar, sidecar
from medfm.types import Finding, ReadError, Signal

CODE_FS = 400.0
CODE_MILLIVOLTS = 0.5
"""The authors' preprocessing (github.com/antonior92/ecg-preprocessing, README: CODE-15 % with ``--scale 2``)
doubled the millivolts. Their older README says 1e-4 V; the published deviations by lead (.37 to .72) would then be a
fifth of those of every other large data set, and with 0.5 mV they agree."""
CODE_LEADS = ("DI", "DII", "DIII", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")


def records(path: Path) -> list[str]:
    """Addresses of the records inside: row numbers of one 3-D data set, or the names of several 2-D ones."""
    with _open(path) as file:
        if _is_code(file):
            return [str(i) for i in range(file["tracings"].shape[0])]
        found = _signals(path, file)
        if len(found) == 1:
            shape = next(iter(found.values())).shape
            return [str(i) for i in range(shape[0])] if len(shape) == 3 else []
        return list(found)


def exam_ids(path: str | Path) -> list[str]:
    """Ids of a CODE file's exams in row order: exam ``ids[i]`` is the record ``file.hdf5#i``."""
    path = existing_file(path)
    with _open(path) as file:
        if "exam_id" not in file:
            raise ReadError(f"{path}: has no data set 'exam_id', so its exams cannot be told apart.")
        found = np.ravel(file["exam_id"][()]).tolist()
    return [ident.decode("ascii", "replace") if isinstance(ident, bytes) else str(ident) for ident in found]


def read(path: str | Path, row: str | None = None, fs: float | None = None) -> Signal:
    """One record of an HDF5 file; ``row`` is its number or the name of its data set, ``fs`` (Hz) where none
    is stated.

    CODE-15 % (``tracings [N, 4096, 12]`` with ``exam_id``): 400 Hz, 0.5 mV a unit, returned in mV, and the
    zeros that pad both ends are cut off.

    Raises:
        ReadError: several records and no row, no sampling rate known, an empty row, a damaged file.
    """
    path = existing_file(path)
    with _open(path) as file:
        beside = sidecar(path)
        if _is_code(file):
            return _code(path, file, row, beside)
        found = _signals(path, file)
        if row in found:
            name, row = str(row), None
        elif len(found) == 1:
            name = next(iter(found))
        else:
            raise ReadError(
                f"{path}: holds {len(found)} records ({', '.join(list(found)[:5])}); name one after '#'."
            )
        data = found[name]
        facts = {**_facts(file), **_facts(data.parent), **_attributes(data)}
        if data.ndim == 3:
            check_size(path, math.prod(data.shape[1:]))
            return make(path, "hdf5", _Lazy(data), facts, beside, row, fs)
        check_size(path, math.prod(data.shape))
        return make(path, "hdf5", np.squeeze(data[()]), facts, beside, row, fs)


class _Lazy:
    """A data set of which only the row that is asked for is read."""

    ndim = 3

    def __init__(self, data: Any) -> None:
        self.data, self.shape = data, data.shape

    def __getitem__(self, index: int) -> np.ndarray:
        return self.data[index]


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    import h5py

    with reading(path, "HDF5", "Copy or export it again."), h5py.File(path, "r") as file:
        yield file


def _is_code(file: Any) -> bool:
    tracings = file.get("tracings")
    return getattr(tracings, "shape", ())[2:] == (12,) and "exam_id" in file


def _code(path: Path, file: Any, row: str | None, beside: Sidecar) -> Signal:
    tracings, exams = file["tracings"], file["exam_id"]
    if row is None and tracings.shape[0] == 1:
        row = "0"
    if row is None or not row.isdigit() or int(row) >= tracings.shape[0]:
        count = tracings.shape[0]
        raise ReadError(
            f"{path}: holds {count} exams; name one as '{path.name}#0' to '{path.name}#{count - 1}'."
        )
    check_size(path, math.prod(tracings.shape[1:]))
    x = np.asarray(tracings[int(row)], dtype=np.float32).T
    used = np.flatnonzero(np.any(x != 0, axis=0))
    if not used.size:
        raise ReadError(f"{path}#{row}: this exam holds zeros only; leave it out.")
    x = x[:, used[0] : used[-1] + 1]
    exam = np.ravel(exams[int(row)])[0] if int(row) < exams.shape[0] else row
    record = exam.decode("ascii", "replace") if isinstance(exam, bytes) else str(exam)
    unit, scale = "mV", CODE_MILLIVOLTS
    if beside.units:  # the published scale is disputed: a site that measured it otherwise can say so
        unit, scale = beside.units[0], 1.0
    text = "0.5 mV a unit was applied, as the authors made CODE-15; descriptions differ: compare amplitudes."
    findings = [] if beside.units else [Finding("documented-scale", text, "info")]
    return build(
        path,
        "hdf5",
        x * scale,
        CODE_FS,
        CODE_LEADS,
        (unit,) * 12,
        record=record,
        patient=beside.patient,
        findings=findings,
    )


def _signals(path: Path, file: Any) -> dict[str, Any]:
    """Numeric data sets of one, two or three axes that can be a record, by name; a known name goes before
    others.
    """
    import h5py

    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if (
            isinstance(item, h5py.Dataset)
            and item.dtype.kind in "fiu"
            and 1 <= item.ndim <= 3
            and item.size > 16
        ):
            found[name] = item

    file.visititems(visit)
    plain = (*FS_KEYS, *CHANNEL_KEYS, *UNIT_KEYS, "exam_id", "id_exam", "age", "time", "t")
    found = {
        k: v for k, v in found.items() if k.rsplit("/", 1)[-1].lower() not in plain and not k.startswith("#")
    }
    known = {k: v for k, v in found.items() if k.rsplit("/", 1)[-1].lower() in SIGNAL_KEYS}
    if not found:
        raise ReadError(f"{path}: holds no data set of samples; save one as [channels, samples].")
    wide = {k: v for k, v in found.items() if v.ndim >= 2}
    return known or wide or found


def _attributes(item: Any) -> dict[str, Any]:
    return {
        str(k): item.attrs[k] for k in item.attrs if str(k).lower() in (*FS_KEYS, *CHANNEL_KEYS, *UNIT_KEYS)
    }


def _facts(group: Any) -> dict[str, Any]:
    """What a group states of its records, in attributes or in small data sets beside them."""
    facts = _attributes(group)
    for key in group:
        if str(key).lower() in (*FS_KEYS, *CHANNEL_KEYS, *UNIT_KEYS):
            item = group.get(key)
            if getattr(item, "size", 0) and item.size <= 256:
                facts[str(key)] = item[()]
    return facts
