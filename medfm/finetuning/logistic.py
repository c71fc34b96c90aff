"""L2 logistic regression on standardised embeddings, its strength chosen on inner patient folds by log loss.

The objective is scikit-learn's: sum of log losses + |w|^2 / (2 C), intercept free. Unweighted, so that
probabilities keep the site's prevalence. A run needs hundreds of such fits on the same records: they share
one rotation in which the curvature is nearly diagonal, and L-BFGS then takes a few steps only. n records, F
features, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from medfm.finetuning.task import Task

Coefficients = tuple[np.ndarray, np.ndarray]  # weight [K, R] in the rotated space, bias [K]
FLAT = 1e-10  # directions with less of the largest variance than this hold rounding only


@dataclass(frozen=True)
class Solution:
    """``logits = weight [K, F] ((z - center) / scale) + bias [K]``, with the C chosen for each output."""

    weight: np.ndarray
    bias: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    strengths: tuple[float, ...] = field(default=())

    def logits(self, z: np.ndarray) -> np.ndarray:
        """``[n, F] -> [n, K]``."""
        return ((z - self.center) / self.scale) @ self.weight.T + self.bias


def standardisation(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation ``[F]``; a constant feature is divided by one."""
    z = z.astype(np.float64)
    scale = z.std(0)
    return z.mean(0), np.where(scale > 1e-8 * np.maximum(1.0, np.abs(z).max(0, initial=0.0)), scale, 1.0)


def fit_logistic(
    z: np.ndarray, y: np.ndarray, task: Task, inner: Sequence[np.ndarray], strengths: Sequence[float]
) -> Solution:
    """Fit on training records only. z ``[n, F]``, y ``[n, K]`` with NaN unknown; ``inner`` holds the
    validation rows of each inner patient fold (positions in z).
    """
    turned = rotated(z)
    fit = _fit_multiclass if task.kind == "multiclass" else _fit_outputs
    weight, bias, chosen = fit(turned.z, y, task, inner, sorted(strengths))
    return turned.solution(weight, bias, chosen)


@dataclass(frozen=True)
class Rotated:
    """Standardised features in their principal directions: ``z [n, R]``; ``basis [R, F]`` turns back."""

    z: np.ndarray
    basis: np.ndarray
    center: np.ndarray
    scale: np.ndarray

    def solution(self, weight: np.ndarray, bias: np.ndarray, strengths: tuple[float, ...]) -> Solution:
        """Of weights ``[K, R]`` found on ``z``."""
        return Solution(weight @ self.basis, bias, self.center, self.scale, strengths)


def rotated(z: np.ndarray) -> Rotated:
    """An L2 penalty does not see rotations: the fit in the directions that the records span is the same fit."""
    center, scale = standardisation(z)
    standard = (z.astype(np.float64) - center) / scale
    if len(standard) < standard.shape[1]:
        power, left = np.linalg.eigh(standard @ standard.T)
        keep = power > FLAT * max(power[-1], 1e-300)
        basis = (left[:, keep].T @ standard) / np.sqrt(power[keep])[:, None]
    else:
        power, right = np.linalg.eigh(standard.T @ standard)
        keep = power > FLAT * max(power[-1], 1e-300)
        basis = right[:, keep].T
    return Rotated(standard @ basis.T, basis, center, scale)


