"""NumPy (.npy, .npz) and MATLAB v5 (.mat) arrays. Pickled objects are never loaded.

A ``.npy`` of shape ``[N, C, T]`` is N records, ``file.npy#17`` one of them. An ``.npz`` or ``.mat`` may name
its sampling rate (``fs``), channels and units beside the signal; a plain array takes them from a ``.json``
sidecar.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from medfm.formats.base import (
    CHANNEL_KEYS,
    FS_KEYS,
    UNIT_KEYS,
    build,
    check_size,
    existing_file,
    missing_rate,
    reading,
)
from medfm.formats.layout import Sidecar, first, name_channels, names, orient, sidecar
from medfm.types import ReadError, Signal

SIGNAL_KEYS = (
    "x",
    "ecg",
    "signal",
    "signals",
    "val",
    "data",
    "tracings",
    "tracing",
    "p_signal",
    "feats",
    "waveform",
    "ppg",
)


def records(path: Path) -> int:
    """How many records the file holds: the length of a three-dimensional array, else 1."""
    with reading(path, "an array file"):
        shape = _header_shape(path)
        return int(shape[0]) if len(shape) == 3 else 1


def read(path: str | Path, row: str | None = None, fs: float | None = None) -> Signal:
    """One record of an array file. ``row`` selects it where there are many; ``fs`` (Hz) where the file states
    none.

    Raises:
        ReadError: no sampling rate known, object (pickled) arrays, several records and no row, a damaged
        file.
    """
    path = existing_file(path)
    with reading(path, "an array file", "Save it again with numpy.save or numpy.savez."):
        beside = sidecar(path)
        if path.suffix.lower() == ".mat" or _magic(path, 6) == b"MATLAB":
            array, facts = _matlab(path)
        elif _magic(path, 2) == b"PK":
            array, facts = _npz(path)
        else:
            array, facts = _npy(path), {}
        return make(path, "array", array, facts, beside, row, fs)


def make(
    path: Path,
    format: str,
    array: Any,
    facts: dict[str, Any],
    beside: Sidecar,
    row: str | None,
    fs: float | None,
) -> Signal:
    """A Signal from an array of one or (``row``) many records, and what the file and its sidecar state."""
    record = path.stem
    if array.ndim == 3:
        index = _row(path, row, array.shape[0])
        array, record = np.asarray(array[index]), f"{path.stem}-{index}"
    elif row is not None and row != "0":
        raise ReadError(f"{path}: holds one record; drop '#{row}' from its address.")
    channels = names(first(facts, CHANNEL_KEYS)) or beside.channels
    x = orient(path, np.asarray(array), len(channels))
    rate = _scalar(first(facts, FS_KEYS)) or beside.fs or fs
    if rate is None:
        raise missing_rate(path, "the array")
    units = names(first(facts, UNIT_KEYS)) or beside.units
    channels, units, findings = name_channels(x.shape[0], channels, units)
    meta: dict[str, Any] = {k: facts[k] for k in ("age", "sex") if k in facts}
    meta |= beside.meta
    return build(
        path,
        format,
        x,
        rate,
        channels,
        units,
        record=record,
        patient=beside.patient,
        meta=meta,
        findings=findings,
    )


def _row(path: Path, row: str | None, count: int) -> int:
    if row is None and count == 1:
        return 0
    if row is None:
        raise ReadError(
            f"{path}: holds {count} records; name one as '{path.name}#0' to '{path.name}#{count - 1}'."
        )
    if not row.isdigit() or int(row) >= count:
        raise ReadError(f"{path}: holds {count} records, numbered from 0; there is no '#{row}'.")
    return int(row)


def _scalar(value: Any) -> float | None:
    """A sampling rate from whatever a file wraps it in; None where it is no single number."""
    try:
        array = np.ravel(np.asarray([] if value is None else value, dtype=float))
    except (TypeError, ValueError):
        return None
    return float(array[0]) if array.size == 1 else None


def _magic(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _header_shape(path: Path) -> tuple[int, ...]:
    """Shape of the signal without loading it."""
    if path.suffix.lower() == ".mat":
        return ()
    if _magic(path, 2) == b"PK":
        with zipfile.ZipFile(path) as file:
            return _member(path, file, _pick(path, [n.removesuffix(".npy") for n in file.namelist()]))[0]
    with path.open("rb") as stream:
        return _npy_header(path, stream)[0]


def _npy_header(path: Path, stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(stream)
    if dtype.hasobject or dtype.names:
        raise ReadError(
            f"{path}: holds Python objects or a structured array, which is not read; save plain float32."
        )
    return shape, dtype


def _npy(path: Path) -> np.ndarray:
    """The array mapped, not loaded: a row of many costs only itself."""
    with path.open("rb") as stream:
        shape, dtype = _npy_header(path, stream)
        held = path.stat().st_size - stream.tell()
    needed = math.prod(shape) * dtype.itemsize
    if held < needed:
        raise ReadError(f"{path}: is truncated, it holds {held} of {needed} bytes; copy it again.")
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _pick(path: Path, keys: list[str]) -> str:
    """The key of the signal among those of an .npz or .mat."""
    lower = {k.lower(): k for k in keys}
    for key in SIGNAL_KEYS:
        if key in lower:
            return lower[key]
    rest = [k for k in keys if k.lower() not in (*FS_KEYS, *CHANNEL_KEYS, *UNIT_KEYS, "age", "sex")]
    if len(rest) == 1:
        return rest[0]
    raise ReadError(f"{path}: which of {', '.join(keys[:8]) or 'no arrays'} is the signal? Name it 'x'.")


def _member(path: Path, file: zipfile.ZipFile, key: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of one member; what its header promises must be what the archive holds."""
    name = f"{key}.npy" if f"{key}.npy" in file.namelist() else key
    with file.open(name) as stream:
        shape, dtype = _npy_header(path, stream)
        header = stream.tell()
    needed = math.prod(shape) * dtype.itemsize
    if file.getinfo(name).file_size - header < needed:
        raise ReadError(f"{path}: its array {key} is truncated; save it again.")
    check_size(path, math.prod(shape))
    return shape, dtype


