"""A survival task's part of a fine-tuning run: its results, verdict, report sections, and what its card says.

Baselines on the same folds: Kaplan-Meier of the training records, and the network at random initialisation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from medfm.evaluation import figures, survival_figures
from medfm.evaluation.measured import Measured
from medfm.evaluation.protocol import verdict as difference_words
from medfm.evaluation.report import Section, Tile
from medfm.evaluation.survival_folds import (
    WORDS,
    FollowUp,
    Forecast,
    evaluate_survival,
    group_of,
    marginal,
)
from medfm.finetuning.survival import FEW_EVENTS, Survival
from medfm.hub.card import Result
from medfm.workflows.cohort import Cohort
from medfm.workflows.finetune_regression import bounds
from medfm.workflows.finetune_run import PRETRAINED, RANDOM, FineTuning
from medfm.workflows.finetune_words import ARM_NAMES, interval_words, kept, number_words, with_interval

REFERENCE = "Kaplan-Meier of the training folds"


def follow_up(cohort: Cohort) -> FollowUp:
    task = cohort.task
    assert isinstance(task, Survival)
    return FollowUp(cohort.y[:, 0], cohort.y[:, 1] == 1, task.times, task.horizon)


def forecast(p: np.ndarray) -> Forecast:
    """Of a task's predictions ``[R, n, 2 + T]``."""
    return Forecast(p[..., 0], p[..., 1], p[..., 2:])


def evaluate(run: FineTuning) -> dict[str, Any]:
    """``pretrained``, ``random``, ``baselines`` (by name), and the paired ``difference`` from random and
    ``from_kaplan_meier``."""
    follow, settings = follow_up(run.cohort), run.config.finetune
    arms = {arm: forecast(run.predicted[arm]) for arm in run.arms}
    arms[REFERENCE] = marginal(follow, run.fold_of)
    found, measured = evaluate_survival(
        follow,
        arms,
        run.fold_of,
        run.cohort.patients,
        run.cohort.task.classes[0],
        settings.bootstrap,
        run.config.seed,
    )
    results: dict[str, Any] = {arm: found[arm] for arm in run.arms}
    results["baselines"] = {REFERENCE: found[REFERENCE]}
    results["from_kaplan_meier"] = measured.difference(PRETRAINED, REFERENCE)
    if RANDOM in run.arms:
        results["difference"] = compared(
            measured, PRETRAINED, RANDOM, (run.bundle.card.id, "random initialisation")
        )
    return results


def compared(measured: Measured, a: str, b: str, names: tuple[str, str]) -> dict[str, Any]:
    """Arm a minus arm b in every measure, with a sentence on Harrell's C."""
    pair: dict[str, Any] = measured.difference(a, b)
    pair["verdict"] = difference_words(
        pair["harrell_c"]["difference"], names, measured.data.n_patients, metric="Harrell's C"
    )
    return pair


def verdict(results: dict[str, Any]) -> str:
    within = results[PRETRAINED]["within_fold"]
    c, brier = within["harrell_c"], results["from_kaplan_meier"]["integrated_brier"]
    if c["value"] is None:
        return "No test fold holds an event with anybody still followed, so that nothing can be said about ranking."
    text = (
        "On patients it was not trained on, the model gives the higher risk to the one with the earlier event in "
        f"{c['value']:.1%} of the pairs that can be compared (Harrell's C within folds {number_words(c['value'])}{_comma(c)})."
    )
    if c["low"] is not None and c["low"] <= 0.5:
        text += " That interval includes 0.5, which is guessing."
    change = brier["difference"]
    if change["value"] is not None and change["low"] is not None:
        said = (
            "better than"
            if change["high"] < 0
            else "worse than"
            if change["low"] > 0
            else "not told apart from"
        )
        text += (
            f" Its chances over time are {said} one curve for everybody (integrated Brier score {number_words(brier['a'])} "
            f"against {number_words(brier['b'])} of Kaplan-Meier, difference {with_interval(change, sign=True)}; smaller is better)."
        )
    if "difference" in results:
        text += " " + results["difference"]["verdict"]
    return text


def _comma(estimate: dict[str, Any]) -> str:
    words = interval_words(estimate)
    return f", {words}" if words else ""


def tiles(run: FineTuning, results: dict[str, Any]) -> list[Tile]:
    own = results[PRETRAINED]
    within, counts = own["within_fold"], own["counts"]
    shown = [
        Tile("Harrell's C", number_words(within["harrell_c"]["value"]), interval_words(within["harrell_c"])),
        Tile(
            f"AUROC at {own['horizon']:g}",
            number_words(within["auroc_at_horizon"]["value"]),
            interval_words(within["auroc_at_horizon"]),
        ),
    ]
    if "difference" in results:
        change = results["difference"]["harrell_c"]["difference"]
        shown.append(
            Tile(
                "Gain over random initialisation",
                number_words(change["value"], True),
                interval_words(change, True),
            )
        )
    return [*shown, Tile("Events", f"{counts['events']:,}", f"in {counts['patients_with_event']:,} patients")]


