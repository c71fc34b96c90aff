"""What may be wrong in a chest, and where: fluid, consolidation, free air, nodules, collapsed plates, devices.

A finding is geometry in the patient's axes (mm). What it is called is decided later, from what it displaces
(:mod:`medfm.synthetic.radiograph`), not from the switch that drew it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.interpolate import PchipInterpolator

from medfm.synthetic.anatomy import Thorax
from medfm.synthetic.draws import Draws
from medfm.synthetic.skeleton import Tubes, joined, tube

DEVICES_IN_BODY = ("pacemaker", "tube", "line")
_CANDIDATES = 12
_NOWHERE = -60.0  # mm inside: far outside


@dataclass(frozen=True)
class Consolidation:
    """A patch of lung filled with fluid: centre, radius (mm), share of the air that is replaced, and the phases of
    its ragged border; floor or ceiling is a fissure that it does not cross (z, mm), where there is one."""

    centre: np.ndarray
    radius: float
    share: float
    ragged: np.ndarray
    floor: float = -np.inf

    def inside(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        dx, dy, dz = (v - np.float32(c) for v, c in zip((x, y, z), self.centre))
        r = np.sqrt((dx * dx + dy * dy) + np.float32(0.8) * (dz * dz))
        k, p = np.float32(4.2 / self.radius), self.ragged.astype(np.float32) * np.float32(2 * np.pi)
        border = np.sin(k * dx + p[0]) * np.sin(k * dz + p[1]) + np.sin(k * dy + p[2]) * np.sin(
            1.7 * k * dx + p[3]
        )
        out = np.float32(self.radius) * (1 + np.float32(0.22) * border) - r
        return np.minimum(out, z - np.float32(self.floor)) if np.isfinite(self.floor) else out


@dataclass(frozen=True)
class Findings:
    """Everything found in one chest on one day.

    effusion: height of the fluid's surface in the right and left chest, z in mm (-inf: dry); supine: the fluid lies
    at the back instead. pneumothorax: width of the free air beside the right and left lung at the apex, mm.
    nodules: centres and diameters, mm. plates: ends of collapsed, plate-like strips of lung. devices: names.
    """

    effusion: tuple[float, float] = (-np.inf, -np.inf)
    pneumothorax: tuple[float, float] = (0.0, 0.0)
    consolidation: tuple[Consolidation, ...] = ()
    nodules: tuple[tuple[np.ndarray, float], ...] = ()
    plates: tuple[np.ndarray, ...] = ()
    devices: tuple[str, ...] = ()
    wear: np.ndarray = field(default_factory=lambda: np.full(8, 0.5))

    def fluid(self, t: Thorax, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance below the surface of the fluid of that side, mm. Along the wall the surface rises: what is seen
        edge-on is a meniscus."""
        wall = np.maximum(t.hull(x, y, z), 0)
        climb = np.float32(38) * np.exp(wall * np.float32(-1 / 9)) + np.float32(22) * np.exp(
            wall * np.float32(-1 / 32)
        )
        right, left = (max(level, -1e4) for level in self.effusion)
        return (np.where(x < 0, right, left).astype(np.float32) + climb) - z

    def free_air(self, t: Thorax, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance inside the gap between chest wall and lung, mm: wide at the apex, narrow at the base."""
        high = np.clip((z + 110 * t.height) / (210 * t.height), 0, 1).astype(np.float32)
        # a small one gathers at the apex, a large one surrounds the lung
        right, left = (
            1.3 * w * high ** (0.6 if w > 25 else 1.6) - 8 * (1 - high) if w > 0 else np.array(_NOWHERE)
            for w in self.pneumothorax
        )
        return np.where(x < 0, right, left).astype(np.float32) - t.hull(x, y, z)

    def aerated(self, t: Thorax, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance inside what is still lung, mm."""
        inside = t.pleural_space(x, y, z)
        if max(self.effusion) > -np.inf:
            inside = np.minimum(inside, -self.fluid(t, x, y, z))
        if max(self.pneumothorax) > 0:
            inside = np.minimum(inside, -self.free_air(t, x, y, z))
        return inside

    def tubes(self, t: Thorax) -> dict[str, list[Tubes]]:
        """Devices and plates of collapsed lung, by name."""
        out = {"plate": [joined([tube(axis, 1.5, 9.0)], "soft", "lung") for axis in self.plates]}
        for name in self.devices:
            out[name] = [joined([part], *kind) for part, kind in _DEVICE[name](t, self.wear)]
        return {name: parts for name, parts in out.items() if parts}


Part = tuple[tuple[np.ndarray, ...], tuple[str, str]]


def _curve(knots: list[list[float]], step: float = 0.8) -> np.ndarray:
    """A smooth line through the knots, a point every ``step`` mm."""
    rough = PchipInterpolator(np.arange(len(knots)), np.array(knots, float))(
        np.linspace(0, len(knots) - 1, 200)
    )
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(rough, axis=0), axis=1))])
    even = np.linspace(0, along[-1], max(2, round(along[-1] / step)))
    return np.stack([np.interp(even, along, rough[:, k]) for k in range(3)], axis=1)


