"""A probe's line for a value or for survival: its measure with interval, the untrained network's, and what needs no record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medfm.evaluation.regression import constant_arms, difference_words, evaluate_regression
from medfm.evaluation.survival_folds import evaluate_survival, marginal
from medfm.workflows.cohort import Cohort
from medfm.workflows.finetune_regression import MEDIAN
from medfm.workflows.finetune_run import PRETRAINED, RANDOM
from medfm.workflows.finetune_survival import REFERENCE, compared, follow_up, forecast


def value_row(
    predicted: Mapping[str, np.ndarray],
    cohort: Cohort,
    fold: np.ndarray,
    bootstrap: int,
    seed: int,
    names: tuple[str, str],
) -> dict[str, Any]:
    """predicted: ``[R, n, P]`` of ``pretrained`` and ``random``; fold ``[R, n]``; names: of the two in the verdict."""
    shared = (fold, cohort.patients, cohort.task.classes[0], bootstrap, seed)
    arms: dict[str, Any]
    if cohort.task.kind == "regression":
        y, metric, others = cohort.y[:, 0], "mae", ("rmse", "r2", "pearson")
        arms = {arm: p[..., 0] for arm, p in predicted.items()}
        arms[MEDIAN] = constant_arms(y, fold)[MEDIAN]
        found, measured = evaluate_regression(y, arms, *shared)
        pair: dict[str, Any] = measured.difference(PRETRAINED, RANDOM)
        patients = measured.data.n_patients
        from_median = measured.difference(PRETRAINED, MEDIAN)["mae"]["difference"]
        words = difference_words(pair["mae"]["difference"], names, patients)
        pair["verdict"] = (
            f"{words} {difference_words(from_median, (names[0], 'the training median'), patients)}"
        )
        floor = {"training_median": found[MEDIAN]["within_fold"]["mae"]["value"]}
    else:
        follow, metric = follow_up(cohort), "harrell_c"
        others = ("uno_c", "auroc_at_horizon", "integrated_brier")
        arms = {arm: forecast(p) for arm, p in predicted.items()} | {REFERENCE: marginal(follow, fold)}
        found, measured = evaluate_survival(follow, arms, *shared)
        pair = compared(measured, PRETRAINED, RANDOM, names)
        floor = {"kaplan_meier": found[REFERENCE]["within_fold"]["integrated_brier"]["value"]}
    own, change = found[PRETRAINED]["within_fold"], pair[metric]["difference"]
    return {
        metric: own[metric]["value"],
        "interval": [own[metric]["low"], own[metric]["high"]],
        "random_initialisation": pair[metric]["b"],
        "difference": change["value"],
        "difference_interval": [change["low"], change["high"]],
        **{name: own[name]["value"] for name in others},
        **floor,
        "verdict": pair["verdict"],
    }
