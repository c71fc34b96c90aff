"""The pictures of a segmentation report, from arrays: masks over slices, Dice by class, volumes against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from medfm.evaluation.figure_style import (
    FONT_SIZE,
    INK,
    MARKERS,
    MUTED,
    WIDTH,
    colour,
    legend,
    legend_below,
    new_figure,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# title, image [H, W], truth [H, W] or None and prediction [H, W] (0: background), mm a row over mm a column
Case = tuple[str, np.ndarray, np.ndarray | None, np.ndarray, float]


def overlays(cases: Sequence[Case], classes: Sequence[str]) -> Figure:
    """A row a case: the slice, the true outlines, the predicted outlines; one colour a class (of K names), one grey scale."""
    from matplotlib.lines import Line2D

    columns = 3 if any(case[2] is not None for case in cases) else 2
    wide = 1.5 * WIDTH / columns
    heights = [wide * x.shape[0] * aspect / x.shape[1] + 0.3 for _, x, _, _, aspect in cases]
    figure = new_figure(1.5 * WIDTH, sum(heights) + 0.4)
    grid = figure.subplots(len(cases), columns, squeeze=False, height_ratios=heights)
    limits = {"vmin": min(float(c[1].min()) for c in cases), "vmax": max(float(c[1].max()) for c in cases)}
    for row, (title, x, truth, predicted, aspect) in zip(grid, cases):
        shown = [None, truth, predicted] if columns == 3 else [None, predicted]
        for axes, mask in zip(row, shown):
            axes.imshow(x, cmap="gray", aspect=aspect, interpolation="bilinear", **limits)
            for k in range(len(classes)):
                here = np.zeros(1, bool) if mask is None else mask == k + 1
                if here.any():
                    axes.contour(here, levels=[0.5], colors=colour(k), linewidths=1.1)
            axes.set_axis_off()
        row[0].set_title(title, fontsize=FONT_SIZE - 2, color=INK, loc="left")
        names = ("Truth", "Prediction")[-(columns - 1) :]
        for axes, name in zip(row[1:], names):
            axes.set_title(name, fontsize=FONT_SIZE - 2, color=INK)
    lines = [Line2D([], [], color=colour(k), linewidth=2, label=name) for k, name in enumerate(classes)]
    figure.legend(handles=lines, loc="outside lower center", frameon=False, ncols=4, fontsize=FONT_SIZE - 2.5)
    return figure


def class_dice(
    arms: Mapping[str, np.ndarray], classes: Sequence[str], *, label: str = "Dice, each dot a record"
) -> Figure:
    """Dice ``[n, K]`` of each arm: a row a class, a dot a record, a bar the mean; NaN (not applicable) is not drawn."""
    figure = new_figure(1.2 * WIDTH, 1.3 + (0.28 + 0.24 * len(arms)) * len(classes))
    axes = style(figure.subplots(), label, "", grid="x")
    rng = np.random.default_rng(0)
    step = 0.7 / len(arms)
    for i, (name, dice) in enumerate(arms.items()):
        for k in range(len(classes)):
            values = dice[:, k][~np.isnan(dice[:, k])]
            row = k + (i - (len(arms) - 1) / 2) * step
            jitter = row + rng.uniform(-0.25, 0.25, len(values)) * step
            look = {"color": colour(i), "marker": MARKERS[i % len(MARKERS)], "alpha": 0.65}
            axes.scatter(values, jitter, s=15, linewidth=0, label=name if k == 0 else None, **look)  # type: ignore[arg-type]
            if len(values):
                axes.plot([values.mean()] * 2, [row - 0.4 * step, row + 0.4 * step], color=INK, linewidth=1.6)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(classes) - 0.4, -0.6))
    axes.set_yticks(range(len(classes)), list(classes), fontsize=FONT_SIZE - 1.5)
    axes.tick_params(axis="y", length=0)
    if len(arms) > 1:
        legend_below(axes)
    return figure


def volume_agreement(true_ml: np.ndarray, predicted_ml: np.ndarray, classes: Sequence[str]) -> Figure:
    """Bland and Altman: predicted minus true volume over their mean, ``[n, K]`` in mL; the lines are the mean difference and 1.96 deviations around it, over all classes. Records without either are left out."""
    figure = new_figure(1.2 * WIDTH)
    axes = style(figure.subplots(), "Mean of true and predicted volume (mL)", "Predicted minus true (mL)")
    differences = []
    for k, name in enumerate(classes):
        either = (true_ml[:, k] > 0) | (predicted_ml[:, k] > 0)
        a, b = true_ml[either, k], predicted_ml[either, k]
        differences.append(b - a)
        axes.scatter(
            (a + b) / 2,
            b - a,
            s=20,
            color=colour(k),
            marker=MARKERS[k // 7 % 7],
            alpha=0.75,
            linewidth=0,
            label=name,
        )
    every = np.concatenate(differences) if differences else np.zeros(0)
    if len(every):
        mean, spread = every.mean(), every.std(ddof=1) if len(every) > 1 else 0.0
        axes.axhline(mean, color=INK, linewidth=1.2)
        for sign in (-1, 1):
            axes.axhline(mean + sign * 1.96 * spread, color=MUTED, linewidth=1, linestyle=(0, (4, 2)))
        if max(float(t.max()) for t in (true_ml, predicted_ml)) > 100:
            axes.set_xscale("symlog", linthresh=10)
            axes.set_xlim(left=0)
    legend_below(axes)
    return figure


def dice_curve(curves: Mapping[str, tuple[Sequence[int], np.ndarray]]) -> Figure:
    """Mean Dice after so many steps of each arm: name -> (steps, ``[steps, 3]``: value and bounds, NaN without)."""
    figure = new_figure()
    axes = style(figure.subplots(), "Training steps", "Mean Dice, out of fold")
    for i, (name, (steps, values)) in enumerate(curves.items()):
        axes.plot(
            steps, values[:, 0], color=colour(i), marker=MARKERS[i], markersize=5, linewidth=1.6, label=name
        )
        if np.isfinite(values[:, 1:]).all():
            axes.fill_between(steps, values[:, 1], values[:, 2], color=colour(i), alpha=0.15, linewidth=0)
        axes.set_xticks(steps)
    axes.set(ylim=(0, 1))
    legend(axes, loc="best")
    return figure
