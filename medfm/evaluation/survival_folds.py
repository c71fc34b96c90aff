"""Survival on out-of-fold forecasts: concordance, Brier score and AUROC by fold with intervals, calibration, risk groups.

The censoring distribution behind the weights is that of each fold's training records. Forecasts of different folds are on
one time grid and one horizon, so that the pooled values mean something. n records, R repeats, T times, B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medfm.evaluation import survival as km
from medfm.evaluation.bootstrap import LEVEL
from medfm.evaluation.cells import Cell, OutOfFold, check_predictions
from medfm.evaluation.measured import Measured, measure_folds, number
from medfm.evaluation.metrics import mean_defined
from medfm.evaluation.protocol import fold_interval

NAMES = ("harrell_c", "uno_c", "auroc_at_horizon", "brier_at_horizon", "integrated_brier")
WORDS = {
    "harrell_c": "Harrell's C",
    "uno_c": "Uno's C",
    "auroc_at_horizon": "AUROC at the horizon",
    "brier_at_horizon": "Brier score at the horizon",
    "integrated_brier": "integrated Brier score",
}
GROUPS = ("low", "middle", "high")


@dataclass(frozen=True)
class Forecast:
    """``risk [R, n]`` rises with danger; chances of being without the event: ``at_horizon [R, n]``, ``curve [R, n, T]``."""

    risk: np.ndarray
    at_horizon: np.ndarray
    curve: np.ndarray


@dataclass(frozen=True)
class FollowUp:
    """``time [n]`` in the user's unit, ``event`` bool ``[n]``; scores look at ``times [T]`` (the last is the limit) and at the
    ``horizon``."""

    time: np.ndarray
    event: np.ndarray
    times: np.ndarray
    horizon: float


def marginal(follow: FollowUp, fold: np.ndarray) -> Forecast:
    """What Kaplan-Meier of a fold's training records says of everybody: no record is looked at."""
    fold = np.atleast_2d(fold)
    at_horizon, curve = np.full(fold.shape, np.nan), np.full((*fold.shape, len(follow.times)), np.nan)
    for repeat, numbers in enumerate(fold):
        for one in np.unique(numbers[numbers >= 0]):
            rows, train = numbers == one, (numbers >= 0) & (numbers != one)
            estimated = km.kaplan_meier(follow.time[train], follow.event[train])
            at_horizon[repeat, rows] = estimated.at(follow.horizon)
            curve[repeat, rows] = estimated.at(follow.times)
    return Forecast(np.zeros(fold.shape), at_horizon, curve)


def evaluate_survival(
    follow: FollowUp,
    arms: Mapping[str, Forecast],
    fold: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    target: str,
    n_boot: int = 2000,
    seed: int = 0,
    *,
    level: float = LEVEL,
) -> tuple[dict[str, dict[str, Any]], Measured]:
    """What a report says of each arm, ready for JSON, and the measures themselves for differences between arms.

    fold ``[R, n]``, every row in a fold of every repeat. Raises :class:`MedfmError` when shapes disagree or a patient
    crosses folds.
    """
    event = follow.event.astype(float)
    data = check_predictions(event, tuple(f.risk[..., None] for f in arms.values()), fold, patients, [target])
    measure = _Scores(follow, list(arms.values()), data)
    measured = measure_folds(data, tuple(arms), NAMES, measure, n_boot, seed, level)
    results = {}
    for name, forecast in arms.items():
        within = measured.estimates(name)
        folds = measured.folds(name)
        for row, cell in zip(folds, measured.cells):
            row["events"] = int(follow.event[cell.rows].sum())
        results[name] = {
            "task": "survival",
            "headline": {"metric": "harrell_c", "name": "Harrell's C within folds, averaged"}
            | within["harrell_c"],
            "within_fold": within,
            "pooled": measured.estimates(name, pooled=True),
            "horizon": follow.horizon,
            "limit": float(follow.times[-1]),
            "calibration": _calibration(follow, forecast),
            "risk_groups": risk_groups(follow, forecast, data.fold),
            "folds": folds,
            "repeats": measured.repeats(name, "harrell_c"),
            "counts": {
                "records": len(event),
                "patients": data.n_patients,
                "events": int(event.sum()),
                "patients_with_event": len(np.unique(data.index[follow.event])),
                "folds": len(np.unique(data.fold[0])),
                "repeats": len(data.fold),
            },
            "interval": fold_interval(level, n_boot, seed),
            "targets": {target: within},
            "notes": _notes(folds),
        }
    return results, measured


