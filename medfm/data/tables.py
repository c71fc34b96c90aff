"""Tables as sites keep them: CSV in any encoding and with any separator, TSV, Excel and Parquet, as data frames."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

import pandas as pd

from medfm.formats.xml_text import decode
from medfm.types import ConfigError, MedfmError

TEXT, EXCEL = (".csv", ".tsv", ".txt"), (".xlsx", ".xls")
SUFFIXES = (*TEXT, *EXCEL, ".parquet")
HEAD = 65_536


def read_table(path: str | Path) -> pd.DataFrame:
    """CSV, TSV, Excel or Parquet as a data frame; a :class:`MedfmError` names what is wrong with the file.

    Separator, decimal comma and encoding are found from the text. Of an Excel file the one sheet with a ``path``
    column is read. Blank rows are dropped.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give a CSV, TSV, Excel or Parquet file with a 'path' column.")
    if not path.is_file():
        raise ConfigError(
            f"table not found: {path}. Give a CSV, TSV, Excel or Parquet file with a 'path' column."
        )
    if suffix not in SUFFIXES:
        raise MedfmError(
            f"{path}: {suffix or 'no suffix'} is not a table; use .csv, .tsv, .xlsx or .parquet."
        )
    try:
        if suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif suffix in EXCEL:
            frame = _excel(path)
        else:
            frame = _text(path)
    except MedfmError:
        raise
    except PermissionError as error:
        raise MedfmError(f"{path}: may not be read by this user; change its permissions.") from error
    except ImportError as error:
        raise MedfmError(f"{path}: this kind of Excel file is not read; save it as .xlsx or CSV.") from error
    except Exception as error:
        raise MedfmError(
            f"{path}: cannot be read as a table ({type(error).__name__}: {' '.join(str(error).split())}). "
            "Open it in a spreadsheet and save it again, as CSV or .xlsx."
        ) from error
    if frame.dropna(how="all").empty:
        raise MedfmError(f"{path}: the table has no rows; export it again.")
    return frame.dropna(how="all").reset_index(drop=True)


def is_table(path: Path) -> bool:
    """A table of records (it has a ``path`` column, or names volume files, as one with a column for each sequence of an MRI), as
    opposed to a CSV that holds a signal."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES or not path.is_file():
        return False
    if suffix not in TEXT:
        frame = read_table(path)
        return "path" in frame.columns or _name_volumes(map(str, frame.iloc[0]))
    with path.open("rb") as file:
        lines = _lines(file.read(HEAD))
    if not lines:
        return False
    mark = _separator(path, lines[0])
    first = next((line for line in lines[1:] if line.strip()), "")
    return "path" in _cells(lines[0], mark) or (bool(first) and _name_volumes(_cells(first, mark)))


def _name_volumes(cells: Iterable[str]) -> bool:
    from medfm.formats.volume import SUFFIXES as volumes

    return any(cell.strip().lower().endswith(tuple(volumes)) for cell in cells)


def _text(path: Path) -> pd.DataFrame:
    lines = _lines(path.read_bytes())
    if not lines:
        raise MedfmError(f"{path} is empty; export it again.")
    mark = _separator(path, lines[0])
    # Spreadsheets end rows with separators that the header lacks; pandas would shift every column by one.
    lines = [line.rstrip(f"{mark} ") for line in lines]
    number = re.compile(rf"(^|{re.escape(mark)})\s*-?\d+,\d+\s*({re.escape(mark)}|$)")
    decimal = "," if mark != "," and any(number.search(line) for line in lines[1:]) else "."
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with more cells than the header
        frame = pd.read_csv(
            StringIO("\n".join(lines)), sep=mark, decimal=decimal, index_col=False, low_memory=False
        )
    return _titled(path, frame, _cells(lines[0], mark))


def _excel(path: Path) -> pd.DataFrame:
    """The sheet that has a ``path`` column, else the first."""
    with pd.ExcelFile(path) as book:
        found: dict[str, list[str]] = {}
        for name in book.sheet_names:
            head = book.parse(name, header=None, nrows=1)
            titles = [str(c).strip() for c in head.iloc[0].dropna()] if len(head) else []
            if "path" in titles or not found:
                found |= {name: titles}
        sheets = [name for name, titles in found.items() if "path" in titles] or list(found)[:1]
        if len(sheets) > 1:
            raise MedfmError(
                f"{path}: {len(sheets)} sheets have a 'path' column ({', '.join(map(str, sheets))}). Save the one to use as "
                "a file of its own."
            )
        return _titled(path, book.parse(sheets[0]), found[sheets[0]])


def _titled(path: Path, frame: pd.DataFrame, titles: list[str]) -> pd.DataFrame:
    """Clean column names; ``titles`` are those of the file, where pandas has not yet numbered the doubles."""
    if twice := sorted({t for t in titles if t and titles.count(t) > 1}):
        raise MedfmError(f"{path}: columns stand twice: {', '.join(twice)}. Rename or drop one of each.")
    frame.columns = [str(c).strip() for c in frame.columns]
    return frame


def _lines(data: bytes) -> list[str]:
    """Lines from the first that is not blank, which names the columns."""
    lines = re.split(r"\r\n|\r|\n", decode(data))
    return lines[next((i for i, line in enumerate(lines) if line.strip()), len(lines)) :]


def _separator(path: Path, header: str) -> str:
    """The one that finds the ``path`` column, else the commonest (a table of one column has none: the comma)."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    marks = ",;\t|"
    return next((m for m in marks if "path" in _cells(header, m)), max(marks, key=header.count))


def _cells(line: str, mark: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=mark))]
