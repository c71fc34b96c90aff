"""Where the beats are, and the median beat: enough delineation to judge polarity, no more."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BEFORE, AFTER = 0.30, 0.50  # seconds of the median beat around R


class Beat(NamedTuple):
    """Median beat ``x [C, T]`` in mV (R at ``r``), ``beats`` behind it, and the rate in Hz."""

    x: np.ndarray
    r: int
    beats: int
    fs: float


def find_beats(x: np.ndarray, fs: float) -> np.ndarray:
    """Sample numbers of the QRS complexes of finite ``x [C, T]``: peaks of the 5-20 Hz energy summed over
    the leads."""
    from scipy.ndimage import uniform_filter1d
    from scipy.signal import butter, find_peaks, sosfiltfilt

    if x.shape[1] < fs:
        return np.empty(0, int)
    sos = butter(2, (5.0, min(20.0, 0.4 * fs)), "bandpass", fs=fs, output="sos")
    band = sosfiltfilt(sos, x, axis=1, padlen=min(x.shape[1] - 1, round(fs)))
    energy = uniform_filter1d(np.square(band).sum(axis=0), max(1, round(0.1 * fs)))
    # The threshold follows the usual complex, not one artefact: the 90th percentile of the one-second maxima.
    seconds = max(1, x.shape[1] // round(fs))
    tops = np.array([part.max() for part in np.array_split(energy, seconds)])
    peaks, _ = find_peaks(energy, height=0.3 * np.percentile(tops, 75), distance=max(1, round(0.25 * fs)))
    reach = round(0.06 * fs)
    magnitude = np.square(band).sum(axis=0)
    exact = [max(0, p - reach) + int(np.argmax(magnitude[max(0, p - reach) : p + reach + 1])) for p in peaks]
    return np.array(sorted(set(exact)), int)


def median_beat(x: np.ndarray, fs: float, least: int = 3) -> Beat | None:
    """The median beat after a 0.5 Hz high-pass, or None with fewer than ``least`` whole beats."""
    from scipy.signal import butter, sosfiltfilt

    if x.shape[1] < 2 * fs:
        return None
    peaks = find_beats(x, fs)
    before, after = round(BEFORE * fs), round(AFTER * fs)
    whole = peaks[(peaks >= before) & (peaks + after <= x.shape[1])]
    if len(whole) < least:
        return None
    sos = butter(2, 0.5, "highpass", fs=fs, output="sos")
    level = sosfiltfilt(sos, x, axis=1, padlen=min(x.shape[1] - 1, round(2 * fs)))
    beats = np.stack([level[:, p - before : p + after] for p in whole])
    return Beat(np.median(beats, axis=0), before, len(whole), fs)
