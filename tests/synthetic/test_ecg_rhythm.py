"""RR statistics of each rhythm, its P waves, and alternans by averaging."""

import numpy as np
import pytest
from delineation import average_beat, qrs_complexes

from medfm.synthetic.ecg import generate, simulate

FS = 250


def beats(condition, seconds=100, n=16, seed=2):
    return list(generate(range(n), seed, conditions=condition, seconds=seconds, fs=FS, noise=0, chunk=8))


def lag_one(rr):
    return np.corrcoef(rr[:-1], rr[1:])[0, 1]


def test_fibrillation_is_irregularly_irregular():
    records = beats("af_persistent")
    cv = [r.beats["rr_s"].std() / r.beats["rr_s"].mean() for r in records]
    assert np.min(cv) > 0.13 and np.max(cv) < 0.34
    assert abs(np.mean([lag_one(r.beats["rr_s"]) for r in records])) < 0.08
    for r in records:
        assert r.labels["afib"] and r.rhythm == "afib" and np.isnan(r.beats["p_onset_s"]).all()


def test_fibrillatory_waves_fill_the_pauses():
    """Between T and the next beat V1 holds a wave that sinus rhythm lacks there."""

    def share(condition):
        out = []
        for r in beats(condition, seconds=60, n=8):
            gaps = [
                r.clean[6, round((a + 0.02) * FS) : round((b - 0.02) * FS)]
                for a, b in zip(r.beats["t_end_s"][:-1], r.beats["qrs_onset_s"][1:] - 0.22)
                if b - a > 0.3
            ]
            out += [np.std(g - g.mean()) for g in gaps]
        return np.median(out)

    af, sinus = share("af_persistent"), share("normal")
    assert af > 2.2 * sinus and 0.008 < af < 0.08


def test_sinus_variability_has_its_two_bands():
    """Power of the RR series (read evenly at 4 Hz) lies near 0.1 Hz and near the breathing rate."""
    inside, total = 0.0, 0.0
    for r in beats("normal", seconds=120, n=10):
        grid = np.arange(1, 119, 0.25)
        rr = np.interp(grid, r.beats["r_s"], r.beats["rr_s"])
        power = np.abs(np.fft.rfft((rr - rr.mean()) * np.hanning(len(grid)))) ** 2
        hz = np.fft.rfftfreq(len(grid), 0.25)
        inside += power[((hz > 0.05) & (hz < 0.15)) | ((hz > 0.15) & (hz < 0.45))].sum() / power.sum()
        total += 1
        assert 0.003 < rr.std() / rr.mean() < 0.15
    assert inside / total > 0.85


def test_rates():
    for condition, low, high in (("bradycardia", 30, 60), ("tachycardia", 100, 160)):
        part = simulate([(s, 0) for s in range(64)], 3, conditions=condition, fs=100)
        rate = part.measures["heart_rate_bpm"]
        assert np.mean((rate > low) & (rate < high)) > 0.9
        assert np.array_equal(part.labels["bradycardia"], rate < 60)
        assert np.array_equal(part.labels["tachycardia"], rate > 100)


def test_stated_rate_is_the_one_that_a_detector_counts():
    for r in generate(range(16), 5, noise=0, conditions="normal"):
        middles = np.array([(a + b) / 2 for a, b in qrs_complexes(r.clean, 500)]) / 500
        assert 60 / np.diff(middles).mean() == pytest.approx(r.measures["heart_rate_bpm"], rel=0.05)


def test_flutter_conducts_whole_atrial_cycles():
    for r in beats("flutter", n=8):
        cycles = r.beats["rr_s"] / r.beats["rr_s"].min()
        assert r.labels["flutter"] and np.isnan(r.beats["p_onset_s"]).all()
        base = [k for k in (2, 3, 4, 5) if np.allclose(cycles * k, np.rint(cycles * k), atol=1e-6)]
        assert base and 100 < 60 * base[0] / r.beats["rr_s"].min() < 420


def test_a_ventricular_beat_is_early_wide_and_followed_by_a_full_pause():
    sums = []
    for r in beats("pvc", n=12):
        v = np.flatnonzero(r.beats["kind"] == "V")
        v = v[(v > 2) & (v < len(r.beats["kind"]) - 1)]
        for k in v:
            if (r.beats["kind"][[k - 2, k - 1, k + 1]] == "N").all() and r.beats["kind"][k - 3] == "N":
                rr = r.beats["rr_s"]
                assert rr[k] < 0.85 * rr[k - 1]
                sums.append((rr[k] + rr[k + 1]) / rr[k - 1])
        assert np.isnan(r.beats["p_onset_s"][r.beats["kind"] == "V"]).all()
    assert len(sums) > 10 and abs(np.median(sums) - 2.0) < 0.1


def test_an_atrial_beat_resets_the_sinus_node():
    sums = []
    for r in beats("pac", n=12):
        k = np.flatnonzero(r.beats["kind"] == "A")
        k = k[(k > 1) & (k < len(r.beats["kind"]) - 1)]
        rr = r.beats["rr_s"]
        sums += list((rr[k] + rr[k + 1]) / rr[k - 1])
    assert len(sums) > 20 and np.median(sums) < 1.9


def test_paroxysms_begin_and_end_inside_some_records():
    records = beats("af_paroxysmal", seconds=10, n=60)
    with_p = [np.isnan(r.beats["p_onset_s"]).mean() for r in records]
    assert sum(0.1 < s < 0.9 for s in with_p) >= 8  # both rhythms in one record
    assert sum(s == 1 for s in with_p) >= 8 and sum(s < 0.1 for s in with_p) >= 5
    assert {r.labels["afib"] for r in records} == {True, False}


def test_alternans_states_its_microvolts():
    """The mean even and the mean odd beat differ by the stated voltage; healthy records by almost nothing."""
    for condition, expect in (("twa", True), ("normal", False)):
        for r in beats(condition, seconds=100, n=6):
            if r.measures["heart_rate_bpm"] > 90:
                continue
            even, odd = (average_beat(r.clean, r.beats["r_s"][k::2], FS, 0.0, 0.5) for k in (0, 1))
            gap = 1000 * np.abs(even - odd)[:, round(0.12 * FS) :].max()
            assert r.labels["twa"] == expect
            if expect:
                assert gap == pytest.approx(r.measures["twa_uv"], rel=0.2, abs=12)
            else:
                assert gap < 25 and r.measures["twa_uv"] == 0


def test_qt_follows_rr():
    """Beats after long intervals have a longer QT than beats after short ones, by less than the whole
    change."""
    slopes = []
    for r in beats("normal", seconds=120, n=10):
        rr, end, onset = r.beats["rr_s"], r.beats["t_end_s"], r.beats["qrs_onset_s"]
        if rr.std() > 0.02:
            slopes.append(np.polyfit(np.convolve(rr, np.ones(6) / 6, "valid"), (end - onset)[5:], 1)[0])
    assert len(slopes) >= 3 and 0.02 < np.median(slopes) < 0.4
