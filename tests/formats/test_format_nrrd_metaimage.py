"""NRRD against pynrrd, MetaImage against numbers derived by hand (and SimpleITK where it is installed)."""

from __future__ import annotations

import bz2
import gzip

import nrrd
import numpy as np
import pytest
from volume_files import body, same_places, turned, write_mha, write_nrrd

from medfm.formats.volume import describe_volume, read_volume
from medfm.types import ReadError

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def refused(path):
    with pytest.raises(ReadError) as error:
        read_volume(path)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("detached", [False, True])
def test_what_pynrrd_writes(tmp_path, encoding, detached):
    lps = LPS @ turned(angles=(10, 0, 25))
    header = {"space": "left-posterior-superior", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3],
              "encoding": encoding, "kinds": ["domain"] * 3, "units": ["mm"] * 3}  # fmt: skip
    path = tmp_path / ("a.nhdr" if detached else "a.nrrd")
    nrrd.write(str(path), body(), header, detached_header=detached)
    volume, head = read_volume(path), describe_volume(path)
    assert np.array_equal(volume.x, nrrd.read(str(path))[0]) and volume.x.dtype == np.int16
    assert np.allclose(volume.affine, turned(angles=(10, 0, 25))) and np.allclose(head.affine, volume.affine)
    assert volume.format == "nrrd" and volume.unit == "HU" and head.dtype == ("int16")


