"""Cross-validation of one arm with masks, fold by fold: trained, drawn on the files' own grids, measured.

A finished fold is one file in ``checkpoints/``, and is not run again. K classes, n records.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medfm.evaluation.segmentation import Measures, confusion, dice_of, measure, measure_regions
from medfm.finetuning.segmentation import SegmentationModel
from medfm.finetuning.segmentation_fit import DenseFit, DenseProblem, fit_dense, predict_dense
from medfm.finetuning.tiles import KEPT, Segmented, back_labels
from medfm.formats.volume import read_volume
from medfm.formats.volume_write import write_nifti
from medfm.paths import written_whole
from medfm.types import MedfmError
from medfm.workflows.finetune_folds import count_parameters
from medfm.workflows.finetune_run import PRETRAINED, Fold
from medfm.workflows.progress import duration
from medfm.workflows.progress import progress as progress_bar
from medfm.workflows.segment_patterns import ALONE, ONE, pattern_arrays, patterns
from medfm.workflows.segment_run import Segmenting, mask_problem
from medfm.workflows.segment_volumes import spacing_of

FIELDS = tuple(Measures.__dataclass_fields__)


def cross_validate(run: Segmenting, arm: str) -> None:
    """Fill ``run.measures[arm]``, ``run.marks[arm]`` and ``run.fits[arm]``, skipping finished folds."""
    began = time.monotonic()
    waiting = [f for f in run.folds if not _path(run, arm, f).is_file()]
    if len(waiting) < len(run.folds):
        run.log.info(
            "%s: %d of %d folds are done already", arm, len(run.folds) - len(waiting), len(run.folds)
        )
    if waiting:
        problem = mask_problem(run, arm)
        total = len(waiting) * problem.steps
        with progress_bar(run.show, f"fine-tuning ({arm})", total, "steps") as bar:
            for i, fold in enumerate(waiting):
                _run_fold(run, problem, arm, fold, ticking(run, problem, i, bar))
    n, classes = len(run.cohort.y), len(run.measured)
    whole = {name: np.full((n, classes), np.nan) for name in FIELDS}
    run.marks[arm] = np.full((len(run.mark_steps), n, classes), np.nan)
    fewer = {name: np.full((len(patterns(run)), n, classes), np.nan) for name in (ONE, ALONE)}
    run.fits[arm] = []
    for fold in run.folds:
        with np.load(_path(run, arm, fold), allow_pickle=False) as saved:
            rows = saved["rows"]
            for name in FIELDS:
                whole[name][rows] = saved[name]
            run.marks[arm][:, rows] = saved["marks"]
            for name in (n for n in fewer if n in saved.files):
                fewer[name][:, rows] = saved[name]
                run.patterned[name] = fewer[name]
            run.fits[arm].append(json.loads(str(saved["facts"])))
    run.measures[arm] = Measures(**whole)
    _write_metrics(run)
    run.seconds[arm] = time.monotonic() - began


def ticking(
    run: Segmenting, problem: DenseProblem, index: int, bar: Any
) -> Callable[[str, int, float], None]:
    """Steps of fold ``index`` on the bar; where the number of steps is chosen, each stage counts for half."""

    def tick(stage: str, step: int, loss: float) -> None:
        done = step / 2 if stage.startswith("selecting") else step
        bar.update(round(index * problem.steps + done), loss=loss)

    return tick


def train_fold(run: Segmenting, problem: DenseProblem, rows: np.ndarray, seed: int, **how: Any) -> DenseFit:
    """Train on ``rows``; where there are enough patients, for the number of steps that is best on the first inner fold."""
    held = run.inner(rows, seed)[0] if run.selects(rows) else None

    def validate(model: SegmentationModel, some: np.ndarray) -> float:
        each = [model_dice(run, problem, predict_dense(problem, model, int(r)), int(r)) for r in some]
        known = np.concatenate(each)
        return float(np.nanmean(known)) if np.isfinite(known).any() else 0.0

    return fit_dense(problem, rows, seed, held=held, validate=validate, **how)


def model_dice(run: Segmenting, problem: DenseProblem, found: Segmented, row: int) -> np.ndarray:
    """Dice of what is measured on the model's grid, over voxels whose truth is known."""
    truth = problem.volumes.labels(row)
    known = truth >= 0
    flat = truth[known][None], found.labels[known].astype(np.int16)[None]
    if not known.any():
        return np.full(len(run.measured), np.nan)
    return dice_of(confusion(*flat, problem.classes), run.members)


