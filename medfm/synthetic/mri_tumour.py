"""A glioma: where it lies, its shape, and what it is made of.

The core is a bumpy ball. Within it voxels are ranked by how deep they lie, plus noise; the deepest share is necrosis, the
next enhances, the rest is solid and does not. Oedema follows the white matter around. Labels are those of BraTS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medfm.synthetic.draws import Draws
from medfm.synthetic.mri_brain import mix
from medfm.synthetic.mri_head import Head, hull
from medfm.synthetic.mri_shapes import fill, wave
from medfm.synthetic.mri_subjects import People
from medfm.synthetic.mri_tissues import ID

BACKGROUND, CORE, OEDEMA, ENHANCING = 0, 1, 2, 4  # core: necrosis and what does not enhance
_TRIES, _WAVES = 40, 14
_PUSH = 0.3  # how far the brain around is pushed, as a share of the distance, at the tumour's middle
_LOW, _HIGH = np.array([-58, -85, -32]), np.array([58, 58, 62])


@dataclass(frozen=True)
class Tumour:
    """centre: atlas coordinates, mm. radius: of the core, mm; axes: factors along the axes; bumps, grain: wave tables
    ``[K, 4]``; necrosis, enhancing: shares of the core; spread: reach of the oedema, mm."""

    centre: np.ndarray
    radius: float
    axes: np.ndarray
    bumps: np.ndarray
    grain: np.ndarray
    necrosis: float
    enhancing: float
    spread: float

    @property
    def side(self) -> float:
        return float(np.sign(self.centre[0]))

    def push(self, p: np.ndarray) -> np.ndarray:
        """Where what lies at ``p [N, 3]`` was before the tumour pushed it."""
        away = p - self.centre.astype(np.float32)
        far = (away**2).sum(1) / np.float32((1.7 * self.radius) ** 2)
        return p - away * (np.float32(_PUSH) * np.exp(-far))[:, None]

    def depth(self, p: np.ndarray) -> np.ndarray:
        """mm below the surface of the core, about."""
        away = (p - self.centre.astype(np.float32)) / self.axes.astype(np.float32)
        return np.float32(self.radius) * (1 + 0.13 * wave(p, self.bumps)) - np.sqrt((away**2).sum(1))


def draw_tumours(d: Draws, people: People, heads: list[Head]) -> list[Tumour | None]:
    """It takes 240 columns. The first place tried that lies deep enough in a hemisphere and off the midline is taken."""
    places = d.uniform(shape=(_TRIES, 3))
    axes = d.lognormal(1, 0.12, (3,))
    waves = []
    for low, high in ((1.0, 2.0), (0.35, 0.9)):  # wavelengths, as shares of the core's diameter
        z, turn = d.uniform(-1, 1, (_WAVES,)), d.uniform(0, 2 * np.pi, (_WAVES,))
        length = d.uniform(low, high, (_WAVES,)) * 2 * people.radius[:, None]
        flat = np.sqrt(1 - z**2)
        k = 2 * np.pi / length
        phase = d.uniform(0, 2 * np.pi, (_WAVES,))
        waves.append(np.stack([k * flat * np.cos(turn), k * flat * np.sin(turn), k * z, phase], -1))
    out: list[Tumour | None] = []
    for i, head in enumerate(heads):
        radius = float(people.radius[i])
        points = (_LOW + (_HIGH - _LOW) * places[i]).astype(np.float32)
        depth = hull(points, head.rim).cerebrum
        score = np.minimum(depth - 0.75 * radius, 1.5 * (np.abs(points[:, 0]) - 0.75 * radius - 4))
        fits = np.flatnonzero(score > 0)
        at = int(fits[0]) if len(fits) else int(np.argmax(score))
        found = Tumour(
            *(points[at].astype(float), radius, axes[i] / np.cbrt(axes[i].prod())),
            *(w[i].astype(np.float32) for w in waves),
            *(float(v[i]) for v in (people.necrosis, people.enhancing, people.oedema)),
        )
        out.append(found if people.tumour[i] else None)
    return out


def grow(tumour: Tumour, shares: np.ndarray, p: np.ndarray, q: np.ndarray, edge: float) -> None:
    """Put the tumour into the shares ``[T, N]`` of the voxels at ``p``; ``q``: as :meth:`Tumour.push` has it."""
    reach = 1.6 * tumour.radius + 2.2 * tumour.spread + 2 * edge
    here = np.flatnonzero((np.abs(p - tumour.centre.astype(np.float32)) < reach).all(1))
    part, near = shares[:, here], p[here]
    depth = tumour.depth(near)
    # it keeps to its side of the midline, and out of the fluid around the brain
    tissue = 1 - part[ID["csf"]]
    own = fill(tumour.side * q[here, 0] - 0.5, edge)
    core = fill(depth, edge) * own * np.minimum(1, 2.5 * tissue + fill(depth - 4, 4))
    grain = wave(near, tumour.grain)
    fingers = np.float32(tumour.spread) * (1 + 0.45 * wave(near, tumour.bumps)) + depth
    white = np.clip(part[ID["white"]] + 0.6 * part[ID["gliosis"]], 0, 1)
    around = fill(fingers, max(edge, 2.5)) * (white + 0.12 * part[ID["grey"]] + 0.2 * part[ID["deep"]])
    around *= 1 - 0.3 * np.clip(-depth / np.float32(2 * tumour.spread), 0, 1)  # it thins out
    mix(part, "oedema", around * own)
    mix(part, "tumour", core)
    inner = core > 0.5
    if inner.any():
        patchy = 0.18 + 0.25 * (1 - tumour.enhancing)
        rank = np.minimum(depth, 0.7 * tumour.radius) + np.float32(patchy * tumour.radius) * grain
        dead, alive = np.quantile(rank[inner], [1 - tumour.necrosis, 1 - tumour.necrosis - tumour.enhancing])
        mix(part, "enhancing", fill(rank - np.float32(alive), edge) * core)
        mix(part, "necrosis", fill(rank - np.float32(dead), edge) * core)
    shares[:, here] = part


def labels(shares: np.ndarray) -> np.ndarray:
    """BraTS labels ``[N]`` uint8: the commonest of what a voxel holds of the tumour, where that is more than half of it."""
    solid = shares[ID["tumour"]] + shares[ID["necrosis"]]
    swollen, bright = shares[ID["oedema"]], shares[ID["enhancing"]]
    kind = np.argmax(np.stack([solid, swollen, bright]), 0)
    out = np.array([CORE, OEDEMA, ENHANCING], np.uint8)[kind]
    out[solid + swollen + bright <= 0.5] = BACKGROUND
    return out
