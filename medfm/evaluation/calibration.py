"""Are the probabilities true? Brier score, calibration slope and intercept, reliability, net benefit,
rescaling.

All functions take one target: y ``[n]`` of 0, 1 or NaN (left out) and probabilities p ``[n]``. Rescaling
(temperature, Platt) is fitted on inner out-of-fold predictions, never on the rows it is judged on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medfm.evaluation.metrics import brier, known

CLIP = 1e-6


def logit(p: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), with p kept 1e-6 away from 0 and 1."""
    p = np.clip(np.asarray(p, dtype=float), CLIP, 1 - CLIP)
    return np.log(p / (1 - p))


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(z, dtype=float)))


@dataclass(frozen=True)
class Rescaling:
    """p -> sigmoid(slope * logit(p) + intercept). A temperature T is slope 1/T with intercept 0."""

    slope: float
    intercept: float

    def __call__(self, p: np.ndarray) -> np.ndarray:
        return sigmoid(self.slope * logit(p) + self.intercept)


def platt(y: np.ndarray, p: np.ndarray) -> Rescaling:
    """Logistic regression of the outcome on the logit (Platt 1999, with his smoothed targets, so that it
    exists even when the scores separate the classes)."""
    positive, score, _ = known(y, p, None)
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    smooth = np.where(positive, (n_pos + 1) / (n_pos + 2), 1 / (n_neg + 2))
    slope, intercept = _logistic(logit(score), smooth)
    return Rescaling(slope, intercept)


def temperature(y: np.ndarray, p: np.ndarray) -> Rescaling:
    """One scale for the logits that minimises the log loss (Guo 2017), within 1/20 to 20."""
    from scipy.optimize import minimize_scalar

    positive, score, _ = known(y, p, None)
    z, sign = logit(score), np.where(positive, 1.0, -1.0)

    def log_loss(log_scale: float) -> float:
        return float(np.logaddexp(0, -sign * np.exp(log_scale) * z).mean())

    best = minimize_scalar(log_loss, bounds=(-np.log(20), np.log(20)), method="bounded")
    return Rescaling(float(np.exp(best.x)), 0.0)


def calibration_slope(y: np.ndarray, p: np.ndarray) -> tuple[float, float]:
    """Slope and calibration-in-the-large of the logit (Cox 1958); 1 and 0 are ideal.

    A slope under 1: predictions too extreme (overfitting). The intercept is fitted with the slope held at
    1: over 0, risks are underestimated on average. NaN with one class, with constant p, or when p separates
    the classes."""
    positive, score, _ = known(y, p, None)
    z, t = logit(score), positive.astype(float)
    if not positive.any() or positive.all():
        return float("nan"), float("nan")
    separated = (
        np.ptp(z) == 0 or z[positive].min() >= z[~positive].max() or z[positive].max() <= z[~positive].min()
    )
    slope = float("nan") if separated else _logistic(z, t)[0]
    return slope, _offset(z, t)


def _logistic(z: np.ndarray, t: np.ndarray) -> tuple[float, float]:
    return weighted_logistic(z, t, np.ones_like(z))


def weighted_logistic(z: np.ndarray, t: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Slope and intercept: maximum likelihood of sigmoid(a z + b) for targets t in [0, 1] by damped Newton steps; all
    ``[n]``."""
    x = np.stack([z, np.ones_like(z)], axis=1)
    theta = np.array([1.0, 0.0])

    def loss(w: np.ndarray) -> float:
        return float((weight * (np.logaddexp(0, x @ w) - t * (x @ w))).sum())

    for _ in range(100):
        q = sigmoid(x @ theta)
        gradient = x.T @ (weight * (q - t))
        hessian = (x * (weight * q * (1 - q))[:, None]).T @ x + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while loss(theta - size * step) > loss(theta) and size > 1e-6:
            size /= 2
        theta = theta - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    return float(theta[0]), float(theta[1])


def _offset(z: np.ndarray, t: np.ndarray) -> float:
    """b with mean sigmoid(z + b) equal to mean t; monotone in b, so that bisection suffices."""
    low, high = -40.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(z + middle).mean() < t.mean() else (low, middle)
    return (low + high) / 2


def reliability(y: np.ndarray, p: np.ndarray, bins: int = 10) -> dict[str, np.ndarray]:
    """Observed against predicted risk in bins of equal counts: ``predicted, observed, low, high, count``.

    low and high are Wilson 95 % bounds (records taken as independent: a reading aid, not a test). Rows of
    equal prediction stay in one bin, so that there may be fewer than ``bins``."""
    positive, score, _ = known(y, p, None)
    edges = np.unique(np.quantile(score, np.linspace(0, 1, bins + 1)[1:-1])) if score.size else np.zeros(0)
    which = np.searchsorted(edges, score, side="left")
    count = np.bincount(which, minlength=len(edges) + 1).astype(float)
    full = count > 0
    predicted = np.bincount(which, score, len(edges) + 1)[full] / count[full]
    observed = np.bincount(which, positive, len(edges) + 1)[full] / count[full]
    low, high = wilson(observed, count[full])
    return {"predicted": predicted, "observed": observed, "low": low, "high": high, "count": count[full]}


def wilson(share: np.ndarray, n: np.ndarray, z: float = 1.959964) -> tuple[np.ndarray, np.ndarray]:
    """Wilson score bounds of a proportion."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return centre - half, centre + half


def expected_calibration_error(y: np.ndarray, p: np.ndarray, bins: int = 10) -> float:
    """Mean absolute distance of observed and predicted risk over bins of equal counts, weighted by size."""
    r = reliability(y, p, bins)
    total = r["count"].sum()
    return (
        float((r["count"] * np.abs(r["observed"] - r["predicted"])).sum() / total) if total else float("nan")
    )


def net_benefit(y: np.ndarray, p: np.ndarray, thresholds: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Decision curve (Vickers 2006): TP/n - FP/n * pt/(1 - pt) when everybody with p >= pt is treated.

    Returns ``threshold``, ``model``, ``all`` (treat everybody) and ``none`` (zero). Default thresholds 0.01
    to 0.99."""
    positive, score, _ = known(y, p, None)
    pt = np.arange(1, 100) / 100 if thresholds is None else np.asarray(thresholds, dtype=float)
    n, prevalence = positive.size, positive.mean() if positive.size else np.nan
    hits, false = np.sort(score[positive]), np.sort(score[~positive])
    tp = len(hits) - np.searchsorted(hits, pt, side="left")
    fp = len(false) - np.searchsorted(false, pt, side="left")
    odds = pt / (1 - pt)
    model = (tp - fp * odds) / n if n else np.full(pt.shape, np.nan)
    return {
        "threshold": pt,
        "model": model,
        "all": prevalence - (1 - prevalence) * odds,
        "none": np.zeros_like(pt),
    }


def calibration_summary(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """``brier``, ``calibration_slope``, ``calibration_intercept`` (in the large), ``ece``; else NaN."""
    slope, intercept = calibration_slope(y, p)
    return {
        "brier": float(brier(y, p)),
        "calibration_slope": slope,
        "calibration_intercept": intercept,
        "ece": expected_calibration_error(y, p),
    }
