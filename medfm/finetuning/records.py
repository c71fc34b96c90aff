"""What the training loop asks of data, and what it does with a network over all of it: embeddings and
predictions.

n records, W windows, C channels, T samples, F features, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from medfm.backbones.base import Backbone
from medfm.finetuning.heads import FinetuneModel, pool

Progress = Callable[[int], None]


class Records(Protocol):
    """Normalised windows of ``len()`` records, by row. ``workflows`` makes one from a store and a
    modality."""

    def __len__(self) -> int: ...

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """One random, augmented training window a row: x ``[B, C, T]``, present ``[B, C]``."""
        ...

    def plan(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The windows that cover ``rows``: position in ``rows`` ``[W]``, in order, and start ``[W]``."""
        ...

    def read(self, rows: np.ndarray, starts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Windows at ``starts`` without augmentation: x ``[B, C, T]``, present ``[B, C]``."""
        ...


@torch.inference_mode()
def _over_windows(
    call: Callable[[Tensor, Tensor], Tensor],
    records: Records,
    rows: np.ndarray,
    batch_size: int,
    device: torch.device,
    progress: Progress | None,
) -> np.ndarray:
    """``call`` over every window of ``rows``, averaged over the windows of a record: ``[n, ...]`` float32."""
    owner, starts = records.plan(rows)
    parts = []
    for first in range(0, len(owner), batch_size):
        at = slice(first, first + batch_size)
        x, present = records.read(rows[owner[at]], starts[at])
        parts.append(call(x.to(device), present.to(device)).float().cpu())
        if progress:
            progress(int(owner[min(first + batch_size, len(owner)) - 1]) + 1)
    values = torch.cat(parts).double()
    index = torch.from_numpy(owner)
    total = torch.zeros(len(rows), values.shape[1], dtype=torch.float64).index_add_(0, index, values)
    count = torch.bincount(index, minlength=len(rows)).clamp_min(1)
    return (total / count[:, None]).float().numpy()


def embeddings(
    backbone: Backbone,
    records: Records,
    rows: np.ndarray,
    *,
    pooling: str = "mean-std",
    batch_size: int = 64,
    progress: Progress | None = None,
) -> np.ndarray:
    """Frozen features ``[n, F]`` in one pass, in evaluation mode; a long record's windows are averaged."""
    backbone.eval()
    device = next(backbone.parameters()).device

    def call(x: Tensor, present: Tensor) -> Tensor:
        return pool(backbone(x, present), pooling)

    return _over_windows(call, records, rows, batch_size, device, progress)


def predict_logits(
    model: FinetuneModel,
    records: Records,
    rows: np.ndarray,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> np.ndarray:
    """``[n, K]`` in evaluation mode; a long record's windows are averaged as logits (as ECG-JEPA
    evaluates)."""
    model.eval()
    return _over_windows(model, records, rows, batch_size, next(model.parameters()).device, progress)
