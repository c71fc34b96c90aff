"""An MRI subject: sequences by any of their names, z-scores over the foreground, absent ones NaN, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from mri_subjects import ball, picture, subject, volume

from medfm.config.modalities import MRISettings
from medfm.formats.subject import join_subject
from medfm.formats.volume_write import write_nifti
from medfm.modalities.mri import MRI
from medfm.types import MedfmError, ReadError

SMALL = {"size": (8, 8, 8)}


def files(folder, **volumes):
    """Writes them and gives the subject's address."""
    return join_subject(
        {n: write_nifti(folder / f"{n}.nii.gz", v.x.astype(np.float32), v.affine) for n, v in volumes.items()}
    )


def test_settings_come_back_and_only_the_size_shapes_no_stored_subject():
    mri = MRI(
        size=(16, 16, 8), spacing=(1, 1, 3), sequences=("flair", "adc"), grid="resample", percentiles=(1, 99)
    )
    again = MRI(**MRISettings(**mri.settings()).model_dump(exclude={"name"}))
    assert again.settings() == mri.settings() and mri.channels == mri.stored == ("flair", "adc")
    assert MRI(size=(16, 16, 16)).ingest_settings() == MRI().ingest_settings()
    for name, value in (
        ("grid", "resample"),
        ("foreground", "otsu"),
        ("percentiles", (1, 99)),
        ("sequences", ["t1"]),
    ):
        assert MRI(**{name: value}).ingest_settings() != MRI().ingest_settings()
    with pytest.raises(ValueError, match="rising numbers"):
        MRISettings(percentiles=[99, 1])
    with pytest.raises(ValueError, match="RAS or LPS"):
        MRISettings(orientation="RAR")
    with pytest.raises(MedfmError, match="one sequence twice: t1c and T1ce"):
        MRI(sequences=["t1c", "T1ce"])
    with pytest.raises(MedfmError, match="names no sequence"):
        MRI(sequences=[" "])


def test_z_scores_are_over_the_voxels_that_are_not_zero_and_background_stays_0():
    found = subject("t2", "t1")
    placed = MRI(**SMALL).place(found)
    sample, inside = placed.sample, ball()
    assert sample.channels == ("t1", "t1ce", "t2", "flair") and sample.present.tolist() == [
        True,
        False,
        True,
        False,
    ]
    assert placed.reference == "t1"
    for channel, name in ((0, "t1"), (2, "t2")):
        x = found[name].x.astype(np.float64)
        mean, std = (
            x[inside].mean(),
            x[inside].std(),
        )  # of the population, as MONAI's NormalizeIntensity(nonzero=True)
        np.testing.assert_allclose(placed.scales[channel], (mean, std), rtol=1e-6)
        expected = np.where(inside, (x - mean) / std, 0.0)[placed.box]
        np.testing.assert_allclose(sample.x[channel], expected, atol=1e-5)
        assert (sample.x[channel][~inside[placed.box]] == 0).all()
    assert np.isnan(sample.x[[1, 3]]).all() and np.isnan(placed.scales[[1, 3]]).all()
    assert sample.x.shape[1:] == tuple(s.stop - s.start for s in placed.box) == (20, 18, 16)


