"""Calibration on outcomes drawn from known risks, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from medfm.evaluation import calibration


def drawn(slope: float = 1.0, shift: float = 0.0, n: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes whose true logit is ``slope * logit(p) + shift`` of the stated p."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=n) * 1.5 - 0.5
    return (rng.random(n) < calibration.sigmoid(slope * z + shift)).astype(float), calibration.sigmoid(z)


def test_true_probabilities_have_slope_one_and_intercept_zero():
    slope, intercept = calibration.calibration_slope(*drawn())
    assert slope == pytest.approx(1, abs=0.04) and intercept == pytest.approx(0, abs=0.04)
    assert calibration.expected_calibration_error(*drawn()) < 0.01


def test_overconfidence_shows_as_a_slope_under_one_and_is_undone_by_platt():
    y, p = drawn(slope=0.5, shift=0.4)
    assert calibration.calibration_slope(y, p)[0] == pytest.approx(0.5, abs=0.03)
    mended = calibration.platt(y, p)
    assert (mended.slope, mended.intercept) == pytest.approx((0.5, 0.4), abs=0.03)
    assert calibration.expected_calibration_error(y, mended(p)) < 0.01


def test_temperature_finds_the_scale():
    y, p = drawn(slope=0.4)
    scaled = calibration.temperature(y, p)
    assert scaled.slope == pytest.approx(0.4, abs=0.03) and scaled.intercept == 0


def test_slope_equals_an_unpenalised_logistic_regression():
    y, p = drawn(n=300)
    known = LogisticRegression(C=1e10, tol=1e-10).fit(calibration.logit(p)[:, None], y)
    assert calibration.calibration_slope(y, p)[0] == pytest.approx(known.coef_[0, 0], abs=1e-4)


def test_intercept_in_the_large_makes_the_mean_right():
    y, p = drawn(shift=1.0, n=500)
    b = calibration.calibration_slope(y, p)[1]
    assert calibration.sigmoid(calibration.logit(p) + b).mean() == pytest.approx(y.mean(), abs=1e-9)
    assert b > 0.5  # risks were understated


def test_undefined_slopes_are_nan_not_infinite():
    separated = np.array([0, 0, 1, 1.0]), np.array([0.1, 0.2, 0.8, 0.9])
    assert np.isnan(calibration.calibration_slope(*separated)[0])
    assert np.isfinite(calibration.platt(*separated).slope)
    assert np.isnan(calibration.calibration_slope(np.array([0, 1.0, 0]), np.full(3, 0.4))[0])
    assert np.isnan(calibration.calibration_slope(np.ones(3), np.array([0.1, 0.2, 0.3]))).all()


def test_net_benefit_by_hand():
    """Threshold .25: three called, two right: 2/5 - 1/5 * 1/3. Treat everybody: 2/5 - 3/5 * 1/3."""
    y, p = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.5, 0.3, 0.2, 0.1])
    curve = calibration.net_benefit(y, p, np.array([0.25]))
    assert curve["model"][0] == pytest.approx(2 / 5 - 1 / 15)
    assert curve["all"][0] == pytest.approx(2 / 5 - 3 / 15)
    assert curve["none"][0] == 0


def test_reliability_counts_every_row_and_ece_by_hand():
    y, p = np.array([0, 1, 0, 1, np.nan]), np.array([0.2, 0.2, 0.9, 0.9, 0.5])
    r = calibration.reliability(y, p, 2)
    assert r["count"].sum() == 4
    assert r["predicted"] == pytest.approx([0.2, 0.9]) and r["observed"] == pytest.approx([0.5, 0.5])
    assert calibration.expected_calibration_error(y, p, 2) == pytest.approx(0.35)
    assert (r["low"] < 0.5).all() and (r["high"] > 0.5).all()


def test_wilson_bounds_are_the_published_ones():
    """2 of 10: .057 to .510 (Newcombe 1998's method 3, z 1.96)."""
    low, high = calibration.wilson(np.array([0.2]), np.array([10.0]))
    assert (low[0], high[0]) == pytest.approx((0.0567, 0.5098), abs=1e-4)