def question_rows(run: FineTuning) -> list[list[Any]]:
    time, event, task = run.cohort.y[:, 0], run.cohort.y[:, 1] == 1, run.cohort.task
    assert isinstance(task, Survival)
    return [
        [f"{task.classes[0]}: events", f"{int(event.sum()):,}"],
        ["censored", f"{int((~event).sum()):,}"],
        [f"{task.columns[0]}: median (largest)", f"{np.median(time):.4g} ({time.max():.4g})"],
        ["horizon", f"{task.horizon:g}"],
        ["follow-up looked at until", f"{task.limit:.4g}"],
        [
            "intervals of follow-up",
            ", ".join(sorted({str(len(f["fitted"]["cuts"])) for f in run.fits[PRETRAINED]})),
        ],
    ]


def question(run: FineTuning) -> str:
    return f"say who has the event {run.cohort.task.classes[0]} sooner, and the chance of it over time"


def sections(run: FineTuning, results: dict[str, Any]) -> list[Section]:
    return [
        _results(run, results),
        _calibration(run, results),
        _groups(run, results),
        _baselines(run, results),
        _folds(run, results),
    ]


def _results(run: FineTuning, results: dict[str, Any]) -> Section:
    own = results[PRETRAINED]
    rows = []
    for name, words in WORDS.items():
        row = [words, with_interval(own["within_fold"][name]), number_words(own["pooled"][name]["value"])]
        rows.append(
            row + ([with_interval(results[RANDOM]["within_fold"][name])] if RANDOM in results else [])
        )
    return Section(
        title="Results",
        text=(
            "Out-of-fold, within folds, averaged; intervals resample patients. Harrell's C is the share of comparable pairs "
            "that are ranked right; Uno's does not depend on how follow-up ended. AUROC and Brier score ask about the event by "
            f"{own['horizon']:g}, the horizon; the integrated Brier score looks at all times until {own['limit']:.4g} (0 is "
            "perfect). Records censored earlier are made up for by weights, from the censoring in each fold's training records. "
            "Risk is the time lost until then: the follow-up less the expected time without the event."
        ),
        table=(["Measure", "Within folds", "pooled", *(["random init."] if RANDOM in results else [])], rows),
        note="Competing risks are not modelled: another cause that ends follow-up counts as censored.",
    )


def _calibration(run: FineTuning, results: dict[str, Any]) -> Section:
    found = results[PRETRAINED]["calibration"]
    horizon, name = results[PRETRAINED]["horizon"], run.cohort.task.classes[0]
    rows = [
        [f"{g['predicted']:.3f}", f"{g['observed']:.3f} ({g['low']:.3f} to {g['high']:.3f})", g["records"]]
        for g in found["groups"]
    ]
    slope = number_words(found["slope"])
    figure = survival_figures.calibration_at(found["groups"], f"{name} by {horizon:g}")
    return Section(
        title=f"Calibration at {horizon:g}",
        text=(
            f"The model predicts the event by {horizon:g} for {found['predicted']:.1%} of the records on average; Kaplan-Meier "
            f"says {found['observed']:.1%}. Slope on the logit scale {slope}: 1 is ideal, below 1 predictions are too extreme. "
            "Over all folds at once."
        ),
        table=(["Predicted chance of the event", "Observed (Kaplan-Meier, 95 %)", "Records"], rows),
        figures=kept(
            run,
            [
                (
                    figure,
                    "Calibration at the horizon",
                    "Groups of equal size by predicted chance; bars: 95 %.",
                    "calibration",
                )
            ],
        ),
        level=3,
    )


def _groups(run: FineTuning, results: dict[str, Any]) -> Section:
    found, follow = results[PRETRAINED]["risk_groups"], follow_up(run.cohort)
    group = group_of(run.predicted[PRETRAINED][0, :, 0], run.fold_of[0])
    names = [row["group"] for row in found["groups"]]
    figure = survival_figures.kaplan_meier_groups(
        follow.time, follow.event, group, names, run.cohort.task.columns[0], follow.horizon
    )
    rows = [
        [r["group"], r["records"], r["events"], f"{r['without_event_at_horizon']:.3f}"]
        for r in found["groups"]
    ]
    p = (
        "not defined"
        if found["p"] is None
        else "p < 0.001"
        if found["p"] < 0.001
        else f"p = {found['p']:.3f}"
    )
    return Section(
        title="Risk groups",
        text=(
            "Thirds of each test fold by predicted risk, and what happened to them. The log-rank test over the groups "
            f"({p}) is descriptive: the risks come from models whose training records overlap, and the thirds are not a rule that "
            "was fixed beforehand."
        ),
        table=(
            [
                "Predicted risk",
                "Records",
                "Events",
                f"Without the event at {follow.horizon:g} (Kaplan-Meier)",
            ],
            rows,
        ),
        figures=kept(run, [(figure, "Kaplan-Meier curves by risk group", "Shaded: 95 %.", "risk_groups")]),
        note=" Of the repeated folds, the first repeat is shown." if run.repeats > 1 else "",
        level=3,
    )


