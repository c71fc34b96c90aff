"""A volume on the model's grid and back: axes turned, resampled to mm, cut to the body, and every step undone.

x ``[X, Y, Z]`` on the file's grid, ``[X', Y', Z']`` on the model's. Turning axes is exact. Resampling is linear along one
axis after another; where voxels get larger, each is a mean of those it covers, so that thin structures do not alias. Voxel centres keep their place in mm: the middle of the new grid is that of the old.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage, sparse

from medfm.types import Sample, Volume

AIR = -1000.0
BODY = -500.0  # HU between air and anything of a person; lungs lie inside the box of what is above
LOOK = 6.0  # mm a voxel at which the body is looked for
MARGIN = 10.0  # mm of air kept around the body
CODES = (("L", "R"), ("P", "A"), ("I", "S"))  # towards smaller and larger coordinates of RAS+


def axis_codes(affine: np.ndarray) -> str:
    """Where each axis points, as ``"RAS"``: of every axis the nearest of the patient's, none of them twice."""
    order, sign = _axes(affine)
    return "".join(CODES[o][int(s > 0)] for o, s in zip(order, sign))


def _axes(affine: np.ndarray) -> tuple[list[int], list[int]]:
    """For each array axis the patient's axis that it follows most, and its direction; a permutation."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    weight = np.abs(directions).copy()
    order = [-1, -1, -1]
    for _ in range(3):  # the clearest first, so that an oblique volume still gets three different axes
        world, axis = np.unravel_index(int(np.argmax(weight)), weight.shape)
        order[axis] = int(world)
        weight[world, :] = weight[:, axis] = -1.0
    return order, [1 if directions[o, a] > 0 else -1 for a, o in enumerate(order)]


@dataclass(frozen=True)
class Turn:
    """Array axes taken in ``order``, those in ``flips`` (of the result) reversed."""

    order: tuple[int, ...]
    flips: tuple[int, ...]

    @classmethod
    def to(cls, affine: np.ndarray, orientation: str) -> Turn:
        has, sign = _axes(affine)
        wanted = [next(i for i, pair in enumerate(CODES) if c in pair) for c in orientation]
        order = tuple(has.index(w) for w in wanted)
        flips = tuple(
            i
            for i, (c, o) in enumerate(zip(orientation, order))
            if (sign[o] > 0) != (c == CODES[wanted[i]][1])
        )
        return cls(order, flips)

    def apply(self, x: np.ndarray) -> np.ndarray:
        """``x [X, Y, Z]`` turned; a view."""
        return np.flip(x.transpose(self.order), self.flips)

    def undo(self, x: np.ndarray) -> np.ndarray:
        """The inverse, of the last three axes of ``x``; a view."""
        lead = x.ndim - 3
        x = np.flip(x, tuple(lead + a for a in self.flips))
        return x.transpose(*range(lead), *(lead + int(a) for a in np.argsort(self.order)))

    def affine(self, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Of the turned array, whose shape before is ``shape``."""
        out = affine[:, [*self.order, 3]].copy()
        for axis in self.flips:
            out[:3, 3] += out[:3, axis] * (shape[self.order[axis]] - 1)
            out[:3, axis] *= -1
        return out


@cache
def _weights(n: int, out: int, step: float) -> sparse.csr_matrix:
    """``[out, n]``: output j lies at ``(j - (out - 1) / 2) step + (n - 1) / 2``."""
    return weights_at(n, (np.arange(out) - (out - 1) / 2) * step + (n - 1) / 2, step)


def weights_at(n: int, centre: np.ndarray, step: float) -> sparse.csr_matrix:
    """``[len(centre), n]`` that reads a line of n values at ``centre``, ``step`` apart. Beyond the ends the last one holds.

    Linear interpolation, averaged over ``w = sqrt(step^2 - 1)`` voxels where they get larger: a voxel is a box one wide, and
    that much more blur makes its variance that of a box ``step`` wide. Exact for what is linear in place.
    """
    w = float(np.sqrt(max(step * step - 1, 0.0)))
    reach = int(np.ceil(w / 2)) + 1
    at = np.floor(centre)[:, None].astype(int) + np.arange(-reach, reach + 2)[None]
    away = centre[:, None] - at
    if w < 1e-3:
        weight = np.clip(1 - np.abs(away), 0, None)
    else:
        weight = (_risen(away + w / 2) - _risen(away - w / 2)) / w
    rows = np.broadcast_to(np.arange(len(centre))[:, None], at.shape)
    inside = np.clip(at, 0, n - 1)
    matrix = sparse.csr_matrix(
        (weight.ravel().astype(np.float32), (rows.ravel(), inside.ravel())), shape=(len(centre), n)
    )
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _risen(t: np.ndarray) -> np.ndarray:
    """Integral of the hat function ``max(0, 1 - |u|)`` up to t."""
    t = np.clip(t, -1, 1)
    return np.where(t < 0, (t + 1) ** 2 / 2, 1 - (1 - t) ** 2 / 2)


