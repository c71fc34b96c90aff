"""Frozen features of records in a store: one pass, in batches, numpy out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from medfm.backbones.base import Backbone
from medfm.data.store import SignalStore
from medfm.finetuning.heads import pool as pool_of

Pool = Literal["mean", "mean-std"]


def windows(length: int, size: int) -> list[int]:
    """Starts of the windows that cover a record: one, or neighbours that overlap just enough to end at its end."""
    if length <= size:
        return [0]
    count = -(-length // size)
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


@torch.inference_mode()
def embed_store(
    backbone: Backbone,
    modality: Any,
    store: SignalStore,
    rows: Sequence[int] | np.ndarray | None = None,
    *,
    pool: Pool = "mean",
    batch_size: int = 64,
) -> np.ndarray:
    """``[n, D]`` (``mean``: tokens averaged) or ``[n, 2D]`` (``mean-std``: and their deviation), one row a record.

    A record longer than the model's window is covered by windows whose features are averaged.
    """
    rows = np.arange(len(store)) if rows is None else np.asarray(rows)
    size = modality.size[0]
    plan = [
        (i, int(row), start) for i, row in enumerate(rows) for start in windows(int(store.lengths[row]), size)
    ]
    training = backbone.training
    backbone.eval()
    device = next(backbone.parameters()).device
    sums: np.ndarray | None = None
    counts = np.zeros(len(rows))
    for first in range(0, len(plan), batch_size):
        part = plan[first : first + batch_size]
        x, present = store.read([r for _, r, _ in part], np.array([s for _, _, s in part]), size)
        x = np.ascontiguousarray(modality.normalise(x, present), dtype=np.float32)
        features = backbone(torch.from_numpy(x).to(device), torch.from_numpy(present).to(device))
        pooled = pool_of(features, pool).float().cpu().numpy()
        if sums is None:
            sums = np.zeros((len(rows), pooled.shape[1]))
        index = np.array([i for i, _, _ in part])
        np.add.at(sums, index, pooled)
        np.add.at(counts, index, 1)
    backbone.train(training)
    assert sums is not None
    return (sums / counts[:, None]).astype(np.float32)
