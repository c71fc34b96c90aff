"""Features that need no network, by the names under which a probe lists them: a task that the first of them solves is no
test of a backbone, and the second is what a careful afternoon yields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Floor = Callable[[np.ndarray, Any], np.ndarray]
BLOCKS = 16  # rows and columns of the reduced picture
HU_STEPS = (-900, -700, -300, -120, -50, 0, 40, 80, 200)


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


def _histogram(x: np.ndarray, modality: Any) -> np.ndarray:
    """Shares of HU in steps between air and bone ``[n, 9]``, of ``x [n, 1, *small]``."""
    flat = np.nan_to_num(x, nan=-1000.0).reshape(len(x), -1)
    return np.stack([(flat >= low).mean(1) for low in HU_STEPS], 1)


def _small(x: np.ndarray, modality: Any) -> np.ndarray:
    """The volume at 8 x 8 x 8 voxels through a wide window, of ``x [n, 1, 24, 24, 24]``."""
    n = 3
    grey = np.clip(np.nan_to_num(x[:, 0], nan=-1000.0), -1000, 400) / 1400
    blocks = grey.reshape(len(x), *(v for size in grey.shape[1:] for v in (size // n, n)))
    return blocks.mean((2, 4, 6)).reshape(len(x), -1)


def _quantiles(x: np.ndarray, modality: Any) -> np.ndarray:
    """Deciles of every sequence's foreground ``[n, 11 C]`` of ``x [n, C, *small]``: 0 and a flag where it is absent."""
    rows = []
    for one in x.reshape(len(x), x.shape[1], -1):
        shown = [c[(c != 0) & np.isfinite(c)] for c in one]
        steps = [np.quantile(c, np.linspace(0.05, 0.95, 10)) if c.size else np.zeros(10) for c in shown]
        rows.append(np.concatenate([*steps, [float(c.size > 0) for c in shown]]))
    return np.stack(rows)


def _small_subject(x: np.ndarray, modality: Any) -> np.ndarray:
    """Every sequence at 8 x 8 x 8 voxels, 0 where absent, of ``x [n, C, 24, 24, 24]``."""
    n = 3
    blocks = np.nan_to_num(x).reshape(*x.shape[:2], *(v for size in x.shape[2:] for v in (size // n, n)))
    return blocks.mean((3, 5, 7)).reshape(len(x), -1)


ECG: dict[str, Floor] = {"mean, variance, heart rate": _simple, "classical features": _classical}
PICTURE: dict[str, Floor] = {
    "mean and deviation of the grey": _grey,
    f"the picture at {BLOCKS} x {BLOCKS} pixels": _reduced,
}
SUBJECT: dict[str, Floor] = {
    "deciles of each sequence": _quantiles,
    "the sequences at 8 x 8 x 8 voxels": _small_subject,
}
VOLUME: dict[str, Floor] = {
    "histogram of Hounsfield units": _histogram,
    "the volume at 8 x 8 x 8 voxels": _small,
}
