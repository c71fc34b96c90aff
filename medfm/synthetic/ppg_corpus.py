"""PPG corpora: arrays for training in memory or by the chunk, their labels, and the file formats they go to."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.synthetic.ppg import UNITS, Chunk, simulate
from medfm.synthetic.ppg_days import ACTIVITIES
from medfm.synthetic.ppg_rhythm import ATRIAL, VENTRICULAR
from medfm.synthetic.ppg_subjects import DEVICES
from medfm.types import ConfigError

# A site's table is for trying a question on few patients: fibrillation is commoner than in the training mix.
SITE_PREVALENCE: dict[str, float] = {"af_persistent": 0.14, "af_paroxysmal": 0.10}
_EPOCH = 1_700_000_000  # s; a date for formats that ask for one


def ppg_chunks(
    patients: int,
    seed: int = 1,
    fs: float = 125.0,
    seconds: float = 10.0,
    records_per_patient: int = 4,
    start_subject: int = 0,
    chunk: int = 64,
    channels: Sequence[str] = ("ppg",),
    prevalence: Mapping[str, float] | None = None,
    truths: bool = False,
) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    """``(x float32 [m, C, T], labels)`` chunk by chunk: memory stays flat however many patients there are.

    labels: a row a record, patient by patient: who (``age``, ``sex``, ``bmi``, ``skin_tone`` Fitzpatrick 1 to 6), when
    (``time_h``, ``activity``), with what (``device``), ``sbp`` and ``dbp`` as a cuff would have read them then,
    ``hypertension`` by the usual pressures (from 140 or 90 mmHg), ``heart_rate`` (of the electrical beats inside), binary
    rhythm labels of this record, ``quality`` 0 to 1, and ``cond_*``, the person's tendencies; with ``truths`` the numbers
    behind the signal as ``truth_*``.
    """
    keys = [(start_subject + p, r) for p in range(patients) for r in range(records_per_patient)]
    for start in range(0, len(keys), chunk):
        part = simulate(
            keys[start : start + chunk],
            seed,
            fs=fs,
            seconds=seconds,
            channels=channels,
            prevalence=prevalence,
        )
        labels = _labels(part, seconds)
        yield part.x, pd.concat([labels, truth_columns(part, seconds)], axis=1) if truths else labels


def ppg_arrays(
    patients: int,
    *,
    seed: int = 1,
    fs: float = 125.0,
    seconds: float = 10.0,
    records_per_patient: int = 4,
    start_subject: int = 0,
    truths: bool = False,
    channels: Sequence[str] = ("ppg",),
    prevalence: Mapping[str, float] | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """``(x float32 [n, C, T], labels)`` of ``patients * records_per_patient`` records, by patient, then record."""
    x = np.empty((patients * records_per_patient, len(channels), round(fs * seconds)), np.float32)
    frames, begin = [], 0
    chunks = ppg_chunks(
        patients,
        seed,
        fs,
        seconds,
        records_per_patient,
        start_subject,
        channels=channels,
        prevalence=prevalence,
        truths=truths,
    )
    for part, frame in chunks:
        x[begin : begin + len(part)] = part
        begin += len(part)
        frames.append(frame)
    return x, pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _inside(part: Chunk, seconds: float) -> np.ndarray:
    return (part.rhythm.time >= 0) & (part.rhythm.time < seconds)


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Mean of a record's beats ``[n]``; NaN where it has none."""
    count = where.sum(axis=1)
    return np.where(where, values, 0).sum(axis=1) / np.where(count > 0, count, np.nan)


def _af_seconds(part: Chunk, seconds: float) -> np.ndarray:
    span = np.minimum(part.rhythm.af_to, seconds) - np.maximum(part.rhythm.af_from, 0)
    return np.nan_to_num(span).clip(0)


def _labels(part: Chunk, seconds: float) -> pd.DataFrame:
    people, day, rhythm, inside = part.people, part.day, part.rhythm, _inside(part, seconds)
    rate = 60 / _mean(rhythm.rr, inside)
    afib = _af_seconds(part, seconds) >= min(3.0, 0.3 * seconds)  # as for the synthetic ECG
    columns: dict[str, object] = {
        "record": part.records,
        "patient_id": part.patients,
        "age": people.age.astype(int),
        "sex": np.where(people.male, "M", "F"),
        "bmi": people.bmi.round(1),
        "height_m": people.height.round(2),
        "skin_tone": people.skin,
        "device": [DEVICES[k].name for k in day.device],
        "wavelength": [DEVICES[k].wavelength for k in day.device],
        "activity": [ACTIVITIES[k] for k in day.activity],
        "time_h": day.time_h.round(3),
        "sbp": (people.sbp + 1.3 * day.pressure).round(),
        "dbp": (people.dbp + 0.85 * day.pressure).round(),
        "hypertension": ((people.sbp >= 140) | (people.dbp >= 90)).astype(np.int8),
        "heart_rate": rate.round(2),
        "rhythm": np.where(afib, "afib", "sinus"),
        "afib": afib.astype(np.int8),
        "pvc": (inside & (rhythm.kind == VENTRICULAR)).any(axis=1).astype(np.int8),
        "pac": (inside & (rhythm.kind == ATRIAL)).any(axis=1).astype(np.int8),
        "bradycardia": (rate < 60).astype(np.int8),
        "tachycardia": (rate > 100).astype(np.int8),
        "quality": part.quality.round(4),
    }
    columns |= {f"cond_{name}": value.astype(np.int8) for name, value in people.cond.items()}
    return pd.DataFrame(columns)


