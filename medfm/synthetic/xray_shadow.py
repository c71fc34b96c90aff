"""From a chest to what a beam loses in it, and to the numbers that are measured before any noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from medfm.synthetic.anatomy import Thorax
from medfm.synthetic.lung_trees import vessels
from medfm.synthetic.projection import Beam, ellipsoid, enlarge, filled, sweep
from medfm.synthetic.skeleton import Tubes, airways, bones, joined, tube
from medfm.synthetic.tissues import attenuation
from medfm.synthetic.xray_findings import Findings

_SLABS, _COARSE = 22, 0.5  # slabs along the rays; pixels of their grid for each pixel of the image
_BLUR = 0.35  # pixels; rounds the edges of tubes
_PLEURA_MM = 1.4  # how far a pneumothorax' bare pleura reaches into the lung
_AIRED_MM = 8.0  # a ray shows lung when it crosses this much
# a finding's mask holds the pixels whose rays cross this much of it: of soft matter, and of wires and tubes
SEEN_MM, SEEN_THIN_MM = 1.5, 0.3
THIN = ("pacemaker", "tube", "line")
# finding -> what is there, and what it took the place of once the lung that is left has been counted
_REPLACED = (
    ("effusion", "water", "soft"),
    ("pneumothorax", "air", "soft"),
    ("consolidation", "soft", "lung"),
)


@dataclass(frozen=True)
class Shadow:
    """loss: line integral of the attenuation, ``[H, W]``; path: mm of each finding along each ray, ``[H, W]`` by
    name; lung: mm of aerated lung, ``[H, W]``; measures: numbers of the phantom, see :func:`cast`."""

    loss: np.ndarray
    lung: np.ndarray
    path: dict[str, np.ndarray]
    measures: dict[str, float]


def coefficients(t: Thorax, kev: float) -> dict[str, float]:
    """Attenuation of everything in this chest, 1/mm. Marrow is soft tissue with a fifth of bone; implants are
    partly hollow; catheters are plastic with a barium stripe."""
    mu = {name: attenuation(name, kev) for name in ("air", "water", "soft", "fat", "titanium")}
    mu["lung"] = attenuation("lung", kev, 0.26 * t.density)
    dense = attenuation("bone", kev)
    mu["bone"] = mu["soft"] + (dense - mu["soft"]) * (0.5 + 0.5 * t.bone) * 0.9
    mu["marrow"] = mu["soft"] + 0.2 * (dense - mu["soft"]) * t.bone
    mu["can"], mu["wire"] = 0.55 * mu["titanium"], 1.6 * mu["titanium"]
    mu["stripe"], mu["polymer"] = 2.2 * dense, mu["soft"] * 1.25
    return mu


class Slabs:
    """A chest cut across the rays: coarse pixels, ``K`` slabs between ``K + 1`` planes.

    points: x, y, z at the planes; space: distance inside the pleural space there; mm2: of the patient for each pixel
    of a slab, ``[K]``.
    """

    def __init__(self, t: Thorax, beam: Beam) -> None:
        self.beam = beam.coarse(_COARSE)
        wide, deep = t.extent()
        reach = wide if beam.view == "LL" else deep
        planes = np.linspace(-reach, reach, _SLABS + 1)
        self.points = self.beam.points(planes)
        self.step = np.float32(planes[1] - planes[0])
        self.space = t.pleural_space(*self.points)
        self.mm2 = (self.beam.pixel / self.beam.magnification((planes[1:] + planes[:-1]) / 2)) ** 2

    def thickness(self, inside: np.ndarray, softness: float = 0.0) -> np.ndarray:
        """mm of each slab that lie in the solid, ``[K, h, w]``."""
        return filled(inside, max(softness, self.beam.pixel / 2)) * self.step

    def millilitres(self, thickness: np.ndarray) -> np.ndarray:
        """Volume in each column of pixels, ml, ``[w]``."""
        return (thickness.sum(axis=1) * self.mm2[:, None]).sum(axis=0) / 1000


def cast(t: Thorax, found: Findings, beam: Beam, kev: float, texture: np.ndarray | None = None) -> Shadow:
    """Shadow of a chest. ``texture [H, W]``: relative density of the lung along each ray, 1 on average.

    Measures: ``ctr`` (:func:`cardiothoracic_ratio`), ``lung_right_cm2, lung_left_cm2`` (area of the shadow of
    aerated lung in the plane of the patient, NaN in a lateral view), ``effusion_right_ml, effusion_left_ml,
    pneumothorax_right_ml, pneumothorax_left_ml, consolidation_ml`` (volume of air replaced), ``nodule_mm``, and of
    each device and plate in the picture ``<name>_cm2``.
    """
    mu = coefficients(t, kev)
    slabs = Slabs(t, beam)
    lung, replaced, pleura = _lung(t, found, slabs)
    path = {name: thickness.sum(axis=0) for name, thickness in replaced.items()}
    measures = {"ctr": cardiothoracic_ratio(t, beam), **_volumes(found, slabs, lung, replaced)}
    zoom_rows, zoom_columns = (enlarge(c, f) for c, f in zip(slabs.beam.size, beam.size))

    def fine(image: np.ndarray) -> np.ndarray:
        return zoom_rows @ image.astype(np.float32) @ zoom_columns.T

    aired = lung.sum(axis=0)
    coarse = (
        _trunk(t, slabs.beam, mu) + (mu["lung"] - mu["soft"]) * aired + (mu["soft"] - mu["lung"]) * pleura
    )
    for name, tissue, instead in _REPLACED:
        if name in path:
            coarse = coarse + (mu[tissue] - mu[instead]) * path[name]
    air = fine(aired)
    loss = fine(coarse)
    if texture is not None:
        loss += mu["lung"] * air * (texture - 1)
    loss += _swept(
        beam,
        [*bones(t, arms=beam.view != "LL"), airways(t), vessels(t, partial(found.aerated, t)), *_fissure(t)],
        mu,
    )
    loss += (mu["air"] - mu["soft"]) * _stomach(t, beam)
    masks = {name: np.maximum(fine(p), 0) for name, p in path.items()}
    for centre, diameter in found.nodules:
        ball = ellipsoid(beam, centre, np.full(3, diameter / 2))
        masks["nodule"] = masks.get("nodule", 0) + ball
        loss += (mu["soft"] - mu["lung"]) * ball
    for name, parts in found.tubes(t).items():
        loss += _swept(beam, parts, mu)
        masks[name] = np.maximum(sweep(beam, *_lumped(parts), blur=_BLUR), 0)
        measures[f"{name}_cm2"] = float((masks[name] > SEEN_THIN_MM).sum()) * area_of(beam) / 100
    loss *= beam.obliquity()
    return Shadow(loss, air, masks, measures)


def seen(name: str, path: np.ndarray) -> np.ndarray:
    """Mask of a finding's shadow, bool ``[H, W]``, from the mm that the rays cross."""
    return path > (SEEN_THIN_MM if name in THIN else SEEN_MM)