def _pacemaker(t: Thorax, u: np.ndarray) -> list[Part]:
    """A can under the left collarbone and one or two leads through the superior vena cava into the heart."""
    h, w = t.height, t.width
    _, _, b, middle = t.cage(np.array(60.0))
    front = float(middle - b) - 22
    can = np.array([(92 + 14 * u[0]) * w, front, (62 + 12 * u[1]) * h])
    depth = np.linspace(-4, 4, 5)[:, None] * (0, 1, 0)
    corners = [
        tube(can + np.array([dx, 0, dz]) + depth, r) for dx, dz, r in ((-7, 0, 17), (7, 0, 17), (0, -7, 18))
    ]
    connector = tube(can + np.linspace(-12, 12, 12)[:, None] * (1, 0, 0) + (0, 0, 16), 5.0, 1.2)
    heart = t.heart_parts
    tip = heart[0][0] + heart[0][2][0] * heart[0][1][0] * 0.62 + (0, -8, -6)
    atrium = heart[1][0] + (-10, -12, 22)
    vein = [
        [can[0] - 8, front + 4, can[2] + 18],
        [60 * w, front + 18, 84 * h],
        [24, -32, 84 * h],
        [-20, -20, 60 * h],
    ]
    leads = [tube(_curve([*vein, [-24, -16, 8 * h], [-20, -14, heart[1][0][2]], list(tip)]), 0.9)]
    if u[2] < 0.6:
        leads.append(
            tube(_curve([*vein, [-26, -16, 6 * h], list(atrium + np.array([8, 6, -20])), list(atrium)]), 0.9)
        )
    parts: list[Part] = [(c, ("can", "soft")) for c in corners]
    return [*parts, (connector, ("polymer", "soft")), *((lead, ("wire", "soft")) for lead in leads)]


def _tube(t: Thorax, u: np.ndarray) -> list[Part]:
    """A tube in the windpipe with its radio-opaque stripe; half of the time a feeding tube down to the stomach."""
    h = t.height
    end = (44 + 26 + 40 * (u[3] - 0.3)) * h
    wall = _curve([[2, -8, 230 * h], [1, -4, 170 * h], [-1, 13, end]])
    parts: list[Part] = [(tube(wall + np.array([3.5, 0, 0]), 0.9), ("stripe", "air"))]
    parts += [(tube(wall + np.array([dx, 0, 0]), 1.0), ("polymer", "air")) for dx in (-4.5, 4.5)]
    if u[4] < 0.5:
        low = t.domes[1]
        feeding = _curve(
            [[-3, 26, 230 * h], [4, 30, 60 * h], [6, 34, -40 * h], [14, 24, low + 10], [48, 0, low - 42]]
        )
        parts.append((tube(feeding, 1.1), ("stripe", "soft")))
    return parts


def _line(t: Thorax, u: np.ndarray) -> list[Part]:
    """A central venous catheter from the neck or the collarbone, its tip in the superior vena cava."""
    h = t.height
    tip = [-22 + 3 * (u[5] - 0.5), -20, (28 - 34 * u[6]) * h]
    if u[7] < 0.6:
        knots = [[-50, -14, 230 * h], [-42, -16, 150 * h], [-30, -24, 100 * h], [-23, -22, 70 * h], tip]
    else:
        knots = [
            [150, -60, 40 * h],
            [104, -62, 74 * h],
            [66, -52, 92 * h],
            [20, -36, 80 * h],
            [-20, -24, 62 * h],
            tip,
        ]
    return [(tube(_curve(knots), 1.0), ("stripe", "soft"))]


