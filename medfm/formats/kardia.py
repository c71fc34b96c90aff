"""AliveCor Kardia: ATC files (Alive file format 1.7) and the recording JSON of the Kardia API.

Kardia's PDF reports are pictures and are refused with the other PDFs.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from medfm.formats.base import build, checked_rate, existing_file, reading
from medfm.types import Finding, ReadError, Signal

SIGNATURE = b"ALIVE\0\0\0"
LEADS = dict(
    zip(
        [b"ecg" + bytes([mark]) for mark in b" 23456789abc"],
        ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"),
    )
)


def read(path: str | Path) -> Signal:
    """One Kardia recording in uV: ``.atc``, or JSON with ``data.raw`` or ``data.enhanced`` (raw is
    preferred).

    Raises:
        ReadError: another kind of JSON, no format block, a truncated or damaged file.
    """
    path = existing_file(path)
    with reading(path, "a Kardia recording", "Export it from Kardia again."):
        with path.open("rb") as file:
            binary = file.read(8) == SIGNATURE
        return _atc(path) if binary else _json(path)


def _atc(path: Path) -> Signal:
    """Blocks of id, length, data and checksum; ``fmt `` states Hz and nV a step, ``ecg `` to ``ecgc`` the
    leads.
    """
    data = path.read_bytes()
    at, fs, nanovolts = 12, None, 0
    names, rows, device = [], [], ""
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        body = data[at + 8 : at + 8 + size]
        if len(body) < size:
            raise ReadError(f"{path}: is truncated inside its block {kind!r}; export it from Kardia again.")
        if kind == b"fmt " and size >= 6:
            encoding, fs, nanovolts = struct.unpack_from("<BHH", body)
            if encoding != 1:
                raise ReadError(f"{path}: its sample format is {encoding}, only 1 (16 bit) is read.")
        elif kind == b"info" and size >= 212:
            device = body[180:212].split(b"\0")[0].decode("ascii", "replace").strip()
        elif kind in LEADS:
            names.append(LEADS[kind])
            rows.append(np.frombuffer(body[: size // 2 * 2], "<i2"))
        at += 12 + size
    if fs is None or not rows:
        raise ReadError(f"{path}: has no format or no ECG block; export it from Kardia again.")
    return _signal(path, names, rows, fs, nanovolts, None, {"device": device} if device else {}, [])


def _json(path: Path) -> Signal:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        data = document.get("data", document)
        raw = "raw" in data
        block = data["raw"] if raw else data.get("enhanced", data)
        samples, fs = block["samples"], block["frequency"]
        leads = {k: np.asarray(v, dtype=np.int64) for k, v in samples.items() if isinstance(v, list) and v}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise ReadError(
            f"{path}: JSON of this kind is not a recording; of JSON files only Kardia recordings "
            "(data.raw.samples) are read."
        ) from error
    findings = []
    if not raw:
        text = "only Kardia's enhanced (filtered) samples are in the file; the raw ones were not exported."
        findings.append(Finding("enhanced-samples", text, "info"))
    names = [k.removeprefix("lead") for k in leads]
    patient = document.get("patientID") or document.get("patientId")
    device = document.get("deviceInfo")
    meta = {"device": str(device.get("hardwareType", ""))} if isinstance(device, dict) else {}
    steps = block.get("amplitudeResolution", 500)
    return _signal(path, names, list(leads.values()), fs, steps, patient, meta, findings)


def _signal(
    path: Path,
    names: list[str],
    rows: list[np.ndarray],
    fs: Any,
    nanovolts: Any,
    patient: Any,
    meta: dict[str, Any],
    findings: list[Finding],
) -> Signal:
    step = checked_rate(path, nanovolts) / 1000.0  # nV a step; a zero would make every lead flat
    if not rows or len({len(r) for r in rows}) != 1:
        raise ReadError(f"{path}: its leads are missing or differ in length; export it from Kardia again.")
    x = np.stack(rows).astype(np.float32) * np.float32(step)
    identity = str(patient) if patient else None
    return build(
        path, "kardia", x, fs, names, ["uV"] * len(rows), patient=identity, meta=meta, findings=findings
    )
