"""The model that a run with masks hands on: trained once more on every volume, with its card."""

from __future__ import annotations

import datetime
import time
from typing import Any

import numpy as np

from medfm.data.codes import site_codes
from medfm.finetuning.segmentation import DenseHead, SegmentationModel
from medfm.finetuning.segmentation_fit import DenseFit
from medfm.hub.bundle import Bundle, save_bundle
from medfm.hub.card import Card, Dataset, Parent, Result, spoken
from medfm.hub.resolve import public_ref
from medfm.types import MedfmError
from medfm.workflows.finetune_bundle import DEPLOYED_SEED, card_id
from medfm.workflows.finetune_run import PRETRAINED
from medfm.workflows.progress import progress as progress_bar
from medfm.workflows.run_folder import CITATIONS
from medfm.workflows.segment_folds import ticking, train_fold
from medfm.workflows.segment_run import Segmenting, mask_problem
from medfm.workflows.segment_volumes import Classes
from medfm.workflows.sources import names_of

SETTINGS = (
    "steps",
    "batch_size",
    "augment",
    "foreground",
    "supervise",
    "dice_background",
    "head_share",
    "overlap",
)


def deploy(run: Segmenting, results: dict[str, Any]) -> Bundle:
    """Train on all volumes and write ``bundle/`` (adapters merged; kept beside in peft's format where the network was
    pretrained as it is)."""
    began = time.monotonic()
    problem = mask_problem(run, PRETRAINED)
    rows = np.arange(len(run.cohort.y))
    seed = run.config.seed * 10_000 + DEPLOYED_SEED
    with progress_bar(run.show, "fine-tuning (all volumes)", problem.steps, "steps") as bar:
        result = train_fold(run, problem, rows, seed, tick=ticking(run, problem, 0, bar))
    result.model.to("cpu")
    # With a new decoder there is no published network to which the adapter could be added.
    adapter = None if problem.fresh else result.strategy.adapter(result.model)  # type: ignore[arg-type]
    result.strategy.merge(result.model)  # type: ignore[arg-type]
    results["deployed"] = {
        "trained_on": "all volumes, with the recipe of the folds; not tested by this run",
        "records": len(rows),
        "steps": result.steps,
        "seconds": round(time.monotonic() - began, 1),
    }
    base = (_backbone(run), run.bundle.weights_sha256)
    return save_bundle(
        run.folder.path / "bundle",
        result.model.backbone,
        run.modality.settings(),
        make_card(run, results, result),
        _sections(run, result),
        head={
            "task": run.cohort.task.to_dict(),
            "targets": list(run.cohort.task.columns),
            "classes": list(run.classes.names),
            "values": list(run.classes.values),
            "dense": result.model.head.config(),
            "patch": list(run.patch),
            "overlap": run.config.finetune.overlap,
        },
        head_state=result.model.head.state_dict(),
        dtype=run.config.output.dtype,
        adapter=adapter,
        adapter_backbone=None if adapter is None else base,
        overwrite=True,
    )


def is_mask_bundle(bundle: Bundle) -> bool:
    return bundle.head is not None and (bundle.head.get("task") or {}).get("kind") == "segmentation"


def load_masks(bundle: Bundle) -> tuple[SegmentationModel, Classes, tuple[int, ...], float]:
    """Network in evaluation mode, its classes, its tile and the overlap of tiles."""
    head = bundle.head
    assert head is not None
    try:
        classes = Classes(tuple(head["classes"]), tuple(int(v) for v in head["values"]))
        classifiers = DenseHead(**head["dense"])
        patch, overlap = tuple(int(n) for n in head["patch"]), float(head["overlap"])
    except (KeyError, TypeError) as error:
        raise MedfmError(
            f"{bundle.path}: this medfm does not know the head of {bundle.card.id} ({error!r}); update medfm."
        ) from error
    classifiers.load_state_dict(bundle.head_state)
    return SegmentationModel(bundle.build(), classifiers).eval(), classes, patch, overlap


def _sections(run: Segmenting, result: DenseFit) -> dict[str, Any]:
    settings = run.config.finetune
    return {
        "method": settings.strategy.model_dump(mode="json"),
        "training": {
            "backbone": _backbone(run),
            "backbone_sha256": run.bundle.weights_sha256,
            "data_digest": site_codes().digest(run.cohort.digest),
            "patients_known": run.cohort.patients_known,
            "steps_taken": result.steps,
            **{name: getattr(settings, name) for name in SETTINGS},
            "seed": run.config.seed,
        },
    }


def _backbone(run: Segmenting) -> str:
    return public_ref(str(run.config.finetune.backbone), run.bundle.card.id)


def make_card(run: Segmenting, results: dict[str, Any], result: DenseFit) -> Card:
    cohort, parent = run.cohort, run.bundle.card
    patients = results["patients"]
    digest = site_codes().digest(cohort.digest)
    (table,) = names_of([cohort.source], run.modality)
    strategy = run.config.finetune.strategy.name
    simulated = " The backbone was pretrained on simulated data only." if parent.simulated_only else ""
    unknown = "" if cohort.patients_known else " Patients were not known: every figure here may be too good."
    counts = ", ".join(f"{n} in {int(c)}" for n, c in zip(run.classes.names, cohort.y.sum(0)))
    return Card(
        id=card_id(run),
        summary=(
            f"Draws {', '.join(run.classes.names[:8])} in {spoken(parent.modality)} volumes; {parent.id} fine-tuned ({strategy}) "
            f"on {len(cohort.y):,} volumes of {patients:,} patients of one table.{simulated}{unknown}"
        ),
        modality=parent.modality,
        architecture=parent.architecture,
        parameters=sum(p.numel() for p in result.model.parameters()),
        method=strategy,
        task="segmentation",
        targets=list(run.measured),
        license="other",
        datasets=[Dataset(name=table, records=len(cohort.y), patients=patients, digest=digest)],
        intended_use="Research: to be validated on patients of the site where it would be used, before anything else.",
        data=(
            f"One table of a site: {cohort.rows_in_table:,} rows, {len(cohort.y):,} used, {patients:,} patients. Classes: "
            f"{counts} volumes."
        ),
        preprocessing=parent.preprocessing,
        results=_card_results(run, results, table),
        limitations=(
            "The figures are out-of-fold estimates of the recipe on this table's own patients. The weights here were trained on "
            "all of them and tested on none; another site, scanner, contrast phase or disease was not seen."
        ),
        citations=[k for k in ("medfm", strategy) if k in CITATIONS],
        created=datetime.date.today().isoformat(),
        parents=[Parent(ref=parent.id, checkpoint=run.bundle.weights_sha256, data=digest)],
    )


def _card_results(run: Segmenting, results: dict[str, Any], table: str) -> list[Result]:
    headline = results[PRETRAINED]["headline"]
    if headline["value"] is None:
        return []
    pair = (results.get("difference") or {}).get("dice", {}).get("macro")
    bounds: tuple[float, float] | None = None
    if pair and pair["difference"]["low"] is not None:
        bounds = pair["difference"]["low"], pair["difference"]["high"]
    return [
        Result(
            metric="Dice",
            value=headline["value"],
            ci=None if headline["low"] is None else (headline["low"], headline["high"]),
            baseline=pair["b"] if pair else None,
            difference_ci=bounds,
            dataset=table,
            task="segmentation",
            target=",".join(run.measured),
            strategy=run.config.finetune.strategy.name,
            patients=results["patients"],
            command="medfm finetune --config RUN/config.yaml",
        )
    ]
