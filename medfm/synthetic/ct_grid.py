"""Where a scanner's voxels lie in a patient, and what falls into them: the pose on the table, solids and tubes.

A grid is in scanner axes (mm, x to the patient's left, y to the back, z to the head, as in
:mod:`medfm.synthetic.anatomy`); its arrays run the other way along the first two axes, so that they are RAS+. A body
lies rolled, askew and shifted on the table, and is bent by a few smooth waves, so that no two are scaled copies of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

Box = tuple[slice, slice, slice]
_BLOCK = 200_000  # pairs of a ball and a voxel that are looked at together
Points = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Pose:
    """roll: degrees about the long axis; lean: mm sideways and backwards a mm of height; shift: mm to the left and
    back, of the body's axis; waves: ``[2, K, 7]``, for the bend along x and along y: amplitude (mm), three wave numbers
    (radians a mm) and three phases."""

    roll: float
    lean: tuple[float, float]
    shift: tuple[float, float]
    waves: np.ndarray

    def bend(self, p: np.ndarray) -> np.ndarray:
        """``[N, 2]``: mm that the body is bent along x and y at scanner points ``[N, 3]``."""
        w = self.waves
        factors = np.sin(p[:, None, None, :] * w[..., 1:4] + w[..., 4:7]).prod(-1)
        return (factors * w[..., 0]).sum(-1)

    def to_scanner(self, points: np.ndarray) -> np.ndarray:
        """Where points of the body ``[N, 3]`` lie in the scanner, mm."""
        c, s = np.cos(np.deg2rad(self.roll)), np.sin(np.deg2rad(self.roll))
        out = np.array(points, np.float64)
        for _ in range(4):  # the bend is small and smooth: each round divides the error by about ten
            x, y = (points[:, :2] - self.bend(out)).T
            out[:, 0] = c * x - s * y + self.shift[0] + self.lean[0] * points[:, 2]
            out[:, 1] = s * x + c * y + self.shift[1] + self.lean[1] * points[:, 2]
        return out


@dataclass(frozen=True)
class Grid:
    """spacing: mm; shape: voxels; corner: scanner position (x, y, z) of the centre of voxel (0, 0, 0)."""

    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    corner: tuple[float, float, float]
    pose: Pose

    @property
    def affine(self) -> np.ndarray:
        """Voxel index to mm in RAS+."""
        out = np.diag([*self.spacing, 1.0])
        out[:3, 3] = -self.corner[0], -self.corner[1], self.corner[2]
        return out

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000

    @cached_property
    def scanner(self) -> Points:
        """x, y and z of the voxels in the scanner, float32 ``[X, 1, 1], [1, Y, 1], [1, 1, Z]``."""
        steps = (-self.spacing[0], -self.spacing[1], self.spacing[2])
        x, y, z = (
            (c + d * np.arange(n)).astype(np.float32) for c, d, n in zip(self.corner, steps, self.shape)
        )
        return x[:, None, None], y[None, :, None], z[None, None, :]

    @cached_property
    def body(self) -> Points:
        """x, y ``[X, Y, Z]`` and z ``[1, 1, Z]`` of the voxels in the body's own axes, float32."""
        u, v, z = self.scanner
        p = self.pose
        c, s = (np.float32(f(np.deg2rad(p.roll))) for f in (np.cos, np.sin))
        right = u - np.float32(p.shift[0]) - np.float32(p.lean[0]) * z
        back = v - np.float32(p.shift[1]) - np.float32(p.lean[1]) * z
        x, y = c * right + s * back, c * back - s * right
        for out, waves in ((x, p.waves[0]), (y, p.waves[1])):
            a, b, g = (
                np.sin(np.outer(waves[:, 1 + k], axis.ravel()) + waves[:, 4 + k, None]).astype(np.float32)
                for k, axis in enumerate((u, v, z))
            )
            plane = (waves[:, 0, None, None] * a[:, :, None] * b[:, None, :]).reshape(len(waves), -1)
            out += (plane.T.astype(np.float32) @ g).reshape(self.shape)
        return x, y, z

    def index(self, points: np.ndarray) -> np.ndarray:
        """Voxel coordinates, ``[N, 3]``, of points of the body."""
        steps = np.array([-self.spacing[0], -self.spacing[1], self.spacing[2]])
        return (self.pose.to_scanner(points) - self.corner) / steps

    def box(self, low: object, high: object) -> Box:
        """Voxels among which all lie that the body has between ``low`` and ``high`` (x, y, z)."""
        low, high = np.asarray(low, float), np.asarray(high, float)
        corners = np.stack(np.meshgrid(*zip(low, high), indexing="ij"), -1).reshape(-1, 3)
        flat = Pose(self.pose.roll, self.pose.lean, self.pose.shift, np.zeros((2, 1, 7)))
        at = Grid(self.spacing, self.shape, self.corner, flat).index(corners)
        reach = np.abs(self.pose.waves[..., 0]).sum(-1).max() / np.array([*self.spacing[:2], np.inf])
        first = np.floor(at.min(0) - reach).astype(int)
        last = np.ceil(at.max(0) + reach).astype(int) + 1
        a, b = np.clip(first, 0, self.shape), np.clip(last, 0, self.shape)
        x, y, z = (slice(int(i), int(max(i, j))) for i, j in zip(a, b))
        return x, y, z

    def points(self, box: Box) -> Points:
        """x, y, z of a box in the body's axes."""
        x, y, z = self.body
        return x[box], y[box], z[:, :, box[2]]

    @property
    def edge(self) -> float:
        """Over how many mm a surface is spread: a voxel's mean width."""
        return float(np.cbrt(np.prod(self.spacing)))

    def stamp(self, points: np.ndarray, radius: np.ndarray) -> tuple[Box, np.ndarray]:
        """Share of each voxel that lies in tubes given by points along their axes, ``(box, float32)``.

        points: ``[N, 3]`` in the body's axes, closer together than the tubes are wide. What is thinner than a voxel
        is as wide as one and weaker, so that its volume is kept.
        """
        at = self.index(points)
        # spread over a voxel, a disc of radius w has the area pi (w^2 + edge^2 / 12)
        wide = np.sqrt(np.maximum(radius**2 - self.edge**2 / 12, self.edge**2 / 4))
        reach = np.ceil((wide[:, None] + 0.5 * self.edge) / np.array(self.spacing)).astype(int)
        seen = np.all((at > -reach - 1) & (at < np.array(self.shape) + reach), axis=1)
        if not seen.any():
            return (slice(0, 0), slice(0, 0), slice(0, 0)), np.zeros((0, 0, 0), np.float32)
        at, wide, reach = at[seen], wide[seen], reach[seen]
        strength = np.minimum(3 * (radius[seen] / self.edge) ** 2, 1).astype(np.float32)
        # painted with a margin, so that no ball meets an end; the margin is cut off below
        first = np.floor((at - reach).min(0)).astype(int) - 1
        size = np.ceil((at + reach).max(0)).astype(int) + 2 - first
        share = np.zeros(int(np.prod(size)), np.float32)
        for group in np.unique(reach, axis=0):
            rows = np.flatnonzero((reach == group).all(1))
            self._deposit(share, size, at[rows] - first, wide[rows], strength[rows], group)
        begin, end = np.clip(first, 0, self.shape), np.clip(first + size, 0, self.shape)
        x, y, z = (slice(int(a), int(b)) for a, b in zip(begin, end))
        cut = tuple(slice(int(a), int(b)) for a, b in zip(begin - first, end - first))
        return (x, y, z), share.reshape(size)[cut]

    def _deposit(
        self,
        share: np.ndarray,
        size: np.ndarray,
        at: np.ndarray,
        wide: np.ndarray,
        strength: np.ndarray,
        reach: np.ndarray,
    ) -> None:
        """Raise ``share`` (flat, of ``size``) to what balls at voxel coordinates ``at [N, 3]`` cover."""
        offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(
            -1, 3
        )
        steps = offsets * self.spacing
        nearest = np.sqrt((np.maximum(np.abs(steps) - 0.5 * np.array(self.spacing), 0) ** 2).sum(1))
        kept = nearest < wide.max() + 0.5 * self.edge
        steps, line = steps[kept], np.array([size[1] * size[2], size[2], 1])
        jump = offsets[kept] @ line
        near = np.rint(at).astype(np.int64)
        rest, base = (near - at) * self.spacing, near @ line
        lengths = (steps**2).sum(1).astype(np.float32)
        towards = (2 * steps.T).astype(np.float32)
        block = max(1, _BLOCK // len(jump))
        for k in range(0, len(at), block):
            r = rest[k : k + block].astype(np.float32)
            d = r @ towards
            d += lengths
            d += (r * r).sum(1)[:, None]
            w = wide[k : k + block].astype(np.float32)[:, None]
            i, j = np.nonzero(d < (w + np.float32(0.5 * self.edge)) ** 2)
            value = (w[i, 0] - np.sqrt(np.maximum(d[i, j], 0))) * np.float32(1 / self.edge) + np.float32(0.5)
            value = np.minimum(value, 1) * strength[k : k + block][i]
            np.maximum.at(share, base[k : k + block][i] + jump[j], value)
