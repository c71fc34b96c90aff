"""The trunk as CT needs it: the thorax of :mod:`medfm.synthetic.anatomy`, closed below by an abdomen.

Solids are signed distances, about mm, positive inside, in the body's axes (x to the patient's left, y to the back, z
to the head, origin at the height of the hila). The liver is what the diaphragm, the ribs and its neighbours leave it,
and its lower surface is moved until it has the volume drawn for it; the spleen grows in the same way.
Volumes of adults are textbook ranges, rounded: liver 1.0 to 2.2 l, spleen 0.08 to 0.35 l, kidney 0.1 to 0.25 l.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.interpolate import PchipInterpolator

from medfm.synthetic.anatomy import Thorax
from medfm.synthetic.draws import Draws
from medfm.synthetic.skeleton import vertebra_height

SHAPE = 96  # numbers a person for what is only shape: bends of organs, paths of the bowel
_COARSE = 5.0  # mm; the grid on which an organ's volume is set
_LIVER_DEPTH = np.array(  # x over the width; how far the lower surface lies below the dome, mm
    [
        [-160, 132],
        [-120, 150],
        [-95, 156],
        [-60, 146],
        [-25, 116],
        [10, 92],
        [45, 76],
        [75, 54],
        [100, 30],
        [130, 6],
    ]
)


def smooth_min(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """The smaller of two distances, with the edge between the solids rounded over k mm."""
    return np.minimum(a, b) - np.maximum(k - np.abs(a - b), 0) ** 2 / np.float32(4 * k)


def ellipsoid(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: object, radii: object, axes: object = None
) -> np.ndarray:
    """Distance inside an ellipsoid, about mm; ``axes``: rows, orthonormal."""
    c, r = np.asarray(centre, np.float32), np.asarray(radii, np.float32)
    dx, dy, dz = x - c[0], y - c[1], z - c[2]
    if axes is None:
        q = np.sqrt((dx / r[0]) ** 2 + (dy / r[1]) ** 2 + (dz / r[2]) ** 2)
    else:
        a = np.asarray(axes, np.float32) / r[:, None]
        q = np.sqrt(sum((k[0] * dx + k[1] * dy + k[2] * dz) ** 2 for k in a))
    return (1 - q) * r.min()


def chain(x: np.ndarray, y: np.ndarray, z: np.ndarray, points: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Distance inside the union of balls along a path."""
    out = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), np.float32(-99))
    for (cx, cy, cz), r in zip(points.astype(np.float32), radius.astype(np.float32)):
        d = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2
        np.maximum(out, r - np.sqrt(d), out=out)
    return out


def path(knots: object, n: int) -> np.ndarray:
    """n points on a smooth line through ``knots [K, 3]``."""
    k = np.asarray(knots, float)
    return PchipInterpolator(np.arange(len(k)), k)(np.linspace(0, len(k) - 1, n))


