"""Any measure of one target over folds: within each fold and averaged, pooled beside it, with patient-bootstrap intervals.

The protocol of :mod:`medfm.evaluation.protocol` for tasks that have other measures than AUROC. A arms, M measures, B resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medfm.evaluation.bootstrap import LEVEL, percentile_interval, resamples
from medfm.evaluation.cells import Cell, OutOfFold
from medfm.evaluation.metrics import mean_defined

# arm, cell, weights [m, b] of the cell's rows -> [M, b]
Measure = Callable[[int, Cell, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measured:
    """``cells`` are folds; ``by_cell [A, M, cells]``. within and pooled: ``value [A, M]`` and ``draws [A, M, B]``."""

    data: OutOfFold
    names: tuple[str, ...]
    arms: tuple[str, ...]
    cells: list[Cell]
    by_cell: np.ndarray
    within: tuple[np.ndarray, np.ndarray]
    pooled: tuple[np.ndarray, np.ndarray]
    level: float

    def estimates(self, arm: str, pooled: bool = False) -> dict[str, dict[str, float | None]]:
        """``{measure: {value, low, high}}`` of an arm."""
        a = self.arms.index(arm)
        value, draws = self.pooled if pooled else self.within
        return {n: estimate(value[a, i], draws[a, i], self.level) for i, n in enumerate(self.names)}

    def difference(self, a: str, b: str) -> dict[str, dict[str, Any]]:
        """Arm a minus arm b within folds on the same resamples: ``{measure: {a, b, difference: {value, low, high}}}``."""
        first, second = self.arms.index(a), self.arms.index(b)
        value, draws = self.within
        return {
            name: {
                "a": number(value[first, i]),
                "b": number(value[second, i]),
                "difference": estimate(
                    value[first, i] - value[second, i], draws[first, i] - draws[second, i], self.level
                ),
            }
            for i, name in enumerate(self.names)
        }

    def folds(self, arm: str) -> list[dict[str, Any]]:
        """One row a fold of a repeat: records, patients and every measure."""
        a = self.arms.index(arm)
        return [
            {
                "repeat": c.repeat + 1,
                "fold": c.fold + 1 if isinstance(c.fold, int) else c.fold,
                "records": len(c.rows),
                "patients": len(np.unique(self.data.index[c.rows])),
                **{n: number(self.by_cell[a, i, k]) for i, n in enumerate(self.names)},
            }
            for k, c in enumerate(self.cells)
        ]

    def repeats(self, arm: str, name: str) -> dict[str, Any]:
        """A measure in each repeat, and its spread, which the interval does not contain."""
        values = self.by_cell[self.arms.index(arm), self.names.index(name)]
        each = [
            float(mean_defined(values[[i for i, c in enumerate(self.cells) if c.repeat == r]]))
            for r in range(len(self.data.fold))
        ]
        spread = number(np.std(each, ddof=1)) if len(each) > 1 else None
        return {"n": len(each), name: [number(v) for v in each], "sd": spread}


def measure_folds(
    data: OutOfFold,
    arms: Sequence[str],
    names: Sequence[str],
    measure: Measure,
    n_boot: int,
    seed: int,
    level: float = LEVEL,
) -> Measured:
    """Every measure of every arm, on the same resamples of patients."""
    tables = data.cells(pooled=False), data.cells(pooled=True)
    values, draws = [], []
    for cells in tables:
        one = [
            np.stack([measure(a, c, np.ones((len(c.rows), 1)))[:, 0] for c in cells], axis=1)
            for a in range(len(arms))
        ]
        values.append(np.stack(one))
        draws.append([np.zeros((len(arms), len(names), 0))])
    for counts in resamples(data.n_patients, n_boot, seed, len(data.index)):
        for table, cells in enumerate(tables):
            drawn = [
                np.stack([measure(a, c, counts[data.index[c.rows]]) for c in cells], axis=1)
                for a in range(len(arms))
            ]
            draws[table].append(np.stack([data.by_target(cells, d)[:, 0] for d in drawn]))
    both = []
    for table, cells in enumerate(tables):
        mean = np.stack([data.by_target(cells, v)[:, 0] for v in values[table]])
        both.append((mean, np.concatenate(draws[table], axis=-1)))
    return Measured(data, tuple(names), tuple(arms), tables[0], values[0], both[0], both[1], level)


def estimate(value: Any, draws: np.ndarray, level: float = LEVEL) -> dict[str, float | None]:
    low, high = percentile_interval(draws, level)
    return {"value": number(value), "low": number(low), "high": number(high)}


def number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
