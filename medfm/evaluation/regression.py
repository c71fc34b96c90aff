"""A continuous target on out-of-fold predictions: MAE, RMSE, R2, correlation and calibration, by fold, with intervals.

Baselines need no record: the mean and the median of each fold's training records. n records, R repeats, B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medfm.evaluation.bootstrap import LEVEL
from medfm.evaluation.cells import Cell, check_predictions
from medfm.evaluation.measured import Measured, measure_folds
from medfm.evaluation.protocol import fold_interval

NAMES = ("mae", "rmse", "r2", "pearson", "calibration_slope", "calibration_intercept")
WORDS = {
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
    "pearson": "Pearson correlation",
    "calibration_slope": "calibration slope",
    "calibration_intercept": "calibration intercept",
}


def regression_metrics(y: np.ndarray, p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """:data:`NAMES` of truth y and prediction p ``[n]`` under ``weights [n, B]``: ``[6, B]``.

    R2 is 1 - SSE / SST about the mean of these rows: below zero where that mean would have done better. Calibration is the
    least-squares line of truth on prediction: slope 1 and intercept 0 are ideal, a slope below 1 says that predictions are
    too spread out. NaN where it is undefined (a constant).
    """
    centre = y.mean() if len(y) else 0.0  # shifted, so that the sums of squares keep their digits
    a, b, error = y - centre, p - centre, p - y
    columns = np.stack([np.ones_like(a), a, b, a * a, b * b, a * b, np.abs(error), error * error])
    n, sa, sb, saa, sbb, sab, absolute, square = columns @ np.asarray(weights, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        va, vb, cov = saa / n - (sa / n) ** 2, sbb / n - (sb / n) ** 2, sab / n - sa * sb / n**2
        tiny = 1e-12 * max(1.0, float(np.abs(a).max(initial=0.0)) ** 2)
        va, vb = np.where(va > tiny, va, np.nan), np.where(vb > tiny, vb, np.nan)
        slope = cov / vb
        intercept = sa / n + centre - slope * (sb / n + centre)
        return np.stack(
            [
                absolute / n,
                np.sqrt(square / n),
                1 - square / n / va,
                cov / np.sqrt(va * vb),
                slope,
                intercept,
            ]
        )


def constant_arms(y: np.ndarray, fold: np.ndarray) -> dict[str, np.ndarray]:
    """What a fold's training records say of everybody: their mean and their median, each ``[R, n]``."""
    fold = np.atleast_2d(fold)
    arms = {"training mean": np.full(fold.shape, np.nan), "training median": np.full(fold.shape, np.nan)}
    for repeat, numbers in enumerate(fold):
        for number in np.unique(numbers[numbers >= 0]):
            rows, train = numbers == number, (numbers >= 0) & (numbers != number)
            arms["training mean"][repeat, rows] = y[train].mean()
            arms["training median"][repeat, rows] = np.median(y[train])
    return arms


def evaluate_regression(
    y: np.ndarray,
    arms: Mapping[str, np.ndarray],
    fold: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    target: str,
    n_boot: int = 2000,
    seed: int = 0,
    *,
    level: float = LEVEL,
) -> tuple[dict[str, dict[str, Any]], Measured]:
    """What a report says of each arm, ready for JSON, and the measures themselves for differences between arms.

    y ``[n]`` and each arm ``[R, n]`` in the target's own unit, fold ``[R, n]``. Raises :class:`MedfmError` when shapes
    disagree or a patient crosses folds.
    """
    shaped = tuple(np.asarray(p)[..., None] for p in arms.values())
    data = check_predictions(y, shaped, fold, patients, [target])

    def measure(arm: int, cell: Cell, weights: np.ndarray) -> np.ndarray:
        return regression_metrics(data.y[cell.rows, 0], data.arms[arm][cell.repeat, cell.rows, 0], weights)

    measured = measure_folds(data, tuple(arms), NAMES, measure, n_boot, seed, level)
    results: dict[str, dict[str, Any]] = {}
    for name in arms:
        within = measured.estimates(name)
        results[name] = {
            "task": "regression",
            "headline": {"metric": "mae", "name": "mean absolute error within folds, averaged"}
            | within["mae"],
            "within_fold": within,
            "pooled": measured.estimates(name, pooled=True),
            "folds": measured.folds(name),
            "repeats": measured.repeats(name, "mae"),
            "counts": {
                "records": len(data.y),
                "patients": data.n_patients,
                "folds": len(np.unique(data.fold[0][data.used[0]])),
                "repeats": len(data.fold),
            },
            "interval": fold_interval(level, n_boot, seed),
            "targets": {target: within},
        }
    return results, measured


def agreement(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Bland and Altman (1986): mean of prediction minus truth, and its 95 % limits (1.96 deviations)."""
    error = np.asarray(p) - np.asarray(y)
    bias, spread = float(error.mean()), float(error.std(ddof=1)) if len(error) > 1 else np.nan
    return {"bias": bias, "low": bias - 1.96 * spread, "high": bias + 1.96 * spread}


def difference_words(
    difference: Mapping[str, Any], names: tuple[str, str], patients: int, level: float = LEVEL
) -> str:
    """One or two plain sentences on a difference in mean absolute error ``{value, low, high}`` (below zero: the first
    predicts better)."""
    a, b = names
    value, low, high = (difference[k] for k in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return f"{a} and {b} cannot be compared: too few patients for an interval."
    interval = f"{value:+.3g} mean absolute error, {100 * level:g} % interval {low:+.3g} to {high:+.3g}"
    if high < 0:
        return f"{a} predicts better than {b} on these {patients} patients ({interval})."
    if low > 0:
        return f"{a} predicts worse than {b} on these {patients} patients ({interval})."
    return f"The data cannot tell {a} and {b} apart ({interval}, {patients} patients)."
