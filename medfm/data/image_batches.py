"""Batches of pictures from image stores: batch ``k`` is a pure function of (seed, k, rank), as for signals."""

from __future__ import annotations

import numpy as np
import torch

from medfm.data.loader import SignalBatches
from medfm.types import Batch


class ImageBatches(SignalBatches):
    """Batches ``start .. stop`` of whole pictures ``[B, C, H, W]``, augmented as grey, then normalised.

    The mixture's stores are :class:`~medfm.data.image_store.ImageStore` on the modality's grid.
    """

    def batch(self, step: int) -> Batch:
        first = (step * self.world + self.rank) * self.batch_size
        which, rows = self.mixture.draw(self.seed, first, self.batch_size)
        channels = len(self.modality.channels)
        x = np.empty((self.batch_size, channels, *self.modality.size), np.float32)
        present = np.empty((self.batch_size, channels), bool)
        for index in np.unique(which):
            at = np.flatnonzero(which == index)
            x[at], present[at] = self.mixture.stores[index].read(rows[at])
        if self.augment:
            rng = np.random.default_rng((self.seed, 11, step, self.rank))
            x, present = self.modality.augment_batch(x, present, rng, self.augment)
        x = self.modality.normalise(x, present)
        target = self.mixture.target(which, rows)
        return Batch(
            x=torch.from_numpy(np.ascontiguousarray(x, np.float32)),
            present=torch.from_numpy(present),
            target=None if target is None else torch.from_numpy(target),
        )
