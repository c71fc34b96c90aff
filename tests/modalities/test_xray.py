"""The X-ray modality: what it makes of files, what it refuses, and its settings."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_images import write
from PIL import Image as Pillow
from xray_pictures import chest

from medfm.modalities.xray import Xray
from medfm.types import Image, MedfmError, ReadError


def stored(bits: int = 12) -> np.ndarray:
    return np.rint(chest() * (2**bits - 1)).astype(np.uint16)


def codes(sample) -> list[str]:
    return [f.code for f in sample.findings]


def test_a_file_becomes_grey_on_the_grid(tmp_path):
    path = write(
        tmp_path / "a.dcm", stored(), WindowCenter="2048", WindowWidth="4096", ImagerPixelSpacing=[0.5, 0.5]
    )
    sample = Xray(size=(64, 96)).read(path)
    assert sample.x.shape == (1, 64, 96) and sample.x.dtype == np.float32 and sample.channels == ("grey",)
    assert (sample.patient, sample.record, sample.modality) == ("p1", "a", "xray")
    inside = np.isfinite(sample.x[0])
    width = round(64 * 240 / 300)  # 300 rows, 240 columns
    assert inside.all(axis=0).sum() == width and np.isnan(sample.x[0, :, : (96 - width) // 2]).all()
    assert np.nanmin(sample.x) >= 0 and np.nanmax(sample.x) <= 1
    assert sample.spacing == pytest.approx((0.5 * 300 / 64, 0.5 * 240 / width))


def test_the_monochrome1_twin_displays_as_its_exact_inverse(tmp_path):
    for tags in (
        {},
        {"WindowCenter": "1500", "WindowWidth": "2000"},
        {"RescaleSlope": "-1", "RescaleIntercept": "4095"},
    ):
        one = write(tmp_path / "1.dcm", stored(), PhotometricInterpretation="MONOCHROME1", **tags)
        two = write(tmp_path / "2.dcm", stored(), PhotometricInterpretation="MONOCHROME2", **tags)
        a, b = Xray().read(one).x, Xray().read(two).x
        assert np.array_equal(a, np.float32(1) - b, equal_nan=True) and not np.allclose(a, b, equal_nan=True)


def test_a_negative_slope_with_a_window_is_inverted_once(tmp_path):
    """An inverted detector, rescaled back by slope -1: bone is bright again, and MONOCHROME2 keeps it so."""
    plain = write(tmp_path / "a.dcm", stored(), WindowCenter="2048", WindowWidth="4096")
    turned = write(
        tmp_path / "b.dcm",
        (4095 - stored()).astype(np.uint16),
        WindowCenter="2048",
        WindowWidth="4096",
        RescaleSlope="-1",
        RescaleIntercept="4095",
    )
    assert np.allclose(Xray().read(plain).x, Xray().read(turned).x, equal_nan=True)


def test_the_same_film_as_dicom_png_and_tiff(tmp_path):
    path = write(tmp_path / "a.dcm", stored(16), bits=16)
    reference = Xray().read(path).x
    for name in ("a.png", "a.tif"):
        Pillow.fromarray(stored(16)).save(tmp_path / name)
        assert np.allclose(Xray().read(tmp_path / name).x, reference, atol=1e-4, equal_nan=True)
    Pillow.fromarray((stored(16) >> 8).astype(np.uint8)).save(tmp_path / "b.png")
    assert np.nanmax(np.abs(Xray().read(tmp_path / "b.png").x - reference)) < 0.02


def test_polarity_by_setting(tmp_path):
    path = write(tmp_path / "a.dcm", stored(), PhotometricInterpretation="MONOCHROME1")
    as_file, never, always = (Xray(invert=how).read(path).x for how in ("file", "never", "always"))
    assert np.array_equal(as_file, always, equal_nan=True)
    assert np.array_equal(always, np.float32(1) - never, equal_nan=True)


def test_channels(tmp_path):
    path = write(tmp_path / "a.dcm", stored())
    rgb = Xray(colour="rgb").read(path)
    assert rgb.x.shape == (3, 224, 224) and np.array_equal(rgb.x[0], rgb.x[2], equal_nan=True)
    grey = Pillow.fromarray((chest() * 255).astype(np.uint8))
    grey.convert("RGB").save(tmp_path / "c.png")
    grey.save(tmp_path / "g.png")
    a, b = Xray().read(tmp_path / "c.png").x, Xray().read(tmp_path / "g.png").x
    assert a.shape == (1, 224, 224) and np.allclose(a, b, atol=1e-6, equal_nan=True)


def test_sizes_of_any_kind(tmp_path):
    path = write(tmp_path / "a.dcm", stored())
    for size in ((28, 28), (512, 384), (224, 112)):
        for fit in ("pad", "crop", "stretch"):
            sample = Xray(size=size, fit=fit).read(path)
            assert sample.x.shape[1:] == size and (fit == "pad") == bool(np.isnan(sample.x).any())


# What is no radiograph -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: write(p, stored(), modality="CT"), "a CT slice, not a radiograph"),
        (lambda p: write(p, stored()[:8, :8]), "8 x 8 pixels, too few"),
        (lambda p: write(p, np.full((64, 64), 7, np.uint16)), "the value 7 everywhere"),
        (lambda p: write(p, stored()[:20], modality="OT"), "a strip"),
        (lambda p: write(p, np.full((64, 64), 7, np.uint16), PixelPaddingValue=7), "nothing but padding"),
    ],
)
def test_non_radiographs_are_sentences(tmp_path, make, sentence):
    path = make(tmp_path / "a.dcm")
    with pytest.raises(ReadError, match=sentence) as caught:
        Xray().read(path)
    assert str(caught.value).startswith(str(path)) and str(caught.value).count("\n") == 0


def test_a_colour_photograph(tmp_path):
    rng = np.random.default_rng(0)
    Pillow.fromarray(rng.integers(0, 256, (80, 80, 3), np.uint8)).save(tmp_path / "holiday.png")
    with pytest.raises(ReadError, match="a colour picture"):
        Xray().read(tmp_path / "holiday.png")


def test_constant_padding_is_not_exposure(tmp_path):
    x = np.full((64, 64), 9, np.uint16)
    x[:32] = 0
    with pytest.raises(ReadError, match="the value 9 everywhere"):
        Xray().read(write(tmp_path / "a.dcm", x, PixelPaddingValue=0))


def test_a_rate_is_for_signals(tmp_path):
    with pytest.raises(ReadError, match="no sampling rate"):
        Xray().read(tmp_path / "a.png", fs=500.0)


def test_an_unusable_window_is_replaced_and_said(tmp_path):
    path = write(tmp_path / "a.dcm", stored(), WindowCenter="40000", WindowWidth="100")
    sample = Xray().read(path)
    assert "window-unusable" in codes(sample) and np.nanstd(sample.x) > 0.1


# From grey to the network --------------------------------------------------------------------------------------------


def test_normalise_shows_no_picture_as_black():
    x = np.random.default_rng(0).random((2, 1, 16, 16)).astype(np.float32)
    x[0, :, :4] = np.nan
    present = np.array([[True], [True]])
    y = Xray(mean=[0.5], std=[0.25]).normalise(x, present)
    assert np.allclose(y[1], (x[1] - 0.5) / 0.25) and np.allclose(y[0, :, :4], -2)
    assert np.array_equal(Xray(normalise="none").normalise(x, present)[1], x[1])
    record = Xray(normalise="record").normalise(x, present)
    assert record[0, :, 4:].mean() == pytest.approx(0, abs=1e-4) and record[0, :, 4:].std() == pytest.approx(
        1, abs=1e-4
    )
    assert np.isnan(Xray(normalise="none").normalise(x, ~present)).all()
    with pytest.raises(MedfmError, match=r"modality\.normalise=record"):
        Xray().normalise(x, present)


def test_fit_is_the_mean_and_deviation_of_the_pixels_that_are_picture():
    x = np.random.default_rng(0).random((5, 3, 10, 10)).astype(np.float32)
    x[:, :, :, 7:] = np.nan
    fitted = Xray(colour="rgb", size=(10, 10)).fit(x, np.ones((5, 3), bool))
    assert fitted.mean == pytest.approx(np.nanmean(x, axis=(0, 2, 3)), abs=1e-6)
    assert fitted.std == pytest.approx(np.nanstd(x, axis=(0, 2, 3)), abs=1e-6)
    with pytest.raises(MedfmError, match="no pixel"):
        Xray().fit(np.full((1, 1, 4, 4), np.nan, np.float32), np.ones((1, 1), bool))


def test_prepare(tmp_path):
    modality = Xray(size=(32, 32), normalise="record")
    sample = modality.read(write(tmp_path / "a.dcm", stored()))
    assert np.isfinite(modality.prepare(sample).x).all()
    with pytest.raises(MedfmError, match="32 x 32 pixels, the modality 64 x 64"):
        Xray(size=(64, 64), normalise="none").prepare(sample)


def test_settings_come_back_and_shape_the_key():
    modality = Xray(size=(64, 48), fit="crop", colour="rgb", mean=[0.5] * 3, std=[0.2] * 3)
    again = Xray(**{k: v for k, v in modality.settings().items() if k != "name"})
    assert again.settings() == modality.settings()
    assert "mean" not in modality.ingest_settings() and modality.ingest_settings()["size"] == [64, 48]
    with pytest.raises(MedfmError, match="3 values for 1 channels"):
        Xray(mean=[0.5] * 3)
    with pytest.raises(MedfmError, match="positive"):
        Xray(std=[0.0])


def test_arrays_of_a_user():
    sample = Xray(size=(64, 64)).from_image(
        Image(chest()[None].astype(np.float32), "MONOCHROME2", 8, "array")
    )
    assert sample.x.shape == (1, 64, 64) and "view-unknown" in codes(sample)
