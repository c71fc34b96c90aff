"""NIfTI volumes, values and units, and the dispatch by content: what is read, and every sentence of refusal."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
from volume_files import body, turned, write_mha, write_nrrd

from medfm.formats.volume import describe_volume, is_candidate, read_volume, records, split_address
from medfm.formats.volume_values import implied_unit, narrowed
from medfm.formats.volume_write import write_nifti
from medfm.types import ConfigError, ReadError


def save(path, x, affine, sform=1, qform=1, other=None, srow_x=None, **header):
    image = nibabel.Nifti1Image(x, affine)
    image.set_sform(affine, code=sform)
    image.set_qform(affine if other is None else other, code=qform)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    if srow_x is not None:  # nibabel writes none that cannot be
        raw = bytearray(path.read_bytes())
        raw[280:296] = np.array(srow_x, "<f4").tobytes()
        path.write_bytes(raw)
    return path


def codes(volume):
    return [f.code for f in volume.findings]


@pytest.mark.parametrize(
    "affine",
    [turned(), turned((0, 1, 2), (-1, -1, 1)), turned((1, 2, 0), (1, -1, -1)), turned(angles=(10, 20, 30))],
    ids=["RAS", "LPS", "sagittal", "oblique"],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_is_read_as_nibabel_reads_it(tmp_path, affine, name):
    path = save(tmp_path / name, body(), affine)
    volume, head, oracle = read_volume(path), describe_volume(path), nibabel.load(path)
    assert volume.x.dtype == np.int16 and np.array_equal(volume.x, np.asarray(oracle.dataobj))
    assert np.allclose(volume.affine, oracle.affine, atol=1e-6)
    assert head.shape == volume.x.shape and np.array_equal(head.affine, volume.affine)
    assert head.orientation == "".join(nibabel.aff2axcodes(oracle.affine))
    assert np.allclose(volume.spacing, (0.8, 0.7, 2.5), atol=1e-6)
    assert volume.unit == "HU" and volume.record == "a" and volume.valid is None
    volume.x[0, 0, 0] = 5  # the values are the caller's own


def test_scaling_keeps_whole_numbers_as_int16(tmp_path):
    x = body()
    stored = (x + 1024).astype(np.uint16)
    path = save(tmp_path / "a.nii", stored, turned())
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([1, -1024], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(raw)
    assert np.array_equal(read_volume(path).x, x) and read_volume(path).x.dtype == np.int16
    raw[112:120] = np.array([0.5, 3], "<f4").tobytes()
    path.write_bytes(raw)
    halves = read_volume(path)
    assert halves.x.dtype == np.float32 and np.array_equal(halves.x, stored * np.float32(0.5) + 3)


@pytest.mark.parametrize(
    "raw, scale, dtype",
    [
        (np.array([0, 255], "u1"), (1, 0), np.int16),
        (np.array([0, 40000], "u2"), (1, -8000), np.int16),
        (np.array([0, 40000], "u2"), (1, 0), np.float32),
        (np.array([-5, 100], ">i4"), (2, 1), np.int16),
        (np.array([-32768, 32767], "i2"), (1, 1), np.float32),
        (np.array([1.5, 2], "f8"), (1, 0), np.float32),
    ],
)
def test_narrowed(raw, scale, dtype):
    got = narrowed(raw, *scale)
    assert got.dtype == dtype
    assert got.tolist() == [float(v) * scale[0] + scale[1] for v in raw]


def test_int16_is_not_copied():
    raw = np.arange(8, dtype=np.int16)
    assert narrowed(raw) is raw


def test_spatial_units(tmp_path):
    metres = turned(spacing=(0.001, 0.002, 0.003), origin=(0.01, 0.02, 0.03))
    path = save(tmp_path / "m.nii", body(), metres, xyzt_units=1)
    assert np.allclose(read_volume(path).affine, np.diag([1000, 1000, 1000, 1]) @ metres, rtol=1e-5)
    path = save(tmp_path / "u.nii", body(), turned(spacing=(800, 700, 2500)), xyzt_units=3)
    assert np.allclose(read_volume(path).spacing, (0.8, 0.7, 2.5))


def test_sform_before_qform_and_a_conflict_is_said(tmp_path):
    other = turned(origin=(-12.5, 20.25, 35.0))  # 4 mm higher
    volume = read_volume(save(tmp_path / "a.nii", body(), turned(), other=other))
    assert np.allclose(volume.affine, turned(), atol=1e-5)
    assert [f.message for f in volume.findings if f.code == "sform-qform-conflict"] == [
        "its sform and qform place it up to 4.0 mm apart; the sform was taken."
    ]
    near = turned(origin=(-12.5, 20.25, 31.4))
    assert "sform-qform-conflict" not in codes(
        read_volume(save(tmp_path / "b.nii", body(), turned(), other=near))
    )
    assert np.allclose(
        read_volume(save(tmp_path / "c.nii", body(), turned(), sform=0, other=other)).affine, other, atol=1e-5
    )
    lost = save(tmp_path / "d.nii", body(), turned(), srow_x=[0, 0, 0, 0])
    volume = read_volume(lost)
    assert codes(volume)[0] == "sform-wrong" and np.allclose(volume.affine, turned(), atol=1e-5)


def refused(path, **options):
    with pytest.raises(ReadError) as error:
        read_volume(path, **options)
    assert str(path) in str(error.value)
    return str(error.value)


def test_shapes_that_are_no_volume(tmp_path):
    four = save(tmp_path / "4.nii", np.zeros((4, 4, 4, 3), np.int16), turned())
    assert "4-dimensional (4 x 4 x 4 x 3): several volumes" in refused(four)
    with pytest.raises(ReadError, match="4-dimensional"):
        describe_volume(four)
    assert "one slice (20 x 16 x 1)" in refused(save(tmp_path / "1.nii", body()[:, :, :1], turned()))
    assert "one slice (20 x 16)" in refused(save(tmp_path / "2.nii", body()[:, :, 0], turned()))
    one_time = save(tmp_path / "t.nii", body()[..., None], turned())
    assert read_volume(one_time).x.shape == (20, 16, 8)


def test_orientations_that_cannot_be(tmp_path):
    assert "states no orientation" in refused(save(tmp_path / "a.nii", body(), turned(), sform=0, qform=0))
    sheared = turned()
    sheared[1, 2] = 2.5 * np.tan(np.radians(10))
    assert "stand at 80.0 degrees instead of 90" in refused(
        save(tmp_path / "b.nii", body(), sheared, qform=0)
    )
    assert "spacing of 0 x 0.7 x 2.5 mm" in refused(
        save(tmp_path / "c.nii", body(), turned(), qform=0, srow_x=[0, 0, 0, 0])
    )
    assert "no numbers" in refused(
        save(tmp_path / "d.nii", body(), turned(), qform=0, srow_x=[np.nan, 0, 0, 0])
    )
    left_handed = turned((0, 1, 2), (-1, 1, 1))
    assert np.allclose(
        read_volume(save(tmp_path / "e.nii", body(), left_handed)).affine, left_handed, atol=1e-5
    )


def test_damaged_files(tmp_path):
    whole = save(tmp_path / "a.nii", body(), turned()).read_bytes()
    for cut, said in ((200, "ends inside its header"), (len(whole) - 10, "5,110 of the 5,120 bytes")):
        (tmp_path / "cut.nii").write_bytes(whole[:cut])
        assert said in refused(tmp_path / "cut.nii") or "no NIfTI" in refused(tmp_path / "cut.nii")
    packed = gzip.compress(whole, mtime=0)
    (tmp_path / "cut.nii.gz").write_bytes(packed[: len(packed) // 2])
    assert "cut short" in refused(tmp_path / "cut.nii.gz")
    broken = bytearray(packed)
    broken[len(broken) // 2] ^= 255
    (tmp_path / "bad.nii.gz").write_bytes(broken)
    assert "damaged" in refused(tmp_path / "bad.nii.gz") or "cut short" in refused(tmp_path / "bad.nii.gz")
    huge = bytearray(whole)
    huge[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    (tmp_path / "huge.nii").write_bytes(huge)
    assert "more than the 1 billion" in refused(tmp_path / "huge.nii")
    (tmp_path / "text.nii.gz").write_text("no volume")
    assert "no NIfTI file" in refused(tmp_path / "text.nii.gz")
    (tmp_path / "empty.nii").touch()
    assert "is empty" in refused(tmp_path / "empty.nii")
    assert "no such file" in refused(tmp_path / "none.nii")


def test_colour_is_no_measurement(tmp_path):
    colour = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "holds colour" in refused(save(tmp_path / "a.nii", colour, turned()))
    assert "complex64 values" in refused(
        save(tmp_path / "b.nii", np.zeros((4, 4, 4), np.complex64), turned())
    )


def test_nan_is_read_and_marked(tmp_path):
    x = body().astype(np.float32)
    x[3, 4, 5], x[0, 0, 0] = np.nan, np.inf
    volume = read_volume(save(tmp_path / "a.nii", x, turned()))
    assert volume.valid is not None and (~volume.valid).sum() == 2
    assert not volume.valid[3, 4, 5] and not volume.valid[0, 0, 0] and np.isnan(volume.x[0, 0, 0])
    assert "2 of 2,560 voxels are no numbers" in volume.findings[0].message and volume.unit == "HU"
    assert "none of its voxels" in refused(save(tmp_path / "b.nii", np.full_like(x, np.nan), turned()))


def test_labels_are_kept_exactly(tmp_path):
    x = np.zeros((6, 5, 4), np.float64)
    x[1:3] = 117
    x[4, 4, 3] = -1
    volume = read_volume(save(tmp_path / "a.nii.gz", x, turned()), label=True)
    assert (
        volume.unit == "label"
        and volume.x.dtype == np.int16
        and np.array_equal(volume.x, x)
        and not volume.findings
    )
    x[0, 0, 0] = 0.25
    assert "0.25, which is no whole number" in refused(save(tmp_path / "b.nii", x, turned()), label=True)
    x[0, 0, 0] = 70000
    assert "label 70000" in refused(save(tmp_path / "c.nii", x, turned()), label=True)
    x[0, 0, 0] = np.nan
    assert "no whole number" in refused(save(tmp_path / "d.nii", x, turned()), label=True)


def test_hu_by_the_histogram():
    x = body((40, 40, 20)).astype(np.float32)
    assert implied_unit(x)[0] == "HU" and implied_unit(x)[1].code == "unit-implied"
    assert implied_unit(x + 1024)[0] == "" and implied_unit(x + 1024)[1].code == "unit-offset"
    assert implied_unit(np.clip(x, -175, 250))[1].code == "unit-unknown"  # windowed: no air left
    assert implied_unit((x + 1000) / 1700)[1].code == "unit-unknown"
    rng = np.random.default_rng(0)
    assert implied_unit(rng.uniform(-1100, 1000, x.shape))[1].code == "unit-unknown"
    magnitude = np.where(x > -500, rng.normal(900, 250, x.shape), np.abs(rng.normal(0, 15, x.shape)))
    assert implied_unit(magnitude)[1].code == "unit-unknown"  # an MR
    # What is not measured does not count: padding of -1000 around a windowed picture is no air.
    assert implied_unit(x, x > -500)[0] == ""


def test_content_before_suffix(tmp_path):
    x = body()
    nifti = save(tmp_path / "a.nii", x, turned())
    (tmp_path / "b.nrrd").write_bytes(gzip.compress(nifti.read_bytes()))
    (tmp_path / "c.nii").write_bytes(write_nrrd(tmp_path / "x.nrrd", x).read_bytes())
    (tmp_path / "d").write_bytes(write_mha(tmp_path / "x.mha", x).read_bytes())
    assert [read_volume(tmp_path / n).format for n in ("b.nrrd", "c.nii", "d")] == [
        "nifti",
        "nrrd",
        "metaimage",
    ]
    (tmp_path / "e.txt").write_text("hello, this is a letter")
    assert "not recognised" in refused(tmp_path / "e.txt")
    with pytest.raises(ReadError, match="holds one volume; drop '#1'"):
        read_volume(f"{nifti}#1")
    with pytest.raises(ConfigError, match="'refuse' or 'resample'"):
        read_volume(nifti, gaps="fill")


def test_addresses_and_candidates(tmp_path):
    path = save(tmp_path / "odd#1.nii.gz", body(), turned())
    assert split_address(path) == (path, None) and split_address(f"{path}#2") == (path, "2")
    assert is_candidate(path) and not is_candidate(tmp_path) and not is_candidate(tmp_path / "a.dcm")
    assert records(path) == [str(path)] and records(tmp_path) == [str(path)]


def test_written_nifti_is_reproducible_and_whole(tmp_path):
    affine = turned((1, 2, 0), (1, -1, -1), angles=(5, 0, 0))
    first = write_nifti(tmp_path / "new" / "a.nii.gz", body(), affine, description="phantom")
    again = write_nifti(tmp_path / "b.nii.gz", body(), affine, description="phantom")
    assert first.read_bytes() == again.read_bytes() and [p.name for p in first.parent.iterdir()] == [
        "a.nii.gz"
    ]
    assert first.read_bytes()[4:8] == bytes(4)  # gzip's time
    image = nibabel.load(first)
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    assert np.allclose(image.get_sform(), affine, atol=1e-5) and np.allclose(
        image.get_qform(), affine, atol=1e-4
    )
    assert image.get_data_dtype() == np.int16 and image.header.get_xyzt_units()[0] == "mm"
    assert np.array_equal(np.asarray(image.dataobj), body())
    mask = write_nifti(tmp_path / "mask.nii", body() > 0, affine)
    assert nibabel.load(mask).get_data_dtype() == np.uint8
    with pytest.raises(ConfigError, match="float64"):
        write_nifti(tmp_path / "c.nii", body().astype(float), affine)
    with pytest.raises(ConfigError, match=r"\.nii\.gz or \.nii"):
        write_nifti(tmp_path / "c.img", body(), affine)
