"""Frozen features of any records, as a table: one row a record."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from medfm.data.manifest import Manifest
from medfm.data.store import CHUNK, SignalStore, ingest
from medfm.finetuning.records import embeddings
from medfm.hub.bundle import load_bundle
from medfm.hub.resolve import resolve
from medfm.types import ConfigError
from medfm.workflows.gather import TABLES, gather, table_of_paths
from medfm.workflows.progress import progress as progress_bar
from medfm.workflows.run_folder import writing
from medfm.workflows.windows import StoreRecords

LOG = logging.getLogger("medfm.run")
OUTPUTS = (".parquet", ".csv", ".npz")


def embed(
    source: str | Path,
    backbone: str,
    output: str | Path,
    *,
    pool: str = "mean",
    patient: str | None = None,
    batch_size: int = 64,
    store: str | Path | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write ``record, patient, path, e0 .. e{F-1}`` of every readable record of a file, folder or table.

    ``pool``: ``mean`` over tokens (F = D) or ``mean-std`` (F = 2 D); a long record's windows are averaged.
    ``.npz`` holds the arrays ``record``, ``patient``, ``path`` and ``embedding [n, F]``. Records that could
    not be read stand with their reasons in ``OUTPUT.failed.csv``. Raises :class:`ConfigError` for an output
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
            StoreRecords(stored, modality),
            rows,
            pooling=pool,
            batch_size=batch_size,
            progress=bar.update,
        )
    frame = identity(manifest, stored)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".npz":
            texts = {name: frame[name].fillna("").to_numpy(str) for name in frame}
            np.savez(target, embedding=z, **texts)
        else:
            whole = pd.concat([frame, pd.DataFrame(z, columns=[f"e{i}" for i in range(z.shape[1])])], axis=1)
            if target.suffix == ".csv":
                whole.to_csv(target, index=False)
            else:
                whole.to_parquet(target, index=False)
        list_failed(stored, target)
    return target


def open_records(
    source: str | Path,
    modality: object,
    *,
    patient: str | None = None,
    store: str | Path | None = None,
    jobs: int = 1,
    show: bool = True,
) -> tuple[Manifest, SignalStore]:
    """A table with a ``path`` column, a folder, or one file, ingested as the model wants it. No labels are
    needed, and a patient column only when it is named (``patient_id`` is taken where it stands)."""
    path = Path(source).expanduser()
    frame = table_of_paths(path) if path.is_file() and path.suffix.lower() in TABLES else None
    if frame is not None:
        column = patient or ("patient_id" if "patient_id" in frame else None)
        manifest = Manifest.from_frame(frame, root=path.parent.resolve(), patient=column, source=str(path))
    else:
        items = gather(str(source), modality)
        frame = pd.DataFrame({"record": [i.record for i in items], "path": [i.path for i in items]})
        if frame["record"].duplicated().any():  # the same name in two folders
            frame["record"] = frame["path"]
        manifest = Manifest.from_frame(frame, patient=None, source=str(source))
    manifest.check()
    with progress_bar(show, "ingesting records", len(manifest), "records") as bar:
        stored = ingest(
            manifest,
            modality,
            Path(store) if store else None,
            jobs,
            lambda done, _: bar.update(min(done * CHUNK, len(manifest))),
        )
    for _, name, reason in stored.failed:
        LOG.warning("set aside %s: %s", name, reason)
    return manifest, stored


def identity(manifest: Manifest, stored: SignalStore) -> pd.DataFrame:
    """record, patient (blank where unknown) and path of every record in the store."""
    frame = manifest.frame.iloc[np.asarray(stored.kept)][["record", "patient", "path"]].reset_index(drop=True)
    if not manifest.patients_known:
        frame["patient"] = pd.NA
    return frame


def list_failed(stored: SignalStore, target: Path) -> None:
    """``OUTPUT.failed.csv``, or none where all records could be read."""
    path = target.with_name(target.name + ".failed.csv")
    path.unlink(missing_ok=True)
    if stored.failed:
        with path.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(["path", "reason"])
            writer.writerows((name, reason) for _, name, reason in stored.failed)


def check_output(output: str | Path, suffixes: tuple[str, ...], overwrite: bool) -> Path:
    target = Path(output).expanduser()
    if target.suffix.lower() not in suffixes:
        raise ConfigError(f"--output {output}: the name must end in {' or '.join(suffixes)}.")
    if target.is_dir() or (target.exists() and not overwrite):
        raise ConfigError(f"--output {output} exists already; choose another name, or use --overwrite.")
    return target