def truth_columns(part: Chunk, seconds: float) -> pd.DataFrame:
    """The numbers behind each record's signal as ``truth_*``: stiffness index (m/s), reflection (second wave over first),
    rise (foot to peak at 70 beats a minute, s), pat_s, breath_hz, perfusion (of channel ``ppg``), mean pressure (mmHg),
    rr_cv and rmssd_s of the intervals inside, shares of the record in fibrillation and disturbed, resting rate."""
    people, day, rhythm, inside = part.people, part.day, part.rhythm, _inside(part, seconds)
    mean = _mean(rhythm.rr, inside)
    spread = np.sqrt(_mean((rhythm.rr - mean[:, None]) ** 2, inside))
    both = inside[:, 1:] & inside[:, :-1]
    columns = {
        "stiffness": day.stiffness,
        "reflection": (people.reflection + day.tone).clip(0.2, 1.1),
        "rise_s": people.first,
        "pat_s": _mean(part.pat, inside),
        "breath_hz": day.breath_hz,
        "perfusion": day.perfusion,
        "mean_pressure": people.mean_pressure + day.pressure,
        "rr_cv": spread / mean,
        "rmssd_s": np.sqrt(_mean(np.diff(rhythm.rr, axis=1) ** 2, both)),
        "af_share": _af_seconds(part, seconds) / seconds,
        "disturbed_share": part.busy.mean(axis=1),
        "resting_rate": people.rate,
    }
    return pd.DataFrame({f"truth_{k}": np.round(v, 5).astype(np.float32) for k, v in columns.items()})


def _wfdb(
    output: Path, row: Any, x: np.ndarray, fs: float = 125.0, channels: Sequence[str] = ("ppg",), **_: Any
) -> Path:
    """Format 16, each channel over the whole range of its 16 bits: light differs from its mean by a percent."""
    name, path = row.record, output / "records" / f"{row.record}.dat"
    middle = x.mean(axis=1, dtype=float)
    gain = 32000 / np.maximum(np.abs(x - middle[:, None]).max(axis=1), 1e-4)
    baseline = np.rint(-middle * gain).astype(int)
    steps = np.rint(x * gain[:, None] + baseline[:, None]).astype("<i2")
    lines = [f"{name} {len(x)} {fs:.12g} {x.shape[1]}"]
    for channel, g, zero, row_steps in zip(channels, gain, baseline, steps):
        checksum = int(row_steps.sum(dtype=np.int64)) % 65536
        lines.append(
            f"{name}.dat 16 {g:.12g}({zero})/{UNITS[channel]} 16 0 {row_steps[0]} {checksum} 0 {channel}"
        )
    lines += [f"# Age: {row.age}", f"# Sex: {row.sex}", f"# Device: {row.device}", "# Simulated by medfm"]
    np.ascontiguousarray(steps.T).tofile(path)
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path.with_suffix(".hea")


def _csv(
    output: Path, row: Any, x: np.ndarray, fs: float = 125.0, channels: Sequence[str] = ("ppg",), **_: Any
) -> Path:
    path = output / "records" / f"{row.record}.csv"
    time = np.round(np.arange(x.shape[1]) / fs, 6)
    columns = {"time (s)": time} | {
        f"{c} ({UNITS[c]})": v.round(6) for c, v in zip(channels, x.astype(float))
    }
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def _e4(
    output: Path, row: Any, x: np.ndarray, fs: float = 125.0, channels: Sequence[str] = ("ppg",), **_: Any
) -> Path:
    """A zip as an Empatica E4 exports it: BVP.csv, and ACC.csv (1/64 g) where all three axes are there. Each begins with the
    start (Unix seconds) and the rate; the pulse is written without its DC, as the E4 does."""
    path = output / "records" / f"{row.record}.zip"
    if not {"ppg", "green"} & set(channels):
        raise ConfigError("an E4 folder holds a pulse: put ppg or green among the channels.")
    start = _EPOCH + round(3600 * row.time_h)
    light = x[[c in ("ppg", "green") for c in channels]][:1]
    tables = {"BVP.csv": (light - light.mean(axis=1, keepdims=True)) * 1e4}
    axes = [f"acc_{a}" for a in "xyz"]
    if set(axes) <= set(channels):
        tables["ACC.csv"] = np.rint(64 * x[[list(channels).index(a) for a in axes]])
    with zipfile.ZipFile(path, "w") as archive:
        for name, table in tables.items():
            head = [[start] * len(table), [fs] * len(table)]
            lines = [", ".join(f"{v:.6f}" for v in values) for values in head]
            digits = ".2f" if name == "BVP.csv" else ".0f"
            lines += [",".join(f"{v:{digits}}" for v in values) for values in table.T]
            archive.writestr(zipfile.ZipInfo(name), "\n".join(lines) + "\n")
    return path


# format -> (folder, row of the table, x [C, T], the generator's options) -> the file written
WRITERS = {"wfdb": _wfdb, "csv": _csv, "e4": _e4}
