"""Pictures of survival: Kaplan-Meier curves by risk group with the numbers at risk, and calibration at a horizon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from medfm.evaluation.figure_style import (
    FONT_SIZE,
    HEIGHT,
    INK,
    MUTED,
    WIDTH,
    colour,
    dash,
    legend,
    new_figure,
    style,
)
from medfm.evaluation.survival import kaplan_meier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 5  # at risk, below which a curve is not drawn on


def kaplan_meier_groups(
    time: np.ndarray, event: np.ndarray, group: np.ndarray, names: Sequence[str], unit: str, horizon: float
) -> Figure:
    """A curve for each of the groups (codes in order of ``names``), its 95 % band, and how many are still at risk."""
    figure = new_figure(WIDTH, HEIGHT + 0.25 * len(names) + 0.3)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(HEIGHT, 0.3 * len(names) + 0.2))
    style(upper, "", "Share without the event")
    end = 0.0
    for i, (code, name) in enumerate(zip(np.unique(group), names)):
        inside = group == code
        ordered = np.sort(time[inside])
        last = float(ordered[max(0, len(ordered) - FEWEST)])
        end = max(end, last)
        curve = kaplan_meier(time[inside], event[inside])
        at = np.unique(np.r_[0.0, curve.times[curve.times <= last], last])
        low, high = curve.interval(at)
        label = f"{name} risk"
        upper.step(
            at, curve.at(at), where="post", color=colour(i), linestyle=dash(i), linewidth=1.9, label=label
        )
        upper.fill_between(at, low, high, step="post", color=colour(i), alpha=0.13, linewidth=0)
    upper.axvline(horizon, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    upper.set(ylim=(-0.02, 1.02), xlim=(0, end * 1.01 or 1.0))
    legend(upper, loc="lower left")
    _at_risk(lower, time, group, names, end)
    lower.set_xlabel(unit, fontsize=FONT_SIZE, color=INK)
    return figure


def _at_risk(axes: object, time: np.ndarray, group: np.ndarray, names: Sequence[str], end: float) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    style(axes, grid="none")
    ticks = np.linspace(0, end, 5)
    for i, code in enumerate(np.unique(group)):
        for k, t in enumerate(ticks):
            count = str(int((time[group == code] >= t).sum()))
            axes.text(
                t,
                i,
                count,
                ha=("left", "center", "center", "center", "right")[k],
                va="center",
                color=colour(i),
                fontsize=FONT_SIZE - 2,
            )
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), list(names), fontsize=FONT_SIZE - 2)
    axes.set_title("at risk", fontsize=FONT_SIZE - 2, loc="left", color=MUTED)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def calibration_at(groups: Sequence[Mapping[str, float]], what: str) -> Figure:
    """Observed (Kaplan-Meier, 95 %) over mean predicted chance of each group of records."""
    figure = new_figure()
    axes = style(figure.subplots(), f"Predicted chance of {what}", "Observed (Kaplan-Meier)")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)), label="perfect")
    predicted, observed, low, high = (
        np.array([g[k] for g in groups]) for k in ("predicted", "observed", "low", "high")
    )
    bars = np.clip(np.stack([observed - low, high - observed]), 0, None)
    axes.errorbar(
        predicted, observed, bars, color=colour(0), marker="o", markersize=5, linewidth=1.2, elinewidth=1.0
    )
    top = min(1.02, 1.15 * float(max(high.max(), predicted.max(), 0.05)))
    axes.set(xlim=(-0.02, top), ylim=(-0.02, top))
    legend(axes, loc="upper left")
    return figure
