"""CT: Hounsfield units through windows, augmentations that move a mask with its volume."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.config.modalities import CTSettings
from medfm.modalities.ct import CT
from medfm.modalities.ct_augment import AUGMENTATIONS
from medfm.types import MedfmError, ReadError, Volume

YES = np.ones((1, 1), bool)


def values(*hu):
    return np.array(hu, np.float32).reshape(1, 1, -1, 1, 1)


def test_windows_are_channels_from_0_to_1():
    ct = CT(windows=[(-175, 250), (-1000, 500)])
    got = ct.normalise(values(-1000, -175, 37.5, 250, 500, np.nan), YES)[0, :, :, 0, 0]
    np.testing.assert_allclose(got[0], [0, 0, 0.5, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(got[1], [0, 0.55, 1037.5 / 1500, 1250 / 1500, 1, 0], atol=1e-6)
    assert ct.seen(YES).shape == (1, 2) and ct.channels == ("-175 to 250 HU", "-1000 to 500 HU")
    assert np.isnan(ct.normalise(values(1, 2), ~YES)).all()


def test_statistics_are_of_the_windowed_training_volumes():
    ct = CT(windows=[(0, 100)], normalise="dataset")
    with pytest.raises(MedfmError, match="mean and std are not set"):
        ct.normalise(values(1), YES)
    fitted = ct.fit(values(0, 50, 100, 150), YES)
    assert fitted.mean == pytest.approx((0.625,)) and fitted.std == pytest.approx((np.std([0, 0.5, 1, 1]),))
    assert fitted.normalise(values(62.5), YES).item() == pytest.approx(0, abs=1e-6)
    record = CT(windows=[(0, 100)], normalise="record").normalise(values(0, 100), YES)
    np.testing.assert_allclose(record.ravel(), [-1, 1], atol=1e-5)


def test_settings_come_back_and_only_those_that_shape_a_stored_volume_are_in_its_key():
    ct = CT(size=(32, 32, 16), spacing=(2, 2, 4), windows=[(-1000, 400)], orientation="LPS")
    again = CT(**CTSettings(**ct.settings()).model_dump(exclude={"name"}))
    assert again.settings() == ct.settings()
    other = CT(**{**{k: v for k, v in ct.settings().items() if k != "name"}, "windows": [(0, 80)]})
    assert other.ingest_settings() == ct.ingest_settings()
    assert CT(spacing=(1, 1, 1)).ingest_settings() != ct.ingest_settings()
    with pytest.raises(ValueError, match="rising HU"):
        CTSettings(windows=[[250, -175]])
    for wrong in ("RAR", "RA", "XYZ"):
        with pytest.raises(ValueError, match="RAS or LPS"):
            CTSettings(orientation=wrong)


def test_a_volume_that_is_not_in_hounsfield_units_is_refused_unless_asked_for():
    volume = Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4), "", "nifti")
    with pytest.raises(ReadError, match=r"modality\.units=any"):
        CT().place(volume)
    placed = CT(units="any", spacing=(1, 1, 1)).place(volume)
    assert placed.sample.x.shape == (1, 4, 4, 4)
    assert [f.code for f in placed.sample.findings] == ["smaller-than-crop"]


def test_what_was_not_measured_stays_unknown_after_resampling():
    x = np.full((12, 12, 12), 40, np.int16)
    x[:, :, :4] = -2000
    volume = Volume(x, np.eye(4), "HU", "dicom", valid=x != -2000)
    sample = CT(spacing=(1.5, 1.5, 1.5), foreground="none").place(volume).sample
    assert np.isnan(sample.x[0, :, :, 0]).all() and np.isfinite(sample.x[0, :, :, -1]).all()
    assert np.nanmin(sample.x) >= -1000  # never a mixture with the padding value


def marked(n=12):
    """A volume whose mask is where it is bright."""
    rng = np.random.default_rng(0)
    x = np.full((4, 1, n, n, n), -100, np.float32)
    for volume in x[:, 0]:
        a = rng.integers(3, n - 6, 3)
        volume[a[0] : a[0] + 3, a[1] : a[1] + 3, a[2] : a[2] + 4] = 200
    return x, (x > 0).astype(np.int16)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_mask_moves_with_its_volume(name):
    x, labels = marked()
    before, mask = x.copy(), labels.copy()
    out, _ = CT().augment_batch(x, np.ones((4, 1), bool), np.random.default_rng(3), [name], labels)
    again, _ = CT().augment_batch(x, np.ones((4, 1), bool), np.random.default_rng(3), [name], mask)
    np.testing.assert_array_equal(x, before)  # of the volume a copy is changed
    np.testing.assert_array_equal(out, again)
    assert not np.array_equal(out, before)
    if name in ("flip", "mirror", "rot90"):
        np.testing.assert_array_equal(out > 0, labels > 0)
    elif name in ("rotation", "scale"):
        both = ((out > 50) & (labels > 0)).sum() / ((out > 50) | (labels > 0)).sum()
        assert both > 0.75  # linear and nearest differ at the edge alone
    else:
        np.testing.assert_array_equal(labels, (before > 0).astype(np.int16))


def test_turns_and_scales_do_what_their_angle_says():
    from medfm.modalities.ct_augment import _warp

    x = np.zeros((1, 1, 9, 9, 9), np.float32)
    x[0, 0, 7, 4, 4] = 1.0  # 3 voxels along x from the middle
    quarter = np.array([[[0, -1, 0], [1, 0, 0], [0, 0, 1]]], float)
    labels = x.astype(np.int16)
    _warp(x, labels, quarter)
    # Output p shows input M p: M (0, -3) = (3, 0), so the mark is now at y = 4 - 3.
    assert np.unravel_index(int(x.argmax()), x.shape)[2:] == (4, 1, 4) == np.unravel_index(int(labels.argmax()), x.shape)[2:]  # fmt: skip


def test_what_an_augmentation_may_falsify_is_said():
    ct = CT()
    assert (
        "laterality" in ct.alters("mirror")
        and "size" in ct.alters("scale")
        and "density" in ct.alters("shift")
    )
    assert ct.alters("noise") == {"texture", "quality"}
    with pytest.raises(MedfmError, match="unknown CT augmentation"):
        ct.augment_batch(values(1), YES, np.random.default_rng(0), ["crop"])
