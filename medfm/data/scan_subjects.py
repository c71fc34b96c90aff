"""What a scan says of MRI subjects: which sequences they have, on which grid, their masks, and the patterns of what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.data.scan_volumes import extents
from medfm.data.subject_table import Subject, names_volume, sequence_columns
from medfm.formats.subject import join_subject, split_subject
from medfm.formats.volume import read_volume
from medfm.formats.volume_space import orientation_codes
from medfm.modalities.mri_sequences import sequence_of, subject_name
from medfm.paths import seen_from
from medfm.types import Finding, ReadError, Volume


@dataclass(frozen=True)
class SubjectRecord:
    """One readable subject.

    present: its sequences, of ``sequences`` in order. shape, spacing (mm), orientation: of the file of the first. grid: voxels
    on the model's grid. label: its mask, and ``classes``: the numbers that stand in it.
    """

    path: str
    record: str
    format: str
    sequences: tuple[str, ...]
    present: tuple[str, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    grid: tuple[int, ...]
    findings: tuple[Finding, ...]
    label: str | None = None
    classes: tuple[int, ...] = ()
    patient: str | None = None
    site: str | None = None
    age: float | None = None
    sex: str | None = None

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity != "info")

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(s for s in self.sequences if s not in self.present)

    @property
    def named(self) -> bool:
        """Are its files all named as volume files are? A DICOM folder is not."""
        return all(map(names_volume, (split_subject(self.path) or {"": self.path}).values()))

    def places(self, folder: Path | None, named: bool) -> dict[str, Any]:
        """Where its files are: a column a sequence, blank where it is missing; the address in the column ``path`` where a
        subject of the table is not ``named``, since only names of volume files tell the columns of sequences from others."""
        files = split_subject(self.path) or {self.sequences[0]: self.path}
        files = {sequence_of(name, self.sequences) or name: file for name, file in files.items()}
        seen = sequence_columns([join_subject(files)], folder or Path("/"), self.sequences).iloc[0].to_dict()
        return seen if named else {"path": join_subject({name: seen[name] for name in files})}

    def row(self) -> dict[str, Any]:
        """What the manifest says of this subject beside its files, name, patient and findings."""
        return {
            "missing": " ".join(self.missing),
            "format": self.format,
            "voxels": " x ".join(map(str, self.shape)),
            "spacing": " x ".join(f"{mm:.4g}" for mm in self.spacing),
            "orientation": self.orientation,
            "site": self.site or "",
            "age": self.age,
            "sex": self.sex or "",
        }

    def mask(self, folder: Path | None) -> dict[str, Any]:
        return {"label": seen_from(self.label, folder or Path("/")) if self.label else ""}


def inspect_subject(address: str, modality: Any, about: Subject | None) -> SubjectRecord:
    """One subject through ``modality.place``, and its mask where ``about`` names one. Raises :class:`ReadError` with the reason
    where it cannot."""
    volumes = modality.open(address)
    placed = modality.place(volumes)
    sample = placed.sample
    first = volumes[placed.reference]
    label, classes, told = _mask(about.label if about else None, first)
    age, sex = (next((v.meta[k] for v in volumes.values() if v.meta.get(k)), None) for k in ("age", "sex"))
    age = about.age if about and about.age is not None else age
    sex = about.sex if about and about.sex else sex
    return SubjectRecord(
        path=address,
        record=about.record if about and about.record else subject_name(address),
        format=" ".join(dict.fromkeys(v.format for v in volumes.values())),
        sequences=tuple(modality.sequences),
        present=tuple(s for s, there in zip(sample.channels, sample.present) if there),
        shape=tuple(first.x.shape),
        spacing=first.spacing,
        orientation=orientation_codes(first.affine),
        grid=tuple(sample.x.shape[1:]),
        findings=(*sample.findings, *(about.findings if about else ()), *told),
        label=label,
        classes=classes,
        patient=(about.patient if about else None) or sample.patient,
        site=about.site if about else None,
        age=float(age) if isinstance(age, int | float) else None,
        sex=str(sex) if sex else None,
    )


def _mask(label: str | None, first: Volume) -> tuple[str | None, tuple[int, ...], tuple[Finding, ...]]:
    """The mask if it can be used, its numbers, and what is wrong with it."""
    from medfm.modalities.mri_grid import same_grid  # scipy, which a scan of signals does not need

    if label is None:
        return None, (), ()
    try:
        mask = read_volume(label, label=True)
    except ReadError as error:
        return None, (), (Finding("label-unreadable", f"its mask is left out: {error}"),)
    if mask.x.shape != first.x.shape or not same_grid(mask, first):
        have, want = (" x ".join(map(str, v.x.shape)) for v in (mask, first))
        other = f"{have} voxels instead of {want}" if have != want else "another place or direction"
        return (
            None,
            (),
            (Finding("label-grid", f"its mask is left out: it does not lie on its grid ({other})."),),
        )
    classes = tuple(int(v) for v in np.unique(mask.x) if v)
    told = [] if classes else [Finding("label-empty", "its mask holds nothing but background.", "info")]
    if {3, 4} <= set(classes):
        message = (
            "its mask holds 3 and 4: in BraTS 4 is enhancement up to 2021, 3 is from 2023 on, and 4 is then the resection "
            "cavity; check which it is."
        )
        told.append(Finding("label-3-and-4", message, "info"))
    return label, classes, tuple(told)


def is_place(column: pd.Series) -> bool:
    """Does a column of a table name volume files: sequences or masks?"""
    known = column.dropna()
    return bool(len(known)) and all(map(names_volume, known))


def subject_summary(records: Sequence[SubjectRecord]) -> dict[str, Any]:
    """Patterns of sequences (most frequent first), each sequence's count, sites, masks, extents and axes."""
    masked = [r for r in records if r.label]
    sites = Counter(r.site for r in records if r.site)
    cells = np.prod([r.grid for r in records], axis=1)
    return {
        "sequences": {s: sum(s in r.present for r in records) for s in records[0].sequences},
        "patterns": dict(Counter(" ".join(r.present) for r in records).most_common()),
        "sites": dict(sites.most_common()),
        "masks": {
            "subjects": len(masked),
            "classes": dict(Counter(" ".join(map(str, r.classes)) or "none" for r in masked).most_common()),
        },
        **extents(records),
        "store_mib": round(float(cells.sum()) * 2 * len(records[0].sequences) / 2**20, 1),
    }


def mixed_labels(summary: dict[str, Any]) -> str | None:
    """A sentence where masks of one folder call enhancement 4 and those of another subject 3."""
    kinds = [set(words.split()) for words in summary["masks"]["classes"]]
    old, new = (sum(one in k and other not in k for k in kinds) for one, other in (("4", "3"), ("3", "4")))
    if not (old and new):
        return None
    return (
        "some masks hold 4 and others 3: BraTS up to 2021 has 4 for enhancement, later ones 3 (and 4 for the resection cavity); "
        "train on one of them, or renumber."
    )
