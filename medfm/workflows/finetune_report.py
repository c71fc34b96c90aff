"""What a finished fine-tuning run leaves: results.json, predictions.csv, figures, bundle and report.html."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.evaluation.protocol import evaluate_folds, jsonable, paired_difference
from medfm.types import RESEARCH_USE, MedfmError
from medfm.workflows.finetune_answers import ANSWERS
from medfm.workflows.finetune_bundle import deploy, publish
from medfm.workflows.finetune_patterns import pattern_results
from medfm.workflows.finetune_run import PRETRAINED, RANDOM, FineTuning
from medfm.workflows.finetune_sections import write
from medfm.workflows.run_folder import Run

UNKNOWN = " Patients are not known, so these figures may be too good."


def finish(run: FineTuning) -> Run:
    results = make_results(run)
    for note in results["notes"]:
        run.log.info("%s", note)
    write_predictions(run)
    bundle = deploy(run, results)
    try:
        published = publish(run, bundle)
    except MedfmError as error:  # a full hub must not cost the report of hours of training
        published = ""
        run.log.warning("%s The model is in %s; later: medfm hub pull %s", error, bundle.path, bundle.path)
    (run.folder.path / "results.json").write_text(
        json.dumps(jsonable(results), indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    command = _command(run.config.finetune.table, run.folder.path)
    report = run.folder.path / "report.html"
    name = Path(str(run.config.finetune.table)).name
    write(run, results, report, published, _command(name, run.folder.path.name))
    run.log.info("%s", results["verdict"])
    return Run(run.folder.path, results, bundle.path, report, command)


def _command(table: object, model: object) -> str:
    return f"medfm predict {table} --model {model} --output predictions.csv"


def make_results(run: FineTuning) -> dict[str, Any]:
    """Every measure of each arm within folds with patient-bootstrap intervals, and their paired differences.

    For every kind of task: ``pretrained`` and ``random`` with ``headline``, ``folds``, ``counts`` and, for classes, what
    :func:`evaluate_folds` names; for a value or survival ``within_fold``, ``pooled`` and ``repeats`` by the names of
    :mod:`medfm.evaluation.regression` and :mod:`medfm.evaluation.survival_folds`, and ``baselines``. ``difference``:
    pretrained minus random.
    """
    cohort, settings = run.cohort, run.config.finetune
    own = ANSWERS.get(cohort.task.kind)
    evaluated = own.evaluate(run) if own else _discrimination(run)
    results: dict[str, Any] = {
        "research_use": RESEARCH_USE,
        "task": cohort.task.kind,
        "targets": list(cohort.task.classes),
        "backbone": settings.backbone,
        "strategy": settings.strategy.name,
        "records": len(cohort.y),
        "patients": len(set(cohort.patients.tolist())),
        "patients_known": cohort.patients_known,
        "set_aside": cohort.set_aside,
        "notes": [*cohort.notes, *evaluated[PRETRAINED]["notes"]],
        **evaluated,
        "fits": run.fits,
        "seconds": {arm: round(s, 1) for arm, s in run.seconds.items()},
    }
    if run.patterned:
        results["patterns"] = pattern_results(run, own.evaluate if own else _discrimination)
    results["verdict"] = own.verdict(results) if own else verdict(results)
    if own and not cohort.patients_known:
        results["verdict"] += UNKNOWN
    return results


def _discrimination(run: FineTuning) -> dict[str, Any]:
    """Of classes: each arm, and their paired difference."""
    cohort, settings = run.cohort, run.config.finetune
    shared = (run.fold_of, cohort.patients, cohort.task.classes)
    kind: Any = cohort.task.kind
    evaluated: dict[str, Any] = {
        arm: evaluate_folds(cohort.y, run.predicted[arm], *shared, kind, settings.bootstrap, run.config.seed)
        for arm in run.arms
    }
    if RANDOM in run.arms:
        names = (run.bundle.card.id, "random initialisation")
        evaluated["difference"] = paired_difference(
            cohort.y,
            run.predicted[PRETRAINED],
            run.predicted[RANDOM],
            *shared,
            settings.bootstrap,
            run.config.seed,
            names=names,
        )
    return evaluated


def verdict(results: dict[str, Any]) -> str:
    """How well it ranks patients it has not seen, and whether pretraining is why; in plain sentences."""
    headline = results[PRETRAINED]["headline"]
    if headline["value"] is None:
        return "No fold holds both classes of any target, so that nothing can be said about ranking."
    interval = ""
    if headline["low"] is not None:
        interval = f" (95 % interval {headline['low']:.3f} to {headline['high']:.3f})"
    text = (
        f"On patients it was not trained on, the model reaches {headline['name']} "
        f"{headline['value']:.3f}{interval}."
    )
    if headline["low"] is not None and headline["low"] <= 0.5:
        text += " That interval includes 0.5, which is guessing."
    if "difference" in results:
        text += " " + results["difference"]["verdict"]
    if not results["patients_known"]:
        text += UNKNOWN
    return text


def write_predictions(run: FineTuning) -> None:
    """One row a record: ``row`` of the user's table (its header is row 1), the codes ``record`` and ``patient``, ``fold,
    y_CLASS, p_CLASS`` and the baseline's ``p_random_CLASS``. A regression has ``predicted_TARGET``, survival ``y_TIME, y_EVENT,
    risk_EVENT, survival_EVENT_at_HORIZON``.

    With repeats, p is the mean over them and ``fold`` that of the first; ``predictions_repeats.csv`` has them
    all.
    """
    frame = _table(run, run.fold_of[0], {arm: np.nanmean(run.predicted[arm], axis=0) for arm in run.arms})
    frame.to_csv(run.folder.path / "predictions.csv", index=False)
    if run.repeats > 1:
        each = []
        for repeat in range(run.repeats):
            part = _table(run, run.fold_of[repeat], {arm: run.predicted[arm][repeat] for arm in run.arms})
            part.insert(3, "repeat", repeat + 1)
            each.append(part)
        pd.concat(each).to_csv(run.folder.path / "predictions_repeats.csv", index=False)


def _table(run: FineTuning, fold: np.ndarray, p: dict[str, np.ndarray]) -> pd.DataFrame:
    cohort = run.cohort
    names = {f.number: f.name for f in run.folds}
    frame = cohort.coded
    frame["fold"] = [names.get(int(f), "") for f in fold]
    columns = {
        arm: cohort.task.columns_of(values, "" if arm == PRETRAINED else f"{arm}_")
        for arm, values in p.items()
    }
    if own := ANSWERS.get(cohort.task.kind):
        parts = [own.truth_columns(run), *columns.values()]
    else:  # a class's truth stands beside its probabilities
        parts = []
        for k, name in enumerate(cohort.task.classes):
            known = [None if np.isnan(v) else int(v) for v in cohort.y[:, k]]
            parts.append({f"y_{name}": pd.array(known, dtype="Int64")})
            parts += [dict([list(of.items())[k]]) for of in columns.values()]
    for part in parts:
        for name, values in part.items():
            frame[name] = values.round(6) if isinstance(values, np.ndarray) else values
    return frame
