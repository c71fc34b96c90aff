"""The generator's promises: exact identities, determinism, the same subject in any batch, honest errors,
speed."""

import time

import numpy as np
import pytest

from medfm.synthetic.ecg import CHANNELS, generate, simulate
from medfm.synthetic.ecg_noise import FROM_ELECTRODES, TO_ELECTRODES, reversal_matrix
from medfm.types import MedfmError

L1, L2, L3, AVR, AVL, AVF = range(6)


def keys(*subjects, records=1):
    return [(s, r) for s in subjects for r in range(records)]


@pytest.fixture(scope="module")
def chunk():
    return simulate(keys(*range(40)), 3, keep_clean=True)


@pytest.mark.parametrize("which", ["clean", "x"])
def test_einthoven_and_goldberger_hold_exactly_before_and_after_noise(chunk, which):
    x = getattr(chunk, which).astype(float)
    tolerance = 4e-6 * np.abs(x).max()  # float32
    assert np.abs(x[:, L2] - x[:, L1] - x[:, L3]).max() < tolerance
    assert np.abs(x[:, AVR] + x[:, AVL] + x[:, AVF]).max() < tolerance
    assert np.abs(x[:, AVR] + (x[:, L1] + x[:, L2]) / 2).max() < tolerance
    assert np.abs(x[:, AVL] - x[:, L1] + x[:, L2] / 2).max() < tolerance


def test_the_leads_are_eight_independent_ones(chunk):
    assert CHANNELS == ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    ranks = [np.linalg.matrix_rank(x @ x.T, tol=1e-4) for x in chunk.x[:8].astype(float)]
    assert set(ranks) == {8}


def test_a_subject_is_the_same_alone_and_in_any_batch():
    many = simulate(keys(*range(12, 24)), 1)
    alone = simulate(keys(17), 1)
    assert np.array_equal(many.x[5], alone.x[0])
    assert many.records[5] == alone.records[0] == "s1p000017r00"
    for name, column in many.labels.items():
        assert column[5] == alone.labels[name][0], name
    for name, column in many.measures.items():
        assert np.array_equal(column[5], alone.measures[name][0]), name


def test_seed_subject_and_record_each_change_the_record():
    x = simulate(keys(17, 18, records=2), 1).x
    other = simulate(keys(17), 2).x
    pairs = [(x[0], x[1]), (x[0], x[2]), (x[0], other[0])]
    assert all(np.abs(a - b).max() > 0.1 for a, b in pairs)
    assert np.array_equal(x, simulate(keys(17, 18, records=2), 1).x)


def test_records_of_a_subject_share_its_morphology():
    """QRS amplitudes of the 12 leads agree within a subject far better than between subjects."""
    part = simulate(keys(*range(40), records=2), 5, conditions="normal")
    size = (part.measures["r"] - part.measures["s"]).reshape(40, 2, 12)
    within = np.abs(size[:, 0] - size[:, 1]).mean()
    between = np.abs(size[:-1, 0] - size[1:, 1]).mean()
    assert within < 0.35 * between
    assert np.array_equal(part.subjects.age[::2], part.subjects.age[1::2])


@pytest.mark.parametrize("fs", [100.0, 250.0, 360.0])
def test_every_sampling_rate_shows_the_same_heart(fs):
    """Only the sample noise may differ: at the common instants the noiseless leads agree."""
    base = simulate(keys(1, 2, 3), 1, fs=500.0, keep_clean=True)
    other = simulate(keys(1, 2, 3), 1, fs=fs, keep_clean=True)
    assert other.x.shape == (3, 12, round(10 * fs)) and base.x.shape == (3, 12, 5000)
    common = np.arange(10) * 5 + 1  # tenths of seconds that both grids hit: 20 ms * 25
    a = base.clean[..., (common * 100).astype(int)]
    b = other.clean[..., np.rint(common * 0.2 * fs).astype(int)]
    assert np.allclose(a, b, atol=2e-5)
    assert all(np.array_equal(base.labels[k], other.labels[k]) for k in base.labels)


