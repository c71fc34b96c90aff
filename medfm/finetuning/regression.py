"""Regression: the head gives one number, the target's distance from the training mean in training deviations.

Mean and deviation come from the training records of each fold alone. The loss is the squared error, whose best constant is
the mean and whose linear solution is ridge regression; an outlier in the table weighs heavily in it. n records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from medfm.finetuning.logistic import Solution, rotated
from medfm.finetuning.task import MAX_CLASSES, Task, are_dates, infinite, some
from medfm.types import MedfmError

FEW_VALUES = 10
BINS = 4  # of the target, over which folds are balanced


@dataclass(frozen=True)
class Regression(Task):
    """y is ``[n, 1]`` in the table's own unit; ``mean`` and ``deviation`` are those of the training records."""

    mean: float = 0.0
    deviation: float = 1.0

    def fitted(self, y: np.ndarray) -> Regression:
        spread = float(y.std())
        return Regression(
            self.kind, self.columns, self.classes, self.notes, float(y.mean()), spread if spread > 0 else 1.0
        )

    @property
    def parameters(self) -> dict[str, Any]:
        return {"mean": self.mean, "deviation": self.deviation}

    def encode(self, y: np.ndarray) -> np.ndarray:
        return (y - self.mean) / self.deviation

    def strata(self, y: np.ndarray) -> tuple[np.ndarray, Any]:
        """Quarters of the values."""
        cuts = np.unique(np.quantile(y[:, 0], np.arange(1, BINS) / BINS))
        return np.searchsorted(cuts, y[:, 0], side="left").astype(float), "multiclass"

    def check_folds(self, y: np.ndarray, patients: np.ndarray, folds: int) -> None:
        if np.ptp(y) == 0:
            raise MedfmError(_constant(self.columns[0], y[0, 0]))

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of logits ``[B, 1]`` and encoded targets ``[B, 1]``."""
        return ((logits - target) ** 2).mean()

    def prevalence_logits(self, y: np.ndarray) -> np.ndarray:
        """The mean of encoded targets ``[1]``."""
        return y.mean(0)  # type: ignore[no-any-return]

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """Values ``[n, 1]`` in the table's own unit."""
        return np.asarray(logits, np.float64) * self.deviation + self.mean

    def columns_of(self, p: np.ndarray, arm: str = "") -> dict[str, np.ndarray]:
        return {f"predicted_{arm}{self.classes[0]}": p[:, 0]}


def is_continuous(values: pd.Series) -> bool:
    """Numbers with more different values than classes may have."""
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return False
    known = values.dropna()
    return bool(known.nunique() > MAX_CLASSES and np.isfinite(known.to_numpy(np.float64)).all())


def numbers(name: str, values: pd.Series) -> np.ndarray:
    """``[n]`` float64, NaN for blank. Raises :class:`MedfmError` for dates, words and infinities."""
    known = values.dropna()
    if not len(known):
        raise MedfmError(f"target {name!r} has no known value: every row is blank.")
    if pd.api.types.is_datetime64_any_dtype(values) or are_dates([str(v) for v in known.head(50)]):
        raise MedfmError(f"target {name!r} holds dates; give a number (for instance days since the record).")
    found = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    wrong = np.isnan(found) & values.notna().to_numpy()
    if wrong.any():
        words = sorted({str(v) for v in values[wrong]})
        raise MedfmError(
            f"target {name!r} holds {int(wrong.sum())} cells that are no numbers ({some(words)}); write plain numbers "
            "without units, or leave the cell blank (unknown)."
        )
    if np.isinf(found).any():
        raise MedfmError(infinite(name))
    return found


def make_regression(
    columns: Sequence[tuple[str, pd.Series]], asked: bool = True
) -> tuple[Regression, np.ndarray]:
    """The task of one column of numbers and its y ``[n, 1]``; ``asked``: by the user, else found by itself."""
    if len(columns) > 1:
        raise MedfmError(
            f"--task regression takes one target column, not {len(columns)}; run each by itself."
        )
    name, values = columns[0]
    y = numbers(name, values)
    distinct = np.unique(y[np.isfinite(y)])
    if len(distinct) < 2:
        raise MedfmError(_constant(name, distinct[0]))
    notes = []
    if not asked:
        notes = [
            f"target {name!r} has {len(distinct)} different numbers, so its value is predicted (regression); --task "
            f"multiclass or {name}=VALUE would make classes of it."
        ]
    elif len(distinct) < FEW_VALUES:
        notes = [
            f"target {name!r} has {len(distinct)} different values only ({some([f'{v:g}' for v in distinct])}): regression "
            "takes their distances as meant; --task auto takes them as classes."
        ]
    return Regression("regression", (name,), (name,), tuple(notes)), y[:, None]


def _constant(name: str, value: float) -> str:
    return f"target {name!r} is {value:g} in every known row: there is nothing to predict."


def fit_ridge(
    z: np.ndarray, y: np.ndarray, inner: Sequence[np.ndarray], strengths: Sequence[float]
) -> Solution:
    """Ridge regression on standardised embeddings: |y - Zw - b|^2 / 2 + |w|^2 / (2 C), b free, C by squared error over
    inner validation records (their positions in ``inner``). z ``[n, F]``, y ``[n, 1]`` encoded; training records only."""
    turned, strengths = rotated(z), sorted(strengths)
    best = strengths[0]
    if len(strengths) > 1:
        error, counted = np.zeros(len(strengths)), 0
        for rows in inner:
            train = np.setdiff1d(np.arange(len(y)), rows)
            if not len(rows) or len(train) < 2:
                continue
            weight, bias = _ridge_path(turned.z[train], y[train, 0], strengths)
            error += ((turned.z[rows] @ weight + bias - y[rows]) ** 2).sum(0)
            counted += len(rows)
        best = strengths[int(error.argmin())] if counted else strengths[0]
    weight, bias = _ridge_path(turned.z, y[:, 0], [best])
    return turned.solution(weight.T, bias, (best,))


def _ridge_path(z: np.ndarray, y: np.ndarray, strengths: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Weights ``[R, S]`` and intercepts ``[S]`` of every C, from one singular value decomposition."""
    middle, mean = z.mean(0), y.mean()
    left, power, right = np.linalg.svd(z - middle, full_matrices=False)
    filtered = power[:, None] / (power[:, None] ** 2 + 1 / np.asarray(strengths, float))
    weight = right.T @ (filtered * (left.T @ (y - mean))[:, None])
    return weight, mean - middle @ weight
