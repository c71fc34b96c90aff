"""Pictures of 8 and 16 bits and 2-D NIfTI: values untouched, sizes refused before they are decoded."""

from __future__ import annotations

import struct
import zlib

import nibabel
import numpy as np
import pytest
from dicom_images import ramp
from PIL import Image

from medfm.formats import image as format_image
from medfm.formats import pictures
from medfm.types import ReadError


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.jpg"])
def test_eight_bits(tmp_path, name):
    stored = ramp(bits=8)
    Image.fromarray(stored).save(tmp_path / name)
    image = pictures.read(tmp_path / name)
    assert np.abs(image.x[0] - stored).max() <= (4 if name.endswith("jpg") else 0)
    assert (image.bits, image.photometric, image.inverted, image.record) == (8, "MONOCHROME2", False, "a")
    assert image.meta["windowed"] and image.spacing is None and pictures.is_candidate(tmp_path / name)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_not_clipped(tmp_path, name, options):
    stored = ramp(bits=16)
    Image.fromarray(stored).save(tmp_path / name, **(options if name.endswith("tif") else {}))
    image = pictures.read(tmp_path / name)
    assert np.array_equal(image.x[0], stored) and image.bits == 16 and not image.meta["windowed"]


def test_white_is_zero(tmp_path):
    """TIFF photometric 0: 8 bits come turned round from Pillow, 16 bits are left to us. The Image says which."""
    for bits in (8, 16):
        stored = ramp(bits=bits)
        Image.fromarray(stored).save(tmp_path / "a.tif", tiffinfo={262: 0})
        image = pictures.read(tmp_path / "a.tif")
        shown = 2**bits - 1 - image.x[0] if image.inverted else image.x[0]
        raw = np.asarray(Image.open(tmp_path / "a.tif"))
        assert image.inverted is (bits == 16) and np.array_equal(image.x[0], raw)
        assert bits == 8 or np.array_equal(shown, 65535 - stored.astype(float))


def test_colour_transparency_and_palette(tmp_path):
    grey = ramp(bits=8)
    rgb = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=2)
    Image.fromarray(rgb).save(tmp_path / "c.png")
    assert np.array_equal(pictures.read(tmp_path / "c.png").x, np.moveaxis(rgb, 2, 0))
    rgba = np.dstack([rgb, np.full_like(grey, 128)])
    Image.fromarray(rgba).save(tmp_path / "t.png")  # some of NIH ChestX-ray14 are like this
    assert np.array_equal(pictures.read(tmp_path / "t.png").x, np.moveaxis(rgb, 2, 0))
    Image.fromarray(np.dstack([grey, grey // 2])).save(tmp_path / "la.png")
    assert np.array_equal(pictures.read(tmp_path / "la.png").x[0], grey)
    palette = Image.fromarray(grey).convert("P")
    palette.save(tmp_path / "p.png")
    assert np.array_equal(pictures.read(tmp_path / "p.png").x[1], grey)


def test_a_camera_s_rotation_is_undone(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the camera was held on its side: turn a quarter clockwise to view
    Image.fromarray(ramp(bits=8)).save(tmp_path / "a.jpg", exif=exif, quality=100)
    assert np.abs(pictures.read(tmp_path / "a.jpg").x[0] - np.rot90(ramp(bits=8), -1)).max() <= 2


def _png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [13_100, 60_000])
def test_a_bomb_is_refused_by_its_size(tmp_path, side, monkeypatch):
    """A few kilobytes that unpack to 170 million pixels and more; Pillow itself refuses from 179 million."""
    (tmp_path / "bomb.png").write_bytes(_png(side, side, 8, 0, zlib.compress(b"\0" * 1_000_000)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ReadError, match=r"bomb\.png: states .*million that are decoded"):
        pictures.read(tmp_path / "bomb.png")


def test_the_limit_lets_a_mammogram_through():
    assert 12_000 * 12_000 < format_image.MAX_PIXELS < 2 * 12_000 * 12_000


def test_colour_of_sixteen_bits_is_refused_not_halved(tmp_path):
    rows = b"".join(b"\0" + struct.pack(">3H", 1, 2, 3) * 16 for _ in range(16))
    (tmp_path / "a.png").write_bytes(_png(16, 16, 16, 2, zlib.compress(rows)))
    with pytest.raises(ReadError, match="several channels of 16 bits"):
        pictures.read(tmp_path / "a.png")


def test_pages_and_strange_files(tmp_path):
    page = Image.fromarray(ramp(bits=8))
    page.save(tmp_path / "two.tif", save_all=True, append_images=[page])
    with pytest.raises(ReadError, match="2 pages"):
        pictures.read(tmp_path / "two.tif")
    page.save(tmp_path / "a.gif")
    with pytest.raises(ReadError, match="a GIF"):
        pictures.read(tmp_path / "a.gif")
    page.save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReadError, match=r"cut\.png: cannot be read as a picture"):
        pictures.read(tmp_path / "cut.png")
    page.convert("CMYK").save(tmp_path / "print.jpg")
    with pytest.raises(ReadError, match="CMYK"):
        pictures.read(tmp_path / "print.jpg")
    with pytest.raises(ReadError, match="holds one picture"):
        page.save(tmp_path / "b.png")
        pictures.read(f"{tmp_path / 'b.png'}#3")
    with pytest.raises(ReadError, match="no such file"):
        pictures.read(tmp_path / "gone.png")


def test_nifti_lies_as_a_viewer_shows_it(tmp_path):
    """Axes written as ITK writes a picture (first to the left, second down): rows and columns come back as they were.

    The same picture with the first axis turned round in data and header is the same picture.
    """
    stored = ramp(bits=12).astype(np.int16)
    affine = np.diag([-0.2, -0.3, 1.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(stored.T[..., None], affine), tmp_path / "a.nii.gz")
    turned = np.diag([0.2, -0.3, 1.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(stored.T[::-1, :, None], turned), tmp_path / "b.nii")
    for name in ("a.nii.gz", "b.nii"):
        image = pictures.read(tmp_path / name)
        assert np.array_equal(image.x[0], stored) and image.record == name[0]
        assert image.spacing == pytest.approx((0.3, 0.2)) and image.aspect == pytest.approx(1.5)
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 3), np.int16), np.eye(4)), tmp_path / "v.nii")
    with pytest.raises(ReadError, match="a volume"):
        pictures.read(tmp_path / "v.nii")


def test_candidates(tmp_path):
    for name in ("a.png", "b.txt", "DICOMDIR", ".c.png", "d.nii.gz"):
        (tmp_path / name).write_bytes(b"x" * 400)
    assert [pictures.is_candidate(tmp_path / n) for n in ("a.png", "b.txt", "DICOMDIR", ".c.png", "d.nii.gz")] == [
        True, False, False, False, True]  # fmt: skip
    (tmp_path / "e#1.png").write_bytes(b"x")
    assert pictures.split_address(tmp_path / "e#1.png")[1] is None
    assert pictures.split_address("e.dcm#12") == (format_image.Path("e.dcm"), "12")
