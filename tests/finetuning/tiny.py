"""A problem small enough to train in a second: the class is the sign of a burst in one channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from medfm.backbones.vit import ViT
from medfm.config.strategies import STRATEGIES
from medfm.finetuning.fit import Problem
from medfm.finetuning.records import embeddings
from medfm.finetuning.task import Task

CHANNELS, LENGTH, PATCH = 3, 80, 10


@dataclass
class ArrayRecords:
    """Records held in memory, as long as one window or longer."""

    x: np.ndarray
    length: int = LENGTH

    def __len__(self) -> int:
        return len(self.x)

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        starts = rng.integers(0, self.x.shape[2] - self.length + 1, len(rows))
        return self.read(rows, starts)

    def plan(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts = np.arange(0, self.x.shape[2] - self.length + 1, self.length)
        return np.repeat(np.arange(len(rows)), len(starts)), np.tile(starts, len(rows))

    def read(self, rows: np.ndarray, starts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        x = np.stack([self.x[r, :, s : s + self.length] for r, s in zip(rows, starts)])
        return torch.from_numpy(x), torch.ones(len(rows), CHANNELS, dtype=torch.bool)


def backbone(seed: int = 0) -> ViT:
    torch.manual_seed(seed)
    return ViT(
        rank=1,
        in_channels=CHANNELS,
        input_size=(LENGTH,),
        patch=(PATCH,),
        dim=16,
        depth=2,
        heads=2,
        registers=1,
    ).eval()


def signals(n: int = 48, seed: int = 0, length: int = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    """x float32 ``[n, C, length]``, y ``[n, 1]``: in positives, a burst goes up in channel 1, in
    negatives down."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % 2).astype(float)
    x = rng.normal(0, 1.0, (n, CHANNELS, length)).astype(np.float32)
    for i in range(n):
        at = rng.integers(0, length - 12)
        x[i, 1, at : at + 12] += 1.5 * (2 * y[i] - 1)
    return x, y[:, None]


def problem(name: str, n: int = 48, seed: int = 0, **settings: object) -> Problem:
    x, y = signals(n, seed)
    records, net = ArrayRecords(x), backbone(seed)
    entry = STRATEGIES[name]
    resolved = entry.settings(**settings)  # type: ignore[arg-type]
    z = embeddings(net, records, np.arange(n), pooling=resolved.pool)  # type: ignore[attr-defined]
    task = Task("binary", ("burst",), ("burst",))
    return Problem(task, records, y, z, net, lambda: entry.load()(resolved), batch_size=8)


def inner(n: int, folds: int = 3) -> list[np.ndarray]:
    return [np.arange(n)[i::folds] for i in range(folds)]
