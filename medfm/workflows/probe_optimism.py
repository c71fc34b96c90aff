"""What folds by record would have flattered, for the table at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from medfm.evaluation.optimism import split_optimism
from medfm.types import ConfigError
from medfm.workflows.cohort import Cohort
from medfm.workflows.finetune_run import outer_folds

PROBE = "logistic regression"
Refit = Callable[[Cohort, list[list[np.ndarray]]], dict[str, np.ndarray]]


def check_optimism(cohort: Cohort) -> None:
    """Raise :class:`ConfigError` where there is nothing to compare."""
    if cohort.task.kind in ("regression", "survival"):
        raise ConfigError("--optimism compares AUROC; leave it out for a value or survival.")
    if len(set(cohort.patients.tolist())) == len(cohort.y):
        raise ConfigError(
            "--optimism needs patients with several records; here each has one, so that folds by record are folds by patient."
        )


def flattery(
    cohort: Cohort,
    tests: list[list[np.ndarray]],
    scores: np.ndarray,
    refit: Refit,
    folds: int,
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """The same fit on folds by record beside ``scores [R, n, K]`` of the folds by patient ``tests``; refit: cohort and folds
    -> scores by probe. See :func:`medfm.evaluation.optimism.split_optimism`."""
    n = len(cohort.y)
    alone = replace(cohort, patients=np.arange(n).astype(str))
    parts = [outer_folds(alone, folds, seed + r, strict=False) for r in range(len(tests))]
    by_record = refit(alone, parts)[PROBE], fold_table(parts, n)
    return split_optimism(
        cohort.y,
        (scores, fold_table(tests, n)),
        by_record,
        cohort.patients,
        cohort.task.classes,
        bootstrap,
        seed,
    )


def fold_table(tests: list[list[np.ndarray]], n: int) -> np.ndarray:
    """Test fold of each record ``[R, n]``, -1: of none."""
    table = np.full((len(tests), n), -1)
    for repeat, parts in enumerate(tests):
        for number, rows in enumerate(parts):
            table[repeat, rows] = number
    return table
