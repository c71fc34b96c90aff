"""Cross-validated discrimination, told honestly: within folds first, pooled second, intervals by patient.

Scores of different folds come from different models and need not share a scale, so that AUROC and AUPRC are
computed within each fold and averaged (over folds, repeats, then targets: the headline); the value over all
rows at once stands beside it, named pooled. Intervals are patient-cluster bootstraps, conditional on the
fitted models. n records, K targets (multiclass: one-hot columns, one against the rest), R repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from medfm.evaluation.bootstrap import LEVEL, percentile_interval
from medfm.evaluation.calibration import calibration_summary
from medfm.evaluation.cells import Cell, OutOfFold, bootstrap, check_predictions, fold_names
from medfm.evaluation.metrics import (
    balanced_accuracy,
    f1,
    mean_defined,
    multiclass_balanced_accuracy,
    sensitivity_at_specificity,
)

Task = Literal["binary", "multiclass", "multilabel"]


def evaluate_folds(
    y: np.ndarray,
    p: np.ndarray,
    fold: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    targets: Sequence[str],
    task: Task,
    n_boot: int = 2000,
    seed: int = 0,
    *,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Everything a report says about out-of-fold predictions, ready for JSON (undefined is None).

    y ``[n, K]`` (NaN unknown), p ``[n, K]`` probabilities, fold ``[n]``; repeated cross-validation: p
    ``[R, n, K]``, fold ``[R, n]``. A negative fold marks rows that were not tested. Raises
    :class:`MedfmError` when shapes disagree, a tested row has no prediction, or a patient crosses folds.
    """
    data = check_predictions(y, (p,), fold, patients, targets)
    within, pooled = data.cells(pooled=False), data.cells(pooled=True)
    in_folds = data.scores(within, 0, None)
    value = data.by_target(within, in_folds), data.by_target(pooled, data.scores(pooled, 0, None))
    draws = bootstrap(data, (within, pooled), n_boot, seed)[0]
    names = ("auroc", "auprc")
    result: dict[str, Any] = {
        "task": task,
        "headline": {
            "metric": "auroc",
            "name": "AUROC within folds, averaged" + (" (macro over targets)" if len(targets) > 1 else ""),
            **_estimate(mean_defined(value[0][0]), mean_defined(draws[0][0]), level),
        },
        "within_fold": {
            n: _estimate(mean_defined(value[0][i]), mean_defined(draws[0][i]), level)
            for i, n in enumerate(names)
        },
        "pooled": {
            n: _estimate(mean_defined(value[1][i]), mean_defined(draws[1][i]), level)
            for i, n in enumerate(names)
        },
        "targets": {},
        "folds": _fold_table(data, within, in_folds),
        "counts": _counts(data),
        "repeats": _repeats(data, within, in_folds),
        "interval": fold_interval(level, n_boot, seed),
        "notes": _notes(data, within, in_folds),
    }
    if task == "multiclass":
        scores = [multiclass_balanced_accuracy(data.y[u], q[u]) for u, q in zip(data.used, data.arms[0])]
        result["balanced_accuracy"] = _number(np.mean(scores))
    for k, target in enumerate(data.targets):
        result["targets"][target] = {
            **{n: _estimate(value[0][i, k], draws[0][i, k], level) for i, n in enumerate(names)},
            **{f"pooled_{n}": _estimate(value[1][i, k], draws[1][i, k], level) for i, n in enumerate(names)},
            **_target_details(data, k),
        }
    return result