class _Scores:
    """The measures of a cell; what does not depend on the resample is made once."""

    def __init__(self, follow: FollowUp, arms: Sequence[Forecast], data: OutOfFold) -> None:
        self.follow, self.arms, self.data = follow, arms, data
        self.rows: dict[tuple[int, int, Any], tuple[km.Curve, np.ndarray]] = {}

    def _fixed(self, arm: int, cell: Cell) -> tuple[km.Curve, np.ndarray]:
        """G of the training records (pooled: of all), and each record's two Brier shares ``[2, m]``."""
        key = (arm, cell.repeat, cell.fold)
        if key not in self.rows:
            f, forecast = self.follow, self.arms[arm]
            train = (
                np.ones(len(f.time), bool) if cell.fold is None else self.data.fold[cell.repeat] != cell.fold
            )
            censor = km.censoring(f.time[train], f.event[train])
            seen = f.time[cell.rows], f.event[cell.rows]
            curve = forecast.curve[cell.repeat, cell.rows]
            whole = km.brier_rows(*seen, np.c_[np.ones(len(curve)), curve], np.r_[0.0, f.times], censor)
            at = forecast.at_horizon[cell.repeat, cell.rows, None]
            single = km.brier_rows(*seen, at, np.array([f.horizon]), censor)[:, 0]
            self.rows[key] = censor, np.stack([single, km.integrated(whole, np.r_[0.0, f.times])])
        return self.rows[key]

    def __call__(self, arm: int, cell: Cell, weights: np.ndarray) -> np.ndarray:
        censor, shares = self._fixed(arm, cell)
        f, forecast = self.follow, self.arms[arm]
        seen, risk = (f.time[cell.rows], f.event[cell.rows]), forecast.risk[cell.repeat, cell.rows]
        harrell, uno = km.concordance(*seen, risk, weights, censor, float(f.times[-1]))
        at = km.auroc_at(*seen, 1 - forecast.at_horizon[cell.repeat, cell.rows], weights, f.horizon, censor)
        total = weights.sum(0, dtype=float)
        brier = np.divide(
            shares @ weights, total, out=np.full((2, weights.shape[1]), np.nan), where=total > 0
        )
        return np.stack([harrell, uno, np.atleast_1d(at), *brier])


def _calibration(follow: FollowUp, forecast: Forecast) -> dict[str, Any]:
    """At the horizon, over all folds at once, of the mean over repeats."""
    p = 1 - mean_defined(forecast.at_horizon)
    censor = km.censoring(follow.time, follow.event)
    whole = km.calibration_at(follow.time, follow.event, p, follow.horizon, censor)
    count = int(np.clip(len(p) // 25, 2, 5))
    groups = km.calibration_groups(follow.time, follow.event, p, follow.horizon, count)
    return {**{k: number(v) for k, v in whole.items()}, "groups": groups}


def group_of(risk: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Third of each fold's own risks ``[n]``: 0 low, 1 middle, 2 high; of one repeat."""
    group = np.zeros(len(risk), int)
    for one in np.unique(fold):
        rows = np.flatnonzero(fold == one)
        cuts = np.quantile(risk[rows], [1 / 3, 2 / 3])
        group[rows] = np.searchsorted(cuts, risk[rows], side="left")
    return group


def risk_groups(follow: FollowUp, forecast: Forecast, fold: np.ndarray) -> dict[str, Any]:
    """Thirds by predicted risk within each fold of the first repeat: records, events, chance of being without the event at the
    horizon, and the log-rank test over them, which describes and does not prove (the groups come from models that were
    fitted on overlapping records)."""
    group = group_of(forecast.risk[0], fold[0])
    statistic, p = km.logrank(follow.time, follow.event, group)
    rows = []
    for g, name in enumerate(GROUPS):
        inside = group == g
        if inside.any():
            curve = km.kaplan_meier(follow.time[inside], follow.event[inside])
            rows.append(
                {
                    "group": name,
                    "records": int(inside.sum()),
                    "events": int(follow.event[inside].sum()),
                    "without_event_at_horizon": float(curve.at(follow.horizon)),
                }
            )
    return {"groups": rows, "logrank": number(statistic), "p": number(p)}


def _notes(folds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why a number is missing."""
    notes = []
    if none := [f for f in folds if not f["events"]]:
        notes.append(
            f"{len(none)} of {len(folds)} test folds hold no event: there is nobody to rank in them, and they do not count in C."
        )
    lost = [f for f in folds if f["auroc_at_horizon"] is None and f["events"]]
    if lost:
        notes.append(
            f"{len(lost)} of {len(folds)} test folds lack an event by the horizon, or records known to be without one then: "
            "they do not count in the AUROC at the horizon."
        )
    return notes
