"""How well a finished pretraining fills in what it does not see, beside interpolation from what it sees."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from medfm.evaluation.interpolation import interpolated
from medfm.evaluation.report import Section
from medfm.pretraining.diagnostics import reconstruction_error
from medfm.types import Batch
from medfm.workflows.kinds import kind_of

RECORDS, VALUES = (
    32,
    1 << 21,
)  # fewer records where they are large: interpolation takes seconds a million values


def measure(run: Any) -> dict[str, Any] | None:
    """Errors as in :class:`medfm.pretraining.diagnostics.Reconstruction` and the number of records, on the probe set where
    there is one (``held_out``) and on records of the training otherwise; None for a method that predicts no values.
    """
    method = run.method
    if not method.reconstructs:
        return None
    batch, held_out = run.guard.batch, False
    if facts := run.probe.get("facts"):
        records = kind_of(run.modality).reading.records(facts["store"], run.modality)
        rows = np.arange(min(RECORDS, len(records)))
        x, present = records.read(rows, np.zeros(len(rows), np.int64))
        batch, held_out = Batch(x, present), True
    count = max(1, min(RECORDS, len(batch.x), VALUES // max(1, batch.x[0].numel())))
    device = next(method.parameters()).device
    batch = Batch(batch.x[:count], batch.present[:count]).to(device)
    training = method.training
    with torch.no_grad():
        errors = reconstruction_error(method.eval(), batch, interpolated)
    method.train(training)
    return {**{k: v if isinstance(v, bool) else round(v, 4) for k, v in asdict(errors).items()},
            "records": count, "held_out": held_out}  # fmt: skip


def sentence(measured: dict[str, Any]) -> str:
    network, best = measured["network"], min(measured["interpolation"], measured["constant"])
    better = (
        "The network guesses hidden parts better than interpolation from the visible ones does"
        if network < best
        else "The network does **not** guess hidden parts better than plain interpolation: it has learned little so far; train "
        "longer, or raise optim.lr"
    )
    return f"{better} (mean squared error {network:.3f}; interpolation {measured['interpolation']:.3f})."


def section(measured: dict[str, Any]) -> Section:
    whose = "records that were not trained on" if measured["held_out"] else "records of the training"
    how = (
        " Each hidden patch is compared less its mean and over its deviation, the interpolated one likewise."
        if measured["normalised"]
        else ""
    )
    rows = [
        ["this network", f"{measured['network']:.4f}"],
        ["interpolation from the visible values", f"{measured['interpolation']:.4f}"],
        ["one constant", f"{measured['constant']:.4f}"],
    ]
    text = f"{sentence(measured)} On {measured['records']} {whose}, hidden values only.{how}"
    return Section(
        title="Reconstruction", text=text, table=(["Hidden values taken from", "mean squared error"], rows)
    )
