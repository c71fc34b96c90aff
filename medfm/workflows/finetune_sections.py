"""The sections of a fine-tuning report: question, verdict, folds, curves, baselines, strategy, warnings,
use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medfm.evaluation import figures
from medfm.evaluation.report import Section, Tile, write_report
from medfm.workflows import finetune_worst
from medfm.workflows.finetune_answers import ANSWERS
from medfm.workflows.finetune_folds import load_kept
from medfm.workflows.finetune_patterns import pattern_section
from medfm.workflows.finetune_run import PRETRAINED, RANDOM, FineTuning, step_settings
from medfm.workflows.finetune_words import ARM_NAMES, interval_words, kept, number_words, with_interval
from medfm.workflows.progress import duration

MOST_CURVES = 6  # more lines in one picture cannot be told apart
PROBE_WORDS = {
    "regression": "ridge regression",
    "survival": "regression of discrete hazards (proportional odds)",
}
STRATEGY_WORDS = {
    "linear-probe": "The backbone stays frozen; a {probe} reads its features.",
    "lp-ft": "A {probe} on frozen features first; then every weight is trained slowly from there.",
    "full": "Every weight is trained, deeper layers slower, from a head at zero.",
    "progressive": "The head is trained first, then one group of layers more at a time, from the top.",
    "lora": "Small low-rank matrices are trained beside the frozen backbone; the head starts from the "
    "linear probe.",
}


def write(run: FineTuning, results: dict[str, Any], path: Path, published: str, command: str) -> None:
    """``report.html`` and the same pictures in ``figures/``."""
    from matplotlib import pyplot

    targets = ", ".join(run.cohort.task.classes[:6])
    worst = finetune_worst.sections(run, PRETRAINED, lambda fold: load_kept(run, PRETRAINED, fold))
    own = ANSWERS.get(run.cohort.task.kind)
    sections = [
        _question(run, results),
        Section(title="Verdict", text=_verdict_words(results)),
        *(own.sections(run, results) if own else [*_results(run, results), _folds(run, results)]),
        *pattern_section(results.get("patterns", []), with_interval),
        *worst,
        _strategy(run, results),
        *_warnings(run, results),
        _use(run, results, published, command),
    ]
    notices = ["This file holds results on patients' records: share it as you would share those."]
    if pictures := sum(len(section.figures) for section in worst):
        notices = [
            f"This file holds patient data: results, and pictures of {pictures} records under **Worst errors**. Share it as "
            "you would share those records; `finetune.worst=0` leaves the pictures out."
        ]
    if not run.cohort.patients_known:
        notices.insert(
            0,
            "Patients are not known: every record was counted as its own patient, and all figures may be "
            "too good.",
        )
    write_report(
        path,
        f"Fine-tuning: {targets}",
        results["verdict"],
        sections,
        notices,
        tiles=_tiles(run, results),
    )
    pyplot.close("all")


def _tiles(run: FineTuning, results: dict[str, Any]) -> list[Tile]:
    patients = Tile("Patients", f"{results['patients']:,}", f"{results['records']:,} records")
    if own := ANSWERS.get(run.cohort.task.kind):
        return [*own.tiles(run, results), patients]
    headline = results[PRETRAINED]["headline"]
    name = "AUROC (macro)" if run.cohort.task.outputs > 1 else "AUROC"
    tiles = [Tile(name, number_words(headline["value"]), interval_words(headline))]
    if "difference" in results:
        change = results["difference"]["auroc"]["difference"]
        tiles.append(
            Tile(
                "Gain over random initialisation",
                number_words(change["value"], sign=True),
                interval_words(change, sign=True),
            )
        )
    return [*tiles, patients]


def _question(run: FineTuning, results: dict[str, Any]) -> Section:
    cohort, settings = run.cohort, run.config.finetune
    rows: list[list[Any]] = [
        ["Task", f"{cohort.task.kind}: {', '.join(cohort.task.classes)}"],
        ["Table", Path(cohort.source).name],
        ["Rows in the table", cohort.rows_in_table],
        ["without a known target", cohort.unlabelled],
        ["could not be read", len(cohort.store.failed)],
        ["Records used", len(cohort.y)],
        ["Patients", results["patients"]],
        ["Backbone", str(settings.backbone)],
    ]
    own = ANSWERS.get(cohort.task.kind)
    rows += own.question_rows(run) if own else []
    for k, name in enumerate(() if own else cohort.task.classes):
        column = cohort.y[:, k]
        unknown = int(np.isnan(column).sum())
        rows.append(
            [
                f"{name}: positive records",
                f"{int(np.nansum(column)):,}" + (f" ({unknown:,} unknown)" if unknown else ""),
            ]
        )
    asked = own.question(run) if own else f"tell {', '.join(cohort.task.classes[:8])}"
    text = (
        f"Can {run.bundle.card.id}, fine-tuned on this table, {asked} on "
        "patients it was "
        "not trained on? Every patient's records stand in one fold only; each fold is predicted by a "
        "model that saw "
        "none of them. Normalisation is the backbone's own and was fitted before this table."
    )
    return Section(title="The question and its data", text=text, table=(["", ""], rows))


def _verdict_words(results: dict[str, Any]) -> str:
    conditional = results[PRETRAINED]["interval"]["conditional"]
    return f"**{results['verdict']}**\n\nIntervals: {conditional}"


def _results(run: FineTuning, results: dict[str, Any]) -> list[Section]:
    task = run.cohort.task
    rows = []
    for name in task.classes:
        row: list[Any] = [name, results[PRETRAINED]["targets"][name]["positives"]]
        for metric in ("auroc", "auprc"):
            row.append(with_interval(results[PRETRAINED]["targets"][name][metric]))
        if "difference" in results:
            of = results["difference"]["targets"][name]["auroc"]
            row += [number_words(of["b"]), with_interval(of["difference"], sign=True)]
        row.append(results[PRETRAINED]["targets"][name].get("brier"))
        rows.append(row)
    columns = ["Target", "Positive records", "AUROC", "AUPRC"]
    columns += ["AUROC, random init.", "difference"] if "difference" in results else []
    curves = _curves(run, PRETRAINED)
    shown = [
        (
            figures.roc(curves),
            "ROC curves",
            "All folds in one curve; the table holds the values within folds.",
            "roc",
        ),
        (
            figures.precision_recall(curves),
            "Precision-recall curves",
            "Dotted: prevalence.",
            "precision_recall",
        ),
        (
            figures.calibration(curves),
            "Calibration",
            "Observed share against predicted probability.",
            "calibration",
        ),
        (
            figures.decision_curve(dict([next(iter(curves.items()))])),
            "Decision curve",
            f"Net benefit for {next(iter(curves))}.",
            "decision",
        ),
    ]
    sections = [
        Section(
            title="Results",
            text="Out-of-fold, within folds, averaged; intervals resample patients.",
            table=([*columns, "Brier"], rows),
            figures=kept(run, shown),
            note=_weighting(run) + _left_out(task.outputs),
        )
    ]
    if "difference" in results:
        sections.append(_baselines(run, results))
    return sections


def _weighting(run: FineTuning) -> str:
    if run.config.finetune.balance == "none":
        return "Probabilities are unweighted: rare classes keep their prevalence in this table."
    return "Classes were drawn equally often in training; probabilities are brought back to the prevalence in this table."


def _left_out(outputs: int) -> str:
    return f" Curves show the first {MOST_CURVES} of {outputs} targets." if outputs > MOST_CURVES else ""


def _curves(run: FineTuning, arm: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    p = np.nanmean(run.predicted[arm], axis=0)
    names = run.cohort.task.classes[:MOST_CURVES]
    return {name: (run.cohort.y[:, k], p[:, k]) for k, name in enumerate(names)}


def _baselines(run: FineTuning, results: dict[str, Any]) -> Section:
    arms = [
        (ARM_NAMES[arm], *(results[arm]["headline"][k] for k in ("value", "low", "high"))) for arm in run.arms
    ]
    shown = [(figures.compare_arms(arms), "Arms compared", "The same folds and the same recipe.", "arms")]
    closed = results["difference"]["gap_closed"]
    share = (
        f" It closes {closed['value']:.0%} of the gap between random initialisation and 1."
        if closed and closed["value"] is not None
        else ""
    )
    return Section(
        title="Baselines",
        text=(
            "Random initialisation is the same network with freshly drawn weights, trained by the same "
            "recipe on the same "
            f"folds: the difference is what pretraining brings. {results['difference']['verdict']}{share}"
        ),
        figures=kept(run, shown),
    )


def _folds(run: FineTuning, results: dict[str, Any]) -> Section:
    rows = []
    other = results.get(RANDOM, {}).get("folds", [])
    for i, fold in enumerate(results[PRETRAINED]["folds"]):
        row: list[Any] = [
            fold["repeat"],
            fold["fold"],
            fold["records"],
            fold["patients"],
            sum(fold["positives"].values()),
        ]
        row += [number_words(fold["macro_auroc"]), number_words(fold["macro_auprc"])]
        rows.append(row + ([number_words(other[i]["macro_auroc"])] if other else []))
    columns = ["Repeat", "Fold", "Records", "Patients", "Positives", "AUROC", "AUPRC"]
    shown = [
        (
            figures.fold_dots({ARM_NAMES[arm]: results[arm]["folds"] for arm in run.arms}),
            "AUROC of each fold",
            "Lines join the same fold.",
            "folds",
        )
    ]
    return Section(
        title="Fold by fold",
        table=(columns + (["AUROC, random init."] if other else []), rows),
        figures=kept(run, shown),
    )


def _strategy(run: FineTuning, results: dict[str, Any]) -> Section:
    settings = run.config.finetune.strategy
    fits = run.fits[PRETRAINED]
    rows: list[list[Any]] = [
        [k.replace("_", " "), str(v)] for k, v in settings.model_dump().items() if k != "name"
    ]
    rows += [[k.replace("_", " "), str(v)] for k, v in step_settings(run.config).items()]
    rows.append(["trained parameters", f"{fits[0]['trained_parameters']:,} of {fits[0]['parameters']:,}"])
    if any(f["epochs"] for f in fits) or settings.name != "linear-probe":
        rows.append(["epochs chosen in the folds", ", ".join(str(f["epochs"]) for f in fits)])
    rows.append(["time", ", ".join(f"{ARM_NAMES[a]} {duration(s)}" for a, s in results["seconds"].items())])
    probe = PROBE_WORDS.get(run.cohort.task.kind, "logistic regression")
    text = (
        f"**{settings.name}**. {_strategy_words(settings).format(probe=probe)} The penalty of the regression and "
        "the number of "
        "epochs were chosen on inner patients of each training fold (0 epochs: training on did not help "
        "there)."
    )
    return Section(title="How it was trained", text=text, table=(["", ""], rows))


def _strategy_words(settings: Any) -> str:
    if settings.name == "progressive" and settings.direction == "shallow-to-deep":
        return "Every weight is trained first; then one group of layers after another freezes, from the stem."
    if settings.name == "progressive" and settings.probe_first:
        return "The head starts from the linear probe; then one group of layers more at a time is trained, from the top."
    return STRATEGY_WORDS.get(settings.name, "")


def _warnings(run: FineTuning, results: dict[str, Any]) -> list[Section]:
    notes, kind = list(dict.fromkeys(results["notes"])), run.cohort.task.kind
    notes += ANSWERS[kind].few_events(results) if kind == "survival" else []
    small = [
        n
        for n in (() if kind in ANSWERS else run.cohort.task.classes)
        if (c := results[PRETRAINED]["targets"][n])["positive_patients"] < 20 and c["positives"]
    ]
    if small:
        notes.append(
            f"Fewer than 20 positive patients: {', '.join(small)}. Such a figure can move a lot with the "
            "next patient."
        )
    if not notes:
        return []
    return [Section(title="Warnings", text="\n".join(f"- {n}" for n in notes))]


def _use(run: FineTuning, results: dict[str, Any], published: str, command: str) -> Section:
    where = f" It stands in the local hub as `{published}`." if published else ""
    text = (
        "The model in `bundle/` was trained once more by the same recipe on all records; the figures "
        "above are those of "
        f"the recipe, and the model itself is untested until other patients' records meet it.{where} It "
        "can serve as a "
        "`--backbone` (its head is dropped) and as `--init` of another pretraining."
    )
    again = f"medfm finetune --config {run.folder.path.name}/config.yaml"
    return Section(
        title="How to use it", text=text, code=f"{command}\n{again}", code_title="Predict, or run this again"
    )
