"""Line integrals on a flat detector: the beam, solids sampled in slabs along the rays, and tubes swept by discs.

Everything is in mm. Patient axes: x to the patient's left, y to the back, z to the head. On the detector u runs
to the right of the displayed image and v downwards; w is the height above the middle of the body, towards the
source.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft, special

VIEWS = ("PA", "AP", "LL")
_DISC_STEP = 1.3  # neighbouring radii of the discs that tubes are swept with
_THINNEST = 0.4  # pixels
_MARGIN = 12  # pixels beyond the detector, so that what leaves on one side does not come back on the other


@dataclass(frozen=True)
class Beam:
    """A source, a patient turned by ``turn`` degrees about the long axis, and a detector of ``size`` pixels.

    view: PA and AP show the patient's left on the image's right; LL (left side at the detector) looks left.
    sid: source to detector, mm; inf for parallel rays. mid: detector to the middle of the body, mm. pixel: mm on
    the detector. shift: where the patient's origin falls, mm right of and below the detector's middle.
    """

    view: str
    size: tuple[int, int]
    pixel: float
    sid: float = 1800.0
    mid: float = 150.0
    turn: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)

    def magnification(self, w: np.ndarray | float) -> np.ndarray:
        """Detector mm for each mm at height w: 1 for parallel rays."""
        w = np.asarray(w, np.float64)
        return np.ones_like(w) if np.isinf(self.sid) else self.sid / (self.sid - self.mid - w)

    def _axes(self) -> np.ndarray:
        """Rows: the patient's directions of u, v and w."""
        plain = {
            "PA": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
            "AP": ((1, 0, 0), (0, 0, -1), (0, -1, 0)),
            "LL": ((0, 1, 0), (0, 0, -1), (-1, 0, 0)),
        }[self.view]
        c, s = np.cos(np.deg2rad(self.turn)), np.sin(np.deg2rad(self.turn))
        return np.array(plain, float) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Column, row (pixels, 0 at the centre of the first) and magnification of ``points [..., 3]``."""
        u, v, w = np.moveaxis(np.asarray(points, np.float64) @ self._axes().T, -1, 0)
        m = self.magnification(w)
        column = (u * m + self.shift[0]) / self.pixel + (self.size[1] - 1) / 2
        row = (v * m + self.shift[1]) / self.pixel + (self.size[0] - 1) / 2
        return column, row, m

    def coarse(self, factor: float) -> Beam:
        """The same field on fewer, larger pixels."""
        rows = round(self.size[0] * factor)
        size = (rows, max(1, round(self.size[1] * rows / self.size[0])))
        pixel = self.pixel * self.size[0] / rows
        return Beam(self.view, size, pixel, self.sid, self.mid, self.turn, self.shift)

    def points(self, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Patient x, y ``[K, 1, W]`` and z ``[K, H, 1]``, float32, where the rays cross each of the K heights."""
        axes = self._axes()
        m = self.magnification(heights)[:, None]
        u = ((np.arange(self.size[1]) - (self.size[1] - 1) / 2) * self.pixel - self.shift[0]) / m
        v = ((np.arange(self.size[0]) - (self.size[0] - 1) / 2) * self.pixel - self.shift[1]) / m
        x, y = (u[:, None, :] * axes[0, i] + heights[:, None, None] * axes[2, i] for i in (0, 1))
        z = v[:, :, None] * axes[1, 2]
        return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)

    def obliquity(self) -> np.ndarray:
        """Length of each ray between two heights 1 mm apart, ``[H, W]``: 1 in the middle of the detector."""
        if np.isinf(self.sid):
            return np.ones(self.size, np.float32)
        rows, columns = ((np.arange(n) - (n - 1) / 2) * self.pixel for n in self.size)
        return np.sqrt(1 + (rows[:, None] ** 2 + columns**2) / self.sid**2).astype(np.float32)


def filled(inside: np.ndarray, softness: float) -> np.ndarray:
    """Share of each slab that lies in a solid, ``[K, H, W]`` from the K + 1 planes between the slabs.

    inside: signed distance from the surface at the planes, mm, positive in the solid. Along a ray the distance is
    taken as straight between two planes, so the share is exact for flat walls; walls that run along the rays are
    rounded over ``softness`` mm (about half a pixel) to either side.
    """
    size = np.abs(inside)
    near_wall = np.float32(softness) - size
    np.maximum(near_wall, 0, out=near_wall)
    near_wall *= near_wall
    near_wall *= np.float32(0.5 / softness)
    size += near_wall
    share = inside[:-1] + inside[1:]
    share /= size[:-1] + size[1:]
    share *= 0.5
    share += 0.5
    return share


@lru_cache(maxsize=64)
def _disc(rows: int, columns: int, radius: float) -> np.ndarray:
    """Spectrum of a disc of ``radius`` pixels and height 1, for an array of that size."""
    f = np.hypot(fft.fftfreq(rows)[:, None], fft.rfftfreq(columns)[None])
    x = 2 * np.pi * f * radius
    return (np.pi * radius**2 * np.where(x < 1e-9, 1.0, 2 * special.j1(x) / np.maximum(x, 1e-9))).astype(
        np.float32
    )


