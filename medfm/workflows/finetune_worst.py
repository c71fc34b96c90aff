"""The worst out-of-fold errors of a fine-tuning run: which they are, their heat maps, and their section of the report.

A fold's model is gone when its fold is done, so its heat maps are made before, for the few records that may be shown, and
kept in the fold's file. The records themselves are read from the store again when the report is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medfm.evaluation.report import Section
from medfm.finetuning.heads import FinetuneModel
from medfm.finetuning.heat import Heat, heat_map
from medfm.workflows.finetune_run import FineTuning, Fold
from medfm.workflows.kinds import kind_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

Kept = dict[str, np.ndarray]  # what a fold's file holds beside its predictions

HEAT_WORDS = {
    "grad-cam": (
        "The heat map is Grad-CAM at the last feature map, position by position (arXiv 1610.02391, 2011.08891): where the "
        "network saw what raises its output for the target, relative to the strongest place of the same record."
    ),
    "attention": (
        "The heat map is attention rolled out over all blocks (arXiv 2005.00928): which parts of the input enter the features "
        "that the head reads with more than an even share, relative to the strongest place of the same record. It is the same "
        "for every target, and does not say whether a part spoke for or against it."
    ),
}
CAVEAT = (
    "**A heat map shows where the network looks, not why.** It is coarse, and no proof that the model is right or wrong for "
    "a good reason."
)


@dataclass(frozen=True)
class Error:
    """A record ``row`` of the cohort with its true state of one ``output`` (missed: positive) and probability ``p``."""

    row: int
    output: int
    missed: bool
    p: float
    fold: Fold

    @property
    def size(self) -> float:
        return 1 - self.p if self.missed else self.p


@dataclass(frozen=True)
class Residual(Error):
    """A record's predicted value ``p`` far from its ``truth``; missed: predicted too low."""

    truth: float = 0.0

    @property
    def size(self) -> float:
        return abs(self.p - self.truth)


