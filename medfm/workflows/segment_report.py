"""What a finished run with masks leaves: results.json, predictions.csv, figures, bundle and report.html."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.evaluation.protocol import jsonable
from medfm.evaluation.segmentation import METRICS, compare, summarise
from medfm.evaluation.segmentation import verdict as difference_words
from medfm.types import RESEARCH_USE, MedfmError
from medfm.workflows.finetune_bundle import publish
from medfm.workflows.finetune_run import PRETRAINED, RANDOM
from medfm.workflows.patterns import has_sequences
from medfm.workflows.run_folder import Run
from medfm.workflows.segment_bundle import deploy
from medfm.workflows.segment_patterns import pattern_results
from medfm.workflows.segment_run import Segmenting
from medfm.workflows.segment_sections import write

RULES = (
    "Both masks empty: not applicable, counted apart. One empty: Dice 0, NSD 0, HD95 the diagonal of the image. A patient's "
    "volumes are averaged first; classes count equally."
)


def finish(run: Segmenting) -> Run:
    results = make_results(run)
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
    report = run.folder.path / "report.html"
    write(run, results, report, published, command(run, run.folder.path.name))
    run.log.info("%s", results["verdict"])
    return Run(run.folder.path, results, bundle.path, report, command(run, run.folder.path))


def command(run: Segmenting, model: object) -> str:
    what = "subjects.csv" if has_sequences(run.modality) else "ct.nii.gz"
    return f"medfm predict {what} --model {model} --output masks"


def make_results(run: Segmenting) -> dict[str, Any]:
    """Measures of each arm with patient-bootstrap intervals, and their paired differences, at the end and at the marks."""
    cohort, settings = run.cohort, run.config.finetune
    names, boot = run.measured, (settings.bootstrap, run.config.seed)
    arms = {arm: summarise(run.measures[arm], cohort.patients, names, *boot) for arm in run.arms}
    for arm in run.arms:
        arms[arm]["folds"] = _fold_rows(run, arm)
    results: dict[str, Any] = {
        "research_use": RESEARCH_USE,
        "task": "segmentation",
        "targets": list(names),
        "values": dict(zip(run.classes.names, run.classes.values)),
        "regions": {name: list(members) for name, members in settings.regions.items()},
        "tolerance_mm": dict(zip(names, run.tolerances)),
        "rules": RULES,
        "backbone": settings.backbone,
        "strategy": settings.strategy.name,
        "records": len(cohort.y),
        "patients": len(set(cohort.patients.tolist())),
        "patients_known": cohort.patients_known,
        "set_aside": cohort.set_aside,
        "notes": [*cohort.notes, *lost_note(run), steps_note(run)],
        **arms,
        "fits": run.fits,
        "seconds": {arm: round(s, 1) for arm, s in run.seconds.items()},
    }
    if RANDOM in run.arms:
        results["difference"] = {
            metric: compare(
                getattr(run.measures[PRETRAINED], metric),
                getattr(run.measures[RANDOM], metric),
                cohort.patients,
                names,
                *boot,
            )
            for metric in METRICS
        }
        results["difference"]["verdict"] = difference_words(
            results["difference"]["dice"]["macro"]["difference"],
            (run.bundle.card.id, "random initialisation"),
            results["patients"],
        )
    if run.mark_steps:
        results["marks"] = [_mark(run, i, step, boot) for i, step in enumerate(run.mark_steps)]
    if run.patterned:
        results["patterns"] = pattern_results(run, boot)
    results["verdict"] = verdict(results)
    return results


def _mark(run: Segmenting, i: int, step: int, boot: tuple[int, int]) -> dict[str, Any]:
    """After so many steps, on the model's grid: Dice of each arm, and their paired difference."""
    patients, names = run.cohort.patients, run.measured
    row: dict[str, Any] = {"step": step}
    for arm in run.arms:
        dice = run.marks[arm][i]
        own = compare(dice, np.zeros_like(dice), patients, names, *boot)["macro"]["difference"]
        row[arm] = own  # against zero: the mean itself with its interval
    if RANDOM in run.arms:
        row["difference"] = compare(run.marks[PRETRAINED][i], run.marks[RANDOM][i], patients, names, *boot)[
            "macro"
        ]["difference"]
    return row


