"""MRI corpora: subjects by the chunk or in memory, their labels, and the files they go to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.synthetic.mri import Chunk, Subject, simulate
from medfm.synthetic.mri_subjects import SITES
from medfm.synthetic.mri_tissues import SEQUENCES

FILES = (*SEQUENCES, "label")


def mri_chunks(
    patients: int,
    seed: int = 1,
    spacing: float | Sequence[float] = 2.0,
    missing: float = 0.0,
    skull: bool = False,
    noise: float | None = None,
    records_per_patient: int = 1,
    start_subject: int = 0,
    chunk: int = 8,
    prevalence: Mapping[str, float] | None = None,
    truths: bool = False,
) -> Iterator[tuple[list[Subject], pd.DataFrame]]:
    """``(subjects, labels)`` chunk by chunk. A :class:`~medfm.synthetic.mri.Subject` has ``x`` (all four contrasts, float32
    ``[X, Y, Z]``, RAS+), ``present`` (those that were acquired), ``label`` (uint8: 0, 1 core without enhancement, 2 oedema,
    4 enhancement) and ``affine``; shapes differ.

    spacing (mm, one number or three), missing (share of the subjects), skull, noise and prevalence (``{"tumour": share}``):
    see :func:`medfm.synthetic.mri.simulate`.

    labels: a row a subject and day: ``record, patient_id, age, sex, site, device, has_tumour, subtype, grade, time_months,
    event, missing`` (sequences, separated by blanks) and ``volume_*_ml``; without a tumour ``subtype``, ``grade``,
    ``time_months`` and ``event`` are empty. With ``truths`` the numbers again as ``truth_*``, and ``truth_risk`` (the
    linear predictor of survival) and ``truth_atrophy``.
    """
    keys = [(start_subject + p, r) for p in range(patients) for r in range(records_per_patient)]
    for start in range(0, len(keys), chunk):
        part = simulate(
            keys[start : start + chunk],
            seed,
            spacing=spacing,
            missing=missing,
            skull=skull,
            noise=noise,
            prevalence=prevalence,
        )
        labels = _labels(part)
        yield part.subjects, pd.concat([labels, truth_columns(part)], axis=1) if truths else labels


def mri_volumes(patients: int, seed: int = 1, **options: Any) -> tuple[list[Subject], pd.DataFrame]:
    """All subjects of :func:`mri_chunks` in memory, with labels; options as there."""
    subjects: list[Subject] = []
    frames = []
    for part, frame in mri_chunks(patients, seed, **options):
        subjects += part
        frames.append(frame)
    return subjects, pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _labels(part: Chunk) -> pd.DataFrame:
    p = part.people
    known = p.tumour
    lost = [" ".join(n for n in SEQUENCES if n not in s.present) for s in part.subjects]
    return pd.DataFrame(
        {
            "record": part.records,
            "patient_id": part.patients,
            "age": p.age.astype(int),
            "sex": np.where(p.male, "M", "F"),
            "site": [SITES[k].name for k in p.site],
            "device": [SITES[k].device for k in p.site],
            "has_tumour": known.astype(np.int8),
            "subtype": np.where(known, p.subtype, np.nan),
            "grade": np.where(known, p.grade, np.nan),
            "time_months": np.where(known, np.maximum(p.months, 0.01).round(2), np.nan),
            "event": np.where(known, p.event, np.nan),
            **{name: value.round(2) for name, value in part.measures.items()},
            "missing": lost,
        }
    )


def truth_columns(part: Chunk) -> pd.DataFrame:
    """What the generator knows of each subject, float32: ``truth_age``, ``truth_volume_core_ml``, ...; the risk is NaN
    without a tumour."""
    p = part.people
    numbers = {
        "age": p.age,
        "atrophy": p.atrophy,
        "risk": np.where(p.tumour, p.risk, np.nan),
        **part.measures,
    }
    return pd.DataFrame({f"truth_{k}": np.asarray(v, np.float32) for k, v in numbers.items()}).round(4)


def _nifti(output: Path, row: Any, subject: Subject, **_: Any) -> tuple[Path | None, ...]:
    """A file a sequence that was acquired, and the labels, named as BraTS does."""
    from medfm.formats.volume_write import write_nifti

    folder = output / "records" / row.record
    paths: list[Path | None] = [
        write_nifti(folder / f"{row.record}_{name}.nii.gz", subject.x[name].astype(np.int16), subject.affine)
        if name in subject.present
        else None
        for name in SEQUENCES
    ]
    return (*paths, write_nifti(folder / f"{row.record}_seg.nii.gz", subject.label, subject.affine))


# format -> (folder, row of the table, subject, the generator's options) -> files by the columns of FILES, None: no file
WRITERS = {"nifti": _nifti}