def test_without_noise_the_recorder_alone_stands_between():
    """With noise 0, x is the noiseless signal in the recorder's band: it correlates and differs by little."""
    part = simulate(keys(*range(20)), 9, conditions="normal", noise=0, keep_clean=True)
    for x, clean in zip(part.x, part.clean):
        middle = clean[:, 500:-500] - clean[:, 500:-500].mean(axis=1, keepdims=True)
        assert np.corrcoef(x[:, 500:-500].ravel(), middle.ravel())[0, 1] > 0.9
    noisy = simulate(keys(*range(20)), 9, conditions="normal", noise=3, keep_clean=True)
    assert np.array_equal(noisy.clean, part.clean)
    assert np.abs(noisy.x - noisy.clean).std() > 2 * np.abs(part.x - part.clean).std()


def test_a_potential_common_to_all_electrodes_is_in_no_lead():
    """Wilson's terminal is the mean of three limbs; leads to potentials and back is the identity."""
    assert np.allclose(FROM_ELECTRODES @ np.ones(9), 0)
    assert np.allclose(FROM_ELECTRODES @ TO_ELECTRODES, np.eye(8))


@pytest.mark.parametrize("name", ["LA/RA", "RA/LL", "LA/LL", "V1/V2", "V2/V3"])
def test_exchanged_cables_follow_the_textbook(name):
    """Hand-derived from I = LA - RA, II = LL - RA, III = LL - LA."""
    i, ii, v1, v2, v3 = 0.3, 0.8, -0.5, 0.4, 0.9
    expected = {
        "LA/RA": (-i, ii - i, v1, v2, v3),  # I mirrored, II and III exchanged
        "RA/LL": (-(ii - i), -ii, v1, v2, v3),  # II mirrored, I becomes -III
        "LA/LL": (ii, i, v1, v2, v3),  # I and II exchanged, III mirrored
        "V1/V2": (i, ii, v2, v1, v3),
        "V2/V3": (i, ii, v1, v3, v2),
    }[name]
    got = reversal_matrix(name) @ np.array([i, ii, v1, v2, v3, 0.7, 0.6, 0.5])
    assert np.allclose(got, [*expected, 0.7, 0.6, 0.5])


def test_a_reversed_record_is_the_permuted_one():
    records = list(generate(range(60), 4, conditions="electrode_reversal", noise=0))
    assert {r.reversal for r in records} == {"LA/RA", "RA/LL", "LA/LL", "V1/V2", "V2/V3"}
    swapped = next(r for r in records if r.reversal == "LA/RA")
    inner = slice(500, -500)
    centred = [v[:, inner] - v[:, inner].mean(axis=1, keepdims=True) for v in (swapped.x, swapped.clean)]
    assert np.corrcoef(centred[0][L1], -centred[1][L1])[0, 1] > 0.9
    assert np.corrcoef(centred[0][L2], centred[1][L3])[0, 1] > 0.9
    assert np.corrcoef(centred[0][6], centred[1][6])[0, 1] > 0.9
    assert all(r.labels["electrode_reversal"] for r in records)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"conditions": "afib"}, "af_persistent"),
        ({"prevalence": {"lbb": 0.2}}, "lbbb"),
        ({"prevalence": {"lbbb": 1.2}}, "between 0 and 1"),
        ({"fs": 10.0}, "50 to 4000"),
        ({"seconds": 0.1}, "1 to 120"),
    ],
)
def test_a_wrong_call_is_told_what_is_right(arguments, word):
    with pytest.raises(MedfmError, match=word):
        next(generate([0], **arguments))


def test_thousands_of_records_a_minute():
    """The target is 6,000 a minute on a free core; a loaded machine must still make 1,500."""
    simulate(keys(*range(4)), 1)
    start = time.process_time()
    simulate(keys(*range(128)), 1)
    assert 128 / (time.process_time() - start) * 60 > 1500
