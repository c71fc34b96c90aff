"""HL7 annotated ECG (aECG, urn:hl7-org:v3): sequences of scaled integers under one time sequence."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from medfm.formats.base import build, check_size, checked_rate
from medfm.formats.xml_text import text_of
from medfm.types import Finding, ReadError, Signal

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "": 1.0}


def signal(path: Path, root: Element, findings: list[Finding]) -> Signal:
    """The rhythm series of an aECG; value = origin + scale x digit, names as coded (``MDC_ECG_LEAD_I``).

    A record printed in columns (2.5 s of three leads after three others) has one sequence set a column; they
    are laid on one time axis, and a lead is NaN where it was not recorded.
    """
    series = [s for c in root.iter("component") if (s := c.find("series")) is not None]
    rhythm = [s for s in series if _code(s).upper() == "RHYTHM"]
    if not series:
        raise ReadError(f"{path}: holds no series; export the aECG with its waveforms.")
    chosen = max(rhythm or series, key=lambda s: sum(len(d.text or "") for d in s.iter("digits")))
    sets = [q for c in chosen.findall("component") if (q := c.find("sequenceSet")) is not None]
    columns = [_column(path, s) for s in sets]
    columns = [c for c in columns if c[2]]
    if not columns:
        raise ReadError(f"{path}: its rhythm series holds no leads; export the aECG with its waveforms.")
    fs = checked_rate(path, columns[0][1])
    if any(abs(c[1] - fs) > 1e-6 * fs for c in columns):
        raise ReadError(f"{path}: its sequence sets differ in sampling rate; export it as one rhythm strip.")
    begin = min(c[0] for c in columns)
    starts = [round((c[0] - begin) * fs) for c in columns]
    length = max(a + max(len(row) for _, _, row in c[2]) for a, c in zip(starts, columns))
    names: dict[str, str] = {name: unit for c in columns for name, unit, _ in c[2]}
    check_size(path, len(names) * length)
    x = np.full((len(names), length), np.nan, dtype=np.float32)
    order = list(names)
    for at, column in zip(starts, columns):
        for name, unit, row in column[2]:
            if unit != names[name]:
                raise ReadError(f"{path}: {name} is in {unit} and in {names[name]}; export it in one unit.")
            x[order.index(name), at : at + len(row)] = row
    patient, meta = _identity(root)
    return build(
        path, "aecg", x, fs, order, list(names.values()), patient=patient, meta=meta, findings=findings
    )


def _code(element: Element | None) -> str:
    code = None if element is None else element.find("code")
    return "" if code is None else code.get("code", "")


def _number(path: Path, element: Element | None, default: float | None = None) -> float:
    try:
        return float(element.get("value", "")) if element is not None else float(default)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ReadError(
            f"{path}: a scale, origin or increment is missing or not a number; export it again."
        ) from error


def _column(path: Path, block: Element) -> tuple[float, float, list[tuple[str, str, np.ndarray]]]:
    """Begin (s, any epoch), sampling rate and leads ``(name, unit, values)`` of one sequence set."""
    begin, fs = 0.0, 0.0
    leads = []
    for component in block.findall("component"):
        sequence = component.find("sequence")
        value = None if sequence is None else sequence.find("value")
        if value is None:
            continue
        if (increment := value.find("increment")) is not None:
            unit = increment.get("unit", "s")
            if unit not in _SECONDS:
                raise ReadError(
                    f"{path}: its time increment is in {unit!r}, not in s, ms or us; export it again."
                )
            step = _number(path, increment) * _SECONDS[unit]
            fs = 1 / step if step > 0 else 0.0
            begin = _begin(value.find("head"))
        elif (digits := value.find("digits")) is not None:
            scale = value.find("scale")
            row = np.array((digits.text or "").split(), dtype=np.float64)
            row = _number(path, value.find("origin"), 0.0) + _number(path, scale, 1.0) * row
            leads.append((_code(sequence), scale.get("unit", "") if scale is not None else "", row))
    if leads and not fs:
        raise ReadError(f"{path}: a sequence set has no time increment (GLIST_TS); export it again.")
    return begin, fs, leads


def _begin(head: Element | None) -> float:
    """Seconds of a head value: ``20021122091000.125`` (absolute) or a plain number of s or ms (relative)."""
    stamp = "" if head is None else head.get("value", "")
    if found := re.match(r"(\d{14})(\.\d+)?", stamp):
        try:
            seconds = (datetime.strptime(found[1], "%Y%m%d%H%M%S") - datetime(1970, 1, 1)).total_seconds()
        except ValueError:  # an impossible date still orders nothing: one column begins at 0
            return 0.0
        return seconds + float(found[2] or 0)
    if head is not None and re.fullmatch(r"\d+(\.\d+)?", stamp):
        return float(stamp) * _SECONDS.get(head.get("unit", "s"), 1.0)
    return 0.0


def _identity(root: Element) -> tuple[str | None, dict[str, Any]]:
    subject = root.find(".//trialSubject")
    meta: dict[str, Any] = {}
    for tag, key in (("administrativeGenderCode", "sex"), ("age", "age")):
        element = None if subject is None else subject.find(f".//{tag}")
        stated = "" if element is None else element.get("code", "") or element.get("value", "")
        if stated:
            meta[key] = stated
    identity = None if subject is None else subject.find("id")
    patient = "" if identity is None else identity.get("extension", "") or identity.get("root", "")
    if "age" in meta:
        age = str(meta.pop("age"))
        if re.fullmatch(r"\d{1,3}(\.\d+)?", age):
            meta["age"] = float(age)
    if maker := text_of(root, ".//manufacturedSeriesDevice/manufacturerModelName"):
        meta["device"] = maker
    return patient or None, meta
