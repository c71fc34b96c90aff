"""Signals in tables: CSV, TSV and Parquet with a column (or a row) a lead, and Apple Health's ECG export.

Understood: `,` `;` tab, blank and `|` as separator, decimal commas, `#` comment lines (``# fs: 500``), units
in the header (``II (mV)``, ``V1 [uV]``) or in a second header row, a time column, blank cells as gaps. What a
table cannot say, its sampling rate without a time column, comes from the argument ``fs``, the manifest's
column or a sidecar.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medfm.formats import apple_health
from medfm.formats.base import FS_KEYS, build, check_size, existing_file, missing_rate, reading
from medfm.formats.csv_text import BLANK, HEAD, NUMBER, UNITS, Table, cells, delimiter, parse
from medfm.formats.layout import MAX_CHANNELS, first, sidecar
from medfm.formats.time_axis import is_index, is_time, regular, seconds
from medfm.formats.xml_text import decode
from medfm.types import Finding, ReadError, Signal

MAX_BYTES = 4_000_000_000
_WITH_UNIT = re.compile(rf"^(.*?)\s*(?:[(\[/]\s*({UNITS})\s*[)\]]?|_({UNITS}))$", re.I)
_MANIFEST = re.compile(
    r"^(path|file|filename.*|record(ing)?|(patient|subject|ecg|exam|study|record)_?id|id|patient|subject|scp_codes"
    r"|label|split|sex|gender)$",
    re.I,
)


def read(path: str | Path, fs: float | None = None) -> Signal:
    """One record of a table of samples; ``fs`` (Hz) where the table has no time column.

    Raises:
        ReadError: no sampling rate known, a table of records instead of samples, no numeric column.
    """
    path = existing_file(path)
    with reading(path, "a table", "Save it as CSV with one column a lead and a time column."):
        if path.stat().st_size > MAX_BYTES:
            raise ReadError(
                f"{path}: is larger than {MAX_BYTES / 1e9:.0f} GB; convert it to WFDB, EDF or HDF5."
            )
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        if parquet:
            return _signal(path, _parquet(path), fs)
        text = decode(path.read_bytes())
        if "\0" in text[:HEAD]:
            raise ReadError(
                f"{path}: holds binary data, no text; if it is another format, give it that suffix."
            )
        if apple_health.recognise(text[:HEAD]):
            return apple_health.read_text(path, text)
        return _signal(path, parse(path, text), fs)


def looks_like_signal(path: Path) -> bool:
    """Would :func:`read` take this table for samples? A table of records (paths, labels) is no record."""
    with path.open("rb") as file:
        start = file.read(HEAD)
    if start[:4] == b"PAR1":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return not any(_MANIFEST.match(n) for n in pq.read_schema(path).names)
        except (pa.ArrowException, OSError):  # a damaged file is reported when it is read
            return True
    head = decode(start)
    lines = [line for line in head.splitlines()[:50] if line.strip() and not line.startswith("#")]
    if "\0" in head or not lines or apple_health.recognise(head):
        return True
    rows = cells(lines[:6], delimiter(lines))
    if any(_MANIFEST.match(c) for c in rows[0]):
        return False
    body = [c for row in rows[1:] or rows for c in row]
    return sum(bool(NUMBER.match(c)) or c.lower() in BLANK for c in body) >= 0.5 * max(1, len(body))


def _parquet(path: Path) -> Table:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        check_size(path, file.metadata.num_rows * file.metadata.num_columns)
        stated = {
            k.decode("utf-8", "replace"): v.decode("utf-8", "replace")
            for k, v in (file.metadata.metadata or {}).items()
        }
        frame = file.read().to_pandas()
    return Table(frame, {}, {k: v for k, v in stated.items() if k.lower() in FS_KEYS})


def _signal(path: Path, table: Table, fs: float | None) -> Signal:
    frame = table.frame
    if any(_MANIFEST.match(str(c)) for c in frame.columns):
        raise ReadError(
            f"{path}: is a table of records, not of samples, and has no 'path' column. Rename the column of file names "
            "to path, in the first line."
        )
    if not any(frame.columns) and frame.shape[1] > max(MAX_CHANNELS, frame.shape[0]):
        frame = frame.T.reset_index(drop=True)  # a bare matrix with a row a lead
        frame.columns = [""] * frame.shape[1]
    titles = [_split_unit(str(c)) for c in frame.columns]
    time = next((i for i, (name, _) in enumerate(titles) if is_time(name)), None)
    beside = sidecar(path)
    x, names, units, findings = _columns(path, frame, titles, time, table.units)
    rate = first(table.facts, FS_KEYS) or beside.fs
    if time is not None:
        unit = titles[time][1] or table.units.get(str(frame.columns[time]), "")
        if rate is None or unit:
            t, more = seconds(path, titles[time][0], unit, frame.iloc[:, time])
            implied, x, gaps = regular(path, t, x)
            rate, findings = rate or implied, [*findings, *more, *gaps]
    rate = rate or fs
    if rate is None:
        raise missing_rate(path, "a table without a time column")
    if len(beside.channels) == len(names):
        names = list(beside.channels)
    if not any(names):
        text = "the table names no channels; only position tells them apart (a header row can name them)."
        findings.append(Finding("unnamed-channels", text, "warning"))
    if not any(units) and len(beside.units) in (1, len(names)):
        units = list(beside.units) * (len(names) // len(beside.units))
    return build(
        path, "table", x, rate, names, units, patient=beside.patient, meta=beside.meta, findings=findings
    )


def _columns(
    path: Path, frame: pd.DataFrame, titles: list[tuple[str, str]], time: int | None, units: dict[str, str]
) -> tuple[np.ndarray, list[str], list[str], list[Finding]]:
    """Samples ``[C, T]``, names and units of the columns that hold numbers, and what was left out."""
    findings: list[Finding] = []
    rows, names, stated = [], [], []
    for i, (name, unit) in enumerate(titles):
        if i == time or (name and len(titles) > 1 and is_index(name)):
            continue
        given = frame.iloc[:, i]
        column = pd.to_numeric(given, errors="coerce")
        words = int((column.isna() & given.notna()).sum())
        if words and column.notna().sum() == 0:
            findings.append(
                Finding("text-column", f"column {name!r} holds no numbers and was left out.", "info")
            )
            continue
        if words:
            text = f"{words} cells are not numbers and were taken as missing."
            findings.append(Finding("unreadable-cells", text, "warning", name))
        rows.append(column.to_numpy(dtype=np.float32))
        names.append(name)
        stated.append(unit or units.get(str(frame.columns[i]), ""))
    if not rows or not len(frame):
        raise ReadError(f"{path}: has no column of numbers; save it as CSV with one column a lead.")
    check_size(path, len(rows) * len(frame))
    return np.stack(rows), names, stated, findings


def _split_unit(title: str) -> tuple[str, str]:
    """``II (mV)`` -> II, mV. A lone ``V`` after an underscore is part of the name, not volts."""
    if (found := _WITH_UNIT.match(title.strip())) and found[1]:
        unit = found[2] or found[3]
        if not (found[3] and unit.lower() == "v"):
            return found[1].strip(), unit.replace("μ", "µ")
    return title.strip(), ""


def write_csv(
    path: str | Path, x: np.ndarray, fs: float, channels: Sequence[str], units: str = "mV", decimals: int = 4
) -> Path:
    """Write ``x [C, T]`` as CSV with a time column in seconds and units in the header; NaN is blank."""
    columns = {"time (s)": np.round(np.arange(x.shape[1]) / fs, 6)}
    columns |= {
        f"{name} ({units})": np.round(np.asarray(row, float), decimals) for name, row in zip(channels, x)
    }
    pd.DataFrame(columns).to_csv(path, index=False)
    return Path(path)
