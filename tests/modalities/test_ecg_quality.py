from __future__ import annotations

import numpy as np
import pytest
from ecg_records import codes, twelve

from medfm.modalities.ecg_beats import find_beats
from medfm.modalities.ecg_quality import assess, check_grid, clipped, einthoven

ALL = np.ones(12, bool)


def found(x, fs=500.0, measured=ALL):
    return codes(assess(x, measured, fs))


@pytest.mark.parametrize("fs", [100.0, 250.0, 500.0, 1000.0])
@pytest.mark.parametrize("rate", [50.0, 75.0, 120.0])
def test_a_normal_record_is_clean(fs, rate):
    assert found(twelve(fs, rate=rate, noise=0.01), fs) == set()


@pytest.mark.parametrize("rate", [45.0, 66.0, 130.0])
def test_beats_are_found_where_they_are(rate):
    beats = find_beats(twelve(250.0, rate=rate, noise=0.02), 250.0) / 250.0
    truth = np.arange(0.35, 10.0, 60.0 / rate)
    assert len(beats) == len(truth) and np.abs(beats - truth).max() < 0.03


def exchange(x, kind):
    """What the recorder writes when electrodes are exchanged: every lead from its electrodes' potentials."""
    y = x.copy()
    i, ii, iii, avr, avl, avf = x[:6]
    y[:6] = {
        "LA/RA": (-i, iii, ii, avl, avr, avf),
        "RA/LL": (-iii, -ii, -i, avf, avl, avr),
    }[kind]
    return y


@pytest.mark.parametrize(
    ("kind", "words"), [("LA/RA", "left and right arm"), ("RA/LL", "right arm and left leg")]
)
@pytest.mark.parametrize("fs", [100.0, 500.0])
def test_exchanged_limb_electrodes(kind, words, fs):
    x = exchange(twelve(fs, noise=0.01), kind)
    remarks = [f for f in assess(x, ALL, fs) if f.code == "electrode-reversal"]
    assert len(remarks) == 1 and words in remarks[0].message
    assert not einthoven(x, ALL, ALL), "an exchange of electrodes keeps Einthoven's law"


def test_arm_exchange_without_chest_leads():
    measured = np.arange(12) < 6
    assert "electrode-reversal" in found(exchange(twelve(), "LA/RA"), measured=measured)
    assert "electrode-reversal" not in found(twelve(), measured=measured)


def test_dextrocardia_is_not_called_an_exchange():
    x = exchange(twelve(noise=0.01), "LA/RA")
    x[11] = -x[11]  # V6 turns with lead I
    assert "electrode-reversal" not in found(x)


def test_right_leg_electrode():
    x = twelve(noise=0.0005)
    x[1] = 0.06 * x[1]
    x[2:6] = x[1] - x[0], -(x[0] + x[1]) / 2, x[0] - x[1] / 2, x[1] - x[0] / 2
    assert "electrode-reversal" in found(x)


def test_chest_leads_out_of_order():
    x = twelve(noise=0.01)
    x[[6, 10]] = x[[10, 6]]
    remarks = [f for f in assess(x, ALL, 500.0) if f.code == "precordial-order"]
    assert remarks and "V1 and V5" in remarks[0].message


def test_mislabelled_limb_leads_break_einthoven():
    x = twelve(noise=0.01)
    x[[1, 2]] = x[[2, 1]]
    assert "einthoven-residual" in found(x)


def test_einthoven_of_three_leads_and_of_two():
    x = twelve(noise=0.01)
    three = np.isin(np.arange(12), (2, 3, 4))
    assert not einthoven(x, three, three)
    x[3] *= -1  # the sign of aVR, as a Cabrera print has it
    assert codes(einthoven(x, three, three)) == {"einthoven-residual"}
    two = np.arange(12) < 2
    assert codes(einthoven(x, two, two)) == {"einthoven-not-assessable"}


def test_flat_clipped_still_and_loud():
    x = twelve(noise=0.01)
    x[6] = 0.001 * x[6]
    x[7] = np.clip(x[7], -0.5, 0.25)
    x[8, 1000:1800] = x[8, 1000]
    x[9, 2500] = 14.0
    by_lead = {f.channel: f.code for f in assess(x, ALL, 500.0) if f.channel}
    assert by_lead["V1"] == "flat" and by_lead["V2"] == "clipped"
    assert by_lead["V3"] == "flat-stretch" and by_lead["V4"] == "implausible-amplitude"


def test_quantisation_is_not_clipping():
    x = np.round(twelve(noise=0.01) / 0.005) * 0.005  # 5 microvolts a bit
    assert all(clipped(lead, 500.0) == 0 for lead in x)
    assert clipped(np.clip(x[1], None, 0.6), 500.0) > 0.005


def test_grid():
    assert codes(check_grid(62.5, 625)) == {"low-sampling-rate"}
    assert codes(check_grid(500.0, 1000)) == {"short"}
    assert not check_grid(500.0, 1250) and not check_grid(100.0, 1000)


def test_too_few_beats_is_said():
    x = twelve(seconds=10)
    x[:, 1000:] = 0.01 * np.random.default_rng(0).normal(size=(12, 4000))
    assert "electrode-reversal" not in found(x)
