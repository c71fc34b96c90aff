"""The linear probe of every kind of task: one solution on frozen embeddings, its penalty chosen on inner patient folds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medfm.finetuning.logistic import Solution, fit_logistic
from medfm.finetuning.regression import fit_ridge
from medfm.finetuning.survival import fit_hazards
from medfm.finetuning.task import Task


def fit_linear(
    z: np.ndarray, y: np.ndarray, task: Task, inner: Sequence[np.ndarray], strengths: Sequence[float]
) -> Solution:
    """Logistic regression, ridge regression or proportional discrete hazards, on training records only.

    z ``[n, F]``; y encoded by a fitted ``task``; ``inner`` holds the validation rows of each inner fold; ``strengths`` are C,
    the inverse of the penalty.
    """
    if task.kind == "regression":
        return fit_ridge(z, y, inner, strengths)
    if task.kind == "survival":
        return fit_hazards(z, y, task, inner, strengths)
    return fit_logistic(z, y, task, inner, strengths)
