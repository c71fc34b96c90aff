from __future__ import annotations

import json

import numpy as np
import pytest
from pulse_records import codes, message, pulses, signal
from scipy.signal import cheby2, filtfilt

from medfm.config.modalities import PPGSettings
from medfm.modalities.ppg import PPG
from medfm.modalities.ppg_channels import canonical
from medfm.modalities.ppg_filter import bandpass, smooth
from medfm.types import MedfmError, ReadError


def test_settings_are_the_configurations():
    assert PPG().settings() == json.loads(PPGSettings().model_dump_json())
    changed = PPG(
        channels=("green", "infrared", "acc", "ecg"), fs=64, seconds=60, highpass=0.4, lowpass=8, smooth=0,
        polarity="keep", normalise="record", min_quality=0, max_gap=0.5, alias={"LED2": "green"},
    )  # fmt: skip
    settings = json.loads(json.dumps(changed.settings()))
    again = PPG(**PPGSettings(**settings).model_dump(exclude={"name"}))
    assert again.settings() == changed.settings() and again.size == (3840,) and again.spacing == (1 / 64,)
    with pytest.raises(ValueError, match="qqq"):
        PPGSettings(qqq=1)


@pytest.mark.parametrize(
    ("bad", "words"),
    [({"channels": ("purple",)}, "purple"), ({"channels": ("acc",)}, "one to four"),
     ({"channels": ("ppg", "ppg")}, "each channel once"), ({"fs": 20.0}, "half"),
     ({"highpass": 12.0}, "below modality.lowpass"), ({"alias": {"a": "b"}}, "alias"),
     ({"channels": ("ppg", "green", "red", "infrared", "blue")}, "one to four")],
)  # fmt: skip
def test_contradicting_settings(bad, words):
    with pytest.raises(MedfmError, match=words):
        PPG(**bad)


def test_a_window_judges_the_stored_record_but_a_z_score_of_windows_does_not_change_it():
    assert PPG(normalise="none").ingest_settings() == PPG(normalise="window").ingest_settings()
    assert PPG(normalise="record").ingest_settings() != PPG(normalise="window").ingest_settings()
    assert PPG(seconds=30).ingest_settings() != PPG().ingest_settings()
    assert PPG(seconds=30, min_quality=0).ingest_settings() == PPG(min_quality=0).ingest_settings()


# The filter ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fs", [64.0, 125.0, 1000.0])
def test_the_edges_lie_twenty_decibels_down_each_way(fs):
    t = np.arange(round(40 * fs)) / fs
    middle = slice(round(15 * fs), round(25 * fs))
    for f, gain in ((0.5, 0.01), (12.0, 0.01), (2.0, 1.0), (4.0, 1.0)):
        x = np.sin(2 * np.pi * f * t)
        y = bandpass(x[None], fs, 0.5, 12.0)[0]
        # In phase, and a hundredth at the edges: a tenth (20 dB) forwards and again backwards.
        assert np.abs(y[middle] - gain * x[middle]).max() < (0.002 if gain < 1 else 0.03)


def test_golden_vector_against_polynomials_of_scipy():
    x = 300 + pulses(125.0, 8.0, noise=0.05)
    b, a = cheby2(4, 20, [0.5, 12], "bandpass", fs=125.0)
    expected = filtfilt(b, a, x - x.mean(), padlen=250)
    assert np.abs(bandpass(x[None], 125.0, 0.5, 12.0)[0] - expected).max() < 1e-6
    smoothed = filtfilt(np.ones(6) / 6, [1.0], expected)
    assert np.abs(smooth(expected[None], 125.0, 0.05)[0] - smoothed)[20:-20].max() < 1e-6
    both = PPG(polarity="keep", min_quality=0).from_signal(signal(x)).x[0]
    assert np.abs(both - smoothed)[20:-20].max() < 1e-4


def test_smoothing_is_a_triangle_and_stays_out_below_75_hz():
    x = np.zeros((1, 41))
    x[0, 20] = 36.0
    assert np.allclose(smooth(x, 125.0, 0.05)[0, 14:27], [0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0])
    assert smooth(x, 74.0, 0.05) is x


def test_a_large_offset_leaves_nothing_behind():
    x = pulses(seconds=20.0)
    small, large = (PPG(min_quality=0).from_signal(signal(x + level)).x for level in (0.0, 2000.0))
    assert np.abs(small - large).max() < 2e-3 and abs(small.mean()) < 0.01


def test_too_low_a_rate_for_the_band_says_what_it_needs():
    with pytest.raises(ReadError, match=r"20 Hz cannot carry a band up to 12 Hz \(more than 24 Hz"):
        PPG().from_signal(signal(pulses(20.0), 20.0))
    slow = PPG(lowpass=8, polarity="keep").from_signal(signal(pulses(20.0), 20.0))
    assert slow.x.shape == (1, 1250) and "nothing above 10 Hz" in message(slow.findings, "resampled")
    assert PPG().from_signal(signal(pulses(25.0), 25.0)).present.all()


