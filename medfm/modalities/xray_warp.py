"""A picture read at other places than its pixels: what every geometric augmentation ends in."""

from __future__ import annotations

import numpy as np


def warp(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear values of ``x [C, H, W]`` at ``rows, columns [h, w]`` (pixel centres); NaN where outside or unknown."""
    height, width = x.shape[1:]
    outside = (rows < -0.5) | (rows > height - 0.5) | (columns < -0.5) | (columns > width - 0.5)
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    top = np.minimum(rows.astype(np.int32), height - 2)
    left = np.minimum(columns.astype(np.int32), width - 2)
    down, across = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    at, flat = top * width + left, x.reshape(len(x), -1)
    upper = flat[:, at] * (1 - across) + flat[:, at + 1] * across
    lower = flat[:, at + width] * (1 - across) + flat[:, at + width + 1] * across
    out = upper * (1 - down) + lower * down
    out[:, outside] = np.nan
    return out  # type: ignore[no-any-return]
