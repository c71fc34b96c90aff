"""A site's labelled records: from a table and its targets to an ingest store, targets and patients, row by
row.

Everything that is wrong with the table is said before a file is opened; files that cannot be read are set
aside.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.data.codes import site_codes
from medfm.data.manifest import Manifest, as_identifier
from medfm.data.store import CHUNK
from medfm.finetuning.question import make_task
from medfm.finetuning.task import Task, check_counts
from medfm.workflows.gather import tell_set_aside
from medfm.workflows.kinds import kind_of
from medfm.workflows.progress import progress

NO_PATIENTS = (
    "No patient column was given: every record counts as its own patient. If patients have several "
    "records, they stand "
    "on both sides of the folds, and every figure here is too good."
)


@dataclass
class Cohort:
    """Row i of ``frame``, ``y [n, K]`` (NaN unknown) and ``patients`` is row i of the store, and row ``rows[i]`` of the
    user's table (its header is row 1). Ids and names stay in memory; what is written takes :attr:`coded` and
    :meth:`codes_for`. ``set_aside``: ``row, record`` (code) ``, reason`` of what could not be read."""

    frame: pd.DataFrame
    rows: np.ndarray
    task: Task
    y: np.ndarray
    patients: np.ndarray
    store: Any
    source: str
    digest: str
    patients_known: bool
    rows_in_table: int
    unlabelled: int
    set_aside: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def records(self) -> list[str]:
        return self.frame["record"].tolist()

    @property
    def coded(self) -> pd.DataFrame:
        """``row``, and the codes ``record`` and ``patient``, of each record."""
        return site_codes().table(Manifest(self.frame, lines=self.rows))

    def codes_for(self, column: str) -> list[str] | None:
        """What is written in place of a column whose values are the patients or the records themselves; None of others."""
        values = as_identifier(self.frame[column]).fillna("")
        for own in ("patient", "record", "path"):
            if (values == as_identifier(self.frame[own])).all():
                return self.coded["patient" if own == "patient" else "record"].tolist()  # type: ignore[no-any-return]
        return None


def patient_column(value: str | None) -> str | None:
    """``--patient none`` is the loud choice that every record is its own patient."""
    return None if value is None or value.lower() in ("none", "null") else value


@dataclass
class Labels:
    """What a table says before any file is opened: rows with a known target, ``y [n, K]`` and what to
    mention."""

    manifest: Manifest
    task: Task
    y: np.ndarray
    folds: int
    source: str
    rows_in_table: int
    notes: list[str]


def read_labels(
    table: str | Path,
    targets: Sequence[str],
    *,
    kind: str = "auto",
    patient: str | None = "patient_id",
    folds: int = 2,
) -> Labels:
    """Raises :class:`medfm.types.MedfmError` for every table from which no honest result can come."""
    manifest = Manifest.from_table(table, patient=patient_column(patient))
    task, y = make_task(manifest.frame, targets, kind)
    total, notes = len(manifest), list(task.notes)
    known = np.isfinite(y).any(1)
    if not known.all():
        notes.append(f"{int((~known).sum())} of {total} records have no known target; they are left out.")
        manifest, y = manifest.take(np.flatnonzero(known)), y[known]
    manifest.check()
    if "split" in manifest.frame:
        notes.append("The table's split column is not used: all its records are spread over patient folds.")
    if not manifest.patients_known:
        notes.append(NO_PATIENTS)
    check_counts(task, y, manifest.patients, folds)
    return Labels(manifest, task, y, folds, str(table), total, notes)


def open_cohort(
    labels: Labels,
    modality: Any,
    *,
    store: Path | None = None,
    jobs: int = 1,
    log: logging.Logger,
    show: bool = True,
) -> Cohort:
    """Ingest the records; what cannot be read is set aside, and the rest must still be enough."""
    manifest, task, notes = labels.manifest, labels.task, list(labels.notes)
    count = len(manifest)
    with progress(show, "ingesting records", count, "records") as bar:
        stored = kind_of(modality).reading.ingest(
            manifest, modality, store, jobs, lambda done, _: bar.update(min(done * CHUNK, count))
        )
    kept = np.asarray(stored.kept)
    aside = tell_set_aside(log, manifest, stored.failed)
    if aside:
        few = ", ".join(str(one["row"]) for one in aside[:5]) + (", ..." if len(aside) > 5 else "")
        notes.append(
            f"{len(aside)} of {count} records could not be read and were set aside: row(s) {few} of the table, whose header "
            "is row 1. medfm data scan names each with its reason."
        )
        check_counts(task, labels.y[kept], [manifest.patients[r] for r in kept], labels.folds)
    for note in notes:
        log.warning("%s", note)
    frame = manifest.frame.iloc[kept].reset_index(drop=True)
    return Cohort(
        frame=frame,
        rows=manifest.rows[kept],
        task=task,
        y=labels.y[kept],
        patients=frame["patient"].to_numpy(str),
        store=stored,
        source=labels.source,
        digest=manifest.digest,
        patients_known=manifest.patients_known,
        rows_in_table=labels.rows_in_table,
        unlabelled=labels.rows_in_table - count,
        set_aside=aside,
        notes=notes,
    )