# Channels, polarity, rate ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channel"),
    [("PLETH", "ppg"), ("Pleth", "ppg"), ("SpO2 pleth", "ppg"), ("BVP", "ppg"), ("ppg0", "ppg"), ("IR", "infrared"),
     ("PPG_green", "green"), ("R", "red"), ("led ir", "infrared"), ("940nm", "infrared"), ("ACC_X (g)", "acc_x"),
     ("accelerometer y", "acc_y"), ("ECG_II", "ecg"), ("II", "ecg"), ("MLII", "ecg"), ("V5", "ecg"), ("RESP", None),
     ("hr", None), ("ABP", None), ("", None)],
)  # fmt: skip
def test_names_of_channels(name, channel):
    assert canonical(name) == channel


def test_wavelengths_acceleration_and_ecg_stand_in_the_order_of_the_settings():
    x = pulses()
    axes = np.array([[3.0], [4.0], [12.0]]) * np.linspace(1, 2, len(x))
    file = np.vstack([np.sin(np.arange(len(x)) / 9.0), axes, 2 * x, x])
    names = ("ECG", "acc_x", "acc_y", "acc_z", "IR", "green")
    m = PPG(channels=("green", "infrared", "red", "acc", "ecg"))
    sample = m.from_signal(signal(file, channels=names, record="r", patient="p"))
    assert sample.present.tolist() == [True, True, False, True, True] and np.isnan(sample.x[2]).all()
    assert np.allclose(sample.x[1], 2 * sample.x[0], atol=1e-4)
    assert np.allclose(sample.x[3], 13 * np.linspace(1, 2, len(x)), atol=1e-4)  # 3, 4, 12 -> 13
    assert (sample.record, sample.patient, sample.channels) == ("r", "p", m.channels)
    assert "red" in message(sample.findings, "absent")


def test_a_camera_without_a_channel_called_ppg_gives_its_clearest_pulse():
    x, noise = pulses(30.0, 20.0), np.random.default_rng(0).standard_normal(600)
    file = np.vstack([200 + 0.1 * noise, 100 - x, 40 + 2 * noise])
    sample = PPG().from_signal(signal(file, 30.0, channels=("R", "G", "B")))
    assert "green stands for it" in message(sample.findings, "channel-chosen")
    assert "upside down" in message(sample.findings, "inverted")


def test_names_that_say_nothing():
    with pytest.raises(ReadError, match=r"modality\.alias\.hr=ppg"):
        PPG().from_signal(signal(pulses(), channels=("hr",)))
    assert PPG(alias={"HR": "ppg"}).from_signal(signal(pulses(), channels=("hr",))).present.all()
    assert "assumed-channel" in codes(PPG().from_signal(signal(pulses(), channels=("",))).findings)


def test_polarity_is_established_and_said():
    x = pulses(seconds=30.0, noise=0.02)
    right, wrong = PPG().from_signal(signal(x)), PPG().from_signal(signal(500 - 3 * x))
    assert "inverted" in codes(wrong.findings) and not codes(right.findings) & {
        "inverted",
        "polarity-unclear",
    }
    assert np.abs(wrong.x - 3 * right.x).max() < 1e-3
    kept = PPG(polarity="keep").from_signal(signal(-x))
    assert np.allclose(kept.x, -right.x, atol=1e-5) and "polarity-odd" in codes(kept.findings)
    assert np.allclose(PPG(polarity="invert").from_signal(signal(-x)).x, right.x, atol=1e-5)
    t = np.arange(3750) / 125
    sine = PPG().from_signal(signal(np.sin(2 * np.pi * 1.2 * t)))
    assert "polarity-unclear" in codes(sine.findings)


@pytest.mark.parametrize("fs", [30.0, 64.0, 100.0, 256.0, 500.0])
def test_any_rate_comes_to_the_same_grid(fs):
    m = PPG(polarity="keep", smooth=0)
    at, there = m.from_signal(signal(pulses(fs), fs)).x[0], m.from_signal(signal(pulses())).x[0]
    assert len(at) == 1250 and np.abs(at - there)[100:-100].max() < 0.04


@pytest.mark.parametrize(("fs", "words"), [(0.03, "milliseconds"), (33_000.0, "in seconds")])
def test_an_absurd_rate_names_the_likely_unit(fs, words):
    with pytest.raises(ReadError, match=words):
        PPG().from_signal(signal(pulses(), fs))


# Gaps, length, quality ---------------------------------------------------------------------------------------


