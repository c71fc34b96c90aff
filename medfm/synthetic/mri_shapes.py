"""Solids by their distance inside, in mm, and how they fill voxels. Distances are positive inside and approximate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from medfm.synthetic.draws import Draws

Knots = Sequence[tuple[tuple[float, float, float], float]]


def ellipsoid(
    p: np.ndarray, centre: Sequence[float], axes: Sequence[float], power: float = 2.0
) -> np.ndarray:
    """Distance inside ``sum |v / axis|^power = 1``, exact near its surface; a power above 2 makes it boxy."""
    a = np.asarray(axes, np.float32)
    v = np.abs(p - np.asarray(centre, np.float32)) / a + np.float32(1e-4)
    slope = v if power == 2 else v ** np.float32(power - 1)
    total = (slope * v).sum(1)
    k = np.sqrt(total) if power == 2 else total ** np.float32(1 / power)
    return ((1 - k) * total / k / np.sqrt(((slope / a) ** 2).sum(1))).astype(np.float32)


def chain(p: np.ndarray, knots: Knots, factor: np.ndarray | float = 1.0) -> np.ndarray:
    """Distance inside a tube along knots whose radius changes between them."""
    best = np.full(len(p), -1e3, np.float32)
    for (a, ra), (b, rb) in pairwise(knots):
        start, step = np.asarray(a, np.float32), np.asarray(b, np.float32) - np.asarray(a, np.float32)
        t = np.clip((p - start) @ step / (step @ step), 0, 1)
        gap = np.sqrt(((p - start - t[:, None] * step) ** 2).sum(1))
        np.maximum(best, (ra + (rb - ra) * t) * factor - gap, out=best)
    return best


def join(a: np.ndarray, b: np.ndarray, smooth: float) -> np.ndarray:
    """The union of two insides, its notch filled over ``smooth`` mm."""
    h = np.maximum(smooth - np.abs(a - b), 0)
    return (np.maximum(a, b) + h * h * (0.25 / smooth)).astype(np.float32)


def fill(inside: np.ndarray, edge: float) -> np.ndarray:
    """Share of a voxel that lies inside a surface."""
    return np.clip(inside * np.float32(1 / edge) + np.float32(0.5), 0, 1)


def sheet(distance: np.ndarray, half: np.ndarray | float, edge: float) -> np.ndarray:
    """Share of a voxel at a distance from the middle of a sheet that lies in it; half: of its thickness, mm."""
    low, high = np.maximum(distance - edge / 2, -half), np.minimum(distance + edge / 2, half)
    return (np.clip(high - low, 0, None) * (1 / edge)).astype(np.float32)


def wave(p: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Mean square 1: the sum of plane waves at points ``[N, 3]``."""
    return np.sin(p @ table[:, :3].T + table[:, 3]).sum(1) * np.float32(np.sqrt(2 / len(table)))


def directions(d: Draws, count: int, low: float, high: float) -> np.ndarray:
    """Wave vectors ``[n, count, 3]`` of any direction, of wavelengths of low to high mm."""
    z, turn = d.uniform(-1, 1, (count,)), d.uniform(0, 2 * np.pi, (count,))
    k = 2 * np.pi / d.uniform(low, high, (count,))
    flat = np.sqrt(1 - z**2)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), z], -1) * k[..., None]
