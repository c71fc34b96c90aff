"""Radiograph corpora: arrays for training in memory or by the chunk, their labels, and the files they go to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.synthetic.radiograph import Chunk, simulate
from medfm.synthetic.xray_subjects import DEVICES, SITES

_BOXES = (
    "effusion",
    "consolidation",
    "pneumothorax",
    "nodule",
    "plate",
    "pacemaker",
    "tube",
    "line",
)


def radiograph_chunks(
    patients: int,
    seed: int = 1,
    size: int | tuple[int, int] = 256,
    views: Sequence[str] = ("PA", "AP"),
    records_per_patient: int = 1,
    start_subject: int = 0,
    chunk: int = 32,
    prevalence: Mapping[str, float] | None = None,
    truths: bool = False,
) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    """``(x float32 [m, 1, H, W], labels)`` chunk by chunk; x is 0 (black) to 1 (white), bones bright.

    labels: a row an image: ``record, patient_id, age, sex, device, site, view``, geometry (``pixel_mm``, ``sid_mm``,
    ``kvp``, ``frame``), binary labels by criterion (:func:`medfm.synthetic.radiograph.label`), the measured numbers
    behind them, ``box_*`` (left top right bottom of a finding's shadow in pixels, the last two excluded, or empty)
    and the generator's switches as ``cond_*``; with ``truths`` the numbers again as ``truth_*``, NaN where a number
    means nothing (the lungs' areas in a lateral view).
    """
    keys = [(start_subject + p, r) for p in range(patients) for r in range(records_per_patient)]
    for start in range(0, len(keys), chunk):
        part = simulate(keys[start : start + chunk], seed, size=size, views=views, prevalence=prevalence)
        labels = _labels(part)
        yield part.x[:, None], pd.concat([labels, truth_columns(part)], axis=1) if truths else labels


def radiograph_arrays(
    patients: int,
    seed: int = 1,
    size: int | tuple[int, int] = 256,
    views: Sequence[str] = ("PA", "AP"),
    records_per_patient: int = 1,
    start_subject: int = 0,
    prevalence: Mapping[str, float] | None = None,
    truths: bool = False,
) -> tuple[np.ndarray, pd.DataFrame]:
    """``(x float32 [n, 1, H, W], labels)`` of ``patients * records_per_patient`` images, one row each."""
    shape = (size, size) if isinstance(size, int) else tuple(size)
    x = np.empty((patients * records_per_patient, 1, *shape), np.float32)
    frames, begin = [], 0
    for part, frame in radiograph_chunks(
        patients, seed, size, views, records_per_patient, start_subject, prevalence=prevalence, truths=truths
    ):
        x[begin : begin + len(part)] = part
        begin += len(part)
        frames.append(frame)
    return x, pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _labels(part: Chunk) -> pd.DataFrame:
    s = part.subjects
    height, width = part.x.shape[1:]
    columns: dict[str, object] = {
        "record": part.records,
        "patient_id": part.patients,
        "age": s.age.astype(int),
        "sex": np.where(s.male, "M", "F"),
        "device": [DEVICES[k].name for k in s.device],
        "site": [SITES[k] for k in s.site],
        "view": part.views,
        "pixel_mm": [round(e.beam.pixel, 4) for e in part.settings],
        "sid_mm": [round(e.beam.sid) for e in part.settings],
        # a tube's spectrum has about this effective energy after its filter and the patient
        "kvp": [round(90 + (e.kev - 50) * 3.75) for e in part.settings],
        "frame": [
            " ".join(str(round(share * n)) for share, n in zip(e.frame, (width, height, width, height)))
            for e in part.settings
        ],
    }
    columns |= {name: value.astype(np.int8) for name, value in part.labels.items()}
    columns |= {name: np.round(value, 3) for name, value in part.measures.items()}
    for name in _BOXES:
        columns[f"box_{name}"] = [" ".join(map(str, b[name])) if name in b else "" for b in part.boxes]
    columns |= {f"cond_{name}": value.astype(np.int8) for name, value in s.cond.items()}
    return pd.DataFrame(columns)


def truth_columns(part: Chunk) -> pd.DataFrame:
    """Everything measured on each image's phantom, float32: ``truth_ctr``, ``truth_effusion_left_ml``, ..."""
    return pd.DataFrame({f"truth_{k}": np.asarray(v, np.float32) for k, v in part.measures.items()}).round(4)


def _dicom(output: Path, row: Any, x: np.ndarray, **_: Any) -> Path:
    from medfm.formats.radiograph_write import RadiographHeader, write_radiograph

    device = next(d for d in DEVICES if d.name == row.device)
    left, top, right, bottom = map(int, row.frame.split())
    header = RadiographHeader(
        record=row.record,
        patient=row.patient_id,
        age=row.age,
        sex=row.sex,
        view=row.view,
        device=row.device,
        cr=device.cr,
        bits=device.bits,
        inverse=device.inverse,
        pixel_mm=row.pixel_mm,
        sid_mm=row.sid_mm,
        kvp=row.kvp,
        frame=(left, top, right, bottom),
    )
    return write_radiograph(output / "records" / f"{row.record}.dcm", x[0], header)


# format -> (folder, row of the table, x [1, H, W], the generator's options) -> the file written
WRITERS = {"dicom": _dicom}
