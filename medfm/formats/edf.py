"""EDF, EDF+ and BDF (European Data Format; Kemp 1992, 2003) through pyedflib."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from medfm.formats.base import build, check_size, existing_file, reading, window
from medfm.formats.rates import common_rate
from medfm.types import MedfmError, ReadError, Signal

REMEDY = "Copy it again, or re-save it with EDFbrowser, which mends headers that depart from the standard."
_MARKERS = ("annotation", "status", "trigger")


def read(path: str | Path, start: float = 0.0, stop: float | None = None) -> Signal:
    """One EDF, EDF+ or BDF file; only ``start``..``stop`` s if given.

    Annotation and status channels are dropped. Where channels differ in sampling rate, those at the ECG
    channels' common rate are kept and the others are named in a finding.

    Raises:
        ReadError: truncated, discontinuous (EDF+D) or damaged file.
    """
    path = existing_file(path)
    import pyedflib

    with reading(path, "EDF/BDF", REMEDY):
        _check_length(path)
    with reading(path, "EDF/BDF", REMEDY), pyedflib.EdfReader(str(path)) as file:
        labels = [label.strip() for label in file.getSignalLabels()]
        chosen = [i for i, label in enumerate(labels) if not any(m in label.lower() for m in _MARKERS)]
        if not chosen:
            raise ReadError(f"{path}: holds annotations only; export it again with its signals.")
        samples, rates = file.getNSamples(), [file.getSampleFrequency(i) for i in range(len(labels))]
        keep, findings = common_rate([labels[i] for i in chosen], [rates[i] for i in chosen])
        chosen = [chosen[i] for i in keep]
        length, fs = int(min(samples[i] for i in chosen)), rates[chosen[0]]
        first, last = window(path, length, fs, start, stop)
        check_size(path, (last - first) * len(chosen))
        x = np.empty((len(chosen), last - first), dtype=np.float32)
        for row, i in enumerate(chosen):
            x[row] = file.readSignal(i, first, last - first)
        units = [file.getPhysicalDimension(i).strip() for i in chosen]
        patient, meta = _identity(file)
        names = [labels[i] for i in chosen]
        return build(path, "edf", x, fs, names, units, patient=patient, meta=meta, findings=findings)


def _check_length(path: Path) -> None:
    """Compare the file's size with what its header promises (pyedflib prints both to standard output)."""
    with path.open("rb") as file:
        head = file.read(256)
        try:
            size, records, duration, signals = (
                float(head[a:b]) for a, b in ((184, 192), (236, 244), (244, 252), (252, 256))
            )
            file.seek(int(256 + signals * 216))
            samples = [int(file.read(8)) for _ in range(min(int(signals), 4096))]
        except (ValueError, OverflowError) as error:
            raise ReadError(f"{path}: its EDF header is damaged (a number is not one). {REMEDY}") from error
    if records < 0:
        raise ReadError(f"{path}: was never closed by its recorder (it states no length). {REMEDY}")
    width = 3 if head[:1] == b"\xff" else 2
    held = path.stat().st_size - size
    promised = records * sum(samples) * width
    if held != promised:
        what = "is truncated" if held < promised else "is longer than its header says"
        seconds = held / max(1, sum(samples) * width) * duration
        raise ReadError(f"{path}: {what}, it holds {seconds:.1f} s of {records * duration:.1f} s. {REMEDY}")


def _identity(file: Any) -> tuple[str | None, dict[str, Any]]:
    """Patient code, and sex and age where an EDF+ header states them; the name is never taken over."""
    meta: dict[str, Any] = {}
    if sex := file.getSex().strip()[:1].upper():
        meta["sex"] = sex
    if born := file.getBirthdate().strip():
        try:
            days = (file.getStartdatetime() - datetime.strptime(born, "%d %b %Y")).days
        except ValueError:  # a birth date in another language or form says nothing of age
            days = -1
        if 0 <= days < 125 * 366:
            meta["age"] = float(math.floor(days / 365.2425))
    return file.getPatientCode().strip() or None, meta


def write(
    path: str | Path,
    x: np.ndarray,
    fs: float,
    channels: Sequence[str],
    units: str = "mV",
    patient: str = "",
) -> Path:
    """Write ``x [C, T]`` as EDF+ (16 bit), or BDF+ (24 bit) where the name ends in ``.bdf``; return the path.

    EDF stores whole data records of at most about a second, whose duration is kept to 10 microseconds. Where
    no such record divides T, the last sample is repeated to fill the last record. EDF has no code for a gap:
    NaN is refused.
    """
    import pyedflib

    path = Path(path)
    x = np.asarray(x, dtype=np.float64)
    assert x.ndim == 2 and len(channels) == x.shape[0]
    if not np.isfinite(x).all():
        raise MedfmError(f"{path}: EDF cannot hold missing samples (NaN); write this record as WFDB.")
    per_record = _record_length(x.shape[1], fs)
    x = np.pad(x, ((0, 0), (0, -x.shape[1] % per_record)), mode="edge")
    bits = 23 if path.suffix.lower() == ".bdf" else 15
    kind = pyedflib.FILETYPE_BDFPLUS if bits == 23 else pyedflib.FILETYPE_EDFPLUS
    signals = []
    for name, row in zip(channels, x):
        peak = math.ceil(max(float(np.abs(row).max()), 1e-3) * 1.0001 * 1000) / 1000  # at most 8 characters
        signals.append(
            {
                "label": name,
                "dimension": units,
                "sample_frequency": fs,
                "physical_max": peak,
                "physical_min": -peak,
                "digital_max": 2**bits - 1,
                "digital_min": -(2**bits),
            }
        )
    with warnings.catch_warnings(), pyedflib.EdfWriter(str(path), len(channels), file_type=kind) as file:
        warnings.simplefilter("ignore")  # pyedflib warns of every record that is not one second
        file.setDatarecordDuration(per_record / fs)
        file.setSignalHeaders(signals)
        if patient:
            file.setPatientCode(patient)
        file.writeSamples(list(np.ascontiguousarray(x)))
    return path


def _record_length(samples: int, fs: float) -> int:
    """Samples in a data record: an exact number of 10 us, dividing the record where one of 50 ms or more
    does.
    """

    def exact(n: int) -> bool:
        return abs(n / fs * 1e5 - round(n / fs * 1e5)) < 1e-6

    longest = max(1, round(fs))
    for n in range(min(longest, samples), max(1, longest // 20) - 1, -1):
        if samples % n == 0 and exact(n):
            return n
    return next((n for n in range(longest, 0, -1) if exact(n)), longest)
