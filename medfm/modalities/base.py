"""What every modality answers, and the form of an augmentation.

A modality is everything that must travel with a model for its input to mean the same at another site:
channels, grid, units, filter, normalisation. It is built from its settings, serialises to the bundle and
comes back from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medfm.types import Sample

# What a label may be about; an augmentation names those that still hold after it.
SIGNAL_KINDS = ("rhythm", "intervals", "morphology", "st", "voltage", "axis", "localisation", "quality")
IMAGE_KINDS = ("presence", "location", "laterality", "size", "density", "texture", "quality")
LABEL_KINDS = tuple(dict.fromkeys(SIGNAL_KINDS + IMAGE_KINDS))


@dataclass(frozen=True)
class Augmentation:
    """One label-safe transform of a batch, in physical units.

    Of a signal ``apply(x [B, C, T], present [B, C], rng, fs, rows)`` changes both arrays in place; ``rows
    [C]`` says which of the modality's standard channels each one is. Of an image it is ``apply(x [B, C, H,
    W], rng)``. ``preserves`` holds the kinds of label (of :data:`LABEL_KINDS`) that are as true after it as
    before; a label of another kind may be changed by it.
    """

    name: str
    apply: Callable[..., None]
    preserves: frozenset[str]
    description: str

    @property
    def alters(self) -> frozenset[str]:
        """The kinds of label that this transform may falsify."""
        return frozenset(LABEL_KINDS) - self.preserves


class Modality(Protocol):
    """The contract of ARCHITECTURE's ``Modality``. ``size`` is in samples or voxels, ``spacing`` in s or
    mm."""

    name: str
    rank: int

    @property
    def channels(self) -> tuple[str, ...]: ...

    @property
    def spacing(self) -> tuple[float, ...]: ...

    @property
    def size(self) -> tuple[int, ...]: ...

    @property
    def suffixes(self) -> tuple[str, ...]: ...

    def read(self, path: str | Path, fs: float | None = None, quality: bool = True) -> Sample: ...

    def prepare(self, sample: Sample) -> Sample: ...

    def normalise(self, x: np.ndarray, present: np.ndarray, copy: bool = True) -> np.ndarray: ...

    def augment(
        self, sample: Sample, rng: np.random.Generator, names: Sequence[str] | None = None
    ) -> Sample: ...

    def augment_batch(
        self, x: np.ndarray, present: np.ndarray, rng: np.random.Generator, names: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]: ...

    def alters(self, name: str) -> frozenset[str]: ...

    def settings(self) -> dict[str, Any]: ...

    def ingest_settings(self) -> dict[str, Any]: ...