def _fit_outputs(
    z: np.ndarray, y: np.ndarray, task: Task, inner: Sequence[np.ndarray], strengths: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    weight, bias = np.zeros((y.shape[1], z.shape[1])), task.prevalence_logits(y)
    chosen = []
    for k in range(y.shape[1]):
        known = np.isfinite(y[:, k])
        folds = [np.intersect1d(rows, np.flatnonzero(known)) for rows in inner]
        best = _choose(z, y[:, k : k + 1], known, folds, strengths)
        chosen.append(best)
        if _learnable(y[known, k : k + 1]):
            part, free = _solve(z[known], y[known, k : k + 1], best)
            weight[k], bias[k] = part[0], free[0]
    return weight, bias, tuple(chosen)


def _fit_multiclass(
    z: np.ndarray, y: np.ndarray, task: Task, inner: Sequence[np.ndarray], strengths: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    known = np.isfinite(y).all(1)
    folds = [np.intersect1d(rows, np.flatnonzero(known)) for rows in inner]
    best = _choose(z, y, known, folds, strengths)
    weight, bias = np.zeros((y.shape[1], z.shape[1])), task.prevalence_logits(y)
    seen = y[known].sum(0) > 0
    if seen.sum() > 1:
        weight[seen], bias[seen] = _solve(z[known], y[known][:, seen], best)
        bias[~seen] = bias[seen].min() - 10.0  # a class that no training patient has
    return weight, bias, (best,)


def _choose(
    z: np.ndarray, y: np.ndarray, known: np.ndarray, folds: Sequence[np.ndarray], strengths: Sequence[float]
) -> float:
    """The C with the smallest log loss over inner validation records; the strongest penalty where none can be
    told.
    """
    if len(strengths) == 1:
        return strengths[0]
    loss, counted = np.zeros(len(strengths)), 0
    for rows in folds:
        train = known.copy()
        train[rows] = False
        if not len(rows) or not _learnable(y[train]):
            continue
        seen = np.ones(1, bool) if y.shape[1] == 1 else y[train].sum(0) > 0
        tested = rows if y.shape[1] == 1 else rows[y[rows][:, seen].sum(1) > 0]
        counted += len(tested)
        start: Coefficients | None = None
        for i, strength in enumerate(strengths):  # along the path of C, the previous solution is a good start
            start = _solve(z[train], y[train][:, seen], strength, start)
            loss[i] += _log_loss(z[tested] @ start[0].T + start[1], y[tested][:, seen])[0]
    return strengths[int(loss.argmin())] if counted else strengths[0]


def _learnable(y: np.ndarray) -> bool:
    positive = y.sum(0)
    return bool((positive > 0).sum() > 1) if y.shape[1] > 1 else bool(0 < positive[0] < len(y))


def _log_loss(logits: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Summed log loss, and its gradient by the logits ``[n, K]``; K = 1 is binary, else softmax over
    one-hot y."""
    if logits.shape[1] == 1:
        p = 0.5 * (1 + np.tanh(0.5 * logits))
        return float((np.logaddexp(0.0, logits) - y * logits).sum()), p - y
    shifted = logits - logits.max(1, keepdims=True)
    p = np.exp(shifted)
    total = p.sum(1, keepdims=True)
    return float((np.log(total)[:, 0] - (y * shifted).sum(1)).sum()), p / total - y


def _solve(z: np.ndarray, y: np.ndarray, strength: float, start: Coefficients | None = None) -> Coefficients:
    """Minimise over weight and bias; every coordinate is scaled by its curvature bound (a log loss bends
    by 1/4)."""
    from scipy.optimize import minimize

    outputs, features = y.shape[1], z.shape[1]
    metric = np.append(1 / np.sqrt((z**2).sum(0) / 4 + 1 / strength), 2 / np.sqrt(len(z)))
    first = np.zeros((outputs, features + 1))
    if start is not None:
        first = np.column_stack(start) / metric

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = flat.reshape(outputs, -1) * metric
        weight, bias = theta[:, :-1], theta[:, -1]
        loss, by_logits = _log_loss(z @ weight.T + bias, y)
        gradient = np.column_stack([by_logits.T @ z + weight / strength, by_logits.sum(0)]) * metric
        return loss + 0.5 * float((weight**2).sum()) / strength, gradient.ravel()

    # In these coordinates the Hessian is about the identity: a gradient of 1e-3 is an error of 1e-6 in the
    # loss.
    options = {"maxiter": 500, "gtol": 1e-3, "ftol": 1e-13}
    best = minimize(value, first.ravel(), jac=True, method="L-BFGS-B", options=options).x
    theta = best.reshape(outputs, -1) * metric
    return theta[:, :-1], theta[:, -1]
