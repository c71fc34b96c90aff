"""Masks compared with the truth, class by class: overlap, surface distances in mm, volumes in mL.

Rules that no mean can hide behind: both masks empty, not applicable (NaN, counted apart); one of them empty, Dice 0, NSD 0,
and as HD95 the diagonal of the image in mm. Surfaces are the voxels of a mask with a face on its outside, as MONAI has
them; distances run from voxel centre to voxel centre. n records, K classes (without background), P patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medfm.evaluation.bootstrap import LEVEL, patient_index, percentile_interval, resamples
from medfm.evaluation.metrics import mean_defined
from medfm.types import MedfmError

TOLERANCE = 3.0  # mm, of NSD where none is given
METRICS = ("dice", "hd95", "nsd")
# Surface points from which distances are looked up in a map of the whole box and no longer point by point.
MANY_POINTS = 1_500_000


@dataclass(frozen=True)
class Measures:
    """Of one pair of masks, or stacked of n: arrays ``[K]`` or ``[n, K]``, NaN where both masks are empty (volumes: 0).

    dice and nsd 0 to 1; hd95 in mm; true_ml and predicted_ml in mL."""

    dice: np.ndarray
    hd95: np.ndarray
    nsd: np.ndarray
    true_ml: np.ndarray
    predicted_ml: np.ndarray

    @property
    def absent(self) -> np.ndarray:
        """Both masks empty: not applicable."""
        return (self.true_ml == 0) & (self.predicted_ml == 0)

    @property
    def one_empty(self) -> np.ndarray:
        """Missed, or found where there is none: Dice 0."""
        return (self.true_ml == 0) != (self.predicted_ml == 0)

    @classmethod
    def stack(cls, each: Sequence[Measures]) -> Measures:
        return cls(*(np.stack([getattr(m, f) for m in each]) for f in cls.__dataclass_fields__))

    def take(self, rows: np.ndarray) -> Measures:
        return Measures(*(getattr(self, f)[rows] for f in self.__dataclass_fields__))


def measure(
    truth: np.ndarray,
    predicted: np.ndarray,
    spacing: Sequence[float],
    classes: int,
    tolerance: Sequence[float] | float = TOLERANCE,
) -> Measures:
    """Compare two label maps ``[*S]`` of integers 0 (background) to ``classes``; ``spacing`` mm an axis.

    tolerance: mm of NSD, one number or one a class. HD95 is the larger of both directions' 95th percentiles (linear),
    NSD the share of both surfaces' voxels within the tolerance of the other one, as MONAI's ``compute_hausdorff_distance``
    and ``compute_surface_dice`` have them. Raises :class:`MedfmError` for maps of different shapes or other labels.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise MedfmError(f"the masks differ in shape: {list(truth.shape)} and {list(predicted.shape)}.")
    tolerances = np.broadcast_to(np.asarray(tolerance, float), (classes,))
    step = np.asarray(spacing, float)
    counts = confusion(truth, predicted, classes)
    both = counts.diagonal()[1:].astype(float)
    true, found = counts.sum(1)[1:].astype(float), counts.sum(0)[1:].astype(float)
    total = true + found
    dice = np.divide(2 * both, total, out=np.full(classes, np.nan), where=total > 0)
    hd95, nsd = np.full(classes, np.nan), np.full(classes, np.nan)
    alone = (true == 0) != (found == 0)
    hd95[alone], nsd[alone] = float(np.linalg.norm(step * truth.shape)), 0.0
    boxes = _boxes(truth, classes), _boxes(predicted, classes)
    for k in np.flatnonzero((true > 0) & (found > 0)):
        box = _union(boxes[0][k], boxes[1][k])
        near = _surface_distances(truth[box] == k + 1, predicted[box] == k + 1, step)
        hd95[k] = max(float(np.percentile(d, 95)) for d in near)
        within = sum(int((d <= tolerances[k]).sum()) for d in near)
        nsd[k] = within / sum(len(d) for d in near)
    ml = float(step.prod()) / 1000.0
    return Measures(dice, hd95, nsd, true * ml, found * ml)


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Voxels ``[K + 1, K + 1]`` by true and predicted label. Raises :class:`MedfmError` for a label outside 0 to K."""
    size = classes + 1
    counts = np.zeros(size * size, np.int64)
    for a, b in zip(truth, predicted):  # one layer at a time: a whole volume of 64-bit codes is large
        for name, part in (("truth", a), ("predicted mask", b)):
            if part.min() < 0 or part.max() > classes:
                raise MedfmError(f"the {name} holds labels outside 0 to {classes}.")
        counts += np.bincount((a.astype(np.int32) * size + b).ravel(), minlength=size * size)
    return counts.reshape(size, size)


def dice_of(counts: np.ndarray, regions: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """``[K]`` from :func:`confusion`, or ``[R]`` of unions of classes (1 to K); NaN where both are empty."""
    members = regions or [(k,) for k in range(1, len(counts))]
    both = np.array([counts[np.ix_(m, m)].sum() for m in members])
    total = np.array([counts[:, m].sum() + counts[m, :].sum() for m in map(list, members)])
    return np.divide(2.0 * both, total, out=np.full(len(both), np.nan), where=total > 0)


def measure_regions(
    truth: np.ndarray,
    predicted: np.ndarray,
    spacing: Sequence[float],
    regions: Sequence[Sequence[int]],
    tolerance: Sequence[float] | float = TOLERANCE,
) -> Measures:
    """:func:`measure` of unions of classes, which may overlap: ``[R]``, in the order of ``regions``."""
    tolerances = np.broadcast_to(np.asarray(tolerance, float), (len(regions),))
    each = [
        measure(np.isin(truth, m).astype(np.uint8), np.isin(predicted, m).astype(np.uint8), spacing, 1, mm)
        for m, mm in zip(regions, tolerances)
    ]
    return Measures(*(np.concatenate([getattr(e, f) for e in each]) for f in Measures.__dataclass_fields__))


def _boxes(labels: np.ndarray, classes: int) -> list[Any]:
    from scipy.ndimage import find_objects

    small = labels.astype(np.uint8 if classes < 256 else np.int32, copy=False)
    return list(find_objects(small, max_label=classes))


def _union(a: tuple[slice, ...], b: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b))


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of ``mask [*S]`` with at least one face on the outside (the image's border counts as outside)."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(mask.ndim):
        for first in (0, 2):
            at = [slice(1, -1)] * mask.ndim
            at[axis] = slice(first, first + mask.shape[axis])
            inner &= padded[tuple(at)]
    return mask & ~inner


def _surface_distances(a: np.ndarray, b: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """mm from each surface voxel of a to the surface of b, and the other way."""
    edge_a, edge_b = surface(a), surface(b)
    if int(edge_a.sum()) + int(edge_b.sum()) > MANY_POINTS:
        from scipy.ndimage import distance_transform_edt

        return distance_transform_edt(~edge_b, step)[edge_a], distance_transform_edt(~edge_a, step)[edge_b]
    from scipy.spatial import cKDTree

    points_a, points_b = np.argwhere(edge_a) * step, np.argwhere(edge_b) * step
    return cKDTree(points_b).query(points_a)[0], cKDTree(points_a).query(points_b)[0]


def summarise(
    measures: Measures,
    patients: Sequence[Any] | np.ndarray,
    classes: Sequence[str],
    n_boot: int = 2000,
    seed: int = 0,
    *,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Means over patients of each class and over classes, with patient-bootstrap intervals; ready for JSON.

    measures ``[n, K]``. A patient's records are averaged first; a class that is not applicable in a patient counts neither
    way there. The macro mean averages the classes' means. ``headline`` is the macro Dice.
    """
    index, count = patient_index(patients)
    result: dict[str, Any] = {"targets": {name: {} for name in classes}, "macro": {}}
    for metric in METRICS:
        values = getattr(measures, metric)
        value, draws = means(_by_patient(values, index, count), n_boot, seed)
        for k, name in enumerate(classes):
            result["targets"][name][metric] = _estimate(value[k], draws[k], level)
        result["macro"][metric] = _estimate(mean_defined(value), mean_defined(draws), level)
    for k, name in enumerate(classes):
        true, found = measures.true_ml[:, k], measures.predicted_ml[:, k]
        either = ~measures.absent[:, k]
        difference = (found - true)[either]
        spread = difference.std(ddof=1) if len(difference) > 1 else np.nan
        result["targets"][name] |= {
            "applicable": int(either.sum()),
            "not_applicable": int((~either).sum()),
            "missed": int(((true > 0) & (found == 0)).sum()),
            "invented": int(((true == 0) & (found > 0)).sum()),
            "true_ml": _number(true[either].mean() if either.any() else np.nan),
            "predicted_ml": _number(found[either].mean() if either.any() else np.nan),
            "bias_ml": _number(difference.mean() if either.any() else np.nan),
            "limits_ml": [_number(difference.mean() + s * 1.96 * spread) for s in (-1, 1)]
            if either.any()
            else [None] * 2,
        }
    result["headline"] = {
        "metric": "dice",
        "name": "mean Dice" + (" over classes" if len(classes) > 1 else ""),
    }
    result["headline"] |= result["macro"]["dice"]
    result["counts"] = {"records": len(index), "patients": count}
    result["interval"] = {
        "level": level, "method": "percentile bootstrap over patients", "n_boot": n_boot, "seed": seed,
        "conditional": f"{100 * level:g} % interval from {n_boot:,} resamples of patients, conditional on the fitted "
        "models: it holds the chance of who was tested, not of training on other patients.",
    }  # fmt: skip
    return result


