"""RandAugment for radiographs: every operation by hand or against Pillow, and its draws."""

from __future__ import annotations

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import pytest
from xray_pictures import chest

from medfm.modalities.xray import Xray
from medfm.modalities.xray_augment import augmentation
from medfm.modalities.xray_rand import GEOMETRY, TONES, named, rand_augment
from medfm.types import MedfmError

HEIGHT, WIDTH = 60, 50
ROTATION, SHEAR_X, SHEAR_Y, MOVE_X, MOVE_Y, CONTRAST, BRIGHTNESS, GAMMA, SHARPNESS = range(9)


class Drawn:
    """Always this operation, at the magnitude itself, with this sign, never left out."""

    def __init__(self, operation: int, sign: float = 1.0) -> None:
        self.operation, self.sign = operation, sign

    def integers(self, high: int, size: tuple[int, int]) -> np.ndarray:
        assert high == len(GEOMETRY) + len(TONES) == 9
        return np.full(size, self.operation)

    def normal(self, mean: float, deviation: float, size: tuple[int, int]) -> np.ndarray:
        assert deviation == 0.5
        return np.full(size, mean)

    def choice(self, _: object, size: tuple[int, int]) -> np.ndarray:
        return np.full(size, self.sign)

    def random(self, size: tuple[int, int]) -> np.ndarray:
        return np.full(size, 0.5)


def applied(
    x: np.ndarray, operation: int, magnitude: float = 10, sign: float = 1.0, operations: int = 1
) -> np.ndarray:
    x = x.astype(np.float32, copy=True)
    rand_augment(magnitude, operations).apply(x, Drawn(operation, sign))
    return x


def picture() -> np.ndarray:
    return chest(HEIGHT, WIDTH, 3).astype(np.float32)[None, None]


def places() -> np.ndarray:
    """Two channels that hold each pixel's own row and column, over 100 so that they are grey."""
    return np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)[None] / 100


def test_geometry_reads_from_where_it_says() -> None:
    """At magnitude 10, about the middle (29.5, 24.5): 15 degrees, a shear of 0.15, a tenth of the side."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    r, c = rows - 29.5, columns - 24.5
    cosine, sine = np.cos(np.pi / 12), np.sin(np.pi / 12)
    expected = {
        ROTATION: (cosine * r + sine * c, -sine * r + cosine * c),
        SHEAR_X: (r, c + 0.15 * r),
        SHEAR_Y: (r + 0.15 * c, c),
        MOVE_X: (r, c + 5),
        MOVE_Y: (r + 6, c),
    }
    for operation, (row, column) in expected.items():
        got = applied(places(), operation)[0] * 100
        inside = (abs(row) < 29) & (abs(column) < 24)
        assert inside.mean() > 0.6
        np.testing.assert_allclose(got[0][inside], (row + 29.5)[inside], atol=1e-3)
        np.testing.assert_allclose(got[1][inside], (column + 24.5)[inside], atol=1e-3)
        outside = (abs(row) > 30.1) | (abs(column) > 25.1)
        assert np.isnan(got[0][outside]).all(), "what enters is no picture"


def test_strength_follows_magnitude_sign_and_number() -> None:
    x = picture()
    assert np.array_equal(applied(x, MOVE_X, 6)[..., :-3], x[..., 3:])
    assert np.array_equal(applied(x, MOVE_X, 6, -1)[..., 3:], x[..., :-3])
    assert np.array_equal(applied(x, MOVE_X, 2, operations=3)[..., :-3], x[..., 3:]), (
        "composed, resampled once"
    )


@pytest.mark.parametrize(
    ("operation", "enhancer", "factor"),
    [
        (SHARPNESS, PIL.ImageEnhance.Sharpness, 1.9),
        (SHARPNESS, PIL.ImageEnhance.Sharpness, 0.1),
        (CONTRAST, PIL.ImageEnhance.Contrast, 2.0),
        (CONTRAST, PIL.ImageEnhance.Contrast, 0.5),
    ],
)
def test_contrast_and_sharpness_are_pillows(operation: int, enhancer: type, factor: float) -> None:
    eight = np.random.default_rng(0).integers(60, 190, (HEIGHT, WIDTH)).astype(np.uint8)
    theirs = np.asarray(enhancer(PIL.Image.fromarray(eight)).enhance(factor)) / 255
    ours = applied(eight[None, None] / 255, operation, sign=1.0 if factor > 1 else -1.0)[0, 0]
    np.testing.assert_allclose(ours[1:-1, 1:-1], theirs[1:-1, 1:-1], atol=1.6 / 255)  # they round twice


def test_brightness_and_gamma_by_hand() -> None:
    x = picture()
    assert applied(x, BRIGHTNESS, 5) == pytest.approx(np.clip(x + 0.1, 0, 1), abs=1e-6)
    assert applied(x, GAMMA) == pytest.approx(x**2, abs=1e-5)
    assert applied(x, GAMMA, sign=-1.0) == pytest.approx(np.sqrt(x), abs=1e-5)


def test_what_is_no_picture_stays_none_and_darkens_no_neighbour() -> None:
    x = np.full((1, 1, HEIGHT, WIDTH), 0.5, np.float32)
    x[..., :9] = np.nan
    for operation in (CONTRAST, BRIGHTNESS, GAMMA, SHARPNESS):
        assert np.array_equal(np.isnan(applied(x, operation)), np.isnan(x))
    assert np.nanmax(abs(applied(x, SHARPNESS) - 0.5)) < 1e-6


def test_an_operation_is_left_out_half_of_the_time_and_none_mirrors() -> None:
    x = np.repeat(picture(), 400, axis=0)
    x[:, :, :, : WIDTH // 2] *= 0.2  # the left is dark
    present = np.ones((400, 1), bool)
    y, _ = Xray(size=(HEIGHT, WIDTH)).augment_batch(x, present, np.random.default_rng(0), ["rand-n1"])
    same = np.mean([np.array_equal(a, b, equal_nan=True) for a, b in zip(x, y)])
    assert 0.42 < same < 0.6
    left, right = (np.nanmean(y[..., half], axis=(1, 2, 3)) for half in (slice(5, 20), slice(-20, -5)))
    assert (left < right).all()
    assert len({float(np.nansum(a)) for a in y}) > 150, "each picture has its own draw"


def test_names() -> None:
    assert named("crop") is None and augmentation("rand-m9-n3").name == "rand"
    assert augmentation("rand").apply.keywords == {"magnitude": 6.0, "operations": 2}  # type: ignore[attr-defined]
    assert augmentation("rand-m4.5").apply.keywords == {"magnitude": 4.5, "operations": 2}  # type: ignore[attr-defined]
    assert augmentation("rand-n3").apply.keywords == {"magnitude": 6.0, "operations": 3}  # type: ignore[attr-defined]
    assert {"presence", "laterality"} <= augmentation("rand").preserves and "location" in augmentation(
        "rand"
    ).alters
    for wrong in ("rand-m11", "rand-m0", "rand-n0"):
        with pytest.raises(MedfmError, match=f"{wrong}: give a magnitude from 0 to 10 and at least one"):
            augmentation(wrong)
    with pytest.raises(MedfmError, match="unknown X-ray augmentation rand-9; known: rand, crop"):
        augmentation("rand-9")
