"""The rhythms of the PPG generator: intervals, early beats and how much blood they move, on the beats and on the signal."""

from __future__ import annotations

import numpy as np
import pytest
from ppg_pulses import FS, inside, keys, tangent_feet
from scipy.signal import find_peaks

from medfm.synthetic.ppg import simulate
from medfm.synthetic.ppg_rhythm import ATRIAL, NORMAL, VENTRICULAR
from medfm.synthetic.ppg_subjects import DEVICES


def test_fibrillation_is_irregular_and_sinus_is_not():
    """Shannon entropy of the differences of intervals on bins of 20 ms, and no memory from beat to beat."""
    entropy, memory = {}, {}
    for name in ("af_persistent", ()):
        part = simulate(keys(*range(24)), 7, seconds=120.0, conditions=name)
        bits, lag = [], []
        for i in range(24):
            rr = part.rhythm.rr[i, inside(part, i, 120.0)]
            count = np.histogram(np.diff(rr), np.arange(-1.0, 1.0, 0.02))[0]
            p = count[count > 0] / count.sum()
            bits.append(-(p * np.log2(p)).sum())
            lag.append(np.corrcoef(rr[:-1], rr[1:])[0, 1])
        entropy[name], memory[name] = np.array(bits), np.mean(lag)
    assert np.quantile(entropy["af_persistent"], 0.1) > np.quantile(entropy[()], 0.9) + 0.5
    assert abs(memory["af_persistent"]) < 0.06 < 0.25 < memory[()]


def test_beats_of_the_signal_follow_the_drawn_rhythm():
    part = simulate(keys(*range(30)), 8, conditions="af_persistent", noise=0)
    good, spread = [], []
    for i in range(30):
        if DEVICES[part.day.device[i]].fs < 60:
            continue
        feet = (part.rhythm.time[i] + part.pat[i])[inside(part, i)]
        found = tangent_feet(part.clean[i], FS, feet)
        good.append(np.median(np.abs(found)))
        spread.append(np.diff(feet).std())
    assert np.median(good) < 0.012 < 0.1 < np.median(spread)


def test_a_ventricular_beat_is_early_weak_and_followed_by_a_full_pause():
    part = simulate(keys(*range(60)), 4, seconds=60.0, conditions="pvc", noise=0)
    rr, kind, stroke = part.rhythm.rr, part.rhythm.kind, part.rhythm.stroke
    row, b = np.nonzero((kind == VENTRICULAR) & ~np.isnan(part.rhythm.time))
    keep = (b > 3) & (b < rr.shape[1] - 2)
    row, b = row[keep], b[keep]
    calm = (kind[row, b - 1] == NORMAL) & (kind[row, b - 2] == NORMAL) & (kind[row, b - 3] == NORMAL)
    row, b = row[calm], b[calm]
    before = rr[row, b - 1]
    assert len(row) > 100 and (rr[row, b] < 0.9 * before).mean() > 0.98
    assert np.median((rr[row, b] + rr[row, b + 1]) / before) == pytest.approx(2.0, abs=0.05)
    assert (kind[row, b + 1] == NORMAL).all()
    assert (stroke[row, b] < 0.7).all() and np.median(stroke[row, b + 1]) > 1.1
    heights = {}
    for name, at in (("weak", b), ("before", b - 1), ("after", b + 1)):
        foot = np.nan_to_num(part.rhythm.time[row, at] + part.pat[row, at], nan=-9.0)  # none: left out below
        start, stop = np.rint(foot * FS).astype(int), np.rint((foot + 0.25) * FS).astype(int)
        ok = (start > 0) & (stop < part.clean.shape[1])
        rise = [np.ptp(part.clean[r, s:e]) if o else np.nan for r, s, e, o in zip(row, start, stop, ok)]
        heights[name] = np.nanmedian(rise)
    assert heights["weak"] < 0.6 * heights["before"] and heights["after"] > 1.03 * heights["before"]


def test_an_atrial_beat_is_early_and_its_pause_is_not_full():
    part = simulate(keys(*range(40)), 4, seconds=60.0, conditions="pac")
    row, b = np.nonzero((part.rhythm.kind == ATRIAL) & ~np.isnan(part.rhythm.time))
    keep = (b > 2) & (b < part.rhythm.rr.shape[1] - 2)
    rr, row, b = part.rhythm.rr, row[keep], b[keep]
    assert np.median(rr[row, b] / rr[row, b - 1]) < 0.85
    assert np.median((rr[row, b] + rr[row, b + 1]) / rr[row, b - 1]) < 1.87


def test_rates_are_those_asked_for_and_a_detector_counts_them():
    for condition, low, high in (("bradycardia", 30, 70), ("tachycardia", 85, 170)):
        part = simulate(keys(*range(40)), 6, conditions=condition, noise=0)
        counted, stated = [], []
        for i in range(40):
            beats = inside(part, i)
            stated.append(60 / part.rhythm.rr[i, beats].mean())
            peaks = find_peaks(part.clean[i], prominence=0.35, distance=round(0.3 * FS))[0]
            young = part.people.age[i] < 40 and condition == "bradycardia"
            if not young:  # whose reflected wave is a peak of its own
                counted.append(60 / (np.diff(peaks).mean() / FS) / stated[-1])
        assert low < min(stated) and max(stated) < high
        assert np.median(counted) == pytest.approx(1.0, abs=0.05)


def test_paroxysms_begin_and_end_inside_some_recordings():
    part = simulate(keys(*range(60), records=3), 9, conditions="af_paroxysmal")
    share = np.array([part.rhythm.af[i, inside(part, i)].mean() for i in range(180)])
    assert ((share > 0.1) & (share < 0.9)).mean() > 0.12
    assert (share == 1).mean() > 0.25 and (share == 0).mean() > 0.25
    first, last = (np.array([part.rhythm.af[i, inside(part, i)][k] for i in range(180)]) for k in (0, -1))
    assert (last & ~first).mean() > 0.05 and (first & ~last).mean() > 0.05
    within = share.reshape(60, 3)
    assert ((within.max(axis=1) > 0.5) & (within.min(axis=1) < 0.5)).mean() > 0.5


def test_a_heart_that_had_longer_to_fill_moves_more_blood():
    part = simulate(keys(*range(30)), 10, seconds=60.0, conditions="af_persistent", noise=0)
    for i in range(30):
        beats = inside(part, i, 60.0)
        rr, stroke = part.rhythm.rr[i, beats], part.rhythm.stroke[i, beats]
        assert np.corrcoef(rr, stroke)[0, 1] > 0.85
        assert stroke.max() <= 1 / (1 - np.exp(-1 / 0.35)) + 1e-9  # filled to the brim
