"""Pulses of a PPG and how far to trust a window of it: peaks, feet, polarity and eight indices.

Beats: two moving averages (Elgendi et al. 2013, PLoS ONE 8:e76585): 111 ms follow a systole, 667 ms a beat. Template
correlation, plausible rate and pauses: Orphanidou et al. 2015 (IEEE JBHI 19:832). Skewness: Elgendi 2016. Arrays are
one channel ``x [T]``, filtered, NaN where nothing was recorded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medfm.modalities.ecg_signal import runs

SYSTOLE, BEAT, OFFSET = 0.111, 0.667, 0.02  # seconds, seconds, share of the mean power
REFRACTORY = 0.3  # s between two peaks: 200 beats a minute
RATE = (40.0, 180.0)  # beats a minute
PAUSE, SPREAD = 3.0, 2.2  # s; longest over shortest interval
STILL = 1e-6  # of the channel's deviation: a change that is none
PULSE_BAND, WHOLE_BAND = (1.0, 2.25), (0.0, 8.0)  # Hz: where most pulses are, of what
SKEWED = 0.3  # of values and slope together, above which a polarity is certain
ALIKE, VOTES = (
    0.85,
    60,
)  # correlation of a stretch's beats from which it has a vote on that; most stretches asked
ECHO, ECHO_RISE = (
    0.55,
    0.6,
)  # s after a peak, share of its rise: a lower peak within both is its dicrotic wave


class Quality(NamedTuple):
    """One window. correlation: mean of its beats with their median beat, NaN with fewer than three; skewness of the
    values; flat, clipped, gap: shares of its length; rate: beats a minute (NaN: none); regular: rate, pauses and spread
    of the intervals are a heart's; spectral: power at 1 to 2.25 Hz over that up to 8 Hz; reason: why it is not to be
    used, empty where it may be."""

    correlation: float
    skewness: float
    flat: float
    clipped: float
    gap: float
    rate: float
    regular: bool
    spectral: float
    reason: str


def find_peaks(x: np.ndarray, fs: float) -> np.ndarray:
    """Samples of the systolic peaks of finite, upright ``x [T]``, found in its band of 0.5 to 8 Hz."""
    from scipy.ndimage import uniform_filter1d
    from scipy.signal import butter, sosfiltfilt

    if len(x) < fs:
        return np.empty(0, int)
    sos = butter(2, (0.5, min(8.0, 0.45 * fs)), "bandpass", fs=fs, output="sos")
    power = np.square(np.clip(sosfiltfilt(sos, x - x.mean(), padlen=min(len(x) - 1, round(fs))), 0, None))
    systole = uniform_filter1d(power, max(1, round(SYSTOLE * fs)))
    beat = uniform_filter1d(power, max(1, round(BEAT * fs)))
    blocks = [(a, b) for a, b in runs(systole > beat + OFFSET * power.mean()) if b - a >= SYSTOLE * fs]
    peaks: list[int] = []
    for a, b in blocks:
        at = a + int(np.argmax(x[a:b]))
        # A block at the edge has its top outside of the record.
        if at in (0, len(x) - 1):
            continue
        if peaks and at - peaks[-1] < REFRACTORY * fs:
            if x[at] > x[peaks[-1]]:
                peaks[-1] = at
        else:
            peaks.append(at)
    return _without_echoes(x, np.array(peaks, int), fs)


def _without_echoes(x: np.ndarray, peaks: np.ndarray, fs: float) -> np.ndarray:
    """Peaks without dicrotic waves, which in the young stand as high as a third of the pulse or more."""
    kept: list[int] = []
    rise = 0.0
    for peak in peaks.tolist():
        first = max(kept[-1] if kept else 0, peak - round(0.5 * fs))
        height = float(x[peak] - x[first : peak + 1].min())
        if not kept or peak - kept[-1] > ECHO * fs or height > ECHO_RISE * rise:
            kept.append(peak)
            rise = height
    return np.array(kept, int)


def find_feet(x: np.ndarray, peaks: np.ndarray, fs: float) -> np.ndarray:
    """Foot of every peak: where the steepest rise of the 0.4 s before it begins, not before the last peak."""
    slope, feet = np.diff(x), []
    for last, peak in zip(np.concatenate([[-1], peaks[:-1]]), peaks):
        first = max(int(last) + 1, int(peak) - round(0.4 * fs))
        if first >= peak:
            feet.append(int(peak))
            continue
        steepest = first + int(np.argmax(slope[first:peak]))
        falling = np.flatnonzero(slope[first:steepest] <= 0)
        feet.append(first + int(falling[-1]) + 1 if falling.size else first)
    return np.array(feet, int)


def template_correlation(x: np.ndarray, peaks: np.ndarray) -> float:
    """Mean correlation of the beats with their median beat, each one median interval wide about its peak."""
    if len(peaks) < 3:
        return float("nan")
    half = int(np.median(np.diff(peaks))) // 2
    whole = peaks[(peaks >= half) & (peaks + half < len(x))]
    if len(whole) < 3 or half < 2:
        return float("nan")
    beats = x[whole[:, None] + np.arange(-half, half + 1)]
    beats = beats - beats.mean(1, keepdims=True)
    template = np.median(beats, axis=0)
    template = template - template.mean()
    norm = np.linalg.norm(beats, axis=1) * np.linalg.norm(template)
    return float(np.mean(beats @ template / np.maximum(norm, 1e-30)))


def skewness(x: np.ndarray) -> float:
    """Third standardised moment of finite values; 0 for a constant."""
    centred = x - x.mean()
    deviation = float(np.sqrt(np.mean(centred**2)))
    return float(np.mean(centred**3)) / deviation**3 if deviation > 0 else 0.0


def flat_share(x: np.ndarray, fs: float) -> float:
    """Share that stands still for 0.2 s or more."""
    values = x[np.isfinite(x)]
    if values.size < 2:
        return 0.0
    still = np.abs(np.diff(x)) <= STILL * max(float(values.std()), 1e-30)
    return float(sum(b - a + 1 for a, b in runs(still) if b - a >= 0.2 * fs) / len(x))


def clipped_share(x: np.ndarray, fs: float) -> float:
    """Share of the recorded values that rest on the highest or the lowest of all for 60 ms (four samples) or more."""
    values = x[np.isfinite(x)]
    if values.size < 2 or values.min() == values.max():
        return 0.0
    hold = max(4, round(0.06 * fs))
    held = [b - a for limit in (values.min(), values.max()) for a, b in runs(x == limit) if b - a >= hold]
    return float(sum(held) / values.size)


def spectral_share(x: np.ndarray, fs: float) -> float:
    """Power at 1 to 2.25 Hz over the power up to 8 Hz (Welch, 4 s) of finite ``x``; 0 where there is none."""
    from scipy.signal import welch

    f, p = welch(x, fs, nperseg=min(len(x), round(4 * fs)), nfft=max(len(x), round(8 * fs)))
    whole = p[(f > WHOLE_BAND[0]) & (f <= WHOLE_BAND[1])].sum()
    return float(p[(f >= PULSE_BAND[0]) & (f <= PULSE_BAND[1])].sum() / whole) if whole > 0 else 0.0


def upright(x: np.ndarray, fs: float) -> float:
    """Which way up finite ``x`` is: the skewness of its values and that of its slope, added; median over stretches of 10 s.

    Systole is short and high, and rises faster than it falls, so both are positive where it points up and negative where
    the signal is inverted. Sensors that pass high frequencies lose the second sign, cameras the first; seldom both.
    """
    parts = np.array_split(x, max(1, round(len(x) / (10 * fs))))
    step = -(-len(parts) // VOTES)
    found = [skewness(p) + skewness(np.diff(p)) for p in parts[::step] if _votes(p, fs)]
    return float(np.median(found)) if found else 0.0


def _votes(x: np.ndarray, fs: float) -> bool:
    """Does a stretch hold beats that are alike, either way up? One too short for three beats is taken at its word."""
    if len(x) < fs or x.std() == 0:
        return False
    if len(x) < 5 * fs:
        return True
    return any(template_correlation(y, find_peaks(y, fs)) >= ALIKE for y in (x, -x))


def assess(x: np.ndarray, raw: np.ndarray, fs: float, least: float) -> Quality:
    """The indices of one window. x: filtered, NaN in gaps; raw: the same samples as recorded; least: the correlation
    below which a window is not used (AF alone lowers it little: beats differ in length and height, less in form)."""
    missing = ~np.isfinite(x)
    gap, flat, clipped = float(missing.mean()), flat_share(raw, fs), clipped_share(raw, fs)
    nothing = Quality(np.nan, np.nan, flat, clipped, gap, np.nan, False, np.nan, "")
    if gap > 0.5:
        return nothing._replace(reason="gap")
    if clipped > 0.25 or flat > 0.25:
        return nothing._replace(reason="clipped" if clipped > 0.25 else "flat")
    filled = np.interp(np.arange(len(x)), np.flatnonzero(~missing), x[~missing]) if gap else x
    peaks = find_peaks(filled, fs)
    peaks = peaks[~missing[peaks]]
    beats = np.diff(peaks) / fs
    rate = 60.0 / float(np.median(beats)) if beats.size else float("nan")
    regular = bool(
        beats.size
        and RATE[0] <= rate <= RATE[1]
        and beats.max() <= PAUSE
        and beats.max() / beats.min() < SPREAD
    )
    correlation = template_correlation(filled, peaks)
    reason = ""
    if len(x) >= 5 * fs and not (beats.size and 20.0 <= rate <= 220.0):
        reason = "no pulse"
    elif correlation < least:
        reason = "unlike beats"
    spectral = spectral_share(filled, fs)
    return Quality(correlation, skewness(filled), flat, clipped, gap, rate, regular, spectral, reason)


def cuts(samples: int, window: int) -> list[tuple[int, int]]:
    """Neighbouring windows; a remainder of less than half of one belongs to the last."""
    starts = list(range(0, samples, window))
    if len(starts) > 1 and samples - starts[-1] < window / 2:
        starts.pop()
    return list(zip(starts, [*starts[1:], samples]))


def moves(x: np.ndarray) -> bool:
    """Does it hold two different numbers?"""
    values = x[np.isfinite(x)]
    return values.size > 1 and bool(values.min() < values.max())
