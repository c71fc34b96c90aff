"""Pulses whose rate, polarity and faults are known, for the tests of reading PPG."""

from __future__ import annotations

import numpy as np

from medfm.types import Signal


def pulses(fs=125.0, seconds=10.0, rate=75.0, noise=0.0, seed=0, phase=0.4, echo=0.45):
    """Two-Gaussian pulses ``[T]`` at an exact rate: systole of 60 ms deviation, dicrotic wave 0.3 s later."""
    t = np.arange(round(fs * seconds)) / fs
    x = np.zeros(len(t))
    for beat in np.arange(phase - 60 / rate, seconds + 1, 60 / rate):
        x += np.exp(-(((t - beat) / 0.085) ** 2)) * (t < beat)
        x += np.exp(-(((t - beat) / 0.13) ** 2)) * (t >= beat)
        x += echo * np.exp(-(((t - beat - 0.32) / 0.14) ** 2))
    return x + noise * np.random.default_rng(seed).standard_normal(len(t))


def signal(x, fs=125.0, channels=None, **facts):
    x = np.atleast_2d(np.asarray(x, np.float32))
    names = tuple(channels or ("PLETH",) * len(x))
    return Signal(x, fs, names, ("",) * len(x), "test", **facts)


def codes(findings):
    return {f.code for f in findings}


def message(findings, code):
    return next(f.message for f in findings if f.code == code)
