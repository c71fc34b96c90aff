"""Interpolation that a masked model must beat: known answers in one, two and three dimensions."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.evaluation import interpolation
from medfm.evaluation.interpolation import interpolated


def hide(x, where):
    seen = x.copy()
    seen[where] = np.nan
    return seen


def test_along_a_signal_it_is_linear_and_constant_beyond_the_ends():
    x = np.random.default_rng(0).normal(size=(1, 2, 30))
    hidden = np.zeros((1, 2, 30), bool)
    hidden[..., :4] = hidden[..., 9:15] = hidden[..., 20] = hidden[..., 27:] = True
    filled = interpolated(hide(x, hidden))
    for channel in range(2):
        known = ~hidden[0, channel]
        expected = np.interp(np.arange(30), np.flatnonzero(known), x[0, channel, known])
        np.testing.assert_allclose(filled[0, channel], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("direct", [10**9, 0])
def test_every_hidden_pixel_is_the_mean_of_its_neighbours(direct, monkeypatch):
    monkeypatch.setattr(interpolation, "DIRECT", direct)
    monkeypatch.setattr(interpolation, "TOLERANCE", 1e-8)
    rng = np.random.default_rng(1)
    x, hidden = rng.normal(size=(1, 1, 9, 12)), rng.random((1, 1, 9, 12)) < 0.7
    y = interpolated(hide(x, hidden))[0, 0]
    np.testing.assert_allclose(y[~hidden[0, 0]], x[~hidden], rtol=1e-5)
    for i, j in np.argwhere(hidden[0, 0]):
        around = [
            y[a, b] for a, b in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)) if 0 <= a < 9 and 0 <= b < 12
        ]
        assert y[i, j] == pytest.approx(np.mean(around), abs=1e-4)


def test_a_slope_in_a_volume_comes_back_exactly():
    a, b, c = np.meshgrid(np.arange(6), np.arange(5), np.arange(7), indexing="ij")
    x = (2.0 * a - b + 0.5 * c)[None, None]
    hidden = np.zeros(x.shape, bool)
    hidden[..., 2:4, 2:4, 2:5] = True
    np.testing.assert_allclose(interpolated(hide(x, hidden)), x, rtol=1e-5, atol=1e-5)


def test_channels_do_not_help_each_other_and_nothing_seen_is_zero():
    x = np.ones((1, 2, 4, 4), np.float32)
    x[0, 1] = np.nan
    filled = interpolated(x)
    assert (filled[0, 0] == 1).all() and (filled[0, 1] == 0).all()
