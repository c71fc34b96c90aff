"""The rows of a volume data set in its published layout: volumes by their places, masks beside them, patients, splits and
tables.

Nothing is opened but tables: the folders are listed once, and every rule is a regular expression over all places at once, so
that a hundred thousand volumes take seconds.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pandas as pd

from medfm.data.dataset import Dataset, Origin, VolumeRows
from medfm.data.manifest import as_identifier
from medfm.data.picture_rows import joined_tables, kept_column, value, walk
from medfm.formats.volume import SUFFIXES
from medfm.types import MedfmError

log = logging.getLogger("medfm")

_PLACE, _PART = "the place of a volume", "the part of a place"  # no published column has these names


def read_rows(
    dataset: Dataset, rows: VolumeRows, root: Path, labels: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(rows of the manifest, the same rows with what places and tables say), with one index.

    labels: source columns that the label rule reads. Paths and masks (column ``label``, missing where none lies there) are
    absolute. What the layout refuses or lists as left out is named in the log.

    Raises :class:`MedfmError` for a missing table, or when no volume of this layout lies below ``root``.
    """
    places = _places(root, rows.slices)
    source = _volumes(dataset, rows, places, root)
    source = _without(dataset, rows, source, root)
    source = joined_tables(dataset, rows.joins, source, root, _texts(dataset, rows), labels)
    base = f"{root.resolve()}{os.sep}"
    frame = pd.DataFrame({"record": source["record"].astype(str)})
    frame["path"] = base + source[_PLACE].str.replace("/", os.sep, regex=False)
    frame["patient"] = as_identifier(value(source, rows.patient)) if rows.patient else pd.NA
    for name, origin in rows.keep.items():
        frame[name] = kept_column(source, name, origin)
    if dataset.split and dataset.split.column:
        part_of = {str(v): part for part, values in dataset.split.parts.items() for v in values}
        frame["split"] = value(source, Origin(columns=[dataset.split.column])).map(part_of)
    elif source[_PART].notna().any():
        frame["split"] = source[_PART]
    if rows.mask:
        mask = source[_PLACE].str.replace(rows.mask.find, rows.mask.put, regex=True)
        there = mask.isin(set(places)) & (mask != source[_PLACE])
        frame["label"] = (base + mask.str.replace("/", os.sep, regex=False)).where(there, None)
    return frame, source


def _places(root: Path, slices: int | None) -> list[str]:
    """Places below ``root`` of every volume file, or of every folder with at least so many files."""
    base = len(str(root.resolve())) + 1
    if slices is not None:
        return [folder[base:].replace(os.sep, "/") for folder, names in walk(root) if len(names) >= slices]
    suffixes = tuple(SUFFIXES)
    return [
        f"{folder}{os.sep}{name}"[base:].replace(os.sep, "/")
        for folder, names in walk(root)
        for name in names
        if name.lower().endswith(suffixes)
    ]


def _volumes(dataset: Dataset, rows: VolumeRows, places: list[str], root: Path) -> pd.DataFrame:
    """A row a volume, with the groups of its place as columns."""
    listed = pd.Series(places, dtype=object)  # regular expressions of Python, whatever strings pandas keeps
    parts = []
    for part in rows.parts:
        found = listed.str.extract(part.path)
        found = found[found["record"].notna()]
        parts.append(found.assign(**{_PLACE: listed[found.index], _PART: part.split}))
    source = pd.concat(parts, ignore_index=True)
    sentences = []
    for refused in rows.refused:
        if n := int(listed.str.contains(refused.path).sum()):
            sentences.append(refused.says)
            log.warning("%s: %d file(s) are no rows: %s", dataset.id, n, refused.says)
    if source.empty:
        why = " ".join(sentences) or f"no volume lies at {rows.layout}. {dataset.where()}"
        raise MedfmError(f"{root} is not {dataset.id}: {why}")
    twice = source["record"].duplicated()
    if twice.any():
        name = source.loc[twice, "record"].iloc[0]
        first, second = source.loc[source["record"] == name, _PLACE].iloc[:2]
        log.warning(
            "%s: %d volume(s) lie there twice, for instance %s and %s; the first is taken. Give a folder with one copy.",
            root, int(twice.sum()), first, second,
        )  # fmt: skip
    source = source[~twice].reset_index(drop=True)
    if dataset.expected.records and len(source) < dataset.expected.records:
        log.warning(
            "%s: %d of %d volumes lie below %s.", dataset.id, len(source), dataset.expected.records, root
        )
    return source


def _without(dataset: Dataset, rows: VolumeRows, source: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The volumes that no list of the publisher leaves out."""
    if not rows.without:
        return source
    files = [file for like in rows.without for file in sorted(root.glob(like))]
    if not files:
        log.warning(
            "%s: none of its lists of volumes to leave out (%s) lies below %s; all volumes are kept.",
            dataset.id, ", ".join(rows.without), root,
        )  # fmt: skip
        return source
    lines = [line.strip() for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    names = {line.rsplit("/", 1)[-1] for line in lines}
    out = source[_PLACE].str.rsplit("/", n=1).str[-1].isin(names)
    if out.any():
        log.warning(
            "%s: %d volumes are left out, as %s says.", dataset.id, int(out.sum()), " and ".join(f.name for f in files)
        )  # fmt: skip
    if out.all():
        raise MedfmError(f"{root}: all of its volumes are on the lists of volumes to leave out.")
    return source[~out].reset_index(drop=True)


def _texts(dataset: Dataset, rows: VolumeRows) -> set[str]:
    """Columns of the tables that are read as they are written."""
    origins = [*rows.keep.values(), *([rows.patient] if rows.patient else [])]
    split = {dataset.split.column} if dataset.split and dataset.split.column else set()
    return {name for origin in origins for name in origin.names()} | {join.by for join in rows.joins} | split
