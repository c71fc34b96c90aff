"""From beats to leads: every beat's kernels evaluated in their own window and laid down where the beat
falls."""

from __future__ import annotations

import numpy as np

from medfm.synthetic.draws import Draws
from medfm.synthetic.ecg_morphology import (
    P_KERNELS,
    QRS_KERNELS,
    T_KERNELS,
    T_RISE,
    U_WAVE,
    Hearts,
    Shapes,
    rotation,
    turn,
)
from medfm.synthetic.ecg_rhythm import Rhythm

# kernels, and where they live around R, s
SEGMENTS = ((P_KERNELS, -0.42, 0.06), (QRS_KERNELS, -0.17, 0.24), (T_KERNELS, -0.02, 0.92))
LEADS = 8  # I, II, V1..V6


def stretch_t(
    centre: np.ndarray, width: np.ndarray, j: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """QT adaptation: the T block ``[m, K]`` is stretched from the J point by ``scale [m]``; P and QRS keep
    their time."""
    centre, width = centre.copy(), width.copy()
    t = T_KERNELS
    centre[:, t] = j[:, None] + (centre[:, t] - j[:, None]) * scale[:, None]
    width[:, t] *= scale[:, None]
    return centre, width


def lead_weights(vec: np.ndarray, extra: np.ndarray, leads: np.ndarray) -> np.ndarray:
    """Kernel amplitudes in leads, mV ``[m, 8, K]``, from vec ``[m, K, 3]``, extra ``[m, K, 8]``, leads ``[m,
    8, 3]``."""
    return leads @ np.swapaxes(vec, 1, 2) + np.swapaxes(extra, 1, 2)


def evaluate(
    centre: np.ndarray, width: np.ndarray, weights: np.ndarray, kernels: slice, at: np.ndarray
) -> np.ndarray:
    """Leads of one segment, mV ``[m, 8, W]``, at times ``at [m, W]`` s from R."""
    c, b = centre[:, kernels, None].astype(np.float32), width[:, kernels, None].astype(np.float32)
    z = (at[:, None, :].astype(np.float32) - c) / b
    np.multiply(z, z, out=z)
    z *= np.float32(-0.5)
    np.exp(z, out=z)
    return weights[:, :, kernels].astype(np.float32) @ z


def render(
    time: np.ndarray,
    record: np.ndarray,
    centre: np.ndarray,
    width: np.ndarray,
    weights: np.ndarray,
    out: np.ndarray,
    fs: float,
    start: float,
) -> None:
    """Add m beats to ``out [n, 8, T]`` whose first sample is at ``start`` s. ``time [m]``: R peaks, s;
    ``record [m]``: row.

    R need not fall on a sample: the kernels are evaluated at the samples' own distances from it.
    """
    length = out.shape[2]
    for kernels, low, high in SEGMENTS:
        samples = round((high - low) * fs)
        first = np.ceil((time + low - start) * fs).astype(int)
        at = (first[:, None] + np.arange(samples)) / fs + (start - time)[:, None]
        wave = evaluate(centre, width, weights, kernels, at)
        for m, (row, begin) in enumerate(zip(record.tolist(), first.tolist(), strict=True)):
            a, z = max(begin, 0), min(begin + samples, length)
            if a < z:
                out[row, :, a:z] += wave[m, :, a - begin : z - begin]


def lay_beats(
    subject: Draws,
    daily: Draws,
    clean: np.ndarray,
    fs: float,
    start: float,
    rhythm: Rhythm,
    shapes: Shapes,
    hearts: Hearts,
    alternans: np.ndarray,
) -> None:
    """Add every beat to ``clean [n, 8, T]``: the chest turns and swells with breathing, QT follows RR, T may
    alternate."""
    row, beat = np.nonzero(~np.isnan(rhythm.time))
    shape, time = rhythm.shape[row, beat], rhythm.time[row, beat]
    vec, extra = shapes.vec[row, shape], shapes.extra[row, shape]
    silent = ~rhythm.conducted[row, beat]
    t_size = 1.0 + np.where(beat % 2 == 0, 0.5, -0.5) * alternans[row]
    for part in (vec, extra):
        part[silent, P_KERNELS] = 0.0
        part[:, T_RISE:U_WAVE] *= t_size[:, None, None]
    depth = subject.lognormal(0.025, 0.6).clip(0, 0.15)
    swing = subject.normal(0.0, 1.0, (3,)) * subject.lognormal(2.2, 0.5).clip(0, 9)[:, None]
    wobble = daily.normal(0.0, 0.012, (rhythm.time.shape[1],))[row, beat]
    breath = np.sin(2 * np.pi * rhythm.breath_hz[row] * time + rhythm.breath_phase[row])
    vec = turn(vec, rotation(*(breath * swing[row, k] for k in range(3))))
    vec *= (1 + depth[row] * breath + wobble)[:, None, None]
    scale = rhythm.rr_qt[row, beat] ** hearts.qt_exponent[row]
    centre, width = stretch_t(shapes.centre[row, shape], shapes.width[row, shape], hearts.j[row], scale)
    render(time, row, centre, width, lead_weights(vec, extra, hearts.leads[row]), clean, fs, start)
