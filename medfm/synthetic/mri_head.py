"""Whose head it is: size, shape, how it lies, how far it has aged, and the hull of its brain.

Coordinates are mm, RAS+, about those of the MNI atlas (origin near the anterior commissure).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medfm.synthetic.draws import Draws
from medfm.synthetic.mri_shapes import directions, ellipsoid, join

FOLD_MM = 23.0  # wavelength of the cortex: neighbouring sulci are half of it apart
_FOLDS, _WARPS, _DEPTHS = 30, 4, 5
_TURN = 3.5  # degrees, deviation of how a head lies


@dataclass(frozen=True)
class Head:
    """One person. size: factors along the axes; turn: rotation ``[3, 3]``; shift: mm; warp: ``[3, K, 4]`` amplitude-scaled
    waves (wave vector, phase) with ``amplitude [3, K]``; folds, depths: wave tables ``[K, 4]``; sulcus: half the width of
    a sulcus, ribbon: thickness of cortex, rim: fluid over the hull, mm; ventricles: factors of the radius on the left
    and on the right, third: half width of the third ventricle, mm; gliosis: reach around the ventricles, mm."""

    size: np.ndarray
    turn: np.ndarray
    shift: np.ndarray
    warp: np.ndarray
    amplitude: np.ndarray
    folds: np.ndarray
    depths: np.ndarray
    sulcus: float
    ribbon: float
    rim: float
    ventricles: tuple[float, float]
    third: float
    gliosis: float

    def anatomy(self, points: np.ndarray) -> np.ndarray:
        """Where voxels at ``[N, 3]`` lie in the atlas, float32 ``[N, 3]``."""
        p = ((points - self.shift) @ self.turn).astype(np.float32)
        p += np.stack(
            [np.sin(p @ w[:, :3].T + w[:, 3]) @ a for w, a in zip(self.warp, self.amplitude)], axis=-1
        )
        return p / self.size.astype(np.float32)


def draw_heads(d: Draws, pose: Draws, male: np.ndarray, atrophy: np.ndarray) -> list[Head]:
    """It takes 175 columns of ``d`` and 6 of ``pose``, which belongs to the day."""
    n = d.n
    size = d.lognormal(1, 0.03)[:, None] * d.lognormal(1, 0.025, (3,)) * np.where(male, 0.99, 0.94)[:, None]
    warp = np.concatenate(
        [directions(d, 3 * _WARPS, 75, 170), d.uniform(0, 2 * np.pi, (3 * _WARPS, 1))], -1
    ).reshape(n, 3, _WARPS, 4)
    amplitude = d.normal(0, 1.3, (3, _WARPS))
    folds = np.concatenate(
        [
            directions(d, _FOLDS, FOLD_MM * 0.94, FOLD_MM * 1.06),
            d.uniform(0, 2 * np.pi, (_FOLDS, 1)),
        ],
        -1,
    )
    depths = np.concatenate([directions(d, _DEPTHS, 40, 80), d.uniform(0, 2 * np.pi, (_DEPTHS, 1))], -1)
    wide = np.exp(0.17 * atrophy + d.normal(0, 0.12))
    tilt, spread = d.normal(0, 0.07), d.normal(shape=(4,))
    angles, shift = np.deg2rad(pose.normal(0, _TURN, (3,))), pose.normal(0, 3, (3,))
    out = []
    for i in range(n):
        a, s = float(atrophy[i]), spread[i]
        out.append(
            Head(
                size=size[i],
                turn=_rotation(angles[i]),
                shift=shift[i],
                warp=warp[i].astype(np.float32),
                amplitude=amplitude[i].astype(np.float32),
                folds=folds[i].astype(np.float32),
                depths=depths[i].astype(np.float32),
                sulcus=float(np.clip(0.62 + 0.33 * a + 0.10 * s[0], 0.2, 1.9)),
                ribbon=float(np.clip(3.2 - 0.16 * a + 0.12 * s[1], 2.1, 3.6)),
                rim=float(np.clip(1.2 + 0.8 * a + 0.3 * s[2], 0.6, 4.5)),
                ventricles=(float(wide[i] * (1 + tilt[i])), float(wide[i] * (1 - tilt[i]))),
                third=float(np.clip(1.9 + 0.9 * a, 0.9, 5.0)),
                gliosis=float(np.clip(0.4 + 1.7 * a + 1.1 * s[3], 0, 7)),
            )
        )
    return out


def _rotation(angles: np.ndarray) -> np.ndarray:
    out = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
        out = out @ turn
    return out


@dataclass(frozen=True)
class Hull:
    """Distances inside, float32 ``[N]``: of both hemispheres, the cerebellum, the stem, and all with the fluid around."""

    cerebrum: np.ndarray
    cerebellum: np.ndarray
    stem: np.ndarray
    whole: np.ndarray

    def of(self, voxels: np.ndarray) -> Hull:
        """Of these alone."""
        return Hull(*(v[voxels] for v in (self.cerebrum, self.cerebellum, self.stem, self.whole)))


def hull(p: np.ndarray, rim: float) -> Hull:
    """p: atlas coordinates ``[N, 3]``."""
    x, y, z = p.T
    narrow = 1 + 0.0014 * (y + 25)  # the brow is narrower than the back
    egg = np.stack([x * narrow, y, z], -1)
    main = ellipsoid(egg, (0, -17, 12), (66, 86, 64), 2.3)
    floor = z + np.where(y > 15, np.minimum(14 + 0.6 * (y - 15), 26), 14).astype(np.float32)
    main = -join(-main, -floor, 8)
    side = np.stack([np.abs(x), y, z + 0.18 * (y + 12)], -1)  # its pole lies deeper than its back
    lobe = ellipsoid(side, (40, -13, -20), (28, 43, 23))
    cerebrum = join(main, lobe, 6)
    half = ellipsoid(np.stack([np.abs(x), y, z], -1), (22, -63, -35), (33, 31, 26))
    cerebellum = np.minimum(join(half, ellipsoid(p, (0, -66, -33), (14, 27, 25)), 6), -cerebrum - 1.5)
    stem = join(
        ellipsoid(p, (0, -24, -32), (17, 14, 17)),
        np.maximum(ellipsoid(p, (0, -37, -52), (8.5, 8.5, 22)), ellipsoid(p, (0, -25, -10), (17, 14, 14))),
        6,
    )
    closed = join(join(cerebrum, cerebellum, 12), stem, 10)
    closed = join(closed, ellipsoid(p, (0, -6, -20), (22, 26, 13)), 10)  # the cisterns of the base
    return Hull(cerebrum, cerebellum, stem, closed + np.float32(rim))
