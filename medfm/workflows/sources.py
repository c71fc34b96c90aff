"""From ``--data`` words to ingested stores: synthetic corpora, folders, tables and catalogued data sets, mixed by weight."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medfm.config.run import RunConfig, SyntheticSettings
from medfm.data.catalog import resolve_source, split_weight
from medfm.data.store import CHUNK
from medfm.data.truths import truths_of
from medfm.types import ConfigError, Truths
from medfm.workflows import corpora
from medfm.workflows.gather import set_aside
from medfm.workflows.kinds import kind_of
from medfm.workflows.progress import progress

SYNTHETIC = "synthetic"


@dataclass
class Source:
    """One ingested source: its store, weight, and what the card says of it."""

    name: str
    store: Any  # of signals or of pictures, as the modality's kind keeps them
    weight: float
    simulated: bool
    patients: list[str]
    digest: str
    notes: list[str] = field(default_factory=list)
    truths: Truths | None = None


def synthetic_store(
    settings: SyntheticSettings, modality: Any, root: Path | None, jobs: int = 1, show: bool = True
) -> Any:
    """The embedded corpus, generated once and kept in the store."""
    kind = kind_of(modality)
    total = corpora.chunks_of(settings) * CHUNK
    with progress(show, f"generating {kind.plural}", total, "records") as bar:
        return kind.corpus(settings, modality, root, jobs, lambda done, _: bar.update(done * CHUNK))


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
        store = kind_of(modality).reading.ingest(
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
