"""What a scanner makes of a patient: the table, the kernel, thick slices, noise, and the air around.

Noise is what is left of Poisson counting after reconstruction: its deviation follows the square root of the photons
that are lost in a slice (half of it, as scanners raise the current where the body is thick), is larger in the middle
of a body than at its rim, and is correlated over the kernel. There are no streaks.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medfm.synthetic.ct_grid import Grid
from medfm.synthetic.ct_subjects import Scanner
from medfm.synthetic.ct_tissues import Palette

NOISE_SLICE = 3.0  # mm; slice thickness at which a scanner's noise is stated
_WATER = 0.0195  # 1/mm, at an effective 70 keV
_AVERAGE = 270.0  # mm; water-equivalent diameter of an average man's trunk
PADDING, HIGHEST = -1024, 3071


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], deviation: np.ndarray) -> np.ndarray:
    """Gaussian noise of mean 0 and deviation 1, float32, correlated over ``deviation`` voxels along each axis."""
    noise = rng.standard_normal(shape, np.float32)
    kept = 1.0
    for axis, s in enumerate(np.broadcast_to(deviation, len(shape))):
        if s > 0.2 and shape[axis] > 1:
            radius = int(3 * s + 1)
            kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / s) ** 2)
            kernel /= kernel.sum()
            ndimage.correlate1d(noise, kernel, axis, noise, mode="wrap")
            kept *= float(np.sum(kernel**2))
    noise *= np.float32(1 / np.sqrt(kept))
    return noise


def add_table(hu: np.ndarray, grid: Grid, device: Scanner, top: float, colours: Palette) -> None:
    """A curved sheet under the patient; ``top``: y of its lowest point's upper side, mm in the scanner."""
    x, y, _ = (v[:, :, 0] for v in grid.scanner)
    radius, wide, thick = device.table
    below = y - (top - np.float32(0.5 / radius) * x * x)
    side = np.float32(wide / 2) - np.abs(x)
    within = np.minimum(np.minimum(below, np.float32(thick) - below), side)
    edge = np.float32(np.sqrt(grid.spacing[0] * grid.spacing[1]))
    share = np.clip(0.5 + within / edge, 0, 1)
    skin = np.clip(0.5 + (3 - within) / edge, 0, 1) * share
    shell = colours["shell"] + np.float32(device.shell)
    material = colours["foam"] + (shell - colours["foam"]) * skin / np.maximum(share, 1e-6)
    plane = (share * (material - colours["air"]))[:, :, None]
    air = np.clip((-700 - hu) / 250, 0, 1)  # the body lies on it, not in it
    hu += plane * air


def thicken(x: np.ndarray, step: int, thick: int) -> np.ndarray:
    """Slices that are the mean of ``thick`` (odd) thin ones, at every ``step``-th (odd), starting in the middle of the
    first step; at the ends the last thin slice is repeated."""
    if step == thick == 1:
        return x
    assert step % 2 and thick % 2
    centres = np.arange(step // 2, x.shape[2] - step // 2, step)
    out = np.zeros((*x.shape[:2], len(centres)), np.float32)
    for d in range(-(thick // 2), thick // 2 + 1):
        out += x[:, :, np.clip(centres + d, 0, x.shape[2] - 1)]
    return out / np.float32(thick)


def kernel(hu: np.ndarray, spacing: tuple[float, float, float], blur: float) -> np.ndarray:
    """The kernel's blur in plane, ``blur`` mm of deviation; one far below a voxel does nothing."""
    for axis in (0, 1):
        if blur / spacing[axis] > 0.25:
            ndimage.gaussian_filter1d(hu, blur / spacing[axis], axis, output=hu, truncate=3.0)
    return hu


def noise_level(hu: np.ndarray, spacing: tuple[float, float, float], sigma: float) -> np.ndarray:
    """Deviation of the noise at each voxel, float32: ``sigma`` in the middle of a slice of average size."""
    water = np.clip(hu * np.float32(0.001) + 1, 0, 2.2)
    area = water.sum(axis=(0, 1)) * spacing[0] * spacing[1]
    wide = 2 * np.sqrt(np.maximum(area, 100.0) / np.pi)
    slices = sigma * np.clip(np.exp(0.5 * 0.5 * _WATER * (wide - _AVERAGE)), 0.45, 3.0)
    x, y = (np.arange(n, dtype=np.float32) for n in hu.shape[:2])
    total = np.maximum(water.sum(axis=(0, 1)), 1e-3)
    cx, cy = (x[:, None] * water.sum(1)).sum(0) / total, (y[:, None] * water.sum(0)).sum(0) / total
    dx = (x[:, None] - cx) * spacing[0] * 2 / wide
    dy = (y[:, None] - cy) * spacing[1] * 2 / wide
    rim = dx[:, None, :] ** 2 + dy[None, :, :] ** 2
    return (slices * (1 - 0.35 * np.minimum(rim, 1.3))).astype(np.float32)


def texture(tissue: np.ndarray, grain: np.ndarray, colours: Palette) -> np.ndarray:
    """HU of each tissue's own grain; grain: smooth noise of deviation 1."""
    return colours.grain[tissue] * grain


def finish(
    hu: np.ndarray, grid_centre: tuple[float, float], spacing: tuple[float, float, float], circle: bool
) -> np.ndarray:
    """int16 as stored, with or without padding outside the circle of reconstruction; ``grid_centre``: its voxel."""
    out = np.clip(np.rint(hu), PADDING, HIGHEST).astype(np.int16)
    if circle:
        x = (np.arange(hu.shape[0]) - grid_centre[0]) * spacing[0]
        y = (np.arange(hu.shape[1]) - grid_centre[1]) * spacing[1]
        outside = x[:, None] ** 2 + y[None] ** 2 > (hu.shape[0] * spacing[0] / 2) ** 2
        out[outside] = PADDING
    return out
