"""Tables that wearables and cameras export: light, acceleration and ECG in columns, with time stamps that are uneven.

Read here and not as a plain table: CSV, TSV and Parquet that name a channel of light (``ppg``, ``bvp``, ``pleth``,
``green``, ``ir``; a camera's ``R,G,B``) and Polar's PPG export (``sensor timestamp [ns];channel 0;...``). A second row of
units is read as units. Samples are brought to even steps by a cubic spline through their stamps; where stamps lie further
apart than 2.5 steps nothing was recorded, and the grid is NaN. Several units in one time column are refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from medfm.formats.base import build, check_size, existing_file, missing_rate, reading
from medfm.formats.layout import first, sidecar
from medfm.types import Finding, ReadError, Signal

LIGHT = re.compile(
    r"\b(ppg|bvp|pleth\w*|photopleth\w*|blood volume pulse)(?![a-z])|^(green|red|blue|infrared|ir|led ?(green|red|ir))$"
    r"|^channel 0$",
    re.I,
)
_NOT_SAMPLES = re.compile(r"rate|quality|sqi|label|id$|path|file|mean|std|amplitude|peak|hr$", re.I)
APART = 2.5  # steps between two stamps, above which nothing was recorded
UNEVEN = 0.02  # mean departure of a stamp from an even grid, in steps, above which samples are moved to it


def recognise(path: Path, head: bytes) -> bool:
    """Does this table (text or Parquet) name a channel of light among columns that are samples?"""
    if head.startswith(b"PAR1"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return _is_wearable(pq.read_schema(path).names)
        except (pa.ArrowException, OSError):  # a damaged file is reported when it is read
            return False
    lines = [v for v in head.decode("utf-8", "replace").lstrip("\ufeff").splitlines() if v and v[0] != "#"]
    return bool(lines) and _is_wearable(re.split(r"[;,\t|]", lines[0]))


def _is_wearable(titles: list[str]) -> bool:
    names = [_bare(t) for t in titles]
    if any(re.search(r"path|file|patient|subject|label|split|record", n, re.I) for n in names):
        return False  # a table of records
    lower = [n.lower() for n in names]
    if {"r", "g", "b"} <= set(lower):
        return True
    return any(LIGHT.search(n.replace("_", " ")) and not _NOT_SAMPLES.search(n) for n in names)


def _bare(title: str) -> str:
    return re.sub(r"\s*[(\[].*?[)\]]\s*", "", title.strip().strip("\"'")).strip()


def read(path: str | Path, fs: float | None = None) -> Signal:
    """One recording; ``fs`` (Hz) where the table has no time column.

    Raises:
        ReadError: no sampling rate known, stamps that do not run forward or mix units, no column of numbers.
    """
    path = existing_file(path)
    with reading(path, "a wearable's table", "Save it as CSV with one column a channel and a time column."):
        frame, units, facts = _table(path)
        beside = sidecar(path)
        names = [_bare(str(c)) for c in frame.columns]
        time = _time_column(names)
        chosen, x = _columns(path, frame, names, time)
        findings: list[Finding] = []
        stated = first(facts, ("fs", "sampling_rate", "sample_rate")) or beside.fs
        if time is None:
            if (rate := stated or fs) is None:
                raise missing_rate(path, "a table without a time column")
        else:
            t, findings = _stamps(path, frame, names[time], units[time], time)
            rate, x, more = even(path, t, x)
            findings += more
        return build(
            path,
            "wearable-table",
            x,
            rate,
            [_polar(names[i]) for i in chosen],
            [units[i] for i in chosen],
            patient=beside.patient,
            meta=beside.meta,
            findings=findings,
        )


def _table(path: Path) -> tuple[Any, list[str], dict[str, Any]]:
    """The columns as a data frame, their units (``""``: not stated) and what comment lines say."""
    from medfm.formats.csv_text import parse
    from medfm.formats.xml_text import decode

    with path.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    if parquet:
        import pandas as pd

        frame, facts, second = pd.read_parquet(path), {}, None
    else:
        text, second = _without_units(decode(path.read_bytes()))
        table = parse(path, text)
        frame, facts = table.frame, table.facts
        if table.units:
            second = [table.units.get(str(c), "") for c in frame.columns]
    bracketed = [re.search(r"[(\[]\s*([^)\]]+?)\s*[)\]]", str(c)) for c in frame.columns]
    units = [found[1] if found else "" for found in bracketed]
    if second is not None and len(second) == len(units):
        units = [u or s for u, s in zip(units, second)]
    return frame, units, facts


def _without_units(text: str) -> tuple[str, list[str] | None]:
    """The text without a second row that holds words only, and that row's cells."""
    from medfm.formats.csv_text import BLANK, NUMBER, cells, delimiter

    lines = text.splitlines()
    at = [i for i, line in enumerate(lines[:60]) if line.strip() and not line.startswith("#")][:3]
    if len(at) < 3:
        return text, None
    mark = delimiter([lines[i] for i in at])
    second, third = cells([lines[at[1]], lines[at[2]]], mark)
    words = [c for c in second if c.lower() not in BLANK]
    if not words or any(NUMBER.match(c) or re.match(r"\d", c) for c in words):
        return text, None
    if not any(NUMBER.match(c) for c in third):
        return text, None
    del lines[at[1]]
    return "\n".join(lines) + "\n", ["" if c.lower() in BLANK else c for c in second]


