"""From ``--data`` words to ingested stores: synthetic corpora, folders, tables and catalogued data sets, mixed by weight."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medfm.config.run import RunConfig, SyntheticSettings
from medfm.data.catalog import resolve_source, split_weight
from medfm.data.store import CHUNK, Chunk, SignalStore, build, ingest
from medfm.data.truths import truths_of
from medfm.types import ConfigError, Truths
from medfm.workflows.gather import set_aside
from medfm.workflows.progress import progress

SYNTHETIC = "synthetic"


@dataclass
class Source:
    """One ingested source: its store, weight, and what the card says of it."""

    name: str
    store: SignalStore
    weight: float
    simulated: bool
    patients: list[str]
    digest: str
    notes: list[str] = field(default_factory=list)
    truths: Truths | None = None


def _synthetic_chunk(index: int, *, settings: dict[str, Any], fs: float, seconds: float) -> Chunk:
    from medfm.synthetic.corpus import ecg_arrays

    per = max(1, CHUNK // settings["records_per_patient"])
    first = index * per
    count = min(per, settings["patients"] - first)
    x, labels = ecg_arrays(
        count,
        seed=settings["seed"],
        fs=fs,
        seconds=seconds,
        records_per_patient=settings["records_per_patient"],
        start_subject=first,
        truths=True,
    )
    rows = list(
        range(first * settings["records_per_patient"], first * settings["records_per_patient"] + len(x))
    )
    return Chunk(list(x), rows, [], labels)


def synthetic_store(
    settings: SyntheticSettings, modality: Any, root: Path | None, jobs: int = 1, show: bool = True
) -> SignalStore:
    """The embedded corpus, generated once per (generator version, settings, sampling rate) and kept in the store."""
    from medfm.synthetic.ecg import GENERATOR_VERSION

    fs = 1.0 / modality.spacing[0]
    seconds = modality.size[0] / fs
    plain = settings.model_dump()
    make = partial(_synthetic_chunk, settings=plain, fs=fs, seconds=seconds)
    per = max(1, CHUNK // settings.records_per_patient)
    chunks = -(-settings.patients // per)
    with progress(show, "generating ECGs", chunks * CHUNK, "records") as bar:
        return build(
            {"synthetic": plain, "generator": GENERATOR_VERSION, "seconds": seconds, "truths": 1},
            chunks,
            make,
            fs=fs,
            channels=modality.channels,
            root=root,
            jobs=jobs,
            progress=lambda done, total: bar.update(done * CHUNK),
        )


def open_sources(config: RunConfig, modality: Any, log: Any, show: bool = True) -> list[Source]:
    """Ingest every source of the run. Files that could not be read are named in the log and counted."""
    root = Path(config.data.store) if config.data.store else None
    words = config.data.sources or [SYNTHETIC]
    sources = []
    for word in words:
        base, weight = split_weight(word)
        if base == SYNTHETIC:
            settings = config.data.synthetic
            store = synthetic_store(settings, modality, root, config.data.ingest_workers, show)
            labels = store.labels
            patients = [f"synthetic-{p}" for p in labels["patient_id"]]
            digest = f"synthetic:{settings.seed}:{settings.patients}:{settings.records_per_patient}"
            source = Source(f"synthetic-{modality.name}", store, weight, True, patients, digest)
            source.truths = truths_of(labels)
            sources.append(source)
            continue
        sources.append(_files(word, base, weight, config, modality, root, log, show))
    return sources


def _files(
    word: str,
    base: str,
    weight: float,
    config: RunConfig,
    modality: Any,
    root: Path | None,
    log: Any,
    show: bool,
) -> Source:
    manifest, _, name = resolve_source(base, modality=modality, patient=config.data.patient)
    notes = []
    if "split" in manifest.frame and manifest.frame["split"].notna().any():
        manifest.check(files=False)
        train = manifest.frame["split"].isin(["train"])
        notes.append(f"only the {int(train.sum())} of {len(train)} rows whose split is 'train' were used")
        manifest = manifest.take(np.flatnonzero(train))
        if not len(manifest):
            raise ConfigError(
                f"{base}: the split column has no row 'train'; rename its values or drop the column."
            )
    manifest.check()
    if not manifest.patients_known:
        notes.append("no patient column: every record counts as its own patient")
    with progress(show, f"ingesting {name}", len(manifest), "records") as bar:
        store = ingest(
            manifest,
            modality,
            root,
            config.data.ingest_workers,
            lambda done, total: bar.update(min(done * CHUNK, len(manifest))),
        )
    if store.failed:
        notes.append(f"{len(store.failed)} of {len(manifest)} records could not be read and were set aside")
        for _, path, reason in store.failed:
            log.warning("set aside: %s", set_aside(path, reason))
    for note in notes:
        log.warning("%s: %s", name, note)
    patients = [manifest.patients[r] for r in store.kept]
    return Source(name, store, weight, False, patients, manifest.digest, notes)


def composition(sources: list[Source]) -> list[dict[str, Any]]:
    """What the card records: every source with its share, records and patients."""
    weights = np.array([s.weight for s in sources], float)
    shares = weights / weights.sum()
    return [
        {
            "name": s.name,
            "share": round(float(share), 4),
            "records": len(s.store),
            "patients": len(set(s.patients)),
            "simulated": s.simulated,
            "digest": s.digest,
            "set_aside": len(s.store.failed),
            "notes": s.notes,
        }
        for s, share in zip(sources, shares)
    ]
