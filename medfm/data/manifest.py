"""The manifest: one row a record, and the checks that keep a patient on one side of every split."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medfm.data.tables import read_table
from medfm.formats.subject import join_subject, split_subject
from medfm.types import ConfigError, MedfmError

COLUMNS = ("record", "path", "patient", "site", "split")
MASKS = (
    "label",
    "labels",
    "mask",
    "masks",
    "seg",
    "segmentation",
)  # columns of volume files that are no sequence


def as_identifier(column: pd.Series) -> pd.Series:
    """Patient ids as strings: 17.0 (a float column with blanks) and 17 are the same patient; a blank stays blank."""
    if pd.api.types.is_float_dtype(column):
        whole = column.dropna()
        if len(whole) and np.all(np.mod(whole, 1) == 0):
            column = column.astype("Int64")
    return column.astype("string").str.strip().replace("", pd.NA)


@dataclass(frozen=True)
class Manifest:
    """Rows ``record, path, patient, site, split`` and any label columns; paths absolute, patients strings.

    ``patients_known`` is False where the user chose to go on without a patient column: every record then stands for
    its own patient, and every result says so. ``lines`` are the rows of the whole table that a part was taken from.
    """

    frame: pd.DataFrame
    patients_known: bool = True
    source: str = ""
    lines: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def records(self) -> list[str]:
        return self.frame["record"].tolist()

    @property
    def paths(self) -> list[str]:
        return self.frame["path"].tolist()

    @property
    def patients(self) -> list[str]:
        return self.frame["patient"].tolist()

    @property
    def rows(self) -> np.ndarray:
        """``[n]`` rows in the user's table, whose header is row 1; of a folder, in its listing by ``medfm data codes``."""
        return np.arange(len(self)) + 2 if self.lines is None else self.lines

    @property
    def rates(self) -> list[float | None]:
        """Sampling rates in Hz from an ``fs`` column, for files that state none; None otherwise."""
        if "fs" not in self.frame:
            return [None] * len(self)
        values = pd.to_numeric(self.frame["fs"], errors="coerce")
        return [float(v) if np.isfinite(v) and v > 0 else None for v in values]

    @property
    def digest(self) -> str:
        """sha256 over records, patients and splits (never over absolute paths: the same data may lie elsewhere)."""
        cols = [c for c in ("record", "patient", "split") if c in self.frame]
        first, *others = (self.frame[c].fillna("").astype(str) for c in cols)
        text = first.str.cat(others, sep="\x1f") if others else first
        return hashlib.sha256("\n".join(sorted(text)).encode()).hexdigest()

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        root: Path | None = None,
        patient: str | None = "patient_id",
        source: str = "",
    ) -> Manifest:
        """Build from a table with a ``path`` column, or with a column of volume files for each sequence of an MRI, whose blanks
        are missing sequences (``path`` then is the subject's address, :mod:`medfm.formats.subject`). Relative paths are
        taken from ``root`` (the table's folder), and those of masks too where a column ``label`` names volume files.

        Raises :class:`MedfmError` without any such column, without the patient column (unless ``patient`` is None),
        with a blank patient id, or for a row without a file.
        """
        frame = frame.reset_index(drop=True).copy()
        where = source or "the table"
        if "path" not in frame and (sequences := _sequence_columns(frame)):
            frame["path"] = _addresses(frame, sequences, where)
        if "path" not in frame:
            raise MedfmError(
                f"{where}: no 'path' column. Rename the column of file names to path, in the first line; columns found: "
                f"{', '.join(map(str, frame.columns))}."
            )
        if frame["path"].isna().any():
            row = int(frame["path"].isna().idxmax()) + 2
            raise MedfmError(f"{where}: line {row} has no path; fill it in or drop the row.")
        raw = frame["path"].astype(str)
        frame["path"] = [_absolute(v, root) for v in raw]
        if "label" in frame and root is not None and _names_volumes(frame["label"]):
            frame["label"] = [
                str(root / v) if isinstance(v, str) and v.strip() else None for v in frame["label"]
            ]
        known = patient is not None
        if patient is not None:
            if patient not in frame:
                words = [str(c) for c in frame.columns if c != "path"]
                near = difflib.get_close_matches(patient.lower(), [w.lower() for w in words], n=1, cutoff=0.6)
                named = next((w for w in words if [w.lower()] == near), "COLUMN")
                raise ConfigError(
                    f"{where}: no patient column {patient!r}. Name it with --patient {named}; if every record really is "
                    "another patient, say so with --patient none (every result will be marked)."
                )
            ids = as_identifier(frame[patient])
            if ids.isna().any():
                row = int(np.flatnonzero(ids.isna())[0]) + 2
                raise MedfmError(
                    f"{where}: line {row} has no patient id in {patient!r}; fill it in or drop the row."
                )
            frame["patient"] = ids.astype(str)
        if "record" not in frame:
            frame["record"] = _record_names(raw)
        frame["record"] = frame["record"].astype(str)
        if patient is None:
            frame["patient"] = frame["record"]
        return cls(frame, known, source)

    @classmethod
    def from_table(cls, path: str | Path, *, patient: str | None = "patient_id") -> Manifest:
        path = Path(path)
        return cls.from_frame(read_table(path), root=path.parent.resolve(), patient=patient, source=str(path))

    def split(self, name: str) -> Manifest:
        return self._with(self.frame[self.frame["split"] == name])

    def take(self, rows: Iterable[int]) -> Manifest:
        return self._with(self.frame.iloc[list(rows)])

    def subset(self, n: int, seed: int = 0) -> Manifest:
        """``n`` patients (all their records), the same for the same seed."""
        patients = np.array(sorted(set(self.patients)))
        chosen = np.random.default_rng(seed).permutation(patients)[:n]
        return self._with(self.frame[self.frame["patient"].isin(chosen)])

    def check(self, *, files: bool = True) -> None:
        """No patient in two splits; no record twice; with ``files``, at least one path exists."""
        if "split" in self.frame:
            per = self.frame.groupby("patient")["split"].nunique()
            if (bad := per[per > 1]).size:
                rows = self.rows[self.frame["patient"].isin(bad.index)]
                lines = ", ".join(map(str, rows[:6]))
                raise MedfmError(
                    f"{self.source or 'the table'}: {bad.size} patient(s) stand in more than one split (lines {lines}"
                    f"{', ...' if len(rows) > 6 else ''}). Give all records of a patient the same split."
                )
        if self.frame["record"].duplicated().any():
            name = self.frame.loc[self.frame["record"].duplicated(), "record"].iloc[0]
            where = self.rows[self.frame["record"] == name].astype(str)
            raise MedfmError(
                f"{self.source or 'the table'}: record {name!r} stands twice (lines {' and '.join(where[:2])}); drop one, "
                "or give each a name of its own in a 'record' column."
            )
        if files and not any(_exists(p) for p in self.paths):
            raise MedfmError(
                f"{self.source or 'the table'}: none of its {len(self)} files exists (first: {self.paths[0]}). "
                "Paths are relative to the table's folder."
            )

    def _with(self, frame: pd.DataFrame) -> Manifest:
        part = frame.reset_index(drop=True)
        return Manifest(part, self.patients_known, self.source, self.rows[frame.index])


