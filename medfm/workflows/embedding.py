"""Frozen features of records in a store: one pass, in batches, numpy out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from medfm.backbones.base import Backbone
from medfm.finetuning.records import embeddings
from medfm.workflows.kinds import kind_of

Pool = Literal["mean", "mean-std"]


def embed_store(
    backbone: Backbone,
    modality: Any,
    store: Any,
    rows: Sequence[int] | np.ndarray | None = None,
    *,
    pool: Pool = "mean",
    batch_size: int = 64,
) -> np.ndarray:
    """``[n, D]`` (``mean``: tokens averaged) or ``[n, 2D]`` (``mean-std``: and their deviation), one row a record.

    A record longer than the model's window is covered by windows whose features are averaged.
    """
    rows = np.arange(len(store)) if rows is None else np.asarray(rows)
    training = backbone.training
    records = kind_of(modality).reading.records(store, modality)
    z = embeddings(backbone, records, rows, pooling=pool, batch_size=batch_size)
    backbone.train(training)
    return z
