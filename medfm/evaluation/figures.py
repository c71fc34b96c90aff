"""The pictures of a report, from arrays: discrimination, calibration, benefit, folds and arms side by side.

``curves`` maps a name (target or arm) to its labels and probabilities, ``{name: (y [n], p [n])}``; unknown
labels (NaN) are left out. Training curves, the embedding map and the masked record are in
:mod:`medfm.evaluation.training_figures` and named here too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medfm.evaluation.calibration import net_benefit, reliability
from medfm.evaluation.figure_style import (
    FONT_SIZE,
    HEIGHT,
    INK,
    JOIN,
    MARKERS,
    MUTED,
    WIDTH,
    colour,
    dash,
    legend,
    legend_below,
    new_figure,
    style,
)
from medfm.evaluation.metrics import auprc, auroc, pr_curve, roc_curve
from medfm.evaluation.training_figures import (
    ecg_mask,
    embedding_map,
    picture_masks,
    picture_rows,
    signal_views,
    training_curves,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "calibration",
    "compare_arms",
    "decision_curve",
    "ecg_mask",
    "embedding_map",
    "fold_dots",
    "picture_masks",
    "picture_rows",
    "precision_recall",
    "roc",
    "signal_views",
    "training_curves",
]

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


def roc(curves: Curves, *, label: str = "pooled AUROC") -> Figure:
    """ROC curves of out-of-fold predictions: all folds in one curve, the pooled view, as the legend says."""
    figure = new_figure()
    axes = style(figure.subplots(), "1 - specificity", "Sensitivity")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    for i, (name, (y, p)) in enumerate(curves.items()):
        fpr, tpr, _ = roc_curve(y, p)
        if not np.isnan(fpr + tpr).any():
            text = f"{name}  {float(auroc(y, p)):.3f}"
            axes.plot(fpr, tpr, color=colour(i), linestyle=dash(i), linewidth=1.9, label=text)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    legend(axes, loc="lower right", title=label, title_fontsize=FONT_SIZE - 2)
    return figure


def precision_recall(curves: Curves, *, label: str = "pooled average precision") -> Figure:
    """Precision over recall, with each name's prevalence (what guessing reaches) as a dotted line."""
    figure = new_figure(WIDTH, HEIGHT + 0.2 * ((len(curves) + 1) // 2))
    axes = style(figure.subplots(), "Recall (sensitivity)", "Precision")
    for i, (name, (y, p)) in enumerate(curves.items()):
        recall, precision, _ = pr_curve(y, p)
        prevalence = float(np.nanmean(y)) if np.isfinite(y).any() else np.nan
        if not recall.size or np.isnan(recall).any() or prevalence in (0, 1):
            continue
        text = f"{name}  {float(auprc(y, p)):.3f}"
        recall, precision = np.r_[0, recall], np.r_[precision[0], precision]
        axes.step(
            recall, precision, where="pre", color=colour(i), linestyle=dash(i), linewidth=1.7, label=text
        )
        axes.axhline(prevalence, color=colour(i), linewidth=0.9, linestyle=(0, (1, 2)))
    axes.set(xlim=(-0.01, 1.01), ylim=(0, 1.02))
    legend_below(axes, title=label, title_fontsize=FONT_SIZE - 2)
    return figure


def calibration(curves: Curves, *, bins: int | None = None) -> Figure:
    """Observed against predicted risk with Wilson bars, and below it where the predictions lie.

    Bins of equal counts, by default 4 to 10 of them with some 25 records each.
    """
    figure = new_figure(WIDTH, HEIGHT + 0.9)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    style(upper, "", "Observed share")
    style(lower, "Predicted probability", "Records", grid="x")
    upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)), label="perfect")
    for i, (name, (y, p)) in enumerate(curves.items()):
        r = reliability(y, p, bins or int(np.clip(np.isfinite(y).sum() // 25, 4, 10)))
        bars = np.clip(np.stack([r["observed"] - r["low"], r["high"] - r["observed"]]), 0, None)
        upper.errorbar(
            r["predicted"],
            r["observed"],
            bars,
            color=colour(i),
            marker=MARKERS[i % len(MARKERS)],
            markersize=4.5,
            linewidth=1.2,
            elinewidth=0.9,
            capsize=0,
            label=name,
        )
        shown = p[~np.isnan(y)]
        lower.hist(shown, bins=np.linspace(0, 1, 26), color=colour(i), histtype="step", linewidth=1.4)
    upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    legend(upper, loc="upper left")
    return figure


def decision_curve(curves: Curves, *, up_to: float | None = None) -> Figure:
    """Net benefit over the risk threshold at which one would act, against treating everybody and nobody.

    One name: that model with its own "treat everybody"; several: arms on the same patients (the first one's
    line)."""
    figure = new_figure()
    axes = style(figure.subplots(), "Threshold probability", "Net benefit (per record)")
    first = next(iter(curves.values()))
    prevalence = float(np.nanmean(first[0]))
    up_to = up_to or min(0.99, max(0.3, 2.5 * prevalence))
    grid = np.linspace(0.01, up_to, 99)
    reference = net_benefit(*first, grid)
    axes.plot(grid, reference["all"], color=MUTED, linewidth=1.4, linestyle=(0, (4, 2)), label="everybody")
    axes.axhline(0, color=INK, linewidth=1, label="nobody")
    top = max(prevalence, 0.01)
    for i, (name, (y, p)) in enumerate(curves.items()):
        axes.plot(
            grid,
            net_benefit(y, p, grid)["model"],
            color=colour(i),
            linestyle=dash(i),
            linewidth=1.9,
            label=name,
        )
    axes.set(xlim=(0, up_to), ylim=(-0.25 * top, 1.08 * top))
    legend(axes, loc="best")
    return figure


def fold_dots(
    arms: Mapping[str, Sequence[Mapping[str, Any]]], *, metric: str = "macro_auroc", label: str = "AUROC"
) -> Figure:
    """Each test fold as a dot, each arm a row with its mean; lines join the same fold of two arms. ``label``: the metric.

    arms: name -> the ``folds`` table of :func:`medfm.evaluation.protocol.evaluate_folds`.
    """
    names = list(arms)
    values = [
        np.array([np.nan if f[metric] is None else f[metric] for f in arms[n]], dtype=float) for n in names
    ]
    figure = new_figure(WIDTH, 1.3 + 0.75 * len(names))
    axes = style(figure.subplots(), f"{label} in each test fold", "", grid="x")
    if len({len(v) for v in values}) == 1:
        for pair in np.stack(values, axis=1):
            axes.plot(pair, range(len(names)), color=JOIN, linewidth=0.9, zorder=1)
    for i, v in enumerate(values):
        axes.scatter(
            v,
            np.full(len(v), i),
            s=34,
            color=colour(i),
            alpha=0.75,
            edgecolor="white",
            linewidth=0.6,
            zorder=2,
        )
        if np.isfinite(v).any():
            axes.plot([np.nanmean(v)] * 2, [i - 0.24, i + 0.24], color=INK, linewidth=2, zorder=3)
    _name_rows(axes, names)
    return figure


def compare_arms(
    rows: Sequence[tuple[str, float | None, float | None, float | None]],
    *,
    xlabel: str = "AUROC within folds, 95 % interval by patient",
    reference: float | None = None,
) -> Figure:
    """Arms one below the other, rows (name, value, low, high); ``reference`` is a vertical line."""
    figure = new_figure(WIDTH, 1.2 + 0.52 * len(rows))
    axes = style(figure.subplots(), xlabel, "", grid="x")
    for i, (_, value, low, high) in enumerate(rows):
        if value is None:
            continue
        if low is not None and high is not None:
            axes.plot([low, high], [i, i], color=colour(i), linewidth=2.4, solid_capstyle="round", alpha=0.55)
        axes.plot([value], [i], marker=MARKERS[i % len(MARKERS)], color=colour(i), markersize=7)
        axes.annotate(
            f"{value:.3f}",
            (value, i),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=FONT_SIZE - 2,
            color=INK,
        )
    if reference is not None:
        axes.axvline(reference, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    _name_rows(axes, [r[0] for r in rows])
    return figure


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    """Names down the left side, the first on top, long ones on two lines."""
    from textwrap import fill

    axes.set_yticks(range(len(names)), [fill(n, 22) for n in names], fontsize=FONT_SIZE - 1, color=INK)
    axes.set_ylim(len(names) - 0.4, -0.7)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
