"""A human thorax as formulas: one description for radiographs (line integrals) and, sampled on a grid, for CT.

Solids (lungs, heart, mediastinum, diaphragm, body) are signed distances that are positive inside; what is long and
thin (ribs, vessels, airways) is tubes (:mod:`medfm.synthetic.skeleton`, :mod:`medfm.synthetic.lung_trees`).
Patient axes in mm: x to the patient's left, y to the back, z to the head; the origin lies in the midline, half-way
through the chest, at the height of the hila. Sizes are an adult's, from textbook radiographic anatomy, rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import PchipInterpolator

from medfm.synthetic.draws import Draws

# Height above the hila (mm, of a man of middle height): half-width of the chest inside, medial wall of the lungs,
# half-depth inside, and how far the middle of the cross-section lies behind the origin.
_CAGE = np.array(
    [
        # z, half-width, medial wall, half-depth, middle
        [-260, 128, 4, 84, 0],
        [-190, 138, 4, 90, 0],
        [-140, 142, 4, 94, 0],
        [-100, 142, 4, 94, 0],
        [-60, 138, 4, 92, 0],
        [-20, 131, 4, 89, 2],
        [20, 121, 5, 83, 4],
        [55, 109, 7, 74, 8],
        [80, 98, 9, 63, 12],
        [100, 85, 14, 50, 16],
        [115, 71, 24, 33, 19],
        [122, 60, 34, 19, 20],
        [126, 47, 47, 3, 20],
        [200, 47, 47, 3, 20],
    ],
    float,
)
# Height, half-width and half-depth of the muscles' outline beyond the rib cage: flanks, armpits, shoulders, neck.
_OUTLINE = np.array(
    [
        [-330, 138, 98],
        [-200, 148, 104],
        [-60, 152, 108],
        [40, 150, 102],
        [70, 158, 94],
        [100, 184, 82],
        [122, 196, 72],
        [138, 186, 66],
        [152, 140, 62],
        [166, 92, 58],
        [182, 66, 55],
        [300, 62, 55],
    ],
    float,
)
TEXTURE = 3200  # numbers a person for what is only texture: tilts of bones, targets of vessels
_TABLE_Z = np.arange(-340.0, 321.0)


def _tabled(knots: np.ndarray) -> np.ndarray:
    return PchipInterpolator(knots[:, 0], knots[:, 1:], axis=0)(np.clip(_TABLE_Z, *knots[[0, -1], 0])).T


_CAGE_AT, _OUTLINE_AT = _tabled(_CAGE), _tabled(_OUTLINE)


@dataclass(frozen=True)
class Thorax:
    """One person on one day. Lengths in mm; ``height``, ``width``, ``depth``, ``heart``, ``arch``, ``bone``,
    ``vessels`` and the lungs' ``density`` are factors of an average man's.

    inspiration: 0 (poor) to 1 (deep). domes: top of the right and left half of the diaphragm, z. fat: thickness
    under the skin. breast: radius, 0 for none. heart_tilt: degrees that the long axis lies below the horizontal.
    gas: size of the stomach bubble. shape: ``[S]`` uniforms for everything that is only texture.
    """

    age: float
    male: bool
    height: float
    width: float
    depth: float
    fat: float
    breast: float
    inspiration: float
    domes: tuple[float, float]
    heart: float
    heart_tilt: float
    arch: float
    bone: float
    vessels: float
    density: float
    gas: float
    shape: np.ndarray

    def cage(self, z: np.ndarray) -> tuple[np.ndarray, ...]:
        """Half-width, medial wall, half-depth and middle (y) of the inside of the chest at heights z."""
        at = np.asarray(z, np.float64) / self.height
        a, m, b, y = (np.interp(at, _TABLE_Z, row) for row in _CAGE_AT)
        swell = 0.97 + 0.04 * self.inspiration
        return a * self.width * swell, m * self.width, b * self.depth * swell, y

    def outline(self, z: np.ndarray, fat: bool) -> tuple[np.ndarray, np.ndarray]:
        """Half-width and half-depth of the body, with or without the fat under the skin."""
        at = np.asarray(z, np.float64) / self.height
        a, b = (np.interp(at, _TABLE_Z, row) for row in _OUTLINE_AT)
        belly = np.clip((-60 - at) / 120, 0, 1)
        skin = fat * self.fat
        return a * self.width + skin * (1 + 0.5 * belly), b * self.depth + skin * (0.8 + 0.8 * belly)

    def hull(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance inside the chest wall, either side, about mm."""
        a, m, b, middle = (v.astype(np.float32) for v in self.cage(z))
        half = np.maximum((a - m) / 2, 0.5)
        b = np.maximum(b, 0.5)
        p = (np.abs(x) - (a + m) / 2) / half
        p *= p
        q = (y - middle) / b
        q *= q
        # between an ellipse and a square with round corners
        round_, square = np.sqrt(p + q), np.sqrt(np.sqrt(p * p + q * q))
        round_ += square
        round_ *= 0.5
        return (1 - round_) * np.minimum(half, b)

    def above_diaphragm(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Height above the diaphragm of that side, mm, about as a distance."""
        right = x < 0
        top = np.where(right, *self.domes).astype(np.float32)
        u = (np.abs(x) - 62 * self.width) / (88 * self.width)
        v = (y + 14 * self.depth) / (104 * self.depth)
        r2 = u * u + v * v
        fall = 66 + 10 * self.inspiration
        surface = top - np.float32(fall) * (1 - np.sqrt(np.maximum(1 - 0.97 * r2, 0.0)))
        surface -= np.float32(30) * np.maximum(r2 - 1, 0)
        return (z - surface) * np.float32(0.8)

    @cached_property
    def heart_parts(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Centre, radii and axes (rows) of the ellipsoids of the heart and the pulmonary trunk."""
        s = self.heart
        floor = 0.5 * (self.domes[0] + self.domes[1])
        z = max(floor + 50 * s, -95 * self.height)
        high = 1 + 0.06 * (1 - self.inspiration)  # a raised diaphragm pushes the heart across
        tilt = np.deg2rad(self.heart_tilt)
        long = np.array([np.cos(tilt) * 0.9, -0.42, -np.sin(tilt) * 0.9])
        long /= np.linalg.norm(long)
        up = np.cross(long, (0.0, 1.0, 0.0))
        up /= np.linalg.norm(up)
        ventricle = np.stack([long, np.cross(up, long), up])
        plain = np.eye(3)
        h = self.height
        return [
            (np.array([22 * s * high, -24, z]), np.array([65 * high, 54, 45]) * s, ventricle),
            (np.array([-13 * s, -18, z + 9]), np.array([30 * high, 42, 42]) * s, plain),
            (np.array([8, 4, z + 36 * min(s, 1.15)]), np.array([38 * s, 26 * s, 30 * s]), plain),
            (np.array([21, -26, -2 * h]), np.array([20 * s**0.5, 24, 36 * h]), plain),
        ]

    def in_heart(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance inside the heart, about mm; -50 or less away from it."""
        inside = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), np.float32(-50))
        for centre, radii, axes in self.heart_parts:
            reach = 1.3 * np.sqrt(np.sum((axes * radii[:, None]) ** 2, axis=0))
            box = window((x, y, z), centre - reach, centre + reach)
            dx, dy, dz = (near(v, box) - np.float32(c) for v, c in zip((x, y, z), centre))
            q2: np.ndarray | float = 0.0
            for axis in (axes / radii[:, None]).astype(np.float32):
                t = (axis[0] * dx + axis[1] * dy) + axis[2] * dz if axis[2] else axis[0] * dx + axis[1] * dy
                q2 = q2 + t * t
            part = (1 - np.sqrt(q2)) * np.float32(radii.min())
            np.maximum(inside[box], part, out=inside[box])
        return inside

    def arch_points(self) -> np.ndarray:
        """Axis of the aorta, ``[N, 3]``: up from the heart, over the left main bronchus, down before the spine."""
        h, k = self.height, self.arch
        wide = 1 + 0.6 * (k - 1)
        knots = np.array(
            [
                [-4, -28, -25],
                [-12, -26, 18],
                [-6, -14, 47],
                [11 * wide, 8, 58],
                [23 * wide, 30, 44],
                [22 * wide, 44, 10],
                [16 * wide, 46, -60],
                [8, 46, -150],
            ]
        )
        t = np.linspace(0, len(knots) - 1, 60)
        return PchipInterpolator(np.arange(len(knots)), knots * (1, self.depth, h))(t)

    def in_mediastinum(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance inside what lies between the lungs beside the heart: vessels, aorta, oesophagus, spine."""
        h, k = self.height, np.float32(self.arch)
        at = z / np.float32(h)
        # the great veins on the right, the left subclavian artery on the left, above; the aorta beside the spine
        right = np.interp(at, [-120, -30, 5, 30, 70, 100, 130], [1, 4, 23, 26, 27, 31, 38])
        left = np.interp(at, [-120, -30, 5, 30, 60, 75, 100, 130], [1, 4, 13, 17, 21, 24, 30, 40])
        wide = 0.75 + 0.25 * self.width
        half, offset = (left + right) / 2 * wide, (left - right) / 2 * wide
        across = half.astype(np.float32) - np.abs(x - offset.astype(np.float32))
        inside = np.minimum(across, 62 - np.abs(y + np.float32(4)))
        _, _, b, middle = self.cage(z)
        back = np.maximum((middle + b - 4).astype(np.float32) - y, 0) * np.float32(0.8)
        np.maximum(inside, np.float32(24) - np.sqrt(x * x + back * back), out=inside)
        behind = window((x, y, z), (-99, 46 - 30 * k, -400), (99, 46 + 30 * k, 48 * h))
        bx, by, bz = (near(v, behind) for v in (x, y, z))
        along = np.float32(18) * np.clip((near(at, behind) + 160) / 150, 0.3, 1.2).astype(np.float32)
        descending = np.float32(12.5) * k - np.sqrt((bx - along) ** 2 + (by - np.float32(46)) ** 2)
        descending = np.minimum(descending, np.float32(48 * h) - bz)
        np.maximum(inside[behind], descending, out=inside[behind])
        centre = np.array([17 + 7 * (self.arch - 1), 18, 48 * h], np.float32)
        box = window((x, y, z), centre - 45 * k, centre + 45 * k)
        bx, by, bz = (near(v, box) - c for v, c in zip((x, y, z), centre))
        knob = np.float32(15.5) * k - np.sqrt((bx * bx + np.float32(0.25) * (by * by)) + bz * bz)
        np.maximum(inside[box], knob, out=inside[box])
        return inside

    def pleural_space(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance inside the room that a healthy lung fills, either side, about mm; -50 far from it."""
        inside = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), np.float32(-50))
        wide, deep = self.extent()
        low = min(self.domes) - 145 * max(self.width, 1.0)
        box = window((x, y, z), (-wide, -deep, low), (wide, deep, 126 * self.height))
        bx, by, bz = (near(v, box) for v in (x, y, z))
        part = np.minimum(self.hull(bx, by, bz), self.above_diaphragm(bx, by, bz), out=inside[box])
        for field, reach in ((self.in_heart, 150.0), (self.in_mediastinum, 62.0)):
            middle = window((bx, by, bz), (-reach, -deep, -999), (reach, deep, 999))
            solid = field(*(near(v, middle) for v in (bx, by, bz)))
            np.minimum(part[middle], np.negative(solid, out=solid), out=part[middle])
        return inside

    def extent(self) -> tuple[float, float]:
        """How far the inside of the chest reaches from the origin along x and along y, mm."""
        a, _, b, middle = self.cage(np.linspace(-200, 126, 60) * self.height)
        return float(a.max()) + 8, float((b + np.abs(middle)).max()) + 2


Coordinates = tuple[np.ndarray, np.ndarray, np.ndarray]
Field = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def window(points: Coordinates, low: object, high: object) -> tuple[slice, ...]:
    """The part of a broadcast grid of points outside which no point lies between ``low`` and ``high`` (x, y, z)."""
    shape = np.broadcast_shapes(*(p.shape for p in points))
    begin, end = [0] * len(shape), list(shape)
    for p, a, b in zip(points, np.asarray(low, float), np.asarray(high, float)):
        within = (p >= a) & (p <= b)
        for axis, length in enumerate(p.shape):
            if length > 1:
                hit = np.flatnonzero(within.any(axis=tuple(k for k in range(p.ndim) if k != axis)))
                begin[axis] = max(begin[axis], int(hit[0]) if len(hit) else length)
                end[axis] = min(end[axis], int(hit[-1]) + 1 if len(hit) else 0)
    return tuple(slice(i, max(i, j)) for i, j in zip(begin, end))


def near(values: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    """The part of broadcastable ``values`` that belongs to ``box``."""
    return values[tuple(s if n > 1 else slice(None) for s, n in zip(box, values.shape))]


def draw_thoraces(
    person: Draws, day: Draws, age: np.ndarray, male: np.ndarray, enlarged: np.ndarray, lying: np.ndarray
) -> list[Thorax]:
    """Bodies for people of that age and sex. ``person`` holds what stays, ``day`` what changes from one image to
    the next: the depth of the breath, shallow in those ``lying`` (bool). enlarged: whose heart is. It takes about
    4,120 columns of ``person`` and 2 of ``day``."""
    n = person.n
    older = (age - 55) / 20
    height = np.where(male, 1.0, 0.925) * person.lognormal(1.0, 0.05)
    girth = person.normal(0, 1)
    width = np.where(male, 1.0, 0.92) * np.exp(0.045 * girth + 0.02 * person.normal())
    depth = np.where(male, 1.0, 0.92) * np.exp(0.06 * girth + 0.04 * person.normal() + 0.02 * older)
    fat = np.clip(np.where(male, 13.0, 16.0) * np.exp(0.45 * girth + 0.25 * person.normal()), 4, 60)
    breast = np.where(male, 0.0, np.clip(48 * np.exp(0.18 * girth + 0.16 * person.normal()), 30, 85))
    heart = np.exp(0.055 * person.normal() + 0.35 * np.log(width * height) + 0.03 * older + 0.02 * girth)
    growth = person.normal(0.2, 0.1)
    heart = heart * np.exp(np.where(enlarged, np.clip(growth, 0.05, 0.5), 0.0))
    heart = np.minimum(heart, 1.42 * width)
    tilt = np.where(enlarged, -6.0, 0.0) + 35 + 6 * person.normal() - 4 * girth
    arch = np.exp(0.07 * person.normal() + 0.11 * older)
    bone = np.exp(0.12 * person.normal() - 0.16 * np.maximum(older, 0) * np.where(male, 0.6, 1.2))
    vessels = person.lognormal(1.0, 0.10)
    density = np.exp(0.12 * person.normal() - 0.04 * older)
    gas = np.clip(person.normal(0.55, 0.45), 0, 1.6)
    gap = np.clip(person.normal(14, 5), 2, 28)
    shape = person.uniform(shape=(TEXTURE,))
    breath = np.clip(day.normal(0.72, 0.20) - 0.35 * lying, 0, 1)
    jitter = day.normal(0, 3)
    right = (-62 - 42 * breath) * height + jitter
    return [
        Thorax(
            age=float(age[i]),
            male=bool(male[i]),
            height=float(height[i]),
            width=float(width[i]),
            depth=float(depth[i]),
            fat=float(fat[i]),
            breast=float(breast[i]),
            inspiration=float(breath[i]),
            domes=(float(right[i]), float(right[i] - gap[i])),
            heart=float(heart[i]),
            heart_tilt=float(tilt[i]),
            arch=float(arch[i]),
            bone=float(bone[i]),
            vessels=float(vessels[i]),
            density=float(density[i]),
            gas=float(gas[i]),
            shape=shape[i],
        )
        for i in range(n)
    ]
