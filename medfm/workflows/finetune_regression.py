"""A regression's part of a fine-tuning run: its results, verdict, report sections, and what its card says.

Baselines on the same folds: the mean and the median of the training records, and the network at random initialisation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from medfm.evaluation import figures, regression_figures
from medfm.evaluation.regression import WORDS, agreement, constant_arms, difference_words, evaluate_regression
from medfm.evaluation.report import Section, Tile
from medfm.hub.card import Result
from medfm.workflows.finetune_run import PRETRAINED, RANDOM, FineTuning
from medfm.workflows.finetune_words import ARM_NAMES, interval_words, kept, number_words, with_interval

MEDIAN = "training median"
CONSTANTS = ("training mean", MEDIAN)
SMALL = 50  # patients, below which a figure is called unsure


def evaluate(run: FineTuning) -> dict[str, Any]:
    """``pretrained``, ``random``, ``baselines`` (by name), and the paired ``difference`` from random and ``from_median``."""
    cohort, settings = run.cohort, run.config.finetune
    arms = {arm: run.predicted[arm][:, :, 0] for arm in run.arms}
    arms |= constant_arms(cohort.y[:, 0], run.fold_of)
    found, measured = evaluate_regression(
        cohort.y[:, 0],
        arms,
        run.fold_of,
        cohort.patients,
        cohort.task.classes[0],
        settings.bootstrap,
        run.config.seed,
    )
    results: dict[str, Any] = {arm: found[arm] for arm in run.arms}
    results["baselines"] = {name: found[name] for name in CONSTANTS}
    patients, name = found[PRETRAINED]["counts"]["patients"], run.bundle.card.id
    pairs = {"from_median": (MEDIAN, "the training median")}
    if RANDOM in run.arms:
        pairs["difference"] = (RANDOM, "random initialisation")
    for key, (arm, words) in pairs.items():
        pair: dict[str, Any] = measured.difference(PRETRAINED, arm)
        pair["verdict"] = difference_words(pair["mae"]["difference"], (name, words), patients)
        results[key] = pair
    results[PRETRAINED]["agreement"] = agreement(cohort.y[:, 0], _mean(run))
    results[PRETRAINED]["notes"] = (
        [f"{patients} patients only: every figure here can move a lot with other patients."]
        if patients < SMALL
        else []
    )
    return results


def _mean(run: FineTuning, arm: str = PRETRAINED) -> np.ndarray:
    """Out-of-fold values, averaged over repeats ``[n]``."""
    return np.nanmean(run.predicted[arm][:, :, 0], axis=0)  # type: ignore[no-any-return]


def verdict(results: dict[str, Any]) -> str:
    within, target = results[PRETRAINED]["within_fold"], results["targets"][0]
    mae, r2, median = within["mae"], within["r2"], results["baselines"][MEDIAN]["within_fold"]["mae"]["value"]
    text = (
        f"On patients it was not trained on, the prediction of {target} is off by {number_words(mae['value'])} on average "
        f"(mean absolute error within folds{_comma(mae)}); the training median alone is off by {number_words(median)}."
    )
    if r2["value"] is not None:
        if r2["value"] > 0:
            text += f" It explains {r2['value']:.0%} of the variance (R²{_comma(r2)})."
        else:
            text += f" It explains nothing of the variance (R² {number_words(r2['value'])}{_comma(r2)})."
    text += " " + results["from_median"]["verdict"]
    if "difference" in results:
        text += " " + results["difference"]["verdict"]
    return text


def _comma(estimate: dict[str, Any]) -> str:
    words = interval_words(estimate)
    return f", {words}" if words else ""


def tiles(run: FineTuning, results: dict[str, Any]) -> list[Tile]:
    within, change = results[PRETRAINED]["within_fold"], results["from_median"]["mae"]["difference"]
    return [
        Tile("Mean absolute error", number_words(within["mae"]["value"]), interval_words(within["mae"])),
        Tile(
            "Against the training median", number_words(change["value"], True), interval_words(change, True)
        ),
        Tile("R²", number_words(within["r2"]["value"]), interval_words(within["r2"])),
    ]


def question_rows(run: FineTuning) -> list[list[Any]]:
    y = run.cohort.y[:, 0]
    low, middle, high = np.quantile(y, [0.05, 0.5, 0.95])
    return [
        [f"{run.cohort.task.classes[0]}: mean (deviation)", f"{y.mean():.4g} ({y.std():.3g})"],
        ["median (5 % to 95 %)", f"{middle:.4g} ({low:.4g} to {high:.4g})"],
    ]


def question(run: FineTuning) -> str:
    return f"say the value of {run.cohort.task.classes[0]}"


def sections(run: FineTuning, results: dict[str, Any]) -> list[Section]:
    return [_results(run, results), _baselines(run, results), _folds(run, results)]


def _results(run: FineTuning, results: dict[str, Any]) -> Section:
    target, y, p = run.cohort.task.classes[0], run.cohort.y[:, 0], _mean(run)
    own = results[PRETRAINED]
    rows = []
    for name, words in WORDS.items():
        row = [words, with_interval(own["within_fold"][name]), number_words(own["pooled"][name]["value"])]
        rows.append(
            row + ([with_interval(results[RANDOM]["within_fold"][name])] if RANDOM in results else [])
        )
    limits = own["agreement"]
    shown = [
        (
            regression_figures.predicted_observed(y, p, target),
            "True against predicted values",
            "One dot a record, all folds. Dotted: perfect. Line: least squares of the truth on the prediction.",
            "predicted_observed",
        ),
        (
            regression_figures.bland_altman(y, p, target),
            "Bland-Altman plot",
            f"Prediction minus truth over their mean: {limits['bias']:+.3g} on average, 95 % of records between "
            f"{limits['low']:+.3g} and {limits['high']:+.3g} (if errors are normal).",
            "bland_altman",
        ),
    ]
    return Section(
        title="Results",
        text="Out-of-fold, in the unit of the table; within folds, averaged; intervals resample patients. A calibration slope "
        "of 1 with intercept 0 is ideal; below 1, predictions are too spread out, above 1 too close to the mean.",
        table=(
            ["Measure", "Within folds", "pooled", *(["random init."] if RANDOM in results else [])],
            rows,
        ),
        figures=kept(run, shown),
        note="A slope of errors in the Bland-Altman plot (high values predicted too low) is the usual pull to the mean.",
    )


def _baselines(run: FineTuning, results: dict[str, Any]) -> Section:
    every = [(ARM_NAMES[a], results[a]) for a in run.arms] + list(results["baselines"].items())
    rows = [
        [
            name,
            *(with_interval(arm["within_fold"][m]) for m in ("mae", "rmse")),
            number_words(arm["within_fold"]["r2"]["value"]),
        ]
        for name, arm in every
    ]
    bars = [(name, *(arm["headline"][k] for k in ("value", "low", "high"))) for name, arm in every]
    figure = figures.compare_arms(bars, xlabel="Mean absolute error, 95 % interval by patient")
    words = [results["from_median"]["verdict"]]
    if "difference" in results:
        words.append(results["difference"]["verdict"])
    return Section(
        title="Baselines",
        text="The mean and the median of each fold's training records look at no record at all: a model that does not beat them "
        "has learned nothing. Random initialisation is the same network with freshly drawn weights, trained by the same recipe "
        "on the same folds. " + " ".join(words),
        table=(["Arm", "Mean absolute error", "RMSE", "R²"], rows),
        figures=kept(run, [(figure, "Arms compared", "The same folds; smaller is better.", "arms")]),
    )


def _folds(run: FineTuning, results: dict[str, Any]) -> Section:
    other = results.get(RANDOM, {}).get("folds", [])
    rows = []
    for i, fold in enumerate(results[PRETRAINED]["folds"]):
        row: list[Any] = [fold[k] for k in ("repeat", "fold", "records", "patients")]
        row += [number_words(fold[k]) for k in ("mae", "rmse", "r2")]
        rows.append(row + ([number_words(other[i]["mae"])] if other else []))
    dots = {ARM_NAMES[a]: results[a]["folds"] for a in run.arms}
    figure = figures.fold_dots(dots, metric="mae", label="Mean absolute error")
    columns = [
        "Repeat",
        "Fold",
        "Records",
        "Patients",
        "MAE",
        "RMSE",
        "R²",
        *(["MAE, random init."] if other else []),
    ]
    return Section(
        title="Fold by fold",
        table=(columns, rows),
        figures=kept(run, [(figure, "Error of each fold", "Lines join the same fold.", "folds")]),
    )


def truth_columns(run: FineTuning) -> dict[str, Any]:
    """Of predictions.csv."""
    return {f"y_{run.cohort.task.classes[0]}": pd.array(run.cohort.y[:, 0])}


def data_words(run: FineTuning) -> list[str]:
    y = run.cohort.y[:, 0]
    return [
        f"{run.cohort.task.classes[0]}: mean {y.mean():.4g}, deviation {y.std():.3g}, {y.min():.4g} to {y.max():.4g}."
    ]


def card_results(run: FineTuning, results: dict[str, Any], shared: dict[str, Any]) -> list[Result]:
    """MAE against the training median, and R2."""
    within, pair = results[PRETRAINED]["within_fold"], results["from_median"]["mae"]
    change = pair["difference"]
    mae = Result(
        metric="MAE",
        value=within["mae"]["value"],
        ci=bounds(within["mae"]),
        baseline=pair["b"],
        baseline_name=MEDIAN,
        difference_ci=bounds(change),
        task="regression",
        **shared,
    )
    if within["r2"]["value"] is None:
        return [mae]
    return [
        mae,
        Result(
            metric="R2", value=within["r2"]["value"], ci=bounds(within["r2"]), task="regression", **shared
        ),
    ]


def bounds(estimate: dict[str, Any]) -> tuple[float, float] | None:
    return None if estimate["low"] is None else (estimate["low"], estimate["high"])
