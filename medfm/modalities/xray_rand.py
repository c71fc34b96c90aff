"""RandAugment (Cubuk et al., arXiv 1909.13719) fitted to radiographs: of nine operations, a few at random, all at one
magnitude from 0 to 10.

The draws are those of ``rand-m6-mstd0.5-inc1`` (timm, as medical MAE fine-tunes): operations with replacement, each left
out half of the time, magnitude with a deviation of 0.5, sign at random. The operations are ours. Left out of the official
fifteen: inversion, solarising and posterising (bone turns dark, lung detail turns into bands), colour, and stretching or
equalising the histogram (the window has done that); a film curve (gamma) stands for them. At magnitude 10, official in
brackets: turned by 15 degrees (30), sheared by 0.15 (0.3), moved by a tenth of the side (0.45); contrast and gamma by a
factor of 2 either way, brightness by 0.2, sharpness by 0.9 (0.9 for each of the three that it has). No flip.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np

from medfm.modalities.base import LABEL_KINDS, Augmentation
from medfm.modalities.xray_warp import warp
from medfm.types import MedfmError

MAGNITUDE, OPERATIONS = 6.0, 2
NAME = re.compile(r"rand(?:-m(\d+(?:\.\d+)?))?(?:-n(\d+))?")
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # Pillow's, against which it sharpens


def _matrices(strength: np.ndarray, *entries: tuple[int, int, np.ndarray]) -> np.ndarray:
    """Identities ``[b, 3, 3]`` with these entries: from (row, column, 1) of the result to those of the source."""
    out = np.tile(np.eye(3), (len(strength), 1, 1))
    for i, j, value in entries:
        out[:, i, j] = value
    return out


def _rotation(s: np.ndarray, height: int, width: int) -> np.ndarray:
    angle = np.deg2rad(15.0) * s
    cosine, sine = np.cos(angle), np.sin(angle)
    return _matrices(s, (0, 0, cosine), (0, 1, sine), (1, 0, -sine), (1, 1, cosine))


# Strength [b] from -1 to 1, height, width -> matrices about the middle of the picture.
GEOMETRY: tuple[Callable[[np.ndarray, int, int], np.ndarray], ...] = (
    _rotation,
    lambda s, height, width: _matrices(s, (1, 0, 0.15 * s)),
    lambda s, height, width: _matrices(s, (0, 1, 0.15 * s)),
    lambda s, height, width: _matrices(s, (1, 2, 0.1 * s * width)),
    lambda s, height, width: _matrices(s, (0, 2, 0.1 * s * height)),
)


def _contrast(x: np.ndarray, s: np.ndarray) -> np.ndarray:
    """About the picture's own mean, as Pillow has it."""
    mean = np.nanmean(x, axis=(1, 2, 3), keepdims=True)
    return mean + (x - mean) * 2.0**s


def _sharpness(x: np.ndarray, s: np.ndarray) -> np.ndarray:
    from scipy.ndimage import convolve

    known = np.isfinite(x)
    kernel = SMOOTH[None, None]
    share = convolve(known.astype(np.float32), kernel, mode="nearest")
    smooth = convolve(np.where(known, x, np.float32(0)), kernel, mode="nearest") / np.maximum(share, 1e-6)
    return smooth + (x - smooth) * (1 + 0.9 * s)


# Grey [b, C, H, W] and strength [b, 1, 1, 1] -> grey, to be clipped.
TONES: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    _contrast,
    lambda x, s: x + 0.2 * s,
    lambda x, s: x ** (2.0**s),
    _sharpness,
)


def _apply(x: np.ndarray, rng: np.random.Generator, magnitude: float, operations: int) -> None:
    """``x [B, C, H, W]`` in place. Geometry is composed first, so that a picture is resampled at most once; one picture
    after another, which is faster than all at once (they stay in the cache)."""
    shape = (operations, len(x))
    which = rng.integers(len(GEOMETRY) + len(TONES), size=shape)
    strength = np.clip(rng.normal(magnitude, 0.5, shape), 0, 10) / 10 * rng.choice((-1.0, 1.0), shape)
    strength[rng.random(shape) < 0.5] = 0.0
    height, width = x.shape[2:]
    matrix = np.tile(np.eye(3), (len(x), 1, 1))
    for drawn, s in zip(which, strength):
        for number, move in enumerate(GEOMETRY):
            at = (drawn == number) & (s != 0)
            matrix[at] = matrix[at] @ move(s[at], height, width)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    rows, columns = rows - (height - 1) / 2, columns - (width - 1) / 2
    for b in np.flatnonzero((matrix != np.eye(3)).any(axis=(1, 2))):
        m = matrix[b].astype(np.float32)
        r = m[0, 0] * rows + m[0, 1] * columns + m[0, 2] + (height - 1) / 2
        c = m[1, 0] * rows + m[1, 1] * columns + m[1, 2] + (width - 1) / 2
        x[b] = warp(x[b], r.astype(np.float32), c.astype(np.float32))
    for drawn, s in zip(which, strength):
        for number, tone in enumerate(TONES, len(GEOMETRY)):
            at = (drawn == number) & (s != 0)
            if at.any():
                x[at] = np.clip(tone(x[at], s[at].astype(np.float32)[:, None, None, None]), 0.0, 1.0)


def rand_augment(magnitude: float = MAGNITUDE, operations: int = OPERATIONS) -> Augmentation:
    """Where a finding lies, its grey and its sharpness change; whether it is there, and on which side, does not."""
    return Augmentation(
        "rand",
        partial(_apply, magnitude=magnitude, operations=operations),
        frozenset(LABEL_KINDS) - {"location", "size", "density", "texture", "quality"},
        "some of nine operations at one magnitude (rand-m9-n3: 9 of 10, 3 operations)",
    )


def named(name: str) -> Augmentation | None:
    """``rand``, ``rand-m9``, ``rand-n3``, ``rand-m9-n3``; None: another name. Raises :class:`MedfmError` on a magnitude
    that does not exist."""
    if (found := NAME.fullmatch(name)) is None:
        return None
    magnitude = MAGNITUDE if found[1] is None else float(found[1])
    operations = OPERATIONS if found[2] is None else int(found[2])
    if not 0 < magnitude <= 10 or operations < 1:
        raise MedfmError(f"augmentation {name}: give a magnitude from 0 to 10 and at least one operation.")
    return rand_augment(magnitude, operations)
