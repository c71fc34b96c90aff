"""Label-safe augmentations of ECG batches, in mV, vectorised over the batch.

Disturbances are drawn at the electrodes and mapped to the leads, so that Einthoven's law still holds after
them. Time reversal, polarity flip and lead permutation are common elsewhere and are not offered: each makes
another diagnosis (retrograde P waves, exchanged electrodes, dextrocardia) out of a normal record.

Arrays: x float32 ``[B, C, T]`` with NaN where absent, present bool ``[B, C]``; both are changed in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medfm.modalities.base import LABEL_KINDS, Augmentation

# Leads as differences of the electrode potentials RA, LA, LL, V1..V6 (chest leads against Wilson's terminal).
_THIRD = 1.0 / 3.0
ELECTRODES = np.zeros((12, 9))
ELECTRODES[0, :3] = (-1, 1, 0)
ELECTRODES[1, :3] = (-1, 0, 1)
ELECTRODES[2, :3] = (0, -1, 1)
ELECTRODES[3, :3] = (1, -0.5, -0.5)
ELECTRODES[4, :3] = (-0.5, 1, -0.5)
ELECTRODES[5, :3] = (-0.5, -0.5, 1)
ELECTRODES[6:, :3] = -_THIRD
ELECTRODES[6:, 3:] = np.eye(6)

# Dipole -> leads V1..V6, I, II (Dower 1968) and leads I, II, V1..V6 -> dipole (Kors 1990, regression).
_DOWER = np.array(
    [
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
    ]
)
_KORS = np.array(
    [
        [0.38, -0.07, 0.11],
        [-0.07, 0.93, -0.23],
        [-0.13, 0.06, -0.43],
        [0.05, -0.02, -0.06],
        [-0.01, -0.05, -0.14],
        [0.14, 0.06, -0.20],
        [0.06, -0.17, -0.11],
        [0.54, 0.13, 0.31],
    ]
).T


def _dipole_matrices() -> tuple[np.ndarray, np.ndarray]:
    """Dower as ``[12, 3]`` in canonical order (limb leads by Einthoven), Kors as ``[3, 12]``."""
    i, ii = _DOWER[6], _DOWER[7]
    forward = np.vstack([i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2, _DOWER[:6]])
    back = np.zeros((3, 12))
    back[:, [0, 1, 6, 7, 8, 9, 10, 11]] = _KORS
    return forward, back


FORWARD, BACK = _dipole_matrices()
_NEEDED = (0, 1, 6, 7, 8, 9, 10, 11)


def _gain(
    x: np.ndarray, present: np.ndarray, rng: np.random.Generator, fs: float, rows: Sequence[int]
) -> None:
    x *= np.exp(rng.normal(0.0, 0.1, len(x))).astype(np.float32)[:, None, None]


def _wander(
    x: np.ndarray, present: np.ndarray, rng: np.random.Generator, fs: float, rows: Sequence[int]
) -> None:
    """Three sines of 0.05 to 0.5 Hz at each electrode, 0 to 0.1 mV together."""
    batch, _, length = x.shape
    time = np.arange(length, dtype=np.float32) / np.float32(fs)
    omega = (2 * np.pi * rng.uniform(0.05, 0.5, (batch, 3))).astype(np.float32)
    angle = omega[:, :, None] * time
    waves = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    amplitude = rng.uniform(0.0, 0.1, (batch, 1, 1)) * rng.normal(0.0, 0.4, (batch, 9, 6))
    x += np.matmul((ELECTRODES[list(rows)] @ amplitude).astype(np.float32), waves)


def _noise(
    x: np.ndarray, present: np.ndarray, rng: np.random.Generator, fs: float, rows: Sequence[int]
) -> None:
    """Mains hum (50 or 60 Hz, up to 15 microvolts) and muscle noise (white, up to 20 microvolts) at each
    electrode.

    The noise of every electrode is a window of one long draw at a random place: a fresh draw for each would
    cost ten times as much, and two windows seldom overlap in the same lead and phase.
    """
    batch, _, length = x.shape
    mix = ELECTRODES[list(rows)].astype(np.float32)
    bank = rng.standard_normal(length * 4 + 65_536, dtype=np.float32)
    start = rng.integers(0, len(bank) - length, (batch, 9))
    level = rng.uniform(0.0, 0.02, (batch, 9, 1)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(bank, length)
    mains = np.where(rng.random(batch) < 0.5, 50.0, 60.0)
    hum = np.zeros((batch, 9, 2), np.float32)
    if fs > 125.0:  # below that, hum lies above the Nyquist rate and a recorder's filter has removed it
        hum[:] = rng.uniform(0.0, 0.015, (batch, 1, 1)) * rng.normal(0.0, 0.6, (batch, 9, 2))
    angle = (2 * np.pi * mains[:, None] / fs).astype(np.float32) * np.arange(length, dtype=np.float32)
    carrier = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    for b in range(batch):
        source = windows[start[b]] * level[b]
        source += hum[b] @ carrier[b]
        x[b] += mix @ source


def _dropout(
    x: np.ndarray, present: np.ndarray, rng: np.random.Generator, fs: float, rows: Sequence[int]
) -> None:
    """Each lead is lost with a probability drawn a record from 0 to 0.5; one lead always stays."""
    lose = rng.random(present.shape) < rng.uniform(0.0, 0.5, (len(x), 1))
    keep = np.where(present, rng.random(present.shape), -1.0).argmax(axis=1)
    lose[np.arange(len(x)), keep] = False
    present &= ~lose
    x[~present] = np.nan


def _rotation(
    x: np.ndarray, present: np.ndarray, rng: np.random.Generator, fs: float, rows: Sequence[int]
) -> None:
    """Turn the heart's dipole by about 5 degrees (at most 15) around a random axis: posture, breathing,
    placement.

    ``x + Dower (R - 1) Kors x``: only the change is modelled by the dipole; what a dipole does not explain
    stays as it is. Records that lack one of I, II, V1..V6 are left alone.
    """
    rows = list(rows)
    if not set(_NEEDED) <= set(rows):
        return
    order = [rows.index(lead) for lead in _NEEDED]
    whole = present[:, order].all(axis=1)
    axis = rng.normal(size=(len(x), 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.clip(np.abs(rng.normal(0.0, np.deg2rad(5.0), len(x))), 0, np.deg2rad(15.0))
    change = FORWARD[rows] @ (_rotations(axis, angle) - np.eye(3)) @ BACK[:, rows]
    change[~whole] = 0.0
    x += np.matmul(change.astype(np.float32), np.nan_to_num(x) if np.isnan(x.sum()) else x)


def _rotations(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rodrigues' formula: unit axes ``[B, 3]`` and angles ``[B]`` in rad -> ``[B, 3, 3]``."""
    cross = np.zeros((len(axis), 3, 3))
    cross[:, [2, 0, 1], [1, 2, 0]] = axis
    cross[:, [1, 2, 0], [2, 0, 1]] = -axis
    sine, cosine = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)


