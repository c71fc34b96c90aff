"""Public data sets as data: one YAML each in ``datasets/``, with licence, access, citation, rows, patients
and labels.

``medfm`` downloads nothing. A user names where a data set lies (``--data ptb-xl=/path``), and the catalogue
makes the manifest. A fact that its maintainers do not state is left out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from medfm import paths
from medfm.data.dataset import (
    ContainerRows,
    Dataset,
    GlobRows,
    PictureRows,
    SubjectRows,
    TableRows,
    UnionRows,
    VolumeRows,
)
from medfm.data.label_rules import FindingsRule, MaskRule
from medfm.data.manifest import Manifest, as_identifier, read_table
from medfm.data.picture_rows import read_rows
from medfm.types import ConfigError, MedfmError

log = logging.getLogger("medfm")


def names() -> list[str]:
    """Ids of the catalogued data sets."""
    return sorted(file.stem for file in paths.datasets().glob("*.yaml"))


@lru_cache
def load(name: str) -> Dataset:
    """One data set by id (case does not matter). Raises :class:`ConfigError` naming the known ones."""
    from difflib import get_close_matches

    ident = name.strip().casefold()
    file = paths.datasets() / f"{ident}.yaml"
    if ident not in names():
        near = get_close_matches(ident, names(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"unknown data set {name!r}; known: {', '.join(names())}.{hint}")
    return Dataset.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def overlaps(name: str) -> dict[str, str]:
    """Catalogued data sets that share patients or pictures with this one, and what is known of it; either YAML may say so."""
    ident = load(name).id
    told = {overlap.dataset: overlap.says for overlap in load(ident).shared()}
    for other in names():
        for overlap in load(other).shared():
            if overlap.dataset == ident:
                told.setdefault(other, overlap.says)
    return told


def in_common(first: Iterable[str], second: Iterable[str]) -> list[str]:
    """Sentences on what two corpora have in common, for instance one to pretrain on and one to test on.

    first, second: names of sources; those that are not catalogued are passed over.
    """
    known = set(names())
    said = []
    for a in dict.fromkeys(n.casefold() for n in first):
        for b in dict.fromkeys(n.casefold() for n in second):
            if a == b and a in known:
                said.append(f"{a} is in both.")
            elif {a, b} <= known and b in (shared := overlaps(a)):
                said.append(f"{a} and {b} overlap: {shared[b]}")
    return said


def manifest(
    name: str,
    root: str | Path,
    labels: str | None = "default",
    drop_unlabelled: bool = False,
    views: str | None = None,
) -> Manifest:
    """The manifest of a data set that lies at ``root``.

    labels: a label set (``medfm data datasets NAME`` lists them), ``"default"``, or None for no label
    column. drop_unlabelled: leave out records without any label of the set, as the PTB-XL benchmark does
    before it splits. views: ``frontal`` (default where the tables state views), ``lateral`` or ``all``.

    A label set of masks leaves out volumes without one, and their places are the column ``label``.

    Raises :class:`MedfmError` when the folder is not this data set, and :class:`ConfigError` for an unknown
    label set, for views of a data set that states none, or for a union, which has no rows of its own.
    """
    dataset, root = load(name), Path(root).expanduser()
    if isinstance(dataset.rows, UnionRows):
        raise ConfigError(_parts(dataset, dataset.rows))
    if not root.is_dir():
        raise MedfmError(f"{dataset.id}: folder not found: {root}. {dataset.where()}")
    chosen = _label_set(dataset, labels)
    rule = dataset.labels
    needed = rule.needs(chosen) if rule and chosen else []
    if isinstance(dataset.rows, PictureRows):
        frame, source = read_rows(dataset, dataset.rows, root, needed, views)
        repeats = dataset.rows.repeats
    elif views:
        raise ConfigError(
            f"{dataset.id} has no frontal and lateral pictures to choose from; leave --views out."
        )
    elif isinstance(dataset.rows, VolumeRows | SubjectRows):
        (frame, source), repeats = _volumes(dataset, dataset.rows, root, needed), False
        if isinstance(rule, MaskRule):
            frame = _masked(dataset, dataset.rows, frame, root) if chosen else frame.drop(columns="label")
    else:
        frame, repeats = _rows(dataset, root), False
        source = frame
        if dataset.split and dataset.split.column:
            part_of = {value: part for part, values in dataset.split.parts.items() for value in values}
            frame["split"] = frame[dataset.split.column].map(part_of)
    values = None
    if rule and chosen and not isinstance(rule, MaskRule):
        values = rule.apply(source, chosen, root)
    if repeats:
        first = ~frame["record"].duplicated()
        if values is not None and isinstance(rule, FindingsRule) and chosen:
            values = rule.agree(values, frame["record"], chosen).set_axis(frame.index[first])
        frame = frame[first]
    if values is not None:
        # A label may have the name of a manifest column; the data set's own column gives way.
        frame = pd.concat([frame.drop(columns=[c for c in values if c in frame]), values], axis=1)
        if drop_unlabelled:
            frame = frame[values.fillna(0).any(axis=1)]
    known = frame["patient"].notna().all()
    frame["patient"] = frame["patient"].fillna(frame["record"])
    frame = frame.drop(columns=[c for c in ("scp_codes",) if c in frame])
    made = Manifest.from_frame(frame, root=root.resolve(), patient="patient", source=f"{dataset.id}={root}")
    return Manifest(made.frame, bool(known), made.source)


def _volumes(
    dataset: Dataset, rows: VolumeRows | SubjectRows, root: Path, needed: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    # With the readers of volumes, which a listing of data sets does not need.
    from medfm.data import subject_rows, volume_rows

    if isinstance(rows, SubjectRows):
        return subject_rows.read_rows(dataset, rows, root, needed)
    return volume_rows.read_rows(dataset, rows, root, needed)


def _masked(
    dataset: Dataset, rows: VolumeRows | SubjectRows, frame: pd.DataFrame, root: Path
) -> pd.DataFrame:
    """The rows with a mask. A published split of which only one part has masks is no split to train and test on."""
    frame = frame[frame["label"].notna()].reset_index(drop=True)
    if frame.empty:
        raise MedfmError(
            f"{root}: no volume of {dataset.id} has its mask beside it. Masks lie at {rows.layout}. `medfm data table "
            f"{dataset.id}={root} --labels none` lists the volumes alone."
        )
    one = "split" in frame and frame["split"].nunique() < 2
    return frame.drop(columns="split") if one else frame


def _parts(dataset: Dataset, rows: UnionRows) -> str:
    words = " ".join(f"--data {part}=/path" for part in rows.catalogued())
    return f"{dataset.id} is a union of {len(rows.parts)} data sets; name those you have one by one: {words}."


def _label_set(dataset: Dataset, labels: str | None) -> str | None:
    """The label set that is meant; None for no labels."""
    if dataset.labels is None:
        if labels not in (None, "default"):
            raise ConfigError(f"{dataset.id} comes without labels; drop labels={labels!r}.")
        return None
    chosen = dataset.labels.default if labels == "default" else labels
    if chosen is not None and chosen not in dataset.labels.sets():
        raise ConfigError(
            f"{dataset.id} has no label set {labels!r}; it has {', '.join(dataset.labels.sets())}."
        )
    return chosen


def _rows(dataset: Dataset, root: Path) -> pd.DataFrame:
    if isinstance(dataset.rows, GlobRows):
        return _glob(dataset, dataset.rows, root)
    rows = dataset.rows
    assert isinstance(rows, TableRows | ContainerRows), "pictures and volumes have their own readers"
    table = root / rows.file
    if not table.is_file():
        raise MedfmError(f"{root} is not {dataset.id}: its table {rows.file} is missing. {dataset.where()}")
    source = read_table(table)
    path = rows.path if isinstance(rows, TableRows) else [rows.container]
    if missing := [c for c in (*path, rows.record, rows.patient) if c not in source]:
        raise MedfmError(
            f"{table}: columns {', '.join(missing)} are missing; is this another version of {dataset.id}?"
        )
    wanted = [*rows.keep, dataset.split.column if dataset.split else None]
    wanted += [getattr(dataset.labels, "column", None)]
    wanted += [c for columns in getattr(dataset.labels, "columns", {}).values() for c in columns]
    frame = source[
        [c for c in dict.fromkeys(wanted) if c in source and c not in ("record", "patient")]
    ].copy()
    frame["record"] = as_identifier(source[rows.record]).astype(str)
    frame["patient"] = as_identifier(source[rows.patient])
    if isinstance(rows, TableRows):
        frame["path"] = _first_existing(source, rows.path, root)
    else:
        frame["path"] = _inside(source, rows, frame["record"], root)
    absent = int(frame["path"].isna().sum())
    if absent == len(frame):
        raise MedfmError(f"{dataset.id}: none of the {len(frame)} records of {rows.file} lies below {root}.")
    if absent:
        log.warning(
            "%s: %d of %d records do not lie below %s and are left out.", dataset.id, absent, len(frame), root
        )
    return frame[frame["path"].notna()].reset_index(drop=True)


def _first_existing(source: pd.DataFrame, columns: list[str], root: Path) -> list[str | None]:
    """Paths relative to the root; a WFDB record is named without a suffix."""
    found: list[str | None] = []
    for candidates in source[columns].itertuples(index=False):
        hit = None
        for value in candidates:
            if isinstance(value, str) and ((root / f"{value}.hea").is_file() or (root / value).is_file()):
                hit = f"{value}.hea" if (root / f"{value}.hea").is_file() else value
                break
        found.append(hit)
    return found


def _inside(source: pd.DataFrame, rows: ContainerRows, records: pd.Series, root: Path) -> list[str | None]:
    from medfm.formats.hdf5 import exam_ids

    addresses: dict[tuple[str, str], str] = {}
    for file in sorted(set(source[rows.container].dropna().astype(str))):
        if (root / file).is_file():
            addresses.update({(file, ident): f"{file}#{i}" for i, ident in enumerate(exam_ids(root / file))})
    return [addresses.get((str(file), ident)) for file, ident in zip(source[rows.container], records)]


def _glob(dataset: Dataset, rows: GlobRows, root: Path) -> pd.DataFrame:
    files = sorted(root.glob(rows.pattern))
    if not files:
        raise MedfmError(f"{root} is not {dataset.id}: no file matches {rows.pattern}. {dataset.where()}")
    frame = pd.DataFrame({"path": [str(f.resolve()) for f in files], "record": [f.stem for f in files]})
    if frame["record"].duplicated().any():
        twice = frame.loc[frame["record"].duplicated(), "record"].iloc[0]
        raise MedfmError(f"{root}: record {twice} stands twice; give the folder of {dataset.id} alone.")
    one = {record: "+".join(group) for group in rows.same_patient for record in group}
    frame["patient"] = frame["record"].map(lambda r: one.get(r, r)) if rows.patient == "record" else pd.NA
    if dataset.expected.records and len(frame) != dataset.expected.records:
        log.warning("%s: %d records found, %d expected.", dataset.id, len(frame), dataset.expected.records)
    return frame


# --data words
# ----------------------------------------------------------------------------------------------------


def resolve_source(
    word: str, *, modality: Any = None, patient: str | None = "patient_id", labels: str | None = None
) -> tuple[Manifest, float, str]:
    """``PATH``, ``TABLE`` or ``DATASET=PATH``, each with an optional ``@WEIGHT`` -> (manifest, weight,
    name).

    Pretraining tolerates unknown patients: where none are known each record counts as its own patient,
    ``patients_known`` is False, and the log says so. ``patient`` names the column of a table; another name
    than the default must exist. ``modality`` limits a folder to files with its suffixes.

    Raises :class:`ConfigError` for an unknown data set or a data set without a path, :class:`MedfmError`
    otherwise.
    """
    base, weight = split_weight(word)
    name, equals, place = base.partition("=")
    if equals and not Path(base).exists():
        dataset = load(name)
        if modality is not None and dataset.modality != modality.name:
            raise ConfigError(f"{dataset.id} is {dataset.modality}, the run's modality is {modality.name}.")
        return _told(manifest(dataset.id, place, labels)), weight, dataset.id
    path = Path(base).expanduser()
    if not path.exists():
        if base.casefold() in names():
            dataset = load(base)
            if isinstance(dataset.rows, UnionRows):
                raise ConfigError(_parts(dataset, dataset.rows))
            raise ConfigError(f"say where {dataset.id} lies: --data {dataset.id}=/path. {dataset.where()}")
        raise ConfigError(f"--data {base}: no such file, folder or data set (known: {', '.join(names())}).")
    if path.is_dir():
        return _told(_folder(path, modality)), weight, path.resolve().name
    return _told(tolerant(path, patient)), weight, path.stem


def split_weight(word: str) -> tuple[str, float]:
    """``waves/@0.5`` -> (``waves/``, 0.5); no weight is 1. A path that exists as it stands has no weight."""
    if Path(word).exists():
        return word, 1.0
    match = re.fullmatch(r"(.+)@([0-9]*\.?[0-9]+(?:e-?\d+)?)", word)
    if not match:
        return word, 1.0
    if float(match[2]) <= 0:
        raise ConfigError(f"--data {word}: a weight must be above zero.")
    return match[1], float(match[2])


def tolerant(path: Path, patient: str | None) -> Manifest:
    """A table's manifest for unlabelled use: blank or missing patients are replaced by their records."""
    from medfm.data.scan import is_table

    if not is_table(path):
        frame = pd.DataFrame({"path": [str(path.resolve())]})
        return Manifest.from_frame(frame, patient=None, source=str(path))
    frame, root = read_table(path), path.parent.resolve()
    if patient is None or (patient == "patient_id" and patient not in frame):
        return Manifest.from_frame(frame, root=root, patient=None, source=str(path))
    if patient not in frame or as_identifier(frame[patient]).notna().all():
        return Manifest.from_frame(frame, root=root, patient=patient, source=str(path))
    made = Manifest.from_frame(frame, root=root, patient=None, source=str(path)).frame
    made["patient"] = as_identifier(made[patient]).fillna(made["record"]).astype(str)
    return Manifest(made, False, str(path))


