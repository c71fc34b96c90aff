"""A synthesised sequence as a picture: what went in, what came out, the truth where it is known, and the error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medfm.evaluation.figure_style import FONT_SIZE, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUND = "#11161d"
PANEL = 1.7  # inches


def synthesis(
    inputs: Sequence[tuple[str, np.ndarray]],
    name: str,
    guess: np.ndarray,
    truth: np.ndarray | None,
    caption: str,
    limits: tuple[float, float] = (-2.0, 3.0),
) -> Figure:
    """Slices ``[H, W]`` in z-scores, NaN outside: the inputs by name, the synthesised one marked as such, and where ``truth`` is
    given, that and the absolute error."""
    grey = [(title, one, "gray", limits) for title, one in inputs]
    grey.append((f"SYNTHETIC {name}", guess, "gray", limits))
    if truth is not None:
        grey += [
            (f"acquired {name}", truth, "gray", limits),
            ("absolute error", np.abs(guess - truth), "magma", (0.0, 2.0)),
        ]
    ratio = guess.shape[0] / guess.shape[1]
    figure = new_figure(PANEL * len(grey), PANEL * ratio + 0.75)
    panels = figure.subplots(1, len(grey), squeeze=False)[0]
    for axes, (title, one, colours, (low, high)) in zip(panels, grey):
        shown = axes.imshow(
            np.ma.masked_invalid(one), cmap=colours, vmin=low, vmax=high, interpolation="nearest"
        )
        marked = title.startswith("SYNTHETIC")
        axes.set_title(
            title,
            fontsize=FONT_SIZE - 2,
            color="#b3261e" if marked else INK,
            fontweight="bold" if marked else "normal",
        )
        axes.set(xticks=[], yticks=[], facecolor=GROUND)
        for spine in axes.spines.values():
            spine.set_visible(marked)
            spine.set_color("#b3261e")
    if truth is not None:
        bar = figure.colorbar(shown, ax=panels[-1], fraction=0.05, pad=0.02)
        bar.set_label("deviations", fontsize=FONT_SIZE - 3)
        bar.ax.tick_params(labelsize=FONT_SIZE - 3)
    figure.suptitle(caption, fontsize=FONT_SIZE - 3.5, color=INK)
    return figure
