"""Lesions of liver, lung and kidney: where they can lie, and their shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medfm.synthetic.ct_body import Trunk
from medfm.synthetic.draws import Draws

_TRIES, _MOST = 64, 3  # places tried for each lesion; most lesions of a kind in one person
# kind: radius range, mm; how many of the radii it lies below the organ's surface, at least
_SIZES = {
    "liver_lesion": (6.0, 26.0, 1.05),
    "lung_nodule": (4.5, 15.0, 1.1),
    "kidney_cyst": (7.0, 24.0, -0.2),
}
KINDS = tuple(_SIZES)


@dataclass(frozen=True)
class Lesion:
    """A round thing: centre and radius (mm), and the height of its bumps as shares of the radius, ``[3]``."""

    centre: np.ndarray
    radius: float
    bumps: np.ndarray

    @property
    def reach(self) -> float:
        return self.radius * (1 + float(np.abs(self.bumps).sum())) + 2

    def inside(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance inside, about mm."""
        dx, dy, dz = (v - np.float32(c) for v, c in zip((x, y, z), self.centre))
        n = np.float32(3 / self.radius)
        a, b, c = (np.float32(v) for v in self.bumps)
        bumps = a * np.sin(n * dx + 1) + b * np.sin(n * dy + 2) + c * np.sin(n * dz)
        return np.float32(self.radius) * (1 + bumps) - np.sqrt(dx * dx + dy * dy + dz * dz)


def draw_lesions(
    person: Draws, trunks: Sequence[Trunk], cond: dict[str, np.ndarray]
) -> list[dict[str, list[Lesion]]]:
    """Lesions by kind for each person; it takes about 1,770 columns."""
    tables = {
        name: (person.uniform(), person.uniform(shape=(_MOST, 4)), person.uniform(shape=(_MOST, _TRIES, 3)))
        for name in KINDS
    }
    out = []
    for i, trunk in enumerate(trunks):
        found: dict[str, list[Lesion]] = {}
        for name, (many, look, places) in tables.items():
            count = 0 if not cond[name][i] else 1 + int(many[i] > 0.6) + int(many[i] > 0.85)
            found[name] = []
            for k in range(count):
                if lesion := _place(trunk, name, look[i, k], places[i, k]):
                    found[name].append(lesion)
        out.append(found)
    return out


def _place(trunk: Trunk, name: str, look: np.ndarray, places: np.ndarray) -> Lesion | None:
    """The first place tried that lies deep enough in the organ, or the deepest one with a lesion that fits it."""
    low, high, below = _SIZES[name]
    radius = low + (high - low) * look[0] ** 1.6
    (first, last), organ = _organ(trunk, name)
    points = (first + (last - first) * places).astype(np.float32)
    depth = organ(*points.T)
    if name == "kidney_cyst":  # most bulge out of the kidney
        fits = np.flatnonzero((depth > 0) & (depth < 9))
    else:
        fits = np.flatnonzero(depth > below * radius + 2)
    at = int(fits[0]) if len(fits) else int(np.argmax(depth))
    if not len(fits):
        radius = min(radius, float(depth[at] - 2) / max(below, 1.0))
        if radius < low * 0.8:
            return None
    return Lesion(points[at].astype(float), float(radius), 0.09 * look[1:4] * (name != "kidney_cyst"))


def _organ(trunk: Trunk, name: str) -> tuple[tuple[np.ndarray, np.ndarray], Callable[..., np.ndarray]]:
    t = trunk.thorax
    if name == "lung_nodule":
        low = np.array([-120 * t.width, -75 * t.depth, t.domes[1] - 40])
        return (low, np.array([120 * t.width, 75 * t.depth, 100 * t.height])), t.pleural_space
    if name == "liver_lesion":
        low = np.array([-135 * t.width, -80 * t.depth, t.domes[0] - 150])
        return (low, np.array([50 * t.width, 80 * t.depth, t.domes[0]])), trunk.in_liver
    centres = [trunk.kidney_axes(s)[0] for s in (-1, 1)]
    reach = np.array([45.0, 40, 60])
    low, high = np.min(centres, axis=0) - reach, np.max(centres, axis=0) + reach
    return (low, high), lambda x, y, z: np.maximum(*(trunk.kidney(s, x, y, z)[0] for s in (-1, 1)))