@dataclass(frozen=True)
class Trunk:
    """One person on one day. liver, spleen, kidneys (right, left): ml; bulge: radius of an aneurysm (mm, 0 for none)
    and its height; meal: size of the stomach; effusion: depth of fluid behind the right and the left lung, mm (0 for
    none); shape: uniforms ``[SHAPE]``."""

    thorax: Thorax
    liver: float
    spleen: float
    kidneys: tuple[float, float]
    bulge: tuple[float, float]
    meal: float
    effusion: tuple[float, float]
    shape: np.ndarray

    # --- walls -----------------------------------------------------------------------------------------------

    def skin(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, fat: bool) -> np.ndarray:
        """Distance inside the body (``fat``) or the muscles under the fat; the back is flatter than the front."""
        a, b = (v.astype(np.float32) for v in self.thorax.outline(z, fat))
        back = np.where(y > 12, np.float32(0.88), np.float32(1.0))
        u, v = np.abs(x) / a, np.abs(y - 12) / (b + 12)
        v *= back + (1 - back) * v
        out = (1 - (u**2.3 + v**2.3) ** np.float32(1 / 2.3)) * np.minimum(a, b)
        return out

    def breasts(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        t = self.thorax
        r = t.breast
        _, b = t.outline(np.array([-52.0 * t.height]), True)
        y0 = -float(b[0]) * 0.74
        return np.maximum(
            *(
                ellipsoid(
                    x, y, z, (s * 86 * t.width, y0, -(45 + 0.25 * r) * t.height), (1.1 * r, 0.72 * r, r)
                )
                for s in (-1, 1)
            )
        )

    def cavity(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance inside the walls of chest and belly."""
        a, _, b, middle = (v.astype(np.float32) for v in self.thorax.cage(z))
        u, v = np.abs(x) / a, np.abs(y - middle) / np.maximum(b, 1)
        return (1 - (u**2.5 + v**2.5) ** np.float32(0.4)) * np.minimum(a, np.maximum(b, 1))

    def under_diaphragm(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance below the diaphragm: the domes of the lungs, joined smoothly under the heart."""
        t = self.thorax
        right, left = t.domes
        top = left + (right - left) / (1 + np.exp(x * np.float32(1 / 12)))
        u = (np.abs(x) - 62 * t.width) / (88 * t.width)
        u = np.where(u < 0, u * np.float32(0.78), u)
        v = (y + 14 * t.depth) / (104 * t.depth)
        r2 = u * u + v * v
        surface = top - np.float32(66 + 10 * t.inspiration) * (1 - np.sqrt(np.maximum(1 - 0.97 * r2, 0)))
        surface -= np.float32(30) * np.maximum(r2 - 1, 0)
        return (surface - z) * np.float32(0.8) - 2

    # --- landmarks -------------------------------------------------------------------------------------------

    def spine_front(self, z: np.ndarray | float) -> np.ndarray:
        """y of the front of the vertebral bodies."""
        _, _, b, middle = self.thorax.cage(np.asarray(z, float))
        return middle + b - 12 - 17

    def vertebra(self, k: float) -> float:
        """Height of thoracic vertebra k + 1; 12 is the first lumbar one."""
        return float(vertebra_height(self.thorax, np.array(k)))

    @cached_property
    def aorta(self) -> tuple[np.ndarray, np.ndarray]:
        """Axis ``[N, 3]`` and radius: ascending, arch, and down to L4 on the left of the spine's front."""
        t = self.thorax
        k, h, wide = t.arch, t.height, 1 + 0.6 * (t.arch - 1)
        low = np.linspace(30.0, -235.0, 14) * h
        at = -low / h
        across = np.interp(
            at, [-30, 5, 40, 90, 140, 190, 235], [25 * wide, 25 * wide, 22 * wide, 18 * wide, 13, 9, 7]
        )
        taper = np.interp(at, [-30, 5, 40, 90, 140, 190, 235], [13, 12.7, 12.3, 11.8, 10.8, 9.5, 8.5])
        radius_low = taper * (0.45 + 0.55 * k) * (0.55 + 0.45 * h)
        if self.bulge[0]:
            swell = np.exp(-(((low - self.bulge[1]) / 34) ** 2))
            radius_low = radius_low + (self.bulge[0] - radius_low) * swell
        down = np.stack([across, self.spine_front(low) - radius_low - 1, low], -1)
        up = np.array([[-4, -26, -30], [-12, -26, 18], [-5, -13, 46], [12 * wide, 8, 57]]) * (1, t.depth, h)
        radius_up = np.array([15, 15.5, 14.5, 13.5]) * (0.4 + 0.6 * k) * (0.55 + 0.45 * h)
        axis = path(np.concatenate([up, down]), 260)
        radius = np.interp(np.linspace(0, 17, 260), np.arange(18), np.concatenate([radius_up, radius_low]))
        return axis, radius

    # --- organs ----------------------------------------------------------------------------------------------

    def kidney_axes(self, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centre, radii and axes (rows) of a kidney; side -1 is the right one, a little lower than the left."""
        t = self.thorax
        ml = self.kidneys[0 if side < 0 else 1]
        s = (ml / 131) ** (1 / 3)
        u = self.shape[8:12] if side < 0 else self.shape[12:16]
        breath = float(np.clip(0.6 * (t.domes[0] + 98 * t.height), -26, 14))  # they move with the diaphragm
        z = self.vertebra(12.9 if side < 0 else 12.35) + 14 * (u[0] - 0.5) + breath
        lean, pitch = np.deg2rad(12 + 10 * u[1]), np.deg2rad(10 + 8 * u[2])
        up = np.array([-side * np.sin(lean), np.sin(pitch), np.cos(lean)])
        up /= np.linalg.norm(up)
        out = np.cross((0.0, 1.0, 0.0), up)
        out /= np.linalg.norm(out)
        x = side * (62 + 6 * u[3]) * (0.3 + 0.7 * t.width)
        y = float(self.spine_front(z)) + 1 + 4 * u[2]
        return np.array([x, y, z]), np.array([27.5, 27.0, 54.0]) * s, np.stack([out, np.cross(up, out), up])

    def kidney(self, side: int, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance inside a kidney with its sinus, and inside the sinus, which opens towards the spine."""
        centre, r, axes = self.kidney_axes(side)
        long = axes[2].astype(np.float32)
        along = (
            (x - np.float32(centre[0])) * long[0]
            + (y - np.float32(centre[1])) * long[1]
            + (z - np.float32(centre[2])) * long[2]
        )
        # a bean: the middle bows away from the spine
        bow = np.float32(7 * side) * (1 - (along / np.float32(r[2])) ** 2)
        whole = ellipsoid(x - bow, y, z, centre - (3 * side, 0, 0), r, axes)
        hilum = centre - side * axes[0] * 21.0 * (r[0] / 27.5) * np.sign(axes[0][0])
        sinus = ellipsoid(x, y, z, hilum, np.array([21.0, 9.0, 22.0]) * (r[0] / 27.5), axes)
        return smooth_min(whole, -sinus, 4), np.minimum(sinus, whole + 2)

    def near_kidney(self, side: int, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance inside the room of a kidney, its sinus filled."""
        centre, r, axes = self.kidney_axes(side)
        return ellipsoid(x, y, z, centre + np.array([2 * side, 0, 0]), r + 2, axes)

    def _liver_room(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance inside the walls, and height above a lower surface that is yet to be moved."""
        t = self.thorax
        u = self.shape[:8].astype(np.float32)
        wall = np.minimum(self.cavity(x, y, z) - 4, self.under_diaphragm(x, y, z))
        behind = (
            np.interp(x / t.width, [-40, -5, 20, 50, 90], [200, 52, 20, 0, -22]).astype(np.float32) * t.depth
        )
        wall = smooth_min(wall, (behind - y) * np.float32(0.8), 14)
        wall = smooth_min(wall, (np.float32((78 + 40 * u[4]) * t.width) - x) * np.float32(0.7), 20)
        wall = np.minimum(wall, -self.near_kidney(-1, x, y, z) - 4)
        # the fissure of the ligament between the lobes
        fissure = ellipsoid(
            x, y, z, ((-12 + 8 * u[5]) * t.width, -62 * t.depth, t.domes[0] - 105), (5, 34, 42)
        )
        wall = np.minimum(wall, -fissure)
        depth = np.interp(x / t.width, *_LIVER_DEPTH.T).astype(np.float32) * np.float32(t.height)
        lower = np.float32(t.domes[0]) - depth + np.float32(0.42) * (y + 15)
        lower = lower - np.float32(10) * (u[6] - np.float32(0.3)) * np.exp(-(((x + 105) / 30) ** 2)).astype(
            np.float32
        )
        lower = lower + np.float32(4) * np.sin(x * np.float32(0.05) + 6 * u[7]) * np.sin(
            y * np.float32(0.045)
        )
        return wall, (z - lower) * np.float32(0.85)

    @cached_property
    def _coarse(self) -> tuple[np.ndarray, ...]:
        t = self.thorax
        x = np.arange(-150.0, 150, _COARSE)[:, None, None] * max(t.width, 1)
        y = np.arange(-110.0, 110, _COARSE)[None, :, None] * max(t.depth, 1)
        z = np.arange(-260.0, -40, _COARSE)[None, None, :] * t.height
        ml = _COARSE**3 / 1000 * max(t.width, 1) * max(t.depth, 1) * t.height
        return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32), np.array(ml)

    @cached_property
    def _liver_shift(self) -> np.float32:
        x, y, z, ml = self._coarse
        x = x[x[:, 0, 0] < 110]
        wall, above = self._liver_room(x, y, z)
        wall = np.minimum(wall, -self.thorax.in_heart(x, y, z) - 3)
        return _level(
            np.broadcast_to(above, wall.shape)[wall > 0], 1.05 * self.liver / float(ml)
        )  # rounding and vessels take a part

    def in_liver(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        wall, above = self._liver_room(x, y, z)
        return smooth_min(wall, above - self._liver_shift, 12)

    @property
    def spleen_centre(self) -> np.ndarray:
        t = self.thorax
        u = self.shape[16:20]
        return np.array([(100 + 8 * u[0]) * t.width, (42 + 12 * u[1]) * t.depth, t.domes[1] - 54 - 14 * u[2]])

    def _spleen_room(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        c = self.spleen_centre
        lean = np.deg2rad(25 + 25 * self.shape[19])
        long = np.array([0.25, -np.sin(lean), -np.cos(lean)])
        long /= np.linalg.norm(long)
        flat = np.cross(long, (0.0, 1.0, 0.0))
        flat /= np.linalg.norm(flat)
        body = ellipsoid(x, y, z, c, (27, 36, 52), np.stack([flat, np.cross(long, flat), long]))
        hollow = 55 - np.sqrt((x - c[0] + 66) ** 2 + (y - c[1] + 30) ** 2 + (z - c[2] + 5) ** 2)
        body = smooth_min(body, -hollow, 14)
        wall = np.minimum(self.cavity(x, y, z) - 4, self.under_diaphragm(x, y, z))
        return np.minimum(wall, -self.near_kidney(1, x, y, z) - 4), body

    @cached_property
    def _spleen_shift(self) -> np.float32:
        x, y, z, ml = self._coarse
        x = x[x[:, 0, 0] > 0]
        wall, body = self._spleen_room(x, y, z)
        return _level(body[wall > 0], self.spleen / float(ml))

    def in_spleen(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        wall, body = self._spleen_room(x, y, z)
        return smooth_min(wall, body - self._spleen_shift, 6)

    @cached_property
    def stomach(self) -> tuple[np.ndarray, np.ndarray]:
        """Balls from the fundus under the left dome to the pylorus."""
        t = self.thorax
        u = self.shape[20:26]
        w, d, top = t.width, t.depth, t.domes[1]
        knots = [
            [(56 + 10 * u[0]) * w, (30 + 8 * u[1]) * d, top - 34],
            [(64 + 8 * u[0]) * w, (2 + 10 * u[1]) * d, top - 52],
            [(62 + 10 * u[2]) * w, -30 * d, top - 88 - 10 * u[3]],
            [(34 + 12 * u[2]) * w, -46 * d, top - 118 - 20 * u[3]],
            [0, -40 * d, top - 116 - 16 * u[4]],
            [-24 * w, -26 * d, top - 106 - 10 * u[4]],
        ]
        size = np.array([38, 39, 31, 24, 18, 13]) * (0.74 + 0.45 * self.meal)
        return path(knots, 16), np.interp(np.linspace(0, 5, 16), np.arange(6), size)

    def colon(self) -> tuple[np.ndarray, np.ndarray]:
        """Balls along the ascending, transverse and descending colon, with their pouches."""
        t = self.thorax
        u = self.shape[26:36]
        w, d, h = t.width, t.depth, t.height
        low = t.domes[0]
        knots = [
            [-98 * w, (4 + 14 * u[0]) * d, -300 * h],
            [-100 * w, 14 * d, -255 * h],
            [-92 * w, 0, low - (150 + 16 * u[1]) * h],
            [-50 * w, -58 * d, low - (160 + 25 * u[2]) * h],
            [0, -68 * d, low - (158 + 40 * u[3]) * h],
            [60 * w, -58 * d, low - (130 + 30 * u[4]) * h],
            [98 * w, -18 * d, low - (84 + 20 * u[5]) * h],
            [108 * w, 30 * d, low - (120 + 10 * u[5]) * h],
            [104 * w, 44 * d, -225 * h],
            [98 * w, 38 * d, -300 * h],
        ]
        n = 90
        radius = np.interp(np.linspace(0, 9, n), np.arange(10), [25, 25, 22, 20, 18, 18, 17, 16, 14, 14])
        radius = radius * (0.8 + 0.4 * u[6]) * (1 + 0.13 * np.sin(np.arange(n) * 1.9))
        return path(knots, n), radius


def _level(values: np.ndarray, count: float) -> np.float32:
    """The level above which ``count`` of the values lie."""
    k = int(np.clip(len(values) - round(count), 0, len(values) - 1))
    return np.float32(np.partition(values, k)[k])


def held(t: Thorax) -> Thorax:
    """The same chest with a breath of 3 to 7 l in it, which both lungs of an adult hold (textbook range, rounded): the
    diaphragm is moved where it holds less or more."""
    x, y, z = (
        np.arange(a, b, 8.0).astype(np.float32)
        for a, b in ((-170.0, 170.0), (-120.0, 130.0), (-250.0, 130.0))
    )
    space = t.pleural_space(x[:, None, None], y[None, :, None], z[None, None, :]) > 0
    litres = float(space.sum()) * 8.0**3 / 1e6
    base = float(space[:, :, z < min(t.domes) + 10].any(axis=2).sum()) * 64 / 1e6  # litres a mm
    down = float(np.clip((np.clip(litres, 3.1, 6.8) - litres) / max(base, 0.02), -45, 45))
    return replace(t, domes=(t.domes[0] - down, t.domes[1] - down)) if down else t


def draw_trunks(person: Draws, day: Draws, bodies: list[Thorax], cond: dict[str, np.ndarray]) -> list[Trunk]:
    """Abdomens for these bodies; it takes about 120 columns of ``person`` and 3 of ``day``."""
    size = np.array([b.width * b.depth * b.height for b in bodies])
    liver = np.clip(1500 * size**0.7 * np.exp(0.15 * person.normal()), 1080, 2080)
    spleen = np.clip(190 * size**0.6 * np.exp(0.30 * person.normal()), 95, 310)
    spleen = np.where(cond["splenomegaly"], person.uniform(420, 850), spleen)
    both = 158 * size**0.6 * np.exp(0.12 * person.normal())
    right, left = (np.clip(both * np.exp(0.05 * person.normal() + d), 112, 232) for d in (-0.02, 0.03))
    bulge, at = person.uniform(22, 31), person.uniform(-165, -30)
    fluid, side = person.uniform(22, 62), person.uniform()
    shape = person.uniform(shape=(SHAPE,))
    meal = day.uniform()
    more = day.lognormal(1, 0.1)
    out = []
    for i, t in enumerate(bodies):
        depth = float(fluid[i] * more[i]) if cond["effusion"][i] else 0.0
        sides = (depth if side[i] < 0.7 else 0.0, depth if side[i] > 0.4 else 0.0)
        swollen = (float(bulge[i]), float(at[i] * t.height)) if cond["aneurysm"][i] else (0.0, 0.0)
        out.append(
            Trunk(
                t,
                float(liver[i]),
                float(spleen[i]),
                (float(right[i]), float(left[i])),
                swollen,
                float(meal[i]),
                sides,
                shape[i],
            )
        )
    return out
