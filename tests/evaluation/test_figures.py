"""Figures: each one draws what it says, from awkward data too, without pyplot."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from medfm.evaluation import figures
from medfm.evaluation.training_figures import project
from medfm.types import MedfmError

RNG = np.random.default_rng(0)
Y = (RNG.random(120) < 0.3).astype(float)
P = np.clip(0.25 * Y + 0.7 * RNG.random(120), 0, 1)
ONE_CLASS = np.zeros(120)
LEADS = [f"lead {i}" for i in range(12)]


def drawn(figure) -> str:
    """Rendered, so that layout errors show; all words on it."""
    figure.canvas.draw()
    words = [t.get_text() for a in figure.axes for t in [*a.texts, a.title, a.xaxis.label, a.yaxis.label]]
    for a in figure.axes:
        handles = a.get_legend()
        words += [t.get_text() for t in handles.get_texts()] if handles else []
    words += [t.get_text() for g in figure.legends for t in g.get_texts()]
    return "\n".join(words)


def test_roc_legend_has_the_area_and_one_class_is_left_out():
    words = drawn(figures.roc({"afib": (Y, P), "lbbb": (ONE_CLASS, P)}))
    assert f"afib  {figures.auroc(Y, P):.3f}" in words and "lbbb" not in words


def test_roc_line_is_the_curve():
    axes = figures.roc({"a": (np.array([0, 1.0]), np.array([0.2, 0.8]))}).axes[0]
    assert axes.lines[1].get_xydata().tolist() == [[0, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize("draw", [figures.precision_recall, figures.calibration, figures.decision_curve])
def test_curves_name_every_arm(draw):
    words = drawn(draw({"pretrained": (Y, P), "random": (np.where(Y, np.nan, Y), P)}))
    assert "pretrained" in words


def test_fold_dots_and_arms_hold_every_value():
    table = [{"macro_auroc": v} for v in (0.7, 0.8, None)]
    figure = figures.fold_dots({"LoRA": table, "a rather long name of an arm": table})
    drawn(figure)
    dots = figure.axes[0].collections
    assert len(dots) == 2 and np.nanmax(dots[0].get_offsets()[:, 0]) == 0.8
    words = drawn(
        figures.compare_arms([("a", 0.8, 0.7, 0.9), ("b", 0.6, None, None), ("c", None, None, None)])
    )
    assert "0.800" in words and "0.600" in words


def test_training_curves_skip_absent_columns():
    frame = pd.DataFrame({"step": range(100), "loss": RNG.random(100), "lr": np.linspace(1e-3, 0, 100)})
    frame["effective_rank"] = np.nan
    figure = figures.training_curves(frame)
    drawn(figure)
    assert [a.get_title(loc="left") for a in figure.axes] == ["Loss", "Learning rate"]
    with pytest.raises(MedfmError, match="no training curve"):
        figures.training_curves(frame[["step"]])


def test_pca_finds_the_axes_of_most_variance():
    z = np.zeros((200, 5))
    z[:, 3], z[:, 1] = 10 * RNG.normal(size=200), RNG.normal(size=200)
    points, names = project(z)
    assert abs(np.corrcoef(points[:, 0], z[:, 3])[0, 1]) > 0.999
    assert abs(np.corrcoef(points[:, 1], z[:, 1])[0, 1]) > 0.999
    assert names[0] == "Component 1 (99 % of variance)"
    assert project(np.zeros((4, 1)))[0].shape == (4, 2)


@pytest.mark.parametrize("labels", [np.array(["a", "b"])[(Y > 0).astype(int)], np.arange(120) % 30, P, Y > 0])
def test_embedding_map_takes_names_numbers_and_many_kinds(labels):
    words = drawn(figures.embedding_map(RNG.normal(size=(120, 8)), labels))
    assert "Component 1" in words


def test_tsne_keeps_two_clusters_apart_and_refuses_too_many_points():
    z = RNG.normal(size=(60, 5)) + 20 * (np.arange(60) % 2)[:, None]
    points, _ = project(z, "tsne")
    a, b = points[::2], points[1::2]
    assert np.linalg.norm(a.mean(0) - b.mean(0)) > a.std() + b.std()
    with pytest.raises(MedfmError, match="2,000 or fewer"):
        project(np.zeros((2001, 3)), "tsne")


def test_ecg_mask_shades_what_is_hidden():
    masked = np.zeros(10, dtype=bool)
    masked[[2, 3, 7]] = True
    error = np.where(masked, 0.5, np.nan)
    x = RNG.normal(size=(12, 1000))
    x[4] = np.nan
    figure = figures.ecg_mask(x, masked, error, fs=100, channels=LEADS, constant=0.6)
    assert "lead 11" in drawn(figure)
    spans = [c.get_datalim(figure.axes[0].transData) for c in figure.axes[0].collections]
    extents = sorted((round(s.x0, 6), round(s.x1, 6)) for s in spans)
    assert extents == [(2, 4), (7, 8)]
    assert [round(b.get_height(), 3) for b in figure.axes[1].patches] == [0, 0, 0.5, 0.5, 0, 0, 0, 0.5, 0, 0]
    drawn(figures.ecg_mask(x, np.tile(masked, (12, 1)), None, fs=100, channels=LEADS))


def test_picture_masks_show_one_grey_scale_a_picture():
    x = RNG.normal(size=(2, 1, 8, 12))
    seen = np.where(np.arange(12) < 6, x, np.nan)
    figure = figures.picture_masks(x, seen, x + 5)
    assert "What was seen" in drawn(figure)
    images = [axes.images[0] for axes in figure.axes]
    assert len(images) == 6 and all(i.get_clim() == (x[0].min(), x[0].max()) for i in images[:3])
    assert images[1].get_array().mask[:, 6:].all() and not images[1].get_array().mask[:, :6].any()
    drawn(figures.picture_masks(np.zeros((1, 3, 8, 8)), np.zeros((1, 3, 8, 8)), np.zeros((1, 3, 8, 8))))


def test_views_of_a_signal_lie_over_each_other():
    views = np.random.default_rng(0).normal(size=(2, 12, 500))
    views[1, 3] = np.nan  # a lead that one view drops
    figure = figures.signal_views(views, fs=100, channels=LEADS)
    (axes,) = figure.axes
    assert len(axes.lines) == 24 and [t.get_text() for t in axes.get_yticklabels()] == list(LEADS)
    level = [np.nanmean(line.get_ydata()) for line in axes.lines[::2]]
    assert (np.diff(level) < 0).all(), "the first lead is at the top"
    assert axes.lines[0].get_xdata()[-1] == 4.99
    drawn(figure)
    drawn(figures.signal_views(np.full((2, 1, 10), np.nan), fs=1, channels=("I",)))


def test_no_pyplot_and_no_display_state():
    code = (
        "import sys; from medfm.evaluation import figures as f, report; f.compare_arms([('a', .5, .4, .6)]); "
    )
    code += "assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
