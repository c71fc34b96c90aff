"""Bare arrays: which axis is the channels, and what a `.json` sidecar says of an array that cannot say it
itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medfm.formats.base import CHANNEL_KEYS, FS_KEYS, UNIT_KEYS
from medfm.types import Finding, ReadError

MAX_CHANNELS = 64


@dataclass(frozen=True)
class Sidecar:
    """Facts that stand beside an array: ``{"fs": 500, "channels": ["I", ...], "units": "mV", "patient":
    "17"}``.
    """

    fs: float | None = None
    channels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    patient: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def names(value: Any) -> tuple[str, ...]:
    """Names from a list, an array or one comma-separated string."""
    if value is None:
        return ()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        value = value.split(",")
    return tuple(
        (v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v)).strip()
        for v in np.ravel(value).tolist()
    )


def first(mapping: dict[str, Any], keys: tuple[str, ...]) -> Any:
    """The value of the first of these keys, whatever its case."""
    lower = {str(k).lower(): v for k, v in mapping.items()}
    return next((lower[k] for k in keys if lower.get(k) is not None), None)


def sidecar(path: Path) -> Sidecar:
    """``record.json`` (or ``record.npy.json``) beside ``record.npy``; an empty one if there is none."""
    for beside in (path.with_suffix(".json"), path.with_name(path.name + ".json")):
        if beside.is_file() and beside != path:
            break
    else:
        return Sidecar()
    try:
        facts = json.loads(beside.read_text(encoding="utf-8-sig"))
        if not isinstance(facts, dict):
            raise ValueError("not an object")
        fs = first(facts, FS_KEYS)
        return Sidecar(
            fs=None if fs is None else float(fs),
            channels=names(first(facts, CHANNEL_KEYS)),
            units=names(first(facts, UNIT_KEYS)),
            patient=str(facts["patient"]) if facts.get("patient") is not None else None,
            meta={k: facts[k] for k in ("age", "sex") if k in facts},
        )
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ReadError(
            f'{beside}: the sidecar is not JSON of the form {{"fs": 500, "channels": ["I", "II"]}} ({error}).'
        ) from error


def orient(path: Path, array: np.ndarray, channels: int = 0) -> np.ndarray:
    """``[C, T]`` from a vector, ``[C, T]`` or ``[T, C]``.

    Named channels decide; otherwise the shorter axis is the channels, since a record has more samples than
    leads.
    """
    if array.dtype.kind not in "fiub":
        raise ReadError(f"{path}: holds {array.dtype} values, not numbers; save it as float32 or int16.")
    if array.ndim == 1:
        return array[None, :]
    if array.ndim != 2:
        raise ReadError(
            f"{path}: an array of shape {array.shape} is no record; save it as [channels, samples]."
        )
    rows, columns = array.shape
    if channels and (rows == channels) != (columns == channels):
        return array if rows == channels else array.T
    if channels and rows != channels:
        raise ReadError(f"{path}: {channels} channel names stand beside an array of shape {array.shape}.")
    if min(rows, columns) > MAX_CHANNELS:
        raise ReadError(
            f"{path}: in an array of shape {array.shape} neither axis can be the channels; "
            "save many records as [records, channels, samples]."
        )
    return array if rows <= columns else array.T


def name_channels(
    count: int, channels: tuple[str, ...], units: tuple[str, ...]
) -> tuple[Any, Any, list[Finding]]:
    """Channel names and units of an array: empty strings where nothing states them, with a finding that says
    so.
    """
    findings = []
    if len(channels) != count:
        channels = ("",) * count
        text = "the array names no channels; only position tells them apart (a .json sidecar can name them)."
        findings.append(Finding("unnamed-channels", text, "warning"))
    if len(units) == 1:
        units = units * count
    if len(units) != count:
        units = ("",) * count
    return channels, units, findings
