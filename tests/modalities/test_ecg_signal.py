from __future__ import annotations

import numpy as np
import pytest
from ecg_records import codes, twelve

from medfm.modalities.ecg_signal import (
    bridge,
    highpass,
    ratio,
    resample,
    resample_mask,
    to_millivolts,
    typical_range,
)


@pytest.mark.parametrize(
    ("fs", "target"), [(500, 250), (360, 500), (257, 500), (249.89, 500), (1000, 250), (400, 500)]
)
@pytest.mark.parametrize("hz", [1.0, 17.0, 35.0])
def test_resampling_a_sine_on_an_offset(fs, target, hz):
    time = np.arange(round(10 * fs)) / fs
    y = resample((2.0 + np.sin(2 * np.pi * hz * time))[None], fs, target)
    assert y.shape == (1, round(len(time) * target / fs))
    truth = 2.0 + np.sin(2 * np.pi * hz * np.arange(y.shape[1]) / target)
    inner = slice(round(0.2 * target), -round(0.2 * target))
    assert np.abs(y[0] - truth)[inner].max() < 5e-4


def test_resampling_agrees_with_fourier_resampling():
    from scipy.signal import resample as fourier

    x = twelve(500.0) * np.hanning(5000)  # periodic, so that the FFT method has no edge of its own
    assert np.abs(resample(x, 500.0, 250.0) - fourier(x, 2500, axis=1))[:, 50:-50].max() < 2e-3


def test_no_alias_and_no_ringing_at_the_ends():
    time = np.arange(5000) / 500
    hum = np.sin(2 * np.pi * 180.0 * time)[None]
    assert np.abs(resample(hum, 500.0, 250.0)[:, 50:-50]).max() < 1e-3  # 180 Hz would fold to 70 Hz
    ramp = np.linspace(3.0, 5.0, 5000)[None]
    assert np.abs(resample(ramp, 500.0, 250.0) - np.linspace(3.0, 5.0, 5000)[::2]).max() < 1e-4


def test_ratio_is_exact_or_close():
    assert ratio(360, 500) == (25, 18) and ratio(500, 500) == (1, 1)
    up, down = ratio(249.89, 500)
    assert abs(up / down * 249.89 / 500 - 1) < 1e-6


def test_short_gaps_are_bridged_and_long_ones_kept():
    x = np.arange(100.0)[None].repeat(2, 0)
    x[0, 10:13], x[0, 40:60] = np.nan, np.nan
    filled, gap, bridged = bridge(x, 5)
    assert np.allclose(filled[0, 10:13], [10, 11, 12]) and bridged.tolist() == [3, 0]
    assert np.flatnonzero(gap[0]).tolist() == list(range(40, 60)) and not gap[1].any()
    assert np.isfinite(filled).all()
    mask = resample_mask(gap, 100.0, 200.0, 200)
    assert mask[0].sum() == pytest.approx(40, abs=2) and mask[0, 100]


def test_highpass_removes_wander_without_a_shift():
    clean = twelve(250.0)
    wander = 0.8 * np.sin(2 * np.pi * 0.1 * np.arange(2500) / 250)
    y = highpass(clean + wander, 250.0, 0.5)
    assert np.abs(y - highpass(clean, 250.0, 0.5))[:, 500:-500].max() < 0.01
    assert abs(int(np.argmax(y[1, 600:850])) - int(np.argmax(clean[1, 600:850]))) <= 1


@pytest.mark.parametrize(
    ("unit", "factor"), [("mV", 1), ("uV", 1e3), ("µV", 1e3), ("μV", 1e3), ("V", 1e-3), ("nV", 1e6)]
)
def test_stated_units(unit, factor):
    x = twelve(250.0)
    y, found = to_millivolts(x * factor, [unit] * 12)
    assert np.allclose(y, x) and not found


@pytest.mark.parametrize(
    ("unit", "factor", "code", "result"),
    [
        ("mV", 1000.0, "wrong-unit", 1.0),  # microvolts, labelled mV
        ("uV", 1.0, "wrong-unit", 1.0),  # millivolts, labelled uV
        ("mV", 10.0, "scale-suspect", 10.0),  # 1e-4 V, labelled mV: said, not changed
        ("", 1.0, "unit-assumed", 1.0),
        ("NU", 1000.0, "unit-assumed", 1.0),
        ("", 10.0, "unit-assumed", 1.0),
        ("", 0.001, "unit-assumed", 1.0),
    ],
)
def test_wrong_and_missing_units(unit, factor, code, result):
    x = twelve(250.0)
    y, found = to_millivolts(x * factor, [unit] * 12)
    assert codes(found) == {code}
    assert np.allclose(y, x * result)


def test_a_small_ecg_is_believed():
    x = twelve(250.0) * 0.25  # low voltage
    assert 0.1 < typical_range(x) < 0.5
    assert not to_millivolts(x, ["mV"] * 12)[1]