def _time_column(names: list[str]) -> int | None:
    """Polar's sensor stamps before the phone's, which arrive in packets; else the first that is a time."""
    from medfm.formats.time_axis import is_time

    stamps = [i for i, n in enumerate(names) if re.search(r"sensor ?timestamp", n, re.I)]
    return next(iter(stamps or [i for i, n in enumerate(names) if is_time(n)]), None)


def _columns(path: Path, frame: Any, names: list[str], time: int | None) -> tuple[list[int], np.ndarray]:
    import pandas as pd

    from medfm.formats.time_axis import is_index, is_time

    chosen, rows = [], []
    for i, name in enumerate(names):
        if i == time or is_index(name) or is_time(name) or re.search(r"time ?stamp", name, re.I):
            continue
        values = pd.to_numeric(frame.iloc[:, i], errors="coerce").to_numpy(np.float64)
        if np.isfinite(values).any():
            chosen.append(i)
            rows.append(values)
    if not rows:
        raise ReadError(f"{path}: has no column of numbers; save it as CSV with one column a channel.")
    check_size(path, len(rows) * len(frame))
    return chosen, np.stack(rows)


def _stamps(path: Path, frame: Any, name: str, unit: str, column: int) -> tuple[np.ndarray, list[Finding]]:
    """The time column in seconds, its unit stated or (with a finding) inferred from its step."""
    import pandas as pd

    from medfm.formats.time_axis import seconds

    given = frame.iloc[:, column]
    numbers = pd.to_numeric(given, errors="coerce").to_numpy(np.float64)
    if np.isfinite(numbers).any():
        check_one_unit(path, name, numbers)
    return seconds(path, name, unit, given)


def check_one_unit(path: Path, name: str, t: np.ndarray) -> None:
    """Refuse stamps of which some are a thousand times the others: seconds among milliseconds."""
    t = t[np.isfinite(t) & (t > 0)][3:]  # the first stamps may be any multiple of each other
    if len(t) < 2:
        return
    ratio = t[1:] / t[:-1]
    jump = np.flatnonzero((np.abs(ratio / 1000 - 1) < 0.1) | (np.abs(ratio * 1000 - 1) < 0.1))
    if jump.size:
        a, b = t[jump[0]], t[jump[0] + 1]
        raise ReadError(
            f"{path}: its time column {name!r} mixes units: {a:.10g} is followed by {b:.10g}, a thousand times "
            f"{'more' if b > a else 'less'} (seconds among milliseconds?). Export it in one unit."
        )


def even(path: Path, t: np.ndarray, x: np.ndarray) -> tuple[float, np.ndarray, list[Finding]]:
    """Sampling rate (Hz) and ``x [C, T]`` on an even grid from ``t`` (s, as recorded), NaN where nothing was recorded.

    Stamps that are even but for their rounding keep their samples. The step is the mean of those that are no gap.

    Raises:
        ReadError: fewer than two stamps, blanks, or stamps that run backwards.
    """
    from medfm.formats.time_axis import regular

    if len(t) < 2:
        raise ReadError(
            f"{path}: one row of time implies no sampling rate; give it in the table's 'fs' column."
        )
    steps = np.diff(t)
    if not np.isfinite(steps).all() or (steps < 0).any() or t[-1] <= t[0]:
        raise ReadError(
            f"{path}: its time column does not run forward or has blanks; sort the rows, fill it, and use one unit."
        )
    typical = float(np.median(steps[steps > 0]))
    usual = (steps > 0) & (steps <= APART * typical)
    step = float(steps[usual].mean())
    implied = Finding("rate-from-time", f"{1 / step:.4g} Hz, from {len(t)} time stamps.", "info")
    departure = np.abs(steps[usual] - step).mean() / step
    if departure <= UNEVEN and (steps > 0).all():
        fs, x, findings = regular(path, t, x)
        return fs, x, [implied, *findings]
    from scipy.interpolate import CubicSpline

    fs = 1.0 / step
    if abs(fs - round(fs)) < 2e-3 * fs:
        fs = float(round(fs))
    length = round((t[-1] - t[0]) * fs) + 1
    check_size(path, float(length) * len(x))
    if length > 100 * len(t):
        raise ReadError(
            f"{path}: its time column has gaps a hundred times longer than its data; split the recording."
        )
    grid = t[0] + np.arange(length) / fs
    y = np.full((len(x), length), np.nan)
    for row, values in zip(y, x):
        there = np.flatnonzero(np.isfinite(values))
        there = there[np.concatenate([[True], np.diff(t[there]) > 0])]  # of two equal stamps the first
        if len(there) < 4:
            continue
        at = t[there]
        row[:] = CubicSpline(at, values[there])(grid)
        after = np.searchsorted(at, grid)
        left, right = at[np.maximum(after - 1, 0)], at[np.minimum(after, len(at) - 1)]
        alone = (right - left > APART * typical) & (np.minimum(grid - left, right - grid) > step / 2)
        row[alone | (grid < at[0]) | (grid > at[-1] + step / 2)] = np.nan
    text = f"the time stamps are uneven (by {departure:.0%} of a step on average); brought to {fs:.4g} Hz by cubic spline."
    findings = [implied, Finding("uneven-time", text, "warning")]
    if lost := int(np.isnan(y).all(0).sum()):
        text = f"{int((steps > APART * typical).sum())} gaps in the time stamps, {lost / fs:.3g} s, hold no sample."
        findings.append(Finding("time-gaps", text, "warning"))
    return fs, y, findings


def _polar(name: str) -> str:
    """Polar calls its photodiodes ``channel 0`` to ``2``."""
    found = re.fullmatch(r"channel (\d)", name.strip(), re.I)
    return f"ppg{found[1]}" if found else name
