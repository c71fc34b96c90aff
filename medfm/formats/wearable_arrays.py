"""Array files of named channels: NPZ, MATLAB v5 and v7.3 with a vector a channel (``ppg``, ``ecg``, ``acc_x``) and ``fs``.

Read here, and not as one bare matrix, are files in which a vector has the name of a channel of light: the names tell the
channels apart. A vector of times (``t``, ``time``, ``timer``) implies the rate where no ``fs`` stands beside it.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from medfm.formats.base import FS_KEYS, build, check_size, existing_file, missing_rate, reading
from medfm.formats.layout import first, sidecar
from medfm.types import Finding, ReadError, Signal

LIGHT = re.compile(
    r"(^|[_/ ])(ppg|bvp|pleth)(?![a-z])|^(green|red|infrared|ir|blue|led[_ ](green|red|ir))$", re.I
)
TIMES = re.compile(r"^(t|times?|timers?|timestamps?|time_?(s|ms|sec))$", re.I)


def recognise(path: Path, kind: str) -> bool:
    """Does an array in this file (kind ``arrays`` or ``hdf5``) have the name of a channel of light, as a vector?"""
    try:
        return any(
            LIGHT.search(_leaf(name)) and _is_vector(shape) for name, shape in _shapes(path, kind).items()
        )
    except Exception:  # a damaged file is reported when it is read
        return False


def read(path: str | Path, fs: float | None = None) -> Signal:
    """The vectors as channels; ``fs`` (Hz) where the file states none and holds no times.

    Raises:
        ReadError: no sampling rate known, no vector, or a damaged file.
    """
    path = existing_file(path)
    with reading(path, "a file of arrays", "Save it again with one vector a channel and fs beside them."):
        kind = "hdf5" if _is_hdf5(path) else "arrays"
        vectors = {k: v for k, v in _shapes(path, kind).items() if _is_vector(v)}
        check_size(path, float(sum(max(shape) for shape in vectors.values())))
        loaded = _load(path, kind, list(_shapes(path, kind)))
        data = {_leaf(k): np.ravel(loaded[k]) for k in vectors if np.asarray(loaded[k]).dtype.kind in "fiub"}
        longest = max((len(v) for k, v in data.items() if LIGHT.search(k)), default=0)
        times = next((k for k, v in data.items() if TIMES.match(k) and len(v) == longest), None)
        channels = {k: v for k, v in data.items() if len(v) == longest and k != times}
        left = [k for k, v in data.items() if len(v) != longest and len(v) > 16]
        findings = []
        if left:
            text = f"left out, as they are longer or shorter than the PPG: {', '.join(left[:8])} (another rate?)."
            findings.append(Finding("mixed-sampling-rates", text, "info"))
        if not channels:
            raise ReadError(f"{path}: holds no vector of samples; save one a channel.")
        x = np.stack(list(channels.values())).astype(np.float64)
        facts = {_leaf(k): v for k, v in loaded.items() if np.size(v) == 1}
        beside = sidecar(path)
        stated = first(facts, FS_KEYS)
        rate = float(np.ravel(stated)[0]) if stated is not None else beside.fs
        if rate is None and times is not None:
            rate, x, more = _by_times(path, times, data[times], x)
            findings += more
        if (rate := rate or fs) is None:
            raise missing_rate(path, "the array")
        meta = {k: v for k, v in ((n, facts.get(n)) for n in ("age", "sex")) if v is not None}
        meta = {k: np.ravel(v)[0].item() if hasattr(np.ravel(v)[0], "item") else v for k, v in meta.items()}
        return build(
            path, "named-arrays", x, rate, list(channels), [""] * len(channels),
            patient=beside.patient, meta=meta | beside.meta, findings=findings,
        )  # fmt: skip


def _by_times(path: Path, name: str, t: np.ndarray, x: np.ndarray) -> tuple[float, np.ndarray, list[Finding]]:
    import pandas as pd

    from medfm.formats.time_axis import seconds
    from medfm.formats.wearable_csv import check_one_unit, even

    check_one_unit(path, name, t.astype(float))
    moments, found = seconds(path, name, "", pd.Series(t))
    fs, x, more = even(path, moments, x)
    return fs, x, [*found, *more]


def _leaf(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _is_vector(shape: tuple[int, ...]) -> bool:
    return len(shape) in (1, 2) and max(shape) > 16 and (len(shape) == 1 or min(shape) == 1)


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(1024)
    mark = b"\x89HDF\r\n\x1a\n"
    return head.startswith(mark) or head[512:].startswith(mark)


def _shapes(path: Path, kind: str) -> dict[str, tuple[int, ...]]:
    """Arrays of numbers in the file and their shapes, without loading them."""
    if kind == "hdf5":
        import h5py

        found: dict[str, tuple[int, ...]] = {}

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiub" and not name.startswith("#"):
                found[name] = item.shape

        with h5py.File(path, "r") as file:
            file.visititems(visit)
        return found
    if zipfile.is_zipfile(path):
        shapes = {}
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as stream:
                    version = np.lib.format.read_magic(stream)
                    header = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = header(stream)
                    if not dtype.hasobject:
                        shapes[member.removesuffix(".npy")] = shape
        return shapes
    if path.suffix.lower() == ".npy":
        return {}
    from scipy.io import whosmat

    return {
        name: shape
        for name, shape, kind in whosmat(path)
        if kind not in ("cell", "struct", "object", "function")
    }


def _load(path: Path, kind: str, names: list[str]) -> dict[str, Any]:
    if kind == "hdf5":
        import h5py

        with h5py.File(path, "r") as file:
            return {k: file[k][()] for k in names} | {str(k): v for k, v in file.attrs.items()}
    if zipfile.is_zipfile(path):
        with np.load(path, allow_pickle=False) as arrays:
            return {k: arrays[k] for k in names}
    from scipy.io import loadmat

    return {k: v for k, v in loadmat(path, variable_names=names).items() if k in names}
