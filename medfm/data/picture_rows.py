"""The rows of a picture data set in its published layout: tables joined by key, patients, views, official splits, and where
each picture lies.

A hundred thousand rows take seconds: columns are read that are needed, everything is a column operation, and the folders are
listed once instead of asking for every file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from medfm.data.dataset import Dataset, Join, Origin, PictureRows, SourceTable, Split
from medfm.data.manifest import as_identifier
from medfm.formats import pictures
from medfm.types import ConfigError, MedfmError

log = logging.getLogger("medfm")

VIEWS = ("frontal", "lateral", "all")


def read_rows(
    dataset: Dataset, rows: PictureRows, root: Path, labels: list[str], views: str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(rows of the manifest, the lines of the source tables that belong to them), with one index.

    labels: source columns that the label rule reads. views: ``frontal`` (what None means where the data set has several),
    ``lateral`` or ``all``. Paths are absolute; lines whose picture is absent are left out, and the log says how many.

    Raises :class:`MedfmError` for a missing table or column, or when no picture lies below ``root``;
    :class:`ConfigError` for ``views`` of a data set whose tables state none.
    """
    if views not in (None, *VIEWS):
        raise ConfigError(f"--views {views}: use {', '.join(VIEWS)}.")
    if views and not rows.views:
        raise ConfigError(
            f"{dataset.id} has no frontal and lateral pictures to choose from; leave --views out."
        )
    origins = [rows.image, *rows.keep.values()]
    origins += [rows.patient] if rows.patient else []
    origins += [rows.views.origin] if rows.views else []
    texts = {name for origin in origins for name in origin.names()} | {join.by for join in rows.joins}
    texts |= {dataset.split.column} if dataset.split and dataset.split.column else set()
    source = _joined(dataset, rows, root, texts, labels)
    named = value(source, rows.image)
    source = source[named.notna()].reset_index(drop=True)
    frame = pd.DataFrame({"record": [_key(name, rows.depth) for name in named.dropna()]})
    frame["patient"] = as_identifier(value(source, rows.patient)) if rows.patient else pd.NA
    for name, origin in rows.keep.items():
        frame[name] = kept_column(source, name, origin)
    split = _split(dataset, source, frame["record"], root)
    if split is not None:
        frame["split"] = split
    kept = _in_view(dataset, rows, source, views)
    frame["path"] = _found(frame["record"], root, rows.depth)
    _say_absent(dataset, frame.loc[kept], root)
    kept &= frame["path"].notna()
    return frame[kept].reset_index(drop=True), source[kept].reset_index(drop=True)


def value(source: pd.DataFrame, origin: Origin) -> pd.Series:
    """Text at an origin, one a line; blank is missing."""
    found = pd.Series(pd.NA, source.index, dtype="string")
    for name in origin.columns:
        if name in source:
            text = source[name].astype("string").str.strip().replace("", pd.NA)
            if origin.pattern:
                text = text.str.extract(origin.pattern, expand=False)
            found = found.fillna(text)
    if origin.values is not None:
        found = found.map({text: str(v) for text, v in origin.values.items()}).astype("string")
    if origin.minus:
        found = pd.to_numeric(found, errors="coerce")
        found = found - (
            pd.to_numeric(source[origin.minus], errors="coerce") if origin.minus in source else pd.NA
        )
    return found


def kept_column(source: pd.DataFrame, name: str, origin: Origin) -> pd.Series:
    """A column of the manifest: age as a number, sex as M or F, others as text."""
    column = value(source, origin)
    if name == "age":
        return pd.to_numeric(column, errors="coerce")
    if name == "sex":
        initial = column.str[0].str.upper()
        return initial.where(initial.isin(["M", "F"]))
    return column


# Tables
# ----------------------------------------------------------------------------------------------------


def _joined(
    dataset: Dataset, rows: PictureRows, root: Path, texts: set[str], labels: list[str]
) -> pd.DataFrame:
    """The source tables one below the other, with the columns of the joined ones beside them."""
    wanted = texts | set(labels)
    parts = [_table(dataset, table, root, texts, wanted) for table in rows.tables]
    source = pd.concat([part for part in parts if part is not None], ignore_index=True)
    source = joined_tables(dataset, rows.joins, source, root, texts, labels)
    needed = [rows.image.columns]
    # Only an optional table may leave patients unknown.
    needed += [rows.patient.columns] if rows.patient and not any(j.optional for j in rows.joins) else []
    needed += [[dataset.split.column]] if dataset.split and dataset.split.column else []
    if missing := [names[0] for names in needed if not any(name in source for name in names)]:
        raise MedfmError(
            f"{root}: its tables have no column {', '.join(missing)}; is this another version of {dataset.id}?"
        )
    return source


