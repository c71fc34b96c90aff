"""From beats to a pulse wave and to a single-lead ECG: Gaussian waves laid down where each beat falls.

A pulse is a sum of Gaussians (Tang et al. 2020): the wave from the heart, its reflection, and a broad runoff below both. The lead is the
five-Gaussian beat of McSharry et al. (2003), without P wave and with small waves instead where the atria fibrillate.
"""

from __future__ import annotations

import numpy as np

from medfm.synthetic.draws import Draws
from medfm.synthetic.ppg_days import Day
from medfm.synthetic.ppg_rhythm import VENTRICULAR, Rhythm
from medfm.synthetic.ppg_subjects import DEVICES, People

_USUAL_RR = 0.857  # s, at which the waves have their own times
# P, Q, R, S, T: centre and width, s from R; height, mV. T's centre is for an RR of 1 s.
_CENTRE = np.array([-0.165, -0.026, 0.0, 0.028, 0.290])
_WIDTH = np.array([0.022, 0.008, 0.010, 0.009, 0.045])
_HEIGHT = np.array([0.11, -0.09, 0.95, -0.20, 0.26])
_WIDE_CENTRE = np.array([-0.165, -0.040, 0.02, 0.090, 0.330])
_WIDE_WIDTH = np.array([0.022, 0.020, 0.030, 0.035, 0.060])
_WIDE_HEIGHT = np.array([0.0, -0.10, 1.15, -0.45, -0.40])


def arrival(subject: Draws, d: Draws, people: People, day: Day, rhythm: Rhythm) -> np.ndarray:
    """Pulse arrival time ``[n, B]``, s from R to the foot of its pulse: pre-ejection period and the way to the sensor at the
    speed of the pulse wave, which the stiffness index stands for."""
    path = np.array([k.path for k in DEVICES])[day.device] * people.height
    alert = np.array([0.004, 0.0, -0.006, -0.014])[day.activity]
    speed = day.stiffness * subject.lognormal(1.0, 0.05)
    wobble = d.normal(0, 0.002, rhythm.time.shape[1:])
    late = np.where(rhythm.kind == VENTRICULAR, 0.018, 0.0)  # a beat that starts in the ventricle ejects late
    return (people.ejection + alert + path / speed)[:, None] + wobble + late


def pulse_wave(
    d: Draws,
    people: People,
    day: Day,
    rhythm: Rhythm,
    pat: np.ndarray,
    length: int,
    fs: float,
    start: float,
) -> np.ndarray:
    """The pulse float32 ``[n, T]`` without noise; a usual beat's first wave is 1 high. First sample at ``start`` s."""
    row, beat = np.nonzero(~np.isnan(rhythm.time))
    rr = 0.5 * (rhythm.rr[row, beat] + rhythm.mean_rr[row])
    k = np.sqrt(rr / _USUAL_RR)
    widen = np.array([s.widen for s in DEVICES])[day.device][row]
    width = np.stack(
        [people.first_width[row], people.second_width[row] * k, people.runoff_width[row] * k], axis=1
    )
    width = np.hypot(width, widen[:, None])
    # The foot is where the steepest tangent of the first wave meets zero: two widths of its rise before the peak.
    rise = np.hypot(people.first[row] * k / 2, widen)
    delay = (people.height / day.stiffness).clip(0.12, 0.42)[row] * k
    late = np.stack([0 * k, delay, people.runoff_delay[row] * k], axis=1)
    centre = 2 * rise[:, None] + late
    reflection = (people.reflection + day.tone).clip(0.2, 1.1)[row]
    jitter = d.normal(0, 0.02, (2, rhythm.time.shape[1]))[row, :, beat]
    height = np.stack([np.ones(len(row)), reflection * (1 + jitter[:, 1]), people.runoff[row]], axis=1)
    height *= (rhythm.stroke[row, beat] * (1 + jitter[:, 0]))[:, None]
    out = np.zeros((d.n, length), np.float32)
    at = rhythm.time[row, beat] + pat[row, beat]
    _lay(out, row, at, centre, width, height, fs, start, (-0.25, 1.6), rise)
    return out


def single_lead(subject: Draws, d: Draws, rhythm: Rhythm, length: int, fs: float, start: float) -> np.ndarray:
    """The lead float32 ``[n, T]`` mV without noise."""
    row, beat = np.nonzero(~np.isnan(rhythm.time))
    own = subject.lognormal(1.0, 0.2, (5,))
    wide = (rhythm.kind == VENTRICULAR)[row, beat][:, None]
    centre = np.where(wide, _WIDE_CENTRE, _CENTRE)
    centre[:, 4] *= np.sqrt(0.5 * (rhythm.rr[row, beat] + rhythm.mean_rr[row]))
    height = np.where(wide, _WIDE_HEIGHT, _HEIGHT) * own[row]
    height[rhythm.af[row, beat], 0] = 0.0
    width = np.where(wide, _WIDE_WIDTH, _WIDTH)
    # Where the sampling is too slow for a wave it is blurred and keeps its area, as by the recorder's filter.
    blurred = np.hypot(width, 0.4 / fs)
    out = np.zeros((d.n, length), np.float32)
    _lay(out, row, rhythm.time[row, beat], centre, blurred, height * width / blurred, fs, start, (-0.3, 0.65))
    time = start + np.arange(length) / fs
    hz, phase = subject.uniform(5.0, 8.0), d.uniform(0, 2 * np.pi, (2,))
    for i in np.flatnonzero(~np.isnan(rhythm.af_from)):
        on = (time >= rhythm.af_from[i]) & (time < rhythm.af_to[i])
        angle = 2 * np.pi * hz[i] * time + 1.5 * np.sin(2 * np.pi * 0.4 * time + phase[i, 1]) + phase[i, 0]
        out[i] += (0.04 * on * (np.sin(angle) + 0.4 * np.sin(2 * angle))).astype(np.float32)
    return out


def _lay(
    out: np.ndarray,
    row: np.ndarray,
    time: np.ndarray,
    centre: np.ndarray,
    width: np.ndarray,
    height: np.ndarray,
    fs: float,
    start: float,
    span: tuple[float, float],
    rise: np.ndarray | None = None,
) -> None:
    """Add m beats to ``out [n, T]``: Gaussians ``[m, K]`` after ``time [m]``, evaluated over ``span`` s at the samples' own
    distances. rise ``[m]``: width of the first one before its peak, where that is another."""
    samples = round((span[1] - span[0]) * fs)
    begin = np.ceil((time + span[0] - start) * fs).astype(int)
    at = ((begin[:, None] + np.arange(samples)) / fs + (start - time)[:, None]).astype(np.float32)
    wave = np.zeros_like(at)
    for k in range(centre.shape[1]):
        c, s, h = (v[:, k, None].astype(np.float32) for v in (centre, width, height))
        if k == 0 and rise is not None:
            s = np.where(at < c, rise[:, None].astype(np.float32), s)
        z = (at - c) / s
        wave += h * np.exp(np.float32(-0.5) * z * z)
    for m, (i, first) in enumerate(zip(row.tolist(), begin.tolist(), strict=True)):
        a, z_ = max(first, 0), min(first + samples, out.shape[1])
        if a < z_:
            out[i, a:z_] += wave[m, a - first : z_ - first]
