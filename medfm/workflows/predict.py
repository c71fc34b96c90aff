"""Predictions of a fine-tuned model on new records, one row a record; what could not be read keeps its
row."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from medfm.data.codes import same_data
from medfm.finetuning.heads import FinetuneModel, LinearHead
from medfm.finetuning.question import task_of
from medfm.finetuning.records import predict_logits
from medfm.finetuning.task import Task
from medfm.hub.bundle import Bundle, load_bundle
from medfm.hub.resolve import resolve
from medfm.paths import written_whole
from medfm.types import RESEARCH_USE, MedfmError
from medfm.workflows.embed import check_output, identity, open_records
from medfm.workflows.gather import plain_reason
from medfm.workflows.kinds import kind_of
from medfm.workflows.progress import progress as progress_bar
from medfm.workflows.run_folder import writing
from medfm.workflows.segment_bundle import is_mask_bundle
from medfm.workflows.segment_predict import predict_masks

LOG = logging.getLogger("medfm.run")


def predict(
    source: str | Path,
    model: str | Path,
    output: str | Path,
    *,
    patient: str | None = None,
    codes: bool = False,
    batch_size: int = 64,
    store: str | Path | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write ``record, patient, path, p_CLASS..., error`` as CSV (multiclass: also ``predicted``, the
    likeliest class; a value: ``predicted_TARGET`` in its own unit; survival: ``risk_EVENT``, the time lost to it until the
    model's limit, and ``survival_EVENT_at_HORIZON``).

    The model runs in evaluation mode with the preprocessing of its bundle; the logits of a long record's
    windows are averaged. A model that draws masks writes them into the folder ``output``
    (:func:`medfm.workflows.segment_predict.predict_masks`). ``codes``: for a file that leaves the site, ``row`` of the table and the codes ``record`` and
    ``patient`` (:mod:`medfm.data.codes`) in place of names and path. Raises :class:`MedfmError` when the model has no head or nothing could be read.
    """
    bundle = load_bundle(resolve(model))
    if is_mask_bundle(bundle):
        return predict_masks(
            source, bundle, output, patient=patient, codes=codes, overwrite=overwrite, progress=progress
        )
    target = check_output(output, (".csv",), overwrite)
    network, task, window = load_finetuned(bundle)
    modality = bundle.modality()
    manifest, stored = open_records(source, modality, patient=patient, store=store, jobs=jobs, show=progress)
    if same_data(manifest.digest, (bundle.config.get("training") or {}).get("data_digest")):
        LOG.warning(
            "these records trained this model: read the run's out-of-fold predictions.csv instead of these."
        )
    rows = np.arange(len(stored))
    with progress_bar(progress, "predicting", len(rows), "records") as bar:
        records = kind_of(modality).reading.records(stored, modality, window)
        logits = predict_logits(network, records, rows, batch_size=batch_size, progress=bar.update)
    who = identity(manifest, codes)
    frame = who.iloc[stored.kept].reset_index(drop=True)
    p = task.predictions(logits)
    for name, values in task.columns_of(p).items():
        frame[name] = np.round(values, 6)
    if task.kind == "multiclass":
        frame["predicted"] = [task.classes[k] for k in p.argmax(1)]
    frame["error"] = ""
    failed = pd.DataFrame(
        [
            {**who.iloc[row], "error": plain_reason(reason) if codes else reason}
            for row, _, reason in stored.failed
        ]
    )
    with writing(target), written_whole(target) as part:
        (pd.concat([frame, failed], ignore_index=True) if len(failed) else frame).to_csv(part, index=False)
    LOG.info("%d predictions in %s. %s", len(frame), target, RESEARCH_USE)
    return target


def load_finetuned(bundle: Bundle) -> tuple[FinetuneModel, Task, int]:
    """Network in evaluation mode, its task, and its window in samples (0: whole records). A bundle without head is refused."""
    if bundle.head is None:
        raise MedfmError(
            f"{bundle.card.id} is a backbone without a head: fine-tune it first (medfm finetune TABLE "
            "--backbone ...)."
        )
    try:
        task = task_of(bundle.head["task"])
        head = LinearHead(**bundle.head["linear"])
        window = int(bundle.head["window"])
    except (KeyError, TypeError) as error:
        raise MedfmError(
            f"{bundle.path}: this medfm does not know the head of {bundle.card.id} ({error!r}); update medfm."
        ) from error
    head.load_state_dict(bundle.head_state)
    return FinetuneModel(bundle.build(), head).eval(), task, window
