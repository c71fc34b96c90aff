"""Augmentations of MRI: sequences move together with their mask, background stays 0, absent sequences stay absent."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.modalities.mri import MRI
from medfm.modalities.mri_augment import AUGMENTATIONS
from medfm.types import MedfmError

MOVES = ("flip", "mirror", "rotation", "scale")
PRESENT = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 1]], bool)


def batch(n=12):
    """Four subjects of three sequences with a bright box each, whose mask is the box; background 0."""
    rng = np.random.default_rng(0)
    x = np.zeros((4, 3, n, n, n), np.float32)
    labels = np.zeros((4, 1, n, n, n), np.int16)
    for b in range(4):
        i, j, k = rng.integers(3, n - 6, 3)
        labels[b, 0, i : i + 3, j : j + 3, k : k + 4] = 1
        x[b, :, 1:-1, 1:-1, 1:-1] = rng.uniform(-1, -0.5, (3, n - 2, n - 2, n - 2))
        x[b, :, labels[b, 0] == 1] += 5
    x[~PRESENT] = np.nan
    return x, labels


def mri(n=12):
    return MRI(sequences=("t1", "t2", "flair"), size=(n, n, n))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_it_is_repeatable_keeps_what_is_absent_and_moves_masks_alike(name):
    x, labels = batch()
    before, mask = x.copy(), labels.copy()
    out, present = mri().augment_batch(x, PRESENT, np.random.default_rng(3), [name], labels)
    again, _ = mri().augment_batch(x, PRESENT, np.random.default_rng(3), [name], mask)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(out, again)
    np.testing.assert_array_equal(labels, mask)
    np.testing.assert_array_equal(present, PRESENT)
    assert np.isnan(out[~PRESENT]).all() and np.isfinite(out[PRESENT]).all()
    assert not np.array_equal(out[PRESENT], before[PRESENT])
    if name in MOVES:
        for c in range(3):
            there = PRESENT[:, c]
            bright, drawn = out[there, c] > 1.8, labels[there, 0] > 0
            assert (bright & drawn).sum() / (bright | drawn).sum() > (
                0.99 if name in ("flip", "mirror") else 0.7
            )
    else:
        np.testing.assert_array_equal(labels, batch()[1])
        background = (before == 0) & PRESENT[:, :, None, None, None]
        assert (out[background] == 0).all()


def test_a_mask_is_moved_once_however_many_sequences_there_are():
    x, labels = batch()
    two = MRI(sequences=("t1", "t2"), size=(12, 12, 12))
    out, _ = two.augment_batch(x[1:2, :2], PRESENT[1:2, :2], np.random.default_rng(4), ["flip"], labels[1:2])
    np.testing.assert_array_equal(out[0, 0] > 1.8, labels[1, 0] > 0)
    assert not np.array_equal(labels[1], batch()[1][1])


def test_grey_values_change_in_each_sequence_by_itself_within_the_stated_range():
    x, _ = batch()
    out, _ = mri().augment_batch(x, PRESENT, np.random.default_rng(1), ["contrast"])
    inside = x[0, 0] != 0  # the same in all
    pairs = list(zip(*np.nonzero(PRESENT)))
    factor = np.array([(out[b, c][inside] / x[b, c][inside]).mean() for b, c in pairs])
    assert len(np.unique(factor.round(5))) == 9 and (np.abs(factor - 1) <= 0.1 + 1e-5).all()
    moved, _ = mri().augment_batch(x, PRESENT, np.random.default_rng(1), ["shift"])
    by = np.array([np.median((moved - x)[b, c][x[b, c] != 0]) for b, c in pairs])
    assert len(np.unique(by.round(5))) == 9 and (np.abs(by) <= 0.1).all()


def test_gamma_keeps_mean_deviation_and_order_and_bias_is_smooth():
    x, _ = batch()
    inside = x[0, 0] != 0
    bent = mri().augment_batch(x, PRESENT, np.random.default_rng(1), ["gamma"])[0][0, 0][inside]
    plain = x[0, 0][inside]
    np.testing.assert_allclose((bent.mean(), bent.std()), (plain.mean(), plain.std()), atol=1e-4)
    assert (np.diff(bent[np.argsort(plain)]) >= -1e-6).all() and np.abs(bent - plain).max() > 1e-3
    even = np.where(np.isnan(x), np.nan, 1.0).astype(np.float32)
    even[:, :, 0, 0, 0] = np.where(
        PRESENT, -1.0, np.nan
    )  # the darkest voxel: the field multiplies what is above it
    got = mri().augment_batch(even, PRESENT, np.random.default_rng(1), ["bias"])[0][0, 0]
    field = (got + 1) / 2
    assert 0.7 <= field[1:, 1:, 1:].min() < field[1:, 1:, 1:].max() <= 1.3
    assert max(np.abs(np.diff(field[1:, 1:, 1:], axis=a)).max() for a in range(3)) < 0.15


def test_what_an_augmentation_may_falsify_is_said():
    assert {"laterality", "location"} <= mri().alters("flip") and "size" in mri().alters("scale")
    assert mri().alters("contrast") == mri().alters("shift") == {"density"}
    with pytest.raises(MedfmError, match="unknown MRI augmentation"):
        mri().augment_batch(batch()[0], PRESENT, np.random.default_rng(0), ["drop"])


def test_an_array_of_any_layout_is_changed():
    x, _ = batch()
    fortran = np.asfortranarray(x)
    a, _ = mri().augment_batch(fortran, PRESENT, np.random.default_rng(2), ["noise"])
    b, _ = mri().augment_batch(x, PRESENT, np.random.default_rng(2), ["noise"])
    np.testing.assert_array_equal(a, b)
