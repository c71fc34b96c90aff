"""What a scanner makes of signals: the coil's field, thick slices, somebody who moves, and noise.

The magnitude of a signal A with Gaussian noise of deviation s in both of its parts is Rician: its mean square is
``A^2 + 2 s^2``, and where there is no signal its mean is ``s sqrt(pi / 2)``.
"""

from __future__ import annotations

import numpy as np


def coil(points: np.ndarray, waves: np.ndarray, deviation: float) -> np.ndarray:
    """A smooth factor ``[N]`` of mean about 1 at ``points [N, 3]``, mm; waves ``[K, 5]``: amplitude, wave vector, phase."""
    field = np.cos(points @ waves[:, 1:4].T + waves[:, 4]) @ waves[:, 0]
    return np.exp(np.float32(deviation / np.sqrt(len(waves) / 2)) * field).astype(np.float32)


def slices(count: int, step: float, thickness: float) -> tuple[np.ndarray, np.ndarray]:
    """``(acquire [K, Z], back [Z, K])`` along an axis of ``count`` voxels of ``step`` mm: slices of ``thickness`` mm side
    by side, each the mean of what lies in it, and linear interpolation of them to the voxels. Slices that are no thicker
    than a voxel are the voxels."""
    if thickness <= step * 1.001:
        return np.eye(count, dtype=np.float32), np.eye(count, dtype=np.float32)
    number = max(1, int(np.ceil(count * step / thickness)))
    centre = (np.arange(number) - (number - 1) / 2) * thickness
    voxel = (np.arange(count) - (count - 1) / 2) * step
    low = np.maximum(centre[:, None] - thickness / 2, voxel - step / 2)
    high = np.minimum(centre[:, None] + thickness / 2, voxel + step / 2)
    acquire = np.clip(high - low, 0, None)
    acquire /= acquire.sum(1, keepdims=True)
    at = np.clip((voxel - centre[0]) / thickness, 0, number - 1)
    back = np.clip(1 - np.abs(at[:, None] - np.arange(number)), 0, None)
    return acquire.astype(np.float32), back.astype(np.float32)


def ghosts(x: np.ndarray, strength: float, shift: float) -> np.ndarray:
    """Copies of the head along the axis of phase encoding (y), ``shift`` of the field away to both sides."""
    if not strength:
        return x
    step = max(1, round(shift * x.shape[1]))
    copies = np.roll(x, step, 1) + np.roll(x, -step, 1)
    return (1 - np.float32(strength)) * x + np.float32(strength / 2) * copies


def rician(x: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of x with complex noise of deviation ``sigma`` in each part. The numbers drawn do not depend on sigma."""
    noise = rng.standard_normal((2, *x.shape), np.float32) * np.float32(sigma)
    return np.hypot(x + noise[0], noise[1])


def acquire(
    signal: np.ndarray,
    *,
    step: float,
    thickness: float,
    sigma: float,
    ghost: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Magnitude ``[X, Y, Z]`` on the grid of ``signal``, whose slices (along z, ``step`` mm apart) are made of thicker
    ones. ghost: strength and shift."""
    through, back = slices(signal.shape[2], step, thickness)
    thick = np.abs(signal @ through.T)
    noisy = rician(ghosts(thick, *ghost), sigma, rng)
    return noisy @ back.T
