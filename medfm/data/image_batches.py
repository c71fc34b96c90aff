"""Batches of pictures from image stores: batch ``k`` is a pure function of (seed, k, rank), as for signals."""

from __future__ import annotations

import numpy as np

from medfm.data.loader import SignalBatches
from medfm.types import Batch


class ImageBatches(SignalBatches):
    """Batches ``start .. stop`` of whole pictures ``[B, C, H, W]``, augmented as grey, then normalised.

    ``views``: as for signals, ``[B, V, C, H, W]``. The mixture's stores are
    :class:`~medfm.data.image_store.ImageStore` on the modality's grid.
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
        rng = np.random.default_rng((self.seed, 11, step, self.rank))
        x, present, views = self._augmented(x, present, rng)
        x = self.modality.normalise(x, present)
        return self._collated(x, present, views, self.mixture.target(which, rows))
