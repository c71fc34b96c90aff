"""From grey to the network, of whatever comes as pictures on one grid: radiographs, and slices of volumes.

Shapes: C channels of grey 0 to 1 (NaN: no picture), H x W the grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from medfm.modalities.xray_augment import AUGMENTATIONS, MIX_ALTERS, augmentation
from medfm.types import MedfmError, Sample


class GreyPictures(ABC):
    """Normalisation and augmentation of a modality of pictures, which has ``channels`` and these settings."""

    rank = 2
    name: str
    channels: tuple[str, ...]
    normalisation: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    _size: tuple[int, int]

    @property
    def size(self) -> tuple[int, ...]:
        """Rows and columns."""
        return self._size

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain JSON that rebuilds the modality."""

    # From grey to the network
    # -----------------------------------------------------------------------------------------------------------------

    def normalise(self, x: np.ndarray, present: np.ndarray) -> np.ndarray:
        """``x [..., C, H, W]`` grey -> the network's input, float32. ``present [..., C]``; an absent channel stays NaN.

        What is no picture is shown black, as it is on film: it has the normalised value of grey 0.
        """
        x = np.array(x, np.float32)
        axes = (-2, -1)
        if self.normalisation == "record":
            mean, std = _moments(x)
            mean, std = mean[..., None, None], np.maximum(std, 1e-3)[..., None, None]
        elif self.normalisation == "dataset":
            if self.mean is None or self.std is None:
                raise MedfmError(
                    "modality.normalise is 'dataset', but mean and std are not set: fit them on the training data, "
                    "load them with a bundle, or set modality.normalise=record."
                )
            mean = np.asarray(self.mean, np.float32)[:, None, None]
            std = np.asarray(self.std, np.float32)[:, None, None]
        broken = np.isnan(x.sum(axis=axes))
        if broken.any():
            x[broken] = np.nan_to_num(x[broken], nan=0.0)
        if self.normalisation != "none":
            x -= mean
            x /= std
        x[~np.asarray(present, bool)] = np.nan
        return x

    def prepare(self, sample: Sample) -> Sample:
        """Normalised; the grid is the sample's already. Deterministic. Raises on a sample of another size."""
        if sample.x.shape[1:] != self._size:
            have = " x ".join(str(n) for n in sample.x.shape[1:])
            raise MedfmError(
                f"{sample.record or 'the sample'} has {have} pixels, the modality {self._size[0]} x {self._size[1]}: "
                "read it again with this modality."
            )
        return sample.replace(x=self.normalise(sample.x, sample.present))

    def fit(self, x: np.ndarray, present: np.ndarray) -> Self:
        """A copy with mean and deviation a channel of training pictures ``x [B, C, H, W]`` (grey), NaN left out."""
        total = np.zeros(len(self.channels))
        square, count = total.copy(), total.copy()
        for picture, there in zip(x, present):
            known = there[:, None, None] & np.isfinite(picture)
            values = np.where(known, picture, 0.0).astype(np.float64)
            total += values.sum(axis=(1, 2))
            square += np.square(values).sum(axis=(1, 2))
            count += known.sum(axis=(1, 2))
        if not count.any():
            raise MedfmError("mean and std cannot be fitted: the training pictures hold no pixel.")
        mean = total / np.maximum(count, 1)
        std = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean**2, 1e-6))
        settings = {k: v for k, v in self.settings().items() if k not in ("name", "mean", "std")}
        make: Any = type(self)
        fitted: Self = make(**settings, mean=mean.tolist(), std=std.tolist())
        return fitted

    # Augmentation
    # -----------------------------------------------------------------------------------------------------------------

    def augment_batch(
        self, x: np.ndarray, present: np.ndarray, rng: np.random.Generator, names: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """``x [B, C, H, W]`` grey and ``present [B, C]`` through the named augmentations, in the order of the table.

        Returns new arrays; the same rng state gives the same batch. Raises :class:`MedfmError` on an unknown name.
        """
        chosen = [augmentation(name) for name in dict.fromkeys(names)]
        x, present = np.array(x, np.float32), np.array(present, bool)
        for one in sorted(chosen, key=lambda a: list(AUGMENTATIONS).index(a.name)):
            one.apply(x, rng)
        return x, present

    def alters(self, name: str) -> frozenset[str]:
        """Kinds of label that an augmentation or a mix falsifies. Raises :class:`MedfmError` on an unknown name."""
        return MIX_ALTERS[name] if name in MIX_ALTERS else augmentation(name).alters

    def augment(self, sample: Sample, rng: np.random.Generator, names: Sequence[str] | None = None) -> Sample:
        """One picture, augmented as grey (before :meth:`prepare`); all augmentations when no names are given."""
        names = tuple(AUGMENTATIONS) if names is None else names
        x, present = self.augment_batch(sample.x[None], sample.present[None], rng, names)
        return sample.replace(x=x[0], present=present[0])


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation over the pixels ``[..., C]``, NaN left out; 0 and 0 for a channel without a pixel."""
    finite = np.isfinite(x)
    count = np.maximum(finite.sum(axis=(-2, -1)), 1)
    mean = np.where(finite, x, 0.0).sum(axis=(-2, -1)) / count
    spread = np.where(finite, x - mean[..., None, None], 0.0)
    return mean.astype(np.float32), np.sqrt(np.square(spread).sum(axis=(-2, -1)) / count).astype(np.float32)