def joined_tables(
    dataset: Dataset, joins: list[Join], source: pd.DataFrame, root: Path, texts: set[str], labels: list[str]
) -> pd.DataFrame:
    """``source`` with the columns of the joined tables that are in ``texts`` or ``labels`` beside its own."""
    wanted = texts | set(labels)
    for join in joins:
        if join.labels and not any(name.startswith(join.prefix) for name in labels):
            continue
        files = _files(root, join.files)
        if files:
            source = _beside(source, join, files if join.every else files[:1], texts, wanted)
        elif not join.optional:
            raise MedfmError(f"{dataset.id}: {_name(join)} is missing below {root}. {dataset.where()}")
    return source


def _table(
    dataset: Dataset, table: SourceTable, root: Path, texts: set[str], wanted: set[str]
) -> pd.DataFrame | None:
    file = _file(root, table.files)
    if file is None:
        if table.optional:
            return None
        raise MedfmError(
            f"{root} is not {dataset.id}: its table {_name(table)} is missing. {dataset.where()}"
        )
    part = _read(file, texts, wanted)
    return part.assign(**{_PART: table.split}) if table.split else part


_PART = "the part of its table"  # no published column has this name


def _beside(
    source: pd.DataFrame, join: Join, files: list[Path], texts: set[str], wanted: set[str]
) -> pd.DataFrame:
    """``source`` with the wanted columns of a table whose key is unique, or stands first of several equal lines."""
    key, cut = join.key or join.by, len(join.prefix)
    own = {name[cut:] for name in wanted if name.startswith(join.prefix)} - {join.by}
    tables = [_read(file, texts | {key}, own | {key}, join.separator) for file in files]
    for file, table in zip(files, tables):
        if key not in table:
            raise MedfmError(f"{file}: column {key} is missing; is this another version?")
    other = pd.concat(tables, ignore_index=True)
    other = other[other[key].notna()].drop_duplicates(key).set_index(key).add_prefix(join.prefix)
    other = other[[name for name in other if name not in source]].copy()
    if join.mark:
        other[join.mark] = 1.0
    found = other.reindex(source[join.by]) if join.by in source else other.iloc[:0].reindex(source.index)
    return pd.concat([source, found.set_axis(source.index)], axis=1)


