"""Survival measures under right censoring: Kaplan-Meier, concordance, Brier score, AUROC at a time, log-rank.

Legend: n records, T times, B resamples. ``time`` ``[n]`` is the follow-up, ``event`` ``[n]`` bool says whether it ended in
the event (else it was censored); ``risk`` ``[n]`` rises with danger. ``weights`` are ``[n, B]``, one column a bootstrap
resample. An event comes before a censoring at the same time. A measure that is undefined (no comparable pair) is NaN.
Censored records are made up for by weights of 1 / G, where G is the chance of being uncensored still
(Robins and Rotnitzky 1992), estimated on other records by :func:`censoring`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medfm.evaluation.calibration import logit, weighted_logistic
from medfm.evaluation.metrics import auroc

BLOCK = 2**22  # pairs held at once


@dataclass(frozen=True)
class Curve:
    """A step function that starts at 1 and falls to ``values [T]`` at ``times [T]``."""

    times: np.ndarray
    values: np.ndarray

    def at(self, t: np.ndarray | float) -> np.ndarray:
        """Its value at t (a step at t counts)."""
        return np.r_[1.0, self.values][np.searchsorted(self.times, t, side="right")]

    def before(self, t: np.ndarray | float) -> np.ndarray:
        """Its value just before t."""
        return np.r_[1.0, self.values][np.searchsorted(self.times, t, side="left")]


@dataclass(frozen=True)
class KaplanMeier(Curve):
    """The survival curve with what its interval needs: ``spread [T]`` is Greenwood's sum, ``at_risk [T]`` records."""

    at_risk: np.ndarray
    spread: np.ndarray

    def interval(self, t: np.ndarray | float, z: float = 1.959964) -> tuple[np.ndarray, np.ndarray]:
        """95 % bounds of the value at t on the log(-log) scale; the value itself where it is 0 or 1."""
        s = self.at(t)
        spread = np.r_[0.0, self.spread][np.searchsorted(self.times, t, side="right")]
        inside = (s > 0) & (s < 1)
        safe = np.where(inside, s, 0.5)
        half = z * np.sqrt(np.where(inside, spread, 0.0)) / np.abs(np.log(safe))
        return np.where(inside, safe ** np.exp(half), s), np.where(inside, safe ** np.exp(-half), s)


def kaplan_meier(time: np.ndarray, event: np.ndarray) -> KaplanMeier:
    """Kaplan and Meier (1958) with Greenwood's variance, stepping at the distinct event times."""
    time, event = np.asarray(time, float), np.asarray(event, bool)
    times, died = np.unique(time[event], return_counts=True)
    ordered = np.sort(time)
    at_risk = len(time) - np.searchsorted(ordered, times, side="left")
    with np.errstate(divide="ignore"):
        spread = np.cumsum(died / (at_risk * (at_risk - died).astype(float)))
    return KaplanMeier(times, np.cumprod(1 - died / at_risk), at_risk, spread)


def censoring(time: np.ndarray, event: np.ndarray) -> Curve:
    """G(t), the chance of not being censored by t: Kaplan-Meier of the censorings, of those whom no event took first.

    Where it would fall to zero it keeps its last positive value, so that no record weighs infinitely.
    """
    time, event = np.asarray(time, float), np.asarray(event, bool)
    times, left = np.unique(time[~event], return_counts=True)
    at_risk = len(time) - np.searchsorted(np.sort(time), times, side="left")
    died = np.searchsorted(np.sort(time[event]), times, side="right")
    died -= np.searchsorted(np.sort(time[event]), times, side="left")
    values = np.cumprod(1 - left / np.maximum(at_risk - died, 1))
    last = values[values > 0].min(initial=1.0)
    return Curve(times, np.where(values > 0, values, last))


