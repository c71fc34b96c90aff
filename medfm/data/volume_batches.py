"""Batches of crops from volume stores: batch ``k`` is a pure function of (seed, k, rank), as for signals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medfm.data.loader import Mixture, SignalBatches
from medfm.types import Batch


class VolumeBatches(SignalBatches):
    """Batches ``start .. stop`` of crops ``[B, W, *size]`` at random places, augmented as stored (in HU, or z-scores of each
    sequence), then as the network gets them. A subject's absent sequences are NaN.

    size: voxels of a crop; None: the modality's. ``views`` more than one and ``place`` ``any``: each view a crop of its own,
    anywhere in the record, ``Batch.views["views"] [B, V, W, *size]``; ``x`` is the first of them. ``view_meta["origins"]
    [B, V, 3]`` says where, in voxels of the record. The mixture's stores are
    :class:`~medfm.data.volume_store.VolumeStore`.
    """

    def __init__(
        self,
        mixture: Mixture,
        modality: Any,
        batch_size: int,
        *,
        size: Sequence[int] | None = None,
        place: str = "same",
        **settings: Any,
    ) -> None:
        super().__init__(mixture, modality, batch_size, **settings)
        self.size = tuple(int(n) for n in (size or modality.size))
        self.place = place

    def batch(self, step: int) -> Batch:
        first = (step * self.world + self.rank) * self.batch_size
        which, rows = self.mixture.draw(self.seed, first, self.batch_size)
        rng = np.random.default_rng((self.seed, 11, step, self.rank))
        windows = self.views if self.place == "any" else 1
        offset = rng.random((self.batch_size, windows, 3))
        parts, places = zip(*(self._crops(which, rows, offset[:, v]) for v in range(windows)))
        seen = self.modality.seen(parts[0][1])
        if self.place == "any" and self.views > 1:
            views = np.stack([self._network(x, present, rng) for x, present in parts], 1)
            batch = self._collated(views[:, 0], seen, {"views": views}, self.mixture.target(which, rows))
        else:
            x, present, several = self._augmented(parts[0][0], parts[0][1], rng)
            batch = self._collated(
                self.modality.normalise(x, present), seen, several, self.mixture.target(which, rows)
            )
        batch.view_meta["origins"] = torch.from_numpy(np.stack(places, 1))
        return batch

    def _network(self, x: np.ndarray, present: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.augment:
            x, present = self.modality.augment_batch(x, present, rng, self.augment)
        return self.modality.normalise(x, present)  # type: ignore[no-any-return]

    def _crops(
        self, which: np.ndarray, rows: np.ndarray, offset: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """Crops ``x [B, C, *size]`` of the modality's stored channels, without masks, and ``present [B, C]``, and their
        origins; ``offset`` in 0..1 places each in its record. A volume smaller than the crop lies in its middle."""
        channels = len(self.modality.stored)
        x = np.empty((len(rows), channels, *self.size), np.float32)
        present = np.empty((len(rows), channels), bool)
        origins = np.empty((len(rows), 3), np.int64)
        for index in np.unique(which):
            at = np.flatnonzero(which == index)
            store = self.mixture.stores[index]
            assert tuple(store.channels[:channels]) == tuple(self.modality.stored), store.channels
            room = store.shapes[rows[at]] - np.array(self.size)
            origins[at] = np.where(room > 0, (offset[at] * (room + 1)).astype(np.int64), room // 2)
            x[at], present[at] = (part[:, :channels] for part in store.read(rows[at], origins[at], self.size))
        return (x, present), origins
