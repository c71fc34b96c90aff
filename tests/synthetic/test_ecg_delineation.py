"""Stated fiducials and criteria against a delineator of the tests' own, which sees the noiseless leads
only."""

import numpy as np
import pytest
from delineation import INDEPENDENT, average_beat, qrs_complexes

from medfm.synthetic.ecg import CHANNELS, generate, simulate

FS = 500
V1, V2, V5, V6 = 6, 7, 10, 11


def made(condition, n=24, seed=4, **arguments):
    return list(generate(range(n), seed, conditions=condition, noise=0, **arguments))


@pytest.fixture(scope="module")
def healthy():
    return made("normal", n=40)


@pytest.mark.parametrize(
    ("condition", "share"), [("normal", 0.9), ("lbbb", 0.75), ("rbbb", 0.75), ("lvh", 0.8)]
)
def test_qrs_onset_and_offset(condition, share):
    """Both edges within 12 ms, by the median beat of a record, in most records."""
    good, found, stated = [], 0, 0
    for record in made(condition):
        complexes = np.array(qrs_complexes(record.clean, FS)) / FS
        found += len(complexes)
        stated += len(record.beats["r_s"])
        nearest = [np.abs(record.beats["qrs_onset_s"] - on).argmin() for on, _ in complexes]
        on = complexes[:, 0] - record.beats["qrs_onset_s"][nearest]
        off = complexes[:, 1] - record.beats["qrs_offset_s"][nearest]
        good.append(abs(np.median(on)) < 0.012 and abs(np.median(off)) < 0.012)
    assert np.mean(good) >= share
    assert stated * 0.9 <= found <= stated  # edges of the record may cut a beat


def test_p_onset_and_pr(healthy):
    """Before QRS, the first instant at which the averaged beat leaves its line by a tenth of its P wave."""
    errors = []
    for record in healthy:
        if record.measures["heart_rate_bpm"] > 85:  # P must not sit on the T wave for this simple method
            continue
        beat = average_beat(record.clean, record.beats["r_s"], FS, 0.30, 0.0)[list(INDEPENDENT)]
        size = np.sqrt(np.mean((beat - beat[:, :10].mean(axis=1, keepdims=True)) ** 2, axis=0))
        qrs = round((0.30 + record.measures["qrs_onset_s"]) * FS)
        onset = np.argmax(size[:qrs] > 0.12 * size[: qrs - 10].max())
        errors.append((qrs - onset) / FS * 1000 - record.measures["pr_ms"])
    assert len(errors) > 20
    assert abs(np.median(errors)) < 8 and np.percentile(np.abs(errors), 80) < 20


def test_qt_by_a_tangent_of_our_own(healthy):
    """T end from the averaged beat: steepest descent of the T wave, in the lead where T is largest."""
    errors = []
    for record in healthy:
        if not 50 < record.measures["heart_rate_bpm"] < 80:
            continue
        beat = average_beat(record.clean, record.beats["r_s"], FS, 0.0, 0.58)
        t = beat[:, round(0.15 * FS) :]
        lead = np.abs(t).max(axis=1).argmax()
        wave = np.abs(t[lead])
        peak = wave.argmax()
        slope = np.gradient(wave)
        steep = peak + slope[peak : peak + 50].argmin()
        end = 0.15 + (steep - wave[steep] / slope[steep]) / FS
        errors.append((end - record.measures["qrs_onset_s"]) * 1000 - record.measures["qt_ms"])
    assert len(errors) > 15
    assert abs(np.median(errors)) < 12 and np.percentile(np.abs(errors), 80) < 30


def test_fridericia():
    part = simulate([(s, 0) for s in range(50)], 6)
    m = part.measures
    assert np.allclose(m["qtc_ms"], m["qt_ms"] / (60 / m["heart_rate_bpm"]) ** (1 / 3))
    limit = np.where(part.subjects.male, 450, 460)
    unpaced = ~part.labels["paced"]
    assert np.array_equal(part.labels["long_qt"][unpaced], (m["qtc_ms"] >= limit)[unpaced])


