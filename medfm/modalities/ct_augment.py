"""Augmentations of CT batches, in HU, each with the labels that it leaves true.

Off unless asked. A flip makes the left kidney a right one and puts the liver on the wrong side. Arrays: x float32 ``[B,
1, X, Y, Z]`` (NaN: no measurement), changed in place; labels ``[B, K, X, Y, Z]`` or None, moved as x is, in place.
"""

from __future__ import annotations

import numpy as np

from medfm.modalities.base import LABEL_KINDS, Augmentation
from medfm.types import MedfmError

Labels = np.ndarray | None


def _flip(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """Along every axis in half of the volumes."""
    for axis in range(3):
        turned = rng.random(len(x)) < 0.5
        for part in (x, labels):
            if part is not None:
                part[turned] = np.flip(part[turned], 2 + axis)


def _mirror(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """Left and right exchanged in half of the volumes (of a grid whose first axis runs from side to side)."""
    turned = rng.random(len(x)) < 0.5
    for part in (x, labels):
        if part is not None:
            part[turned] = np.flip(part[turned], 2)


def _rot90(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """In plane, by a quarter, a half or three quarters, where the window is square; otherwise by a half."""
    square = x.shape[2] == x.shape[3]
    for i, turns in enumerate(rng.integers(0, 4, len(x))):
        turns = int(turns) if square else 2 * (int(turns) // 2)
        for part in (x, labels):
            if part is not None and turns:
                part[i] = np.rot90(part[i], turns, (1, 2))


def _warp(x: np.ndarray, labels: Labels, matrices: np.ndarray) -> None:
    """Each volume through its matrix ``[B, 3, 3]`` about its middle; what enters from outside is the border's value."""
    from scipy.ndimage import affine_transform

    middle = (np.array(x.shape[2:]) - 1) / 2
    for i, matrix in enumerate(matrices):
        place = {"matrix": matrix, "offset": middle - matrix @ middle, "mode": "nearest"}
        known = np.isfinite(x[i, 0])
        moved = affine_transform(np.where(known, x[i, 0], 0.0), order=1, **place)
        if not known.all():
            share = affine_transform(known.astype(np.float32), order=1, **place)
            moved = np.where(share > 0.5, moved / np.maximum(share, 0.5), np.nan)
        x[i, 0] = moved
        if labels is not None:
            for label in labels[i]:
                label[:] = affine_transform(label, order=0, **place)


def _rotation(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """Up to 15 degrees in plane and 5 about the other axes, as patients lie (voxels taken as cubes)."""
    angles = np.deg2rad(rng.uniform(-1, 1, (len(x), 3)) * (5.0, 5.0, 15.0))
    matrices = []
    for a, b, c in angles:
        about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
        about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
        matrices.append(about_z @ about_y @ about_x)
    _warp(x, labels, np.stack(matrices))


def _scale(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """Larger or smaller by up to a quarter, the same along all axes."""
    factor = np.exp(rng.uniform(np.log(0.8), np.log(1.25), len(x)))
    _warp(x, labels, np.eye(3)[None] / factor[:, None, None])


def _shift(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """Another calibration: up to 40 HU more or less (a tenth of VoCo's window), in half of the volumes."""
    by = np.where(rng.random(len(x)) < 0.5, rng.uniform(-40, 40, len(x)), 0.0)
    x += by.astype(np.float32)[:, None, None, None, None]


def _contrast(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """Soft tissue spread by 0.8 to 1.25 about 50 HU."""
    gain = np.exp(rng.uniform(np.log(0.8), np.log(1.25), len(x))).astype(np.float32)
    x -= 50.0
    x *= gain[:, None, None, None, None]
    x += 50.0


def _blur(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """Half of the volumes through a softer kernel: deviation 0.3 to 1.0 voxels. No measurement stays none."""
    from scipy.ndimage import gaussian_filter

    for volume, sigma in zip(x[:, 0], np.where(rng.random(len(x)) < 0.5, rng.uniform(0.3, 1.0, len(x)), 0.0)):
        if sigma > 0:
            known = np.isfinite(volume)
            total = gaussian_filter(np.where(known, volume, 0.0), sigma)
            share = 1.0 if known.all() else np.maximum(gaussian_filter(known.astype(np.float32), sigma), 1e-6)
            volume[known] = (total / share)[known]


def _noise(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """Quantum noise of a lower dose: deviation up to 30 HU."""
    level = rng.uniform(0.0, 30.0, len(x)).astype(np.float32)[:, None, None, None, None]
    x += level * rng.standard_normal(x.shape, dtype=np.float32)


def _thick(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """A quarter of the volumes as from slices two to four times as thick (along the last axis)."""
    for volume, factor in zip(x[:, 0], np.where(rng.random(len(x)) < 0.25, rng.integers(2, 5, len(x)), 1)):
        if factor > 1:
            whole = volume.shape[2] // factor * factor
            slabs = volume[..., :whole].reshape(*volume.shape[:2], -1, factor)
            volume[..., :whole] = np.repeat(slabs.mean(3), factor, 2)


def _all_but(*kinds: str) -> frozenset[str]:
    assert set(kinds) <= set(LABEL_KINDS)
    return frozenset(LABEL_KINDS) - set(kinds)


# Applied in this order: how the body lies, then its slices, then their kernel, calibration and dose.
AUGMENTATIONS: dict[str, Augmentation] = {
    a.name: a
    for a in (
        Augmentation("flip", _flip, _all_but("laterality", "location"), "reversed along each axis in half"),
        Augmentation(
            "mirror", _mirror, _all_but("laterality", "location"), "left and right exchanged in half"
        ),
        Augmentation("rot90", _rot90, _all_but("laterality", "location"), "turned in plane by quarters"),
        Augmentation(
            "rotation", _rotation, _all_but("location"), "turned by up to 15 degrees in plane, 5 out of it"
        ),
        Augmentation("scale", _scale, _all_but("size", "location"), "larger or smaller by up to a quarter"),
        Augmentation("thick", _thick, _all_but("texture", "quality"), "as from thicker slices"),
        Augmentation("blur", _blur, _all_but("texture", "quality"), "a softer kernel, up to a voxel"),
        Augmentation("contrast", _contrast, _all_but("density"), "soft tissue spread or drawn together"),
        Augmentation("shift", _shift, _all_but("density"), "up to 40 HU more or less"),
        Augmentation("noise", _noise, _all_but("texture", "quality"), "quantum noise of a lower dose"),
    )
}


def augmentation(name: str) -> Augmentation:
    """Of the table. Raises :class:`MedfmError` on an unknown name."""
    if name not in AUGMENTATIONS:
        raise MedfmError(f"unknown CT augmentation {name}; known: {', '.join(AUGMENTATIONS)}.")
    return AUGMENTATIONS[name]
