"""WFDB headers: where the record's files lie, what its comments say of the patient, and repairs."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from medfm.types import ReadError

# bytes per sample; 212 packs two samples into three bytes, 310 and 311 three into four
BYTES = {
    "8": 1.0,
    "16": 2.0,
    "24": 3.0,
    "32": 4.0,
    "61": 2.0,
    "80": 1.0,
    "160": 2.0,
    "212": 1.5,
    "310": 4 / 3,
    "311": 4 / 3,
}

_ABSENT = {"", "nan", "none", "unknown", "n/a", "-1", "?", "."}


def header_path(path: str | Path) -> Path:
    """The ``.hea`` of a record address: with the suffix, without it, or the name of one of its data files."""
    path = Path(path)
    if path.suffix.lower() == ".hea":
        header = path
    else:
        beside = path.with_name(path.name + ".hea")
        header = beside if beside.is_file() else path.with_suffix(".hea")
    if header.is_file():
        return header
    if path.suffix.lower() in ("", ".hea"):
        raise ReadError(
            f"{header}: no such record; a WFDB record is a .hea header with its data files beside it."
        )
    raise ReadError(
        f"{path}: its header {header.name} is missing; a WFDB record is a .hea header with its data files."
    )


def header_text(header: Path) -> str:
    """The header as text; a file that is no header text at all is refused here."""
    data = header.read_bytes()[:4_000_000]
    if not data.strip():
        raise ReadError(f"{header} is empty; copy the record again.")
    if b"\0" in data:
        raise ReadError(f"{header} is not a WFDB header (it holds binary data); copy the record again.")
    return data.decode("utf-8", "replace")


def without_dates(text: str) -> str | None:
    """The header with a record line that every WFDB reader accepts, or None where that cannot help.

    Real headers hold dates such as ``05-Feb-2020`` or ``31/02/2020`` and record names with dots, at which
    strict parsers stop. Date, time and name are not signal: they are dropped. A multi-segment header is left
    alone.
    """
    lines = text.splitlines()
    for at, line in enumerate(lines):
        fields = line.split()
        if not fields or line.lstrip().startswith("#"):
            continue
        if (
            "/" in fields[0]
            or len(fields) < 2
            or not all(re.fullmatch(r"\d+", f) for f in fields[1:2] + fields[3:4])
        ):
            return None
        rate = fields[2].replace(",", ".") if len(fields) > 2 else ""
        return "\n".join(
            [*lines[:at], " ".join(["record", fields[1], rate, *fields[3:4]]).strip(), *lines[at + 1 :]]
        )
    return None


def comment_facts(comments: list[str] | None) -> dict[str, Any]:
    """Age, sex and diagnosis codes from header comments, in the spellings of PhysioNet's databases.

    ``Age: 74``, ``<age>: 48 <sex>: M``, ``Dx: 164889003,39732003`` and MIT-BIH's ``69 M 1085 1629 x1``.
    Everything that was written stays in ``comments``.
    """
    comments = [c.strip() for c in comments or [] if c.strip()]
    facts: dict[str, Any] = {"comments": comments} if comments else {}
    for comment in comments:
        if found := re.match(r"(\d{1,3})\s+([MF])\s+\d", comment):
            facts.setdefault("age", float(found[1]))
            facts.setdefault("sex", found[2])
        for key, value in re.findall(r"<?\b(age|sex|gender|dx)\b>?\s*[:=]\s*([^<]*)", comment, re.I):
            value = value.strip()
            if value.lower() in _ABSENT:
                continue
            if key.lower() == "age":
                if found := re.match(r"\d+(\.\d+)?", value):
                    facts["age"] = float(found[0])
            elif key.lower() == "dx":
                facts["dx"] = [code.strip() for code in value.split(",") if code.strip()]
            else:
                facts["sex"] = value[0].upper() if value[:1].upper() in "MF" else value
    return facts


def segments_in(folder: Path) -> frozenset[str]:
    """Names of the records that a multi-segment header of this folder lists as its parts.

    A folder scan must count such a part once, inside its record. Cached by the folder's modification time.
    """
    return _segments_in(str(folder), folder.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _segments_in(folder: str, changed: int) -> frozenset[str]:
    assert changed  # part of the key: a folder that changed is looked at again
    parts: set[str] = set()
    for header in Path(folder).glob("*.hea"):
        try:
            with header.open("r", encoding="utf-8", errors="replace") as file:
                line = file.readline(1000)
                while line.startswith("#") or line in ("\n", "\r\n"):
                    line = file.readline(1000)
                if not re.match(r"\s*[^\s/#]+/\d+\s", line):
                    continue
                parts.update(found[1] for row in file if (found := re.match(r"([^\s#~]\S*)\s+\d+", row)))
        except OSError:  # an unreadable header is reported when it is read, as itself
            continue
    return frozenset(parts)
