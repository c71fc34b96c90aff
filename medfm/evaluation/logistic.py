"""Many L2 logistic regressions at once: every target and every penalty shares the same matrix products.

Minimises, for each column j,  sum_i w_ij log(1 + exp(-s_ij (x_i b_j + a_j))) + |b_j|^2 / (2 C_j),  the
objective of scikit-learn's ``LogisticRegression`` (intercept unpenalised), by L-BFGS with one step length a
column. A probe needs some hundred such fits; one by one they take a minute, together a few seconds on one
core."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MEMORY = 10
Objective = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
Pair = tuple[np.ndarray, np.ndarray, np.ndarray]


def standardiser(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each feature ``[D]``; a constant feature gets deviation 1 (it becomes zero)."""
    x = np.asarray(x, dtype=float)
    mean, std = x.mean(0), x.std(0)
    return mean, np.where(std > 1e-12 * np.maximum(1, np.abs(mean)), std, 1.0)


def fit_logistic(
    x: np.ndarray, y: np.ndarray, c: np.ndarray, *, tolerance: float = 1e-4, max_steps: int = 300
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients ``[D, M]`` and intercepts ``[M]`` for M problems on the same features.

    x ``[n, D]`` (standardise it first; float32 halves the time), y ``[n, M]`` of 0, 1 or NaN (that row does
    not enter problem j), c ``[M]``. A column is done when its gradient, per labelled row, is below
    ``tolerance``."""
    kind = np.float32 if x.dtype == np.float32 else np.float64
    weight = (~np.isnan(y)).astype(kind)
    target = np.nan_to_num(y).astype(kind)
    rows = np.maximum(weight.sum(0), 1)
    penalty = (1 / (np.asarray(c, dtype=float) * rows)).astype(kind)
    a: np.ndarray = np.concatenate([x, np.ones((len(x), 1))], axis=1, dtype=kind)
    # Work where the curvature is about one: the logistic loss bends at most as x'x/4, which the eigenvectors
    # of x'x diagonalise for all problems at once. Without it, small penalties need several times the steps.
    scale, turn = np.linalg.eigh(a.T @ a / len(a))
    a = a @ turn
    metric = 1 / (np.maximum(scale, 0)[:, None] / 4 + penalty + 1e-6)
    last = turn[-1]  # the intercept's row: taken out of the penalty, in turned coordinates

    def value(b: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = a @ b
        w, t, n, ridge = weight[:, at], target[:, at], rows[at], penalty[at]
        intercept = last @ b
        size = np.abs(z)
        loss = (w * (np.log1p(np.exp(-size)) + (z + size) / 2 - t * z)).sum(0) / n
        loss = loss + 0.5 * ridge * ((b * b).sum(0) - intercept**2)
        residual = w * (0.5 * (1 + np.tanh(0.5 * z)) - t)
        return loss, a.T @ residual / n + ridge * (b - np.outer(last, intercept))

    b = turn @ _minimise(value, np.zeros((a.shape[1], len(rows)), dtype=kind), metric, tolerance, max_steps)
    return b[:-1], b[-1]


def _minimise(
    value: Objective, start: np.ndarray, metric: np.ndarray, tolerance: float, steps: int
) -> np.ndarray:
    """L-BFGS on independent columns; ``metric`` is the first guess of the inverse Hessian's diagonal.

    Finished columns leave the matrix products once they are a third of them.
    """
    out, at = start.copy(), np.arange(start.shape[1])
    rounding = 8 * np.finfo(start.dtype).eps
    b, (loss, gradient) = start, value(start, at)
    pairs: list[Pair] = []
    stuck = np.zeros(len(at), dtype=bool)
    for _ in range(steps):
        active = (np.abs(gradient).max(0) > tolerance) & ~stuck
        if active.mean() < 2 / 3:
            out[:, at] = b
            at, b, loss, gradient, stuck = (
                at[active],
                b[:, active],
                loss[active],
                gradient[:, active],
                stuck[active],
            )
            pairs = [(s[:, active], d[:, active], i[active]) for s, d, i in pairs]
            active = active[active]
        if not len(at):
            return out
        step = -_direction(gradient, pairs, metric[:, at])
        slope = (step * gradient).sum(0)
        size = np.where(active, 1, 0).astype(b.dtype)
        for _ in range(20):  # halve where the loss did not fall enough (Armijo)
            new = b + size * step
            new_loss, new_gradient = value(new, at)
            bad = new_loss > loss + 1e-4 * size * slope + rounding * (1 + np.abs(loss))
            if not bad.any():
                break
            size = np.where(bad, size / 2, size)
        new, new_loss = np.where(bad, b, new), np.where(bad, loss, new_loss)
        new_gradient = np.where(bad, gradient, new_gradient)
        stuck = bad  # no shorter step helps these columns: they have converged to rounding
        s, d = new - b, new_gradient - gradient
        curvature = (s * d).sum(0)
        good = curvature > np.finfo(b.dtype).tiny
        pairs = [*pairs[-(MEMORY - 1) :], (s, d, np.where(good, 1 / np.where(good, curvature, 1), 0))]
        b, loss, gradient = new, new_loss, new_gradient
    out[:, at] = b
    return out


def _direction(gradient: np.ndarray, pairs: list[Pair], first: np.ndarray) -> np.ndarray:
    """Two-loop recursion with inner products by column; an inverse of zero skips that column's pair."""
    q, kept = gradient.copy(), []
    for s, d, inverse in reversed(pairs):
        alpha = inverse * (s * q).sum(0)
        q -= alpha * d
        kept.append(alpha)
    q = first * q
    for (s, d, inverse), alpha in zip(pairs, reversed(kept)):
        q += s * (alpha - inverse * (d * q).sum(0))
    return q
