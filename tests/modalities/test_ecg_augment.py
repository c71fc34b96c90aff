from __future__ import annotations

import numpy as np
import pytest
from ecg_records import LEADS, signal, twelve

from medfm.modalities.base import LABEL_KINDS
from medfm.modalities.ecg import ECG
from medfm.modalities.ecg_augment import AUGMENTATIONS, BACK, ELECTRODES, FORWARD
from medfm.types import MedfmError

ECG250 = ECG(fs=250)


def batch(n=6):
    x = np.stack([twelve(250.0, noise=0.005, seed=s) for s in range(n)]).astype(np.float32)
    return x, np.ones((n, 12), bool)


def residual(x):
    i, ii, iii, avr, avl, avf = np.moveaxis(x[:, :6], 1, 0)
    parts = (ii - i - iii, avr + (i + ii) / 2, avl - i + ii / 2, avf - ii + i / 2)
    return max(float(np.nanmax(np.abs(p))) for p in parts)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_deterministic_not_in_place_and_declared(name):
    x, present = batch()
    before = x.copy()
    y, q = ECG250.augment_batch(x, present, np.random.default_rng(5), (name,))
    again, _ = ECG250.augment_batch(x, present, np.random.default_rng(5), (name,))
    other, _ = ECG250.augment_batch(x, present, np.random.default_rng(6), (name,))
    assert np.array_equal(y, again, equal_nan=True) and not np.array_equal(y, other, equal_nan=True)
    assert np.array_equal(x, before) and y.dtype == np.float32 and y.shape == x.shape
    assert np.array_equal(np.isnan(y).all(axis=2), ~q)
    kinds = AUGMENTATIONS[name]
    assert kinds.preserves | kinds.alters == set(LABEL_KINDS) and "rhythm" in kinds.preserves


@pytest.mark.parametrize("name", [n for n in AUGMENTATIONS if n != "lead-dropout"])
def test_einthoven_survives(name):
    x, present = batch()
    assert residual(ECG250.augment_batch(x, present, np.random.default_rng(1), (name,))[0]) < 2e-6


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_polarity_survives(name):
    """No augmentation turns a normal record into an inverted one: each kept lead still agrees with itself."""
    x, present = batch(20)
    y, q = ECG250.augment_batch(x, present, np.random.default_rng(2), (name,))
    for b, c in zip(*np.nonzero(q)):
        if name == "shift" or c in (2, 4):  # a shifted record agrees at another lag; III and aVL are small
            continue
        good = np.isfinite(y[b, c])
        assert np.corrcoef(x[b, c, good], y[b, c, good])[0, 1] > 0.4


def test_nothing_forbidden_is_offered():
    assert set(AUGMENTATIONS) == {"rotation", "gain", "shift", "wander", "noise", "lead-dropout"}
    with pytest.raises(MedfmError, match="time-reversal"):
        ECG250.augment_batch(*batch(), np.random.default_rng(0), ("time-reversal",))


def test_lead_dropout_leaves_one_and_never_revives():
    x, present = batch(200)
    present[:, 3:] = False
    x[:, 3:] = np.nan
    _, q = ECG250.augment_batch(x, present, np.random.default_rng(0), ("lead-dropout",))
    assert q.any(axis=1).all() and not q[:, 3:].any() and q[:, :3].mean() < 0.95


def test_shift_moves_all_leads_together():
    x, present = batch(50)
    y, _ = ECG250.augment_batch(x, present, np.random.default_rng(0), ("shift",))
    lost = np.isnan(y).sum(axis=2)
    assert (lost == lost[:, :1]).all() and 0 < lost.max() <= 100
    for before, after, gap in zip(x, y, lost[:, 0]):
        moved = after[:, gap:] if np.isnan(after[0, 0]) else after[:, : 2500 - gap]
        kept = before[:, : 2500 - gap] if np.isnan(after[0, 0]) else before[:, gap:]
        assert np.array_equal(moved, kept)


def test_electrodes_and_dipole_matrices_obey_the_law():
    for matrix in (ELECTRODES, FORWARD):
        i, ii, iii, avr, avl, avf = matrix[:6]
        assert np.allclose(iii, ii - i) and np.allclose(avr, -(i + ii) / 2)
        assert np.allclose(avl, i - ii / 2) and np.allclose(avf, ii - i / 2)
    assert np.allclose(ELECTRODES.sum(axis=1), 0), "a potential common to all electrodes is seen by no lead"
    undone = BACK @ FORWARD  # Kors undoes Dower, as nearly as two regressions on different people can
    assert np.abs(np.diag(undone) - 1).max() < 0.12 and np.abs(undone - np.eye(3)).max() < 0.4


def test_rotation_needs_the_eight_leads():
    x, present = batch()
    present[0, 7], x[0, 7] = False, np.nan
    y, _ = ECG250.augment_batch(x, present, np.random.default_rng(0), ("rotation",))
    assert np.array_equal(y[0], x[0], equal_nan=True) and not np.array_equal(y[1], x[1])
    few = ECG(fs=250, leads=("I", "II"))
    y, _ = few.augment_batch(x[:, :2], present[:, :2], np.random.default_rng(0), ("rotation",))
    assert np.array_equal(y, x[:, :2])


def test_one_record():
    sample = ECG250.from_signal(signal(twelve()))
    y = ECG250.augment(sample, np.random.default_rng(0))
    assert y.x.shape == sample.x.shape and y.channels == LEADS
