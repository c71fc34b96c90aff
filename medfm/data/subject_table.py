"""One MRI subject, and subjects as rows of a table: an address each, or a column a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from medfm.formats.subject import join_subject, split_subject
from medfm.formats.volume import SUFFIXES
from medfm.paths import seen_from
from medfm.types import Finding


@dataclass(frozen=True)
class Subject:
    """files: address of each sequence there is, in the modality's order. label: its mask. study: StudyInstanceUID."""

    record: str
    files: dict[str, str]
    label: str | None = None
    patient: str | None = None
    site: str | None = None
    age: float | None = None
    sex: str | None = None
    study: str = ""
    findings: tuple[Finding, ...] = ()
    folder: Path = field(default=Path(), compare=False)

    @property
    def address(self) -> str:
        return join_subject(self.files)


def subjects_frame(subjects: Iterable[Subject]) -> pd.DataFrame:
    """Rows for a manifest: record, path (the address), patient_id (blank where unknown), and label, site, age, sex where any
    subject has one."""
    rows = [
        {
            "record": s.record,
            "path": s.address,
            "patient_id": s.patient or "",
            "label": s.label,
            "site": s.site,
            "age": s.age,
            "sex": s.sex,
        }
        for s in subjects
    ]
    frame = pd.DataFrame(rows)
    return frame.drop(columns=[c for c in ("label", "site", "age", "sex") if frame[c].isna().all()])


def sequence_columns(paths: Iterable[str], folder: Path, sequences: Sequence[str] = ()) -> pd.DataFrame:
    """Addresses of subjects as a column a sequence, blank where missing, files relative to ``folder`` where they lie below."""
    parts = [split_subject(path) or {} for path in paths]
    names = list(dict.fromkeys([*sequences, *(name for part in parts for name in part)]))
    return pd.DataFrame(
        {name: [_seen(part[name], folder) if name in part else "" for part in parts] for name in names}
    )


def in_columns(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Rows with addresses in ``path`` as a table in ``folder`` writes them: a column a sequence; of DICOM folders the address
    stays, since only names of volume files tell the columns of sequences from others."""
    columns = sequence_columns(frame["path"], folder)
    if all(names_volume(v) for name in columns for v in columns[name] if v):
        return pd.concat([columns, frame.drop(columns="path").reset_index(drop=True)], axis=1)
    short = [join_subject({n: v for n, v in row.items() if v}) for row in columns.to_dict("records")]
    return frame.assign(path=short)


def labelled(table: pd.DataFrame) -> dict[str, Subject]:
    """Address -> subject, of a manifest's rows (``path``, ``record``, and ``label`` where it names masks, ``site``)."""
    masks = table["label"] if "label" in table else [None] * len(table)
    sites = table["site"] if "site" in table else [None] * len(table)
    return {
        path: Subject(
            str(record),
            split_subject(path) or {"": path},
            mask if names_volume(mask) else None,
            site=site if isinstance(site, str) and site else None,
        )
        for path, record, mask, site in zip(table["path"], table["record"], masks, sites)
    }


def names_volume(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower().endswith(tuple(SUFFIXES))


def _seen(address: str, folder: Path) -> str:
    place, mark, part = address.partition("#")
    return f"{seen_from(place, folder)}{mark}{part}"
