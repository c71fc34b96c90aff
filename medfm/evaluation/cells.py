"""Out-of-fold predictions, checked, as cells: rows of one test fold of one repeat, labelled for one target.

The protocol measures every cell, averages cells to targets, and does the same for each bootstrap resample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medfm.evaluation.bootstrap import patient_index, resamples
from medfm.evaluation.metrics import columns, mean_defined, rank_metrics
from medfm.types import MedfmError


@dataclass(frozen=True)
class Cell:
    """Rows of one fold (``fold`` None: all folds, pooled) of one repeat, labelled for one target."""

    repeat: int
    fold: Any
    target: int
    rows: np.ndarray


@dataclass(frozen=True)
class OutOfFold:
    """Checked arrays: y ``[n, K]``, fold ``[R, n]``, each arm's p ``[R, n, K]``, patient codes ``[n]``."""

    y: np.ndarray
    fold: np.ndarray
    used: np.ndarray
    arms: tuple[np.ndarray, ...]
    index: np.ndarray
    n_patients: int
    targets: tuple[str, ...]

    def cells(self, *, pooled: bool) -> list[Cell]:
        cells = []
        for repeat, (fold, used) in enumerate(zip(self.fold, self.used)):
            groups = [(None, used)] if pooled else [(f, used & (fold == f)) for f in fold_names(fold[used])]
            for name, rows in groups:
                for k in range(self.y.shape[1]):
                    cells.append(Cell(repeat, name, k, np.flatnonzero(rows & ~np.isnan(self.y[:, k]))))
        return cells

    def scores(self, cells: list[Cell], arm: int, counts: np.ndarray | None) -> np.ndarray:
        """AUROC and AUPRC of every cell ``[2, cells]``; with patient counts ``[P, b]``: ``[2, cells, b]``."""
        p = self.arms[arm]
        values = []
        for c in cells:
            weights = None if counts is None else counts[self.index[c.rows]]
            values.append(rank_metrics(self.y[c.rows, c.target], p[c.repeat, c.rows, c.target], weights))
        return np.array(values).swapaxes(0, 1)

    def by_target(self, cells: list[Cell], values: np.ndarray) -> np.ndarray:
        """Mean over folds, then repeats, of ``[2, cells, ...]``: ``[2, K, ...]``."""
        out = []
        for k in range(len(self.targets)):
            per_repeat = [
                mean_defined(values[:, [i for i, c in enumerate(cells) if (c.target, c.repeat) == (k, r)]], 1)
                for r in range(len(self.fold))
            ]
            out.append(mean_defined(np.stack(per_repeat)))
        return np.stack(out, axis=1)


def check_predictions(
    y: np.ndarray,
    arms: tuple[np.ndarray, ...],
    fold: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    targets: Sequence[str],
) -> OutOfFold:
    """Arrays in their full shapes, untested rows dropped; shapes: see :func:`evaluate_folds`. Raises
    :class:`MedfmError` when they disagree or a patient stands in two test folds of a repeat."""
    y, fold = columns(y), np.atleast_2d(np.asarray(fold))
    n, k = y.shape
    if k != len(targets) or len(patients) != n or fold.shape[1] != n:
        raise MedfmError(
            f"{n} rows x {k} targets of labels do not go with {len(targets)} target names, {len(patients)} "
            f"patients and {fold.shape[1]} fold numbers."
        )
    shaped = []
    for p in arms:
        p = np.asarray(p, dtype=float)
        if len(fold) == 1 and p.size == n * k:
            p = p.reshape(1, n, k)
        elif p.ndim == 2 and k == 1:
            p = p[..., None]
        if p.shape != (len(fold), n, k):
            raise MedfmError(
                f"predictions are {list(p.shape)}, expected {[len(fold), n, k]} (repeats, rows, targets)."
            )
        shaped.append(p)
    used = np.ones(fold.shape, dtype=bool) if fold.dtype.kind in "USO" else ~(fold < 0) & (fold == fold)
    tested = used.any(0)  # rows that no fold tests must not be drawn either
    if not tested.any():
        raise MedfmError("no row stands in a test fold: there is nothing to evaluate.")
    y, fold, used, shaped = y[tested], fold[:, tested], used[:, tested], [p[:, tested] for p in shaped]
    index, n_patients = patient_index(np.asarray(patients)[tested])
    for repeat, (names, rows) in enumerate(zip(fold, used)):
        pairs = np.unique(
            np.stack([index[rows], np.unique(names[rows], return_inverse=True)[1].ravel()]), axis=1
        )
        if (np.bincount(pairs[0]) > 1).any():
            crossing = int((np.bincount(pairs[0]) > 1).sum())
            raise MedfmError(
                f"{crossing} patient(s) stand in more than one test fold of repeat {repeat + 1}: "
                "split by patient."
            )
    return OutOfFold(y, fold, used, tuple(shaped), index, n_patients, tuple(map(str, targets)))


def bootstrap(
    data: OutOfFold, tables: tuple[list[Cell], ...], n_boot: int, seed: int
) -> list[list[np.ndarray]]:
    """Values ``[arm][table]`` of shape ``[2, K, n_boot]``; all arms and tables see the same resamples."""
    shape = (2, len(data.targets), 0)
    chunks: list[list[list[np.ndarray]]] = [[[np.zeros(shape)] for _ in tables] for _ in data.arms]
    for counts in resamples(data.n_patients, n_boot, seed, len(data.index)):
        for arm in range(len(data.arms)):
            for t, cells in enumerate(tables):
                chunks[arm][t].append(data.by_target(cells, data.scores(cells, arm, counts)))
    return [[np.concatenate(table, axis=-1) for table in arm] for arm in chunks]


def fold_names(fold: np.ndarray) -> list[Any]:
    return np.unique(fold).tolist()