def _baselines(run: FineTuning, results: dict[str, Any]) -> Section:
    every = [(ARM_NAMES[a], results[a]) for a in run.arms] + list(results["baselines"].items())
    names = ("harrell_c", "uno_c", "integrated_brier")
    rows = [[name, *(with_interval(arm["within_fold"][m]) for m in names)] for name, arm in every]
    bars = [
        (n, *(arm["headline"][k] for k in ("value", "low", "high"))) for n, arm in every if n != REFERENCE
    ]
    figure = figures.compare_arms(bars, xlabel="Harrell's C, 95 % interval by patient", reference=0.5)
    extra = f" {results['difference']['verdict']}" if "difference" in results else ""
    return Section(
        title="Baselines",
        text="Kaplan-Meier of each fold's training records gives everybody the same curve: it ranks nobody, and its Brier score "
        "is what a model must get below. Random initialisation is the same network with freshly drawn weights, trained by the "
        f"same recipe on the same folds.{extra}",
        table=(["Arm", *(WORDS[m] for m in names)], rows),
        figures=kept(
            run, [(figure, "Arms compared", "The same folds and the same recipe. Dotted: guessing.", "arms")]
        ),
    )


def _folds(run: FineTuning, results: dict[str, Any]) -> Section:
    other = results.get(RANDOM, {}).get("folds", [])
    rows = []
    for i, fold in enumerate(results[PRETRAINED]["folds"]):
        row: list[Any] = [fold[k] for k in ("repeat", "fold", "records", "patients", "events")]
        row += [number_words(fold[k]) for k in ("harrell_c", "uno_c", "integrated_brier")]
        rows.append(row + ([number_words(other[i]["harrell_c"])] if other else []))
    figure = figures.fold_dots(
        {ARM_NAMES[a]: results[a]["folds"] for a in run.arms}, metric="harrell_c", label="Harrell's C"
    )
    columns = [
        "Repeat",
        "Fold",
        "Records",
        "Patients",
        "Events",
        "Harrell's C",
        "Uno's C",
        "Integrated Brier",
    ]
    return Section(
        title="Fold by fold",
        table=([*columns, *(["C, random init."] if other else [])], rows),
        figures=kept(run, [(figure, "C of each fold", "Lines join the same fold.", "folds")]),
    )


def truth_columns(run: FineTuning) -> dict[str, Any]:
    """Of predictions.csv: the follow-up time, and 1 or 0."""
    time, event = run.cohort.task.columns
    return {f"y_{time}": pd.array(run.cohort.y[:, 0]), f"y_{event}": pd.array(run.cohort.y[:, 1].astype(int))}


def few_events(results: dict[str, Any]) -> list[str]:
    held = results[PRETRAINED]["counts"]["patients_with_event"]
    if held >= FEW_EVENTS:
        return []
    return [
        f"Fewer than {FEW_EVENTS} patients with the event ({held}). Such figures can move a lot with the next one."
    ]


def data_words(run: FineTuning) -> list[str]:
    event, (time, name) = run.cohort.y[:, 1] == 1, run.cohort.task.columns
    return [
        f"{name}: {int(event.sum()):,} events, {int((~event).sum()):,} censored; {time} median "
        f"{np.median(run.cohort.y[:, 0]):.4g}, largest {run.cohort.y[:, 0].max():.4g}."
    ]


def card_results(run: FineTuning, results: dict[str, Any], shared: dict[str, Any]) -> list[Result]:
    """C against random initialisation, and the integrated Brier score against Kaplan-Meier."""
    within, made = results[PRETRAINED]["within_fold"], []
    pair = (results.get("difference") or {}).get("harrell_c")
    if within["harrell_c"]["value"] is not None:
        made.append(
            Result(
                metric="C-index",
                value=within["harrell_c"]["value"],
                ci=bounds(within["harrell_c"]),
                baseline=pair["b"] if pair else None,
                difference_ci=bounds(pair["difference"]) if pair else None,
                task="survival",
                **shared,
            )
        )
    brier = results["from_kaplan_meier"]["integrated_brier"]
    if brier["a"] is not None:
        made.append(
            Result(
                metric="integrated Brier score",
                value=brier["a"],
                ci=bounds(within["integrated_brier"]),
                baseline=brier["b"],
                baseline_name="Kaplan-Meier",
                difference_ci=bounds(brier["difference"]),
                task="survival",
                **shared,
            )
        )
    return made
