"""Do the sequences of a subject lie on one grid? What differs, in words, and the way onto the grid of the first of them.

Volumes are compared after their axes are turned alike, which changes no value: a file stored from right to left and one
stored from left to right may hold the same grid. Grids are the same where the corners lie at most a tenth of a voxel
apart. Nothing is registered here: resampling trusts the coordinates that scanner or registration wrote into the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from medfm.modalities.volume_grid import Turn, axis_codes, grid_of, resample
from medfm.types import Volume

TOLERANCE = 0.1  # voxels, of the smallest edge
LEAST_COVER = 0.5  # of the reference's field of view, from which a sequence is brought onto its grid


def values_of(volume: Volume) -> np.ndarray:
    """float32 ``[X, Y, Z]``, NaN where nothing was measured."""
    x = np.asarray(volume.x, np.float32)
    if not np.isfinite(x).all():
        x = np.where(np.isfinite(x), x, np.float32(np.nan))
    return x if volume.valid is None else np.where(volume.valid, x, np.float32(np.nan))


def turn_like(volume: Volume, reference: Volume) -> tuple[Turn, tuple[int, ...], np.ndarray]:
    """How the axes of ``volume`` are turned to run as the reference's do, and its shape and affine then."""
    turn = Turn.to(volume.affine, axis_codes(reference.affine))
    shape = tuple(volume.x.shape[a] for a in turn.order)
    return turn, shape, turn.affine(volume.affine, volume.x.shape)


def same_grid(volume: Volume, reference: Volume) -> bool:
    """Is every voxel of one within :data:`TOLERANCE` of the other's, axes turned alike?"""
    _, shape, affine = turn_like(volume, reference)
    if shape != reference.x.shape:
        return False
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    corners[:, :3] *= np.array(shape) - 1
    apart = np.linalg.norm((corners @ (affine - reference.affine).T)[:, :3], axis=1).max()
    return bool(apart <= TOLERANCE * min(reference.spacing))


def cover(volume: Volume, reference: Volume) -> float:
    """Share of the reference's field of view that lies in the volume's, 0 to 1, on 16 x 16 x 16 points."""
    points = [(np.arange(16) + 0.5) / 16 * n - 0.5 for n in reference.x.shape]
    grid = np.stack(np.meshgrid(*points, indexing="ij"), -1).reshape(-1, 3)
    there = np.linalg.solve(volume.affine, reference.affine)
    at = grid @ there[:3, :3].T + there[:3, 3]
    return float(((at >= -0.5) & (at <= np.array(volume.x.shape) - 0.5)).all(1).mean())


def difference(volume: Volume, reference: Volume) -> str:
    """What tells the two grids apart: shape, spacing, direction, place, and how much the fields of view overlap."""
    _, shape, affine = turn_like(volume, reference)
    said = []
    if shape != reference.x.shape:
        said.append(f"{_times(shape)} voxels instead of {_times(reference.x.shape)}")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(spacing, reference.spacing, rtol=1e-2):
        said.append(f"a spacing of {_times(spacing)} instead of {_times(reference.spacing)} mm")
    rotation = (affine[:3, :3] / spacing).T @ (reference.affine[:3, :3] / np.array(reference.spacing))
    angle = np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
    if angle > 0.1:
        said.append(f"axes turned by {angle:.1f} degrees")
    middles = [
        a[:3, :3] @ ((np.array(n) - 1) / 2) + a[:3, 3]
        for a, n in ((affine, shape), (reference.affine, reference.x.shape))
    ]
    apart = float(np.linalg.norm(middles[0] - middles[1]))
    if apart > 0.01:
        said.append(f"its middle {apart:.3g} mm away")
    if not said:
        said.append("voxels that lie elsewhere")
    return f"{', '.join(said)}; it covers {100 * cover(volume, reference):.0f} % of that field of view"


def onto(volume: Volume, reference: Volume) -> np.ndarray:
    """Its values float32 on the reference's grid, NaN where it measured nothing. Exact where the grids are the same; else
    linear, voxels that get larger being means of those they cover."""
    x = values_of(volume)
    turn = turn_like(volume, reference)[0]
    if same_grid(volume, reference):
        return np.ascontiguousarray(turn.apply(x))
    coarse = np.maximum([volume.spacing[a] for a in turn.order], reference.spacing)
    turn, _, full, steps, affine = grid_of(volume, coarse.tolist(), axis_codes(reference.affine))
    x = through(turn.apply(x), lambda v: resample(v, full, steps))
    there = np.linalg.solve(affine, reference.affine)
    target = reference.x.shape

    def moved(v: np.ndarray) -> np.ndarray:
        return ndimage.affine_transform(
            v, there[:3, :3], there[:3, 3], output_shape=target, order=1, mode="nearest"
        )

    out = through(x, moved)
    index = np.ogrid[tuple(slice(0, n) for n in target)]
    for axis, n in enumerate(full):  # beyond the edge of its outermost voxels it has seen nothing
        at = sum(there[axis, k] * index[k] for k in range(3)) + there[axis, 3]
        out[(at < -0.5) | (at > n - 0.5)] = np.nan
    return out


def through(x: np.ndarray, move: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """``move(x)`` for a linear ``move``, with NaN neither spread nor mixed in: a mean of what is known, NaN where that is less
    than half."""
    known = np.isfinite(x)
    if known.all():
        return np.asarray(move(x), np.float32)
    total = np.asarray(move(np.where(known, x, np.float32(0))), np.float32)
    share = np.asarray(move(known.astype(np.float32)), np.float32)
    total /= np.maximum(share, np.float32(0.5))
    total[share < 0.5] = np.nan
    return total


def _times(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{v:.4g}" for v in values)
