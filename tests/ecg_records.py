"""Twelve-lead records for the tests, made from a dipole of Gaussians: physiological polarity, exact
limb-lead algebra."""

from __future__ import annotations

import numpy as np

from medfm.types import Signal

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
# wave: time from R (s), width (s), and its size in I, II, V1..V6 (mV), as an adult normal ECG shows them.
WAVES = (
    (-0.160, 0.020, (0.08, 0.12, 0.04, 0.05, 0.06, 0.06, 0.06, 0.06)),
    (-0.022, 0.008, (-0.05, -0.05, 0.10, 0.12, 0.05, -0.02, -0.06, -0.08)),
    (0.000, 0.011, (0.70, 1.00, -0.20, 0.05, 0.60, 1.20, 1.20, 0.90)),
    (0.025, 0.011, (-0.08, -0.12, -0.80, -1.20, -0.80, -0.45, -0.20, -0.08)),
    (0.270, 0.045, (0.20, 0.28, -0.06, 0.35, 0.40, 0.35, 0.28, 0.22)),
)


def twelve(
    fs: float = 500.0, seconds: float = 10.0, rate: float = 66.0, noise: float = 0.0, seed: int = 0
) -> np.ndarray:
    """x float64 ``[12, T]`` in mV; III, aVR, aVL and aVF follow from I and II."""
    time = np.arange(round(fs * seconds)) / fs
    eight = np.zeros((8, time.size))
    for beat in np.arange(0.35, seconds, 60.0 / rate):
        for centre, width, sizes in WAVES:
            eight += np.array(sizes)[:, None] * np.exp(-0.5 * ((time - beat - centre) / width) ** 2)
    eight += noise * np.random.default_rng(seed).normal(size=eight.shape)
    i, ii = eight[:2]
    return np.vstack([i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2, eight[2:]])


def signal(x: np.ndarray, fs: float = 500.0, channels=LEADS, units="mV", **fields) -> Signal:
    units = (units,) * len(x) if isinstance(units, str) else units
    return Signal(np.asarray(x, np.float32), fs, tuple(channels), tuple(units), "test", **fields)


def codes(findings) -> set[str]:
    return {f.code for f in findings}