def quotas(shown: int, outputs: int) -> dict[tuple[int, bool], int]:
    """How many of ``shown`` pictures are (output, missed or false alarm): half and half, over the first outputs."""
    share: dict[tuple[int, bool], int] = {}
    for missed, count in ((True, shown - shown // 2), (False, shown // 2)):
        some = min(outputs, count)
        share |= {(k, missed): count // some + (k < count % some) for k in range(some)}
    return share


def worst_of(errors: list[Error], share: dict[tuple[int, bool], int]) -> list[Error]:
    """The largest errors of each kind, missed findings first."""
    ordered = sorted(errors, key=lambda e: (-e.size, e.row))
    return [
        e for kind, most in share.items() for e in [e for e in ordered if (e.output, e.missed) == kind][:most]
    ]


def errors_of(y: np.ndarray, p: np.ndarray, fold: Fold) -> list[Error]:
    """Records of a fold that it ranks wrongly: a positive below some negative, or a negative above some positive.

    y, p ``[m, K]`` of the fold's test rows. Ranks and not a threshold, since the model of a rare finding is right to put
    every record below a half. A target of one class has no rank.
    """
    found = []
    for k in range(y.shape[1]):
        positive, negative = y[:, k] == 1, y[:, k] == 0
        if not (positive.any() and negative.any()):
            continue
        wrong = positive & (p[:, k] < p[negative, k].max()) | negative & (p[:, k] > p[positive, k].min())
        found += [
            Error(int(fold.test[i]), k, bool(positive[i]), float(p[i, k]), fold)
            for i in np.flatnonzero(wrong)
        ]
    return found


def residuals_of(y: np.ndarray, p: np.ndarray, fold: Fold) -> list[Error]:
    """Every record of a fold with the distance of prediction and truth, y and p ``[m, 1]`` in the target's unit."""
    return [
        Residual(int(row), 0, bool(p[i, 0] < y[i, 0]), float(p[i, 0]), fold, float(y[i, 0]))
        for i, row in enumerate(fold.test)
    ]


def candidates(run: FineTuning, fold: Fold, p: np.ndarray) -> list[Error]:
    """The errors of a fold that the report may show, of predictions ``p [m, P]``. Of repeated folds it shows the first
    repeat. Of survival none: whom a model ranked wrongly depends on all the others."""
    task, shown = run.cohort.task, run.config.finetune.worst
    if fold.repeat or not shown or task.kind == "survival":
        return []
    if task.kind == "regression":
        return largest(residuals_of(run.cohort.y[fold.test], p, fold), shown)
    errors = errors_of(run.cohort.y[fold.test], p, fold)
    return worst_of(errors, quotas(shown, task.outputs))


def largest(errors: list[Error], shown: int) -> list[Error]:
    return sorted(errors, key=lambda e: (-e.size, e.row))[:shown]


def keep_heat(run: FineTuning, model: FinetuneModel, fold: Fold, p: np.ndarray) -> Kept:
    """Heat maps of a fold's worst errors by the ``model`` that made them; nothing when they cannot be made, nor for
    volumes, which a network sees tile by tile: one tile's map would say nothing of the others."""
    if run.modality.rank == 3:
        return {}
    try:
        errors = candidates(run, fold, p)
        maps = [heat_map(model, *_first_window(run, e.row), e.output) for e in errors]
    except Exception as error:  # whatever it is, the fold itself was trained and must be kept
        run.log.warning("no heat maps for fold %s: %s", fold.name, _said(error))
        return {}
    if not maps:
        return {}
    return {
        "heat": np.stack([m.values for m in maps]),
        "heat_of": np.array([(e.row, e.output) for e in errors]),
        "heat_cell": np.array(maps[0].cell),
        "heat_name": np.array(maps[0].name),
    }


def _first_window(run: FineTuning, row: int) -> tuple[Tensor, Tensor]:
    rows = np.array([row])
    x, present = run.records.read(rows, run.records.plan(rows)[1][:1])
    return x.to(run.device), present.to(run.device)


def sections(run: FineTuning, arm: str, kept: Callable[[Fold], Kept]) -> list[Section]:
    """The report's section, or none: when it is switched off, or cannot be drawn (the log says why).

    kept: what the file of a fold holds.
    """
    if not run.config.finetune.worst or run.cohort.task.kind == "survival":
        return []
    try:
        return [_section(run, arm, kept)]
    except Exception as error:  # a picture must not cost the report of hours of training
        run.log.warning("the worst errors could not be drawn: %s", _said(error))
        return []


def _section(run: FineTuning, arm: str, kept: Callable[[Fold], Kept]) -> Section:
    folds = [f for f in run.folds if not f.repeat]
    errors = [e for f in folds for e in candidates(run, f, run.predicted[arm][0, f.test])]
    shown, value = run.config.finetune.worst, run.cohort.task.kind == "regression"
    errors = largest(errors, shown) if value else worst_of(errors, quotas(shown, run.cohort.task.outputs))
    title = "Worst errors"
    if not errors:
        return Section(title=title, text="Within every fold, all positives were ranked above all negatives.")
    figures, names = [], set()
    files = {e.fold.number: kept(e.fold) for e in errors}
    for e in errors:
        heat = _heat(files[e.fold.number], e)
        names |= {heat.name} if heat else set()
        figures.append(_picture(run, e, heat))
    text = (
        (
            "Records whose predicted value lies farthest from the true one"
            if value
            else "Positive records with the lowest probability and negative records with the highest, of those that their "
            "fold ranks wrongly"
        )
        + "; each was predicted by a model that saw no record of its patient. Look whether the record or its label may be "
        f"at fault before you blame the model. Rows are those of {Path(run.cohort.source).name}, whose header is row 1."
    )
    if run.repeats > 1:
        text += " Of the repeated folds, the first repeat is shown."
    words = [HEAT_WORDS[n] for n in sorted(names)]
    if words:
        text += "\n\n" + " ".join([*words, CAVEAT])
    return Section(title=title, text=text, table=_rows(run, errors), figures=figures)


def _heat(kept: Kept, error: Error) -> Heat | None:
    if "heat" not in kept:
        return None
    found = np.flatnonzero((kept["heat_of"] == (error.row, error.output)).all(1))
    if not len(found):
        return None
    return Heat(kept["heat"][found[0]], tuple(kept["heat_cell"].tolist()), kept["heat_name"].item())


def _picture(run: FineTuning, error: Error, heat: Heat | None) -> tuple[Figure, str, str]:
    volume = run.modality.rank == 3
    x = run.records.whole(error.row) if volume else run.records.physical(np.array([error.row]))[0][0]
    shade, cell = (heat.shade, heat.cell) if heat else (None, ())
    figure = kind_of(run.modality).record(run.modality, x, shade, cell)
    row, target = run.cohort.rows[error.row], run.cohort.task.classes[error.output]
    if isinstance(error, Residual):
        kind, p = f"{target} too {'low' if error.missed else 'high'}", f"{error.p:.4g}"
    else:
        kind, p = f"missed {target}" if error.missed else f"false alarm for {target}", f"{error.p:.3f}"
    caption = f"**Row {row}**, {kind}: predicted {p}, truth: {_truth(run, error)}{_strength(heat)}"
    windows = len(run.records.plan(np.array([error.row]))[0])
    if windows > 1 and not volume:
        caption += f"; the first of its {windows} windows"
    alt = f"Record of row {row}" + (f" with its {heat.name} heat map" if heat else "")
    return figure, alt, caption


def _strength(heat: Heat | None) -> str:
    if heat is None:
        return "; no heat map"
    if heat.name == "attention":
        return f"; strongest place: {heat.strongest:.1f} times an even share"
    return "" if heat.strongest else "; nothing raised the output"


def _truth(run: FineTuning, error: Error) -> str:
    """The value of a regression, the class of a multiclass task, else yes or no."""
    if isinstance(error, Residual):
        return f"{error.truth:.4g}"
    if run.cohort.task.kind == "multiclass":
        return run.cohort.task.classes[int(run.cohort.y[error.row].argmax())]
    return "yes" if error.missed else "no"


def _rows(run: FineTuning, errors: list[Error]) -> tuple[list[str], list[list[Any]]]:
    rows = [
        [
            str(run.cohort.rows[e.row]),
            run.cohort.task.classes[e.output],
            ("too low" if e.missed else "too high")
            if isinstance(e, Residual)
            else "missed"
            if e.missed
            else "false alarm",
            _truth(run, e),
            f"{e.p:.4g}" if isinstance(e, Residual) else e.p,
            e.fold.name,
        ]
        for e in errors
    ]
    return ["Row", "Target", "Error", "Truth", "Predicted", "Fold"], rows


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
