"""Text tables: separator, decimal sign, header and units found from the text itself, then one data frame."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medfm.formats.layout import MAX_CHANNELS
from medfm.types import ReadError

HEAD = 65_536
NUMBER = re.compile(r"^[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?$")
BLANK = {"", "nan", "na", "n/a", "null", "none", "-", "--"}
UNITS = (
    r"[µμu]v|microvolts?|mv|millivolts?|v|volts?|adc|au|a\.u\.|nu|s|secs?|seconds|ms|msecs?|milliseconds|us|µs|ns"
    r"|mmhg|bpm|%"
)


class Table(NamedTuple):
    """``frame`` with one column a channel (names ``""`` without a header row), units by column title, `#`
    facts.
    """

    frame: pd.DataFrame
    units: dict[str, str]
    facts: dict[str, Any]


def parse(path: Path, text: str) -> Table:
    """The table that a text holds.

    Raises:
        ReadError: no rows, or rows that differ in length.
    """
    head = text[:HEAD].splitlines()
    facts: dict[str, Any] = {}
    for line in head:
        if line.startswith("#") and (found := re.match(r"#\s*([\w ]+?)\s*[:=,]\s*([\d.]+)", line)):
            facts[found[1].strip().lower().replace(" ", "_")] = found[2]
    lines = [line for line in head if line.strip() and not line.startswith("#")]
    if not lines:
        raise ReadError(f"{path}: holds no rows; export it again.")
    mark = delimiter(lines[:50])
    rows = cells(lines[:3], mark)
    decimal = "," if mark != "," and any(re.search(r"\d,\d", line) for line in lines[1:20]) else "."
    if all(_is_lead_row(row) for row in rows):
        return Table(_leads_by_row(path, text, mark, decimal), {}, facts)
    titled = not all(_is_value(c) for c in rows[0])
    units: dict[str, str] = {}
    if (
        titled
        and len(rows) > 1
        and any(rows[1])
        and all(not c or re.fullmatch(UNITS, c, re.I) for c in rows[1])
    ):
        units = dict(zip(rows[0], rows[1]))
    frame = _read_csv(
        StringIO(
            "\n".join(line for line in text.splitlines() if line and line[0] != "#") if "#" in text else text
        ),
        sep=r"\s+" if mark == " " else mark,
        header=0 if titled else None,
        decimal=decimal,
        skipinitialspace=True,
        na_values=["-", "--"],
        low_memory=False,
        quotechar="'" if lines[0].lstrip().startswith("'") else '"',
        index_col=False,
    )
    if units:
        frame = frame.iloc[1:].reset_index(drop=True)
    frame.columns = [str(c).strip().strip("'\"") if titled else "" for c in frame.columns]
    return Table(frame, units, facts)


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("#")) if "#" in text else text


def _read_csv(text: StringIO, **options: Any) -> pd.DataFrame:
    """pandas.read_csv, stopping at rows with more cells than the header (pandas drops them and warns)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(text, **options)


def cells(lines: Sequence[str], mark: str) -> list[list[str]]:
    """Cells of some lines, without quotes and blanks."""
    if mark == " ":
        return [line.split() for line in lines]
    return [
        [c.strip().strip("'\"") for c in row]
        for row in csv.reader(lines, delimiter=mark, skipinitialspace=True)
    ]


def delimiter(lines: Sequence[str]) -> str:
    """The separator of a table: `;`, tab and `|` are never decimal signs and go first, then comma, then
    blanks.
    """
    for mark in (";", "\t", "|", ",", " "):
        counts = [len(cells([line], mark)[0]) if line.strip() else 0 for line in lines]
        usual = max(set(counts), key=counts.count)
        if usual > 1 and counts.count(usual) > 0.6 * len(counts):
            return mark
    return ","


def _is_value(cell: str) -> bool:
    return bool(NUMBER.match(cell)) or cell.lower() in BLANK


def _is_lead_row(row: list[str]) -> bool:
    """A name, then more numbers than a table has columns."""
    numbers = sum(_is_value(c) for c in row[1:])
    return len(row) > MAX_CHANNELS + 1 and not _is_value(row[0]) and numbers > 0.9 * (len(row) - 1)


def _leads_by_row(path: Path, text: str, mark: str, decimal: str) -> pd.DataFrame:
    columns: dict[str, np.ndarray] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, *values = cells([line], mark)[0]
        while values and not values[-1]:
            values.pop()
        columns[name] = np.array(
            [np.nan if c.lower() in BLANK else float(c.replace(decimal, ".")) for c in values]
        )
    if len({len(c) for c in columns.values()}) != 1:
        raise ReadError(f"{path}: its rows differ in length; export it with one column a lead.")
    return pd.DataFrame(columns)
