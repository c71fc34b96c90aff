"""A picture beside itself under a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medfm.evaluation.figure_style import FONT_SIZE, INK, WIDTH, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTSIDE = "#3b4a6b"  # what is no picture
DENSEST = 0.65  # opacity of the largest value: what lies under it can still be seen


def picture_heat(x: np.ndarray, heat: np.ndarray | None = None, cell: Sequence[int] = ()) -> Figure:
    """A picture ``x [C, H, W]`` (any unit, NaN: no picture), and beside it under ``heat [h, w]`` (0 to 1, 0 is clear), of
    which each value covers a ``cell`` of pixels from the upper left corner; three channels are drawn as their mean."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    grey = np.ma.masked_invalid(x.mean(0))
    height, width = grey.shape
    shown = ("As the network got it",) if heat is None else ("As the network got it", "Under its heat map")
    figure = new_figure(len(shown) * WIDTH / 2, 0.3 + WIDTH / 2 * height / width)
    grid = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, title in zip(grid, shown):
        axes.imshow(grey, cmap=colormaps["gray"].with_extremes(bad=OUTSIDE))
        axes.set_title(title, fontsize=FONT_SIZE - 1.5, color=INK)
        axes.set_axis_off()
    if heat is not None:
        colours = colormaps["inferno"](np.linspace(0, 1, 256))
        colours[:, 3] = np.linspace(0, DENSEST, 256)
        grid[1].imshow(
            heat,
            cmap=ListedColormap(colours),
            vmin=0,
            vmax=1,
            extent=(-0.5, heat.shape[1] * cell[1] - 0.5, heat.shape[0] * cell[0] - 0.5, -0.5),
            interpolation="bilinear",
        )
        grid[1].set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return figure
