"""The PPG generator: rhythms, arteries, breath, movement and optics by what can be measured on the signal."""

from __future__ import annotations

import time

import numpy as np
import pytest
from ppg_pulses import FS, inside, keys, median_beat, tangent_feet
from scipy.signal import find_peaks

from medfm.synthetic.ppg import CHANNELS, simulate
from medfm.synthetic.ppg_subjects import CONDITIONS, DEVICES, EXCLUDES
from medfm.types import ConfigError


@pytest.fixture(scope="module")
def mixed():
    return simulate(keys(*range(60), records=3), 3, channels=("ppg", "acc", "ecg"))


@pytest.fixture(scope="module")
def healthy():
    """Slow, quiet, noiseless minutes: what arteries and breath do is seen alone."""
    return simulate(keys(*range(120)), 5, seconds=30.0, conditions="bradycardia", noise=0)


def test_a_record_is_the_same_alone_and_in_any_batch_and_beside_any_channel(mixed):
    alone = simulate([(17, 1)], 3, channels=("ecg", "ppg"))
    row = 17 * 3 + 1
    assert np.array_equal(mixed.x[row, 0], alone.x[0, 1]) and np.array_equal(mixed.x[row, 2], alone.x[0, 0])
    assert mixed.records[row] == alone.records[0] == "s3p000017r01"
    assert mixed.quality[row] == pytest.approx(alone.quality[0], abs=1e-6)
    assert mixed.people.age[row] == alone.people.age[0]


def test_seed_person_and_recording_each_change_the_signal(mixed):
    other = simulate([(17, 1)], 4)
    here = mixed.x[17 * 3 + 1, 0]
    for there in (mixed.x[17 * 3, 0], mixed.x[18 * 3 + 1, 0], other.x[0, 0]):
        assert np.corrcoef(here, there)[0, 1] < 0.8


def test_the_device_channel_is_its_own_wavelength():
    part = simulate(keys(*range(12)), 2, channels=("ppg", "green", "red", "infrared", "blue"))
    for i, k in enumerate(part.day.device):
        own = ("ppg", "green", "red", "infrared", "blue").index(DEVICES[k].wavelength)
        same = [np.array_equal(part.x[i, 0], part.x[i, c]) for c in range(1, 5)]
        assert same == [c == own for c in range(1, 5)]
    fast = np.fft.rfft(part.x[:, 1:] * np.hanning(1250))[:, :, 150:350]  # above 15 Hz: noise of each sensor
    for a, b in ((0, 1), (1, 2), (0, 3)):
        shared = np.abs((fast[:, a] * fast[:, b].conj()).sum(axis=1))
        power = np.sqrt((np.abs(fast[:, a]) ** 2).sum(axis=1) * (np.abs(fast[:, b]) ** 2).sum(axis=1))
        assert np.median(shared / power) < 0.3


def test_reflection_rises_and_comes_earlier_with_age(healthy):
    """Height of the second wave by the largest bend after the peak; the notch of the young is gone in the old."""
    age, level, notch = healthy.people.age, [], []
    for i in range(len(age)):
        beat = median_beat(healthy, i, 30.0)
        peak = int(np.argmax(beat[:40]))
        level.append(beat[peak + round(0.2 * FS)])  # what has come back 0.2 s after the peak
        notch.append(np.diff(beat[peak:75]).max() > 0)  # it falls, and rises again
    level, notch = np.array(level), np.array(notch)
    assert np.corrcoef(age, level)[0, 1] > 0.3
    assert notch[age < 40].mean() > 0.9 > 0.45 > notch[age > 68].mean()
    assert np.corrcoef(age, healthy.day.stiffness)[0, 1] > 0.7
    assert np.corrcoef(age, healthy.people.reflection)[0, 1] > 0.5


def test_stiffness_at_20_and_80_years_is_the_published_one():
    part = simulate(keys(*range(600)), 11, fs=25.0, seconds=2.0, conditions=())
    slope, at = np.polyfit(part.people.age - 20, part.people.stiffness, 1)
    assert at == pytest.approx(5.0, abs=0.4) and at + 60 * slope == pytest.approx(9.5, abs=0.8)