def _fold_rows(run: Segmenting, arm: str) -> list[dict[str, Any]]:
    rows = []
    for fold, facts in zip(run.folds, run.fits[arm]):
        dice = run.measures[arm].dice[fold.test]
        known = np.isfinite(dice).any()
        rows.append(
            {
                "repeat": 1,
                "fold": fold.name,
                "records": len(fold.test),
                "patients": len(set(run.cohort.patients[fold.test].tolist())),
                "steps": facts["steps"],
                "dice": float(np.nanmean(dice)) if known else None,
            }
        )
    return rows


def lost_note(run: Segmenting) -> list[str]:
    """Values of the files' masks that the model's grid does not hold."""
    lost = sorted({v for fits in run.fits.values() for facts in fits for v in facts.get("lost_values", ())})
    if not lost:
        return []
    grid = " x ".join(f"{mm:g}" for mm in run.modality.spacing)
    return [
        f"What has the value {', '.join(map(str, lost))} in the masks is too small for the model's grid of {grid} mm: it was not "
        "learned, and counts as background."
    ]


def steps_note(run: Segmenting) -> str:
    """How many steps were taken, and who decided."""
    steps = run.config.finetune.steps
    if run.config.finetune.marks:
        return f"All {steps:,} steps were taken, as finetune.marks asks; a mark before the end is of an unfinished schedule."
    if any(facts["history"] for facts in run.fits[PRETRAINED]):
        return "The number of steps was chosen on inner patients of each training fold, and then taken on all of it."
    return (
        f"The number of steps is fixed ({steps:,}, finetune.steps): nobody was held out to choose it. The last network counts, "
        "in both arms."
    )


def verdict(results: dict[str, Any]) -> str:
    """How well it draws on patients it has not seen, and whether pretraining is why; in plain sentences."""
    headline = results[PRETRAINED]["headline"]
    if headline["value"] is None:
        return "No class stands in any mask, so that nothing can be said about overlap."
    interval = ""
    if headline["low"] is not None:
        interval = f" (95 % interval {headline['low']:.3f} to {headline['high']:.3f})"
    text = f"On patients it was not trained on, the model reaches {headline['name']} {headline['value']:.3f}{interval}."
    if "difference" in results:
        text += " " + results["difference"]["verdict"]
    if not results["patients_known"]:
        text += " Patients are not known, so these figures may be too good."
    return text


def write_predictions(run: Segmenting) -> None:
    """``predictions.csv``: one row a record and class: ``row`` of the user's table, the codes ``record`` and ``patient``,
    ``fold, class, value, true_ml``, then ``predicted_ml, dice, hd95_mm, nsd`` and the same of the baseline
    (``_random``). Blank: not applicable."""
    names = {f.number: f.name for f in run.folds}
    coded = run.cohort.coded
    coded["fold"] = [names.get(int(f), "") for f in run.fold_of[0]]
    parts = []
    values = ["+".join(str(run.classes.values[c - 1]) for c in members) for members in run.members]
    for k, (name, value) in enumerate(zip(run.measured, values)):
        part = coded.copy()
        part["class"], part["value"] = name, value
        part["true_ml"] = np.round(run.measures[PRETRAINED].true_ml[:, k], 3)
        for arm in run.arms:
            of, end = run.measures[arm], "" if arm == PRETRAINED else f"_{arm}"
            part[f"predicted_ml{end}"] = np.round(of.predicted_ml[:, k], 3)
            for column, metric in (("dice", "dice"), ("hd95_mm", "hd95"), ("nsd", "nsd")):
                part[f"{column}{end}"] = np.round(getattr(of, metric)[:, k], 5)
        parts.append(part)
    whole = pd.concat(parts).sort_values("row", kind="stable")
    whole.to_csv(Path(run.folder.path) / "predictions.csv", index=False)
