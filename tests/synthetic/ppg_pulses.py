"""What the tests of the PPG generator measure on a pulse wave, by methods of their own."""

from __future__ import annotations

import numpy as np

FS = 125.0


def keys(*subjects, records=1):
    return [(s, r) for s in subjects for r in range(records)]


def inside(part, i, seconds=10.0):
    return (part.rhythm.time[i] >= 0) & (part.rhythm.time[i] < seconds)


def tangent_feet(wave, fs, rough):
    """Feet by the intersecting tangents: the steepest rise near each rough place meets the minimum before it."""
    feet = []
    for t in rough:
        a, z = round((t - 0.12) * fs), round((t + 0.30) * fs)
        if a < 1 or z >= len(wave):
            continue
        slope = np.gradient(wave) * fs
        steep = a + int(np.argmax(slope[a:z]))
        low = wave[a : steep + 1].min()
        feet.append(((steep / fs) - (wave[steep] - low) / slope[steep]) - t)
    return np.array(feet)


def median_beat(part, i, seconds):
    """Median beat of a record from foot to 0.7 s later, 0 at the foot and 1 at the top."""
    feet = (part.rhythm.time[i] + part.pat[i])[inside(part, i, seconds)]
    start = np.rint(feet * FS).astype(int)
    start = start[(start > 0) & (start + 88 < part.clean.shape[1])]
    beat = np.median([part.clean[i, s : s + 88] for s in start], axis=0)
    beat = beat - beat[0]
    return beat / beat.max()
