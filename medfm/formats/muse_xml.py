"""GE MUSE XML (``RestingECG``): base64 of little-endian int16 a lead; of 8 stored leads 8 return."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from medfm.formats.base import build, checked_rate
from medfm.formats.xml_text import text_of
from medfm.types import Finding, ReadError, Signal

INVALID = -32768


def signal(path: Path, root: Element, findings: list[Finding]) -> Signal:
    """The Rhythm waveform (never the Median) of a parsed ``RestingECG``; value = sample x
    LeadAmplitudeUnitsPerBit.
    """
    waveforms = root.findall(".//Waveform")
    rhythm = [w for w in waveforms if text_of(w, "WaveformType").lower().startswith("rhythm")]
    if not rhythm:
        kinds = ", ".join(text_of(w, "WaveformType", "unnamed") for w in waveforms) or "no waveform"
        raise ReadError(
            f"{path}: holds no Rhythm waveform ({kinds}); export it from MUSE with the full waveform."
        )
    wave = max(rhythm, key=lambda w: len(w.findall("LeadData")))
    try:
        fs = float(text_of(wave, "SampleBase")) * 10.0 ** float(text_of(wave, "SampleExponent", "0"))
    except (ValueError, OverflowError) as error:
        raise ReadError(f"{path}: states no readable SampleBase; export it from MUSE again.") from error
    names: list[str] = []
    units: list[str] = []
    rows: list[np.ndarray] = []
    for lead in wave.findall("LeadData"):
        names.append(text_of(lead, "LeadID", f"lead {len(names) + 1}"))
        samples = _samples(path, names[-1], lead)
        per_bit = float(text_of(lead, "LeadAmplitudeUnitsPerBit", "1"))
        units.append(_unit(text_of(lead, "LeadAmplitudeUnits")))
        row = samples.astype(np.float32) * np.float32(per_bit)
        row[samples == INVALID] = np.nan
        rows.append(row)
    if not rows:
        raise ReadError(f"{path}: its Rhythm waveform has no leads; export it from MUSE again.")
    length = max(len(r) for r in rows)
    x = np.full((len(rows), length), np.nan, dtype=np.float32)
    for i, row in enumerate(rows):
        x[i, : len(row)] = row
        if len(row) != length:
            message = f"holds {len(row)} of {length} samples; the rest is missing."
            findings.append(Finding("short-lead", message, "warning", names[i]))
    patient, meta = _identity(root)
    fs = checked_rate(path, fs)
    return build(path, "muse-xml", x, fs, names, units, patient=patient, meta=meta, findings=findings)


def _samples(path: Path, name: str, lead: Element) -> np.ndarray:
    if (size := text_of(lead, "LeadSampleSize", "2")) != "2":
        raise ReadError(
            f"{path}: lead {name} stores {size} bytes a sample, 2 are read; export it from MUSE again."
        )
    try:
        raw = base64.b64decode("".join(text_of(lead, "WaveFormData").split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ReadError(
            f"{path}: lead {name} is not intact base64 ({error}); export it from MUSE again."
        ) from error
    stated = text_of(lead, "LeadSampleCountTotal")
    if re.fullmatch(r"\d+", stated) and len(raw) < 2 * int(stated):
        raise ReadError(
            f"{path}: lead {name} is truncated, it holds {len(raw) // 2} of {stated} samples; "
            "export it from MUSE again."
        )
    return np.frombuffer(raw[: len(raw) // 2 * 2], "<i2")


def _unit(stated: str) -> str:
    return {"MICROVOLTS": "uV", "MILLIVOLTS": "mV"}.get(stated.upper(), stated)


def _identity(root: Element) -> tuple[str | None, dict[str, Any]]:
    person = root.find(".//PatientDemographics")
    meta: dict[str, Any] = {}
    age, unit = text_of(person, "PatientAge"), text_of(person, "AgeUnits", "YEARS").upper()
    per_year = {"YEARS": 1.0, "MONTHS": 12.0, "WEEKS": 52.18, "DAYS": 365.25}.get(unit)
    if re.fullmatch(r"\d{1,4}", age) and per_year:
        meta["age"] = int(age) / per_year
    if sex := text_of(person, "Gender"):
        meta["sex"] = sex[0].upper() if sex[0].upper() in "MF" else sex
    if device := text_of(root, ".//TestDemographics/AcquisitionDevice"):
        meta["device"] = device
    return text_of(person, "PatientID") or None, meta
