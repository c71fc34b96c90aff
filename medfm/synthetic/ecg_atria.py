"""What the atria write when they do not beat: fibrillatory waves and flutter, over the whole record."""

from __future__ import annotations

import numpy as np

from medfm.synthetic.draws import Draws
from medfm.synthetic.ecg_morphology import Hearts
from medfm.synthetic.ecg_rhythm import Rhythm


def add_atrial_waves(
    subject: Draws, daily: Draws, clean: np.ndarray, fs: float, start: float, rhythm: Rhythm, hearts: Hearts
) -> None:
    """Add them to ``clean [n, 8, T]`` (mV, first sample at ``start`` s) in place, as dipoles of their own.

    Fibrillation: two sawtooth-like waves of 4 to 9 Hz whose phase and size wander (after Stridh and Sornmo
    2001), largest in V1. Flutter: one regular sawtooth, mostly negative in the inferior leads.
    """
    hz = subject.uniform(4.2, 8.5)
    size = subject.lognormal(0.045, 0.5).clip(0.008, 0.16) * hearts.gain
    vec = np.array([-0.35, 0.35, -0.75]) + subject.normal(0.0, 0.25, (2, 3))
    down = np.where(subject.chance(0.8), -1.0, 1.0)
    tooth = subject.lognormal(0.11, 0.35)[:, None] * (
        np.array([0.05, 1.0, -0.25]) + subject.normal(0, 0.2, (3,))
    )
    phase = daily.uniform(0, 2 * np.pi, (2, 5))
    drift = daily.uniform(0.1, 0.5, (2, 2))
    time = start + np.arange(clean.shape[2]) / fs
    for i in np.flatnonzero(~np.isnan(rhythm.af_from)):
        on = 1 / (1 + np.exp(-np.clip((time - rhythm.af_from[i]) / 0.08, -50, 50)))
        on /= 1 + np.exp(np.clip((time - rhythm.af_to[i]) / 0.08, -50, 50))
        for k, (ratio, share) in enumerate(((1.0, 1.0), (1.13, 0.5))):
            wave = _fibrillation(time, hz[i] * ratio, phase[i, k], drift[i, k]) * on
            weight = hearts.leads[i] @ vec[i, k] * size[i] * share
            clean[i] += (weight[:, None] * wave).astype(np.float32)
    for i in np.flatnonzero(~np.isnan(rhythm.atrial_hz)):
        angle = 2 * np.pi * rhythm.atrial_hz[i] * time + phase[i, 0, 0]
        wave = down[i] / 1.5 * _saw(angle, 0.0)
        clean[i] += ((hearts.leads[i] @ tooth[i])[:, None] * wave).astype(np.float32)


def _saw(angle: np.ndarray, lag: float) -> np.ndarray:
    return np.sin(angle) + np.sin(2 * angle + lag) / 2 + np.sin(3 * angle + lag) / 3


def _fibrillation(time: np.ndarray, hz: float, phase: np.ndarray, drift: np.ndarray) -> np.ndarray:
    slow, fast = np.sin(2 * np.pi * drift[0] * time + phase[0]), np.sin(2 * np.pi * 1.1 * time + phase[1])
    wave = _saw(2 * np.pi * hz * time + 1.6 * slow + 0.7 * fast + phase[2], phase[3])
    return wave * (1 + 0.45 * np.sin(2 * np.pi * drift[1] * time + phase[4]))