def _absolute(path: str, root: Path | None) -> str:
    """From the table's folder; of a subject's address every file."""
    if root is None:
        return str(Path(path)) if (files := split_subject(path)) is None else join_subject(files)
    if (files := split_subject(path)) is not None:
        return join_subject({name: root / file for name, file in files.items()})
    return str(root / path)  # which stays as it is where it is absolute


def _exists(path: str) -> bool:
    """WFDB records are named without suffix as often as with one; ``file#part`` is a part of a file. Of a subject's files
    one is enough."""
    if (files := split_subject(path)) is not None:
        return any(_exists(file) for file in files.values())
    whole = path.partition("#")[0]
    return Path(path).exists() or Path(path + ".hea").exists() or (whole != path and Path(whole).exists())


def _sequence_columns(frame: pd.DataFrame) -> list[str]:
    """Columns that each name a volume file a row, masks aside: the sequences of a subject. One alone counts where it has the
    name of a sequence; else it is a column of paths with a wrong name."""
    from medfm.modalities.mri_sequences import is_known

    found = [
        str(c)
        for c in frame.columns
        if str(c).casefold() not in MASKS
        and all(isinstance(v, str) for v in frame[c].dropna())
        and _names_volumes(frame[c])
    ]
    return found if len(found) > 1 or any(map(is_known, found)) else []


def _addresses(frame: pd.DataFrame, sequences: list[str], where: str) -> list[str]:
    """The subject's address of each row, from its columns."""
    out = []
    for line, row in enumerate(frame[sequences].itertuples(index=False), start=2):
        files = {n: v.strip() for n, v in zip(sequences, row) if isinstance(v, str) and v.strip()}
        if not files:
            raise MedfmError(
                f"{where}: line {line} names no sequence (columns {', '.join(sequences)}); fill one in or drop the row."
            )
        out.append(join_subject(files))
    return out


def _names_volumes(column: pd.Series) -> bool:
    """All known values are names of volume files; a label of another kind stays as it is."""
    known = [v.strip().lower() for v in column if isinstance(v, str) and v.strip()]
    if not known or not all("." in v for v in known):
        return False
    from medfm.formats.volume import SUFFIXES

    return all(v.endswith(tuple(SUFFIXES)) for v in known)


def _record_names(paths: pd.Series) -> list[str]:
    """The stem where that is unique, else the path: a name must tell two records apart. Of subjects what their files' names
    have in common, or their folder."""
    if any(split_subject(p) is not None for p in paths):
        from medfm.modalities.mri_sequences import subject_names

        return subject_names(list(paths)) or list(paths)
    stems = [Path(p).stem if Path(p).suffix else Path(p).name for p in paths]
    return stems if len(set(stems)) == len(stems) else [Path(p).as_posix() for p in paths]
