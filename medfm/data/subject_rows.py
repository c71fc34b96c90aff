"""The rows of an MRI data set in its published layout: the files of each subject's sequences by their places, masks, tables.

Nothing is opened but tables (and, of DICOM, headers): every rule is a regular expression over all places at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from medfm.data.dataset import Dataset, Join, Origin, SubjectRows
from medfm.data.manifest import as_identifier
from medfm.data.picture_rows import joined_tables, kept_column, value, walk
from medfm.formats.subject import join_subject
from medfm.formats.volume import SUFFIXES
from medfm.modalities.mri_sequences import SEQUENCES
from medfm.types import MedfmError

log = logging.getLogger("medfm")

_PLACE, _PART, _NAME = "the place of a file", "the part of a place", "the sequence of a file"


def read_rows(
    dataset: Dataset, rows: SubjectRows, root: Path, labels: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(rows of the manifest, the same rows with what places and tables say), with one index: a row a subject (or a visit).

    labels: source columns that the label rule reads. ``path`` is the subject's address, and ``label`` its mask (missing where none
    lies there), both absolute. What the layout refuses is named in the log.

    Raises :class:`MedfmError` for a missing table, or when no subject of this layout lies below ``root``.
    """
    frame, source = _by_place(dataset, rows, root) if rows.parts else _as_any_folder(dataset, rows, root)
    if dataset.expected.records and len(frame) < dataset.expected.records:
        log.warning(
            "%s: %d of %d subjects lie below %s.", dataset.id, len(frame), dataset.expected.records, root
        )
    for name, rule in rows.names.items():
        source[name] = source["record"].str.replace(rule.find, rule.put, regex=True)
    source = joined_tables(
        dataset, rows.joins, source, root, _texts(rows.keep.values(), rows.joins, rows.patient), labels
    )
    if rows.patient:
        frame["patient"] = as_identifier(value(source, rows.patient))
    for name, origin in rows.keep.items():
        frame[name] = kept_column(source, name, origin)
    return frame, source


def _by_place(dataset: Dataset, rows: SubjectRows, root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    base = f"{root.resolve()}{os.sep}"
    suffixes = tuple(SUFFIXES)
    places = pd.Series(
        [
            f"{folder}{os.sep}{name}"[len(base) :].replace(os.sep, "/")
            for folder, names in walk(root)
            for name in names
            if name.lower().endswith(suffixes)
        ],
        dtype=object,
    )
    found = _files(places, rows)
    sentences = []
    for refused in rows.refused:
        if n := int(places.str.contains(refused.path).sum()):
            sentences.append(refused.says)
            log.warning("%s: %d file(s) are no rows: %s", dataset.id, n, refused.says)
    if found.empty:
        why = " ".join(sentences) or f"no subject lies at {rows.layout}. {dataset.where()}"
        raise MedfmError(f"{root} is not {dataset.id}: {why}")
    twice = found.duplicated(["record", _NAME])
    if twice.any():
        record, name = found.loc[twice, ["record", _NAME]].iloc[0]
        first, second = found.loc[(found["record"] == record) & (found[_NAME] == name), _PLACE].iloc[:2]
        log.warning(
            "%s: %d file(s) lie there twice, for instance %s and %s; the first is taken. Give a folder with one copy.",
            root, int(twice.sum()), first, second,
        )  # fmt: skip
    found = found[~twice]
    files = {
        r: dict(zip(g[_NAME], base + g[_PLACE].str.replace("/", os.sep)))
        for r, g in found.groupby("record", sort=False)
    }
    source = found.drop_duplicates("record").drop(columns=[_PLACE, _NAME]).reset_index(drop=True)
    frame = pd.DataFrame({"record": source["record"].astype(str)})
    frame["path"] = [
        join_subject({s: files[r][s] for s in dict.fromkeys(rows.sequences.values()) if s in files[r]})
        for r in source["record"]
    ]
    frame["patient"] = pd.NA
    if source[_PART].notna().any():
        frame["split"] = source[_PART]
    if rows.masks:
        masks = _masks(places, rows)
        frame["label"] = [
            base + masks[r].replace("/", os.sep) if r in masks else None for r in source["record"]
        ]
    return frame, source


def _files(places: pd.Series, rows: SubjectRows) -> pd.DataFrame:
    """A row a file of a sequence, with the groups of its place as columns."""
    parts = []
    names = {text.casefold(): name for text, name in rows.sequences.items()}
    for part in rows.parts:
        found = places.str.extract(part.path)
        found = found[found["record"].notna()]
        found = found.assign(**{_PLACE: places[found.index], _PART: part.split})
        found[_NAME] = found["sequence"].str.casefold().map(names)
        parts.append(found[found[_NAME].notna()])
    return pd.concat(parts, ignore_index=True)


def _masks(places: pd.Series, rows: SubjectRows) -> dict[str, str]:
    masks: dict[str, str] = {}
    for like in rows.masks:
        records = places.str.extract(like)["record"].dropna()
        for at, record in records.items():
            masks.setdefault(record, places[at])
    return masks


def _as_any_folder(dataset: Dataset, rows: SubjectRows, root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As :func:`~medfm.data.subjects.find_subjects` finds them, which is told in the log where it left something out."""
    from medfm.data.subject_table import subjects_frame
    from medfm.data.subjects import find_subjects

    try:
        found = find_subjects(root, SEQUENCES)
    except MedfmError as error:
        raise MedfmError(f"{root} is not {dataset.id}: {error} {dataset.where()}") from error
    for place, why in found.failed:
        log.warning("%s: set aside: %s", place, why)
    if not found.subjects:
        raise MedfmError(f"{root}: no subject of {dataset.id} can be used; {found.failed[0][1]}")
    frame = subjects_frame(found.subjects)
    frame["patient"] = frame.pop("patient_id").replace("", pd.NA)
    return frame.drop(columns=[c for c in ("label",) if c in frame]), frame[["record"]].copy()


def _texts(origins: Iterable[Origin], joins: list[Join], patient: Origin | None) -> set[str]:
    """Columns of the tables that are read as they are written."""
    every = [*origins, *([patient] if patient else [])]
    return {name for origin in every for name in origin.names()} | {join.by for join in joins}
