"""Augmentations of PPG batches, vectorised over the batch: the cascade of participant contrast, and label-safe ones.

Cut-out, magnitude warp, time warp, noise and channel permutation, each by a chance of its own and in this order, are the
cascade of Abbaspourazad et al. (arXiv 2312.05409). They act in the file's units before the z-score, so strengths are in
deviations of the channel. A pulse is never turned upside down and never reversed: both make another waveform of it.

Arrays: x float32 ``[B, C, T]`` with NaN where absent, present bool ``[B, C]``; both are changed in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medfm.modalities.base import LABEL_KINDS, Augmentation

KNOTS = 7


def _curves(knots: np.ndarray, length: int) -> np.ndarray:
    """Cubic splines through ``knots [..., K]`` evenly spread over ``length`` samples, ``[..., length]``."""
    from scipy.interpolate import CubicSpline

    at = np.linspace(0, length - 1, knots.shape[-1])
    return CubicSpline(at, knots, axis=-1)(np.arange(length))


def _chosen(rng: np.random.Generator, batch: int, chance: float) -> np.ndarray:
    return np.flatnonzero(rng.random(batch) < chance)


def _deviation(x: np.ndarray) -> np.ndarray:
    """Deviation ``[..., 1]`` over time, NaN ignored; 0 where nothing is."""
    finite = np.isfinite(x)
    count = np.maximum(finite.sum(-1, keepdims=True), 1)
    mean = np.where(finite, x, 0).sum(-1, keepdims=True) / count
    return np.sqrt(np.where(finite, (x - mean) ** 2, 0).sum(-1, keepdims=True) / count)


def _cut_out(
    x: np.ndarray, present: np.ndarray, rng: np.random.Generator, fs: float, rows: Sequence[int]
) -> None:
    """One span of 30 to 50 % of the window is not recorded, in all channels (40 % of records)."""
    length = x.shape[2]
    for b in _chosen(rng, len(x), 0.4):
        span = round(rng.uniform(0.3, 0.5) * length)
        start = int(rng.integers(0, length - span + 1))
        x[b, :, start : start + span] = np.nan


def _magnitude_warp(
    x: np.ndarray, present: np.ndarray, rng: np.random.Generator, fs: float, rows: Sequence[int]
) -> None:
    """All channels by one slow curve about 1, deviation 0.2 at its knots (25 % of records)."""
    if (chosen := _chosen(rng, len(x), 0.25)).size:
        x[chosen] *= _curves(rng.normal(1.0, 0.2, (chosen.size, 1, KNOTS)), x.shape[2]).astype(np.float32)


def _time_warp(
    x: np.ndarray, present: np.ndarray, rng: np.random.Generator, fs: float, rows: Sequence[int]
) -> None:
    """Time runs by a curve through knots moved by 10 %, another for each channel (15 % of records)."""
    length = x.shape[2]
    grid = np.arange(length)
    for b in _chosen(rng, len(x), 0.15):
        knots = np.linspace(0, length - 1, KNOTS) * rng.normal(1.0, 0.1, (x.shape[1], KNOTS))
        time = _curves(knots, length)
        time = np.clip(time * (length - 1) / time[:, -1:], 0, length - 1)
        for c in range(x.shape[1]):
            x[b, c] = np.interp(time[c], grid, x[b, c])


def _noise(
    x: np.ndarray, present: np.ndarray, rng: np.random.Generator, fs: float, rows: Sequence[int]
) -> None:
    """White noise of 5 to 10 % of each channel's deviation (25 % of records)."""
    if (chosen := _chosen(rng, len(x), 0.25)).size:
        level = rng.uniform(0.05, 0.1, (chosen.size, 1, 1)) * _deviation(x[chosen])
        x[chosen] += level.astype(np.float32) * rng.standard_normal(x[chosen].shape, dtype=np.float32)


def _permutation(
    x: np.ndarray, present: np.ndarray, rng: np.random.Generator, fs: float, rows: Sequence[int]
) -> None:
    """The optical channels change places (25 % of records); acceleration and ECG stay."""
    light = np.array(rows, int)
    if light.size < 2:
        return
    for b in _chosen(rng, len(x), 0.25):
        order = rng.permutation(light)
        x[b, light], present[b, light] = x[b, order], present[b, order]


def _wander(
    x: np.ndarray, present: np.ndarray, rng: np.random.Generator, fs: float, rows: Sequence[int]
) -> None:
    """Breathing: a sinusoid of 0.15 to 0.4 Hz under the optical channels, at most 30 % of their deviation."""
    light = np.array(rows, int)
    t = np.arange(x.shape[2]) / fs
    f, phase = rng.uniform(0.15, 0.4, (len(x), 1, 1)), rng.uniform(0, 2 * np.pi, (len(x), 1, 1))
    level = rng.uniform(0, 0.3, (len(x), 1, 1)) * _deviation(x[:, light])
    x[:, light] += (level * np.sin(2 * np.pi * f * t + phase)).astype(np.float32)


def _all_but(*kinds: str) -> frozenset[str]:
    assert set(kinds) <= set(LABEL_KINDS)
    return frozenset(LABEL_KINDS) - set(kinds)


# Applied in this order. ``rows``: numbers of the optical channels.
AUGMENTATIONS: dict[str, Augmentation] = {
    a.name: a
    for a in (
        Augmentation(
            "cut-out", _cut_out, _all_but("rhythm", "quality"), "30 to 50 % of the window not recorded"
        ),
        Augmentation(
            "magnitude-warp", _magnitude_warp, _all_but("voltage", "quality"), "slow change of height"
        ),
        Augmentation(
            "time-warp", _time_warp, _all_but("rhythm", "intervals", "morphology", "quality"), "uneven time"
        ),
        Augmentation("noise", _noise, _all_but("quality"), "white noise of 5 to 10 %"),
        Augmentation(
            "channel-permutation",
            _permutation,
            _all_but("localisation", "voltage"),
            "wavelengths change places",
        ),
        Augmentation("wander", _wander, _all_but("quality"), "breathing under the pulse"),
    )
}

# As for the ECG: an interval of another heart breaks the rhythm; two hearts at once have no waves of their own.
MIX_ALTERS = {
    "cutmix": frozenset({"rhythm", "intervals"}),
    "mixup": frozenset(LABEL_KINDS) - {"presence"},
}
