"""Survival as discrete hazards: the head gives a logit for each interval of follow-up time.

The interval's hazard h is the chance of the event in it for those who reach it. Its cuts are quantiles of the event times of
the training records of each fold, the last one the largest event time (Gensheimer and Narasimhan, arXiv 1805.00917). The
loss is the negative log-likelihood: log h of the interval with the event, log (1 - h) of every interval lived through. A
record censored inside an interval counts for the share of it that was seen, which is the likelihood of a hazard that is
constant within the interval; survival between cuts follows the same law. n records, K intervals, T times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor
from torch.nn import functional as F

from medfm.finetuning.logistic import Solution, rotated
from medfm.finetuning.regression import numbers
from medfm.finetuning.task import NO, YES, Task, as_text, some
from medfm.types import ConfigError, MedfmError

HAPPENED = YES | {"dead", "died", "deceased", "death", "event"}
CENSORED = NO | {"alive", "living", "censored", "none"}
EVENTS_AN_INTERVAL = 5
TIMES = 100  # at which survival is evaluated, evenly from 0 to the limit
TIME_STRATA = 40  # events from which folds are balanced on early and late, too
STILL_SEEN = 0.9  # share of the follow-up times that end by the limit, at most
FEW_EVENTS = 20


@dataclass(frozen=True)
class Survival(Task):
    """y is ``[n, 2]``: time (above 0, in the user's unit) and event (1, or 0 for censored). ``cuts [K]`` end the intervals.

    ``limit`` and ``horizon`` are of the whole run (:meth:`stated`): risk is the time lost until ``limit`` to the event
    (limit minus restricted mean survival time), and survival is told at ``horizon``.
    """

    intervals: int = 10
    horizon: float = 0.0
    limit: float = 0.0
    cuts: tuple[float, ...] = ()

    @property
    def outputs(self) -> int:
        return len(self.cuts) or self.intervals

    @property
    def times(self) -> np.ndarray:
        """``[T]``: where survival is evaluated."""
        return np.linspace(0, self.limit, TIMES + 1)[1:]

    def fitted(self, y: np.ndarray) -> Survival:
        times = y[y[:, 1] == 1, 0]
        if not len(times):
            raise MedfmError(f"a training fold holds no event of {self.classes[0]!r}; use fewer folds.")
        count = int(np.clip(len(times) // EVENTS_AN_INTERVAL, 2, max(2, self.intervals)))
        cuts = np.unique(np.quantile(times, np.arange(1, min(count, self.intervals) + 1) / count))
        cuts[-1] = times.max()
        return replace(self, cuts=tuple(cuts.tolist()))

    @property
    def parameters(self) -> dict[str, Any]:
        return {"cuts": list(self.cuts)}

    def to_dict(self) -> dict[str, Any]:
        """All but the notes: the horizon and the limit belong to a model too."""
        return (
            super().to_dict()
            | {k: getattr(self, k) for k in ("intervals", "horizon", "limit")}
            | self.parameters
        )

    def stated(
        self, y: np.ndarray, trains: Sequence[np.ndarray], horizon: float | None, intervals: int
    ) -> Survival:
        """With limit and horizon from the training rows of each fold, ``trains``.

        Limit: the last event time, or the time by which nine tenths of the follow-ups end, of the fold where it is first:
        beyond it, some fold would have nobody left to learn from. Horizon: the user's, or the median over folds of the
        median event time.
        """
        times = [(y[rows, 0], y[rows, 0][y[rows, 1] == 1]) for rows in trains]
        if not all(len(events) for _, events in times):
            raise MedfmError(f"a training fold holds no event of {self.classes[0]!r}; use fewer folds.")
        limit = float(min(min(e.max(), np.quantile(t, STILL_SEEN)) for t, e in times))
        if horizon is not None and not horizon <= limit:
            raise ConfigError(
                f"finetune.horizon={horizon:g} lies beyond {limit:g}, after which a training fold has no event, or less than "
                "a tenth of its records still followed; choose an earlier one."
            )
        chosen = horizon or min(limit, float(f"{np.median([np.median(e) for _, e in times]):.3g}"))
        return replace(self, intervals=intervals, limit=limit, horizon=chosen)

    def encode(self, y: np.ndarray) -> np.ndarray:
        """``[n, 2 K]``: 1 where the event lies in the interval, then how much of each interval was lived through (0 to 1).

        Follow-up beyond the last cut counts as censored there.
        """
        ends = np.asarray(self.cuts)
        starts = np.r_[0.0, ends[:-1]]
        time, event = y[:, :1], y[:, 1:] == 1
        inside = event & (time > starts) & (time <= ends)
        seen = np.clip((time - starts) / (ends - starts), 0.0, 1.0)
        return np.concatenate([inside, np.where(inside, 0.0, seen)], axis=1)

    def strata(self, y: np.ndarray) -> tuple[np.ndarray, Any]:
        """With or without event; with enough events, each of them early or late."""
        happened = y[:, 1] == 1
        group = happened.astype(float)
        if happened.sum() >= TIME_STRATA:
            for kind in (happened, ~happened):
                group[kind] += 2.0 * (y[kind, 0] > (np.median(y[kind, 0]) if kind.any() else 0.0))
        return group, "multiclass"

    def check_folds(self, y: np.ndarray, patients: np.ndarray, folds: int) -> None:
        held = len(np.unique(patients[y[:, 1] == 1]))
        if held < folds:
            lower = f"set finetune.folds={held}, or " if held >= 2 else ""
            raise MedfmError(
                f"{held} patient(s) have the event {self.classes[0]!r}, fewer than {folds} folds: {lower}bring more."
            )

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood a record, of logits ``[B, K]`` and encoded targets ``[B, 2 K]``."""
        event, lived = target.chunk(2, dim=1)
        return (event * F.softplus(-logits) + lived * F.softplus(logits)).sum(1).mean()

    def prevalence_logits(self, y: np.ndarray) -> np.ndarray:
        """``[K]`` from encoded targets: each interval's hazard over all records (half an event added on either side)."""
        event, lived = np.split(y.sum(0), 2)
        return np.log((event + 0.5) / (lived + 0.5))  # type: ignore[no-any-return]

    def survival(self, logits: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Chance of being without the event at ``times [T]``: ``[n, T]``; level beyond the last cut."""
        ends = np.asarray(self.cuts)
        starts = np.r_[0.0, ends[:-1]]
        passed = np.clip((times - starts[:, None]) / (ends - starts)[:, None], 0.0, 1.0)
        hazard = np.logaddexp(0.0, np.asarray(logits, np.float64))  # -log(1 - h)
        return np.exp(-hazard @ passed)  # type: ignore[no-any-return]

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """``[n, 2 + T]``: time lost until the limit, survival at the horizon, survival at :attr:`times`."""
        curve = self.survival(logits, self.times)
        lost = self.limit - np.trapezoid(np.c_[np.ones(len(curve)), curve], np.r_[0.0, self.times], axis=1)
        at = self.survival(logits, np.array([self.horizon]))
        return np.concatenate([lost[:, None], at, curve], axis=1)

    def columns_of(self, p: np.ndarray, arm: str = "") -> dict[str, np.ndarray]:
        """``risk_EVENT`` is time lost; ``survival_EVENT_at_HORIZON`` the chance of being without the event then."""
        name = self.classes[0]
        return {f"risk_{arm}{name}": p[:, 0], f"survival_{arm}{name}_at_{self.horizon:g}": p[:, 1]}


def make_survival(columns: Sequence[tuple[str, pd.Series]]) -> tuple[Survival, np.ndarray]:
    """The task of a time and an event column, and y ``[n, 2]``, NaN in both where either is blank."""
    if len(columns) != 2:
        raise MedfmError(
            "--task survival takes two columns, --target TIME,EVENT: the follow-up time, and whether it ended in the event "
            f"(1) or without (0); {len(columns)} was given."
        )
    (time_name, times), (event_name, events) = columns
    event = _events(time_name, event_name, events)
    time = numbers(time_name, times)
    low = time <= 0
    if low.any():
        raise MedfmError(
            f"time column {time_name!r} holds {int(low.sum())} value(s) that are not above 0 (smallest {np.nanmin(time):g}); "
            "time runs from the record to the event or the last visit: correct them, or leave them blank (unknown)."
        )
    no_time, no_event = np.isnan(time) & ~np.isnan(event), ~np.isnan(time) & np.isnan(event)
    y = np.stack([time, event], axis=1)
    y[np.isnan(y).any(1)] = np.nan
    happened = int(np.nansum(y[:, 1]))
    if not happened:
        raise MedfmError(
            f"event column {event_name!r} holds no event with a known time: every record is censored, and there is nothing "
            "to learn."
        )
    notes = []
    if no_time.any() or no_event.any():
        notes.append(
            f"{int(no_time.sum())} record(s) have no time and {int(no_event.sum())} no event status; they are left out."
        )
    if happened < FEW_EVENTS:
        notes.append(
            f"Only {happened} event(s): fewer than {FEW_EVENTS} are too few to tell models apart, and any figure here can move a "
            "lot with the next event."
        )
    return Survival("survival", (time_name, event_name), (event_name,), tuple(notes)), y


def _events(time_name: str, name: str, values: pd.Series) -> np.ndarray:
    """1, 0 and NaN ``[n]``."""
    known = values.dropna()
    words = sorted({str(as_text(v)).strip().lower() for v in known})
    if len(words) > 20 and pd.api.types.is_numeric_dtype(values):
        raise MedfmError(
            f"event column {name!r} holds {len(words)} different numbers: the time comes first, --target TIME,EVENT (say "
            f"--target {name},{time_name})."
        )
    if not len(known):
        raise MedfmError(f"event column {name!r} has no known value: every row is blank.")
    if len(words) > 2 and not set(words) <= HAPPENED | CENSORED:
        raise MedfmError(
            f"event column {name!r} has {len(words)} values ({some(words)}): competing risks are not supported. Choose one "
            f"event, --target {time_name},{name}=VALUE (others then count as censored, which overstates its risk), or give a "
            "column of 0 and 1."
        )
    if unknown := [w for w in words if w not in HAPPENED | CENSORED]:
        raise MedfmError(
            f"event column {name!r} holds {unknown[0]!r}: write 1 for the event and 0 for censored (or yes and no), or say "
            f"which value is the event, --target {time_name},{name}=VALUE."
        )
    event = np.full(len(values), np.nan)
    rows = values.notna().to_numpy()
    event[rows] = [float(str(as_text(v)).strip().lower() in HAPPENED) for v in known]
    return event


def fit_hazards(
    z: np.ndarray, y: np.ndarray, task: Task, inner: Sequence[np.ndarray], strengths: Sequence[float]
) -> Solution:
    """One weight vector for all intervals, each with its own intercept (proportional odds), so that few events suffice:
    the loss summed over records + |w|^2 / (2 C), C by likelihood over inner validation records.

    z ``[n, F]``, y ``[n, 2 K]`` encoded; training records only. By L-BFGS in the records' principal directions.
    """
    turned, strengths = rotated(z), sorted(strengths)
    best = strengths[0]
    if len(strengths) > 1:
        loss, counted = np.zeros(len(strengths)), 0
        for rows in inner:
            train = np.setdiff1d(np.arange(len(y)), rows)
            half = y.shape[1] // 2
            if not len(rows) or not y[train, :half].any():
                continue
            theta = None
            for i, strength in enumerate(strengths):
                theta = _solve(turned.z[train], y[train], task, strength, theta)
                score = (turned.z[rows] @ theta[:-half])[:, None] + theta[-half:]
                loss[i] += _likelihood(score, y[rows])[0]
            counted += len(rows)
        best = strengths[int(loss.argmin())] if counted else strengths[0]
    theta = _solve(turned.z, y, task, best)
    weight, bias = theta[: turned.z.shape[1]], theta[turned.z.shape[1] :]
    return turned.solution(np.tile(weight, (len(bias), 1)), bias, (best,))


def _likelihood(score: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Summed loss and its gradient by the logits ``[n, K]``."""
    event, lived = np.split(y, 2, axis=1)
    total = (event * np.logaddexp(0, -score) + lived * np.logaddexp(0, score)).sum()
    hazard = 0.5 * (1 + np.tanh(0.5 * score))
    return float(total), lived * hazard - event * (1 - hazard)


def _solve(
    z: np.ndarray, y: np.ndarray, task: Task, strength: float, start: np.ndarray | None = None
) -> np.ndarray:
    """Weights and intercepts ``[R + K]``; every coordinate is scaled by a bound of its curvature."""
    from scipy.optimize import minimize

    bend = (y[:, : y.shape[1] // 2] + y[:, y.shape[1] // 2 :]) / 4
    metric = 1 / np.sqrt(np.r_[(z**2 * bend.sum(1)[:, None]).sum(0) + 1 / strength, bend.sum(0) + 1e-3])
    first = np.r_[np.zeros(z.shape[1]), task.prevalence_logits(y)] if start is None else start

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = flat * metric
        weight, bias = theta[: z.shape[1]], theta[z.shape[1] :]
        loss, by_logits = _likelihood((z @ weight)[:, None] + bias, y)
        gradient = np.r_[z.T @ by_logits.sum(1) + weight / strength, by_logits.sum(0)]
        return loss + 0.5 * float(weight @ weight) / strength, gradient * metric

    options = {"maxiter": 500, "gtol": 1e-3, "ftol": 1e-13}
    return minimize(value, first / metric, jac=True, method="L-BFGS-B", options=options).x * metric  # type: ignore[no-any-return]