def _run_fold(run: Segmenting, problem: DenseProblem, arm: str, fold: Fold, tick: Any) -> None:
    began = time.monotonic()
    train = np.setdiff1d(np.arange(len(run.cohort.y)), fold.test)
    steps, marks = run.mark_steps, []

    def at_mark(step: int, model: SegmentationModel) -> None:
        marks.append(
            [model_dice(run, problem, predict_dense(problem, model, int(r)), int(r)) for r in fold.test]
        )

    seed = fold.seed(run.config.seed)
    result = train_fold(run, problem, train, seed, marks=steps, at_mark=at_mark, tick=tick)
    trained = time.monotonic()
    measured: list[Measures] = []
    kept: dict[str, np.ndarray] = {}
    lost: set[int] = set()
    for position, row in enumerate(fold.test.tolist()):
        found = predict_dense(problem, result.model, row, keep=KEPT)
        measures, unseen = _measure(run, arm, row, found)
        measured.append(measures)
        lost |= set(unseen)
        if arm == PRETRAINED and run.config.finetune.worst:
            kept[f"picture{row}"] = picture(run, row, found)
        run.log.info("%s, fold %s: %d of %d test volumes drawn", arm, fold.name, position + 1, len(fold.test))
    if arm == PRETRAINED:
        kept |= pattern_arrays(run, problem, result.model, train, fold.test, seed, model_dice)
    facts: dict[str, Any] = {
        "repeat": 1,
        "fold": fold.name,
        "steps": result.steps,
        "history": result.history,
        "seconds": round(trained - began, 3),
        "lost_values": sorted(lost),
        "seconds_drawing": round(time.monotonic() - trained, 3),
        **count_parameters(result),  # type: ignore[arg-type]
    }
    whole = Measures.stack(measured)
    shape = (len(steps), len(fold.test), len(run.measured))
    with written_whole(_path(run, arm, fold)) as part:
        np.savez_compressed(
            part,
            rows=fold.test,
            marks=np.array(marks, float).reshape(shape),
            facts=np.array(json.dumps(facts)),
            **{name: getattr(whole, name) for name in FIELDS},
            **kept,  # type: ignore[arg-type]
        )
    mean = float(np.nanmean(whole.dice)) if np.isfinite(whole.dice).any() else float("nan")
    run.log.info(
        "%s, fold %s: mean Dice %.3f after %d steps, %s",
        arm, fold.name, mean, result.steps, duration(facts["seconds"] + facts["seconds_drawing"]),
    )  # fmt: skip


def _measure(run: Segmenting, arm: str, row: int, found: Segmented) -> tuple[Measures, list[int]]:
    """On the grid of the file, where the mask that was drawn is written too if that is asked for; and values that no mask
    has on the model's grid (too small for it), which count as background."""
    path, mask = str(run.cohort.frame["path"].iloc[row]), run.masks[row]
    placement = run.modality.place(run.modality.open(path))
    if placement.sample.x.shape[1:] != found.labels.shape:
        raise MedfmError(f"{path} has changed since it was read; start anew with --overwrite.")
    classes = len(run.classes.names)
    drawn = back_labels(found, placement.back, classes)
    values = read_volume(mask, label=True).x
    truth = run.classes.of(values)
    unseen = truth < 0
    truth[unseen] = 0
    if arm == PRETRAINED and run.config.finetune.masks:
        folder = run.folder.path / "masks"
        folder.mkdir(exist_ok=True)
        name = f"{run.cohort.coded['record'].iloc[row]}.nii.gz"
        write_nifti(folder / name, run.classes.back(drawn), placement.file_affine)
    spacing = spacing_of(placement.file_affine)
    lost = np.unique(values[unseen]).tolist()
    if run.config.finetune.regions:
        return measure_regions(truth, drawn, spacing, run.members, run.tolerances), lost
    return measure(truth, drawn, spacing, classes, run.tolerances), lost


def picture(run: Segmenting, row: int, found: Segmented) -> np.ndarray:
    """The axial slice with most of the truth (or of what was drawn): input 0 to 255, truth and prediction, uint8
    ``[3, H, W]``, square pixels."""
    from medfm.modalities.volume_views import plane, square

    truth = np.maximum(run.records.labels(row), 0)
    grey = run.records.picture(row)
    low, high = float(grey.min()), float(grey.max())
    shown = (255 * (grey - low) / max(high - low, 1e-6)).astype(np.uint8)
    stack = np.stack([shown, truth.astype(np.uint8), found.labels])
    axis = next(a for a, code in enumerate(run.modality.orientation) if code in "SI")
    area = (
        (truth if truth.any() else found.labels > 0).astype(bool).sum(tuple(a for a in range(3) if a != axis))
    )
    index = int(area.argmax()) if area.any() else truth.shape[axis] // 2
    part = np.take(stack, [index], axis=axis + 1)
    return square(*plane(part, run.modality.orientation, run.modality.spacing, "axial", 0.0))


def load_pictures(run: Segmenting) -> dict[int, np.ndarray]:
    """Of the pretrained arm, by row."""
    found: dict[int, np.ndarray] = {}
    for fold in run.folds:
        with np.load(_path(run, PRETRAINED, fold), allow_pickle=False) as saved:
            found |= {
                int(n.removeprefix("picture")): saved[n] for n in saved.files if n.startswith("picture")
            }
    return found


def _path(run: Segmenting, arm: str, fold: Fold) -> Path:
    return run.folder.path / "checkpoints" / f"{arm}-{fold.repeat + 1}-{fold.number + 1}.npz"


def _write_metrics(run: Segmenting) -> None:
    """``metrics.csv``: one row a step at which a fold was validated on inner patients; and Dice at the marks."""
    with (run.folder.path / "metrics.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["arm", "fold", "step", "train_loss", "inner_dice"])
        for arm, fits in run.fits.items():
            for facts in fits:
                for row in facts["history"]:
                    numbers = [f"{row[k]:.6g}" for k in ("train", "validation")]
                    writer.writerow([arm, facts["fold"], int(row["step"]), *numbers])
