"""A delineator of the tests' own: it sees the noiseless leads only, never the generator's fiducials."""

import numpy as np
from scipy.signal import find_peaks

INDEPENDENT = (0, 1, 6, 7, 8, 9, 10, 11)  # I, II, V1..V6


def speed(x, fs):
    """Spatial velocity, mV/s ``[T]``, of 12 leads ``[12, T]``."""
    return np.sqrt(np.sum(np.gradient(x[list(INDEPENDENT)], 1 / fs, axis=1) ** 2, axis=0))


def qrs_complexes(x, fs):
    """(onset, offset) in samples of every complex whose edges lie inside: where the velocity comes to
    rest."""
    v = speed(x, fs)
    smooth = np.convolve(v, np.ones(round(0.06 * fs)), "same")
    peaks, _ = find_peaks(smooth, height=0.4 * np.percentile(smooth, 99), distance=round(0.22 * fs))
    quiet, rest = 0.05 * np.percentile(v, 99.8), round(0.016 * fs)
    out = []
    for peak in peaks:
        on, off = peak, peak
        while on > rest and v[on - rest : on].max() > quiet:
            on -= 1
        while off < len(v) - rest and v[off : off + rest].max() > quiet:
            off += 1
        if rest < on and off < len(v) - rest:
            out.append((on, off))
    return out


def average_beat(x, times, fs, before, after):
    """Mean of the beats at ``times`` (s) that fit, ``[12, W]``."""
    a, z = round(before * fs), round(after * fs)
    rows = [round(t * fs) for t in times]
    rows = [r for r in rows if r - a >= 0 and r + z <= x.shape[1]]
    return np.mean([x[:, r - a : r + z] for r in rows], axis=0)