_DEVICE = {"pacemaker": _pacemaker, "tube": _tube, "line": _line}


def draw_findings(
    person: Draws, day: Draws, bodies: list[Thorax], cond: Mapping[str, np.ndarray]
) -> list[Findings]:
    """Place what ``cond`` (bool ``[n]`` by name) asks for. It takes 160 columns of ``person`` and 8 of ``day``."""
    side = person.chance(0.54)  # pneumonia, effusion and nodules are a little commoner on the right
    size = person.normal(shape=(8,)) + 0.35 * day.normal(shape=(8,))
    u = person.uniform(shape=(8,))
    spots = person.uniform(shape=(4, _CANDIDATES, 3))
    return [
        _place(t, {k: bool(v[i]) for k, v in cond.items()}, bool(side[i]), size[i], u[i], spots[i])
        for i, t in enumerate(bodies)
    ]


def _place(
    t: Thorax, cond: Mapping[str, bool], right: bool, size: np.ndarray, u: np.ndarray, spots: np.ndarray
) -> Findings:
    both = cond["effusion"] and u[0] < 0.3
    wet = [cond["effusion"] and (both or right == (k == 0)) for k in (0, 1)]
    levels = [t.domes[k] - 64 + 30 * float(np.exp(0.75 * size[k])) if wet[k] else -np.inf for k in (0, 1)]
    air = [0.0, 0.0]
    if cond["pneumothorax"]:
        air[int(not right)] = float(np.clip(13 * np.exp(0.6 * size[2]), 3, 70))
    patches, nodules, plates = [], [], []
    if cond["consolidation"]:
        radius = float(np.clip(36 * np.exp(0.35 * size[3]), 16, 75))
        centre = _spot(t, spots[0], -1.0 if right else 1.0, 14.0)
        floor = centre[2] - 0.45 * radius if u[1] < 0.3 else -np.inf
        patches.append(Consolidation(centre, radius, 0.45 + 0.5 * u[2], u[3:7], floor))
        if u[7] < 0.25:
            other = _spot(t, spots[1], 1.0 if right else -1.0, 14.0)
            patches.append(Consolidation(other, 0.8 * radius, 0.4 + 0.4 * u[2], u[2:6]))
    if cond["nodule"]:
        diameter = float(np.clip(15 * np.exp(0.42 * size[4]), 4, 32))
        nodules.append((_spot(t, spots[2], -1.0 if u[4] < 0.55 else 1.0, diameter / 2 + 2), diameter))
    if cond["atelectasis"]:
        s = -1.0 if u[5] < 0.5 else 1.0
        low = t.domes[0 if s < 0 else 1] + 16 + 22 * u[6]
        x = s * (52 + np.linspace(0, 1, 60) * (38 + 22 * u[3])) * t.width
        plates.append(np.stack([x, 0 * x + 20, low + 0.18 * (np.abs(x) - 52) * (u[2] - 0.3) * 2], -1))
    return Findings(
        effusion=(levels[0], levels[1]),
        pneumothorax=(air[0], air[1]),
        consolidation=tuple(patches),
        nodules=tuple(nodules),
        plates=tuple(plates),
        devices=tuple(name for name in DEVICES_IN_BODY if cond[name]),
        wear=u,
    )


def _spot(t: Thorax, u: np.ndarray, side: float, margin: float) -> np.ndarray:
    """The first of some random points that lies at least ``margin`` mm deep in the lung; else the deepest."""
    low = t.domes[0 if side < 0 else 1] - 10
    z = low + (105 * t.height - low) * u[:, 0]
    a, m, b, middle = t.cage(z)
    r, phi = np.sqrt(u[:, 1]), 2 * np.pi * u[:, 2]
    points = np.stack(
        [side * ((a + m) / 2 + (a - m) / 2 * r * np.cos(phi)), middle + b * r * np.sin(phi), z], -1
    )
    depth = t.pleural_space(*points.astype(np.float32).T)
    deep = np.flatnonzero(depth >= margin)
    return points[deep[0] if len(deep) else int(np.argmax(depth))]
