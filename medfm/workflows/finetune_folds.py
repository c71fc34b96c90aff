"""Cross-validation of one arm, fold by fold. A finished fold is one file in ``checkpoints/``, and is not run
again."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from medfm.finetuning.fit import Fit, Problem, fit
from medfm.finetuning.question import task_of
from medfm.finetuning.records import predict_logits
from medfm.paths import written_whole
from medfm.workflows.finetune_patterns import collect, pattern_arrays
from medfm.workflows.finetune_run import PRETRAINED, FineTuning, Fold, backbone_of, make_problem
from medfm.workflows.finetune_worst import Kept, keep_heat
from medfm.workflows.progress import Progress, duration
from medfm.workflows.progress import progress as progress_bar


def cross_validate(run: FineTuning, arm: str) -> None:
    """Fill ``run.predicted[arm] [R, n, P]`` and ``run.fits[arm]``, one fold after another, skipping finished
    ones."""
    began = time.monotonic()
    run.fits[arm] = []
    waiting = [f for f in run.folds if not _path(run, arm, f).is_file()]
    if len(waiting) < len(run.folds):
        run.log.info(
            "%s: %d of %d folds are done already", arm, len(run.folds) - len(waiting), len(run.folds)
        )
    if waiting:
        problem = make_problem(run, backbone_of(run, arm), arm)
        others: dict[Any, Any] = {}
        with fold_progress(run, f"fine-tuning ({arm})", len(waiting)) as ticks:
            for fold in waiting:
                _run_fold(run, problem, arm, fold, next(ticks), others)
    for fold in run.folds:
        rows, logits, facts = _load(run, arm, fold)
        p = task_of(run.cohort.task.to_dict() | facts["fitted"]).predictions(logits)
        if arm not in run.predicted:
            run.predicted[arm] = np.full((run.repeats, len(run.cohort.y), p.shape[1]), np.nan)
        run.predicted[arm][fold.repeat, rows] = p
        run.fits[arm].append(facts)
    if arm == PRETRAINED:
        collect(run, [(fold, load_kept(run, arm, fold)) for fold in run.folds])
    _write_metrics(run)
    run.seconds[arm] = time.monotonic() - began


def fold_progress(run: FineTuning, label: str, folds: int) -> Any:
    """A bar over epochs of all folds; yields one tick function a fold."""
    epochs = max(1, 2 * run.strategy().epochs)

    @contextmanager
    def bars() -> Iterator[Iterator[Any]]:
        with progress_bar(run.show, label, folds * epochs, "epochs" if epochs > 1 else "folds") as bar:

            def ticks() -> Iterator[Any]:
                for index in range(folds):
                    yield _tick(bar, index * epochs, epochs)
                    bar.update((index + 1) * epochs)

            yield ticks()

    return bars()


def _tick(bar: Progress, before: int, epochs: int) -> Any:
    def tick(stage: str, epoch: int, loss: float) -> None:
        bar.update(before + epoch + (epochs // 2 if stage == "training" else 0), loss=loss)

    return tick


def _run_fold(
    run: FineTuning, problem: Problem, arm: str, fold: Fold, tick: Any, others: dict[Any, Any]
) -> None:
    began = time.monotonic()
    train = np.setdiff1d(np.arange(len(run.cohort.y)), fold.test)
    seed = fold.seed(run.config.seed)
    result = fit(problem, train, run.inner(train, seed), seed, tick)
    logits = predict_logits(result.model, run.records, fold.test, batch_size=2 * problem.batch_size)
    facts: dict[str, Any] = {
        "repeat": fold.repeat + 1,
        "fold": fold.name,
        "epochs": result.epochs,
        "strengths": list(result.strengths),
        "history": result.history,
        "fitted": result.task.parameters,
        "seconds": round(time.monotonic() - began, 3),
        **count_parameters(result),
    }
    kept: Kept = (
        keep_heat(run, result.model, fold, result.task.predictions(logits)) if arm == PRETRAINED else {}
    )
    if arm == PRETRAINED:
        kept |= pattern_arrays(run, result, fold, train, others)
    with written_whole(_path(run, arm, fold)) as part:
        np.savez(part, rows=fold.test, logits=logits, facts=np.array(json.dumps(facts)), **kept)  # type: ignore[arg-type]
    run.log.info(
        "%s, repeat %d, fold %s: %d epochs, %s",
        arm,
        fold.repeat + 1,
        fold.name,
        result.epochs,
        duration(facts["seconds"]),
    )


def count_parameters(result: Fit) -> dict[str, int]:
    """What the strategy changed, counted in the state it saves, and the size of the whole network."""
    state = result.model.state_dict()
    buffers = {name for name, _ in result.model.named_buffers()}
    changed = [k for k in result.strategy.saved_keys(result.model) if k not in buffers]
    return {
        "trained_parameters": sum(state[k].numel() for k in changed),
        "parameters": sum(p.numel() for p in result.model.parameters()),
    }


def _path(run: FineTuning, arm: str, fold: Fold) -> Path:
    return run.folder.path / "checkpoints" / f"{arm}-{fold.repeat + 1}-{fold.number + 1}.npz"


def _load(run: FineTuning, arm: str, fold: Fold) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    with np.load(_path(run, arm, fold), allow_pickle=False) as saved:
        return saved["rows"], saved["logits"], json.loads(str(saved["facts"]))


def load_kept(run: FineTuning, arm: str, fold: Fold) -> Kept:
    """What a finished fold's file holds beside its predictions."""
    with np.load(_path(run, arm, fold), allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files if name not in ("rows", "logits", "facts")}


def _write_metrics(run: FineTuning) -> None:
    """``metrics.csv``: one row an epoch of every fold's choice of epochs."""
    with (run.folder.path / "metrics.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["arm", "repeat", "fold", "epoch", "train_loss", "validation_loss"])
        for arm, fits in run.fits.items():
            for facts in fits:
                for row in facts["history"]:
                    numbers = [f"{row[k]:.6g}" for k in ("train", "validation")]
                    writer.writerow([arm, facts["repeat"], facts["fold"], int(row["epoch"]), *numbers])
