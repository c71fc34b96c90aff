"""Predictions from fewer sequences: one fine-tuned model under every pattern, beside one trained for each, whatever the task.

P patterns, R repeats, n records.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np

from medfm.evaluation.report import Section
from medfm.finetuning.fit import Fit, fit
from medfm.finetuning.records import predict_logits
from medfm.workflows.finetune_run import PRETRAINED, RANDOM, FineTuning, Fold, backbone_of, make_problem
from medfm.workflows.patterns import (
    KeptRecords,
    Pattern,
    has_sequences,
    keeps,
    patterns_of,
    shown,
    with_all,
)

ONE, ALONE = "patterns", "pattern_models"
LEAST = 10  # records, below which a pattern is not scored


def patterns(run: FineTuning) -> list[Pattern]:
    if not has_sequences(run.modality):
        return []
    return patterns_of(run.modality, run.config.finetune.patterns, presence(run))


def presence(run: FineTuning) -> np.ndarray:
    """bool ``[n, C]``."""
    there: np.ndarray = run.cohort.store.flat.present[:, : len(run.modality.stored)]
    return there


def pattern_arrays(
    run: FineTuning, result: Fit, fold: Fold, train: np.ndarray, problems: dict[Pattern, Any]
) -> dict[str, np.ndarray]:
    """Predictions ``[P, n test, K']`` of the fold's model on test records of which only a pattern's sequences were read, NaN for
    records that lack one; with ``finetune.pattern_models`` those of a model of this pattern alone. problems: of such models,
    by pattern, made once."""
    tried = patterns(run)
    there = presence(run) if tried else np.zeros((0, 0), bool)
    found: dict[str, list[np.ndarray | None]] = {ONE: [], ALONE: []}
    batch, seed = 2 * run.config.finetune.batch_size, fold.seed(run.config.seed)
    for pattern in tried:
        keep = keeps(pattern, run.modality)
        having = with_all(there, keep)
        records = KeptRecords(run.records, keep)
        rows, test = train[having[train]], fold.test[having[fold.test]]
        models = {ONE: result}
        if run.config.finetune.pattern_models and len(test) and len(rows):
            if pattern not in problems:
                fewer = replace(run, records=records, show=False)
                problems[pattern] = make_problem(fewer, backbone_of(run, PRETRAINED), shown(pattern))
            models[ALONE] = fit(problems[pattern], rows, run.inner(rows, seed), seed)
        for name in found:
            if name not in models or not len(test):
                found[name].append(None)
                continue
            model = models[name]
            some = model.task.predictions(predict_logits(model.model, records, test, batch_size=batch))
            whole = np.full((len(fold.test), some.shape[1]), np.nan)
            whole[having[fold.test]] = some
            found[name].append(whole)
    arrays = {}
    for name, each in found.items():
        if sizes := [one.shape for one in each if one is not None]:
            arrays[name] = np.stack([np.full(sizes[0], np.nan) if one is None else one for one in each])
    return arrays


def collect(run: FineTuning, saved: list[tuple[Fold, dict[str, np.ndarray]]]) -> None:
    """``run.patterned[name] [P, R, n, K']`` from what the folds' files hold."""
    for fold, arrays in saved:
        for name in (n for n in (ONE, ALONE) if n in arrays):
            part = arrays[name]
            if name not in run.patterned:
                shape = (len(part), run.repeats, len(run.cohort.y), part.shape[2])
                run.patterned[name] = np.full(shape, np.nan)
            run.patterned[name][:, fold.repeat, fold.test] = part


def pattern_results(run: FineTuning, evaluate: Any) -> list[dict[str, Any]]:
    """A line a pattern: records, the headline of this model, that of the model of this pattern alone, and their difference where the
    task has one. evaluate: a run -> what ``results.json`` has of its arms."""
    lines = []
    for i, pattern in enumerate(patterns(run)):
        scores = run.patterned[ONE][i]
        known = np.isfinite(scores).any(-1)
        line: dict[str, Any] = {"pattern": list(pattern), "records": int(known.any(0).sum())}
        if line["records"] >= LEAST:
            both = ALONE in run.patterned and np.isfinite(run.patterned[ALONE][i]).any()
            part = _Part(run, scores, run.patterned[ALONE][i] if both else None, known)
            measured = evaluate(part)
            line["headline"] = measured[PRETRAINED]["headline"]
            if both:
                line["alone"] = measured[RANDOM]["headline"]
        lines.append(line)
    return lines


class _Part:
    """A run of those records alone that were tested under a pattern, in every repeat the same, with other predictions: the model's,
    and in the place of the baseline those of the model of the pattern."""

    def __init__(self, run: FineTuning, one: np.ndarray, alone: np.ndarray | None, known: np.ndarray) -> None:
        self.__dict__.update(copy.copy(run).__dict__)
        rows, cohort = np.flatnonzero(known.any(0)), run.cohort
        both = {PRETRAINED: one} | ({} if alone is None else {RANDOM: alone})
        self.predicted = {arm: p[:, rows] for arm, p in both.items()}
        self.arms = list(self.predicted)
        self.fold_of = run.fold_of[:, rows]
        self.cohort = replace(
            cohort,
            frame=cohort.frame.iloc[rows].reset_index(drop=True),
            rows=cohort.rows[rows],
            y=cohort.y[rows],
            patients=cohort.patients[rows],
        )


def pattern_section(lines: list[dict[str, Any]], words: Any) -> list[Section]:
    """The table of a report; none where no pattern was scored. words: an estimate with its interval -> text."""
    scored = [line for line in lines if "headline" in line]
    if not scored:
        return []
    alone = any("alone" in line for line in scored)
    rows = [
        [shown(tuple(line["pattern"])), line["records"], words(line["headline"])]
        + ([words(line["alone"]) if "alone" in line else ""] if alone else [])
        for line in scored
    ]
    name = scored[0]["headline"]["name"]
    columns = ["Sequences read", "Records", f"{name}, this model"]
    return [
        Section(
            title="With fewer sequences",
            text=(
                "The same out-of-fold models, on test records of which only these sequences were read, as if the others had not been "
                "acquired; of the records that have all of them. Other rows are of other records where some lack a sequence."
            ),
            table=([*columns, "a model of these alone"] if alone else columns, rows),
        )
    ]
