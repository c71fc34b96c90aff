"""Vessels of the lungs: trees that grow from the hila to targets spread through each lung.

The targets are halved again and again along alternating axes; a branch of level l runs to a point between the
hilum and the mean of its targets, the further out the deeper the level. Radii halve in about three levels.
"""

from __future__ import annotations

import numpy as np

from medfm.synthetic.anatomy import Field, Thorax
from medfm.synthetic.skeleton import SIDES, Tubes, joined, tube

_REACH = (0.0, 0.20, 0.35, 0.49, 0.62, 0.74, 0.84, 0.93, 1.0)
_RADIUS = (7.0, 6.0, 4.5, 3.2, 2.25, 1.65, 1.2, 0.85, 0.6)
_POINTS = (0, 14, 12, 10, 10, 9, 9, 9, 9)  # along a branch of each level


def vessels(t: Thorax, aerated: Field) -> Tubes:
    """Arteries and veins of both lungs: blood where there would be lung.

    aerated: distance inside what is still lung, mm; vessels end at its border.
    """
    h = t.height
    parts = []
    taken = 64
    for side in SIDES:
        for levels, root, wide in ((8, (32, 10, 0 if side < 0 else 14), 1.0), (7, (24, -4, -24), 0.85)):
            count = 2**levels
            u = t.shape[taken : taken + 4 * count].reshape(count, 4)
            taken += 4 * count
            hilum = np.array([side * root[0], root[1], root[2] * h])
            targets = _targets(t, side, u)
            parts += _tree(t, hilum, targets, levels, wide, u[:, 3])
    blood = joined(parts, "soft", "lung")
    inside = aerated(*blood.points.astype(np.float32).T)
    weight = np.clip(0.5 + inside / 3, 0, 1)
    keep = weight > 0
    return Tubes(blood.points[keep], blood.radius[keep], (blood.length * weight)[keep], "soft", "lung")


def _targets(t: Thorax, side: float, u: np.ndarray) -> np.ndarray:
    low = t.domes[0 if side < 0 else 1] - 35 * t.height
    z = low + (118 * t.height - low) * (1 - (1 - u[:, 0]) ** 0.8)
    a, m, b, middle = t.cage(z)
    r, phi = 0.95 * np.sqrt(u[:, 1]), 2 * np.pi * u[:, 2]
    return np.stack(
        [side * ((a + m) / 2 + (a - m) / 2 * r * np.cos(phi)), middle + b * r * np.sin(phi), z], -1
    )


def _tree(
    t: Thorax, hilum: np.ndarray, targets: np.ndarray, levels: int, wide: float, noise: np.ndarray
) -> list[tuple[np.ndarray, ...]]:
    parents = hilum[None]
    parts = []
    for level in range(1, levels + 1):
        groups = targets.reshape(2 ** (level - 1), -1, 3)
        order = np.argsort(groups[..., (2, 1, 0)[level % 3]], axis=1)
        groups = np.take_along_axis(groups, order[..., None], axis=1)
        targets = groups.reshape(2**level, -1, 3)
        depth = level + 8 - levels
        nodes = hilum + (targets.mean(axis=1) - hilum) * _REACH[depth]
        starts = np.repeat(parents, 2, axis=0)
        length = np.linalg.norm(nodes - starts, axis=1)
        k = np.arange(len(nodes))
        nodes = nodes + 0.16 * length[:, None] * (
            noise[(3 * k[:, None] + (7 * level, 1, 2)) % len(noise)] - 0.5
        )
        along = np.linspace(0, 1, _POINTS[depth])[:, None]
        axis = starts[:, None] + (nodes - starts)[:, None] * along
        # a gentle bow, so that branches leave their stem at an angle and straighten out
        axis[:, :, 2] += (
            (noise[(k + level) % len(noise)] - 0.5)[:, None]
            * length[:, None]
            * 0.25
            * np.sin(np.pi * along[:, 0])
        )
        # upright, the lower lobes get more blood than the upper ones
        flow = np.clip(1.0 - 0.0016 * (nodes[:, 2] - hilum[2]), 0.75, 1.2)
        radius = np.linspace(_RADIUS[depth - 1], _RADIUS[depth], len(along)) * wide * t.vessels
        parts.append(tube(axis, radius * flow[:, None]))
        parents = nodes
    return parts
