"""The online probe's fixed labelled set: the user's table, or synthetic patients of another seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.backbones.base import Backbone
from medfm.data.manifest import Manifest
from medfm.types import ConfigError
from medfm.workflows.embedding import embed_store
from medfm.workflows.kinds import kind_of
from medfm.workflows.sources import synthetic_store

PROBE_SEED = 900_001  # synthetic probe patients come from another seed than any training corpus

Score = Callable[[np.ndarray], float]
Embed = Callable[[Backbone], np.ndarray]


def probe_set(run: Any) -> tuple[Score, Embed, dict[str, Any]] | None:
    """(score of embeddings, embedding of a backbone, facts) or None where there is no labelled set.

    Half of the patients train the probe, half score it: macro-AUROC of a logistic regression on standardised
    mean-pooled features, its C by inner patient folds.
    """
    config = run.config.probe
    if config.data:
        store, y, patients, targets = _table(run)
    elif config.patients and run.simulated_only:
        settings = run.config.data.synthetic.model_copy(
            update={"patients": config.patients, "seed": PROBE_SEED, "records_per_patient": 1}
        )
        root = Path(run.config.data.store) if run.config.data.store else None
        store = synthetic_store(settings, run.modality, root, run.config.data.ingest_workers, run.show)
        labels = store.labels
        targets = probe_targets(labels)
        y, patients = labels[targets].to_numpy(float), labels["patient_id"].astype(str).to_numpy()
    else:
        return None
    people = np.unique(patients)
    train = np.isin(patients, np.random.default_rng(0).permutation(people)[: len(people) // 2])
    y = y[:, usable(y, train)]
    if not y.shape[1]:
        raise ConfigError(
            "probe.data: no target has both classes among the probe's training and scoring patients."
        )
    embed = partial(embed_store, modality=run.modality, store=store)
    facts = {"targets": targets, "patients": len(people), "records": len(store), "store": store, "y": y}
    return partial(_score, y=y, patients=patients, train=train), lambda backbone: embed(backbone), facts


def probe_targets(labels: pd.DataFrame) -> list[str]:
    """Binary label columns with 3 to 97 % positives: rarer ones are noise in a set of this size. ``cond_`` columns are
    the generator's own switches; a probe is scored on what was measured; ``event`` is half of a survival target."""
    chosen = []
    for name in (c for c in labels.columns if not c.startswith(("cond_", "truth_")) and c != "event"):
        values = labels[name].dropna()
        if len(values) and set(values.unique()) <= {0, 1} and 0.03 <= values.mean() <= 0.97:
            chosen.append(name)
    return chosen


def usable(y: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Targets with at least two of each class on both sides."""

    def both(part: np.ndarray) -> np.ndarray:
        return (np.nansum(part == 1, 0) >= 2) & (np.nansum(part == 0, 0) >= 2)

    return both(y[train]) & both(y[~train])


def _score(embeddings: np.ndarray, *, y: np.ndarray, patients: np.ndarray, train: np.ndarray) -> float:
    from medfm.evaluation.metrics import auroc, macro
    from medfm.evaluation.probe import probe

    p = probe(embeddings[train], y[train], embeddings[~train], patients[train])
    return float(macro(auroc, y[~train], p))


def _table(run: Any) -> tuple[Any, np.ndarray, np.ndarray, list[str]]:
    config = run.config
    if not config.probe.target:
        raise ConfigError(
            "probe.data is given without probe.target: name the label column(s), comma-separated."
        )
    manifest = Manifest.from_table(config.probe.data, patient=config.data.patient)
    targets = config.probe.target.split(",")
    if absent := [t for t in targets if t not in manifest.frame]:
        raise ConfigError(f"{config.probe.data}: no column {', '.join(absent)}.")
    training = {p for s in run.sources if not s.simulated for p in s.patients}
    if shared := sorted(training & set(manifest.patients)):
        raise ConfigError(
            f"{len(shared)} patient(s) of probe.data are in the training data (first: {shared[0]}). A probe must be "
            "scored on other patients; drop them from one of the two."
        )
    root = Path(config.data.store) if config.data.store else None
    store = kind_of(run.modality).reading.ingest(manifest, run.modality, root, config.data.ingest_workers)
    kept = manifest.frame.iloc[store.kept]
    y = kept[targets].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    return store, y, kept["patient"].to_numpy(str), targets