def test_nrrd_spaces_by_hand(tmp_path):
    directions = {"space_directions": "(0,0.5,0) (2,0,0) (0,0,-3)", "space_origin": "(1,2,3)"}
    ras = read_volume(write_nrrd(tmp_path / "a.nrrd", body(), space="RAS", **directions)).affine
    assert ras.tolist() == [[0, 2, 0, 1], [0.5, 0, 0, 2], [0, 0, -3, 3], [0, 0, 0, 1]]
    lps = read_volume(write_nrrd(tmp_path / "b.nrrd", body(), **directions)).affine
    assert lps.tolist() == [[0, -2, 0, -1], [-0.5, 0, 0, -2], [0, 0, -3, 3], [0, 0, 0, 1]]
    las = read_volume(
        write_nrrd(tmp_path / "c.nrrd", body(), space="left-anterior-superior", **directions)
    ).affine
    assert las.tolist() == [[0, -2, 0, -1], [0.5, 0, 0, 2], [0, 0, -3, 3], [0, 0, 0, 1]]
    microns = {"space_directions": "(500,0,0) (0,250,0) (0,0,3000)", "space_origin": "(1000,0,0)"}
    units = write_nrrd(tmp_path / "e.nrrd", body(), space="RAS", space_units='"um" "um" "um"', **microns)
    assert read_volume(units).affine.tolist() == [[0.5, 0, 0, 1], [0, 0.25, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]


def test_nrrd_axes_that_are_none_of_space(tmp_path):
    one = {"space_directions": "none (0.8,0,0) (0,0.7,0) (0,0,2.5)", "kinds": "list domain domain domain"}
    assert read_volume(write_nrrd(tmp_path / "a.nrrd", body()[None], **one)).x.shape == body().shape
    nan = one | {"space_directions": "(nan,nan,nan) (0.8,0,0) (0,0.7,0) (0,0,2.5)"}
    assert read_volume(write_nrrd(tmp_path / "b.nrrd", body()[None], **nan)).x.shape == body().shape
    two = np.stack([body(), body()])
    assert "4-dimensional" in refused(write_nrrd(tmp_path / "c.nrrd", two, **one))
    rgb = one | {"kinds": "RGB-color domain domain domain"}
    three = np.zeros((3, 4, 4, 4), np.uint8)
    assert "holds colour (rgb-color)" in refused(write_nrrd(tmp_path / "d.nrrd", three, **rgb))


def test_nrrd_refusals(tmp_path):
    path, x = tmp_path / "a.nrrd", body()
    assert "states no space, so left" in refused(write_nrrd(path, x, space=None))
    assert "space 'scanner-xyz'" in refused(write_nrrd(path, x, space="scanner-xyz"))
    assert "no space directions" in refused(write_nrrd(path, x, space_directions=None))
    assert "spacing in 'furlong'" in refused(write_nrrd(path, x, space_units='"furlong" "mm" "mm"'))
    assert "80.0 degrees" in refused(
        write_nrrd(path, x, space_directions=f"(0.8,0,0) (0,0.7,0) (0,{2.5 * np.tan(np.radians(10))},2.5)")
    )
    assert "type 'block'" in refused(write_nrrd(path, x, type="block"))
    assert "encoding 'hex'" in refused(write_nrrd(path, x, encoding="hex"))
    assert "lacks sizes" in refused(write_nrrd(path, x, sizes=None))
    assert "states no endian" in refused(write_nrrd(path, x, endian=None))
    assert "outside its folder" in refused(write_nrrd(path, x, data_file="../secret.raw"))
    assert "several files" in refused(write_nrrd(path, x, data_file="slice%03d.raw 1 8 1"))
    with pytest.raises(ReadError, match="no such file"):
        read_volume(write_nrrd(path, x, data_file="b.raw"))
    whole = write_nrrd(path, x).read_bytes()
    path.write_bytes(whole[:-100])
    assert "5,020 of the 5,120 bytes" in refused(path)


def test_nrrd_big_endian_and_bombs(tmp_path):
    path = write_nrrd(tmp_path / "a.nrrd", body().astype(">i2"), endian="big")
    assert np.array_equal(read_volume(path).x, body())
    for name, pack in (("gzip", gzip.compress), ("bzip2", bz2.compress)):
        head = write_nrrd(tmp_path / "b.nrrd", body(), encoding=name).read_bytes().partition(b"\n\n")[0]
        bomb = pack(body().tobytes(order="F") + bytes(50_000_000))
        (tmp_path / "b.nrrd").write_bytes(head + b"\n\n" + bomb)
        assert np.array_equal(read_volume(tmp_path / "b.nrrd").x, body())  # and not more than was promised


def test_metaimage_by_hand(tmp_path):
    # axis 0 to the back, axis 1 to the head, axis 2 to the left, in LPS
    path = write_mha(tmp_path / "a.mha", body(), TransformMatrix="0 1 0 0 0 1 1 0 0", ElementSpacing="1 2 3")
    volume, head = read_volume(path), describe_volume(path)
    assert volume.affine.tolist() == [[0, 0, -3, -10], [-1, 0, 0, -20], [0, 2, 0, 30], [0, 0, 0, 1]]
    assert head.orientation == "PSL" and head.shape == (20, 16, 8) and head.dtype == "int16"
    assert np.array_equal(volume.x, body()) and volume.unit == "HU" and volume.format == "metaimage"


def test_metaimage_variants(tmp_path):
    x = body()
    assert np.array_equal(read_volume(write_mha(tmp_path / "a.mha", x, packed=True)).x, x)
    assert np.array_equal(read_volume(write_mha(tmp_path / "a.mhd", x, packed=True, beside="a.zraw")).x, x)
    swapped = write_mha(tmp_path / "b.mha", x.byteswap(), BinaryDataByteOrderMSB="True")
    assert np.array_equal(read_volume(swapped).x, x)
    plain = read_volume(write_mha(tmp_path / "c.mha", x, TransformMatrix=None))
    assert "orientation-default" in [f.code for f in plain.findings] and plain.affine[0, 0] == -0.8


def test_metaimage_refusals(tmp_path):
    path, x = tmp_path / "a.mhd", body()
    assert "colour or vectors" in refused(write_mha(path, x, ElementNumberOfChannels="3"))
    assert "outside its folder" in refused(write_mha(path, x, beside="../a.raw"))
    assert "several files" in refused(write_mha(path, x, beside="LIST"))
    assert "no ElementSpacing" in refused(write_mha(path, x, ElementSpacing=None))
    assert "do not have length 1" in refused(write_mha(path, x, TransformMatrix="2 0 0 0 1 0 0 0 1"))
    sheared = "1 0 0 0 1 0 0 0.173648 0.984808"
    assert "80.0 degrees" in refused(write_mha(path, x, TransformMatrix=sheared))
    assert "no MetaImage file" in refused(write_mha(path, x, DimSize="4 4 4\nhello"))
    assert "4-dimensional" in refused(write_mha(path, np.stack([x, x], 3)))
    whole = write_mha(path, x, packed=True).read_bytes()
    path.write_bytes(whole[:-100])
    assert "of the 5,120 bytes" in refused(path)


def test_against_simpleitk(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    lps = LPS @ turned((1, 2, 0), (1, -1, -1), angles=(7, 8, 9))
    image = sitk.GetImageFromArray(np.ascontiguousarray(body().transpose(2, 1, 0)))
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    for name in ("a.mha", "a.mhd", "a.nrrd", "a.nii.gz"):
        for packed in (False, True):
            sitk.WriteImage(image, str(tmp_path / name), packed)
            volume = read_volume(tmp_path / name)
            assert same_places(volume.x, volume.affine, body(), LPS @ lps)
