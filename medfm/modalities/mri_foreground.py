"""What of an MRI is the patient, and z-scores over it. MRI values have no unit: a sequence means something only against itself.

Skull-stripped files hold exact zeros around the brain, and the voxels that are not zero are the foreground (``nonzero``, as
MONAI and the published BraTS chains have it). A whole head lies in noise: it is what exceeds Otsu's threshold (``otsu``), its
largest piece, closed and with its cavities filled.

In both, what lies outside the foreground becomes 0. Of a whole head that is a choice: the air's own value would be some -1.5,
and its noise tells scanners apart, which a model should not learn. So 0 means "not the patient" in every file, padding at the
border means the same, and files with and without skulls can be mixed in one batch. 0 is also the foreground's mean.

Neither corrects a bias field nor strips a skull. Tools that are made for that: N4 (SimpleITK, ANTs), and HD-BET or SynthStrip;
use them before, on all of a study or on none of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from medfm.modalities.volume_grid import nearest, resample
from medfm.types import Finding

LOOK = 3.0  # mm a voxel at which a head is looked for
LEAST_EMPTY = 0.02  # share of zeros from which a file may be skull-stripped
DARK = 0.1  # of the 90th percentile: below lie air, little of a brain, and part of its fluid
MOST_DARK = 0.2  # share of these among what is not zero, up to which a skull is stripped; heads have 0.28 up
SAME_BRAIN = 0.95  # share of what one sequence shows that a stripped one shows too, from which it is stripped


def masks_of(
    arrays: Mapping[str, np.ndarray], spacing: Sequence[float], how: str
) -> tuple[dict[str, np.ndarray], tuple[Finding, ...]]:
    """Foreground of each sequence, bool ``[X, Y, Z]``, of ``arrays`` on one grid (NaN: not measured), and what was chosen.

    how: ``auto`` (by each file's zeros), ``nonzero``, ``otsu`` or ``none`` (all that was measured). The heads that ``otsu``
    finds in the sequences of a subject are joined, since each sequence is dark somewhere.
    """
    ways = _ways(arrays) if how == "auto" else dict.fromkeys(arrays, how)
    seen = [x for name, x in arrays.items() if ways[name] == "otsu"]
    head = _head(seen, spacing) if seen else None
    masks = {}
    for name, x in arrays.items():
        known = np.isfinite(x)
        if ways[name] == "nonzero":
            known = _shown(x)
        elif ways[name] == "otsu":
            assert head is not None
            known &= head
        masks[name] = known
    return masks, _findings(ways, how)


def scored(
    x: np.ndarray, mask: np.ndarray, percentiles: tuple[float, float] | None, zero_outside: bool
) -> tuple[np.ndarray, float, float] | None:
    """z-scores float32 of ``x`` over ``mask``, the mean and the deviation (of the population) taken; None where the foreground
    holds one value or nothing. percentiles: values beyond these of the foreground are clipped first."""
    values = x[mask].astype(np.float64)
    if values.size < 2:
        return None
    if percentiles is not None:
        low, high = np.percentile(values, percentiles)
        values, x = np.clip(values, low, high), np.clip(x, np.float32(low), np.float32(high))
    mean, std = float(values.mean()), float(values.std())
    if not std > 1e-6 * max(abs(mean), 1e-12):
        return None
    z = ((x.astype(np.float64) - mean) / std).astype(np.float32)
    if zero_outside:
        z[~mask & np.isfinite(z)] = 0.0
    return z, mean, std


def _ways(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """By each file's own zeros, and by another's: what shows no more than a stripped sequence is stripped as well, however
    dark (the fluid of an old brain in FLAIR)."""
    ways = {name: _way(x) for name, x in arrays.items()}
    for name in [n for n, way in ways.items() if way == "otsu"]:
        for other in [n for n, way in ways.items() if way == "nonzero"]:
            shown = _shown(arrays[name])
            if shown.any() and _shown(arrays[other])[shown].mean() >= SAME_BRAIN:
                ways[name] = "nonzero"
                break
    return ways


def _shown(x: np.ndarray) -> np.ndarray:
    return np.isfinite(x) & (x != 0)


def _way(x: np.ndarray) -> str:
    """``nonzero`` where a file holds zeros (or NaN) and hardly anything between them and tissue, ``otsu`` otherwise: the air
    around a head is dark and not zero, even where registration added a border of zeros."""
    values = np.abs(x[_shown(x)])
    if not values.size or values.size > (1 - LEAST_EMPTY) * x.size:
        return "otsu"
    dark = (values < DARK * np.percentile(values, 90)).mean()
    return "nonzero" if dark <= MOST_DARK else "otsu"


def _findings(ways: Mapping[str, str], how: str) -> tuple[Finding, ...]:
    words = {
        "nonzero": "the voxels that are not zero (the file is skull-stripped or masked)",
        "otsu": "the head, found by Otsu's threshold",
        "none": "all voxels",
    }
    groups = {way: [n for n, w in ways.items() if w == way] for way in dict.fromkeys(ways.values())}
    told = "; ".join(f"{', '.join(names)}: {words[way]}" for way, names in groups.items())
    found = [Finding("foreground", f"z-scores are over the foreground: {told}.", "info")]
    if how == "auto" and len(groups) > 1:
        message = (
            f"{', '.join(groups['nonzero'])} is zero around the brain and {', '.join(groups['otsu'])} is not: strip the skull "
            "in all sequences or in none, or set modality.foreground."
        )
        found.append(Finding("foreground-mixed", message))
    return tuple(found)


def _head(arrays: Sequence[np.ndarray], spacing: Sequence[float]) -> np.ndarray:
    """bool ``[X, Y, Z]``: the head that the sequences show together, to some :data:`LOOK` mm."""
    shape = arrays[0].shape
    coarse = tuple(max(1, round(n / max(1.0, LOOK / mm))) for n, mm in zip(shape, spacing))
    steps = [n / m for n, m in zip(shape, coarse)]
    found = np.zeros(coarse, bool)
    for x in arrays:
        found |= _above(resample(np.nan_to_num(x, nan=float(np.nanmin(x))), coarse, steps))
    found = _largest(found)
    padded = np.pad(found, 3)
    closed = ndimage.binary_closing(padded, iterations=2)
    for axis in range(3):  # slice by slice, since the neck opens a cavity below
        plane = np.moveaxis(np.zeros((3, 3, 3), bool), axis, 0)
        plane[1] = ndimage.generate_binary_structure(2, 1)
        closed |= ndimage.binary_fill_holes(closed, np.moveaxis(plane, 0, axis))
    return nearest(closed[3:-3, 3:-3, 3:-3], shape, [1 / s for s in steps])


def _above(x: np.ndarray) -> np.ndarray:
    """What Otsu's threshold of the square roots calls bright: they keep bright fat or fluid from setting it."""
    x = x - x.min()
    root = np.sqrt(np.minimum(x, np.percentile(x, 99.5)))
    counts, edges = np.histogram(root, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, mass = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(all="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    return root > edges[1 + int(np.nanargmax(np.where(above > 0, between, -1)))]


def _largest(mask: np.ndarray) -> np.ndarray:
    """Grains opened away, then its largest piece."""
    opened = ndimage.binary_opening(mask) if min(mask.shape) > 4 else mask
    parts, count = ndimage.label(opened if opened.any() else mask)
    if not count:
        return np.ones_like(mask)
    return np.asarray(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])))