def sweep(beam: Beam, points: np.ndarray, radius: np.ndarray, weight: np.ndarray, blur: float) -> np.ndarray:
    """Line integrals, ``[H, W]``, of tubes given by ``points [N, 3]`` along their axes.

    radius: mm; weight: length of axis that the point stands for (mm) times what a mm of chord counts. A disc of
    height 1 swept along a straight axis across the rays adds up to the chord 2 sqrt(r^2 - d^2), and along the rays
    to the tube's length; a radius between two of the tabled discs is shared among them so that volumes are kept.
    blur: standard deviation of the detector's blur, pixels.
    """
    column, row, m = beam.project(points)
    rows, columns = (fft.next_fast_len(n + 2 * _MARGIN, real=True) for n in beam.size)
    column, row = column + _MARGIN, row + _MARGIN
    keep = (column >= 0) & (column < columns - 1) & (row >= 0) & (row < rows - 1) & (weight != 0)
    column, row, weight = column[keep], row[keep], np.asarray(weight, float)[keep]
    size = (radius * m)[keep] / beam.pixel
    if not len(size):
        return np.zeros(beam.size, np.float32)
    thin = np.maximum(size, _THINNEST)  # thinner ones are as wide and weaker: no pixel could tell
    size, weight = thin, weight * (size / thin) ** 2
    low = np.floor(np.log(size) / np.log(_DISC_STEP)).astype(int)
    first, bins = int(low.min()), int(low.max() - low.min()) + 2
    tabled = _DISC_STEP ** (low.astype(float))
    upper = ((size / tabled) ** 2 - 1) / (_DISC_STEP**2 - 1)
    c, r = np.floor(column).astype(int), np.floor(row).astype(int)
    fc, fr = column - c, row - r
    pixel = (r * columns + c) + np.array([0, 1, columns, columns + 1])[:, None]
    share = np.stack([(1 - fr) * (1 - fc), (1 - fr) * fc, fr * (1 - fc), fr * fc]) * weight
    planes = np.zeros((bins, rows * columns), np.float32)
    for k in range(bins - 1):
        here = low == first + k
        spot, part = pixel[:, here].ravel(), share[:, here]
        planes[k] += np.bincount(spot, (part * (1 - upper[here])).ravel(), rows * columns)
        planes[k + 1] += np.bincount(spot, (part * upper[here]).ravel(), rows * columns)
    total = np.zeros((rows, columns // 2 + 1), np.complex64)
    for k, plane in enumerate(planes):
        total += fft.rfft2(plane.reshape(rows, columns)) * _disc(rows, columns, _DISC_STEP ** (first + k))
    total *= _gauss(rows, columns, blur)
    return fft.irfft2(total, (rows, columns))[
        _MARGIN : _MARGIN + beam.size[0], _MARGIN : _MARGIN + beam.size[1]
    ]


@lru_cache(maxsize=16)
def _gauss(rows: int, columns: int, blur: float) -> np.ndarray:
    f2 = fft.fftfreq(rows)[:, None] ** 2 + fft.rfftfreq(columns)[None] ** 2
    return np.exp(-2 * np.pi**2 * blur**2 * f2).astype(np.float32)


def ellipsoid(beam: Beam, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Chords through an upright ellipsoid, mm, ``[H, W]``; radii along x, y, z. The rays are taken as parallel
    within it."""
    axes = np.abs(beam._axes())
    column, row, m = beam.project(centre)
    ru, rv = (float(np.sqrt(np.sum((axes[i] * radii) ** 2))) for i in range(2))
    rw = float(np.prod(radii)) / (ru * rv)  # keeps the volume whatever the turn
    du = (np.arange(beam.size[1]) - column) * beam.pixel / (ru * m)
    dv = (np.arange(beam.size[0]) - row) * beam.pixel / (rv * m)
    return (2 * rw * np.sqrt(np.maximum(1 - du[None] ** 2 - dv[:, None] ** 2, 0))).astype(np.float32)


@lru_cache(maxsize=16)
def enlarge(coarse: int, fine: int) -> np.ndarray:
    """``[fine, coarse]``: cubic interpolation (Keys 1981, a = -1/2) from coarse pixels to fine ones, edges
    repeated."""
    at = (np.arange(fine) + 0.5) * coarse / fine - 0.5
    first = np.floor(at).astype(int) - 1
    matrix = np.zeros((fine, coarse), np.float32)
    for k in range(4):
        t = np.abs(at - (first + k))
        weight = np.where(t < 1, (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2)
        np.add.at(matrix, (np.arange(fine), np.clip(first + k, 0, coarse - 1)), weight)
    return matrix


@lru_cache(maxsize=64)
def smoothing(n: int, deviation: float) -> np.ndarray:
    """``[n, n]``: a Gaussian of ``deviation`` pixels, edges renormalised; blur an image by A @ image @ B.T."""
    d = np.arange(n)[:, None] - np.arange(n)[None]
    matrix = np.exp(-0.5 * (d / max(deviation, 1e-3)) ** 2)
    return (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)