def test_gaps_are_masked_not_filled():
    x = pulses(seconds=30.0)
    x[1000:1010], x[2000:2250] = np.nan, np.nan
    sample = PPG(polarity="keep").from_signal(signal(x))
    assert np.isnan(sample.x[0]).nonzero()[0].tolist() == list(range(2000, 2250))
    assert "2 s not recorded" in message(sample.findings, "gap")
    assert "0.08 s of short gaps bridged" in message(sample.findings, "gap-bridged")


def test_a_short_record_is_masked_and_its_z_score_is_of_what_was_recorded():
    m = PPG(polarity="keep")
    sample = m.from_signal(signal(pulses(seconds=2.5)))
    assert sample.x.shape == (1, 312) and "75% is masked" in message(sample.findings, "short")
    y = m.prepare(sample).x[0]
    assert len(y) == 1250 and not y[312:].any()
    assert abs(y[:312].mean()) < 1e-5 and abs(y[:312].std() - 1) < 1e-4


def test_scope_of_the_z_score():
    x = np.concatenate([pulses(), 3 * pulses()])
    window, record, plain = (PPG(normalise=n, min_quality=0) for n in ("window", "record", "none"))
    halves = [m.from_signal(signal(x)).x.reshape(1, 2, 1250).swapaxes(0, 1) for m in (window, record, plain)]
    there = np.ones((2, 1), bool)
    assert np.allclose(window.normalise(halves[0], there).std(-1), 1, atol=1e-4)
    stored = record.normalise(halves[1], there)
    assert abs(stored.std() - 1) < 1e-4 and stored[1].std() > 2.5 * stored[0].std()
    assert np.array_equal(plain.normalise(halves[2], there), halves[2]) and np.array_equal(
        halves[0], halves[2]
    )
    assert np.isnan(window.normalise(halves[0], ~there)).all()


def test_poor_windows_are_set_aside_with_their_count():
    x = pulses(seconds=60.0, noise=0.01)
    x[1250:2500], x[3750:5000] = 0.7, np.random.default_rng(0).standard_normal(1250)
    sample = PPG(polarity="keep").from_signal(signal(x), quality=False)
    lost = np.isnan(sample.x[0]).reshape(6, 1250)
    assert lost.all(1).tolist() == [False, True, False, True, False, False] and lost.sum() == 2500
    said = message(sample.findings, "low-quality")
    assert said.startswith("2 of 6 windows of 10 s of ppg set aside") and "1 flat" in said
    assert not np.isnan(PPG(polarity="keep", min_quality=0).from_signal(signal(x)).x).any()
    quality = PPG(polarity="keep").assess(sample)["ppg"]
    assert [q.reason for q in quality] == ["", "gap", "", "gap", "", ""]
    assert all(abs(q.rate - 75) < 1 and q.regular for q in quality if not q.reason)


def test_where_no_light_is_left_nothing_is_and_a_window_is_prepared_from_the_rest():
    x = np.stack([pulses(seconds=30.0, noise=0.01), np.linspace(0, 1, 3750)])
    x[0, :1250] = np.random.default_rng(0).standard_normal(1250)
    m = PPG(channels=("ppg", "acc_x"), polarity="keep")
    sample = m.from_signal(signal(x, channels=("ppg", "acc_x")))
    assert np.isnan(sample.x[:, :1250]).all() and np.isfinite(sample.x[:, 1250:]).all()
    assert np.allclose(m.prepare(sample).x, m.normalise(sample.x[:, 1250:2500], sample.present))
    only = sample.replace(x=np.where([[True], [False]], sample.x, np.nan))
    assert m.prepare(only).present.tolist() == [True, False]


@pytest.mark.parametrize(
    ("x", "words"),
    [(np.full(1250, 7.0), "all flat"), (np.full(1250, np.nan), "name of a PPG|no number"),
     (np.random.default_rng(1).standard_normal(1250), "1 of 1 windows .* modality.min_quality=0"),
     (pulses(seconds=0.5), "too short")],
)  # fmt: skip
def test_nothing_usable_is_a_sentence(x, words):
    with pytest.raises(ReadError, match=words):
        PPG().from_signal(signal(x))


def test_a_flat_wavelength_is_absent_beside_a_good_one():
    sample = PPG(channels=("green", "red")).from_signal(
        signal(np.stack([pulses(), np.full(1250, 3.0)]), channels=("green", "red"))
    )
    assert sample.present.tolist() == [True, False] and "red never moves" in message(sample.findings, "flat")


def test_generated_records_go_through_the_same_filter():
    m = PPG(channels=("ppg", "acc_x"), polarity="keep", min_quality=0)
    x = np.stack([pulses() + 9, np.linspace(0, 1, 1250)])
    x[0, 400:500] = np.nan
    read = m.from_signal(signal(x, channels=("ppg", "acc_x"))).x
    made = m.condition(x[None].astype(np.float32))[0]
    assert np.array_equal(np.isnan(made), np.isnan(read)) and np.nanmax(np.abs(made - read)) < 1e-5
