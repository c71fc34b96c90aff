"""Pictures of a regression: truth against prediction, and their difference over their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medfm.evaluation.figure_style import FONT_SIZE, INK, MUTED, colour, legend, new_figure, style
from medfm.evaluation.regression import agreement, regression_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 400  # dots, up to which each is drawn plainly


def predicted_observed(y: np.ndarray, p: np.ndarray, target: str) -> Figure:
    """Truth ``y [n]`` over prediction ``p [n]`` on equal axes, with the line of identity and the least-squares line."""
    figure = new_figure()
    axes = style(figure.subplots(), f"Predicted {target}", f"True {target}")
    low, high = min(y.min(), p.min()), max(y.max(), p.max())
    margin = 0.04 * (high - low or 1.0)
    ends = np.array([low - margin, high + margin])
    axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (2, 3)), label="perfect")
    axes.scatter(
        p, y, s=14 if len(y) <= FEW else 7, color=colour(0), alpha=0.55 if len(y) <= FEW else 0.3, linewidth=0
    )
    slope, intercept = regression_metrics(y, p, np.ones((len(y), 1)))[4:, 0]
    if np.isfinite(slope):
        across = np.array([p.min(), p.max()])
        axes.plot(
            across, intercept + slope * across, color=colour(1), linewidth=1.9, label=f"slope {slope:.2f}"
        )
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    legend(axes, loc="upper left")
    return figure


def bland_altman(y: np.ndarray, p: np.ndarray, target: str) -> Figure:
    """Prediction minus truth over their mean, with the bias and the 95 % limits."""
    figure = new_figure()
    axes = style(figure.subplots(), f"Mean of predicted and true {target}", "Predicted minus true")
    axes.scatter((y + p) / 2, p - y, s=14 if len(y) <= FEW else 7, color=colour(0), alpha=0.5, linewidth=0)
    found = agreement(y, p)
    right = float(((y + p) / 2).max())
    for name, words in (("bias", "bias"), ("low", "95 %"), ("high", "95 %")):
        value = found[name]
        if np.isfinite(value):
            axes.axhline(
                value,
                color=INK if name == "bias" else MUTED,
                linewidth=1.2,
                linestyle="-" if name == "bias" else (0, (4, 2)),
            )
            axes.annotate(
                f"{words} {value:+.3g}",
                (right, value),
                (0, 3),
                textcoords="offset points",
                ha="right",
                fontsize=FONT_SIZE - 2,
                color=INK,
            )
    return figure
