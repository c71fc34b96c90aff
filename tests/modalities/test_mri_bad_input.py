"""Files that are no subject: each is refused with a sentence that says what is wrong and what to do."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from mri_subjects import ball, picture, subject, volume

from medfm.formats.volume_write import write_nifti
from medfm.modalities import mri_grid
from medfm.modalities.mri import MRI
from medfm.types import ReadError

SMALL = {"size": (8, 8, 8)}


def shifted(*mm, spacing=(1, 1, 1)):
    affine = np.diag([*map(float, spacing), 1.0])
    affine[:3, 3] = mm
    return affine


def test_sequences_of_different_shape_are_refused_with_what_differs():
    other = volume(picture(1, shape=(10, 18, 16)), shifted(0.5, 0, 0, spacing=(2, 1, 1)))
    with pytest.raises(ReadError) as error:
        MRI(**SMALL).place(subject("t1", t2=other))
    said = str(error.value)
    for part in (
        "its t2 does not lie on the grid of its t1",
        "10 x 18 x 16 voxels instead of 20 x 18 x 16",
        "spacing of 2 x 1 x 1 instead of 1 x 1 x 1 mm",
        "covers 100 %",
        "modality.grid=resample",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (shifted(10, 0, 0), "its middle 10 mm away; it covers 50 %"),
        (shifted(0, 0, 0.2), "its middle 0.2 mm away"),
        (shifted(0, 0, 100), "covers 0 %"),
    ],
)
def test_another_place_is_refused(affine, words):
    with pytest.raises(ReadError, match=words):
        MRI(**SMALL).place(subject("t1", t2=volume(picture(1), affine)))


def test_another_direction_is_refused():
    a = np.radians(3)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    with pytest.raises(ReadError, match=r"axes turned by 3\.0 degrees"):
        MRI(**SMALL).place(subject("t1", t2=volume(picture(1), turned)))


def test_a_tenth_of_a_voxel_and_another_storage_order_are_the_same_grid():
    x = picture(1)
    flipped = np.eye(4)
    flipped[0, 0], flipped[0, 3] = -1, 19
    stored = volume(np.ascontiguousarray(x[::-1].transpose(1, 0, 2)), flipped[:, [1, 0, 2, 3]])
    plain = MRI(**SMALL).place(subject("t1", t2=volume(x))).sample
    np.testing.assert_array_equal(MRI(**SMALL).place(subject("t1", t2=stored)).sample.x, plain.x)
    near = MRI(**SMALL).place(subject("t1", t2=volume(x, shifted(0.09, 0, 0)))).sample
    np.testing.assert_array_equal(near.x, plain.x)
    with pytest.raises(ReadError, match="does not lie on the grid"):
        MRI(**SMALL).place(subject("t1", t2=volume(x, shifted(0.11, 0, 0))))


def test_resampling_brings_all_on_the_grid_of_the_first_present_and_says_so():
    fine = (
        np.stack(np.meshgrid(*(np.arange(n) for n in (20, 18, 16)), indexing="ij")).sum(0).astype(np.float32)
    )
    half = volume(
        fine[2:18:2, 2:16:2, :] + 1, shifted(2, 2, 0, spacing=(2, 2, 1))
    )  # the same ramp, fewer voxels
    found = {"flair": half, "t2": volume(picture(3))}
    placed = MRI(grid="resample", foreground="none", **SMALL).place(found)
    assert placed.reference == "t2" and placed.file_shape == (20, 18, 16)
    told = next(f for f in placed.sample.findings if f.code == "grid-resampled")
    assert (
        told.channel == "flair"
        and "on the grid of its t2" in told.message
        and "not registered" in told.message
    )
    got = placed.sample.x[3] * placed.scales[3, 1] + placed.scales[3, 0]
    # Its outermost voxels, 2 mm wide, reach from 1 to 17 and 1 to 15 mm; between centres the ramp is exact.
    assert np.isnan(got[0]).all() and np.isnan(got[18:]).all() and np.isfinite(got[1:18, 1:16]).all()
    np.testing.assert_allclose(got[2:17, 2:15], fine[2:17, 2:15] + 1, atol=1e-4)


def test_what_gets_coarser_is_averaged():
    noise = np.random.default_rng(0).normal(size=(40, 36, 32)).astype(np.float32)
    onto = mri_grid.onto(volume(noise, shifted(0, 0, 0, spacing=(0.5, 0.5, 0.5))), volume(picture()))
    assert np.nanstd(onto) < 0.7  # a mean of its neighbours, and not every other voxel


def test_a_turned_volume_lands_in_its_place():
    middle, a = np.array([9.5, 8.5, 7.5]), np.radians(25)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    turn[:3, 3] = middle - turn[:3, :3] @ middle
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (20, 18, 16)), indexing="ij"), -1)
    blob = np.exp(-((index - (15, 10, 8)) ** 2).sum(-1) / 4).astype(np.float32)
    got = mri_grid.onto(volume(blob, turn), volume(picture()))
    x, y, z = turn[:3, :3] @ (15, 10, 8) + turn[:3, 3]
    weight = np.nan_to_num(got)[..., None]
    np.testing.assert_allclose((weight * index).sum((0, 1, 2)) / weight.sum(), (x, y, z), atol=0.05)


def test_what_is_unknown_neither_spreads_nor_mixes_in():
    from medfm.modalities.volume_grid import resample

    x = np.full((12, 12, 12), 5.0, np.float32)
    x[:5] = np.nan
    got = mri_grid.through(x, lambda v: resample(v, (8, 8, 8), (1.5, 1.5, 1.5)))
    np.testing.assert_allclose(got[np.isfinite(got)], 5.0, rtol=1e-6)
    assert np.isnan(got[:3]).all() and np.isfinite(got[4:]).all()


def test_a_mixed_field_of_view_is_refused_even_where_resampling_is_asked_for():
    away = volume(picture(1), shifted(0, 0, 12))
    with pytest.raises(ReadError, match=r"covers 25 % of that field of view. Too little is shown by both"):
        MRI(grid="resample", **SMALL).place(subject("t1", t2=away))
    near = volume(picture(1), shifted(0, 0, 4))
    x = MRI(grid="resample", foreground="none", **SMALL).place(subject("t1", t2=near)).sample.x
    assert np.isnan(x[2, :, :, :4]).all() and np.isfinite(x[2, :, :, 4:]).all() and np.isfinite(x[0]).all()


def test_the_same_picture_under_two_names_is_refused_scaled_or_not():
    x = picture(7)
    for copy in (x, x * 3):
        with pytest.raises(ReadError, match="its t1ce and flair are the same picture"):
            MRI(**SMALL).place(subject("t1", t1ce=volume(x + 0), flair=volume(copy)))
    other = x.copy()
    other[ball(radius=2)] *= 1.2  # an enhancing lesion tells them apart
    assert MRI(**SMALL).place(subject(t1ce=volume(x), flair=volume(other))).sample.present.sum() == 2


def test_one_file_for_two_sequences_and_two_files_for_one_are_refused(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", picture(), np.eye(4))
    (tmp_path / "b.nii.gz").symlink_to(path)
    for second in (path, tmp_path / "b.nii.gz"):
        with pytest.raises(ReadError, match="stands for both t1 and t2"):
            MRI(**SMALL).read(f"t1={path};t2={second}")
    with pytest.raises(ReadError, match="two files for the sequence t1ce"):
        MRI(**SMALL).read(f"t1c={path};t1_post=/other.nii.gz")


def test_a_file_whose_name_says_another_sequence_is_refused(tmp_path):
    for name in ("7_flair.nii.gz", "7_t2.nii.gz"):
        write_nifti(tmp_path / name, picture(len(name)), np.eye(4))
    with pytest.raises(ReadError, match="stands for t2, and its name says flair; were two columns exchanged"):
        MRI(**SMALL).read(f"t2={tmp_path}/7_flair.nii.gz;flair={tmp_path}/7_t2.nii.gz")
    assert MRI(**SMALL).read(f"flair={tmp_path}/7_flair.nii.gz;t2={tmp_path}/7_t2.nii.gz").present.sum() == 2


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_a_sequence_of_one_value_counts_as_missing_as_long_as_another_is_there(value):
    flat = volume(np.full((20, 18, 16), value, np.float32))
    placed = MRI(**SMALL).place({"t1": flat, "t2": volume(picture())})
    assert placed.sample.present.tolist() == [False, False, True, False] and placed.reference == "t2"
    assert np.isnan(placed.sample.x[0]).all()
    told = next(f for f in placed.sample.findings if f.code == "sequence-constant")
    assert told.channel == "t1" and "counts as missing" in told.message and told.severity == "warning"
    with pytest.raises(ReadError, match="none of its sequences shows a picture"):
        MRI(**SMALL).place({"t1": flat})


def test_a_mask_given_as_a_sequence_counts_as_missing():
    mask = volume(ball().astype(np.int16))
    found = MRI(**SMALL).place({"t1": mask, "t2": volume(picture())}).sample
    assert found.present.tolist() == [False, False, True, False]
    with pytest.raises(ReadError, match="one value over its foreground"):
        MRI(**SMALL).place({"t1": mask})


def test_a_subject_with_no_sequence_is_refused():
    with pytest.raises(ReadError, match=r"none of the sequences t1, t1ce, t2, flair \(it names adc, swi\)"):
        MRI(**SMALL).place(subject("adc", "swi"))
    with pytest.raises(ReadError, match="it names nothing"):
        MRI(**SMALL).place({})


def test_hounsfield_units_are_refused():
    with pytest.raises(ReadError, match="its t2 looks like a CT"):
        MRI(**SMALL).place(subject("t1", t2=volume(picture(), unit="HU")))


def test_files_of_different_patients_are_refused():
    with pytest.raises(ReadError, match="of 2 patients"):
        MRI(**SMALL).place(
            {
                "t1": volume(picture(), patient="a"),
                "t2": volume(picture(1), patient="b"),
                "flair": volume(picture(2)),
            }
        )


def test_a_file_of_several_volumes_is_refused_by_name(tmp_path):
    path = tmp_path / "dwi.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), path)
    with pytest.raises(ReadError, match=r"dwi\.nii\.gz: is 4-dimensional"):
        MRI(**SMALL).read(f"t1={path}")


def test_a_synthetic_file_is_refused_unless_allowed(tmp_path):
    real = write_nifti(tmp_path / "t1.nii.gz", picture(), np.eye(4))
    made = write_nifti(tmp_path / "t1ce.nii.gz", picture(1), np.eye(4), description="SYNTHETIC, medfm")
    address = f"t1={real};t1ce={made}"
    with pytest.raises(ReadError, match=r"t1ce\.nii\.gz: is synthetic .* modality\.synthetic=allow"):
        MRI(**SMALL).read(address)
    assert MRI(synthetic="allow", **SMALL).read(address).present.sum() == 2


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ReadError, match=r"gone\.nii\.gz: no such file"):
        MRI(**SMALL).read(f"t1={tmp_path}/gone.nii.gz")
