"""The report's picture of what a method asks of its network: what was hidden, which views are to meet, where a crop lay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from medfm.types import Batch
from medfm.workflows.kinds import SHOWN, kind_of


def draw(modality: Any, method: Any, batch: Batch) -> tuple[str, Any, str]:
    """Name of the figure's file, the figure, and its caption."""
    name = method.figure
    if name == "mask":
        return name, *kind_of(modality).mask(modality, method, batch)
    if name == "views":
        return name, *kind_of(modality).views(modality, batch)
    return name, *{"positions": _positions, "fusion": _fusion}[name](modality, method, batch)


def _positions(modality: Any, method: Any, batch: Batch) -> tuple[Any, str]:
    from medfm.evaluation import volume_figures

    similarity, overlap = method.pairs(batch, 32)
    figure = volume_figures.positions(similarity, overlap)
    return figure, (
        "Each dot is a random crop and a base crop of the same volume: how much of the one lies in the other, and what the "
        "network guesses from their looks"
    )


def _fusion(modality: Any, method: Any, batch: Batch) -> tuple[Any, str]:
    from medfm.evaluation import volume_figures
    from medfm.modalities.volume_views import axial_slices

    few = replace(
        batch,
        x=batch.x[:SHOWN],
        present=batch.present[:SHOWN],
        views={k: v[:SHOWN] for k, v in batch.views.items()},
    )
    shown = [
        axial_slices(x, modality.orientation, modality.spacing)[:, 0] for x in method.pictured(few)
    ]  # background, foreground, fused, share, guess
    figure = volume_figures.fusion(*shown, levels=method.levels)
    return (
        figure,
        "Axial slices of two windows, of what was made of them, and of the share that the network guesses",
    )
