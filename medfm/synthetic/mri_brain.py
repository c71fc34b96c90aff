"""Which share of each voxel is which tissue, before a tumour.

The cortex is a ribbon along the hull, the fissures and a labyrinth of sulci: the nodal surfaces of a random wave of one
wavelength, taken along the radius, so that sulci run inwards and about half a wavelength apart. Everything else is
ellipsoids and tubes at places of the MNI atlas.
"""

from __future__ import annotations

import numpy as np

from medfm.synthetic.mri_head import FOLD_MM, Head, Hull
from medfm.synthetic.mri_shapes import chain, ellipsoid, fill, join, sheet, wave
from medfm.synthetic.mri_tissues import ID, TISSUES

_MIDDLE = np.array([0, -17, 8], np.float32)  # sulci point here
# one hemisphere, |x|: knots and radii of a lateral ventricle
_HORNS = (
    ((10, 34, 2), 3.0),
    ((11, 22, 12), 5.2),
    ((11, 4, 20), 5.0),
    ((13, -18, 21), 5.0),
    ((21, -36, 15), 6.6),
    ((27, -38, 2), 4.6),
    ((33, -22, -13), 2.6),
    ((30, -8, -19), 2.4),
)
_BACK_HORN = (((23, -40, 12), 5.0), ((24, -62, 8), 2.2))
_CHOROID = (((14, -24, 19), 1.6), ((21, -36, 12), 3.2), ((27, -36, 1), 2.4))
_CAUDATE = (((13, 20, 4), 6.2), ((15, 10, 12), 5.6), ((18, -8, 20), 3.4), ((23, -26, 19), 2.4))
_HIPPOCAMPUS = (((26, -14, -19), 5.0), ((29, -24, -13), 4.4), ((25, -36, -4), 3.4))
_MIDDLE_CEREBRAL = (((6, 6, -17), 1.5), ((20, 8, -14), 1.5), ((36, 6, -6), 1.3), ((44, -14, 6), 1.0))
_ANTERIOR = (((0, 14, -15), 1.3), ((0, 36, -2), 1.2), ((0, 36, 16), 1.1), ((0, 10, 34), 1.0))
_BASILAR = (((0, -14, -16), 1.6), ((0, -10, -32), 1.7), ((0, -22, -52), 1.6))
_SINUS = (
    ((0, 62, 40), 1.6),
    ((0, 12, 77), 2.6),
    ((0, -50, 73), 3.2),
    ((0, -96, 30), 3.6),
    ((0, -102, 0), 3.2),
)


def paint_brain(
    head: Head, p: np.ndarray, q: np.ndarray, hulls: Hull, edge: float
) -> tuple[np.ndarray, np.ndarray]:
    """``(shares [T, N], ventricles [N])`` of the voxels at ``p`` (atlas coordinates ``[N, 3]``) and at ``q``, which differs
    where a tumour has pushed the middle of the brain. edge: width of a voxel, mm."""
    shares = np.zeros((len(TISSUES), len(p)), np.float32)
    shares[ID["csf"]] = 1
    grey, white = _cortex(head, p, q, hulls.cerebrum, edge)
    shares[ID["csf"]] -= grey + white
    shares[ID["grey"]], shares[ID["white"]] = grey, white
    _hindbrain(shares, p, hulls, edge)
    ventricles = _middle(head, shares, q, edge)
    _vessels(shares, q, p, edge)
    return shares, ventricles


def mix(shares: np.ndarray, name: str, share: np.ndarray) -> None:
    """Put ``share [N]`` (0 to 1) of a tissue in the place of what was there."""
    shares *= 1 - share
    shares[ID[name]] += share


