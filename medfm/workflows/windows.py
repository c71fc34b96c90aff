"""Records of an ingest store as fine-tuning wants them: random training windows, and windows that cover a
record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medfm.data.store import SignalStore
from medfm.workflows.embedding import windows


@dataclass
class StoreRecords:
    """``medfm.finetuning.records.Records`` over a store; ``length`` samples a window (default: the
    modality's)."""

    store: SignalStore
    modality: Any
    length: int = 0
    augment: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.length = self.length or self.modality.size[0]

    def __len__(self) -> int:
        return len(self.store)

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        room = np.maximum(self.store.lengths[rows] - self.length, 0)
        x, present = self.store.read(rows, rng.integers(0, room + 1), self.length)
        if self.augment:
            x, present = self.modality.augment_batch(x, present, rng, self.augment)
        return self._tensors(x, present)

    def plan(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts = [windows(int(n), self.length) for n in self.store.lengths[rows]]
        owner = np.repeat(np.arange(len(rows)), [len(s) for s in starts])
        return owner, np.array([s for part in starts for s in part], np.int64)

    def read(self, rows: np.ndarray, starts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return self._tensors(*self.store.read(rows, starts, self.length))

    def _tensors(self, x: np.ndarray, present: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        x = np.ascontiguousarray(self.modality.normalise(x, present), np.float32)
        return torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(present))
