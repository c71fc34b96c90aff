"""The model that a fine-tuning run hands on: trained once more on every record, with its card.

Cross-validation says what the recipe reaches on patients it has not seen; the deployed model is that recipe
on all of them. It is itself never tested by this run, and its card says so.
"""

from __future__ import annotations

import datetime
import time
from typing import Any

import numpy as np

from medfm import paths
from medfm.data.codes import site_codes
from medfm.finetuning.fit import Fit, fit
from medfm.hub.bundle import Bundle, save_bundle
from medfm.hub.card import Card, Dataset, Parent, Result, spoken
from medfm.hub.folder import FolderStore
from medfm.hub.resolve import public_ref
from medfm.workflows.finetune_answers import ANSWERS
from medfm.workflows.finetune_folds import fold_progress
from medfm.workflows.finetune_run import PRETRAINED, FineTuning, backbone_of, make_problem, step_settings
from medfm.workflows.run_folder import CITATIONS
from medfm.workflows.sources import names_of

DEPLOYED_SEED = 9_999  # the fold number of "all records", far from any real one


def deploy(run: FineTuning, results: dict[str, Any]) -> Bundle:
    """Train on all records and write ``bundle/`` (adapters merged, and kept beside in peft's format)."""
    began = time.monotonic()
    problem = make_problem(run, backbone_of(run, PRETRAINED), "all records")
    rows = np.arange(len(run.cohort.y))
    seed = run.config.seed * 10_000 + DEPLOYED_SEED
    with fold_progress(run, "fine-tuning (all records)", 1) as ticks:
        result = fit(problem, rows, run.inner(rows, seed), seed, next(ticks))
        next(ticks, None)
    result.model.to("cpu")
    adapter = result.strategy.adapter(result.model)
    result.strategy.merge(result.model)
    results["deployed"] = {
        "trained_on": "all records, with the recipe of the folds; not tested by this run",
        "records": len(rows),
        "epochs": result.epochs,
        "strengths": list(result.strengths),
        "seconds": round(time.monotonic() - began, 1),
    }
    base = (_backbone(run), run.bundle.weights_sha256)
    return save_bundle(
        run.folder.path / "bundle",
        result.model.backbone,
        run.modality.settings(),
        make_card(run, results, result),
        _sections(run, result),
        head=_head(run, result),
        head_state=result.model.head.state_dict(),
        dtype=run.config.output.dtype,
        adapter=adapter,
        adapter_backbone=None if adapter is None else base,
        overwrite=True,
    )


def publish(run: FineTuning, bundle: Bundle) -> str:
    """``id@revision`` in the local hub, or nothing when ``output.publish`` is off."""
    if not run.config.output.publish:
        return ""
    revision = FolderStore(paths.hub()).publish(bundle.path, bundle.card.id)
    run.log.info("published %s@%d in the local hub", bundle.card.id, revision.number)
    return f"{bundle.card.id}@{revision.number}"


def _head(run: FineTuning, result: Fit) -> dict[str, Any]:
    return {
        "task": result.task.to_dict() | result.task.parameters,
        "targets": list(run.cohort.task.columns),
        "classes": list(run.cohort.task.classes),
        "linear": result.model.head.config(),
        "window": run.records.window,
    }


def _sections(run: FineTuning, result: Fit) -> dict[str, Any]:
    settings = run.config.finetune
    return {
        "method": settings.strategy.model_dump(mode="json"),
        "training": {
            "backbone": _backbone(run),
            "backbone_sha256": run.bundle.weights_sha256,
            "data_digest": site_codes().digest(run.cohort.digest),
            "patients_known": run.cohort.patients_known,
            "epochs": result.epochs,
            "batch_size": settings.batch_size,
            **step_settings(run.config),
            "seed": run.config.seed,
        },
    }


def _backbone(run: FineTuning) -> str:
    return public_ref(str(run.config.finetune.backbone), run.bundle.card.id)