def resample(x: np.ndarray, shape: Sequence[int], steps: Sequence[float]) -> np.ndarray:
    """``x [X, Y, Z]`` -> float32 ``shape``; ``steps``: old voxels a new one, an axis. The axis that shrinks most first."""
    x = np.asarray(x)
    for axis in sorted(range(3), key=lambda a: shape[a] / x.shape[a]):
        if shape[axis] == x.shape[axis] and abs(steps[axis] - 1) < 1e-6:
            continue
        weights = _weights(x.shape[axis], int(shape[axis]), float(steps[axis]))
        moved = np.moveaxis(x, axis, 0)
        rest = moved.shape[1:]
        flat = np.ascontiguousarray(moved, np.float32).reshape(len(moved), -1)
        x = np.moveaxis((weights @ flat).reshape(-1, *rest), 0, axis)
    return np.ascontiguousarray(x, np.float32)


def nearest(x: np.ndarray, shape: Sequence[int], steps: Sequence[float]) -> np.ndarray:
    """``x [..., X, Y, Z]`` -> ``[..., *shape]``, the value of the nearest voxel: for labels."""
    lead = x.ndim - 3
    for axis in range(3):
        n = x.shape[lead + axis]
        at = np.rint((np.arange(shape[axis]) - (shape[axis] - 1) / 2) * steps[axis] + (n - 1) / 2)
        x = np.take(x, at.astype(int).clip(0, n - 1), axis=lead + axis)
    return x


def body_box(x: np.ndarray, spacing: Sequence[float], margin: float = MARGIN) -> tuple[slice, ...]:
    """The box around the largest body in ``x [X, Y, Z]`` HU, with ``margin`` mm, found to some 6 mm; all of the volume where
    there is none. What is thin (a table, a blanket) is opened away first, so that it does not widen the box."""
    stride = [max(1, int(LOOK // s)) for s in spacing]
    coarse = x[tuple(slice(None, None, n) for n in stride)] > BODY
    opened = ndimage.binary_opening(coarse, iterations=1) if min(coarse.shape) > 4 else coarse
    parts, count = ndimage.label(opened if opened.any() else coarse)
    if not count:
        return tuple(slice(0, n) for n in x.shape)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    found = ndimage.find_objects((parts == largest).astype(np.uint8))[0]
    box = []
    for s, n, size, mm in zip(found, stride, x.shape, spacing):
        more = int(np.ceil(margin / mm)) + (n - 1 if margin else 0)
        box.append(slice(max(0, s.start * n - more), min(size, (s.stop - 1) * n + 1 + more)))
    return tuple(box)


@dataclass(frozen=True)
class Placement:
    """A volume on the model's grid: ``sample``, the way there, and the affine of the grid (voxel to mm, RAS+).

    file_shape, file_affine: of the volume; turned: after its axes were turned; full: after resampling; box: what of that
    was kept.
    """

    sample: Sample
    turn: Turn
    file_shape: tuple[int, ...]
    file_affine: np.ndarray
    turned: tuple[int, ...]
    full: tuple[int, ...]
    steps: tuple[float, ...]
    box: tuple[slice, ...]
    affine: np.ndarray

    def label(self, x: np.ndarray) -> np.ndarray:
        """A mask ``[X, Y, Z]`` of the file's grid on the model's: the nearest voxel's value."""
        assert x.shape == self.file_shape
        return np.ascontiguousarray(nearest(self.turn.apply(x), self.full, self.steps)[self.box])

    def back(self, values: np.ndarray, order: int = 1, fill: float = 0.0) -> np.ndarray:
        """``values [K, *model grid]`` on the file's grid ``[K, *file_shape]``: linear (``order`` 1) or nearest (0).
        Outside the box that the model saw, ``fill``."""
        out = np.full((len(values), *self.file_shape), fill, values.dtype if order == 0 else np.float32)
        steps = [1 / s for s in self.steps]
        for k, one in enumerate(values):
            whole = np.full(self.full, fill, one.dtype)
            whole[self.box] = one
            moved = nearest(whole, self.turned, steps) if order == 0 else resample(whole, self.turned, steps)
            out[k] = self.turn.undo(moved)
        return out


def grid_of(
    volume: Volume, spacing: Sequence[float], orientation: str
) -> tuple[Turn, tuple[int, ...], tuple[int, ...], tuple[float, ...], np.ndarray]:
    """Turn, shape after it, shape on the grid of ``spacing``, old voxels a new one, and the grid's affine."""
    turn = Turn.to(volume.affine, orientation)
    turned = tuple(volume.x.shape[a] for a in turn.order)
    affine = turn.affine(volume.affine, volume.x.shape)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    # A spacing that differs by rounding alone (0.7421875 and 0.742) is the same grid.
    same = np.isclose(lengths, spacing, rtol=1e-3)
    steps = tuple(1.0 if ok else float(new / old) for ok, new, old in zip(same, spacing, lengths))
    full = tuple(n if s == 1.0 else max(1, round(n / s)) for n, s in zip(turned, steps))
    grid = affine.copy()
    grid[:3, :3] *= steps
    first = [(n - 1) / 2 - (m - 1) / 2 * s for n, m, s in zip(turned, full, steps)]
    grid[:3, 3] = affine[:3, :3] @ first + affine[:3, 3]
    return turn, turned, full, steps, grid
