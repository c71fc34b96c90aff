from __future__ import annotations

import numpy as np
import pytest
from pulse_records import pulses

from medfm.modalities import ppg_quality as quality


@pytest.mark.parametrize("rate", [45.0, 60.0, 75.0, 100.0, 150.0])
@pytest.mark.parametrize("fs", [30.0, 64.0, 125.0])
def test_every_beat_is_found_once_where_it_is(rate, fs):
    x = pulses(fs, 20.0, rate, noise=0.02)
    peaks = quality.find_peaks(x - x.mean(), fs) / fs
    true = np.arange(0.4, 19.7, 60 / rate)
    inner = true[(true > 0.35) & (true < 19.5)]
    nearest = np.abs(peaks[None] - inner[:, None]).min(1)
    # The rise of the next beat moves a fast pulse's top a little; a sample of 30 Hz is 33 ms.
    assert nearest.max() < 0.05 and abs(len(peaks) - len(inner)) <= 1


@pytest.mark.parametrize("rate", [45.0, 54.0, 70.0])
def test_the_dicrotic_wave_of_the_young_is_no_beat(rate):
    t = np.arange(2500) / 125
    beats = np.arange(0.5, 20, 60 / rate)
    x = sum(np.exp(-(((t - b) / 0.07) ** 2)) + 0.5 * np.exp(-(((t - b - 0.34) / 0.12) ** 2)) for b in beats)
    peaks = quality.find_peaks(x - x.mean(), 125.0) / 125
    inner = beats[(beats > 0.4) & (beats < 19.4)]
    assert len(peaks) == len(inner) and np.abs(peaks - inner).max() < 0.02


def test_feet_are_the_lowest_points_before_the_peaks():
    t = np.arange(1250) / 125
    x = np.maximum(0.0, np.sin(2 * np.pi * t)) - 0.2 * np.exp(-((((t + 0.5) % 1.0) - 0.45) ** 2) / 2e-4)
    peaks = np.array([31 + 125 * k for k in range(1, 9)])
    feet = quality.find_feet(x, peaks, 125.0)
    assert np.abs(feet - (peaks - 31 - 6)).max() <= 1 and (x[feet] < -0.19).all()


def test_skewness_by_hand():
    # Mean 1, deviations -1, -1, -1, 3: m2 = 12 / 4, m3 = 24 / 4, 6 / 3 ** 1.5.
    assert quality.skewness(np.array([0.0, 0.0, 0.0, 4.0])) == pytest.approx(6 / 3**1.5)
    assert quality.skewness(np.ones(9)) == 0


def test_template_correlation_falls_with_unlike_beats():
    x = pulses(seconds=20.0)
    peaks = quality.find_peaks(x - x.mean(), 125.0)
    clean = quality.template_correlation(x, peaks)
    noisy = quality.template_correlation(x + np.random.default_rng(0).normal(0, 0.5, len(x)), peaks)
    assert clean > 0.999 > 0.9 > noisy and np.isnan(quality.template_correlation(x, peaks[:2]))
    # A beat upside down among n correlates with the template at -1 and the others at 1: (n - 2) / n.
    half = int(np.median(np.diff(peaks))) // 2
    middle = peaks[5]
    x[middle - half : middle + half + 1] *= -1
    n = int(((peaks >= half) & (peaks + half < len(x))).sum())
    assert quality.template_correlation(x, peaks) == pytest.approx((n - 2) / n, abs=0.02)


def test_shares_by_hand():
    x = np.sin(np.arange(1000) / 20)
    x[100:200] = x[100]
    assert quality.flat_share(x, 100.0) == pytest.approx(0.1)
    x = np.clip(np.sin(2 * np.pi * np.arange(1000) / 100), -2, 0.5)
    held = (x == 0.5).sum() / 1000
    assert quality.clipped_share(x, 100.0) == pytest.approx(held) and 0.3 < held < 0.4
    assert quality.clipped_share(np.sin(np.arange(1000) / 20), 100.0) == 0
    t = np.arange(4000) / 100
    # Amplitudes 2 and 1: powers 4 and 1.
    both = 2 * np.sin(2 * np.pi * 1.5 * t) + np.sin(2 * np.pi * 5 * t)
    assert quality.spectral_share(both, 100.0) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("change", "reason"),
    [(lambda x: x, ""), (lambda x: np.where(np.arange(len(x)) < 700, np.nan, x), "gap"),
     (lambda x: np.where(np.arange(len(x)) < 400, 0.3, x), "flat"), (lambda x: np.clip(x, 0.1, 0.4), "clipped")],
)  # fmt: skip
def test_reasons(change, reason):
    raw = change(pulses())
    filtered = np.where(np.isfinite(raw), pulses() - pulses().mean(), np.nan)
    assert quality.assess(filtered, raw, 125.0, 0.7).reason == reason


def test_an_impossible_rate_is_no_heart():
    slow = pulses(rate=30.0, seconds=20.0, noise=0.01)
    found = quality.assess(slow, slow, 125.0, 0.7)
    assert not found.regular and found.rate == pytest.approx(30, abs=1)
    assert quality.assess(pulses(), pulses(), 125.0, 0.7).regular


def test_neurokit_finds_the_same_peaks():
    neurokit = pytest.importorskip("neurokit2", reason="the oracle is not installed")
    x = neurokit.ppg_simulate(duration=30, sampling_rate=125, heart_rate=72, random_state=3)
    clean = neurokit.ppg_clean(x, sampling_rate=125, method="elgendi")
    theirs = neurokit.ppg_findpeaks(clean, sampling_rate=125, method="elgendi")["PPG_Peaks"]
    ours = quality.find_peaks(np.asarray(x) - np.mean(x), 125.0)
    inner = [p[(p > 125) & (p < len(x) - 125)] for p in (np.asarray(theirs), ours)]
    assert len(inner[0]) == len(inner[1]) > 25 and np.abs(inner[0] - inner[1]).max() <= 3
