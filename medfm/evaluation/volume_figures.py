"""Volumes as slices side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from medfm.evaluation.figure_style import FONT_SIZE, INK, WIDTH, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUND = "#1c2430"


def planes(pictures: Mapping[str, np.ndarray], *, vmin: float = 0.0, vmax: float = 1.0) -> Figure:
    """Slices ``[H, W]`` of one volume by the name of their plane, on one scale in mm (pixels are square)."""
    widths = [p.shape[1] for p in pictures.values()]
    height = max(p.shape[0] for p in pictures.values()) / sum(widths) * WIDTH
    figure = new_figure(WIDTH, 0.3 + height)
    panels = figure.subplots(1, len(pictures), squeeze=False, width_ratios=widths)[0]
    for axes, (name, picture) in zip(panels, pictures.items()):
        axes.imshow(np.ma.masked_invalid(picture), cmap="gray", vmin=vmin, vmax=vmax)
        axes.set_title(name, fontsize=FONT_SIZE - 1, color=INK)
        axes.set(xticks=[], yticks=[], facecolor=GROUND)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure
