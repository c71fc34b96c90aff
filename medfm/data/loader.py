"""Batches from stores. Batch ``k`` is a pure function of (seed, k, rank): resuming at step k needs no saved state,
and the number of workers changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from medfm.types import Batch, MedfmError


@dataclass
class Mixture:
    """Stores with weights. One store: every record once an epoch, in a seeded order. Several: each sample draws a
    store by weight, then a record uniformly (as ECG-JEPA mixes its data sets, arXiv 2410.13867)."""

    stores: Sequence[Any]  # of signals, pictures or volumes
    weights: Sequence[float] | None = None
    subsets: Sequence[np.ndarray] | None = None  # rows of each store that may be drawn
    targets: Sequence[np.ndarray | None] | None = None  # [len(store), K] of each store; None: unknown
    _cache: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.subsets is None:
            self.subsets = [np.arange(len(s)) for s in self.stores]
        if any(len(s) == 0 for s in self.subsets):
            raise MedfmError("a data source has no readable record left; see train.log for the reasons.")
        weights = np.asarray(
            self.weights if self.weights is not None else [len(s) for s in self.subsets], float
        )
        if len(weights) != len(self.stores) or np.any(weights <= 0):
            raise MedfmError("data weights must be positive, one a source.")
        self.shares = weights / weights.sum()

    def draw(self, seed: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Store and row of samples ``first .. first + count`` of the seeded endless sequence."""
        assert self.subsets is not None
        if len(self.stores) == 1:
            n = len(self.subsets[0])
            epochs, places = np.divmod(np.arange(first, first + count), n)
            drawn = [
                self._order(seed, e)[places[epochs == e]] for e in range(first // n, int(epochs[-1]) + 1)
            ]
            return np.zeros(count, np.int64), np.concatenate(drawn)
        rng = np.random.default_rng((seed, 7, first))
        which = rng.choice(len(self.stores), size=count, p=self.shares)
        uniform = rng.random(count)
        rows = [self.subsets[w][int(u * len(self.subsets[w]))] for w, u in zip(which, uniform)]
        return which, np.array(rows)

    def target(self, which: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
        """Targets ``[B, K]`` of drawn samples, NaN where their store has none; None when no store has any."""
        known = [t for t in self.targets or () if t is not None]
        if not known:
            return None
        out = np.full((len(rows), known[0].shape[1]), np.nan, np.float32)
        for index, values in enumerate(self.targets or ()):
            if values is not None:
                out[which == index] = values[rows[which == index]]
        return out

    def _order(self, seed: int, epoch: int) -> np.ndarray:
        if epoch not in self._cache:
            assert self.subsets is not None
            self._cache = {k: v for k, v in self._cache.items() if k >= epoch - 1}
            self._cache[epoch] = np.random.default_rng((seed, 3, epoch)).permutation(self.subsets[0])
        return self._cache[epoch]


class SignalBatches(IterableDataset[Batch]):
    """Batches ``start .. stop`` of windows cut at random, augmented in physical units, then normalised.

    ``views`` more than one: ``x`` is the window as it is, and ``Batch.views["views"] [B, V, C, T]`` holds as many
    augmentations of it, each drawn by itself; a channel that one of them drops is NaN there.
    """

    def __init__(
        self,
        mixture: Mixture,
        modality: Any,
        batch_size: int,
        *,
        seed: int = 0,
        start: int = 0,
        stop: int,
        augment: Sequence[str] = (),
        views: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.mixture, self.modality, self.batch_size, self.seed = mixture, modality, batch_size, seed
        self.start, self.stop, self.augment, self.views = start, stop, tuple(augment), views
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for step in range(self.start + worker, self.stop, workers):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        first = (step * self.world + self.rank) * self.batch_size
        which, rows = self.mixture.draw(self.seed, first, self.batch_size)
        rng = np.random.default_rng((self.seed, 11, step, self.rank))
        with _rows_unbuffered():
            x, present = self._read(which, rows, rng.random(self.batch_size))
            x, present, views = self._augmented(x, present, rng)
            x = self.modality.normalise(x, present, copy=False)
        return self._collated(x, present, views, self.mixture.target(which, rows))

    def _augmented(
        self, x: np.ndarray, present: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """The records, augmented where no views are asked for, and otherwise normalised views of them by name."""
        if self.views > 1:
            drawn = [self.modality.augment_batch(x, present, rng, self.augment) for _ in range(self.views)]
            return x, present, {"views": np.stack([self.modality.normalise(*view) for view in drawn], 1)}
        if self.augment:
            x, present = self.modality.augment_batch(x, present, rng, self.augment)
        return x, present, {}

    def _collated(
        self, x: np.ndarray, present: np.ndarray, views: dict[str, np.ndarray], target: np.ndarray | None
    ) -> Batch:
        return Batch(
            x=torch.from_numpy(np.ascontiguousarray(x, np.float32)),
            present=torch.from_numpy(present),
            target=None if target is None else torch.from_numpy(target),
            views={name: torch.from_numpy(view) for name, view in views.items()},
        )

    def _read(self, which: np.ndarray, rows: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Windows ``x [B, C, T]`` in mV and ``present [B, C]``; ``offset`` in 0..1 places each in its record."""
        length, channels = self.modality.size[0], len(self.modality.channels)
        parts = []
        for index, store in enumerate(self.mixture.stores):
            at = np.flatnonzero(which == index)
            room = np.maximum(store.lengths[rows[at]] - length, 0)
            starts = (offset[at] * (room + 1)).astype(np.int64)
            if len(at) == len(rows):
                return store.read(rows, starts, length)
            parts.append((at, store.read(rows[at], starts, length)))
        x = np.empty((len(rows), channels, length), np.float32)
        present = np.empty((len(rows), channels), bool)
        for at, part in parts:
            x[at], present[at] = part
        return x, present


@contextmanager
def _rows_unbuffered() -> Iterator[None]:
    """numpy copies rows shorter than half its buffer before it combines them with one number a lead, which takes
    longer than the arithmetic (10 s at 250 Hz are such rows). A small buffer switches that off; results are the same.
    """
    before = np.setbufsize(1024)
    try:
        yield
    finally:
        np.setbufsize(before)


def loader(batches: SignalBatches, workers: int = 0, pin_memory: bool = False) -> DataLoader[Batch]:
    """A DataLoader over ready-made batches; workers are spawned (forking after torch threads start is not safe)."""
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=False,
        multiprocessing_context="spawn" if workers else None,
    )
