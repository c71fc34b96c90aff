"""What is measured on a scan's label map, and the findings that follow by criterion."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from medfm.synthetic.ct_paint import LABEL, ORGANS

# A label is a criterion on the label map.
LESION_ML = 0.5  # liver: a ball of 10 mm
NODULE_MM = (
    6.0  # largest nodule, diameter of the ball of its volume; below it none is followed up (Fleischner 2017)
)
CYST_ML = 1.0
CTR_LIMIT = 0.5  # width of the heart over the inner width of the chest
SPLEEN_ML = 350.0
AORTA_MM = 40.0  # diameter of the descending aorta
EFFUSION_ML = 100.0
MEASURED = (
    *("lung_right", "lung_left", "airways", "heart", "aorta", "liver", "spleen"),
    *("kidney_right", "kidney_left", "stomach"),
)
# finding -> the number behind it
BEHIND = {
    "liver_lesion": "liver_lesion_ml",
    "lung_nodule": "nodule_mm",
    "kidney_cyst": "kidney_cyst_ml",
    "cardiomegaly": "ctr",
    "splenomegaly": "volume_spleen_ml",
    "aneurysm": "aorta_mm",
    "effusion": "effusion_ml",
}
LIMITS = dict(zip(BEHIND, (LESION_ML, NODULE_MM, CYST_ML, CTR_LIMIT, SPLEEN_ML, AORTA_MM, EFFUSION_ML)))


def measure(label: np.ndarray, spacing: tuple[float, float, float]) -> dict[str, float]:
    """Numbers of a label map ``[X, Y, Z]`` (RAS+), NaN where the field holds too little to say.

    ``spleen_seen_ml``; ``volume_<organ>_ml`` of whole organs (a liver with its lesions), NaN for one that reaches an end of the field; ``liver_lesion_ml,
    kidney_cyst_ml, effusion_ml`` (totals), ``nodule_mm`` (diameter of the largest lung nodule), ``ctr``, ``aorta_mm``
    (largest diameter across of the descending aorta).
    """
    ml = float(np.prod(spacing)) / 1000
    flat = np.stack(
        [np.bincount(label[:, :, k].ravel(), minlength=len(ORGANS)) for k in range(label.shape[2])]
    )
    ends = flat[0] + flat[-1]
    count = flat.sum(0)
    whole_liver = count[LABEL["liver"]] + count[LABEL["liver_lesion"]]
    out: dict[str, float] = {}
    for name in MEASURED:
        k = LABEL[name]
        whole = count[k] > 0 and not ends[k]
        out[f"volume_{name}_ml"] = float(count[k]) * ml if whole else np.nan
    if not np.isnan(out["volume_liver_ml"]):
        out["volume_liver_ml"] = float(whole_liver) * ml
    out["spleen_seen_ml"] = float(count[LABEL["spleen"]]) * ml
    liver = count[LABEL["liver"]] > 0
    kidneys = count[LABEL["kidney_right"]] + count[LABEL["kidney_left"]] > 0
    lungs = count[LABEL["lung_right"]] + count[LABEL["lung_left"]]
    out["liver_lesion_ml"] = float(count[LABEL["liver_lesion"]]) * ml if liver else np.nan
    out["kidney_cyst_ml"] = float(count[LABEL["kidney_cyst"]]) * ml if kidneys else np.nan
    out["effusion_ml"] = float(count[LABEL["effusion"]]) * ml if lungs * ml > 300 else np.nan
    out["nodule_mm"] = _largest(label == LABEL["lung_nodule"], ml) if lungs * ml > 300 else np.nan
    out["ctr"] = _ctr(label) if count[LABEL["heart"]] and not ends[LABEL["heart"]] else np.nan
    out["aorta_mm"] = _aorta(label, spacing) if count[LABEL["aorta"]] else np.nan
    return out


def findings(m: Mapping[str, float]) -> dict[str, float]:
    """1, 0, or NaN where the number behind a finding is not known. A spleen that the field cuts is judged only where
    what is seen of it is too large already."""
    known = dict(m)
    if m["spleen_seen_ml"] >= SPLEEN_ML:
        known["volume_spleen_ml"] = m["spleen_seen_ml"]
    return {
        name: np.nan if np.isnan(known[number]) else float(known[number] >= LIMITS[name])
        for name, number in BEHIND.items()
    }


def _largest(mask: np.ndarray, ml: float) -> float:
    if not mask.any():
        return 0.0
    parts, n = ndimage.label(mask)
    most = int(np.bincount(parts.ravel())[1 : n + 1].max())
    return float((6 * most * ml * 1000 / np.pi) ** (1 / 3))


def _ctr(label: np.ndarray) -> float:
    """Width of the heart's shadow over the largest width of the lungs' in the slices of the heart."""
    heart = np.flatnonzero((label == LABEL["heart"]).any(axis=(1, 2)))
    chest = (label == LABEL["lung_right"]) | (label == LABEL["lung_left"]) | (label == LABEL["effusion"])
    wide = chest.any(axis=1)
    columns = [np.flatnonzero(wide[:, k]) for k in range(wide.shape[1])]
    widest = max((c[-1] - c[0] + 1 for c in columns if len(c)), default=0)
    return float(heart[-1] - heart[0] + 1) / widest if widest else np.nan


def _aorta(label: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Diameter of the disc with the area of the hindmost piece of aorta, in the slice where that is largest; the slices
    of the arch, where the aorta runs along the slice, are left out."""
    aorta = label == LABEL["aorta"]
    levels = np.flatnonzero(aorta.any(axis=(0, 1)))
    best = 0.0
    top = levels[-1] - int(30 / spacing[2]) if label.shape[2] - 1 > levels[-1] else levels[-1] + 1
    for k in levels[levels < top]:
        parts, n = ndimage.label(aorta[:, :, k])
        if n:
            back = min(range(1, n + 1), key=lambda i: np.mean(np.nonzero(parts == i)[1]))
            area = float((parts == back).sum()) * spacing[0] * spacing[1]
            best = max(best, 2 * (area / np.pi) ** 0.5)
    return best
