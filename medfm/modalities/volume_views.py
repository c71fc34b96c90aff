"""Slices of a volume as a radiologist hangs them: front and head up, the patient's right on the left of the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medfm.modalities.volume_grid import Turn

# plane: the patient's axis that it cuts, and its rows and columns (towards the bottom and the right of the picture)
PLANES = {"axial": ("S", "P", "L"), "coronal": ("A", "I", "L"), "sagittal": ("R", "I", "P")}


def plane(
    x: np.ndarray, orientation: str, spacing: Sequence[float], name: str = "axial", at: float = 0.5
) -> tuple[np.ndarray, float]:
    """A slice ``[C, rows, columns]`` of ``x [C, X, Y, Z]``, whose axes point as ``orientation`` says, and the height of a
    row over the width of a column. ``at``: where along the axis that is cut, 0 to 1."""
    codes = PLANES[name]
    turn = Turn.to(_affine(orientation), "".join(codes))
    turned = np.stack([turn.apply(channel) for channel in x])
    index = min(int(at * turned.shape[1]), turned.shape[1] - 1)
    mm = [float(spacing[a]) for a in turn.order]
    return turned[:, index], mm[1] / mm[2]


def square(picture: np.ndarray, aspect: float) -> np.ndarray:
    """``[C, H, W]`` with rows ``aspect`` times as high as columns are wide -> square pixels, nearest values."""
    rows = max(1, round(picture.shape[1] * aspect))
    at = ((np.arange(rows) + 0.5) * picture.shape[1] / rows).astype(int).clip(0, picture.shape[1] - 1)
    return picture[:, at]


def axial_slices(x: np.ndarray, orientation: str, spacing: Sequence[float], at: float = 0.5) -> np.ndarray:
    """``x [B, C, X, Y, Z]`` -> one axial slice each, square pixels, ``[B, C, H, W]``."""
    return np.stack([square(*plane(one, orientation, spacing, "axial", at)) for one in x])


def _affine(orientation: str) -> np.ndarray:
    """Of a grid of 1 mm whose axes point so."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1.0
    for axis, code in enumerate(orientation):
        world = next(i for i, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[world, axis] = 1.0 if code in "RAS" else -1.0
    return affine
