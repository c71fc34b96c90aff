"""CT corpora: volumes by the chunk or in memory, their labels, and the files they go to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.synthetic.ct import Chunk, Scan, simulate
from medfm.synthetic.ct_paint import ORGANS
from medfm.synthetic.ct_subjects import SITES
from medfm.types import ConfigError

# Faults of medfm.formats.series_write that are planted, in an order that stays: a scan's fault follows from its seed.
FAULTED = (
    *("missing", "duplicate", "conflict", "irregular", "tilt", "localizer", "secondary_capture"),
    *("second_series", "phases", "shuffled", "padding", "orientation", "one_slice", "truncated"),
)
_SWITCHES = ("spleen_seen_ml",)  # measured, and only a step on the way to a label


def ct_chunks(
    patients: int,
    seed: int = 1,
    spacing: float | Sequence[float] = 3.0,
    field: str = "trunk",
    thickness: float | None = None,
    size: int | Sequence[int] | None = None,
    faults: float = 0.0,
    records_per_patient: int = 1,
    start_subject: int = 0,
    chunk: int = 8,
    prevalence: Mapping[str, float] | None = None,
    truths: bool = False,
) -> Iterator[tuple[list[Scan], pd.DataFrame]]:
    """``(scans, labels)`` chunk by chunk. A :class:`~medfm.synthetic.ct.Scan` has ``x`` (int16 HU ``[X, Y, Z]``, RAS+),
    ``label`` (uint8, a row of :data:`~medfm.synthetic.ct_paint.ORGANS`) and ``affine``; shapes differ.

    spacing (mm, one number or three), field (chest, abdomen, trunk, mixed), thickness (mm) and size (most voxels an
    axis): see :func:`medfm.synthetic.ct.simulate`. faults: share of the scans with a fault planted when they are written
    as DICOM.

    labels: a row a scan: ``record, patient_id, age, sex, device, site, phase, field, kvp, noise_hu, fault``, findings by
    criterion (:mod:`medfm.synthetic.ct_measures`; empty where the field does not show the organ), the measured numbers
    behind them, ``volume_<organ>_ml`` (empty for an organ that the field cuts) and the generator's switches as
    ``cond_*``; with ``truths`` the numbers again as ``truth_*``, NaN where they are not known.
    """
    if not 0 <= faults <= 1:
        raise ConfigError(f"faults is {faults}; give a share of the scans between 0 and 1.")
    keys = [(start_subject + p, r) for p in range(patients) for r in range(records_per_patient)]
    for start in range(0, len(keys), chunk):
        part = simulate(
            keys[start : start + chunk],
            seed,
            spacing=spacing,
            field=field,
            thickness=thickness,
            size=size,
            prevalence=prevalence,
        )
        labels = _labels(part, faults)
        yield part.scans, pd.concat([labels, truth_columns(part)], axis=1) if truths else labels


def ct_volumes(patients: int, seed: int = 1, **options: Any) -> tuple[list[Scan], pd.DataFrame]:
    """All scans of :func:`ct_chunks` in memory, with labels; options as there."""
    scans: list[Scan] = []
    frames = []
    for part, frame in ct_chunks(patients, seed, **options):
        scans += part
        frames.append(frame)
    return scans, pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def ct_arrays(
    patients: int, seed: int = 1, spacing: float | Sequence[float] = 4.0, **options: Any
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """``(volumes, labels)``: int16 HU ``[X, Y, Z]``, RAS+, each of its own shape; options as in :func:`ct_chunks`."""
    scans, labels = ct_volumes(patients, seed, spacing=spacing, **options)
    return [s.x for s in scans], labels


def _labels(part: Chunk, faults: float) -> pd.DataFrame:
    s = part.subjects
    kinds = np.array(FAULTED)[(part.lots[:, 1] * len(FAULTED)).astype(int)]
    columns: dict[str, object] = {
        "record": part.records,
        "patient_id": part.patients,
        "age": s.age.astype(int),
        "sex": np.where(s.male, "M", "F"),
        "device": [e.device.name for e in part.settings],
        "site": [SITES[k] for k in s.site],
        "phase": [e.phase for e in part.settings],
        "field": [e.field for e in part.settings],
        "kvp": [e.device.volts for e in part.settings],
        "thickness_mm": [round(e.thickness, 3) for e in part.settings],
        "noise_hu": [round(e.noise, 2) for e in part.settings],
        "fault": np.where(part.lots[:, 0] < faults, kinds, ""),
    }
    for name, value in part.labels.items():
        columns[name] = value if np.isnan(value).any() else value.astype(np.int8)
    columns |= {name: np.round(value, 2) for name, value in part.measures.items() if name not in _SWITCHES}
    columns |= {f"cond_{name}": value.astype(np.int8) for name, value in s.cond.items()}
    return pd.DataFrame(columns)


def truth_columns(part: Chunk) -> pd.DataFrame:
    """Everything measured on each scan's label map, float32: ``truth_ctr``, ``truth_volume_liver_ml``, ..."""
    numbers = {k: v for k, v in part.measures.items() if k not in _SWITCHES}
    return pd.DataFrame({f"truth_{k}": np.asarray(v, np.float32) for k, v in numbers.items()}).round(4)


def _mask(output: Path, row: Any, scan: Scan) -> Path:
    from medfm.formats.volume_write import write_nifti

    names = output / "labels.json"
    if not names.exists():
        names.write_text(json.dumps({str(k): name for k, name in enumerate(ORGANS)}, indent=1) + "\n")
    return write_nifti(output / "labels" / f"{row.record}.nii.gz", scan.label, scan.affine)


def _nifti(output: Path, row: Any, scan: Scan, faults: float = 0.0, **_: Any) -> tuple[Path, Path]:
    from medfm.formats.volume_write import write_nifti

    if faults:
        raise ConfigError(
            "faults are planted in DICOM series only; choose that format, or leave faults at 0."
        )
    image = write_nifti(output / "records" / f"{row.record}.nii.gz", scan.x, scan.affine)
    return image, _mask(output, row, scan)


def _dicom(output: Path, row: Any, scan: Scan, **_: Any) -> tuple[Path, Path]:
    from medfm.formats.series_write import SeriesHeader, write_series

    header = SeriesHeader(
        age=row.age,
        sex=row.sex,
        device=row.device,
        body_part={"chest": "CHEST", "abdomen": "ABDOMEN"}.get(row.field, "CHESTABDOMEN"),
        description=f"{row.field} {row.phase}",
        kvp=float(row.kvp),
        contrast="" if row.phase == "none" else "iodine",
        thickness=row.thickness_mm,
    )
    # as scanners have it: columns run to the patient's left, rows to the back
    x, affine = scan.x[::-1, ::-1], scan.affine.copy()
    affine[:2, 3] += affine[[0, 1], [0, 1]] * (np.array(x.shape[:2]) - 1)
    affine[:2, :2] *= -1
    folder = write_series(
        output / "records" / row.record,
        x,
        affine,
        record=row.record,
        patient=row.patient_id,
        header=header,
        faults=(row.fault,) if row.fault else (),
    )
    return folder, _mask(output, row, scan)


# format -> (folder, row of the table, scan, the generator's options) -> image (file or folder) and label map
WRITERS = {"nifti": _nifti, "dicom": _dicom}