def test_pulse_arrival_is_physiological_and_shorter_in_stiff_arteries(healthy):
    pat = np.array([np.median(healthy.pat[i, inside(healthy, i, 30.0)]) for i in range(120)])
    place = np.array([DEVICES[k].path for k in healthy.day.device])
    finger = place > 0.5
    assert np.percentile(pat[finger], 2) > 0.17 and np.percentile(pat[finger], 98) < 0.36
    assert np.corrcoef(pat[finger], healthy.day.stiffness[finger])[0, 1] < -0.8
    assert np.median(pat[place < 0.3]) < np.median(pat[finger]) - 0.05


def test_r_peaks_and_feet_of_the_signals_are_a_pulse_arrival_apart():
    part = simulate(keys(*range(40)), 12, channels=("ppg", "ecg"), noise=0, conditions=())
    errors, off = [], []
    for i in range(40):
        beats = inside(part, i) & (part.rhythm.time[i] > 0.3) & (part.rhythm.time[i] < 9.3)
        r = find_peaks(part.x[i, 1], height=0.35, distance=round(0.35 * FS))[0] / FS
        r = r[(r > 0.3) & (r < 9.3)]
        drawn = part.rhythm.time[i, beats]
        if len(r) == len(drawn):
            off.append(np.abs(r - drawn).max())
        foot = tangent_feet(part.clean[i], FS, drawn + part.pat[i, beats])
        errors.append(np.median(foot))
    assert len(off) > 35 and np.max(off) < 0.012
    assert abs(np.median(errors)) < 0.012 and np.percentile(np.abs(errors), 80) < 0.03


@pytest.mark.parametrize("which", ["baseline", "height", "interval"])
def test_breath_is_in_the_spectrum_at_the_drawn_rate(which):
    part = simulate(keys(*range(24)), 13, seconds=60.0, conditions=(), noise=0)
    hits = 0
    for i in range(24):
        beats = inside(part, i, 58.0) & (part.rhythm.time[i] > 1)
        x, at = part.x[i, 0], part.rhythm.time[i, beats] + part.pat[i, beats]
        value = {
            "baseline": x[np.rint(at * FS).astype(int)],
            "height": np.array([np.ptp(x[int(t * FS) : int((t + 0.25) * FS)]) for t in at]),
            "interval": part.rhythm.rr[i, beats],
        }[which]
        even = np.arange(at[0], at[-1], 0.25)
        row = np.interp(even, at, value)
        power = np.abs(np.fft.rfft((row - row.mean()) * np.hanning(len(row)), 2048)) ** 2
        hz = np.fft.rfftfreq(2048, 0.25)
        band = (hz > 0.15) & (hz < 0.6)  # above the waves near 0.1 Hz
        hits += abs(hz[band][np.argmax(power[band])] - part.day.breath_hz[i]) < 0.03
    assert hits >= 20


def test_movement_of_the_light_follows_the_accelerometer():
    """Where a wearer moves, the accelerometer explains the artefact; where nobody moves it explains nothing."""
    axes = ("ppg", "acc_x", "acc_y", "acc_z")
    part = simulate(keys(*range(60), records=2), 14, channels=axes)
    quiet = simulate(keys(*range(60), records=2), 14, channels=axes, noise=0)
    explained, still = [], []
    for i in range(120):
        artefact = part.x[i, 0] - quiet.x[i, 0]
        acc = part.x[i, 1:] - part.x[i, 1:].mean(axis=1, keepdims=True)
        late = [np.roll(acc, round(k * 0.024 * FS), axis=1) for k in range(5)]
        design = np.concatenate([*late, np.ones((1, 1250), np.float32)])[:, 40:].T
        fit = design @ np.linalg.lstsq(design, artefact[40:], rcond=None)[0]
        share = fit.var() / artefact[40:].var()
        (explained if part.day.activity[i] == 3 else still).append((share, acc.std()))
    walking, others = np.array(explained), np.array(still)
    assert len(walking) > 8 and np.median(walking[:, 0]) > 0.6
    assert np.median(walking[:, 1]) > 10 * np.median(others[:, 1])
    assert np.median(others[others[:, 1] < 0.01, 0]) < 0.2