def concordance(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    weights: np.ndarray,
    censor: Curve,
    limit: float = np.inf,
) -> tuple[np.ndarray, np.ndarray]:
    """Harrell's C (1982) and Uno's C (2011), each ``[B]``.

    Both are the share of comparable pairs (one had the event while the other was known to be without it) in which the one
    with the event had the higher risk, an equal risk counting one half. Uno's weighs a pair by 1 / G(t-)^2 and takes
    events before ``limit`` only, so that it does not depend on how the site's follow-up ended.
    """
    cases = np.flatnonzero(event)
    again = np.where(time[cases] < limit, 1 / censor.before(time[cases]) ** 2, 0.0)
    sums = np.zeros((4, weights.shape[1]))
    for part in np.array_split(np.arange(len(cases)), max(1, -(-len(cases) * len(time) // BLOCK))):
        own, t, r = cases[part], time[cases[part], None], risk[cases[part], None]
        pairs = (time > t) | ((time == t) & ~event)
        right = (pairs * ((r > risk) + 0.5 * (r == risk))).astype(weights.dtype) @ weights
        total = pairs.astype(weights.dtype) @ weights
        for i, drawn in ((0, weights[own]), (2, weights[own] * again[part, None])):
            sums[i] += (drawn * right).sum(0, dtype=float)
            sums[i + 1] += (drawn * total).sum(0, dtype=float)
    return _share(sums[0], sums[1]), _share(sums[2], sums[3])


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def status_at(
    time: np.ndarray, event: np.ndarray, horizon: float, censor: Curve
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the event had happened by ``horizon`` (1, 0, or NaN for censored before) and each record's 1 / G ``[n]``."""
    happened = event & (time <= horizon)
    status = np.where(happened, 1.0, np.where(time > horizon, 0.0, np.nan))
    return status, np.where(happened, 1 / censor.before(time), 1 / censor.at(horizon))


def auroc_at(
    time: np.ndarray, event: np.ndarray, risk: np.ndarray, weights: np.ndarray, horizon: float, censor: Curve
) -> np.ndarray:
    """Cumulative/dynamic AUROC ``[B]`` (Uno 2007): events by ``horizon`` against those known to be without one then."""
    status, inverse = status_at(time, event, horizon, censor)
    return auroc(status, risk, weights * inverse[:, None])


def brier_rows(
    time: np.ndarray, event: np.ndarray, survival: np.ndarray, times: np.ndarray, censor: Curve
) -> np.ndarray:
    """Each record's share ``[n, T]`` of the Brier score at ``times`` (Graf 1999), of predicted ``survival [n, T]``.

    Their mean over records is the score; a record censored before a time counts there through the weights of others.
    """
    t = np.asarray(times)[None]
    happened, alive = event[:, None] & (time[:, None] <= t), time[:, None] > t
    return (
        happened * survival**2 / censor.before(time)[:, None] + alive * (1 - survival) ** 2 / censor.at(t)[0]
    )


def integrated(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Mean of ``rows [n, T]`` over time ``[n]`` by the trapezoid rule, from the first time to the last."""
    return np.trapezoid(rows, times, axis=1) / (times[-1] - times[0])


def calibration_at(
    time: np.ndarray, event: np.ndarray, p: np.ndarray, horizon: float, censor: Curve
) -> dict[str, float]:
    """Of the predicted chance ``p [n]`` of an event by ``horizon``: slope on the logit scale (1 is ideal, below: too
    extreme), and observed (Kaplan-Meier) against mean predicted chance."""
    status, inverse = status_at(time, event, horizon, censor)
    seen = np.isfinite(status)
    slope = np.nan
    if np.unique(status[seen]).size == 2 and np.ptp(p[seen]) > 0:
        slope = weighted_logistic(logit(p[seen]), status[seen], inverse[seen])[0]
    observed = 1 - float(kaplan_meier(time, event).at(horizon))
    return {"slope": float(slope), "observed": observed, "predicted": float(p.mean())}


def calibration_groups(
    time: np.ndarray, event: np.ndarray, p: np.ndarray, horizon: float, groups: int = 5
) -> list[dict[str, float]]:
    """Records in groups of equal size by ``p``: mean predicted chance of an event by ``horizon``, the observed one
    (Kaplan-Meier in the group) with its 95 % bounds, and the count. Equal predictions stay in one group."""
    which = np.searchsorted(np.unique(np.quantile(p, np.arange(1, groups) / groups)), p, side="left")
    rows = []
    for g in np.unique(which):
        inside = which == g
        curve = kaplan_meier(time[inside], event[inside])
        low, high = curve.interval(horizon)
        observed = 1 - float(curve.at(horizon))
        bounds = {"low": 1 - float(high), "high": 1 - float(low)}
        rows.append(
            {
                "predicted": float(p[inside].mean()),
                "observed": observed,
                **bounds,
                "records": int(inside.sum()),
            }
        )
    return rows


def logrank(time: np.ndarray, event: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Log-rank chi-square over the groups and its p value; NaN with one group or no event."""
    from scipy.stats import chi2

    names, times = np.unique(group), np.unique(time[event])
    if len(names) < 2 or not len(times):
        return np.nan, np.nan
    at_risk = np.stack([(time[group == g][:, None] >= times).sum(0) for g in names]).astype(float)
    died = np.stack([(time[(group == g) & event][:, None] == times).sum(0) for g in names]).astype(float)
    n, d = at_risk.sum(0), died.sum(0)
    excess = (died - at_risk * d / n).sum(1)
    factor = np.where(n > 1, d * (n - d) / (n**2 * np.maximum(n - 1, 1)), 0.0)
    variance = np.diag((at_risk * n * factor).sum(1)) - (at_risk * factor) @ at_risk.T
    statistic = float(excess[:-1] @ np.linalg.pinv(variance[:-1, :-1]) @ excess[:-1])
    return statistic, float(chi2.sf(statistic, len(names) - 1))
