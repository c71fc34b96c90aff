"""SimpleShot prototypes (Wang et al., arXiv 1911.04623): no training, no hyper-parameter, a floor for
everything else.

z <- (z - mean of the support) / norm; a class is the mean of its support; nearest prototype by Euclidean
distance. n records, F features, K outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medfm.finetuning.task import Task


@dataclass(frozen=True)
class Prototypes:
    """``center [F]``; ``positive [K, F]`` and, but for multiclass, ``negative [K, F]``."""

    center: np.ndarray
    positive: np.ndarray
    negative: np.ndarray | None

    @classmethod
    def fit(cls, z: np.ndarray, y: np.ndarray, task: Task) -> Prototypes:
        """From training records only; z ``[n, F]``, y ``[n, K]`` with NaN unknown. A class without support
        stands at the origin: as far from everything as from nothing."""
        center = z.mean(0)
        units = _unit(z - center)
        positive = _means(units, y == 1)
        return cls(center, positive, None if task.kind == "multiclass" else _means(units, y == 0))

    def scores(self, z: np.ndarray) -> np.ndarray:
        """``[n, K]`` in (0, 1): softmax over minus the distances (against the other classes, or the negative
        prototype). It ranks records; it is not a calibrated probability."""
        units = _unit(z - self.center)
        near = _distances(units, self.positive)
        if self.negative is None:
            score = np.exp(near.min(1, keepdims=True) - near)
            return score / score.sum(1, keepdims=True)
        return 1.0 / (1.0 + np.exp(near - _distances(units, self.negative)))


def _unit(z: np.ndarray) -> np.ndarray:
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)


def _means(units: np.ndarray, member: np.ndarray) -> np.ndarray:
    weight = member.astype(units.dtype)
    return (weight.T @ units) / np.maximum(weight.sum(0), 1)[:, None]


def _distances(units: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    square = (units**2).sum(1)[:, None] - 2 * units @ prototypes.T + (prototypes**2).sum(1)
    return np.sqrt(np.maximum(square, 0.0))