def test_acceleration_at_rest_is_gravity():
    part = simulate(keys(*range(40)), 15, channels=("acc", "acc_x", "acc_y", "acc_z"), noise=0)
    assert np.allclose(part.x[:, 0], 1.0, atol=1e-5)
    assert np.allclose(np.linalg.norm(part.x[:, 1:], axis=1), part.x[:, 0], atol=1e-5)
    half, full = (simulate(keys(*range(40)), 15, channels=("acc_x",), noise=k).x for k in (0.5, 1.0))
    moved = full.std(axis=2) > 0.05
    assert moved.sum() > 3 and np.allclose((half.std(axis=2) / full.std(axis=2))[moved], 0.5, atol=0.02)


def test_quality_falls_with_movement_and_noise(mixed):
    disturbed = mixed.busy.mean(axis=1)
    at_rest = (mixed.day.activity < 2) & (disturbed == 0)
    assert np.median(mixed.quality[at_rest]) > 0.93
    assert np.median(mixed.quality[mixed.day.activity == 3]) < np.median(mixed.quality[at_rest]) - 0.15
    loud = simulate(keys(*range(60), records=3), 3, noise=4)
    assert loud.quality.mean() < mixed.quality.mean() - 0.1
    assert (mixed.quality >= 0).all() and (mixed.quality <= 1).all()
    assert np.median(simulate(keys(*range(60)), 3, noise=60).quality) < 0.1


def test_lost_contact_takes_the_pulse_away():
    part, whole = simulate(keys(*range(200)), 16), simulate(keys(*range(200)), 16, noise=0)
    left = []
    for i in range(200):
        lost = part.contact[i] < 0.01
        if lost.sum() > FS:
            left.append(part.x[i, 0, lost].std() / whole.x[i, 0, lost].std())
    assert len(left) >= 4 and np.median(left) < 0.4


def test_perfusion_scales_the_pulse_over_its_light():
    part = simulate(keys(*range(60)), 17, noise=0, conditions=(), channels=("green", "red", "infrared"))
    size = part.x.std(axis=2) / part.x.mean(axis=2) / part.clean.std(axis=1)[:, None]
    ratio = size / part.perfusion
    assert (np.abs(np.log(ratio / np.median(ratio))) < 0.35).mean() > 0.95
    assert part.perfusion.max() > 5 * part.perfusion.min()
    assert np.allclose(part.perfusion[:, 1] / part.perfusion[:, 0], 0.3)


def test_dark_skin_takes_green_light_and_leaves_infrared():
    part = simulate(keys(*range(300)), 18, channels=("green", "infrared"), conditions=())
    dark, pale = part.people.skin == 6, part.people.skin == 1
    dc = part.x.mean(axis=2)
    green, infrared = (np.median(dc[dark, c]) / np.median(dc[pale, c]) for c in (0, 1))
    assert green == pytest.approx(0.4, abs=0.08) and infrared == pytest.approx(0.88, abs=0.08)

    device = [DEVICES[k] for k in part.day.device]
    fast = np.array([k.fs >= 100 for k in device])  # whose noise reaches 20 to 40 Hz
    grain = np.abs(np.fft.rfft(part.x * np.hanning(1250)))[:, :, 200:400].mean(axis=2) / dc
    grain /= np.array([k.noise for k in device])[:, None]
    green, infrared = (np.median(grain[dark & fast, c]) / np.median(grain[pale & fast, c]) for c in (0, 1))
    assert green == pytest.approx(1 / 0.4, rel=0.3) and infrared == pytest.approx(1 / 0.88, rel=0.3)


def test_two_recordings_of_a_person_are_more_alike_than_two_people():
    part = simulate(keys(*range(40), records=2), 19, conditions=(), noise=0)
    shapes = np.array([median_beat(part, i, 10.0)[:75] for i in range(80)]).reshape(40, 2, -1)
    own = np.abs(shapes[:, 0] - shapes[:, 1]).mean(axis=1)
    other = np.abs(shapes[:, None, 0] - shapes[None, :, 1]).mean(axis=2)[~np.eye(40, dtype=bool)]
    assert np.median(own) < 0.6 * np.median(other)


