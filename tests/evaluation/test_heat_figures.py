"""The heat map lies over the part of the picture that it is of."""

from __future__ import annotations

import numpy as np

from medfm.evaluation.heat_figures import picture_heat


def _pixels(figure, axes):
    """RGB of the picture in ``axes`` at 40 x 60 points, row by row."""
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(float)
    rows, columns = np.mgrid[2:40:4, 2:60:4]
    at = axes.transData.transform(np.stack([columns.ravel(), rows.ravel()], axis=1)).astype(int)
    return drawn[drawn.shape[0] - 1 - at[:, 1], at[:, 0]].reshape(*rows.shape, 3)


def test_a_cell_is_drawn_where_it_is_and_the_rest_stays_clear():
    x = np.full((3, 40, 60), 0.4, np.float32)
    x[:, 0, 0], x[:, 0, 1] = 0, 1
    heat = np.zeros((2, 2))
    heat[1, 1] = 1
    figure = picture_heat(x, heat, (20, 30))
    plain, over = (_pixels(figure, axes) for axes in figure.axes)
    changed = np.abs(over - plain).max(-1) > 12
    assert changed[7:, 11:].all()
    # Clear up to the centres of the cells beside it.
    assert not changed[:2].any() and not changed[:, :3].any()


def test_a_grid_that_overhangs_the_picture_is_cut():
    """Convolutional networks round their maps up: 2 x 2 cells of 32 over 40 x 60 pixels."""
    figure = picture_heat(np.random.default_rng(0).random((1, 40, 60)), np.ones((2, 2)), (32, 32))
    for axes in figure.axes:
        assert axes.get_xlim() == (-0.5, 59.5) and axes.get_ylim() == (39.5, -0.5)
    assert figure.axes[1].images[1].get_extent() == [-0.5, 63.5, 63.5, -0.5]


def test_without_a_heat_map_there_is_one_picture():
    x = np.full((1, 8, 8), np.nan)
    x[0, 2:5, 2:5] = np.arange(9).reshape(3, 3)
    figure = picture_heat(x)
    assert len(figure.axes) == 1 and figure.axes[0].images[0].get_array().mask.sum() == 55
