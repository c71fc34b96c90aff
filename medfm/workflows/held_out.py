"""How well a method does its own task on records that it was not trained on, before and after."""

from __future__ import annotations

from typing import Any

import torch

from medfm.data.loader import Mixture
from medfm.workflows.kinds import kind_of

AT_ONCE = 10  # volumes in a batch

NAMES = {
    "position_correlation": "Position correlation (guessed with true overlap)",
    "fusion_dice": "Dice of fused volumes",
    "masked_error": "Squared error of masked values",
    "mean_error": "The same of each sequence's mean",
}


def measure(run: Any, when: str) -> None:
    """``method.held_out`` on the probe set, kept under ``when`` in ``run.held``; nothing where there is no such set."""
    method, facts = run.method, run.probe.get("facts")
    if facts is None or not method.measures:
        return
    store, spec = facts["store"], method.view_spec
    count = len(store) // AT_ONCE
    if not count:
        return
    make: Any = kind_of(run.modality).reading.batches
    batches = make(
        Mixture([store]),
        run.modality,
        AT_ONCE,
        seed=1,
        stop=count,
        views=spec.views,
        size=spec.size,
        place=spec.place,
    )
    training = method.training
    with torch.no_grad():
        found = method.eval().held_out(batches)
    method.train(training)
    run.held[when] = {k: round(float(v), 4) for k, v in found.items()}
    run.held["records"] = count * AT_ONCE


def results(run: Any) -> dict[str, Any]:
    """``{measure: {pretrained, random_initialisation, records}}``; empty where nothing was measured."""
    end, start = run.held.get("end", {}), run.held.get("start", {})
    return {
        name: {"pretrained": value, "random_initialisation": start.get(name), "records": run.held["records"]}
        for name, value in end.items()
    }


def sentences(found: dict[str, Any]) -> list[str]:
    said = []
    for name, m in found.items():
        before = m["random_initialisation"]
        untrained = "" if before is None else f", untrained {before:.3f}"
        said.append(
            f"{NAMES.get(name, name)} on {m['records']} records not trained on: {m['pretrained']:.3f}{untrained}"
        )
    return said