def _cortex(
    head: Head, p: np.ndarray, q: np.ndarray, inside: np.ndarray, edge: float
) -> tuple[np.ndarray, np.ndarray]:
    away = p - _MIDDLE
    radius = np.sqrt((away**2).sum(1)) + np.float32(1)
    out = _MIDDLE + away * ((np.maximum(radius + inside, 20) / radius) ** 0.7)[:, None]
    phase = out @ head.folds[:, :3].T + head.folds[:, 3]
    value, slope = np.sin(phase).sum(1), np.cos(phase) @ head.folds[:, :3]
    k = np.float32(2 * np.pi / FOLD_MM)
    across = np.arcsin(np.abs(value) / np.sqrt(value**2 + (slope**2).sum(1) / k**2 + 1e-6)) / k
    x, y, z = q.T
    ax = np.abs(x)
    # the fissure between the hemispheres ends at the corpus callosum and above the base
    zero = np.zeros_like(x)
    bridge = np.maximum(
        ellipsoid(np.stack([zero, y, z], -1), (0, -5, 4), (30, 37, 26)),
        np.minimum(36 - np.abs(y + 5), 6 - z),
    )
    fissure = np.sqrt(x**2 + np.maximum(bridge, 0) ** 2)
    # the Sylvian fissure: inwards to the insula, and up and down along it
    ripple = wave(p, head.depths)
    level = z + 1 + 0.40 * (y - 8) + 2 * ripple
    sylvian = np.sqrt(
        level**2 + np.maximum(39 - ax, 0) ** 2 + np.maximum(y - 24, 0) ** 2 + np.maximum(-40 - y, 0) ** 2
    )
    insula = np.sqrt(
        (ax - 39 + 2.5 * ripple) ** 2
        + np.maximum(np.abs(level - 4) - 9, 0) ** 2
        + np.maximum(np.abs(y + 2) - 20, 0) ** 2
    )
    depth = np.where(bridge > 0, inside, np.minimum(inside, fissure))
    bottom = 14 + 6 * np.clip(ripple, -1.4, 1.6)
    across = np.sqrt(across**2 + np.maximum(depth - bottom, 0) ** 2)
    opened = head.sulcus * np.clip(1.5 - 0.8 * depth / bottom, 0.5, 1.5)
    t = float(head.ribbon)
    fluid = np.ones_like(x)  # what is not fluid, then what is neither fluid nor cortex
    solid = np.ones_like(x)
    for distance, half in (
        (across, opened),
        (np.where(bridge > 0, ax + 3 * bridge, fissure), 0.7 * head.sulcus + 0.4),
        (sylvian, 1.3 * head.sulcus + 0.7),
        (insula, 0.9 * head.sulcus + 0.4),
    ):
        fluid *= 1 - sheet(distance, half, edge)
        solid *= 1 - sheet(distance, half + t, edge)
    fluid *= fill(inside, edge)
    # no cortex on the corpus callosum, nor on the base between the stem and the hypothalamus
    solid *= fill(inside - t * np.clip(1.2 - fill(bridge, 6) * (ax < 18), 0, 1), edge)
    return np.maximum(fluid - solid, 0), np.minimum(solid, fluid)


def _hindbrain(shares: np.ndarray, p: np.ndarray, hulls: Hull, edge: float) -> None:
    x, y, z = p.T
    here = hulls.cerebellum > -edge
    x, y, z, inside = x[here], y[here], z[here], hulls.cerebellum[here]
    # folia radiate from the fourth ventricle
    turn = np.arctan2(z + 36, -(y + 40))
    reach = np.sqrt((z + 36) ** 2 + (y + 40) ** 2)
    leaf = np.abs(np.sin(8 * turn + 0.03 * np.abs(x))) * reach / 8
    cleft = sheet(leaf, np.where(inside < 8, 0.55, 0.0).astype(np.float32), edge)
    core = np.minimum(inside - 8, 30 - reach)
    # white leaves run midway between the clefts, which are pi / 16 of the radius away
    leaves = np.minimum(0.9 - np.abs(leaf - reach / 8), inside - 3)
    white = np.maximum(fill(core, edge), fill(leaves, edge))
    whole = fill(inside, edge) * (1 - cleft)
    part = shares[:, here]
    mix(part, "grey", whole)
    mix(part, "white", whole * white)
    shares[:, here] = part
    mix(shares, "stem", fill(hulls.stem, edge))
    arms = np.minimum(5.5 - np.sqrt((p[:, 1] + 44) ** 2 + (p[:, 2] + 34) ** 2), 26 - np.abs(p[:, 0]))
    mix(shares, "white", fill(np.minimum(arms, np.abs(p[:, 0]) - 6), edge))