def _read(file: Path, texts: set[str], wanted: set[str], separator: str = ",") -> pd.DataFrame:
    """The wanted columns of a CSV or JSON table; those in ``texts`` as they are written (an id of 36 digits is no number)."""
    try:
        if file.name.removesuffix(".gz").endswith(".json"):
            frame = pd.read_json(file, dtype=False)
            return frame[[name for name in frame if name in wanted]]
        names = list(pd.read_csv(file, nrows=0, index_col=False, sep=separator).columns)
        titles = {name: str(name).strip() for name in names if str(name).strip() in wanted}
        kinds = {name: "string" for name, title in titles.items() if title in texts}
        # Some published tables end every row with a comma: without index_col=False pandas takes ids for an index.
        frame = pd.read_csv(  # type: ignore[call-overload]
            file, usecols=list(titles), dtype=kinds, index_col=False, low_memory=False, sep=separator
        )
    except (ValueError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise MedfmError(f"{file}: cannot be read as a table ({reason}); download it again.") from error
    return frame.rename(columns=titles)


def _file(root: Path, names: list[str]) -> Path | None:
    """The first of the possible files that exists."""
    return next(iter(_files(root, names)), None)


def _files(root: Path, names: list[str]) -> list[Path]:
    """Those of the possible files that exist, in order."""
    return [found for name in names for like in (name, f"{name}.gz") for found in sorted(root.glob(like))]


def _name(table: SourceTable | Join) -> str:
    return table.files[0]


# Splits, views, places
# ----------------------------------------------------------------------------------------------------


def _split(dataset: Dataset, source: pd.DataFrame, records: pd.Series, root: Path) -> pd.Series | None:
    if _PART in source:
        return source[_PART]
    if dataset.split is None:
        return None
    if dataset.split.lists:
        return _listed(dataset, dataset.split, records, root)
    part_of = {str(v): part for part, values in dataset.split.parts.items() for v in values}
    return source[dataset.split.column].map(part_of)


def _listed(dataset: Dataset, split: Split, records: pd.Series, root: Path) -> pd.Series | None:
    """Parts by files that name one picture a line."""
    if missing := [file for file in split.lists.values() if not (root / file).is_file()]:
        log.warning(
            "%s: %s is missing below %s, so the official split is not known and every picture counts as training data.",
            dataset.id,
            " and ".join(missing),
            root,
        )
        return None
    part_of = {
        _key(line.strip(), 1): part
        for part, file in split.lists.items()
        for line in (root / file).read_text(encoding="utf-8").splitlines()
    }
    return records.map(part_of)


def _in_view(dataset: Dataset, rows: PictureRows, source: pd.DataFrame, views: str | None) -> pd.Series:
    """Which lines to keep: those of the view, and the log says what is left out."""
    if rows.views is None or views == "all":
        return pd.Series(True, source.index)
    chosen = views or "frontal"
    listed = rows.views.frontal if chosen == "frontal" else rows.views.lateral
    said = value(source, rows.views.origin).str.casefold()
    kept = said.isin([view.casefold() for view in listed])
    if left := int((~kept).sum()):
        blank = int(said.isna().sum())
        log.warning(
            "%s: %d of %d pictures are not %s%s and are left out; `medfm data table --views all` keeps them.",
            dataset.id, left, len(kept), chosen, f" ({blank} state no view)" if blank else "",
        )  # fmt: skip
    return kept


def _say_absent(dataset: Dataset, frame: pd.DataFrame, root: Path) -> None:
    absent = int(frame["path"].isna().sum())
    if absent == len(frame):
        raise MedfmError(f"{dataset.id}: none of the {len(frame)} pictures in its tables lies below {root}.")
    if absent:
        log.warning(
            "%s: %d of %d pictures do not lie below %s and are left out.",
            dataset.id,
            absent,
            len(frame),
            root,
        )


def _found(records: pd.Series, root: Path, depth: int) -> pd.Series:
    """Absolute paths by record; missing where no picture of that name lies below the root."""
    places, twins = picture_places(root, depth)
    if twice := [record for record in records if record in twins]:
        log.warning(
            "%s: %d picture(s) lie there twice, for instance %s and %s; the first is taken. Give a folder with one copy.",
            root, len(set(twice)), places[twice[0]], twins[twice[0]],
        )  # fmt: skip
    return records.map(places)


def picture_places(root: Path, depth: int = 1) -> tuple[dict[str, str], dict[str, str]]:
    """Name without suffix (or the last ``depth`` parts) -> absolute path, of every picture below ``root``, by suffix alone;
    and a second place of those that lie twice. Folders are listed in order, links to folders followed once."""
    places: dict[str, str] = {}
    twins: dict[str, str] = {}
    for folder, names in walk(root):
        for name in names:
            if f".{name.rpartition('.')[2]}".lower() in pictures.SUFFIXES:
                path = f"{folder}{os.sep}{name}"
                key = _key(path, depth)
                (twins if key in places else places).setdefault(key, path)
    return places, twins


def walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) of ``root`` and every folder below it, in order and without hidden ones; links to folders
    are followed once."""
    seen = {os.path.realpath(root)}
    folders = [str(root.resolve())]
    while folders:
        folder, inner, files = folders.pop(), [], []
        with os.scandir(folder) as listing:
            entries = sorted((e for e in listing if not e.name.startswith(".")), key=lambda e: e.name)
        for entry in entries:
            if not entry.is_dir():
                files.append(entry.name)
                continue
            real = os.path.realpath(entry.path) if entry.is_symlink() else ""
            if real not in seen:
                inner.append(entry.path)
                seen |= {real} if real else set()
        yield folder, files
        folders += reversed(inner)


def _key(name: str, depth: int) -> str:
    """``a/b/c.png`` -> ``c``, or with depth 2 ``b/c``; only the suffix of a picture is cut."""
    stem, _, suffix = name.rpartition(".")
    stem = stem if f".{suffix}".lower() in pictures.SUFFIXES else name
    return stem.rsplit("/", 1)[-1] if depth == 1 else "/".join(stem.split("/")[-depth:])
