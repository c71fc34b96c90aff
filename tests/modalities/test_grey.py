"""From values to grey: windows by hand and by pydicom, resampling by Pillow, masks that leave no trace."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from dicom_images import dataset, lut_item, ramp, write
from PIL import Image as Pillow
from pydicom.pixels import apply_voi_lut

from medfm.formats.pictures import read
from medfm.modalities.grey import choose, place, shade, statistics, to_grid
from medfm.types import Image, Voi


def image(x: np.ndarray, **more) -> Image:
    return Image(np.asarray(x, np.float32)[None], "MONOCHROME2", 12, "array", **more)


def grid(picture: Image, voi: Voi | None = None, size=None, fit="stretch") -> np.ndarray:
    voi = voi or Voi(127.5, 255.0, "LINEAR_EXACT")
    return to_grid(picture, voi, size or picture.x.shape[1:], fit)[0]


def test_windows_by_hand():
    """PS3.3 C.11.2.1.2.1: centre 2048, width 4096 maps 0 to 0 and 4095 to 1; centre 0, width 100 maps -50 to 0."""
    values = np.array([0, 2047.5, 4095], np.float32)
    assert shade(values, Voi(2048, 4096)).tolist() == [0, 0.5, 1]
    at = shade(np.array([-51, -50, -0.5, 49, 50], np.float32), Voi(0, 100))
    assert at == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-6)
    exact = shade(np.array([-50, 0, 25, 50, 60], np.float32), Voi(0, 100, "LINEAR_EXACT"))
    assert exact == pytest.approx([0, 0.5, 0.75, 1, 1], abs=1e-6)
    sigmoid = shade(np.array([-25, 0, 25], np.float32), Voi(0, 100, "SIGMOID"))
    assert sigmoid == pytest.approx([1 / (1 + np.e), 0.5, np.e / (1 + np.e)], abs=1e-6)
    assert shade(np.array([9, 9.6, 10], np.float32), Voi(10, 1)).tolist() == [0, 1, 1]
    table = Voi(table=np.array([0, 10, 40, 255], np.float32), first=100, bits=8)
    assert (shade(np.array([0, 101, 102.2, 999], np.float32), table) * 255).tolist() == pytest.approx(
        [0, 10, 40, 255]
    )


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_as_pydicom_applies_them(function, signed):
    stored = ramp(signed=signed)
    data = dataset(stored, WindowCenter="300", WindowWidth="1500", VOILUTFunction=function)
    low, high = (-2048, 2047) if signed else (0, 4095)
    expected = (apply_voi_lut(stored, data) - low) / (high - low)
    assert shade(stored.astype(np.float32), Voi(300, 1500, function)) == pytest.approx(expected, abs=1e-5)


def test_a_lut_as_pydicom_applies_it():
    stored, table = ramp(), np.square(np.arange(1000)).astype(float)
    table = np.rint(table / table.max() * 4095)
    data = dataset(stored, VOILUTSequence=[lut_item(table, 500, 12)])
    voi = Voi(table=table.astype(np.float32), first=500, bits=12)
    assert shade(stored.astype(np.float32), voi) == pytest.approx(
        apply_voi_lut(stored, data) / 4095, abs=1e-6
    )


def test_the_window_is_the_file_s_else_percentiles():
    values = np.random.default_rng(0).normal(1000, 100, (200, 200))
    picture = image(values, voi=(Voi(1000, 300), Voi(900, 50)))
    assert choose(picture, 0, (0.5, 99.5)) == (Voi(1000, 300), "file")
    assert choose(picture, 1, (0.5, 99.5))[0].centre == choose(picture, 7, (0.5, 99.5))[0].centre == 900
    for other, index in ((image(values), 0), (picture, -1)):
        voi, source = choose(other, index, (0.5, 99.5))
        low, high = np.percentile(values, (0.5, 99.5))
        assert source == "percentiles" and voi.centre == pytest.approx((low + high) / 2, rel=1e-5)
        assert voi.width == pytest.approx(high - low, rel=1e-4)
    assert choose(image(values, voi=(Voi(50_000, 10),)), 0, (0.5, 99.5))[1] == "unusable"


def test_all_that_the_bits_hold_whatever_the_picture_uses(tmp_path):
    """As TorchXRayVision scales: 12 bits are 0 to 4095; a window, percentiles and the picture's own range have no say."""
    stored = ramp()[10:30]
    for extra, grey in (
        ({"WindowCenter": "300", "WindowWidth": "100"}, stored / 4095),
        ({"RescaleSlope": "-2", "RescaleIntercept": "50"}, 1 - stored / 4095),
        ({"PhotometricInterpretation": "MONOCHROME1"}, 1 - stored / 4095),
        ({"BitsStored": 11, "HighBit": 10}, stored / 4095),  # wrong bits stored: as many as the values need
    ):
        picture = read(write(tmp_path / "a.dcm", stored, **extra))
        voi, source = choose(picture, -2, (0.5, 99.5))
        assert source == "bits" and grid(picture, voi) == pytest.approx(grey, abs=1e-5)
    signed = ramp(signed=True)[10:30]
    picture = read(write(tmp_path / "b.dcm", signed))
    assert grid(picture, choose(picture, -2, None)[0]) == pytest.approx((signed + 2048.0) / 4095, abs=1e-5)
    Pillow.fromarray((stored >> 4).astype(np.uint8)).save(tmp_path / "c.png")
    picture = read(tmp_path / "c.png")
    assert grid(picture, choose(picture, -2, None)[0]) == pytest.approx((stored >> 4) / 255, abs=1e-5)
    wide = Image(stored[None].astype(np.float32), "MONOCHROME2", 32, "nifti")  # numbers that no depth bounds
    assert choose(wide, -2, (0.5, 99.5))[1] == "percentiles"


