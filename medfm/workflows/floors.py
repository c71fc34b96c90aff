"""Features that need no network, by the names under which a probe lists them: a task that the first of them solves is no
test of a backbone, and the second is what a careful afternoon yields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Floor = Callable[[np.ndarray, Any], np.ndarray]
BLOCKS = 16  # rows and columns of the reduced picture


def _simple(x: np.ndarray, modality: Any) -> np.ndarray:
    from medfm.evaluation.classical import signal_features

    return signal_features(x, 1.0 / modality.spacing[0], "simple")[0]


def _classical(x: np.ndarray, modality: Any) -> np.ndarray:
    from medfm.evaluation.classical import signal_features

    return signal_features(x, 1.0 / modality.spacing[0], "intervals_and_spectra")[0]


def _grey(x: np.ndarray, modality: Any) -> np.ndarray:
    """Mean and deviation ``[n, 2 C]`` of ``x [n, C, *grid]``; no picture is black."""
    flat = np.nan_to_num(x).reshape(len(x), len(modality.channels), -1)
    return np.concatenate([flat.mean(-1), flat.std(-1)], axis=1)


def _reduced(x: np.ndarray, modality: Any) -> np.ndarray:
    """Block means ``[n, BLOCKS * BLOCKS]`` of the first channel of ``x [n, C, H, W]``; no picture is black."""
    grey = np.nan_to_num(x[:, 0])
    rows, columns = (np.linspace(0, n, min(n, BLOCKS) + 1).astype(int) for n in modality.size)
    sums = np.add.reduceat(np.add.reduceat(grey, rows[:-1], axis=1), columns[:-1], axis=2)
    area = np.diff(rows)[:, None] * np.diff(columns)[None]
    return (sums / area).reshape(len(x), -1)


ECG: dict[str, Floor] = {"mean, variance, heart rate": _simple, "classical features": _classical}
PICTURE: dict[str, Floor] = {
    "mean and deviation of the grey": _grey,
    f"the picture at {BLOCKS} x {BLOCKS} pixels": _reduced,
}
