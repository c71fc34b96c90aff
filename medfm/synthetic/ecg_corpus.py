"""ECG corpora: arrays for training in memory or by the chunk, their labels, and the file formats they go to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.synthetic.ecg import CHANNELS, Chunk, simulate
from medfm.synthetic.ecg_rhythm import RHYTHMS
from medfm.synthetic.ecg_subjects import DEVICES, SITES

# A site's table is for trying a question on few patients: fibrillation is commoner than in the training mix.
SITE_PREVALENCE: dict[str, float] = {"af_persistent": 0.13, "af_paroxysmal": 0.06}


def ecg_chunks(
    patients: int,
    seed: int = 1,
    fs: float = 500.0,
    seconds: float = 10.0,
    records_per_patient: int = 1,
    start_subject: int = 0,
    chunk: int = 64,
    prevalence: Mapping[str, float] | None = None,
    truths: bool = False,
) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    """``(x float32 [m, 12, T] mV, labels)`` chunk by chunk: memory stays flat however many patients there
    are.

    labels: a row a record: ``record, patient_id, age, sex, device, site, rhythm``, binary labels by
    criterion, the measured numbers behind them, and the generator's switches as ``cond_*``; with ``truths``
    every number that was measured, lead by lead, as ``truth_*`` (:func:`truth_columns`).
    """
    keys = [(start_subject + p, r) for p in range(patients) for r in range(records_per_patient)]
    for start in range(0, len(keys), chunk):
        part = simulate(keys[start : start + chunk], seed, fs=fs, seconds=seconds, prevalence=prevalence)
        labels = _labels(part)
        yield part.x, pd.concat([labels, truth_columns(part)], axis=1) if truths else labels


def ecg_arrays(
    patients: int,
    seed: int = 1,
    fs: float = 500.0,
    seconds: float = 10.0,
    records_per_patient: int = 1,
    start_subject: int = 0,
    prevalence: Mapping[str, float] | None = None,
    truths: bool = False,
) -> tuple[np.ndarray, pd.DataFrame]:
    """``(x float32 [n, 12, T] mV, labels)`` of ``patients * records_per_patient`` records, one row each."""
    x = np.empty((patients * records_per_patient, 12, round(fs * seconds)), np.float32)
    frames, begin = [], 0
    chunks = ecg_chunks(
        patients, seed, fs, seconds, records_per_patient, start_subject, prevalence=prevalence, truths=truths
    )
    for part, frame in chunks:
        x[begin : begin + len(part)] = part
        begin += len(part)
        frames.append(frame)
    return x, pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _labels(part: Chunk) -> pd.DataFrame:
    s = part.subjects
    columns: dict[str, object] = {
        "record": part.records,
        "patient_id": part.patients,
        "age": s.age.astype(int),
        "sex": np.where(s.male, "M", "F"),
        "device": [DEVICES[k].name for k in s.device],
        "site": [SITES[k] for k in s.site],
        "rhythm": [RHYTHMS[k] for k in part.rhythm.kind],
    }
    columns |= {name: value.astype(np.int8) for name, value in part.labels.items()}
    numbers = {k: v for k, v in part.measures.items() if v.ndim == 1 and not k.endswith("_s")}
    columns |= {name: np.round(value, 3) for name, value in numbers.items()}
    columns |= {f"cond_{name}": value.astype(np.int8) for name, value in s.cond.items()}
    return pd.DataFrame(columns)


def truth_columns(part: Chunk) -> pd.DataFrame:
    """Everything measured on each record's usual beat, float32: ``truth_qrs_ms``, ``truth_r_V1`` (mV), ...

    What belongs to a P wave is NaN where most beats have none (fibrillation, flutter, pacing).
    """
    p_seen = part.rhythm.conducted.sum(axis=1) > 0.5 * np.maximum((part.rhythm.shape >= 0).sum(axis=1), 1)
    columns: dict[str, np.ndarray] = {}
    for name, value in part.measures.items():
        value = np.asarray(value, np.float32)
        if name.startswith(("p_", "pr_")):
            value = np.where(p_seen, value, np.float32(np.nan))
        if value.ndim == 1:
            columns[f"truth_{name}"] = value
        else:
            columns |= {f"truth_{name}_{lead}": value[:, k] for k, lead in enumerate(CHANNELS)}
    return pd.DataFrame(columns).round(4)


def _wfdb(output: Path, row: Any, x: np.ndarray, fs: float = 500.0, **_: Any) -> Path:
    from medfm.formats import wfdb

    comments = (f"Age: {row.age}", f"Sex: {row.sex}", "Simulated by medfm")
    path = output / "records" / row.record
    return wfdb.write(path, x, fs, CHANNELS, comments)


def _edf(output: Path, row: Any, x: np.ndarray, fs: float = 500.0, **_: Any) -> Path:
    from medfm.formats import edf

    path = output / "records" / f"{row.record}.edf"
    return edf.write(path, x, fs, CHANNELS, patient=row.patient_id)


def _csv(output: Path, row: Any, x: np.ndarray, fs: float = 500.0, **_: Any) -> Path:
    from medfm.formats import table

    path = output / "records" / f"{row.record}.csv"
    return table.write_csv(path, x, fs, CHANNELS)


def _dicom(output: Path, row: Any, x: np.ndarray, fs: float = 500.0, **_: Any) -> Path:
    from medfm.formats import dicom

    path = output / "records" / f"{row.record}.dcm"
    who = {"patient": row.patient_id, "age": row.age, "sex": row.sex}
    return dicom.write_ecg(path, x, fs, CHANNELS, **who)


# format -> (folder, row of the table, x [12, T] mV, the generator's options) -> the file written
WRITERS = {"wfdb": _wfdb, "edf": _edf, "csv": _csv, "dicom": _dicom}
