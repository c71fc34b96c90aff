"""Volumes of an ingest store as networks take them: crops at random places in training, and the tiles that cover them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from medfm.data.volume_store import VolumeStore
from medfm.modalities.volume_grid import resample
from medfm.types import ConfigError, MedfmError, Sample
from medfm.workflows.windows import windows

OVERVIEW = 24  # voxels along each axis of a whole volume made small


def tiles(shape: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """First voxels ``[n, 3]`` of the tiles that cover a volume, neighbours overlapping just enough to end at its end; along
    an axis shorter than a tile, one that holds it in its middle."""
    starts = [windows(int(n), s) if n > s else [-((s - int(n)) // 2)] for n, s in zip(shape, size)]
    return np.array(list(product(*starts)), np.int64)


@dataclass
class VolumeRecords:
    """``medfm.finetuning.records.Records`` over a store of volumes, in tiles of the modality's size."""

    store: VolumeStore
    modality: Any
    window: int = 0  # a volume's tile has the modality's size
    augment: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.window:
            raise MedfmError(
                f"a volume is cut into tiles of modality.size, not of {self.window}; give no window."
            )

    def __len__(self) -> int:
        return len(self.store)

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        room = self.store.shapes[rows] - np.array(self.modality.size)
        origins = np.where(room > 0, rng.integers(0, np.maximum(room, 0) + 1), room // 2)
        x, present = self._read(rows, origins)
        if self.augment:
            x, present = self.modality.augment_batch(x, present, rng, self.augment)
        return self._tensors(x, present)

    def plan(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position in ``rows`` of every tile ``[W]``, in order, and its first voxel ``[W, 3]``."""
        starts = [tiles(shape, self.modality.size) for shape in self.store.shapes[rows]]
        owner = np.repeat(np.arange(len(rows)), [len(s) for s in starts])
        return owner, np.concatenate(starts) if starts else np.empty((0, 3), np.int64)

    def read(self, rows: np.ndarray, starts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Tiles at ``starts [m, 3]``; with ``starts [m]`` of zeros, as signals have them, the tile in the middle."""
        if starts.ndim == 1:
            assert not starts.any()
            return self._tensors(*self.physical(rows))
        return self._tensors(*self._read(rows, starts))

    def physical(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tiles in the middle, ``x [B, C, *size]`` as stored, NaN where nothing is, and ``present [B, C]``."""
        return self._read(rows, (self.store.shapes[rows] - np.array(self.modality.size)) // 2)

    def overview(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whole volumes at a low resolution, ``x [B, C, OVERVIEW, OVERVIEW, OVERVIEW]`` as stored, NaN in absent channels,
        and ``present [B, C]``."""
        present = self.store.flat.present[rows][:, : self.channels]
        x = np.full((len(rows), self.channels, *(OVERVIEW,) * 3), np.nan, np.float32)
        for small, row, there in zip(x, rows, present):
            whole = self.store.whole(int(row))
            steps = [n / OVERVIEW for n in whole.shape[1:]]
            for c in np.flatnonzero(there):
                small[c] = resample(np.nan_to_num(whole[c], nan=self.modality.empty), small.shape[1:], steps)
        return x, present

    def whole(self, row: int) -> np.ndarray:
        """A volume ``[C, X, Y, Z]`` as stored, NaN where nothing is."""
        return self.store.whole(row)[: self.channels]

    @property
    def channels(self) -> int:
        """Stored ones, without a mask."""
        return len(self.modality.stored)

    def _read(self, rows: np.ndarray, origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, present = self.store.read(rows, origins, self.modality.size)
        return x[:, : self.channels], present[:, : self.channels]

    def _tensors(self, x: np.ndarray, present: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        values = np.ascontiguousarray(self.modality.normalise(x, present), np.float32)
        return torch.from_numpy(values), torch.from_numpy(self.modality.seen(present))


def volume_window(modality: Any, crop_seconds: float | None) -> int:
    """0: tiles of the modality's size. Raises :class:`ConfigError` for a crop in seconds."""
    if crop_seconds:
        raise ConfigError(f"finetune.crop_seconds is for signals, and {modality.name} is none; leave it out.")
    return 0


def volume_cuts(sample: Sample, modality: Any, window: int) -> Iterator[Sample]:
    """The normalised tiles that cover ``sample``; one without any measurement is left out."""
    assert not window
    size = tuple(modality.size)
    some = False
    for start in tiles(np.array(sample.x.shape[1:]), size):
        x = np.full((len(sample.x), *size), np.nan, np.float32)
        inside = [slice(max(0, int(o)), int(o) + s) for o, s in zip(start, size)]
        part = sample.x[(slice(None), *inside)]
        place = [slice(max(0, -int(o)), max(0, -int(o)) + n) for o, n in zip(start, part.shape[1:])]
        x[(slice(None), *place)] = part
        if np.isfinite(x).any():
            some = True
            yield modality.prepare(sample.replace(x=x))
    if not some:
        raise MedfmError(f"{sample.record or 'the record'} holds no measured voxel.")
