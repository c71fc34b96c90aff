"""Philips Sierra XML 1.03 and 1.04 (PageWriter carts); the optional `sierraecg` undoes the compression."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from medfm.formats.base import build, checked_rate
from medfm.formats.xml_text import text_of
from medfm.types import Finding, ReadError, Signal

MICROVOLTS_PER_STEP = 5.0
"""What every cart known to the format writes; `signalcharacteristics/resolution` states it."""


def signal(path: Path, root: Element, text: str, findings: list[Finding]) -> Signal:
    """The leads of a parsed ``restingecgdata`` in uV.

    Raises:
        ReadError: without `sierraecg`, naming the extra; an unknown document version or encoding.
    """
    try:
        import sierraecg
    except ImportError as error:
        raise ReadError(
            f"{path}: is Philips Sierra XML, which needs an extra: pip install 'medfm[philips]'."
        ) from error
    try:
        file = sierraecg.read_file(io.BytesIO(text.encode("utf-8")))  # type: ignore[arg-type]  # minidom takes a file
    except sierraecg.UnsupportedXmlFileError as error:
        raise ReadError(f"{path}: {error}; export it as SierraECG 1.03 or 1.04, or as DICOM.") from error
    except (sierraecg.MissingXmlElementError, sierraecg.MissingXmlAttributeError) as error:
        raise ReadError(f"{path}: lacks {error}; export it from the cart or TraceMaster again.") from error
    characteristics = root.find(".//dataacquisition/signalcharacteristics")
    stated = text_of(characteristics, "resolution")
    step = (
        float(stated) if re.fullmatch(r"\d+(\.\d+)?", stated) and float(stated) > 0 else MICROVOLTS_PER_STEP
    )
    if not stated:
        message = f"the file states no resolution; {MICROVOLTS_PER_STEP:g} uV a step was assumed."
        findings.append(Finding("assumed-resolution", message, "warning"))
    rows = [np.asarray(lead.samples, dtype=np.float32) * step for lead in file.leads]
    if not rows or len({len(r) for r in rows}) != 1:
        raise ReadError(f"{path}: its leads are missing or differ in length; export it from the cart again.")
    fs = checked_rate(path, file.leads[0].sampling_freq)
    names = [lead.label for lead in file.leads]
    patient, meta = _identity(root)
    return build(
        path,
        "philips-xml",
        np.stack(rows),
        fs,
        names,
        ["uV"] * len(rows),
        patient=patient,
        meta=meta,
        findings=findings,
    )


def _identity(root: Element) -> tuple[str | None, dict[str, Any]]:
    person = root.find(".//generalpatientdata")
    meta: dict[str, Any] = {}
    age = text_of(person, "age/years") or text_of(person, "age")
    if re.fullmatch(r"\d{1,3}", age):
        meta["age"] = float(age)
    if sex := text_of(person, "sex"):
        meta["sex"] = sex[0].upper() if sex[0].upper() in "MF" else sex
    if device := text_of(root, ".//dataacquisition/machine"):
        meta["device"] = device
    return text_of(person, "patientid") or None, meta
