"""What a split by record adds to a score that a split by patient does not: the leak, as a number.

Where a patient has several records, folds drawn by record put some of them on both sides, and a model is rewarded for
recognising the patient. Both scores come from the same records and the same kind of fit; the difference is of no new patient's
benefit. n records, K targets, R repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medfm.evaluation.bootstrap import LEVEL, percentile_interval, resamples
from medfm.evaluation.cells import OutOfFold, check_predictions
from medfm.evaluation.metrics import mean_defined


def split_optimism(
    y: np.ndarray,
    by_patient: tuple[np.ndarray, np.ndarray],
    by_record: tuple[np.ndarray, np.ndarray],
    patients: Sequence[Any] | np.ndarray,
    targets: Sequence[str],
    n_boot: int = 2000,
    seed: int = 0,
    *,
    level: float = LEVEL,
) -> dict[str, Any]:
    """AUROC within folds (macro over targets, averaged over repeats) of both ways to split, and their difference.

    y ``[n, K]`` (NaN unknown); each way: out-of-fold scores ``[R, n, K]`` and test folds ``[R, n]``. The interval draws
    patients with all their records, the same for both, conditional on the fitted models. ``{by_patient, by_record,
    optimism: {value, low, high}, records, patients}``.
    """
    honest = check_predictions(y, (by_patient[0],), by_patient[1], patients, targets)
    scores, fold = (np.asarray(a) for a in by_record)
    leaky = replace(honest, arms=(scores,), fold=fold, used=fold >= 0)
    ways = (honest, leaky)
    values = [_macro(way, None) for way in ways]
    parts = [
        [_macro(way, counts) for way in ways]
        for counts in resamples(honest.n_patients, n_boot, seed, len(honest.index))
    ]
    draws = np.concatenate([b - a for a, b in parts]) if parts else np.zeros(0)
    low, high = percentile_interval(draws, level)
    return {
        "by_patient": float(values[0]),
        "by_record": float(values[1]),
        "optimism": {"value": float(values[1] - values[0]), "low": float(low), "high": float(high)},
        "records": len(honest.index),
        "patients": honest.n_patients,
    }


def _macro(data: OutOfFold, counts: np.ndarray | None) -> np.ndarray:
    """AUROC: a number, or ``[b]`` with patient counts ``[P, b]``."""
    cells = data.cells(pooled=False)
    return mean_defined(data.by_target(cells, data.scores(cells, 0, counts))[0])
