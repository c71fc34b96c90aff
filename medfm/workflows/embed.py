"""Frozen features of any records, as a table: one row a record."""

from __future__ import annotations

import csv
import errno
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.data.codes import site_codes
from medfm.data.manifest import Manifest, as_identifier
from medfm.data.rooms import room_of
from medfm.data.store import CHUNK
from medfm.data.tables import is_table, read_table
from medfm.finetuning.records import embeddings
from medfm.hub.bundle import load_bundle
from medfm.hub.resolve import resolve
from medfm.paths import written_whole
from medfm.types import ConfigError
from medfm.workflows.gather import gather, plain_reason, set_aside
from medfm.workflows.kinds import kind_of
from medfm.workflows.progress import progress as progress_bar
from medfm.workflows.run_folder import writing

LOG = logging.getLogger("medfm.run")
OUTPUTS = (".parquet", ".csv", ".npz")


def embed(
    source: str | Path,
    backbone: str,
    output: str | Path,
    *,
    pool: str = "mean",
    patient: str | None = None,
    codes: bool = False,
    batch_size: int = 64,
    store: str | Path | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write ``record, patient, path, e0 .. e{F-1}`` of every readable record of a file, folder or table.

    ``pool``: ``mean`` over tokens (F = D) or ``mean-std`` (F = 2 D); a long record's windows are averaged.
    ``.npz`` holds the arrays ``record``, ``patient``, ``path`` and ``embedding [n, F]``. Records that could
    not be read stand with their reasons in ``OUTPUT.failed.csv``. ``codes``: for a file that leaves the site, ``row``
    of the table and the codes ``record`` and ``patient`` (:mod:`medfm.data.codes`) in place of names and path. Raises :class:`ConfigError` for an output
    that exists or whose suffix says nothing, :class:`MedfmError` when nothing could be read.
    """
    target = check_output(output, OUTPUTS, overwrite)
    if pool not in ("mean", "mean-std"):
        raise ConfigError(f"pool={pool} is unknown; use mean or mean-std.")
    bundle = load_bundle(resolve(backbone))
    modality, network = bundle.modality(), bundle.build()
    manifest, stored = open_records(source, modality, patient=patient, store=store, jobs=jobs, show=progress)
    rows = np.arange(len(stored))
    with progress_bar(progress, "embedding", len(rows), "records") as bar:
        z = embeddings(
            network,
            kind_of(modality).reading.records(stored, modality),
            rows,
            pooling=pool,
            batch_size=batch_size,
            progress=bar.update,
        )
    who = identity(manifest, codes)
    frame = who.iloc[stored.kept].reset_index(drop=True)
    with writing(target):
        with written_whole(target) as part:
            if target.suffix == ".npz":
                columns = {
                    name: column.to_numpy() if name == "row" else column.fillna("").to_numpy(str)
                    for name, column in frame.items()
                }
                np.savez(part, embedding=z, **columns)
            else:
                numbers = pd.DataFrame(z, columns=[f"e{i}" for i in range(z.shape[1])])
                whole = pd.concat([frame, numbers], axis=1)
                if target.suffix == ".csv":
                    whole.to_csv(part, index=False)
                else:
                    whole.to_parquet(part, index=False)
        list_failed(stored, target, who if codes else None)
    return target


def open_records(
    source: str | Path,
    modality: Any,
    *,
    patient: str | None = None,
    store: str | Path | None = None,
    jobs: int = 1,
    show: bool = True,
) -> tuple[Manifest, Any]:
    """A table with a ``path`` column, a folder, or one file, ingested as the model wants it. No labels are
    needed, and a patient column only when it is named (``patient_id`` is taken where it stands, blanks and all)."""
    path = Path(source).expanduser()
    frame = read_table(path) if is_table(path) else None
    if frame is not None:
        whole = "patient_id" in frame and as_identifier(frame["patient_id"]).notna().all()
        column = patient or ("patient_id" if whole else None)
        manifest = Manifest.from_frame(frame, root=path.parent.resolve(), patient=column, source=str(path))
    else:
        if not path.is_dir():
            room_of(modality).records(path)  # of a single file that cannot be opened, its own sentence
        items = gather(str(path), modality)
        frame = pd.DataFrame({"record": [i.record for i in items], "path": [i.path for i in items]})
        if frame["record"].duplicated().any():  # the same name in two folders
            frame["record"] = frame["path"]
        manifest = Manifest.from_frame(frame, patient=None, source=str(source))
    manifest.check()
    with progress_bar(show, "ingesting records", len(manifest), "records") as bar:
        stored = kind_of(modality).reading.ingest(
            manifest,
            modality,
            Path(store) if store else None,
            jobs,
            lambda done, _: bar.update(min(done * CHUNK, len(manifest))),
        )
    for _, name, reason in stored.failed:
        LOG.warning("set aside: %s", set_aside(name, reason))
    return manifest, stored


def identity(manifest: Manifest, coded: bool = False) -> pd.DataFrame:
    """record, patient (blank where unknown) and path of every row; or its ``row`` in the table, and codes of the first
    two."""
    frame = manifest.frame[["record", "patient", "path"]].copy()
    if not manifest.patients_known:
        known = manifest.frame.get("patient_id")
        frame["patient"] = pd.NA if known is None else as_identifier(known)
    if not coded:
        return frame
    codes = site_codes()
    record, patient = codes.of(frame["record"], "record"), codes.of(frame["patient"], "patient")
    return pd.DataFrame({"row": manifest.rows, "record": record, "patient": patient})


def list_failed(stored: Any, target: Path, coded: pd.DataFrame | None = None) -> None:
    """``OUTPUT.failed.csv``, or none where all records could be read; without names where there are codes."""
    path = target.with_name(target.name + ".failed.csv")
    path.unlink(missing_ok=True)
    if stored.failed:
        with path.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            if coded is None:
                writer.writerow(["path", "reason"])
                writer.writerows((name, reason) for _, name, reason in stored.failed)
            else:
                writer.writerow(["row", "record", "reason"])
                for row, _, reason in stored.failed:
                    writer.writerow([*coded.loc[row, ["row", "record"]], plain_reason(reason)])


def check_output(output: str | Path, suffixes: tuple[str, ...], overwrite: bool) -> Path:
    target = Path(output).expanduser()
    if target.suffix.lower() not in suffixes:
        raise ConfigError(f"--output {output}: the name must end in {' or '.join(suffixes)}.")
    if target.is_dir() or (target.exists() and not overwrite):
        raise ConfigError(f"--output {output} exists already; choose another name, or remove it first.")
    with writing(target):  # before the work, not after it
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(target.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "read-only", str(target))
    return target