def test_recordings_follow_the_day():
    part = simulate(keys(*range(150), records=4), 20, fs=25.0, seconds=2.0, conditions=())
    time_h, rate = part.day.time_h.reshape(150, 4), part.day.rate
    assert (np.diff(time_h, axis=1) > 1.9).all()
    asleep = (part.day.hour < 6.5) | (part.day.hour >= 23)
    assert np.array_equal(part.day.activity == 0, asleep) and 0.15 < asleep.mean() < 0.5
    means = [rate[part.day.activity == k].mean() for k in range(4)]
    assert means[0] < 0.93 * means[1] and 1.04 * means[1] < means[2] and 1.2 * means[1] < means[3]
    own = np.log(part.day.perfusion / np.array([DEVICES[k].perfusion for k in part.day.device])).reshape(
        150, 4
    )
    assert np.corrcoef(own[:, 0], own[:, 1])[0, 1] > 0.4  # some people are always pale-fingered


def test_prevalences_are_those_of_the_table_and_rise_with_age():
    part = simulate(keys(*range(3000)), 21, fs=25.0, seconds=2.0)
    cond, age = part.people.cond, part.people.age
    assert cond["af_persistent"].mean() == pytest.approx(CONDITIONS["af_persistent"][0], abs=0.02)
    assert cond["pvc"].mean() == pytest.approx(CONDITIONS["pvc"][0], abs=0.02)
    assert cond["af_persistent"][age > 65].mean() > 2 * cond["af_persistent"][age < 45].mean()
    for keeper, losers in EXCLUDES:
        assert not any((cond[keeper] & cond[loser]).any() for loser in losers)
    more = simulate(keys(*range(1500)), 21, fs=25.0, seconds=2.0, prevalence={"af_persistent": 0.3})
    assert more.people.cond["af_persistent"].mean() == pytest.approx(0.3, abs=0.04)


def test_pressure_rises_with_age_and_stiffness():
    part = simulate(keys(*range(800)), 22, fs=25.0, seconds=2.0)
    p = part.people
    assert np.corrcoef(p.age, p.sbp)[0, 1] > 0.35
    rest = p.stiffness - np.polyval(np.polyfit(p.age, p.stiffness, 1), p.age)
    high = (p.sbp >= 140) | (p.dbp >= 90)
    assert 0.15 < high.mean() < 0.4 and rest[high].mean() > rest[~high].mean() + 0.4
    assert (p.sbp - p.dbp).min() >= 22 - 1e-9


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"channels": ("yellow",)}, "green"),
        ({"channels": ()}, "without channels"),
        ({"fs": 10.0}, "25 to 1000 Hz"),
        ({"seconds": 0.5}, "2 to 600 s"),
        ({"conditions": "afib"}, "af_persistent"),
        ({"prevalence": {"afib": 0.2}}, "af_persistent"),
    ],
)
def test_a_wrong_call_is_told_what_is_right(options, says):
    with pytest.raises(ConfigError, match=says):
        simulate([(0, 0)], 1, **options)


def test_lengths_and_rates():
    for fs, seconds in ((64.0, 60.0), (32.0, 30.0), (250.0, 5.0)):
        part = simulate([(0, 0), (1, 0)], 1, fs=fs, seconds=seconds, channels=CHANNELS)
        assert part.x.shape == (2, len(CHANNELS), round(fs * seconds)) and part.x.dtype == np.float32
        assert np.isfinite(part.x).all()
        assert np.nanmax(np.where(np.isnan(part.rhythm.time), -1, part.rhythm.time)) > seconds - 2.5


def test_a_record_costs_little():
    simulate(keys(*range(4)), 1)
    start = time.process_time()
    simulate(keys(*range(128)), 1)
    assert (time.process_time() - start) / 128 < 0.004