def _folder(path: Path, modality: Any) -> Manifest:
    """The table that ``medfm data synthesize`` or ``scan`` left in the folder, or every record found below
    it."""
    from medfm import formats
    from medfm.data.rooms import room_of
    from medfm.data.scan import find_records, is_table

    room = formats if modality is None else room_of(modality)
    for name in ("table.csv", "manifest.csv"):
        if (path / name).is_file() and is_table(path / name):
            return tolerant(path / name, "patient_id")
    addresses, failed = find_records(path, room)
    for file, reason in failed:
        log.warning("%s: set aside: %s", file, reason)
    if not addresses:
        raise MedfmError(f"{path}: none of its files can be read; {failed[0][1]}")
    if hasattr(room, "rows"):
        frame = room.rows(addresses)
        stated = frame["patient_id"] != ""
        frame["patient_id"] = frame["patient_id"].where(stated, frame["record"])
        return Manifest(Manifest.from_frame(frame, source=str(path)).frame, bool(stated.all()), str(path))
    frame = pd.DataFrame({"path": [str(Path(a).resolve()) for a in addresses]})
    patients = [_stated_patient(address, room) for address in addresses]
    made = Manifest.from_frame(frame, patient=None, source=str(path)).frame
    made["patient"] = [stated or record for stated, record in zip(patients, made["record"])]
    if hasattr(room, "volume_of"):
        made["volume"] = [room.volume_of(address) for address in made["path"]]
    return Manifest(made, all(patients), str(path))


def _stated_patient(address: str, room: Any) -> str | None:
    """The patient that a file states. WFDB, CSV, array and picture formats have no place for one and are not
    opened."""
    if hasattr(room, "patient"):
        return room.patient(address)  # type: ignore[no-any-return]
    suffix = Path(address.split("#")[0]).suffix.lower()
    if room.SUFFIXES.get(suffix) not in ("edf", "dicom", "ecg_xml", "kardia"):
        return None
    try:
        return room.read(address).patient
    except MedfmError:
        return None  # ingest reads the file again and reports it with its reason


def _told(made: Manifest) -> Manifest:
    if not made.patients_known:
        log.warning(
            "%s: patients are not known for every record; each such record counts as its own patient, so "
            "splits and probes may be optimistic. Give a table with a patient_id column to mend that.",
            made.source,
        )
    return made
