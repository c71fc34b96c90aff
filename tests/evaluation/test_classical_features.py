"""Classical features on signals whose rate, power and waves are known."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.evaluation.classical import BANDS, beats, feature_names, signal_features
from medfm.types import MedfmError

FS = 250


def ecg(bpm: float, seconds: float = 10, width: float = 0.012, r: float = 1.0) -> np.ndarray:
    """Gaussian QRS spikes and a T wave of .2 mV 250 ms later; the second lead is half of the first."""
    t = np.arange(round(seconds * FS)) / FS
    x = np.zeros_like(t)
    for at in np.arange(0.4, seconds, 60 / bpm):
        x += r * np.exp(-0.5 * ((t - at) / width) ** 2) + 0.2 * np.exp(-0.5 * ((t - at - 0.25) / 0.03) ** 2)
    return np.stack([x, x / 2]).astype(np.float32)


def column(x: np.ndarray, name: str, features: str = "intervals_and_spectra") -> np.ndarray:
    values, names = signal_features(x, FS, features)
    assert values.shape == (len(x), len(names)) and np.isfinite(values).all()
    return values[:, names.index(name)]


@pytest.mark.parametrize("features", ["simple", "intervals_and_spectra"])
def test_heart_rate(features):
    x = np.stack([ecg(b) for b in (40, 72, 120, 180)])
    assert column(x, "heart_rate", features) == pytest.approx([40, 72, 120, 180], rel=0.01)


def test_beats_lie_on_the_spikes():
    found = beats(ecg(60)[None].astype(float), FS)[0] / FS
    assert found == pytest.approx(np.arange(0.4, 10, 1.0), abs=0.02)


def test_simple_features_are_mean_variance_and_rate():
    x = ecg(60)[None] + np.array([[0.5], [0.0]], dtype=np.float32)
    values, names = signal_features(x, FS, "simple")
    assert names == ["c0_mean", "c1_mean", "c0_variance", "c1_variance", "heart_rate"]
    assert values[0, :4] == pytest.approx([*x[0].mean(1), *x[0].var(1)], rel=1e-5)


def test_waves_have_their_millivolts():
    x = ecg(60)[None]
    assert column(x, "c0_r_max") == pytest.approx([1.0], abs=0.03)
    assert column(x, "c0_t_max") == pytest.approx([0.2], abs=0.02)
    assert column(-x, "c0_t_min") == pytest.approx([-0.2], abs=0.02)
    assert column(x, "c1_r_max") == pytest.approx([0.5], abs=0.02)


def test_a_broad_qrs_is_wider_and_irregular_beats_vary():
    narrow, broad = column(np.stack([ecg(60), ecg(60, width=0.03)]), "qrs_width")
    assert broad > narrow + 0.02
    t = np.cumsum([0.4, 0.6, 1.1, 0.7, 0.9, 1.3, 0.5, 0.8, 1.0, 0.6, 0.9])
    x = np.zeros(10 * FS)
    for at in t:
        x += np.exp(-0.5 * ((np.arange(len(x)) / FS - at) / 0.012) ** 2)
    regular = column(ecg(70)[None, :1], "rr_sd")
    assert column(x[None, None], "rr_sd")[0] > 10 * regular[0]
    assert column(x[None, None], "rr_sd")[0] == pytest.approx(np.std(np.diff(t)), rel=0.05)


def test_band_power_follows_the_frequency():
    t = np.arange(10 * FS) / FS
    x = np.stack([np.sin(2 * np.pi * f * t) for f in (1.0, 3.0, 6.0, 10.0, 15.0, 20.0, 30.0)])[:, None]
    values, names = signal_features(x, FS)
    bands = values[:, [names.index(f"c0_log_power_{a:g}_{b:g}_hz") for a, b in BANDS]]
    assert bands.argmax(1).tolist() == list(range(7))


def test_flat_absent_and_noisy_records_stay_finite():
    rng = np.random.default_rng(0)
    x = np.stack([np.zeros((2, 2500)), np.full((2, 2500), np.nan), rng.normal(size=(2, 2500))])
    x[2, 0] = np.nan
    values, names = signal_features(x, FS)
    assert np.isfinite(values).all()
    assert names == feature_names(2, "intervals_and_spectra")
    assert values[0, names.index("heart_rate")] == 0


def test_too_short_or_too_slow_is_told():
    with pytest.raises(MedfmError, match="2 s or more"):
        signal_features(np.zeros((1, 2, 100)), FS)
    with pytest.raises(MedfmError, match="50 Hz or more"):
        signal_features(np.zeros((1, 2, 1000)), 10)
    with pytest.raises(MedfmError, match="records, channels, samples"):
        signal_features(np.zeros((2, 1000)), FS)
