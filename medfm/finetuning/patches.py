"""Where training looks: patches at random places, a share of them around a voxel of a class.

Small organs fill a thousandth of a volume; drawn anywhere, patches would seldom hold one. n records, B patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from medfm.types import MedfmError

MOST = 10_000  # voxels remembered of a class in a record


class Volumes(Protocol):
    """Labelled volumes on one grid, by row. ``workflows`` makes one from a store and a modality."""

    @property
    def shapes(self) -> np.ndarray:
        """Voxels along each axis ``[n, 3]``."""
        ...

    def labels(self, row: int) -> np.ndarray:
        """Classes ``[*S]`` of a record: 0 background, 1 to K, -1 unknown."""
        ...

    def patches(
        self, rows: np.ndarray, origins: np.ndarray, size: Sequence[int], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Augmented training patches: x ``[B, C, *size]`` as the network takes it, without NaN, and classes int64
        ``[B, *size]``, -1 where nothing is known (outside the volume)."""
        ...

    def tiles(self, row: int, origins: np.ndarray, size: Sequence[int]) -> Tensor:
        """``[B, C, *size]`` of one record at ``origins [B, 3]``, not augmented, without NaN."""
        ...


@dataclass(frozen=True)
class Places:
    """Of each record, up to :data:`MOST` voxels of each class ``[m, 3]``, and how many it has ``counts [n, K + 1]``."""

    classes: int
    voxels: list[dict[int, np.ndarray]] = field(default_factory=list)
    counts: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.int64))

    @classmethod
    def find(cls, volumes: Volumes, classes: int, seed: int = 0) -> Places:
        found, counts = [], []
        for row in range(len(volumes.shapes)):
            labels = volumes.labels(row)
            flat, here = labels.ravel(), {}
            total = np.bincount(np.maximum(flat, -1) + 1, minlength=classes + 2)[1 : classes + 2]
            rng = np.random.default_rng((seed, row))
            order = np.flatnonzero(flat > 0)
            for k in range(1, classes + 1):
                if total[k]:
                    at = order[flat[order] == k]
                    if len(at) > MOST:
                        at = rng.choice(at, MOST, replace=False)
                    here[k] = np.stack(np.unravel_index(at, labels.shape), 1).astype(np.int32)
            found.append(here)
            counts.append(total)
        return cls(classes, found, np.array(counts, np.int64).reshape(-1, classes + 1))

    @property
    def present(self) -> np.ndarray:
        """Which classes each record has: bool ``[n, K]``."""
        return self.counts[:, 1:] > 0


@dataclass(frozen=True)
class Sampler:
    """Draws patches of ``size`` from ``rows``. Exactly the share ``foreground`` of any run of patches is centred on a voxel
    of a class: first the class, all that ``rows`` hold equally likely, then a record that has it, then one of its voxels.
    The others lie anywhere in any record."""

    places: Places
    shapes: np.ndarray
    rows: np.ndarray
    size: tuple[int, ...]
    foreground: float = 1 / 3

    def __post_init__(self) -> None:
        if not len(self.rows):
            raise MedfmError("there is no record to train on.")

    def draw(self, first: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Patches number ``first`` to ``first + count - 1`` of a run: rows ``[B]`` and origins ``[B, 3]``."""
        present = self.places.present[self.rows]
        classes = np.flatnonzero(present.any(0))
        rows, origins = np.empty(count, np.int64), np.empty((count, 3), np.int64)
        for b, number in enumerate(range(first, first + count)):
            centred = np.floor((number + 1) * self.foreground + 1e-9) > np.floor(
                number * self.foreground + 1e-9
            )
            if centred and len(classes):
                k = int(rng.choice(classes))
                row = int(rng.choice(self.rows[present[:, k]]))
                voxels = self.places.voxels[row][k + 1]
                origin = voxels[rng.integers(len(voxels))] - np.array(self.size) // 2
            else:
                row = int(rng.choice(self.rows))
                origin = rng.integers(0, np.maximum(self.shapes[row] - self.size, 0) + 1)
            rows[b], origins[b] = row, self.within(row, origin)
        return rows, origins

    def within(self, row: int, origin: np.ndarray) -> np.ndarray:
        """Moved into the volume; along an axis shorter than a patch, the volume lies in its middle."""
        room = self.shapes[row] - np.array(self.size)
        return np.where(room > 0, np.clip(origin, 0, np.maximum(room, 0)), -((-room) // 2))