def paired_difference(
    y: np.ndarray,
    p_a: np.ndarray,
    p_b: np.ndarray,
    fold: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    targets: Sequence[str],
    n_boot: int = 2000,
    seed: int = 0,
    *,
    names: tuple[str, str] = ("A", "B"),
    level: float = LEVEL,
) -> dict[str, Any]:
    """Arm A minus arm B on the same rows, folds and patient resamples, with a verdict in words.

    Per metric (macro-AUROC and macro-AUPRC within folds) ``{a, b, difference: {value, low, high}}``, the
    same for each target, and ``gap_closed``: (A - B) / (1 - B) in AUROC, the share of B's distance from 1
    that A closes. Conditional on the fitted models: whether training again would order the arms so is not
    in the interval."""
    data = check_predictions(y, (p_a, p_b), fold, patients, targets)
    cells = data.cells(pooled=False)
    value = [data.by_target(cells, data.scores(cells, arm, None)) for arm in (0, 1)]
    draws = [d[0] for d in bootstrap(data, (cells,), n_boot, seed)]

    def compare(metric: int, target: int | None) -> dict[str, Any]:
        def pick(x: np.ndarray) -> np.ndarray:
            return mean_defined(x[metric]) if target is None else x[metric, target]

        a, b = pick(value[0]), pick(value[1])
        return {
            "a": _number(a),
            "b": _number(b),
            "difference": _estimate(a - b, pick(draws[0]) - pick(draws[1]), level),
        }

    macro = compare(0, None)
    macro_draws = [mean_defined(d[0]) for d in draws]
    closed = None
    if macro["b"] is not None and macro["b"] < 1:
        share = (macro_draws[0] - macro_draws[1]) / np.where(macro_draws[1] < 1, 1 - macro_draws[1], np.nan)
        closed = _estimate(np.asarray((macro["a"] - macro["b"]) / (1 - macro["b"])), share, level)
    return {
        "names": list(names),
        "auroc": macro,
        "auprc": compare(1, None),
        "gap_closed": closed,
        "targets": {t: {"auroc": compare(0, k), "auprc": compare(1, k)} for k, t in enumerate(data.targets)},
        "counts": _counts(data),
        "interval": fold_interval(level, n_boot, seed),
        "verdict": verdict(macro["difference"], names, data.n_patients, level),
    }