def test_the_pulse_is_the_sum_of_its_waves(healthy):
    """Every beat's three Gaussians, by the formulas of Tang et al. (2020) and the ages of the sheet, to the jitter of 2 %."""
    t = np.arange(healthy.clean.shape[1]) / FS
    p, rhythm = healthy.people, healthy.rhythm
    for i in [k for k in range(120) if DEVICES[healthy.day.device[k]].widen == 0][:12]:
        out = np.zeros_like(t)
        for b in np.flatnonzero(~np.isnan(rhythm.time[i])):
            k = np.sqrt((rhythm.rr[i, b] + rhythm.mean_rr[i]) / 2 / 0.857)
            u = t - rhythm.time[i, b] - healthy.pat[i, b]
            peak, late = p.first[i] * k, min(p.height[i] / healthy.day.stiffness[i], 0.42) * k
            rise = np.where(u < peak, p.first[i] * k / 2, p.first_width[i])
            wave = np.exp(-0.5 * ((u - peak) / rise) ** 2)
            height = p.reflection[i] + healthy.day.tone[i]
            wave += height * np.exp(-0.5 * ((u - peak - late) / (p.second_width[i] * k)) ** 2)
            tail = peak + p.runoff_delay[i] * k
            wave += p.runoff[i] * np.exp(-0.5 * ((u - tail) / (p.runoff_width[i] * k)) ** 2)
            out += rhythm.stroke[i, b] * wave
        assert np.abs(out - healthy.clean[i]).max() < 0.12
        assert np.abs(out - healthy.clean[i]).mean() < 0.015


def test_breath_sways_the_level_and_the_height(healthy):
    """Both by least squares: the level against the pulse, and the product of pulse and breath."""
    t = np.arange(healthy.clean.shape[1]) / FS
    level, size = [], []
    for i in [k for k in range(120) if DEVICES[healthy.day.device[k]].fs >= 100]:
        pulse = healthy.clean[i]
        breath = np.sin(2 * np.pi * healthy.day.breath_hz[i] * t + healthy.day.breath_phase[i])
        fit = np.linalg.lstsq(
            np.stack([pulse, breath, pulse * breath, np.ones_like(t)], axis=1), healthy.x[i, 0], rcond=None
        )[0]
        level.append(-fit[1] / fit[0])
        size.append(fit[2] / fit[0])
    assert np.percentile(level, 5) > 0.05 and np.percentile(level, 95) < 0.35
    assert np.percentile(size, 5) > 0.03 and np.percentile(size, 95) < 0.18


def test_a_slow_sensor_holds_nothing_above_half_its_rate():
    part = simulate(keys(*range(120)), 23, conditions=())
    high = np.abs(np.fft.rfft(part.x[:, 0] * np.hanning(1250)))[:, 200:400].mean(axis=1)
    device = [DEVICES[k] for k in part.day.device]
    grain = high / np.array([k.noise for k in device])
    rate = np.array([k.fs for k in device])
    assert np.median(grain[rate == 30]) < 0.2 * np.median(grain[rate >= 100])


def test_some_converters_are_driven_to_their_rail():
    part = simulate(keys(*range(400)), 24, conditions=())
    top = [(x == x.max()).sum() >= 40 and len(np.unique(x)) > 60 for x in part.x[:, 0]]
    assert 0.005 < np.mean(top) < 0.05


def test_the_lead_has_p_waves_only_in_sinus_rhythm():
    before = {}
    for name in ("af_persistent", ()):
        part = simulate(keys(*range(20)), 25, channels=("ecg",), conditions=name, noise=0)
        beats = []
        for i in range(20):
            for t in part.rhythm.time[i, inside(part, i)]:
                at = round(t * FS)
                if at > 40:
                    beats.append(part.x[i, 0, at - 27 : at - 12])
        mean = np.mean(beats, axis=0)
        before[name] = mean.max() - mean[-1]
    assert before[()] > 0.07 and before["af_persistent"] < 0.5 * before[()]


def test_a_slow_lead_keeps_the_area_of_its_qrs():
    slow, fast = (
        simulate(keys(*range(30)), 26, fs=fs, channels=("ecg",), noise=0, conditions=()).x[:, 0].sum(axis=1)
        / fs
        for fs in (32.0, 500.0)
    )
    assert np.median(np.abs(slow - fast)) < 0.002
