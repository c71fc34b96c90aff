"""Random numbers that belong to a key, not to a batch: row i depends on ``(seed, subject, ...)`` of row i
alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

Key = tuple[int, ...]


class Draws:
    """A table of uniforms, one row a key, whose columns are handed out in the order of the calls.

    Every call takes the same columns whatever the values, so that a subject drawn alone and the same subject
    drawn among a thousand get the same numbers, and everything after this is arithmetic on whole columns.

    Shapes: each method returns ``[n, *shape]`` (``[n]`` without a shape), n keys.
    """

    def __init__(self, keys: Sequence[Key], columns: int) -> None:
        self._table = np.empty((len(keys), columns))
        for row, key in zip(self._table, keys, strict=True):
            np.random.Generator(np.random.PCG64(np.random.SeedSequence(key))).random(out=row)
        self._next = 0

    @property
    def n(self) -> int:
        return len(self._table)

    def _take(self, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape, dtype=int))
        stop = self._next + count
        assert stop <= self._table.shape[1], "more draws than columns: enlarge the table where it is made"
        block = self._table[:, self._next : stop]
        self._next = stop
        return block.reshape(self.n, *shape)

    def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> np.ndarray:
        return low + (high - low) * self._take(shape)

    def normal(self, mean: float = 0.0, sd: float = 1.0, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Normal, cut at four deviations so that no subject is a monster."""
        return mean + sd * np.clip(ndtri(np.clip(self._take(shape), 1e-12, 1 - 1e-12)), -4, 4)

    def lognormal(self, median: float = 1.0, sd: float = 0.2, shape: tuple[int, ...] = ()) -> np.ndarray:
        return median * np.exp(self.normal(0.0, sd, shape))

    def chance(self, p: float | np.ndarray) -> np.ndarray:
        """bool ``[n]``, true with probability p (a number or one a row)."""
        return self._take(()) < p

    def pick(self, weights: Sequence[float]) -> np.ndarray:
        """int ``[n]``: an index drawn with the given weights."""
        edges = np.cumsum(np.asarray(weights, float))
        return np.searchsorted(edges[:-1] / edges[-1], self._take(()), side="right")