@pytest.mark.parametrize("condition", ["normal", "lvh", "low_voltage", "rbbb"])
def test_voltages_are_those_of_the_signal(condition):
    """Sokolow-Lyon and limb voltage from the extremes of the averaged beat, within 8 % or 60 uV."""
    for record in made(condition, n=16):
        if record.measures["heart_rate_bpm"] > 100:
            continue
        a = round((0.05 + record.measures["qrs_onset_s"]) * FS)
        z = round((0.05 + record.measures["qrs_offset_s"]) * FS)
        beat = average_beat(record.clean, record.beats["r_s"], FS, 0.05, 0.25)
        before = beat[:, max(a - 5, 0) : a].mean(axis=1, keepdims=True)
        qrs = beat[:, max(a, 0) : z] - np.clip(before, -0.05, 0.05)
        sokolow = -qrs[V1].min() + max(qrs[V5].max(), qrs[V6].max())
        assert sokolow == pytest.approx(record.measures["sokolow_mv"], rel=0.15, abs=0.15)
        span = np.ptp(qrs[:6], axis=1).max()
        if abs(span - 0.5) > 0.08:
            assert record.labels["low_voltage"] == (span < 0.5)


@pytest.mark.parametrize("condition", ["ste_anterior", "ste_inferior", "st_depression", "normal"])
def test_st_level_is_that_of_the_signal(condition):
    for record in made(condition, n=16):
        if not 50 < record.measures["heart_rate_bpm"] < 85:
            continue
        off = record.measures["qrs_offset_s"]
        beat = average_beat(record.clean, record.beats["r_s"], FS, 0.10, 0.30)
        line = beat[:, round((0.10 + record.measures["qrs_onset_s"]) * FS) - 4]
        level = beat[:, round((0.10 + off + 0.06) * FS)] - line
        near = [k for k, name in enumerate(CHANNELS) if name in ("II", "aVF", "V2", "V3")]
        if condition == "ste_inferior" and record.labels["ste_inferior"]:
            assert level[near[:2]].max() > 0.08
        if condition == "st_depression" and record.labels["st_depression"]:
            assert np.sort(level)[1] < -0.03
        if condition == "normal":
            assert not record.labels["st_elevation"] or level.max() > 0.08


def test_bundle_branch_blocks_look_like_themselves():
    """Right: V1 ends positive and I or V6 negative; left: V1 ends negative and I positive. QRS from 120
    ms."""
    for condition, sign in (("rbbb", 1), ("lbbb", -1)):
        records = [r for r in made(condition) if r.labels[condition]]
        assert len(records) >= 20
        for record in records:
            assert record.measures["qrs_ms"] >= 120
            end = record.measures["qrs_offset_s"]
            beat = average_beat(record.clean, record.beats["r_s"], FS, 0.0, 0.25)
            terminal = beat[:, round((end - 0.042) * FS) : round((end - 0.004) * FS)].mean(axis=1)
            assert sign * max(terminal[V1], terminal[V2], key=abs) > 0
            assert sign * min(terminal[0], terminal[V6], key=lambda v: sign * v) < 0


def test_q_waves_of_inferior_infarction():
    """In lead aVF the first deflection of a labelled record is downward and lasts 30 ms or more."""
    records = [r for r in made("mi_inferior", n=32) if r.labels["mi_inferior"]]
    assert len(records) >= 20
    for record in records:
        beat = average_beat(record.clean, record.beats["r_s"], FS, 0.15, 0.15)[5]
        start = round((0.15 + record.measures["qrs_onset_s"]) * FS)
        stop = round((0.15 + record.measures["qrs_offset_s"]) * FS)
        wave = beat[start:stop] - np.clip(beat[start - 3], -0.05, 0.05)
        rise = np.argmax(wave > 0.06) if (wave > 0.06).any() else len(wave)
        assert rise / FS >= 0.026 and wave[:rise].min() < -0.05


def test_healthy_people_measure_normal():
    """Medians of textbook adults (PR 120-200, QRS 80-100, QTc 380-430 ms, axis 0-75) and few false labels."""
    part = simulate([(s, 0) for s in range(200)], 8, conditions="normal", fs=100)
    m = part.measures
    bounds = {
        "pr_ms": (130, 170),
        "qrs_ms": (80, 98),
        "qtc_ms": (380, 430),
        "axis_deg": (10, 65),
        "sokolow_mv": (1.6, 2.9),
    }
    for name, (low, high) in bounds.items():
        assert low < np.median(m[name]) < high, name
    assert part.labels["normal"].mean() > 0.7
    for name in (
        "rbbb",
        "lbbb",
        "st_elevation",
        "st_depression",
        "long_qt",
        "av_block_1",
        "afib",
        "paced",
        "twa",
    ):
        assert part.labels[name].mean() < 0.03, name
