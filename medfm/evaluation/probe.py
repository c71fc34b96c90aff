"""The frozen probe: standardise, L2 logistic regression, C chosen by inner patient folds (the gap rule's
measure).

Features come from a network that nothing here has seen or changes. Standardisation, C and coefficients come
from the training rows alone. Unknown labels (NaN) are left out target by target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from medfm.data.splits import patient_folds
from medfm.evaluation.calibration import sigmoid
from medfm.evaluation.logistic import fit_logistic, standardiser
from medfm.evaluation.metrics import columns
from medfm.types import MedfmError

GRID = tuple(10.0**e for e in np.arange(-5, 1.01, 0.5))
Task = Literal["binary", "multiclass", "multilabel"]


@dataclass(frozen=True)
class LogisticProbe:
    """A fitted probe. coef ``[D, K]`` and intercept ``[K]`` act on raw features (standardisation folded
    in)."""

    coef: np.ndarray
    intercept: np.ndarray
    c: np.ndarray
    task: Task = "binary"

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Logits ``[n, K]``."""
        return np.asarray(x, dtype=float) @ self.coef + self.intercept

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Probabilities ``[n, K]``; multiclass: one against the rest, normalised to sum 1."""
        p = sigmoid(self.scores(x))
        return p / np.maximum(p.sum(1, keepdims=True), 1e-12) if self.task == "multiclass" else p


def fit_probe(
    x: np.ndarray,
    y: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    *,
    inner_folds: int = 3,
    seed: int = 0,
    task: Task = "multilabel",
    grid: Sequence[float] = GRID,
) -> LogisticProbe:
    """Fit on x ``[n, D]``, y ``[n, K]`` (multiclass: one-hot); C of each target by mean inner log loss.

    A target with one class in training gets a constant prediction. Patients too few for inner folds: the
    middle of the grid. Raises :class:`MedfmError` for features that are not finite.
    """
    x, y = np.asarray(x, dtype=float), columns(y)
    if x.ndim != 2 or len(x) != len(y):
        raise MedfmError(
            f"features are {list(x.shape)} for {len(y)} rows of labels: expected one vector a row."
        )
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(1).sum())
        raise MedfmError(
            f"{bad} feature vector(s) hold NaN or infinity: drop those records or mend the backbone."
        )
    c = _choose(x, y, patients, inner_folds, seed, np.asarray(grid, dtype=float))
    coef, intercept = _fit_raw(x, y, c)
    return LogisticProbe(coef, intercept, c, task)


def probe(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    patients_train: Sequence[Any] | np.ndarray,
    inner_folds: int = 3,
    seed: int = 0,
    *,
    task: Task = "multilabel",
    grid: Sequence[float] = GRID,
) -> np.ndarray:
    """Fit on one set of patients: probabilities ``[n_test, K]`` of another. Keeping the two apart is the
    caller's duty; test labels are not even a parameter."""
    fitted = fit_probe(
        x_train, y_train, patients_train, inner_folds=inner_folds, seed=seed, task=task, grid=grid
    )
    return fitted(x_test)


def probe_cv(
    features: np.ndarray,
    y: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    folds: Sequence[np.ndarray],
    *,
    inner_folds: int = 3,
    seed: int = 0,
    task: Task = "multilabel",
    grid: Sequence[float] = GRID,
) -> tuple[np.ndarray, np.ndarray]:
    """Out-of-fold probabilities ``[n, K]`` and the fold number of each row (-1: in no test fold, p NaN).

    ``folds`` are arrays of test rows; all other rows train, minus any of the test patients' (there are none
    when the folds are grouped by patient)."""
    y, patients = columns(y), np.asarray(patients).astype(str)
    p, fold = np.full(y.shape, np.nan), np.full(len(y), -1)
    for number, test in enumerate(folds):
        train = np.flatnonzero(~np.isin(patients, patients[test]))
        if not len(train):
            raise MedfmError(f"fold {number + 1} leaves no patient to train on.")
        fitted = fit_probe(
            features[train],
            y[train],
            patients[train],
            inner_folds=inner_folds,
            seed=seed,
            task=task,
            grid=grid,
        )
        p[test], fold[test] = fitted(features[test]), number
    return p, fold


def _choose(
    x: np.ndarray,
    y: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    folds: int,
    seed: int,
    grid: np.ndarray,
) -> np.ndarray:
    """C ``[K]`` by inner patient-grouped log loss, all targets and penalties fitted together."""
    middle = np.full(y.shape[1], grid[len(grid) // 2])
    names = np.asarray(patients).astype(str)
    folds = min(folds, len(np.unique(names)))
    if len(grid) == 1 or folds < 2:
        return middle
    known = ~np.isnan(y)
    multiplied = np.repeat(np.arange(y.shape[1]), len(grid))
    loss = np.zeros((y.shape[1], len(grid)))
    for test in patient_folds(y, names, folds, seed, "multilabel", strict=False):
        train = np.setdiff1d(np.arange(len(y)), test)
        mean, std = standardiser(x[train])
        z_train, z_test = (((x[r] - mean) / std).astype(np.float32) for r in (train, test))
        coef, intercept = fit_logistic(
            z_train, y[train][:, multiplied], np.tile(grid, y.shape[1]), tolerance=1e-3
        )
        z = (z_test @ coef + intercept).reshape(len(test), y.shape[1], len(grid))
        target = np.nan_to_num(y[test])[..., None]
        loss += (known[test][..., None] * (np.logaddexp(0, z) - target * z)).sum(0)
    both = [len(np.unique(column[k])) == 2 for column, k in zip(y.T, known.T)]
    return np.where(both, grid[np.argmin(loss, axis=1)], middle)


def _fit_raw(x: np.ndarray, y: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and intercepts on raw features; a column with one class is its smoothed share."""
    mean, std = standardiser(x)
    coef, intercept = fit_logistic((x - mean) / std, y, c)
    positives, rows = np.nansum(y, axis=0), (~np.isnan(y)).sum(0)
    single = (positives == 0) | (positives == rows)
    share = (positives + 1) / (rows + 2)
    coef = np.where(single, 0.0, coef) / std[:, None]
    intercept = np.where(single, np.log(share / (1 - share)), intercept - mean @ coef)
    return coef, intercept
