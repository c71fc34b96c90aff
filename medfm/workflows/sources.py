"""From ``--data`` words to ingested stores: synthetic corpora, folders, tables and catalogued data sets, mixed by weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medfm.config.run import RunConfig, SyntheticSettings
from medfm.data.catalog import resolve_source, split_weight
from medfm.data.codes import site_codes
from medfm.data.dedup import copies
from medfm.data.reduction import by_hash, looks, select, units_of
from medfm.data.truths import truths_of
from medfm.types import ConfigError, Truths
from medfm.workflows.gather import tell_set_aside
from medfm.workflows.kinds import kind_of
from medfm.workflows.progress import progress

SYNTHETIC = "synthetic"


@dataclass
class Source:
    """One ingested source: its store, weight, and what the card says of it.

    patients, units: one a record of the store; look-alikes are sought within a unit. rows: records that may be drawn.
    """

    name: str
    store: Any  # of signals or of pictures, as the modality's kind keeps them
    weight: float
    simulated: bool
    patients: list[str]
    digest: str
    units: Sequence[str]
    notes: list[str] = field(default_factory=list)
    truths: Truths | None = None
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        self.rows = np.arange(len(self.store))


def synthetic_store(
    settings: SyntheticSettings, modality: Any, root: Path | None, jobs: int = 1, show: bool = True
) -> Any:
    """The embedded corpus, generated once and kept in the store."""
    kind = kind_of(modality)
    total = settings.patients * settings.records_per_patient
    with progress(
        show, f"generating {kind.plural}", total, "scans" if modality.rank == 3 else "records"
    ) as bar:
        return kind.corpus(settings, modality, root, jobs, lambda done, all: bar.update(total * done // all))


def open_sources(
    config: RunConfig, modality: Any, log: Any, show: bool = True, reduction: str = "none"
) -> list[Source]:
    """Ingest every source of the run. Files that could not be read are named in the log and counted.

    reduction: what ``data.reduce=auto`` means to the method, of pictures.
    """
    reduce: str = config.data.reduce
    if reduce == "hash" and modality.rank != 2:
        raise ConfigError(
            f"data.reduce=hash compares pictures, and these are {kind_of(modality).plural}: set data.reduce=none."
        )
    if reduce == "auto":
        reduce = reduction if modality.rank == 2 else "none"
    root = Path(config.data.store) if config.data.store else None
    words = config.data.sources or [SYNTHETIC]
    sources = []
    for word, name in zip(words, names_of(words, modality)):
        base, weight = split_weight(word)
        if base == SYNTHETIC:
            settings = config.data.synthetic
            store = synthetic_store(settings, modality, root, config.data.ingest_workers, show)
            labels = store.labels
            patients = [f"synthetic-{p}" for p in labels["patient_id"]]
            digest = f"synthetic:{settings.seed}:{settings.patients}:{settings.records_per_patient}"
            source = Source(name, store, weight, True, patients, digest, patients)
            source.truths = truths_of(labels)
        else:
            source = _files(name, base, weight, config, modality, root, log, show)
        if reduce == "hash":
            _reduce(source, log, show)
        sources.append(source)
    return sources


def _reduce(source: Source, log: Any, show: bool) -> None:
    """Restrict the rows of a source to pictures that do not repeat others."""
    with progress(show, f"comparing {source.name}", len(source.store), "pictures") as bar:
        found = looks(source.store, bar.update)
    # Simulated patients look more like each other than people do, and none is drawn twice.
    twice = np.empty((0, 2), int) if source.simulated else copies(*found)
    source.rows = select(source.units, twice, by_hash(found.codes)).kept
    said = (
        f"reduced {len(source.store):,} to {len(source.rows):,} pictures: look-alikes of one patient and copies are left "
        "out (data.reduce)"
    )
    log.info("%s: %s", source.name, said)
    source.notes.append(said)


def names_of(words: Sequence[str], modality: Any) -> list[str]:
    """What log, report and card call each source: a data set by its id, and a site's own folder or table ``site-ecg``, or
    by its place among several ``site-ecg-2``. Its own name is a path, and may be a patient's."""
    bases = [split_weight(word)[0] for word in words]
    own = [base for base in bases if base != SYNTHETIC and not _catalogued(base)]
    site = f"site-{modality.name}"
    names = {b: site if len(own) == 1 else f"{site}-{n}" for n, b in enumerate(own, 1)}
    names[SYNTHETIC] = f"synthetic-{modality.name}"
    return [names.get(b) or b.partition("=")[0].strip().casefold() for b in bases]


def _catalogued(base: str) -> bool:
    """``DATASET=PATH``, of which everybody may know which records it holds."""
    return "=" in base and not Path(base).exists()


def _files(
    name: str,
    base: str,
    weight: float,
    config: RunConfig,
    modality: Any,
    root: Path | None,
    log: Any,
    show: bool,
) -> Source:
    manifest, _, shown = resolve_source(base, modality=modality, patient=config.data.patient)
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
    digest = manifest.digest if _catalogued(base) else site_codes().digest(manifest.digest)
    if not manifest.patients_known:
        notes.append("no patient column: every record counts as its own patient")
    with progress(show, f"ingesting {shown}", len(manifest), "records") as bar:
        store = kind_of(modality).reading.ingest(
            manifest,
            modality,
            root,
            config.data.ingest_workers,
            lambda done, all: bar.update(len(manifest) * done // all),
        )
    if store.failed:
        notes.append(f"{len(store.failed)} of {len(manifest)} records could not be read and were set aside")
        tell_set_aside(log, manifest, store.failed)
    for note in notes:
        log.warning("%s: %s", shown, note, extra={"filed": f"{name}: {note}"})
    manifest = manifest.take(store.kept)
    return Source(name, store, weight, False, manifest.patients, digest, units_of(manifest), notes)


def composition(sources: list[Source]) -> list[dict[str, Any]]:
    """What the card records: every source with its share, and the records and patients that were drawn from."""
    weights = np.array([s.weight for s in sources], float)
    shares = weights / weights.sum()
    return [
        {
            "name": s.name,
            "share": round(float(share), 4),
            "records": len(s.rows),
            "patients": len({s.patients[r] for r in s.rows}),
            "simulated": s.simulated,
            "digest": s.digest,
            "set_aside": len(s.store.failed),
            "notes": s.notes,
        }
        for s, share in zip(sources, shares)
    ]
