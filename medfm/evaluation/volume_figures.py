"""Volumes as slices side by side."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from medfm.evaluation.figure_style import (
    FONT_SIZE,
    INK,
    MUTED,
    WIDTH,
    colour,
    legend,
    new_figure,
    style,
)

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


def positions(similarity: np.ndarray, overlap: np.ndarray) -> Figure:
    """Guessed similarity against true overlap of crop pairs, both ``[n]`` from 0 to 1, with the mean guess by overlap."""
    figure = new_figure(WIDTH, 0.6 * WIDTH)
    axes = style(
        figure.subplots(), "share of the crop that lies in the base", "similarity that the network sees"
    )
    apart = overlap == 0
    axes.scatter(overlap[~apart], similarity[~apart], s=7, color=colour(0), alpha=0.3, linewidth=0)
    few = np.flatnonzero(apart)[:: max(1, int(apart.sum()) // 400)]
    jitter = np.random.default_rng(0).uniform(-0.012, 0.0, len(few))
    axes.scatter(jitter, similarity[few], s=7, color=MUTED, alpha=0.35, linewidth=0)
    edges = np.linspace(0, 1, 11)
    middle, mean = [0.0] if apart.any() else [], [float(similarity[apart].mean())] if apart.any() else []
    for low, high in pairwise(edges):
        inside = (overlap > low) & (overlap <= high)
        if inside.sum() >= 5:
            middle.append((low + high) / 2)
            mean.append(float(similarity[inside].mean()))
    axes.plot(middle, mean, color=INK, linewidth=1.8, marker="o", markersize=4, label="mean")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.0, linestyle=(0, (4, 2)), label="a perfect guess")
    axes.set(xlim=(-0.03, 1.02), ylim=(-0.03, 1.02))
    legend(axes, loc="best")
    return figure


def fusion(
    back: np.ndarray,
    front: np.ndarray,
    fused: np.ndarray,
    share: np.ndarray,
    guess: np.ndarray,
    *,
    levels: int,
) -> Figure:
    """Slices ``[n, H, W]``: background, foreground, what was fused of them, and the foreground's share (0 to ``levels``) with
    the network's guess of it."""
    titles = ("Background", "Foreground", "Fused", "Share of the foreground", "Guessed")
    wide = WIDTH / (len(titles) + 0.2)
    figure = new_figure(WIDTH, 0.3 + len(back) * wide * back.shape[1] / back.shape[2])
    grid = figure.subplots(len(back), len(titles), squeeze=False)
    for row, pictures in zip(grid, zip(back, front, fused, share, guess)):
        for i, (axes, picture) in enumerate(zip(row, pictures)):
            limits = (
                {"cmap": "gray", "vmin": 0, "vmax": 1}
                if i < 3
                else {"cmap": "viridis", "vmin": 0, "vmax": levels}
            )
            axes.imshow(picture, **limits)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set_visible(False)
    for axes, title in zip(grid[0], titles):
        axes.set_title(title, fontsize=FONT_SIZE - 1.5, color=INK)
    return figure
