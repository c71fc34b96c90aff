"""Masks drawn from fewer sequences: one network under every pattern, beside one trained for each. P patterns, n records, R
regions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from medfm.evaluation.report import Section
from medfm.evaluation.segmentation import compare
from medfm.finetuning.segmentation import SegmentationModel
from medfm.finetuning.segmentation_fit import DenseProblem, fit_dense, predict_dense
from medfm.workflows.finetune_patterns import ALONE, ONE, patterns, presence
from medfm.workflows.patterns import KeptVolumes, keeps, shown, with_all
from medfm.workflows.segment_run import Segmenting


def pattern_arrays(
    run: Segmenting, problem: DenseProblem, model: SegmentationModel, train: np.ndarray, test: np.ndarray, seed: int, dice: Any
) -> dict[str, np.ndarray]:  # fmt: skip
    """Dice ``[P, n test, R]`` on the model's grid under each pattern, NaN for records that lack one of its sequences: of
    ``model``, and with ``finetune.pattern_models`` of networks trained for it alone. dice: problem, found, row -> ``[R]``."""
    tried = patterns(run)
    if not tried:
        return {}
    present = presence(run)
    out = {ONE: np.full((len(tried), len(test), len(run.measured)), np.nan)}
    if run.config.finetune.pattern_models:
        out[ALONE] = out[ONE].copy()
    for i, pattern in enumerate(tried):
        keep = keeps(pattern, run.modality)
        fewer = replace(problem, volumes=KeptVolumes(run.records, keep))
        having = with_all(present, keep)
        networks = {ONE: model}
        rows = train[having[train]]
        if ALONE in out and len(rows) and having[test].any():
            networks[ALONE] = fit_dense(fewer, rows, seed).model
            run.log.info("a model for %s alone is trained", shown(pattern))
        for name, network in networks.items():
            for at in np.flatnonzero(having[test]):
                row = int(test[at])
                out[name][i, at] = dice(run, fewer, predict_dense(fewer, network, row), row)
    return out


def pattern_results(run: Segmenting, boot: tuple[int, int]) -> list[dict[str, Any]]:
    """A line a pattern: volumes, Dice with its interval, that of the model of this pattern alone, and their paired difference
    (this model less that one)."""
    lines = []
    patients, names = run.cohort.patients, run.measured
    for i, pattern in enumerate(patterns(run)):
        one = run.patterned[ONE][i]
        rows = np.flatnonzero(np.isfinite(one).any(1))
        line: dict[str, Any] = {"pattern": list(pattern), "volumes": len(rows)}
        if len(rows):
            nothing = np.zeros_like(one[rows])
            line["dice"] = compare(one[rows], nothing, patients[rows], names, *boot)["macro"]["difference"]
            if ALONE in run.patterned:
                alone = run.patterned[ALONE][i][rows]
                line["alone"] = compare(alone, nothing, patients[rows], names, *boot)["macro"]["difference"]
                line["difference"] = compare(one[rows], alone, patients[rows], names, *boot)["macro"][
                    "difference"
                ]
        lines.append(line)
    return lines


def pattern_section(lines: list[dict[str, Any]], number: Any) -> list[Section]:
    """The table of a report; none where there is nothing to tell. number: an estimate -> text."""
    lines = [line for line in lines if line["volumes"]]
    if not lines:
        return []
    alone = any("alone" in line for line in lines)
    rows = [
        [shown(tuple(line["pattern"])), line["volumes"], number(line["dice"])]
        + ([number(line["alone"]), number(line["difference"], sign=True)] if alone else [])
        for line in lines
    ]
    columns = ["Sequences read", "Volumes", "Dice, this model"]
    columns += ["Dice, a model of these alone", "difference"] if alone else []
    return [
        Section(
            title="With fewer sequences",
            text=(
                "The same out-of-fold networks, on test patients of whom only these sequences were read, as if the others had not "
                "been acquired; mean Dice on the model's grid, of the volumes that have all of them."
            ),
            table=(columns, rows),
        )
    ]