def test_padding_and_collimation_have_no_say():
    rng = np.random.default_rng(0)
    inner = rng.normal(1000, 50, (120, 100)).astype(np.float32)
    low, high = np.percentile(inner, (0.5, 99.5))
    framed = np.full((160, 140), 30_000, np.float32)
    framed[20:140, 20:120] = inner
    valid = framed != 30_000
    for picture in (
        image(framed, valid=valid),
        image(framed, field=(20, 140, 20, 120)),
        image(framed),  # even borders are found
        image(framed + rng.normal(0, 0.2, framed.shape), inverted=True),
    ):
        voi, _ = choose(picture, 0, (0.5, 99.5))
        assert voi.centre == pytest.approx((low + high) / 2, rel=1e-3)
        assert voi.width == pytest.approx(high - low, rel=1e-2)
    assert statistics(image(np.full((64, 64), 5.0))).size == 64 * 64


@pytest.mark.parametrize("size", [(224, 224), (40, 48), (17, 31), (80, 61)])
def test_resampling_is_pillow_s_bilinear(size):
    x = np.random.default_rng(0).random((40, 48)).astype(np.float32)
    expected = Pillow.fromarray(x).resize(size[::-1], Pillow.Resampling.BILINEAR)
    assert grid(image(x), Voi(0.5, 1, "LINEAR_EXACT"), size) == pytest.approx(np.asarray(expected), abs=2e-6)


def test_strips_do_not_show():
    x = np.random.default_rng(0).random((1300, 60)).astype(np.float32)
    expected = Pillow.fromarray(x).resize((32, 100), Pillow.Resampling.BILINEAR)
    assert grid(image(x), Voi(0.5, 1, "LINEAR_EXACT"), (100, 32)) == pytest.approx(
        np.asarray(expected), abs=2e-6
    )


def test_proportions():
    assert place((100, 50), 1.0, (64, 64), "pad") == ([0, 64, 16, 48], [0, 100, 0, 50])
    assert place((100, 50), 0.5, (64, 64), "pad")[0] == [
        0,
        64,
        0,
        64,
    ]  # pixels half as high as wide: a square
    target, box = place((100, 50), 1.0, (64, 64), "crop")
    assert target == [0, 64, 0, 64] and box == [25, 75, 0, 50]
    assert place((100, 50), 1.0, (64, 32), "stretch") == ([0, 64, 0, 32], [0, 100, 0, 50])


def test_a_disc_stays_round_with_pixels_that_are_not_square():
    rows, columns = np.mgrid[:200, :100]
    disc = 255.0 * ((rows - 99.5) ** 2 + (2 * (columns - 49.5)) ** 2 < 60**2)  # 60 by 120 pixels, pitch 1 : 2
    shown = to_grid(image(disc, aspect=0.5), Voi(127.5, 255, "LINEAR_EXACT"), (100, 100), "pad")[0]
    rows, columns = np.nonzero(shown > 0.5)
    assert np.ptp(rows) == pytest.approx(59, abs=1) and np.ptp(columns) == pytest.approx(59, abs=1)


def test_padded_and_masked_pixels_are_no_picture_and_leak_nowhere():
    x = np.full((60, 40), 100.0)
    valid = np.ones((60, 40), bool)
    valid[:, :10] = False
    x[:, :10] = 1e6
    shown = to_grid(image(x, valid=valid), Voi(127.5, 255, "LINEAR_EXACT"), (30, 30), "pad")[0]
    assert np.isnan(shown[:, :10]).all() and np.isnan(shown[:, 25:]).all()
    assert shown[:, 10:25] == pytest.approx(100 / 255, abs=1e-6)


def test_the_twin_of_the_other_photometric_interpretation_is_the_exact_inverse():
    x = np.random.default_rng(0).normal(2000, 500, (90, 70))
    valid = np.ones(x.shape, bool)
    valid[:9] = False
    for voi in (
        Voi(2000, 1500),
        Voi(1900, 700, "SIGMOID"),
        Voi(table=np.arange(4096.0, dtype=np.float32), bits=12),
    ):
        plain = to_grid(image(x, valid=valid), voi, (64, 64), "pad")
        twin = to_grid(image(x, valid=valid, inverted=True), voi, (64, 64), "pad")
        assert np.array_equal(twin, np.float32(1) - plain, equal_nan=True)


def test_memory_is_bounded_by_the_picture():
    """Beyond its values a picture needs strips, a mask's bytes and the grid: well under one byte a pixel."""
    picture = image(np.random.default_rng(0).random((3000, 3000)), voi=(Voi(0.5, 1, "LINEAR_EXACT"),))
    tracemalloc.start()
    to_grid(picture, choose(picture, 0, None)[0], (224, 224), "pad")
    top = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert top < 4 * 3000 * 3000