def test_the_box_holds_the_foreground_with_4_mm_on_every_side():
    x = np.zeros((30, 30, 30), np.float32)
    x[10:20, 12:17, 2:28] = np.random.default_rng(0).uniform(1, 2, (10, 5, 26))
    assert MRI(**SMALL).place({"t1": volume(x)}).box == (slice(6, 24), slice(8, 21), slice(0, 30))
    moved = MRI(**SMALL).place(
        {"t1": volume(x, np.array([[1.0, 0, 0, 100], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))}
    )
    np.testing.assert_allclose(moved.affine[:3, 3], (106, 8, 0))
    other = np.zeros_like(x)
    other[5:9, 20:23, 10:12] = np.random.default_rng(1).uniform(1, 2, (4, 3, 2))
    both = MRI(**SMALL).place({"t1": volume(x), "t2": volume(other)})
    assert both.box == (slice(1, 24), slice(8, 27), slice(0, 30))
    # At 2 mm voxels 5 to 9 and 6 to 8 of 15 hold them; 2 more on each side.
    two = MRI(spacing=(2, 2, 2), **SMALL).place({"t1": volume(x)})
    assert two.box == (slice(3, 12), slice(4, 11), slice(0, 15)) and two.sample.x.shape == (4, 9, 7, 15)


def test_a_head_is_found_in_noise_and_the_air_around_it_becomes_0():
    x = picture(shape=(40, 40, 40), radius=12, head=True)
    x[20:23, 20:23, 20:23] = 5.0  # a dark cavity belongs to the head
    placed = MRI(**SMALL).place({"flair": volume(x)})
    inside = ball((40, 40, 40), 12)[placed.box]
    z = placed.sample.x[3]
    assert (z[~inside] == 0).mean() > 0.9 and (z[inside] != 0).mean() > 0.9
    assert z[tuple(21 - s.start for s in placed.box)] < -2  # seen as it is
    told = next(f for f in placed.sample.findings if f.code == "foreground")
    assert "flair: the head" in told.message
    assert 120 < placed.scales[3, 0] < 155  # of 100 to 200, with a rim of some mm of air


def test_a_cavity_that_opens_below_belongs_to_the_head():
    x = picture(shape=(52, 52, 52), radius=20, head=True)
    x[18:34, 18:34, :30] = 5.0
    z = MRI(**SMALL).place({"t1": volume(x)})
    assert z.sample.x[0][tuple(at - s.start for at, s in zip((26, 26, 20), z.box))] < -1


def test_the_choice_of_foreground_is_each_files_own_and_said():
    found = subject("t1", "t2")
    found["flair"] = volume(picture(5, head=True))
    sample = MRI(**SMALL).place(found).sample
    codes = {f.code: f.message for f in sample.findings}
    assert "t1, t2: the voxels that are not zero" in codes["foreground"]
    assert "flair is not" in codes["foreground-mixed"]
    for how, words in (("nonzero", "not zero"), ("otsu", "head"), ("none", "all voxels")):
        placed = MRI(foreground=how, **SMALL).place(found)
        assert [words in f.message for f in placed.sample.findings if f.code.startswith("foreground")] == [
            True
        ]
    assert placed.box == tuple(slice(0, n) for n in (20, 18, 16))
    np.testing.assert_allclose(placed.sample.x[0].mean(), 0, atol=1e-5)  # over all voxels


def test_a_dark_sequence_is_stripped_where_it_shows_no_more_than_a_stripped_one():
    dark = picture(1)
    dark[ball(radius=4)] = (
        2.0 + np.arange(dark.size).reshape(dark.shape)[ball(radius=4)] % 3
    )  # much fluid, black in FLAIR
    both = MRI(**SMALL).place(subject("t1", flair=volume(dark))).sample.findings
    assert [f.code for f in both] == ["foreground"] and "t1, flair: the voxels that are not zero" in both[
        0
    ].message
    alone = MRI(**SMALL).place({"flair": volume(dark)}).sample.findings
    assert "the head" in alone[0].message  # nothing tells it from a head in dark air


def test_a_tenth_of_dark_voxels_is_fluid_and_no_air():
    x = picture()
    x[ball(radius=2.8)] = np.arange(1, 1 + ball(radius=2.8).sum()) * 0.1
    assert "not zero" in MRI(**SMALL).place({"t1": volume(x)}).sample.findings[0].message


def test_zeros_that_registration_left_at_a_border_do_not_make_a_head_stripped():
    x = picture(shape=(40, 40, 40), radius=14, head=True)
    x[:10] = 0
    told = MRI(**SMALL).place({"t1": volume(x)}).sample.findings
    assert "the head" in told[0].message


def test_percentiles_clip_what_statistics_and_network_see():
    x = picture()
    x[10, 9, 8] = 1e5
    placed = MRI(percentiles=(0, 99), **SMALL).place({"t1": volume(x)})
    values = x[x != 0].astype(np.float64)
    high = np.percentile(values, 99)
    clipped = np.minimum(values, high)
    np.testing.assert_allclose(placed.scales[0], (clipped.mean(), clipped.std()), rtol=1e-5)
    np.testing.assert_allclose(placed.sample.x[0].max(), (high - clipped.mean()) / clipped.std(), rtol=1e-4)
    assert MRI(**SMALL).place({"t1": volume(x)}).sample.x[0].max() > 20


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR"])
def test_axes_are_turned_and_everything_comes_back_to_the_file(orientation):
    affine = np.array([[0, -1, 0, 12.0], [0, 0, 1, -3.0], [1, 0, 0, 5.0], [0, 0, 0, 1]])
    found = {n: volume(v.x, affine) for n, v in subject("t1", "flair").items()}
    placed = MRI(orientation=orientation, **SMALL).place(found)
    from medfm.modalities.volume_grid import axis_codes

    assert axis_codes(placed.affine) == orientation
    mask = (found["t1"].x > 150).astype(np.int16)
    np.testing.assert_array_equal(placed.back(placed.label(mask)[None], order=0)[0], mask)
    z = placed.back(placed.sample.x[[0]], order=1)[0]
    mean, std = placed.scales[0]
    np.testing.assert_allclose(np.where(ball(), z * std + mean, 0), found["t1"].x, rtol=1e-4, atol=1e-3)
    # A voxel lies where it lay, in mm.
    peak = np.unravel_index(int(placed.sample.x[0].argmax()), placed.sample.x.shape[1:])
    there = np.unravel_index(int(found["t1"].x.argmax()), found["t1"].x.shape)
    np.testing.assert_allclose(placed.affine @ [*peak, 1], affine @ [*there, 1], atol=1e-6)


def test_an_anisotropic_grid_keeps_its_spacing():
    x = picture(shape=(20, 20, 8))
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    sample = MRI(spacing=(2, 2, 3), size=(8, 8, 4)).place({"t1": volume(x, affine)}).sample
    assert sample.spacing == (2, 2, 3) and sample.x.shape[3] == 8 and sample.x.shape[1] <= 10


def test_what_was_not_measured_is_in_no_statistic_and_stays_unknown():
    x = picture()
    lost = np.zeros_like(x, bool)
    lost[8:11, 8:11, 6:9] = True
    garbage = np.where(lost, 1e6, x).astype(np.float32)
    by_flag = MRI(**SMALL).place({"t1": volume(garbage, valid=~lost)})
    by_nan = MRI(**SMALL).place({"t1": volume(np.where(lost, np.nan, x).astype(np.float32))})
    values = x[(x != 0) & ~lost].astype(np.float64)
    for placed in (by_flag, by_nan):
        np.testing.assert_allclose(placed.scales[0], (values.mean(), values.std()), rtol=1e-6)
        np.testing.assert_array_equal(np.isnan(placed.sample.x[0]), lost[placed.box])
        prepared = MRI(**SMALL).prepare(placed.sample).x
        assert (prepared[0][lost[placed.box]] == 0).all() and np.isnan(prepared[1:]).all()
    resampled = MRI(spacing=(1.5, 1.5, 1.5), **SMALL).place({"t1": volume(garbage, valid=~lost)}).sample.x[0]
    assert np.nanmax(resampled) < 3 and np.isnan(resampled).any()


def test_an_absent_sequence_is_nan_whatever_lies_in_its_place():
    mri = MRI(sequences=("t1", "t2"), **SMALL)
    x = np.random.default_rng(0).normal(size=(3, 2, 4, 4, 4)).astype(np.float32)
    present = np.array([[True, True], [True, False], [False, True]])
    garbage = x.copy()
    garbage[1, 1], garbage[2, 0] = 1e9, np.inf
    for rng in (np.random.default_rng(1),):
        a, _ = mri.augment_batch(garbage, present, np.random.default_rng(1), ["noise", "shift", "flip"])
        b, seen = mri.augment_batch(x, present, rng, ["noise", "shift", "flip"])
        np.testing.assert_array_equal(a, b)
    assert np.isnan(mri.normalise(garbage, present)[~present]).all() and np.isinf(garbage[2, 0]).all()
    assert np.isfinite(mri.normalise(garbage, present)[present]).all()
    np.testing.assert_array_equal(mri.seen(seen), present)
    with pytest.raises(MedfmError, match="has 2 channels"):
        mri.normalise(x[:, :1], present[:, :1])


def test_a_subject_is_read_from_its_files_by_any_names(tmp_path):
    found = subject("t1w", "T2-FLAIR")
    sample = MRI(**SMALL).read(files(tmp_path / "p7", **found))
    assert sample.present.tolist() == [True, False, False, True] and sample.record == "p7"
    direct = MRI(**SMALL).place(found).sample
    np.testing.assert_array_equal(sample.x, direct.x)
    assert {f.code for f in sample.findings} == {"foreground"}


def test_sequences_that_are_not_asked_for_are_not_read_and_said(tmp_path):
    address = files(tmp_path, t1=volume(picture())) + ";adc=/gone/adc.nii.gz"
    sample = MRI(**SMALL).read(address)
    assert next(f.message for f in sample.findings if f.code == "sequences-unused").startswith("adc:")
    custom = MRI(sequences=["adc", "t1"], **SMALL)
    assert custom.place(subject("ADC", "t1n")).sample.present.all()


def test_a_plain_path_is_the_one_sequence_of_a_modality_that_has_one(tmp_path):
    path = write_nifti(tmp_path / "scan.nii.gz", picture(), np.eye(4))
    assert MRI(sequences=["flair"], **SMALL).read(path).present.tolist() == [True]
    with pytest.raises(ReadError, match=r"scan\.nii\.gz: names one file and no sequence of t1, t1ce"):
        MRI(**SMALL).read(path)
    with pytest.raises(ReadError, match="no sampling rate"):
        MRI(**SMALL).read(path, fs=100.0)
