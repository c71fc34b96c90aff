"""The ECG files of an Apple Health export (``electrocardiograms/ecg_*.csv``), whatever its language."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from medfm.formats.base import build
from medfm.types import ReadError, Signal

_RATE = re.compile(r"[,;\t]\s*\"?(\d+(?:[.,]\d+)?)\s*(?:hz|hertz|герц|赫兹|ヘルツ)", re.I)
_UNIT = re.compile(r"[,;\t]\s*\"?([µμu]V|mV|V)\"?\s*$", re.I)
_VALUE = re.compile(r"^\s*\"?([-+]?\d+(?:[.,]\d+)?(?:[eE][-+]?\d+)?)\"?\s*[,;]?\s*$")


def recognise(head: str) -> bool:
    """A header of `label,value` lines, one of them a sampling rate in hertz, and single numbers after it."""
    lines = head.splitlines()[:40]
    return (
        any(_RATE.search(line) for line in lines[:20])
        and sum(bool(_VALUE.match(line)) for line in lines) >= 3
    )


def read_text(path: Path, text: str) -> Signal:
    """The single lead of an export; name and birth date in its header are not taken over.

    Raises:
        ReadError: no samples, or no sampling rate, in the file.
    """
    lines = text.splitlines()
    begin = next((i for i, line in enumerate(lines) if _VALUE.match(line)), None)
    rate = next((m for line in lines[:begin] if (m := _RATE.search(line))), None)
    if begin is None or rate is None:
        raise ReadError(f"{path}: holds no samples or no sampling rate; export it from Apple Health again.")
    unit = next((m[1] for line in lines[:begin] if (m := _UNIT.search(line.strip()))), "µV")
    values = [float(m[1].replace(",", ".")) for line in lines[begin:] if (m := _VALUE.match(line))]
    facts = {}
    for line in lines[:begin]:
        key, _, value = line.partition(",")
        if key.strip().lower() in ("device", "classification", "gerät", "klassifizierung"):
            name = "device" if key.strip().lower() in ("device", "gerät") else "classification"
            facts[name] = value.strip().strip('"')
    fs = float(rate[1].replace(",", "."))
    x = np.asarray(values, dtype=np.float32)[None, :]
    return build(path, "apple-health", x, fs, ["I"], [unit.replace("μ", "µ")], meta=facts)
