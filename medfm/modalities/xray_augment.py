"""Augmentations of radiograph batches, in grey (0 to 1, NaN outside), each with the labels that it leaves true.

Off unless asked. A flip turns the heart's side and the side marker's meaning round; a crop may cut the finding off.
Arrays: x float32 ``[B, C, H, W]``, changed in place; all channels of a picture go through the same transform.
"""

from __future__ import annotations

import numpy as np

from medfm.modalities.base import LABEL_KINDS, Augmentation
from medfm.modalities.xray_rand import named, rand_augment
from medfm.modalities.xray_warp import warp
from medfm.types import MedfmError


def _crop(x: np.ndarray, rng: np.random.Generator, least: float = 0.5) -> None:
    """Random resized crop: area ``least`` to 1, aspect 3/4 to 4/3 of the grid's own, as in medical MAE's pretraining."""
    height, width = x.shape[2:]
    for picture in x:
        tall, wide = _box(rng, height, width, least)
        top, left = rng.uniform(0, height - tall), rng.uniform(0, width - wide)
        rows = top + (np.arange(height) + 0.5) * tall / height - 0.5
        columns = left + (np.arange(width) + 0.5) * wide / width - 0.5
        picture[:] = warp(picture, *np.meshgrid(rows, columns, indexing="ij"))


def _box(rng: np.random.Generator, height: int, width: int, least: float) -> tuple[float, float]:
    for _ in range(10):
        area = rng.uniform(least, 1.0)
        shape = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        tall, wide = np.sqrt(area / shape), np.sqrt(area * shape)
        if max(tall, wide) <= 1.0:
            return float(tall * height), float(wide * width)
    return float(height), float(width)


def _zoom(x: np.ndarray, rng: np.random.Generator) -> None:
    _crop(x, rng, 0.9)


def _flip(x: np.ndarray, rng: np.random.Generator) -> None:
    turned = rng.random(len(x)) < 0.5
    x[turned] = x[turned, :, :, ::-1]


def _rotation(x: np.ndarray, rng: np.random.Generator) -> None:
    """Up to 5 degrees about the middle (as for neonatal films, arXiv 2507.12269); corners that enter are no picture."""
    height, width = x.shape[2:]
    y, z = (height - 1) / 2, (width - 1) / 2
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    for picture, angle in zip(x, np.deg2rad(rng.uniform(-5.0, 5.0, len(x)))):
        sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
        r, c = rows - y, columns - z
        picture[:] = warp(picture, r * cosine - c * sine + y, r * sine + c * cosine + z)


def _contrast(x: np.ndarray, rng: np.random.Generator) -> None:
    """Another window: contrast by 0.8 to 1.25, brightness by up to 0.1, about middle grey; clipped as a window is."""
    gain = np.exp(rng.uniform(np.log(0.8), np.log(1.25), len(x))).astype(np.float32)[:, None, None, None]
    shift = rng.uniform(-0.1, 0.1, len(x)).astype(np.float32)[:, None, None, None]
    x -= 0.5
    x *= gain
    x += 0.5 + shift
    np.clip(x, 0.0, 1.0, out=x)


def _gamma(x: np.ndarray, rng: np.random.Generator) -> None:
    """Another film curve: grey to the power 0.7 to 1.4."""
    power = np.exp(rng.uniform(np.log(0.7), np.log(1.4), len(x))).astype(np.float32)
    np.power(x, power[:, None, None, None], out=x)


def _noise(x: np.ndarray, rng: np.random.Generator) -> None:
    """Quantum noise of another dose: deviation up to 0.03 of white, the same in all channels."""
    level = rng.uniform(0.0, 0.03, len(x)).astype(np.float32)[:, None, None, None]
    x += level * rng.standard_normal((len(x), 1, *x.shape[2:]), dtype=np.float32)
    np.clip(x, 0.0, 1.0, out=x)


def _blur(x: np.ndarray, rng: np.random.Generator) -> None:
    """Half of the pictures a little out of focus: deviation 0.3 to 1.0 pixels. What is no picture stays none."""
    from scipy.ndimage import gaussian_filter

    for picture, sigma in zip(x, np.where(rng.random(len(x)) < 0.5, rng.uniform(0.3, 1.0, len(x)), 0.0)):
        if sigma > 0:
            known = np.isfinite(picture)
            total = gaussian_filter(np.where(known, picture, 0.0), (0, sigma, sigma))
            share = gaussian_filter(known.astype(np.float32), (0, sigma, sigma))
            picture[known] = (total / np.maximum(share, 1e-6))[known]


# What mixing two pictures falsifies although the target is mixed by their shares: a box may leave the right of two
# lungs; a fade halves every density.
MIX_ALTERS = {
    "cutmix": frozenset({"location", "laterality", "size"}),
    "mixup": frozenset({"size", "density", "texture", "quality"}),
}


def _all_but(*kinds: str) -> frozenset[str]:
    assert set(kinds) <= set(LABEL_KINDS)
    return frozenset(LABEL_KINDS) - set(kinds)


# Applied in this order: where the picture lies, then its film, then its dose and focus.
AUGMENTATIONS: dict[str, Augmentation] = {
    a.name: a
    for a in (
        rand_augment(),
        Augmentation(
            "crop",
            _crop,
            _all_but("presence", "location", "size"),
            "a part of half the area or more, enlarged",
        ),
        Augmentation(
            "zoom", _zoom, _all_but("location", "size"), "a part of nine tenths of the area or more, enlarged"
        ),
        Augmentation(
            "flip", _flip, _all_but("laterality", "location"), "left and right exchanged in half of them"
        ),
        Augmentation("rotation", _rotation, _all_but("location"), "turned by up to 5 degrees"),
        Augmentation("contrast", _contrast, _all_but("density"), "another window"),
        Augmentation("gamma", _gamma, _all_but("density"), "another film curve"),
        Augmentation("blur", _blur, _all_but("texture", "quality"), "out of focus by up to a pixel"),
        Augmentation("noise", _noise, _all_but("texture", "quality"), "quantum noise of another dose"),
    )
}


def augmentation(name: str) -> Augmentation:
    """Of the table, or ``rand`` at another strength (``rand-m9-n3``). Raises :class:`MedfmError` on an unknown name."""
    found = AUGMENTATIONS.get(name) or named(name)
    if found is None:
        known = ", ".join(AUGMENTATIONS)
        raise MedfmError(
            f"unknown X-ray augmentation {name}; known: {known} (at another strength: rand-m9-n3)."
        )
    return found
