"""The sections of a report on masks: question, verdict, classes, baseline, pictures, folds, strategy, warnings, use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medfm.evaluation import segmentation_figures as figures
from medfm.evaluation.figures import compare_arms
from medfm.evaluation.report import Section, Tile, write_report
from medfm.workflows.finetune_run import PRETRAINED, RANDOM
from medfm.workflows.progress import duration
from medfm.workflows.segment_folds import load_pictures
from medfm.workflows.segment_patterns import pattern_section
from medfm.workflows.segment_run import Segmenting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARM_NAMES = {PRETRAINED: "this backbone", RANDOM: "random initialisation"}
STRATEGY_WORDS = {
    "linear-probe": "Only the classifiers are trained, by gradient, on the frozen maps.",
    "lp-ft": "The classifiers first, alone; then every weight.",
    "full": "Every weight is trained, from classifiers drawn at random.",
    "progressive": "The classifiers first, then one group of layers more at a time: decoder, then encoder.",
    "lora": "The classifiers first; then small low-rank matrices beside the frozen layers.",
}
MOST_CLASSES = 14  # more rows and colours in one picture cannot be told apart


def write(run: Segmenting, results: dict[str, Any], path: Path, published: str, command: str) -> None:
    """``report.html`` and the same pictures in ``figures/``."""
    pictures = _pictures(run)
    sections = [
        _question(run, results),
        Section(
            title="Verdict",
            text=f"**{results['verdict']}**\n\nIntervals: {results[PRETRAINED]['interval']['conditional']}",
        ),
        _classes(run, results),
        *_baseline(run, results),
        *pattern_section(results.get("patterns", []), with_interval),
        *pictures,
        _folds(run, results),
        _strategy(run, results),
        Section(title="Warnings", text="\n".join(f"- {n}" for n in dict.fromkeys(_notes(results)))),
        _use(run, published, command),
    ]
    notices = ["This file holds results on patients' records: share it as you would share those."]
    if pictures:
        notices = [
            "This file holds patient data: results, and slices of volumes under **Best, middle and worst**. Share it as you "
            "would share those volumes; `finetune.worst=0` leaves the slices out."
        ]
    if not run.cohort.patients_known:
        notices.insert(
            0,
            "Patients are not known: every volume was counted as its own patient, and all figures may be too good.",
        )
    title = f"Segmentation: {', '.join(run.classes.names[:6])}"
    write_report(path, title, results["verdict"], sections, notices, tiles=_tiles(results))


def _tiles(results: dict[str, Any]) -> list[Tile]:
    headline = results[PRETRAINED]["headline"]
    tiles = [Tile("Mean Dice", number(headline["value"]), interval(headline))]
    if "difference" in results:
        change = results["difference"]["dice"]["macro"]["difference"]
        tiles.append(
            Tile(
                "Gain over random initialisation",
                number(change["value"], sign=True),
                interval(change, sign=True),
            )
        )
    return [*tiles, Tile("Patients", f"{results['patients']:,}", f"{results['records']:,} volumes")]


def _question(run: Segmenting, results: dict[str, Any]) -> Section:
    cohort, settings = run.cohort, run.config.finetune
    rows: list[list[Any]] = [
        ["Table", Path(cohort.source).name],
        ["Rows in the table", cohort.rows_in_table],
        ["without a mask", cohort.unlabelled],
        ["could not be read", len(cohort.set_aside)],
        ["Volumes used", len(cohort.y)],
        ["Patients", results["patients"]],
        ["Backbone", str(settings.backbone)],
        [
            "Grid of the model",
            f"{' x '.join(f'{mm:g}' for mm in run.modality.spacing)} mm, axes to {run.modality.orientation}",
        ],
        [
            "Patch and tile",
            f"{' x '.join(map(str, run.patch))} voxels, tiles overlapping by {settings.overlap:g}",
        ],
    ]
    for k, (name, value) in enumerate(zip(run.classes.names, run.classes.values)):
        rows.append([f"{name} (value {value})", f"in {int(cohort.y[:, k].sum()):,} volumes"])
    text = (
        f"How well does {run.bundle.card.id}, fine-tuned on this table, draw {', '.join(run.classes.names[:8])} in patients it "
        "was not trained on? Every patient's volumes stand in one fold only. Masks are brought back to each file's own grid "
        "before anything is measured."
    )
    return Section(title="The question and its data", text=text, table=(["", ""], rows))


def _classes(run: Segmenting, results: dict[str, Any]) -> Section:
    names, of = run.measured, results[PRETRAINED]["targets"]
    columns = [
        "Class",
        "Dice",
        "HD95 (mm)",
        "NSD",
        "NSD within",
        "True (mL)",
        "Predicted (mL)",
        "Bias (mL)",
        "n/a",
        "missed",
        "invented",
    ]
    rows: list[list[Any]] = []
    for name, mm in zip(names, run.tolerances):
        one = of[name]
        rows.append(
            [
                name, with_interval(one["dice"]), with_interval(one["hd95"], digits=1), with_interval(one["nsd"]), f"{mm:g} mm",
                *(number(one[k], digits=1) for k in ("true_ml", "predicted_ml", "bias_ml")),
                one["not_applicable"], one["missed"], one["invented"],
            ]
        )  # fmt: skip
    macro = results[PRETRAINED]["macro"]
    rows.append(
        [
            "mean over classes", with_interval(macro["dice"]), with_interval(macro["hd95"], digits=1),
            with_interval(macro["nsd"]), *[""] * 7,
        ]
    )  # fmt: skip
    few = names[:MOST_CLASSES]
    measures = {ARM_NAMES[arm]: run.measures[arm].dice[:, : len(few)] for arm in run.arms}
    volumes = (
        run.measures[PRETRAINED].true_ml[:, : len(few)],
        run.measures[PRETRAINED].predicted_ml[:, : len(few)],
    )
    shown = [
        (figures.class_dice(measures, few), "Dice of each class", "A dot a volume, a bar the mean.", "dice"),
        (
            figures.volume_agreement(*volumes, few),
            "Predicted against true volume",
            "Bland and Altman: mean difference, and 1.96 deviations around it.",
            "volumes",
        ),
    ]
    return Section(
        title="Results",
        text=f"Out of fold, on each file's own grid; intervals resample patients. {results['rules']}",
        table=(columns, rows),
        figures=kept(run, shown),
        note="n/a: the class is neither in the mask nor drawn. missed: in the mask only. invented: drawn only.",
    )


def _baseline(run: Segmenting, results: dict[str, Any]) -> list[Section]:
    if "difference" not in results:
        return []
    arms = [(ARM_NAMES[a], *(results[a]["headline"][k] for k in ("value", "low", "high"))) for a in run.arms]
    shown = [
        (
            compare_arms(arms, xlabel="Mean Dice, 95 % interval by patient"),
            "Arms compared",
            "The same folds, patches and steps.",
            "arms",
        )
    ]
    rows = []
    for name in (*run.measured, None):
        row: list[Any] = [name or "mean over classes"]
        for metric, digits in (("dice", 3), ("hd95", 1), ("nsd", 3)):
            part = results["difference"][metric]
            one = part["macro"] if name is None else part["targets"][name]
            row += [
                number(one["b"], digits=digits),
                with_interval(one["difference"], sign=True, digits=digits),
            ]
        rows.append(row)
    columns = [
        "Class",
        "Dice, random init.",
        "difference",
        "HD95 (mm), random init.",
        "difference",
        "NSD, random init.",
        "difference",
    ]
    sections = [
        Section(
            title="Baseline",
            text=(
                "Random initialisation is the same network with freshly drawn weights, trained by the same recipe on the same "
                f"folds and the same patches, for the same steps or by the same rule. {results['difference']['verdict']} HD95 is "
                "better where it is smaller."
            ),
            table=(columns, rows),
            figures=kept(run, shown),
        )
    ]
    return sections + _marks(run, results)


def _marks(run: Segmenting, results: dict[str, Any]) -> list[Section]:
    if "marks" not in results:
        return []
    rows = [
        [
            m["step"],
            *(with_interval(m[a]) for a in run.arms),
            *([with_interval(m["difference"], sign=True)] if "difference" in m else []),
        ]
        for m in results["marks"]
    ]
    steps = [m["step"] for m in results["marks"]]
    curves = {
        ARM_NAMES[a]: (steps, np.array([[np.nan if m[a][k] is None else m[a][k] for k in ("value", "low", "high")] for m in results["marks"]]))
        for a in run.arms
    }  # fmt: skip
    shown = [
        (
            figures.dice_curve(curves),
            "Dice after so many steps",
            "Bands: intervals of each arm by itself.",
            "steps",
        )
    ]
    columns = [
        "Steps",
        *(f"Dice, {ARM_NAMES[a]}" for a in run.arms),
        *(["paired difference"] if RANDOM in run.arms else []),
    ]
    return [
        Section(
            title="Step by step",
            text="On the model's grid, the same runs on their way: both arms see the same patches in the same order.",
            table=(columns, rows),
            figures=kept(run, shown),
            level=3,
        )
    ]


def _pictures(run: Segmenting) -> list[Section]:
    if not run.config.finetune.worst:
        return []
    dice = run.measures[PRETRAINED].dice
    mean = np.array([np.nanmean(row) if np.isfinite(row).any() else np.nan for row in dice])
    order = [int(r) for r in np.argsort(-mean, kind="stable") if np.isfinite(mean[r])]
    if not order:
        return []
    chosen = dict.fromkeys([order[0], order[len(order) // 2], order[-1]])
    found, table = load_pictures(run), run.cohort.coded
    words = (
        ["Best", "Middle", "Worst"]
        if len(chosen) == 3
        else ["Best", "Worst"]
        if len(chosen) == 2
        else ["The only one"]
    )
    cases = [
        (f"{word}: row {table['row'].iloc[row]}, Dice {mean[row]:.3f}", *found[row].astype(np.int16), 1.0)
        for word, row in zip(words, chosen)
    ]
    shown = [
        (
            figures.overlays(cases, run.classes.names),
            "Slices with their outlines",
            "The axial slice with most of the truth.",
            "slices",
        )
    ]
    text = "By mean Dice over classes. Rows are those of the table, whose header is row 1."
    return [Section(title="Best, middle and worst", text=text, figures=kept(run, shown))]


def _folds(run: Segmenting, results: dict[str, Any]) -> Section:
    other = results.get(RANDOM, {}).get("folds", [])
    rows = []
    for i, fold in enumerate(results[PRETRAINED]["folds"]):
        row = [fold["fold"], fold["records"], fold["patients"], fold["steps"], number(fold["dice"])]
        rows.append(row + ([other[i]["steps"], number(other[i]["dice"])] if other else []))
    columns = [
        "Fold",
        "Volumes",
        "Patients",
        "Steps",
        "Dice",
        *(["Steps, random init.", "Dice, random init."] if other else []),
    ]
    return Section(title="Fold by fold", table=(columns, rows))


def _strategy(run: Segmenting, results: dict[str, Any]) -> Section:
    settings, fits = run.config.finetune, run.fits[PRETRAINED]
    own = ("steps", "batch_size", "foreground", "supervise", "dice_background", "head_share", "augment")
    hidden = ("name", "pool", "strengths")
    rows: list[list[Any]] = [[n.replace("_", " "), str(getattr(settings, n))] for n in own]
    rows += [
        [k.replace("_", " "), str(v)] for k, v in settings.strategy.model_dump().items() if k not in hidden
    ]
    rows.append(["trained parameters", f"{fits[0]['trained_parameters']:,} of {fits[0]['parameters']:,}"])
    rows.append(["time", ", ".join(f"{ARM_NAMES[a]} {duration(s)}" for a, s in results["seconds"].items())])
    rows.append(
        ["drawing a volume", duration(sum(f["seconds_drawing"] for f in fits) / max(len(run.cohort.y), 1))]
    )
    text = (
        f"**{settings.strategy.name}**. {STRATEGY_WORDS.get(settings.strategy.name, '')} The loss is cross-entropy and Dice; "
        f"{settings.foreground:.0%} of the patches are centred on a voxel of a class, all classes equally likely. "
        "Augmentations that exchange sides (flip, mirror, rot90) are refused unless finetune.label_kinds says that no class "
        "has a side."
    )
    return Section(title="How it was trained", text=text, table=(["", ""], rows))


def _notes(results: dict[str, Any]) -> list[str]:
    notes = list(results["notes"])
    rare = [n for n, one in results[PRETRAINED]["targets"].items() if one["applicable"] < 10]
    if rare:
        notes.append(
            f"Fewer than 10 volumes: {', '.join(rare)}. Such a figure can move a lot with the next patient."
        )
    return notes


def _use(run: Segmenting, published: str, command: str) -> Section:
    where = f" It stands in the local hub as `{published}`." if published else ""
    text = (
        "The model in `bundle/` was trained once more by the same recipe on all volumes; the figures above are those of the "
        "recipe, and the model itself is untested until other patients' volumes meet it."
        f"{where} It takes NIfTI, NRRD, MetaImage, a folder or zip of DICOM, and gives masks on the grid of what it was given."
    )
    again = f"medfm finetune --config {run.folder.path.name}/config.yaml"
    return Section(
        title="How to use it",
        text=text,
        code=f"{command}\n{again}",
        code_title="Draw masks, or run this again",
    )


def kept(run: Segmenting, shown: list[tuple[Figure, str, str, str]]) -> list[tuple[Figure, str, str]]:
    """Also as files, for a slide."""
    for figure, _, _, name in shown:
        figure.savefig(run.folder.path / "figures" / f"{name}.png", dpi=110)
    return [(figure, alt, caption) for figure, alt, caption, _ in shown]


def number(value: float | None, sign: bool = False, digits: int = 3) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def interval(estimate: dict[str, Any], sign: bool = False) -> str:
    if estimate["low"] is None:
        return ""
    return f"95 % interval {number(estimate['low'], sign)} to {number(estimate['high'], sign)}"


def with_interval(estimate: dict[str, Any], sign: bool = False, digits: int = 3) -> str:
    value, low, high = (number(estimate[k], sign, digits) for k in ("value", "low", "high"))
    return value if estimate["low"] is None else f"{value} ({low} to {high})"
