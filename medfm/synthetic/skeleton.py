"""Bones and airways of the thorax as tubes: ribs, spine, clavicles, shoulder blades, breastbone, windpipe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from medfm.synthetic.anatomy import Thorax

SIDES = (-1.0, 1.0)
_CORTEX = 1.3  # mm


@dataclass(frozen=True)
class Tubes:
    """Points along axes ``[N, 3]`` with ``radius [N]`` and ``length [N]`` (mm of axis that a point stands for, times
    the depth of a flattened tube over its width); what they hold, and the tissue that they replace."""

    points: np.ndarray
    radius: np.ndarray
    length: np.ndarray
    tissue: str
    instead: str


def tube(axis: np.ndarray, radius: np.ndarray | float, flat: float = 1.0) -> tuple[np.ndarray, ...]:
    """Points, radius and length of tubes whose axes are ``axis [..., M, 3]``."""
    step = np.linalg.norm(np.diff(axis, axis=-2), axis=-1)
    length = np.zeros(axis.shape[:-1])
    length[..., :-1] += step / 2
    length[..., 1:] += step / 2
    radius = np.broadcast_to(radius, length.shape)
    return axis.reshape(-1, 3), radius.reshape(-1), flat * length.reshape(-1)


def joined(parts: list[tuple[np.ndarray, ...]], tissue: str, instead: str) -> Tubes:
    points, radius, length = (np.concatenate(column) for column in zip(*parts))
    return Tubes(points, radius, length, tissue, instead)


def bones(t: Thorax, arms: bool = True) -> list[Tubes]:
    """The skeleton: tubes of cortical bone in soft tissue, and the marrow in them; without ``arms`` they are raised
    out of the picture."""
    parts = [*ribs(t), *spine(t), *shoulders(t, arms)]
    outer = joined(parts, "bone", "soft")
    # what is too thin for a cortex all round is compact bone
    core = outer.radius - _CORTEX * t.bone
    hollow = core > 0.8
    marrow = Tubes(outer.points[hollow], core[hollow], outer.length[hollow], "marrow", "bone")
    return [outer, marrow]


def ribs(t: Thorax) -> list[tuple[np.ndarray, ...]]:
    """Twelve on each side, axis by axis."""
    k = np.arange(12.0)[:, None]
    end = np.pi * np.array([0.86, 0.84, 0.83, 0.82, 0.80, 0.79, 0.77, 0.73, 0.69, 0.64, 0.47, 0.32])[:, None]
    drop = np.array([26, 42, 57, 70, 82, 92, 99, 104, 106, 104, 96, 90])[:, None] * (
        1.12 - 0.2 * t.inspiration
    )
    angle = 0.16 + (end - 0.16) * np.linspace(0, 1, 200)
    level = vertebra_height(t, k)
    share = angle / np.pi
    z = level + t.height * (5 * np.sin(np.minimum(share / 0.15, 1) * np.pi) - drop * share**1.25)
    a, _, b, middle = t.cage(z)
    x = (a + 5) * np.sin(angle) ** 0.82
    y = middle + (b + 5) * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.85
    y += 6 * np.exp(-((angle / 0.5) ** 2))
    for _ in range(2):  # out of the lungs, whose corners are squarer
        push = np.maximum(t.hull(x, y, z) + 4.5, 0) / np.hypot(x, y - middle)
        x, y = x * (1 + push), y + (y - middle) * push
    tilt = t.shape[:24].reshape(12, 2) - 0.5
    radius = np.array([6.0, 5.6, *[5.7] * 8, 5.0, 4.4])[:, None] * t.bone**0.5 * (0.85 + 0.15 * t.height)
    radius = radius * np.where(share > 0.6, 1.1, 1.0)
    return [
        tube(np.stack([s * x, y, z + 4 * tilt[:, j, None] * share], -1), radius, 0.72)
        for j, s in enumerate(SIDES)
    ]


def vertebra_height(t: Thorax, k: np.ndarray) -> np.ndarray:
    """Height of the middle of thoracic vertebra k + 1, mm."""
    return t.height * (119 - 19.0 * k - 0.26 * k * k)


def spine(t: Thorax, end: int = 16) -> list[tuple[np.ndarray, ...]]:
    """Vertebrae from C4 to the one before ``end`` (0: T1, 12: L1): bodies, pedicles and processes."""
    k = np.arange(-4.0, end)
    z = vertebra_height(t, k)
    _, _, b, middle = t.cage(z)
    y = np.where(k < 0, 22.0, middle + b - 12)
    wide = np.clip(24 + 1.2 * k, 20, 42) * (0.8 + 0.2 * t.width)
    tall = 0.42 * np.abs(np.gradient(z))
    across = np.linspace(-1, 1, 18)[None, :]

    def at(dx: np.ndarray, dy: float, dz: np.ndarray | float) -> np.ndarray:
        shape = np.broadcast_shapes(np.shape(dx), (len(k), 1))
        return np.stack([np.broadcast_to(v, shape) for v in (dx, y[:, None] + dy, z[:, None] + dz)], -1)

    reach = across * (wide / 2 - tall)[:, None]
    parts = [tube(at(reach, dy, 0), tall[:, None] * np.ones(18), 0.34) for dy in (-8, 0, 8)]
    back = np.linspace(0, 7, 6)[None, :]
    for s in SIDES:
        pedicle = at(s * 0.36 * wide[:, None] + 0 * back, 0, 0.15 * tall[:, None])
        pedicle[..., 1] += 12 + back
        parts.append(tube(pedicle, 3.8, 0.6))
        process = at(s * (wide[:, None] / 2 + np.linspace(-4, 15, 24)), 22, 3.0)
        parts.append(tube(process, 3.2))
    spinous = at(np.zeros((1, 16)), 38, -tall[:, None] * 0.4 - np.linspace(0, 12, 16)[None])
    parts.append(tube(spinous, 2.6, 2.5))
    return parts


def shoulders(t: Thorax, arms: bool) -> list[tuple[np.ndarray, ...]]:
    """Clavicles, shoulder blades, arms where asked for, and the breastbone."""
    h, w = t.height, t.width
    raised = 10 * (t.shape[30] - 0.5)
    out = 14 * (t.shape[31] - 0.35)  # how far the shoulders are rolled forward, off the lungs
    parts = []
    knots = np.array([[17, -62, 78], [50, -66, 86], [95, -46, 100], [135, -8, 110], [160, 4, 108]], float)
    for s in SIDES:
        axis = PchipInterpolator([0, 1, 2, 3, 4], knots + np.array([0, 0, raised]))(np.linspace(0, 4, 140))
        parts.append(
            tube(axis * (s * w, 1, h), np.interp(np.linspace(0, 1, 140), [0, 0.15, 0.5, 1], [9, 6, 5.5, 7]))
        )
        glenoid, upper, lower = (
            np.array(p) * (s * w, 1, h)
            for p in ([162 + out, 20, 88], [104 + out, 74, 104], [128 + out, 84, -42])
        )
        parts += [_plate(glenoid, upper, lower, 2.2)]
        for p, q, radius in ((glenoid, lower, 4.0), (upper, lower, 2.6), (upper, glenoid, 3.2)):
            line = p + (q - p) * np.linspace(0, 1, 110)[:, None]
            parts.append(tube(line, radius))
        spine = np.array([[110 + out, 80, 84], [150 + out, 62, 104], [178 + out, 20, 112]]) * (s * w, 1, h)
        parts.append(tube(PchipInterpolator([0, 1, 2], spine)(np.linspace(0, 2, 70)), 4.5))
        if not arms:
            continue
        head = np.array([186 + out, 8, 84]) * (s * w, 1, h)
        shaft = head + np.linspace(0, 1, 40)[:, None] * (s * 22, 0, -130)
        parts.append(tube(shaft, np.interp(np.linspace(0, 1, 40), [0, 0.12, 0.3, 1], [22, 21, 13, 11])))
    z = np.linspace(82, -62, 40) * h
    _, _, b, middle = t.cage(z)
    middle_line = np.stack([0 * z, np.minimum(middle - b - 8, -62), z], -1)
    parts.append(tube(middle_line, np.interp(z / h, [-62, 40, 60, 82], [13, 14, 18, 24]), 0.3))
    return parts


def _plate(a: np.ndarray, b: np.ndarray, c: np.ndarray, thick: float) -> tuple[np.ndarray, ...]:
    """A flat triangle of bone as many small discs of the same volume."""
    u, v = np.meshgrid(*[(np.arange(40) + 0.5) / 40] * 2)
    u, v = u.ravel(), v.ravel()
    inside = u + v < 1
    points = a + u[inside, None] * (b - a) + v[inside, None] * (c - a)
    area = np.linalg.norm(np.cross(b - a, c - a)) / 2 / len(points)
    radius = 4.0
    return points, np.full(len(points), radius), np.full(len(points), thick * area / (np.pi * radius**2))


def airways(t: Thorax) -> Tubes:
    """Windpipe and main bronchi: air in the mediastinum."""
    h = t.height
    lean = 4 * (t.shape[32] - 0.4)
    fork = np.array([-2 - lean, 16, 44 * h])
    windpipe = np.stack(
        [np.linspace(0, fork[0], 60), np.linspace(-8, fork[1], 60), np.linspace(200 * h, fork[2], 60)], -1
    )
    parts = [tube(windpipe, 8.6 if t.male else 7.2)]
    for s, end in zip(SIDES, ([-36, 14, 14 * h], [42, 20, 18 * h])):
        line = fork + (np.array(end) - fork) * np.linspace(0, 1, 30)[:, None]
        parts.append(tube(line, 6.4 if s < 0 else 5.6))
    return joined(parts, "air", "soft")