def _npz(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    with zipfile.ZipFile(path) as file:
        keys = [n.removesuffix(".npy") for n in file.namelist()]
        signal = _pick(path, keys)
        wanted = [
            signal,
            *(k for k in keys if k.lower() in (*FS_KEYS, *CHANNEL_KEYS, *UNIT_KEYS, "age", "sex")),
        ]
        for key in wanted:
            _member(path, file, key)
    with np.load(path, allow_pickle=False) as arrays:
        facts = {k: arrays[k] for k in wanted[1:]}
        for key in ("age", "sex"):
            if key in facts:
                facts[key] = facts[key].item() if facts[key].size == 1 else str(facts[key])
        return arrays[signal], facts


def _matlab(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """MATLAB v4 to v7: a matrix, or a struct with the matrix in a field (CPSC 2018: ``ECG.data``)."""
    from scipy.io import loadmat, whosmat

    contents = {name: shape for name, shape, _ in whosmat(path)}
    for shape in contents.values():
        check_size(path, math.prod(shape))
    loaded = {k: v for k, v in loadmat(path, variable_names=list(contents)).items() if not k.startswith("__")}
    numeric = {k: v for k, v in loaded.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fiub"}
    structs = {k: v for k, v in loaded.items() if isinstance(v, np.ndarray) and v.dtype.names and v.size == 1}
    for struct in structs.values():
        for field in struct.dtype.names or ():
            value = struct[field].ravel()[0]
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiubU":
                numeric.setdefault(field, value)
    facts = {k: v for k, v in {**loaded, **numeric}.items() if k not in structs}
    for key in ("age", "sex"):
        if key in facts:
            facts[key] = np.ravel(facts[key]).tolist()[0] if np.size(facts[key]) else None
    for key, value in facts.items():
        if key.lower() in (*CHANNEL_KEYS, *UNIT_KEYS):
            facts[key] = [str(np.ravel(v)[0]) if np.size(v) else "" for v in np.ravel(value)]
    signals = {k: v for k, v in numeric.items() if v.dtype.kind != "U" and v.ndim in (2, 3) and v.size > 16}
    if not signals:
        raise ReadError(f"{path}: holds no matrix of samples ({', '.join(contents) or 'no variables'}).")
    return np.squeeze(signals[_pick(path, list(signals))]), facts
