"""The MRI studies of a DICOM tree: which series is which sequence, whose they are, and the reason for every series."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medfm.formats import series
from medfm.formats.base import reading
from medfm.formats.dicom import identity
from medfm.formats.mri_tags import MRTags, sequence_by_tags, tags_of
from medfm.formats.series_header import read_header
from medfm.formats.series_report import SeriesReport

RULE = "readable before refused, original before derived, then most slices, finest voxels, first series"


@dataclass(frozen=True)
class Study:
    """One study of one patient: ``files`` is the address of the series taken for each sequence, ``said`` a sentence for
    every series of it."""

    uid: str
    date: str
    patient: str | None
    age: float | None
    sex: str | None
    site: str | None
    files: dict[str, str]
    said: tuple[str, ...]


@dataclass(frozen=True)
class _Series:
    report: SeriesReport
    tags: MRTags
    sequence: str | None
    why: str

    @property
    def rank(self) -> tuple[bool, bool, int, float, int]:
        """First is best; sorting keeps the order of the series' numbers."""
        report = self.report
        return (
            report.refusal is not None,
            self.tags.derived,
            -report.n_slices,
            round(float(np.prod(report.spacing)), 3),
            0,
        )


def find_studies(folder: str | Path, wanted: Callable[[str], str | None]) -> list[Study]:
    """Studies with at least one MR series, by patient and date; headers only. wanted: what the site calls a sequence (``t1``),
    None for one that it does not use."""
    path = Path(folder)
    studies: dict[tuple[str, str], list[_Series]] = defaultdict(list)
    owners: dict[tuple[str, str], dict[str, Any]] = {}
    with reading(path, "DICOM"), series._tree(path) as root:
        found = series._index(root).found
        for one in found:
            report = series._addressed(path, root, one, found).report
            header = read_header(one.stack.slices[0].path, whole=True)
            patient, meta = identity(header)
            key = (patient or "", str(header.get("StudyInstanceUID", "") or ""))
            owners.setdefault(
                key,
                {
                    "date": str(header.get("StudyDate", "") or ""),
                    "age": meta.get("age"),
                    "sex": meta.get("sex"),
                    "site": str(header.get("InstitutionName", "") or "").strip() or None,
                },
            )
            studies[key].append(_recognised(report, tags_of(header), wanted))
    made = []
    for (patient, uid), several in studies.items():
        if any(s.report.modality == "MR" for s in several):
            files, said = _taken(several)
            made.append(
                Study(uid=uid, patient=patient or None, files=files, said=said, **owners[patient, uid])
            )  # type: ignore[arg-type]
    return sorted(made, key=lambda s: (s.patient or "", s.date, s.uid))


def _recognised(report: SeriesReport, tags: MRTags, wanted: Callable[[str], str | None]) -> _Series:
    if report.modality != "MR":
        return _Series(report, tags, None, f"not MR but {report.modality or 'of no stated modality'}")
    name, why = sequence_by_tags(tags)
    if name is None or (own := wanted(name)) is None:
        return _Series(
            report, tags, None, why if name is None else f"{why}: {name} is not among the sequences"
        )
    return _Series(report, tags, own, why)


def _taken(several: list[_Series]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The best series of each sequence, and what happened to each."""
    best: dict[str, _Series] = {}
    for one in sorted((s for s in several if s.sequence), key=lambda s: s.rank):
        best.setdefault(str(one.sequence), one)
    files, said = {}, []
    for one in several:
        if one.sequence is None:
            said.append(f"{one.report.line}: left out: {one.why}.")
        elif (first := best[one.sequence]) is not one:
            said.append(
                f"{one.report.line}: left out: {one.sequence} is taken from {first.report.line} ({_better(first, one)})."
            )
        elif one.report.refusal:
            said.append(f"{one.report.line}: left out: it is {one.sequence}, but {one.report.refusal}")
        else:
            files[one.sequence] = one.report.address
            said.append(f"{one.report.line}: taken as {one.sequence} because {one.why}.")
    return files, tuple(said)


def _better(first: _Series, other: _Series) -> str:
    """In which point of :data:`RULE` ``first`` is the better one."""
    reasons = (
        "the other cannot be read as it is",
        "original, the other derived",
        f"{first.report.n_slices} slices against {other.report.n_slices}",
        "finer voxels",
        "the first of equals",
    )
    for point, (mine, its) in enumerate(zip(first.rank, other.rank)):
        if mine != its:
            return reasons[point]
    return reasons[-1]