def card_id(run: FineTuning) -> str:
    """``--name``, or the backbone's id with the targets; never ``-sim``, which is kept for simulated data
    only."""
    if run.config.name:
        return run.config.name
    targets = "-".join(run.cohort.task.columns[:3]).lower()
    plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in targets)
    name = f"{run.bundle.card.id.removesuffix('-sim')}-{plain}"[:90].rstrip("-._")
    return name.removesuffix("-sim")


def make_card(run: FineTuning, results: dict[str, Any], result: Fit) -> Card:
    cohort, parent = run.cohort, run.bundle.card
    patients = len(set(cohort.patients.tolist()))
    digest = site_codes().digest(cohort.digest)
    (table,) = names_of([cohort.source], run.modality)
    strategy = run.config.finetune.strategy.name
    simulated = " The backbone was pretrained on simulated data only." if parent.simulated_only else ""
    unknown = "" if cohort.patients_known else " Patients were not known: every figure here may be too good."
    return Card(
        id=card_id(run),
        summary=(
            f"Predicts {', '.join(cohort.task.classes[:8])} ({cohort.task.kind}) from "
            f"{spoken(parent.modality)} records; "
            f"{parent.id} fine-tuned ({strategy}) on {len(cohort.y):,} records of {patients:,} patients "
            "of one "
            f"table.{simulated}{unknown}"
        ),
        modality=parent.modality,
        architecture=parent.architecture,
        parameters=sum(p.numel() for p in result.model.parameters()),
        method=strategy,
        task=cohort.task.kind,
        targets=list(cohort.task.classes),
        license="other",
        datasets=[Dataset(name=table, records=len(cohort.y), patients=patients, digest=digest)],
        intended_use=(
            "Research: to be validated on patients of the site where it would be used, with medfm "
            "evaluate, before "
            "anything else."
        ),
        data=_data_words(run, patients),
        preprocessing=parent.preprocessing,
        results=_card_results(run, results, patients, table),
        limitations=(
            "The figures are out-of-fold estimates of the recipe on this table's own patients. The "
            "weights here were "
            "trained on all of them and tested on none; another site, device or prevalence was not seen."
        ),
        citations=[k for k in ("medfm", strategy) if k in CITATIONS],
        created=datetime.date.today().isoformat(),
        parents=[Parent(ref=parent.id, checkpoint=run.bundle.weights_sha256, data=digest)],
    )


def _data_words(run: FineTuning, patients: int) -> str:
    cohort = run.cohort
    aside = len(cohort.set_aside)
    used = f"{cohort.rows_in_table:,} rows, {len(cohort.y):,} used, {patients:,} patients."
    parts = [f"One table of a site: {used}"]
    own = ANSWERS.get(cohort.task.kind)
    parts += own.data_words(run) if own else []
    for k, name in enumerate(() if own else cohort.task.classes):
        column = cohort.y[:, k]
        parts.append(
            f"{name}: {int(np.nansum(column)):,} positive, {int((column == 0).sum()):,} negative, "
            f"{int(np.isnan(column).sum()):,} unknown."
        )
    return " ".join(parts + ([f"{aside} unreadable records were set aside."] if aside else []))


def _card_results(run: FineTuning, results: dict[str, Any], patients: int, table: str) -> list[Result]:
    shared: dict[str, Any] = {
        "dataset": table,
        "target": ",".join(run.cohort.task.columns),
        "strategy": run.config.finetune.strategy.name,
        "patients": patients,
        "command": "medfm finetune --config RUN/config.yaml",
    }
    if own := ANSWERS.get(run.cohort.task.kind):
        return own.card_results(run, results, shared)  # type: ignore[no-any-return]
    headline = results[PRETRAINED]["headline"]
    if headline["value"] is None:
        return []
    difference = (results.get("difference") or {}).get("auroc")
    bounds: tuple[float, float] | None = None
    if difference and difference["difference"]["low"] is not None:
        bounds = difference["difference"]["low"], difference["difference"]["high"]
    return [
        Result(
            metric="macro-AUROC" if run.cohort.task.outputs > 1 else "AUROC",
            value=headline["value"],
            ci=None if headline["low"] is None else (headline["low"], headline["high"]),
            baseline=difference["b"] if difference else None,
            difference_ci=bounds,
            **shared,
        )
    ]