def verdict(
    difference: dict[str, Any],
    names: tuple[str, str],
    n_patients: int,
    level: float = LEVEL,
    metric: str = "AUROC",
) -> str:
    """One or two plain sentences on a paired difference ``{value, low, high}``."""
    a, b = names
    value, low, high = (difference[k] for k in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return f"{a} and {b} cannot be compared: too few patients of both classes for an interval."
    interval = f"{value:+.3f} {metric}, {100 * level:g} % interval {low:+.3f} to {high:+.3f}"
    if low > 0:
        return f"{a} ranks better than {b} on these {n_patients} patients ({interval})."
    if high < 0:
        return f"{a} ranks worse than {b} on these {n_patients} patients ({interval})."
    return (
        f"The data cannot tell {a} and {b} apart ({interval}): with {n_patients} patients, "
        f"anything from {low:+.3f} to {high:+.3f} is compatible with what was seen."
    )


def jsonable(value: Any) -> Any:
    """Numpy scalars and arrays as plain JSON, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _estimate(value: np.ndarray, draws: np.ndarray, level: float) -> dict[str, float | None]:
    low, high = percentile_interval(draws, level)
    return {"value": _number(value), "low": _number(low), "high": _number(high)}


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _fold_table(data: OutOfFold, cells: list[Cell], values: np.ndarray) -> list[dict[str, Any]]:
    """One row a fold of a repeat: records, patients, positives, and both metrics by target and averaged."""
    table = []
    for repeat, fold in dict.fromkeys((c.repeat, c.fold) for c in cells):
        here = [i for i, c in enumerate(cells) if (c.repeat, c.fold) == (repeat, fold)]
        rows = np.flatnonzero(data.used[repeat] & (data.fold[repeat] == fold))
        by_name = {data.targets[cells[i].target]: i for i in here}
        table.append(
            {
                "repeat": repeat + 1,
                "fold": fold + 1 if isinstance(fold, int) else fold,
                "records": len(rows),
                "patients": len(np.unique(data.index[rows])),
                "positives": {
                    t: int(data.y[cells[i].rows, cells[i].target].sum()) for t, i in by_name.items()
                },
                "auroc": {t: _number(values[0, i]) for t, i in by_name.items()},
                "auprc": {t: _number(values[1, i]) for t, i in by_name.items()},
                "macro_auroc": _number(mean_defined(values[0, here])),
                "macro_auprc": _number(mean_defined(values[1, here])),
            }
        )
    return table


def _counts(data: OutOfFold) -> dict[str, Any]:
    tested = data.used.any(0)
    return {
        "records": int(tested.sum()),
        "patients": len(np.unique(data.index[tested])),
        "folds": len(fold_names(data.fold[0][data.used[0]])),
        "repeats": len(data.fold),
        "positives": {t: int(np.nansum(data.y[tested, k])) for k, t in enumerate(data.targets)},
        "unknown": {t: int(np.isnan(data.y[tested, k]).sum()) for k, t in enumerate(data.targets)},
    }


def _repeats(data: OutOfFold, cells: list[Cell], values: np.ndarray) -> dict[str, Any]:
    """Macro-AUROC of each repeat and its spread, which the interval does not contain."""
    each = []
    for r in range(len(data.fold)):
        keep = [
            [i for i, c in enumerate(cells) if (c.repeat, c.target) == (r, k)]
            for k in range(len(data.targets))
        ]
        each.append(float(mean_defined(np.array([mean_defined(values[0, rows]) for rows in keep]))))
    spread = _number(np.std(each, ddof=1)) if len(each) > 1 else None
    return {"n": len(each), "auroc": [_number(v) for v in each], "sd": spread}


def _target_details(data: OutOfFold, k: int) -> dict[str, Any]:
    """Counts of one target, and what is measured over all folds at once (averaged over repeats)."""
    tested = data.used.any(0) & ~np.isnan(data.y[:, k])
    positive = tested & (data.y[:, k] == 1)
    rows = [np.flatnonzero(u & ~np.isnan(data.y[:, k])) for u in data.used]
    pairs = [(data.y[r, k], q[r, k]) for r, q in zip(rows, data.arms[0])]

    def over_repeats(metric: Any) -> float | None:
        return _number(mean_defined(np.array([float(metric(y, p)) for y, p in pairs])))

    details: dict[str, Any] = {
        "records": int(tested.sum()),
        "positives": int(positive.sum()),
        "patients": len(np.unique(data.index[tested])),
        "positive_patients": len(np.unique(data.index[positive])),
        "balanced_accuracy_at_0.5": over_repeats(balanced_accuracy),
        "f1_at_0.5": over_repeats(f1),
        "sensitivity_at_90_specificity": over_repeats(sensitivity_at_specificity),
    }
    # scores that are no probabilities cannot be calibrated
    if all(((p >= 0) & (p <= 1)).all() for _, p in pairs):
        summaries = [calibration_summary(y, p) for y, p in pairs]
        for name in summaries[0]:
            details[name] = _number(mean_defined(np.array([s[name] for s in summaries])))
    return details


def fold_interval(level: float, n_boot: int, seed: int) -> dict[str, Any]:
    return {
        "level": level,
        "method": "percentile bootstrap over patients",
        "n_boot": n_boot,
        "seed": seed,
        "conditional": f"{100 * level:g} % interval from {n_boot:,} resamples of patients, conditional on "
        "the fitted models: it holds the chance of who was tested, not of training on other patients.",
    }


def _notes(data: OutOfFold, cells: list[Cell], values: np.ndarray) -> list[str]:
    """Why a number is missing: a target without both classes in a fold counts in the other folds only."""
    notes = []
    for k, target in enumerate(data.targets):
        lost = [c for i, c in enumerate(cells) if c.target == k and np.isnan(values[0, i])]
        total = sum(c.target == k for c in cells)
        if lost and len(lost) == total:
            notes.append(f"{target}: no fold has both classes, so it has no AUROC and is not in the average.")
        elif lost:
            notes.append(
                f"{target}: {len(lost)} of {total} folds have one class only and are left out of its mean."
            )
    return notes
