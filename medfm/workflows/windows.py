"""Records of an ingest store as networks take them: a signal's random training windows and the windows that cover it; a
picture whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medfm.data.image_store import ImageStore
from medfm.data.store import SignalStore
from medfm.types import ConfigError, MedfmError, Sample


def windows(length: int, size: int) -> list[int]:
    """Starts of the windows that cover a record: one, or neighbours that overlap just enough to end at its end."""
    if length <= size:
        return [0]
    count = -(-length // size)
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


@dataclass
class StoreRecords:
    """``medfm.finetuning.records.Records`` over a store of signals; ``window`` samples (0: the modality's)."""

    store: SignalStore
    modality: Any
    window: int = 0
    augment: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.window = self.window or self.modality.size[0]

    def __len__(self) -> int:
        return len(self.store)

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        room = np.maximum(self.store.lengths[rows] - self.window, 0)
        x, present = self.store.read(rows, rng.integers(0, room + 1), self.window)
        if self.augment:
            x, present = self.modality.augment_batch(x, present, rng, self.augment)
        return _tensors(self.modality, x, present)

    def plan(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts = [windows(int(n), self.window) for n in self.store.lengths[rows]]
        owner = np.repeat(np.arange(len(rows)), [len(s) for s in starts])
        return owner, np.array([s for part in starts for s in part], np.int64)

    def read(self, rows: np.ndarray, starts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return _tensors(self.modality, *self.store.read(rows, starts, self.window))

    def physical(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First windows ``x [B, C, T]`` in the modality's unit, NaN where nothing is, and ``present [B, C]``."""
        return self.store.read(rows, length=self.window)


@dataclass
class PictureRecords:
    """``medfm.finetuning.records.Records`` over a store of pictures on the modality's grid."""

    store: ImageStore
    modality: Any
    window: int = 0  # a picture has none: it is taken whole
    augment: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.window:
            raise MedfmError(f"a picture is taken whole, not in windows of {self.window}; give no window.")

    def __len__(self) -> int:
        return len(self.store)

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        x, present = self.store.read(rows)
        if self.augment:
            x, present = self.modality.augment_batch(x, present, rng, self.augment)
        return _tensors(self.modality, x, present)

    def plan(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(len(rows)), np.zeros(len(rows), np.int64)

    def read(self, rows: np.ndarray, starts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        assert not starts.any()
        return _tensors(self.modality, *self.store.read(rows))

    def physical(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pictures ``x [B, C, *grid]`` in the modality's unit, NaN where nothing is, and ``present [B, C]``."""
        return self.store.read(rows)


def _tensors(modality: Any, x: np.ndarray, present: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    x = np.ascontiguousarray(modality.normalise(x, present), np.float32)
    return torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(present))


def signal_window(modality: Any, crop_seconds: float | None) -> int:
    """Samples of a training window. Raises :class:`ConfigError` for a crop longer than the backbone's own."""
    full = int(modality.size[0])
    window = round(crop_seconds / modality.spacing[0]) if crop_seconds else full
    if crop_seconds and window > full:
        raise ConfigError(
            f"finetune.crop_seconds={crop_seconds:g} is longer than the backbone's window "
            f"({full * modality.spacing[0]:g} s); lower it or leave it out."
        )
    return window


def picture_window(modality: Any, crop_seconds: float | None) -> int:
    """0: the whole picture. Raises :class:`ConfigError` for a crop in seconds."""
    if crop_seconds:
        raise ConfigError(f"finetune.crop_seconds is for signals, and {modality.name} is none; leave it out.")
    return 0


def signal_cuts(sample: Sample, modality: Any, window: int) -> Iterator[Sample]:
    """The normalised windows that cover ``sample``; one in which no channel is recorded is left out."""
    size = window or modality.size[0]
    some = False
    for start in windows(sample.x.shape[-1], size):
        x = sample.x[..., start : start + size]
        x = np.pad(x, ((0, 0), (0, size - x.shape[-1])), constant_values=np.nan)
        present = sample.present & ~np.isnan(x).all(axis=-1)
        if present.any():
            some = True
            yield sample.replace(x=modality.normalise(x, present), present=present)
    if not some:
        raise MedfmError(f"{sample.record or 'the record'} holds no recorded sample in any channel.")


def picture_cuts(sample: Sample, modality: Any, window: int) -> Iterator[Sample]:
    """``sample`` itself, normalised."""
    assert not window
    yield modality.prepare(sample)
