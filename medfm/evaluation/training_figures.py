"""The pictures of training: curves over the steps, a map of the embeddings, a record with what was hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

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
from medfm.types import MedfmError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# columns of metrics.csv by panel, with what a person calls them
PANELS = (
    (
        "Loss",
        {
            "loss": "loss",
            "train_loss": "training",
            "val_loss": "validation",
            "jepa_loss": "of hidden tokens",
            "truth_loss": "of simulated truths",
            "positive_loss": "of overlapping crops",
            "negative_loss": "of crops apart",
            "inter_loss": "between volumes",
            "base_loss": "of base crops",
            "dice_loss": "Dice loss",
            "cross_entropy": "cross-entropy",
        },
    ),
    ("Cosine similarity", {"positive_similarity": "own view", "negative_similarity": "other records"}),
    ("Correlation of guessed with true overlap", {"position_correlation": "position correlation"}),
    (
        "Cosine similarity of crops",
        {
            "similarity_positive": "overlapping",
            "similarity_negative": "apart",
            "base_cosine": "base crops",
        },
    ),
    ("Dice of fused volumes", {"fusion_dice": "Dice", "fusion_dice_chance": "of guessing"}),
    ("Own view found", {"own_key_found": "share of the records"}),
    ("Learning rate", {"lr": "learning rate"}),
    (
        "Deviation over records",
        {"target_std": "targets", "context_std": "embeddings", "deviation": "embeddings"},
    ),
    ("Effective rank", {"effective_rank": "effective rank", "rankme": "RankMe"}),
    ("Probe AUROC", {"probe_auroc": "frozen probe"}),
)
TSNE_LIMIT = 2000
HIDDEN = "#f6deb1"
MANY = 12  # labels that a legend still holds


def training_curves(frame: pd.DataFrame, *, x: str = "step") -> Figure:
    """One panel each for loss, learning rate, collapse measures and probe, as far as ``frame`` has the
    columns.

    A loss logged at every step is drawn pale with its running mean on top.
    """
    panels = [
        (t, {c: n for c, n in names.items() if c in frame and frame[c].notna().any()}) for t, names in PANELS
    ]
    panels = [(title, names) for title, names in panels if names]
    if x not in frame or not panels:
        raise MedfmError(f"no training curve can be drawn: the metrics need {x!r} and one of loss, lr, ...")
    figure = new_figure(WIDTH, 0.4 + 1.65 * len(panels))
    for axes, (title, names) in zip(
        figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels
    ):
        style(axes)
        axes.set_title(title, fontsize=FONT_SIZE - 0.5, color=INK, loc="left", pad=4)
        for i, (column, name) in enumerate(names.items()):
            line = frame[[x, column]].dropna()
            few = len(line) <= 12
            noisy = title == "Loss" and len(line) > 60
            axes.plot(
                line[x],
                line[column],
                color=colour(i),
                linewidth=0.8 if noisy else 1.8,
                alpha=0.35 if noisy else 1,
                marker="o" if few else None,
                markersize=4,
                label=None if noisy else name,
            )
            if noisy:
                smooth = line[column].rolling(max(5, len(line) // 40), center=True, min_periods=1).mean()
                axes.plot(line[x], smooth, color=colour(i), linewidth=1.9, label=f"{name}, running mean")
        if len(names) > 1:
            legend(axes, loc="best")
        if title == "Learning rate":
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(x.capitalize(), fontsize=FONT_SIZE, color=INK)
    return figure


def project(
    z: np.ndarray, method: Literal["pca", "tsne"] = "pca", seed: int = 0
) -> tuple[np.ndarray, list[str]]:
    """Two coordinates ``[n, 2]`` of embeddings z ``[n, D]`` and their axis names (PCA: with the variance
    they hold).

    t-SNE takes at most 2,000 points; its distances between groups mean nothing, so it has no axis names.
    """
    z = np.asarray(z, dtype=float)
    centred = z - z.mean(0)
    if method == "pca":
        scale, turn = np.linalg.eigh(centred.T @ centred)
        share = np.clip(scale[::-1][:2], 0, None) / max(float(np.clip(scale, 0, None).sum()), 1e-300)
        points = centred @ turn[:, ::-1][:, :2]
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
        return points, [f"Component {k + 1} ({100 * s:.0f} % of variance)" for k, s in enumerate(share)] + [
            ""
        ] * (2 - len(share))
    if len(z) > TSNE_LIMIT:
        raise MedfmError(
            f"t-SNE of {len(z):,} points takes too long: give {TSNE_LIMIT:,} or fewer, or use 'pca'."
        )
    from sklearn.manifold import TSNE

    perplexity = float(min(30, max(2, (len(z) - 1) / 3)))
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(centred), ["", ""]


def embedding_map(
    z: np.ndarray,
    labels: np.ndarray | Sequence[Any],
    *,
    method: Literal["pca", "tsne"] = "pca",
    seed: int = 0,
) -> Figure:
    """Embeddings ``[n, D]`` in two dimensions: names by colour and marker, many numbers by a scale."""
    points, axis_names = project(z, method, seed)
    values = np.asarray(labels)
    figure = new_figure(WIDTH, 4.4)
    axes = style(figure.subplots(), axis_names[0], axis_names[1])
    size = float(np.clip(4000 / max(1, len(points)), 6, 36))
    look: dict[str, Any] = {"s": size, "alpha": 0.7, "linewidths": 0, "rasterized": True}
    kinds = np.unique(values.astype(str))
    if values.dtype.kind == "f" and len(kinds) > MANY:
        drawn = axes.scatter(points[:, 0], points[:, 1], c=values, cmap="cividis", **look)
        figure.colorbar(drawn, ax=axes, shrink=0.8).ax.tick_params(labelsize=FONT_SIZE - 2)
        return figure
    order = sorted(kinds, key=lambda k: -(values.astype(str) == k).sum())
    shown, rest = (order, []) if len(order) <= MANY else (order[: MANY - 1], order[MANY - 1 :])
    if rest:
        inside = np.isin(values.astype(str), rest)
        axes.scatter(*points[inside].T, color=MUTED, label=f"{len(rest)} others", **look)
    for i, kind in enumerate(shown):
        inside = values.astype(str) == kind
        axes.scatter(*points[inside].T, color=colour(i), marker=MARKERS[i % len(MARKERS)], label=kind, **look)
    axes.set_xticklabels([])
    axes.set_yticklabels([])
    legend_below(axes, markerscale=1.6)
    return figure


def ecg_mask(
    x: np.ndarray,
    masked: np.ndarray,
    error: np.ndarray | None,
    *,
    fs: float,
    channels: Sequence[str],
    constant: float | None = None,
) -> Figure:
    """A record with its hidden tokens shaded, and the prediction error of each hidden token under it.

    x ``[C, T]`` (any unit; NaN is a gap), masked bool ``[N]`` (tokens of equal length in time, all
    channels) or ``[C, N]``; error ``[N]`` with NaN where nothing was predicted, or None. fs in Hz.
    ``constant``: the error of the best constant prediction, drawn as a line to judge the bars by."""
    n_channels, length = x.shape
    masked = np.atleast_2d(np.asarray(masked, dtype=bool))
    seconds = length / fs
    token = seconds / masked.shape[1]
    figure = new_figure(5.4, 1.4 + 0.46 * n_channels + (1.0 if error is not None else 0))
    ratios = (0.46 * n_channels + 0.4, 1.0) if error is not None else (1.0,)
    panels = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    axes = style(panels[0], grid="none")
    spread = np.nanpercentile(np.abs(x), 99.5) if np.isfinite(x).any() else 1.0
    step = 1.3 * float(spread) or 1.0
    time = np.arange(length) / fs
    for c, name in enumerate(channels):
        level = -c * step
        axes.plot(time, np.clip(x[c], -2 * spread, 2 * spread) + level, color=INK, linewidth=0.6)
        axes.annotate(
            name,
            (0, level),
            (-6, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=FONT_SIZE - 1.5,
        )
    rows = masked if masked.shape[0] == n_channels else masked[:1]
    for c, row in enumerate(rows):
        low, high = (
            (-(c + 0.5) * step, -(c - 0.5) * step)
            if len(rows) > 1
            else (-(n_channels - 0.2) * step, 0.9 * step)
        )
        for start, end in _runs(row):
            axes.fill_between(
                [start * token, end * token], low, high, color=colour(4), alpha=0.28, linewidth=0
            )
    axes.set(xlim=(0, seconds), ylim=(-(n_channels - 0.2) * step, 0.9 * step), yticks=[])
    axes.spines["left"].set_visible(False)
    if error is not None:
        style(panels[1], "", "Error")
        panels[1].bar(
            (np.arange(len(error)) + 0.5) * token, np.nan_to_num(error), width=0.9 * token, color=colour(1)
        )
        if constant is not None:
            panels[1].axhline(
                constant, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label="best constant guess"
            )
            legend(panels[1], loc="upper right")
    panels[-1].set_xlabel("Time (s)", fontsize=FONT_SIZE, color=INK)
    return figure


def picture_masks(x: np.ndarray, seen: np.ndarray, guess: np.ndarray) -> Figure:
    """Each picture beside what was seen of it and what was made of that; all ``[n, C, H, W]``, NaN: hidden."""
    return picture_rows((x, seen, guess), ("Picture", "What was seen", "Hidden parts guessed"))


def picture_rows(columns: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """Pictures ``[n, C, H, W]`` side by side, a row each; the first one gives the grey scale of its row, NaN shows the
    ground, and three channels are drawn as their mean."""
    x = columns[0]
    wide = WIDTH / (len(columns) + 0.2)
    figure = new_figure(WIDTH, 0.3 + len(x) * wide * x.shape[2] / x.shape[3])
    grid = figure.subplots(len(x), len(columns), squeeze=False)
    for row, pictures in zip(grid, zip(*columns)):
        low, high = float(np.nanmin(pictures[0])), float(np.nanmax(pictures[0]))
        for axes, picture in zip(row, pictures):
            grey = np.ma.masked_invalid(picture.mean(0))  # what is hidden shows the ground
            axes.imshow(grey, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
            axes.set(xticks=[], yticks=[], facecolor=HIDDEN)
            for spine in axes.spines.values():
                spine.set_visible(False)
    for axes, title in zip(grid[0], titles):
        axes.set_title(title, fontsize=FONT_SIZE - 0.5, color=INK)
    return figure


def signal_views(views: np.ndarray, *, fs: float, channels: Sequence[str]) -> Figure:
    """Views ``[V, C, T]`` of a record over each other, channel by channel (any unit; NaN is a gap). fs in Hz."""
    figure = new_figure(WIDTH, 0.8 + 0.46 * len(channels))
    axes = style(figure.subplots(), "Time (s)", "", grid="none")
    spread = float(np.nanpercentile(np.abs(views), 99.5)) if np.isfinite(views).any() else 1.0
    step = 1.3 * spread or 1.0
    time = np.arange(views.shape[2]) / fs
    for c in range(len(channels)):
        for v, view in enumerate(views):
            label = f"view {v + 1}" if c == 0 else None
            drawn = np.clip(view[c], -2 * spread, 2 * spread) - c * step
            axes.plot(time, drawn, color=colour(v), linewidth=0.7, label=label)
    axes.set(xlim=(0, time[-1]), yticks=[-c * step for c in range(len(channels))], yticklabels=channels)
    legend_below(axes)
    return figure


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """[start, end) of each run of True."""
    edges = np.flatnonzero(np.diff(np.r_[False, mask, False].astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))
