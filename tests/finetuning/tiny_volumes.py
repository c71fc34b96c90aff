"""Labelled volumes small enough to segment in a second: a bright ball (1) and a dark box (2) in noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medfm.backbones.conv3d import SegResNet3D
from medfm.config.strategies import STRATEGIES
from medfm.finetuning.patches import Places
from medfm.finetuning.segmentation_fit import DenseProblem

SIZE = (8, 8, 8)


class ArrayVolumes:
    """``medfm.finetuning.patches.Volumes`` in memory; NaN in x is no measurement."""

    def __init__(self, x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> None:
        self.x, self.y = list(x), list(y)

    @property
    def shapes(self) -> np.ndarray:
        return np.array([x.shape for x in self.x])

    def labels(self, row: int) -> np.ndarray:
        return self.y[row]

    def _cut(self, values: np.ndarray, origin: np.ndarray, size: Sequence[int], fill: float) -> np.ndarray:
        out = np.full(tuple(size), fill, np.float32)
        at, to = [], []
        for o, n, s in zip(np.asarray(origin).tolist(), values.shape, size):
            low, high = max(o, 0), min(o + s, n)
            at.append(slice(low, high))
            to.append(slice(low - o, high - o))
        out[tuple(to)] = values[tuple(at)]
        return out

    def patches(
        self, rows: np.ndarray, origins: np.ndarray, size: Sequence[int], rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = np.stack([self._cut(self.x[r], o, size, np.nan)[None] for r, o in zip(rows, origins)])
        y = np.stack([self._cut(self.y[r], o, size, -1) for r, o in zip(rows, origins)])
        y[np.isnan(x[:, 0])] = -1
        return torch.from_numpy(np.nan_to_num(x)), torch.from_numpy(y).long()

    def tiles(self, row: int, origins: np.ndarray, size: Sequence[int]) -> torch.Tensor:
        x = np.stack([self._cut(self.x[row], o, size, np.nan)[None] for o in origins])
        return torch.from_numpy(np.nan_to_num(x))


def phantoms(n: int = 4, shape: Sequence[int] = (16, 14, 12), seed: int = 0) -> ArrayVolumes:
    rng, grid = np.random.default_rng(seed), np.indices(tuple(shape))
    xs, ys = [], []
    for _ in range(n):
        y = np.zeros(tuple(shape), np.int16)
        centre = rng.uniform(4, 8, 3)
        y[((grid - centre[:, None, None, None]) ** 2).sum(0) < 9] = 1
        y[11:14, 2:6, 3:7] = 2
        x = rng.normal(0, 0.3, y.shape) + np.array([0.0, 2.0, -2.0])[y]
        xs.append(x.astype(np.float32))
        ys.append(y)
    return ArrayVolumes(xs, ys)


def network(seed: int = 0, decoder: bool = True, levels: int = 2) -> SegResNet3D:
    torch.manual_seed(seed)
    return SegResNet3D(
        in_channels=1, input_size=SIZE, init_filters=8, blocks_down=(1,) * levels, decoder=decoder
    ).eval()


def problem(name: str, volumes: ArrayVolumes | None = None, **more: Any) -> DenseProblem:
    volumes = volumes or phantoms()
    trained = {"lr": 1e-2, "head_lr": 1e-2, "epochs": 4, "warmup": 0.05} if name != "linear-probe" else {}
    if name == "progressive":
        trained |= {"epochs": 8, "head_epochs": 1}
    settings = STRATEGIES[name].settings(**trained)
    how = {"size": SIZE, "steps": 30, "batch_size": 2, "backbone": network(), **more}
    how = {"strategy": lambda: STRATEGIES[name].load()(settings), **how}
    return DenseProblem(volumes, Places.find(volumes, 2), 2, **how)
