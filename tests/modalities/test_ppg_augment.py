from __future__ import annotations

import numpy as np
import pytest
from pulse_records import pulses

from medfm.modalities.base import LABEL_KINDS
from medfm.modalities.ppg import PPG
from medfm.modalities.ppg_augment import AUGMENTATIONS
from medfm.types import MedfmError

CASCADE = ["cut-out", "magnitude-warp", "time-warp", "noise", "channel-permutation"]
M = PPG(channels=("green", "red", "acc"), normalise="none")


def batch(n=400):
    x = np.stack([pulses(), 2 * pulses(), np.linspace(0.0, 1.0, 1250)])
    return np.repeat(x[None], n, 0).astype(np.float32), np.ones((n, 3), bool)


def changed(name, seed=0):
    x, present = batch()
    y, _ = M.augment_batch(x, present, np.random.default_rng(seed), [name])
    return x, y, ~np.all((x == y) | (np.isnan(x) & np.isnan(y)), axis=(1, 2))


def test_the_cascade_is_the_papers_in_its_order_and_nothing_turns_a_pulse():
    assert [n for n in AUGMENTATIONS if n in CASCADE] == CASCADE and "flip" not in AUGMENTATIONS
    for augmentation in AUGMENTATIONS.values():
        assert augmentation.preserves | augmentation.alters == set(LABEL_KINDS)
    assert "rhythm" in M.alters("time-warp") and "rhythm" not in M.alters("noise")
    with pytest.raises(MedfmError, match="unknown PPG augmentation"):
        M.alters("flip")


# Standard error of a share of 400 is at most 0.025; of channel permutations of two, half are the identity.
@pytest.mark.parametrize(
    ("name", "chance"),
    [("cut-out", 0.4), ("magnitude-warp", 0.25), ("time-warp", 0.15), ("noise", 0.25), ("channel-permutation", 0.125)],
)  # fmt: skip
def test_chances_are_the_papers(name, chance):
    assert abs(changed(name)[2].mean() - chance) < 0.075
    again = changed(name)[1]
    assert np.array_equal(again, changed(name)[1], equal_nan=True)


def test_a_cut_is_one_span_of_all_channels():
    _, y, hit = changed("cut-out")
    lost = np.isnan(y[hit])
    assert (lost == lost[:, :1]).all() and (np.abs(np.diff(lost[:, 0].astype(int))).sum(1) <= 2).all()
    share = lost[:, 0].mean(1)
    assert 0.299 < share.min() < 0.33 and 0.47 < share.max() < 0.501


def test_strengths():
    x, y, hit = changed("magnitude-warp")
    ratio = (y[hit] / np.where(x[hit] == 0, 1, x[hit]))[:, :, 300:]
    assert np.allclose(ratio[:, 0], ratio[:, 2], rtol=1e-3) and 0.1 < ratio[:, 0].std() < 0.25
    x, y, hit = changed("noise")
    level = (y - x)[hit].std(-1) / x[hit].std(-1)
    assert 0.045 < level.min() < 0.06 and 0.09 < level.max() < 0.107
    x, y, hit = changed("channel-permutation")
    assert np.array_equal(y[hit][:, 0], x[hit][:, 1]) and np.array_equal(y[:, 2], x[:, 2])
    x, y, hit = changed("time-warp")
    assert y[hit].min() >= x.min() - 1e-6 and y[hit].max() <= x.max() + 1e-6
    x, y, _ = changed("wander")
    assert np.array_equal(y[:, 2], x[:, 2]) and 0 < np.abs(y - x)[:, 0].max() <= 0.3 * x[0, 0].std() + 1e-6


def test_absent_channels_stay_absent():
    x, present = batch(50)
    x[:, 1], present[:, 1] = np.nan, False
    y, there = M.augment_batch(x, present, np.random.default_rng(0), list(AUGMENTATIONS))
    assert (np.isnan(y).all(-1) == ~there).all() and there.sum() == 100
