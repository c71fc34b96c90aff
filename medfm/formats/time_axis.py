"""The sampling rate that a time column implies, and where rows are missing from it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from medfm.formats.base import check_size
from medfm.types import Finding, ReadError

_TIME = re.compile(
    r"^(time|t|timer?|timestamps?|elapsed( ?time)?|datetime|date|zeit|temps|tiempo|seconds|secs?|msecs?|ms)$"
)
_INDEX = re.compile(r"^(index|sample( ?#| ?no\.?| ?number)?|samples|frame|row|n|no\.?|nr\.?|#|)$")
_UNIT = {
    "s": 1.0,
    "sec": 1.0,
    "secs": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "ms": 1e-3,
    "msec": 1e-3,
    "msecs": 1e-3,
    "millisecond": 1e-3,
    "milliseconds": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "microseconds": 1e-6,
    "ns": 1e-9,
    "min": 60.0,
}


def is_time(name: str) -> bool:
    """Is a column of this name (unit removed) a time axis?"""
    return bool(_TIME.match(re.sub(r"[\s_]+", " ", name.strip().lower()))) or is_combined(name)


def is_combined(name: str) -> bool:
    """``time_ms`` and ``timestamp_s``: name and unit in one word."""
    return bool(
        re.match(r"^(time|timestamp|t|timer)[\s_]+(s|sec|secs|seconds|ms|msec|us)$", name.strip().lower())
    )


def is_index(name: str) -> bool:
    """Is a column of this name a running number of samples?"""
    return bool(_INDEX.match(re.sub(r"[\s_]+", " ", name.strip().lower())))


def seconds(path: Path, name: str, unit: str, column: pd.Series) -> tuple[np.ndarray, list[Finding]]:
    """The time column in seconds. Dates are parsed; a unit that nothing states is inferred from the step.

    Raises:
        ReadError: the column is no time, or its unit cannot be told.
    """
    findings: list[Finding] = []
    values = pd.to_numeric(column, errors="coerce")
    if values.isna().all():
        stamps = pd.to_datetime(column, errors="coerce", format="mixed")
        if stamps.isna().all():
            stamps = pd.to_timedelta(column, errors="coerce")
        if stamps.isna().mean() > 0.01:
            raise ReadError(
                f"{path}: its time column {name!r} holds neither numbers nor dates; give seconds."
            )
        nanoseconds = stamps.astype("int64").to_numpy()
        per_second = {"ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1.0}[np.datetime_data(stamps.to_numpy().dtype)[0]]
        return (nanoseconds - nanoseconds[0]) / per_second, findings
    t = values.to_numpy(dtype=np.float64)
    stated = unit or name.strip().lower().split("_")[-1].split(" ")[-1]
    if stated.lower() in _UNIT:
        return t * _UNIT[stated.lower()], findings
    step = float(np.nanmedian(np.diff(t))) if len(t) > 1 else 0.0
    if step < 0.5:
        return t, findings
    if step == 1:
        raise ReadError(
            f"{path}: its time column {name!r} counts in ones and states no unit; name it 'time (ms)' or "
            "'sample', or give the sampling rate in the table's 'fs' column."
        )
    assumed = 1e-3 if step <= 100 else 1e-6 if step <= 100_000 else 1e-9
    word = {1e-3: "milliseconds", 1e-6: "microseconds", 1e-9: "nanoseconds"}[assumed]
    message = f"the time column {name!r} states no unit; {word} were assumed."
    findings.append(Finding("assumed-time-unit", message, "warning"))
    return t * assumed, findings


def regular(path: Path, t: np.ndarray, x: np.ndarray) -> tuple[float, np.ndarray, list[Finding]]:
    """Sampling rate (Hz) and ``x [C, T]`` on a regular grid: rows missing from the file become NaN.

    The rate is that of the whole span, not of one rounded step (0.002, 0.003, 0.003 s is 360 Hz), and a whole
    number where the file's own rounding allows it.

    Raises:
        ReadError: fewer than two rows, time that does not run forward, or gaps beyond reason.
    """
    if len(t) < 2:
        raise ReadError(
            f"{path}: one row of time implies no sampling rate; give it in the table's 'fs' column."
        )
    steps = np.diff(t)
    typical = float(np.median(steps))
    if not np.isfinite(steps).all() or (steps < 0).any() or (typical <= 0 and t[-1] <= t[0]):
        raise ReadError(
            f"{path}: its time column does not run forward or has blanks; sort the rows and fill it."
        )
    positive = steps[steps > 0]
    quantum = _quantum(t)
    usual = steps <= max(1.8 * typical, typical + 1.5 * quantum, positive.min() if len(positive) else 0)
    step = float(steps[usual].mean())
    fs = 1.0 / step
    span = float(steps[usual].sum())
    if abs(fs - round(fs)) <= max(2e-4, 2 * quantum / span) * fs and round(fs) > 0:
        fs = float(round(fs))
    jitter = float(np.abs(steps[usual] - step).mean())
    findings: list[Finding] = []
    if jitter > max(0.1 * step, 0.6 * quantum):
        share = jitter / step
        message = (
            f"the rows are unevenly spaced (by {share:.0%} of a sample on average); they were taken as even."
        )
        findings.append(Finding("uneven-time", message, "warning"))
    if usual.all():
        return fs, x, findings
    at = np.zeros(len(t), dtype=np.int64)
    missing = np.where(usual, 1, np.maximum(1, np.round(steps * fs))).astype(np.float64)
    check_size(path, float(missing.sum()) * x.shape[0])
    np.cumsum(missing.astype(np.int64), out=at[1:])
    if at[-1] > 100 * len(t):
        raise ReadError(
            f"{path}: its time column has gaps a hundred times longer than its data; split the recording."
        )
    grid = np.full((x.shape[0], int(at[-1]) + 1), np.nan, dtype=np.float32)
    grid[:, at] = x
    gaps, filled = int((~usual).sum()), int(at[-1] + 1 - len(t))
    message = f"{gaps} gaps in the time column were filled with {filled} missing samples."
    findings.append(Finding("time-gaps", message, "warning"))
    return fs, grid, findings


def _quantum(t: np.ndarray) -> float:
    """The rounding of the time stamps: the smallest power of ten of which all of them are multiples."""
    head = t[: min(len(t), 2000)] - t[0]
    for power in range(10):
        scaled = head * 10.0**power
        if np.abs(scaled - np.round(scaled)).max() < 1e-6 * max(1.0, np.abs(scaled).max()):
            return 10.0**-power
    return 0.0