def _shift(
    x: np.ndarray, present: np.ndarray, rng: np.random.Generator, fs: float, rows: Sequence[int]
) -> None:
    """Move the record by up to 0.4 s either way, all leads together; what enters at the edge is a gap
    (NaN)."""
    most = min(round(0.4 * fs), x.shape[2] // 4)
    for record, step in zip(x, rng.integers(-most, most + 1, len(x))):
        if step > 0:
            record[:, step:] = record[:, :-step].copy()
            record[:, :step] = np.nan
        elif step < 0:
            record[:, :step] = record[:, -step:].copy()
            record[:, step:] = np.nan


def _all_but(*kinds: str) -> frozenset[str]:
    assert set(kinds) <= set(LABEL_KINDS)
    return frozenset(LABEL_KINDS) - set(kinds)


# Applied in this order: the heart first, then what the body and the mains add, then what is lost.
AUGMENTATIONS: dict[str, Augmentation] = {
    a.name: a
    for a in (
        Augmentation(
            "rotation",
            _rotation,
            _all_but("axis", "voltage", "st", "localisation"),
            "dipole turned by some degrees",
        ),
        Augmentation("gain", _gain, _all_but("voltage", "st"), "all leads by one factor, about 10 %"),
        Augmentation("shift", _shift, frozenset(LABEL_KINDS), "up to 0.4 s earlier or later"),
        Augmentation("wander", _wander, _all_but("st", "quality"), "baseline wander, 0.05 to 0.5 Hz"),
        Augmentation("noise", _noise, _all_but("quality"), "mains hum and muscle noise, some 10 microvolts"),
        Augmentation(
            "lead-dropout",
            _dropout,
            _all_but("axis", "voltage", "st", "localisation", "quality"),
            "leads lost at random",
        ),
    )
}

# What mixing two records falsifies although the target is mixed by their shares: an interval of another heart breaks the
# rhythm at both ends; two hearts at once have no rhythm, no intervals and no waves of their own.
MIX_ALTERS = {
    "cutmix": frozenset({"rhythm", "intervals"}),
    "mixup": frozenset(LABEL_KINDS) - {"presence"},
}
