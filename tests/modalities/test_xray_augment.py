"""Augmentations of radiographs: seeded, in place of the right pixels, and honest about the labels they falsify."""

from __future__ import annotations

import numpy as np
import pytest
from xray_pictures import chest

from medfm.modalities.base import LABEL_KINDS
from medfm.modalities.ecg_augment import AUGMENTATIONS as ECG_AUGMENTATIONS
from medfm.modalities.xray import Xray
from medfm.modalities.xray_augment import AUGMENTATIONS, MIX_ALTERS, augmentation
from medfm.modalities.xray_warp import warp
from medfm.types import MedfmError

MODALITY = Xray(size=(60, 48))


def batch(n: int = 8, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    x = np.stack([chest(60, 48, seed) for seed in range(n)]).astype(np.float32)[:, None]
    x = np.repeat(x, channels, axis=1)
    x[:, :, :, :5] = np.nan
    return x, np.ones((n, channels), bool)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_is_seeded_changes_something_and_stays_grey(name):
    x, present = batch(channels=3)
    before = x.copy()
    y, there = MODALITY.augment_batch(x, present, np.random.default_rng(1), [name])
    again, _ = MODALITY.augment_batch(x, present, np.random.default_rng(1), [name])
    assert np.array_equal(x, before, equal_nan=True) and np.array_equal(y, again, equal_nan=True)
    assert (
        not np.array_equal(y, x, equal_nan=True)
        and there.all()
        and y.shape == x.shape
        and y.dtype == np.float32
    )
    assert np.nanmin(y) >= 0 and np.nanmax(y) <= 1
    assert np.array_equal(y[:, 0], y[:, 2], equal_nan=True), "all channels go through the same"


def test_labels_are_declared():
    assert all(set(a.preserves) <= set(LABEL_KINDS) and a.alters for a in AUGMENTATIONS.values())
    assert AUGMENTATIONS["flip"].alters == {"laterality", "location"}
    assert {"location", "presence"} <= AUGMENTATIONS["crop"].alters and "location" in MIX_ALTERS["cutmix"]
    assert "laterality" in AUGMENTATIONS["crop"].preserves and AUGMENTATIONS["contrast"].alters == {"density"}
    assert "st" in ECG_AUGMENTATIONS["wander"].alters and "presence" in ECG_AUGMENTATIONS["wander"].preserves


def test_flip_is_left_to_right_in_half_of_them():
    x, present = batch(200)
    y, _ = MODALITY.augment_batch(x, present, np.random.default_rng(0), ["flip"])
    turned = np.array([np.array_equal(a, b[:, :, ::-1], equal_nan=True) for a, b in zip(y, x)])
    same = np.array([np.array_equal(a, b, equal_nan=True) for a, b in zip(y, x)])
    assert (turned ^ same).all() and 70 < turned.sum() < 130


def test_crop_covers_half_to_all_of_the_area():
    """On a picture of its own coordinates the corners say which box was enlarged."""
    rows, columns = np.mgrid[:60, :48].astype(np.float32)
    x = np.repeat(np.stack([rows, columns])[None] / 60, 300, axis=0)
    y, _ = Xray(size=(60, 48), colour="rgb").augment_batch(
        np.concatenate([x, x[:, :1]], axis=1), np.ones((300, 3), bool), np.random.default_rng(0), ["crop"]
    )
    tall = (y[:, 0, -1, 0] - y[:, 0, 0, 0]) * 60 * 60 / 59
    wide = (y[:, 1, 0, -1] - y[:, 1, 0, 0]) * 60 * 48 / 47
    area = tall * wide / (60 * 48)
    assert 0.45 < area.min() < 0.55 and 0.93 < area.max() <= 1.01
    assert (wide / 48 / (tall / 60)).min() > 0.7 and (wide / 48 / (tall / 60)).max() < 1.4


def test_warp_at_the_pixels_themselves_changes_nothing():
    x = np.random.default_rng(0).random((2, 20, 30)).astype(np.float32)
    rows, columns = np.mgrid[:20, :30].astype(float)
    assert np.array_equal(warp(x, rows, columns), x)
    assert warp(x, rows, columns + 0.5)[:, :, :-1] == pytest.approx(
        (x[:, :, :-1] + x[:, :, 1:]) / 2, abs=1e-6
    )
    assert np.isnan(warp(x, rows - 1, columns)[:, 0]).all()


def test_rotation_keeps_the_middle_and_opens_the_corners():
    x = np.full((20, 1, 61, 61), 0.5, np.float32)
    y, _ = Xray(size=(61, 61)).augment_batch(
        x, np.ones((20, 1), bool), np.random.default_rng(0), ["rotation"]
    )
    assert np.all(y[:, 0, 20:41, 20:41] == 0.5) and np.isnan(y[:, 0, 0]).any() and np.isnan(y).mean() < 0.06


def test_blur_keeps_the_border_of_the_picture():
    x, present = batch(40)
    y, _ = MODALITY.augment_batch(x, present, np.random.default_rng(0), ["blur"])
    assert np.array_equal(np.isnan(x), np.isnan(y))
    flat = np.where(np.isnan(x), np.nan, np.float32(0.5))
    y, _ = MODALITY.augment_batch(flat, present, np.random.default_rng(0), ["blur"])
    assert np.nanmax(np.abs(y - 0.5)) < 1e-5, "what is no picture does not darken its neighbours"


def test_a_modality_says_what_each_of_them_and_each_mix_alters():
    for name in (*AUGMENTATIONS, *MIX_ALTERS):
        assert (
            MODALITY.alters(name) == MIX_ALTERS.get(name)
            or MODALITY.alters(name) == augmentation(name).alters
        )
    assert "presence" not in MODALITY.alters("cutmix"), "its target is mixed by area"
    with pytest.raises(MedfmError, match="mirror"):
        MODALITY.alters("mirror")


def test_unknown_names_are_said():
    with pytest.raises(MedfmError, match="mirror"):
        MODALITY.augment_batch(*batch(), np.random.default_rng(0), ["mirror"])


def test_one_picture():
    sample = MODALITY.from_image(_image())
    y = MODALITY.augment(sample, np.random.default_rng(0))
    assert y.x.shape == sample.x.shape and y.channels == ("grey",)


def _image():
    from medfm.types import Image

    return Image(chest()[None].astype(np.float32), "MONOCHROME2", 8, "array")
