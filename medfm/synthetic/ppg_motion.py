"""Movement of the wearer, as an accelerometer feels it and as it shifts the light; and contact that is lost.

Spells of good signal and of disturbance take turns with exponential lengths (the structure of Paliakaite et al. 2021; shapes
and numbers are ours). Walking adds a steady cadence. The light is moved by the same course as the accelerometer, lagging.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from medfm.synthetic.draws import Draws
from medfm.synthetic.ppg_days import Day
from medfm.synthetic.ppg_subjects import DEVICES

_CLEAN_SECONDS = np.array([120.0, 60.0, 9.0, 14.0])  # mean length of a good spell, by activity
_SPELL_EVERY = 4.0  # s; spells that the table of draws has room for
_GESTURE, _SHIFT, _CONTACT = range(3)
_LAG_HZ = 2.5


@dataclass(frozen=True)
class Motion:
    """acc: float32 ``[n, 3, T]``, g; light: what movement adds to the pulse, in pulse heights, ``[n, T]``; contact: share of
    the pulse that reaches the sensor, ``[n, T]``; busy: bool ``[n, T]``, a disturbance is on."""

    acc: np.ndarray
    light: np.ndarray
    contact: np.ndarray
    busy: np.ndarray


def spells_at_most(seconds: float) -> int:
    return 2 + int(np.ceil(seconds / _SPELL_EVERY))


def draw_motion(
    d: Draws, day: Day, white: np.ndarray, fs: float, start: float, seconds: float, level: float
) -> Motion:
    """white: normal noise float32 ``[n, 3, T]``, whose first sample is at ``start`` s. level: multiplier of all movement."""
    n, _, length = white.shape
    time = start + np.arange(length) / fs
    slots = spells_at_most(seconds)
    gap = -np.log(d.uniform(1e-9, 1, (slots,))) * _CLEAN_SECONDS[day.activity][:, None]
    last = 1.0 - 2.5 * np.log(d.uniform(0.02, 1, (slots,)))
    begin = start + np.cumsum(gap, axis=1) + np.cumsum(last, axis=1) - last
    lot, force = d.uniform(shape=(slots,)), d.lognormal(0.8, 0.6, (slots,))
    sort = (lot > 0.62).astype(int) + (lot > 0.82)
    jump, lost = d.normal(0, 2.0, (slots,)), d.uniform(shape=(slots,))
    axes = d.normal(shape=(3,))
    couple = d.normal(shape=(3,))
    gravity = d.normal(shape=(3,))
    cadence, swing, phase = d.normal(1.85, 0.12), d.lognormal(0.22, 0.3), d.uniform(0, 2 * np.pi, (2,))
    loose = np.array([k.loose for k in DEVICES])[day.device] * d.lognormal(1.0, 0.3)
    axes, couple, gravity = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (axes, couple, gravity))

    shaken = _shaken(white, fs)
    gate, light = np.zeros((n, length), np.float32), np.zeros((n, length), np.float32)
    contact, busy = np.ones((n, length), np.float32), np.zeros((n, length), bool)
    for i, k in zip(*np.nonzero(level * (begin < time[-1]))):
        on = _edge(time - begin[i, k]) - _edge(time - begin[i, k] - last[i, k])
        busy[i] |= on > 0.5
        if sort[i, k] == _GESTURE:
            gate[i] += force[i, k] * on
        elif sort[i, k] == _SHIFT:  # the sensor slips, and the level finds back
            past = (time - begin[i, k]).clip(0)
            light[i] += jump[i, k] * _edge(time - begin[i, k]) * np.exp(-past / last[i, k])
            gate[i] += 1.5 * on * np.exp(-past / 0.3)
        else:
            contact[i] *= 1 - on * (1.0 if lost[i, k] < 0.4 else 0.85)
    moved = 0.25 * gate[:, None] * shaken
    for i in np.flatnonzero(level * (day.activity == 3)):
        angle = 2 * np.pi * cadence[i] * time + phase[i, 0]
        step = swing[i] * (np.sin(angle) + 0.4 * np.sin(2 * angle + phase[i, 1]))
        moved[i] += axes[i][:, None] * step.astype(np.float32)
    moved *= level
    felt = np.einsum("na,nat->nt", couple, moved).astype(np.float32)
    lag = 1 / (1 + 1j * fft.rfftfreq(length, 1 / fs) / _LAG_HZ)
    light = level * light + fft.irfft(fft.rfft(felt) * lag, length) * (4.0 * loose)[:, None]
    acc = gravity[:, :, None] + moved
    return Motion(acc.astype(np.float32), light.astype(np.float32), contact, busy)


def _edge(past: np.ndarray) -> np.ndarray:
    """0 before and 1 after, within a quarter of a second."""
    return 1 / (1 + np.exp(-np.clip(past / 0.06, -40, 40)))


def _shaken(white: np.ndarray, fs: float) -> np.ndarray:
    """The noise within about 1 to 5 Hz, deviation 1."""
    hz = fft.rfftfreq(white.shape[-1], 1 / fs)
    band = np.exp(-0.5 * (np.log(np.maximum(hz, 1e-3) / 2.2) / 0.55) ** 2)
    band[0] = 0.0
    band /= np.sqrt(np.mean(np.concatenate([band, band[1:-1]]) ** 2))
    return fft.irfft(fft.rfft(white) * band.astype(np.float32), white.shape[-1])