def _middle(head: Head, shares: np.ndarray, q: np.ndarray, edge: float) -> np.ndarray:
    """Nuclei and ventricles; returns the share of ventricle of each voxel."""
    here = np.flatnonzero((np.abs(q[:, 0]) < 48) & (q[:, 1] > -72) & (q[:, 1] < 46) & (np.abs(q[:, 2]) < 52))
    part, full = shares[:, here], q[here]
    x, y, z = full.T
    p = np.stack([np.abs(x), y, z], -1)
    outward = p.copy()
    outward[:, 0] += 0.30 * (y - 2)  # the basal ganglia splay to the back
    mix(part, "deep", fill(ellipsoid(outward, (26, 2, 2), (5.5, 15, 10)), edge))
    mix(part, "pallidum", fill(ellipsoid(outward, (19, -1, 0), (4.2, 9, 7)), edge))
    mix(part, "deep", fill(ellipsoid(p, (11.5, -18, 8), (9, 13, 9)), edge))
    mix(part, "deep", fill(chain(p, _CAUDATE), edge))
    mix(part, "grey", fill(chain(p, _HIPPOCAMPUS), edge))
    mix(part, "pallidum", 0.8 * fill(ellipsoid(p, (4.5, -21, -9), (3, 3, 3.5)), edge))
    # radii grow with atrophy, the horns' ends move out with them
    factor = np.where(x < 0, *(np.float32(v) for v in head.ventricles))
    lateral = np.maximum(chain(p, _HORNS, factor), chain(p, _BACK_HORN, factor))
    lateral = np.minimum(lateral, p[:, 0] - 1.2)
    if head.gliosis > 0:
        fade = np.clip(1 + lateral / head.gliosis, 0, 1) * (lateral < edge)
        mix(part, "gliosis", 0.85 * fade * part[ID["white"]])
    third = ellipsoid(full, (0, -12, 3), (head.third, 15, 9))
    fourth = ellipsoid(full, (0, -45, -34), (6, 5.5, 11))
    duct = 1.3 - np.sqrt(x**2 + (y + 31 + 0.45 * (z + 5)) ** 2) - np.maximum(np.abs(z + 14) - 12, 0)
    inside = np.maximum(np.maximum(lateral, third), np.maximum(fourth, duct))
    share = fill(inside, edge)
    # a third ventricle thinner than a voxel fills it only in part
    share *= np.clip(np.where(third >= inside, 2 * head.third / edge, 1), 0, 1)
    mix(part, "csf", share)
    mix(part, "choroid", 0.9 * fill(np.minimum(chain(p, _CHOROID), lateral), edge))
    shares[:, here] = part
    out = np.zeros(len(q), np.float32)
    out[here] = share
    return out


def _vessels(shares: np.ndarray, q: np.ndarray, p: np.ndarray, edge: float) -> None:
    """Arteries of the base and the sinus under the vault; thinner than a voxel, they fill it in part."""
    side = np.stack([np.abs(q[:, 0]), q[:, 1], q[:, 2]], -1)
    for points, knots in ((side, _MIDDLE_CEREBRAL), (q, _ANTERIOR), (q, _BASILAR), (p, _SINUS)):
        at = np.array([k for k, _ in knots], np.float32)
        reach = np.float32(6 + edge)
        here = np.flatnonzero(((points > at.min(0) - reach) & (points < at.max(0) + reach)).all(1))
        if not len(here):
            continue
        thin = float(np.mean([r for _, r in knots]))
        grown = max(0.6 * edge - thin, 0.0)
        share = fill(chain(points[here], knots) + np.float32(grown), edge)
        part = shares[:, here]
        mix(part, "vessel", share * np.float32(min(1.0, (thin / (thin + grown)) ** 2)))
        shares[:, here] = part


def paint_skull(shares: np.ndarray, p: np.ndarray, whole: np.ndarray, edge: float) -> None:
    """Skull, scalp, face and neck around the brain, and air; ``whole``: distance inside the brain's outer surface."""
    x, y, z = p.T
    face = ellipsoid(p, (0, 42, -52), (52, 50, 62))
    neck = chain(p, (((0, -45, -62), 52.0), ((0, -58, -140), 52.0)))
    flesh = join(face, neck, 12)
    head = join(whole + 15, flesh, 10)
    around = fill(-whole - 2.5, edge)  # everything below lies outside the fluid
    for name, inside in (
        ("air", np.full_like(x, 1e3)),
        ("muscle", head),
        ("fat", np.minimum(head - 1.8, 6.5 - np.abs(whole + 11.5))),
        ("muscle", flesh - 6),
        ("csf", ellipsoid(np.stack([np.abs(x), y, z], -1), (31, 62, -32), (12, 12, 12))),
        ("air", ellipsoid(p, (0, 68, -48), (11, 22, 20))),
        ("bone", whole + 8.5),
        ("marrow", 1.3 - np.abs(whole + 5.6)),
    ):
        mix(shares, name, fill(inside, edge) * around)
