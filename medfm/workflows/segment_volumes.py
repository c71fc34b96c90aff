"""Labelled volumes of a table: which values its masks hold, and patches and tiles of them as networks take them.

n records, K classes; a class is 1 to K here whatever value the user's masks have for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medfm.data.volume_store import VolumeStore
from medfm.types import MedfmError

MOST_CLASSES = 254  # and background: a label is a byte


@dataclass(frozen=True)
class Classes:
    """``names`` and ``values`` (in the user's masks) of classes 1 to K; ``other``: what any other value is, -1 to refuse."""

    names: tuple[str, ...]
    values: tuple[int, ...]
    other: int = -1

    def of(self, labels: np.ndarray) -> np.ndarray:
        """A mask of the user's values -> int16 classes; NaN is -1, unknown."""
        known = np.isfinite(labels) if labels.dtype.kind == "f" else np.ones(labels.shape, bool)
        whole = np.rint(np.where(known, labels, 0)).astype(np.int32)
        low, high = int(whole.min(initial=0)), int(whole.max(initial=0))
        table = np.full(high - low + 1, self.other, np.int16)
        for k, value in enumerate((0, *self.values)):
            if low <= value <= high:
                table[value - low] = k
        classes = table[whole - low]
        classes[~known] = -1
        return classes

    def back(self, classes: np.ndarray) -> np.ndarray:
        """Classes 0 to K -> the user's values, uint8 or int16."""
        table = np.array((0, *self.values), np.uint8 if max(self.values) < 256 else np.int16)
        return table[classes]


def find_classes(
    store: VolumeStore,
    given: Mapping[str, int],
    other: str,
    files: Sequence[str],
    patients: Sequence[str],
    progress: Callable[[int], None] | None = None,
) -> tuple[Classes, np.ndarray]:
    """The classes, and which records have each: bool ``[n, K]``.

    given: name -> value; empty: every value found. files: the masks, for sentences. Raises :class:`MedfmError` for a value
    that ``given`` does not name (unless ``other`` is ``background``), a class that no two patients have, and masks
    without any class.
    """
    found: list[dict[int, int]] = []
    for row in range(len(store)):
        found.append(_counts(store.whole(row)[-1]))
        if progress:
            progress(row + 1)
    named = {int(value): name for name, value in given.items()} or {
        v: f"class {v}" for v in sorted({v for one in found for v in one if v})
    }
    if other == "refuse":
        for one, file in zip(found, files):
            if strange := [v for v in one if v and v not in named]:
                raise MedfmError(
                    f"{file}: the mask holds the value {strange[0]}, which is none of the classes "
                    f"({', '.join(f'{n} = {v}' for v, n in sorted(named.items()))}): correct the mask, name the value in "
                    f"finetune.classes, or set finetune.other_values=background.{_brats(strange[0], named)}"
                )
    if not named:
        raise MedfmError("no mask holds anything but background (0): there is nothing to learn.")
    if min(named) < 0 or len(named) > MOST_CLASSES:
        wrong = f"the value {min(named)}" if min(named) < 0 else f"{len(named)} different values"
        where = next((f for one, f in zip(found, files) if min(named) in one), files[0])
        raise MedfmError(
            f"{where}: the masks hold {wrong}; classes are whole numbers from 1, at most {MOST_CLASSES} of them."
        )
    values = tuple(sorted(named))
    present = np.array([[value in one for value in values] for one in found], bool).reshape(-1, len(values))
    for k, value in enumerate(values):
        having = {patients[row] for row in np.flatnonzero(present[:, k]).tolist()}
        if len(having) < 2:
            where = f" ({files[int(np.argmax(present[:, k]))]})" if having else ""
            raise MedfmError(
                f"{named[value]} (value {value}) stands in the masks of {len(having)} patient(s){where}, so that it cannot be "
                "learned and tested: bring more, or name the other classes in finetune.classes and set "
                "finetune.other_values=background."
            )
    return Classes(tuple(named[v] for v in values), values, 0 if other == "background" else -1), present


def _brats(value: int, named: Mapping[int, str]) -> str:
    """What a 3 in place of a 4 is in masks of brain tumours, or the reverse."""
    other = {3: 4, 4: 3}.get(value)
    if other is None or other not in named or len(named) > 3:
        return ""
    return f" If these are BraTS masks: enhancement is 4 until 2021 and 3 since 2023, so that {named[other]} may be meant."


def _counts(labels: np.ndarray) -> dict[int, int]:
    """Value -> voxels of one mask as it is stored."""
    whole = np.rint(labels[np.isfinite(labels)]).astype(np.int64)
    if not whole.size:
        return {}
    low = int(whole.min())
    counts = np.bincount(whole - low)
    return {low + int(i): int(counts[i]) for i in np.flatnonzero(counts)}


@dataclass
class StoreVolumes:
    """``medfm.finetuning.patches.Volumes`` over a store whose last channel is the mask."""

    store: VolumeStore
    modality: Any
    classes: Classes
    augment: tuple[str, ...] = field(default=())
    window: int = 0

    @property
    def shapes(self) -> np.ndarray:
        return self.store.shapes

    def labels(self, row: int) -> np.ndarray:
        x = self.store.whole(row)
        classes = self.classes.of(x[-1])
        classes[np.isnan(x[:-1]).all(0)] = -1
        return classes

    def patches(
        self, rows: np.ndarray, origins: np.ndarray, size: Sequence[int], rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x, present = self.store.read(rows, origins, size)
        values, present, labels = x[:, :-1], present[:, :-1], self.classes.of(x[:, -1:])
        if self.augment:
            values, present = self.modality.augment_batch(values, present, rng, self.augment, labels=labels)
        labels[np.isnan(values).all(1, keepdims=True)] = -1  # what was not measured teaches nothing
        return as_input(self.modality, values, present), torch.from_numpy(labels[:, 0].astype(np.int64))

    def tiles(self, row: int, origins: np.ndarray, size: Sequence[int]) -> torch.Tensor:
        x, present = self.store.read(np.full(len(origins), row), origins, size)
        return as_input(self.modality, x[:, :-1], present[:, :-1])

    def picture(self, row: int) -> np.ndarray:
        """The first channel that is there of the network's input over the whole volume ``[*S]``."""
        present = self.store.flat.present[row, :-1]
        x = as_input(self.modality, self.store.whole(row)[None, :-1], present[None])[0]
        return x[int(np.argmax(self.modality.seen(present)))].numpy()


@dataclass
class OneVolume:
    """Tiles of one volume ``x [C, X, Y, Z]`` in memory, NaN: no measurement; ``present [C]``."""

    modality: Any
    x: np.ndarray
    present: np.ndarray

    def tiles(self, origins: np.ndarray, size: Sequence[int]) -> torch.Tensor:
        out = np.full((len(origins), len(self.x), *size), np.nan, np.float32)
        for one, origin in zip(out, origins.tolist()):
            at = [slice(max(0, o), min(n, o + s)) for o, n, s in zip(origin, self.x.shape[1:], size)]
            to = [slice(a.start - o, a.stop - o) for a, o in zip(at, origin)]
            one[(slice(None), *to)] = self.x[(slice(None), *at)]
        return as_input(self.modality, out, np.repeat(self.present[None], len(out), 0))


def as_input(modality: Any, x: np.ndarray, present: np.ndarray) -> torch.Tensor:
    """``x [B, C, *S]`` in the modality's unit and ``present [B, C]`` -> the network's input ``[B, W, *S]``, NaN in absent
    channels and nowhere else."""
    values = np.nan_to_num(np.ascontiguousarray(modality.normalise(x, present), np.float32))
    values[~modality.seen(present)] = np.nan
    return torch.from_numpy(values)


def spacing_of(affine: np.ndarray) -> tuple[float, ...]:
    """mm between voxels along each axis."""
    return tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))


def is_mask_column(values: Sequence[Any]) -> bool:
    """All known values are names of volume files (or of folders)."""
    from medfm.formats.volume import SUFFIXES

    known = [str(v).strip() for v in values if isinstance(v, str) and v.strip()]
    return bool(known) and all(
        v.lower().endswith(tuple(SUFFIXES)) or Path(v).suffix.lower() == ".dcm" for v in known
    )