def compare(
    a: np.ndarray,
    b: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    classes: Sequence[str],
    n_boot: int = 2000,
    seed: int = 0,
    *,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Arm a minus arm b in one metric ``[n, K]`` on the same patient resamples: ``macro`` and ``targets`` of ``{a, b,
    difference: {value, low, high}}``. Each arm's means are over what is applicable to it."""
    index, count = patient_index(patients)
    (value_a, draws_a), (value_b, draws_b) = (
        means(_by_patient(x, index, count), n_boot, seed) for x in (a, b)
    )

    def pair(va: Any, vb: Any, da: np.ndarray, db: np.ndarray) -> dict[str, Any]:
        return {"a": _number(va), "b": _number(vb), "difference": _estimate(va - vb, da - db, level)}

    macro = pair(mean_defined(value_a), mean_defined(value_b), mean_defined(draws_a), mean_defined(draws_b))
    each = {name: pair(value_a[k], value_b[k], draws_a[k], draws_b[k]) for k, name in enumerate(classes)}
    return {"macro": macro, "targets": each, "patients": count}


def verdict(difference: dict[str, Any], names: tuple[str, str], patients: int, level: float = LEVEL) -> str:
    """One sentence on a paired difference in Dice ``{value, low, high}``."""
    value, low, high = (difference[k] for k in ("value", "low", "high"))
    a, b = names
    if value is None or low is None or high is None:
        return f"{a} and {b} cannot be compared: too few patients for an interval."
    interval = f"{value:+.3f} mean Dice, {100 * level:g} % interval {low:+.3f} to {high:+.3f}"
    if low > 0:
        return f"{a} segments better than {b} on these {patients} patients ({interval})."
    if high < 0:
        return f"{a} segments worse than {b} on these {patients} patients ({interval})."
    return f"The data cannot tell {a} and {b} apart ({interval}, {patients} patients)."


def means(values: np.ndarray, n_boot: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each column of ``values [P, K]`` over its defined rows ``[K]``, and over resamples of rows ``[K, n_boot]``;
    NaN where nothing is defined."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    draws = [np.zeros((values.shape[1], 0))]
    for counts in resamples(len(values), n_boot, seed):
        weight = known.T.astype(float) @ counts
        draws.append(
            np.divide(filled.T @ counts, weight, out=np.full(weight.shape, np.nan), where=weight > 0)
        )
    return mean_defined(values), np.concatenate(draws, axis=1)


def _by_patient(values: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """Mean over a patient's records of ``[n, K]``: ``[P, K]``, NaN where none is defined."""
    known = ~np.isnan(values)
    total, times = np.zeros((count, values.shape[1])), np.zeros((count, values.shape[1]))
    np.add.at(total, index, np.where(known, values, 0.0))
    np.add.at(times, index, known)
    return np.divide(total, times, out=np.full(total.shape, np.nan), where=times > 0)


def _estimate(value: Any, draws: np.ndarray, level: float) -> dict[str, float | None]:
    low, high = percentile_interval(draws, level) if draws.shape[-1] else (np.nan, np.nan)
    return {"value": _number(value), "low": _number(low), "high": _number(high)}


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