def area_of(beam: Beam) -> float:
    """mm2 of the plane through the middle of the body for each pixel."""
    return float((beam.pixel / beam.magnification(0.0)) ** 2)


def _lumped(parts: list[Tubes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.concatenate([p.points for p in parts]),
        np.concatenate([p.radius for p in parts]),
        np.concatenate([p.length for p in parts]),
    )


def _swept(beam: Beam, tubes: list[Tubes], mu: dict[str, float]) -> np.ndarray:
    points, radius, _ = _lumped(tubes)
    weight = np.concatenate([(mu[p.tissue] - mu[p.instead]) * p.length for p in tubes])
    return sweep(beam, points, radius, weight, blur=_BLUR)


def _lung(
    t: Thorax, found: Findings, slabs: Slabs
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | float]:
    """mm in each slab of lung that is left, of what replaces it by finding (``[K, h, w]`` each), and along each ray
    of bare pleura ``[h, w]``."""
    lung = slabs.thickness(slabs.space)
    replaced: dict[str, np.ndarray] = {}
    pleura: np.ndarray | float = 0.0
    if max(found.effusion) > -np.inf:
        replaced["effusion"] = slabs.thickness(np.minimum(slabs.space, found.fluid(t, *slabs.points)))
        lung = np.maximum(lung - replaced["effusion"], 0)
    if max(found.pneumothorax) > 0:
        gap = found.free_air(t, *slabs.points)
        air = np.minimum(slabs.thickness(np.minimum(slabs.space, gap)), lung)
        skin = slabs.thickness(np.minimum(slabs.space, gap + np.float32(_PLEURA_MM))) - air
        replaced["pneumothorax"] = air
        lung = lung - air
        pleura = np.clip(skin, 0, lung).sum(axis=0)
    for patch in found.consolidation:
        inside = np.minimum(patch.inside(*slabs.points), slabs.space)
        dense = np.minimum(slabs.thickness(inside, 6.0), lung) * np.float32(patch.share)
        replaced["consolidation"] = replaced.get("consolidation", 0) + dense
    return lung, replaced, pleura


def _volumes(
    found: Findings, slabs: Slabs, lung: np.ndarray, replaced: dict[str, np.ndarray]
) -> dict[str, float]:
    """What :func:`cast` promises to measure on the slabs."""
    lateral = slabs.beam.view == "LL"
    right = slabs.points[0][len(slabs.points[0]) // 2, 0] < 0
    seen = lung.sum(axis=0) > _AIRED_MM
    cell = area_of(slabs.beam) / 100
    out = {
        f"lung_{name}_cm2": np.nan if lateral else float(seen[:, side].sum()) * cell
        for name, side in (("right", right), ("left", ~right))
    }
    for name, state in (("effusion", found.effusion), ("pneumothorax", found.pneumothorax)):
        ml = slabs.millilitres(replaced[name]) if name in replaced else np.zeros(len(right))
        # in a lateral view both sides lie in the same columns: all goes to the side that has more
        share = float(state[0] > state[1]) if lateral else float(ml[right].sum()) / max(float(ml.sum()), 1e-9)
        out |= {f"{name}_right_ml": float(ml.sum()) * share, f"{name}_left_ml": float(ml.sum()) * (1 - share)}
    patch = replaced.get("consolidation")
    out["consolidation_ml"] = 0.0 if patch is None else float(slabs.millilitres(patch).sum())
    out["nodule_mm"] = max((d for _, d in found.nodules), default=0.0)
    return out


def cardiothoracic_ratio(t: Thorax, beam: Beam) -> float:
    """Largest width of the heart's shadow over the largest inner width of the chest, in a frontal view."""
    frontal = beam if beam.view != "LL" else replace(beam, view="PA")
    narrow = frontal.coarse(_COARSE)
    heart = narrow.points(np.linspace(-80, 60, 15))
    chest = narrow.points(np.linspace(-12, 12, 3))
    z = chest[2]
    rows = slice(*np.searchsorted(-z[len(z) // 2, :, 0], [-100 * t.height, 130 * t.height]))
    heart_profile = t.in_heart(*heart).max(axis=(0, 1))
    chest_profile = t.hull(chest[0], chest[1], z[:, rows]).max(axis=(0, 1))
    return float(_width(heart_profile) / _width(chest_profile))


def _width(profile: np.ndarray) -> float:
    """Pixels between the outermost places where the profile crosses zero, by straight lines between pixels."""
    inside = np.flatnonzero(profile > 0)
    first, last = inside[0], inside[-1]
    left = first - profile[first] / (profile[first] - profile[first - 1]) if first else 0.0
    right = (
        last + profile[last] / (profile[last] - profile[last + 1]) if last + 1 < len(profile) else float(last)
    )
    return float(right - left)


def _trunk(t: Thorax, beam: Beam, mu: dict[str, float]) -> np.ndarray:
    """The body as if it were solid: muscle inside, fat around, breasts before; rays taken as parallel."""
    x, y, z = (v[0] for v in beam.points(np.zeros(1)))
    across = (x, 2.4) if beam.view != "LL" else (y, 1.9)
    loss: np.ndarray | float = 0.0
    for fat, gain in ((1.0, mu["fat"]), (0.0, mu["soft"] - mu["fat"])):
        a, b = t.outline(z, bool(fat))
        a = a if beam.view != "LL" else np.minimum(a, 166 * t.width + t.fat)  # the arms are raised
        side, thick = (a, b) if beam.view != "LL" else (b, a)
        rest = np.maximum(1 - np.abs(across[0] / side) ** across[1], 0)
        loss = loss + gain * 2 * thick * rest ** (1 / (1.9 if beam.view != "LL" else 2.4))
    if t.breast and beam.view != "LL":
        h, r = t.height, t.breast
        for s in (-1, 1):
            u = (x - s * (66 + 0.25 * r) * t.width) / (r * 1.05)
            v = (z + (52 + 0.25 * r) * h) / r
            v = np.where(v > 0, v * 0.8, v * 1.25)  # flat above, full below, where the fold is seen
            loss = (
                loss
                + (0.6 * mu["fat"] + 0.4 * mu["soft"]) * 0.85 * r * np.maximum(1 - u * u - v * v, 0) ** 0.6
            )
    return np.asarray(loss)


def _stomach(t: Thorax, beam: Beam) -> np.ndarray:
    """The gas under the left half of the diaphragm, flat below, where its fluid begins; mm of gas."""
    if t.gas < 0.35:
        return np.zeros(beam.size, np.float32)
    u = t.shape[37:41]
    radii = np.array([22 + 18 * u[0], 26, 13 + 8 * u[1]]) * np.sqrt(t.gas)
    centre = np.array([(44 + 34 * u[2]) * t.width, 4, t.domes[1] - 9 - radii[2] - 8 * u[3]])
    gas = ellipsoid(beam, centre, radii)
    level = beam.project(centre - (0, 0, 0.45 * radii[2]))[1]
    rows = np.arange(beam.size[0])[:, None]
    return gas * np.clip(level - rows + 0.5, 0, 1).astype(np.float32)


def _fissure(t: Thorax) -> list[Tubes]:
    """The horizontal fissure, where the beam happens to run along it."""
    if t.shape[33] > 0.45:
        return []
    share = np.linspace(0, 1, 50)
    a, _, _, _ = t.cage(np.array(-4.0))
    x = -(46 + share * (a - 54))
    z = (-6 + 14 * (t.shape[34] - 0.5) + 8 * np.sin(np.pi * share) * (t.shape[35] - 0.5)) * t.height
    axis = np.stack([x, -20 + 0 * x, z], -1)
    return [joined([tube(axis, 0.8, 4 + 8 * t.shape[36])], "soft", "lung")]
