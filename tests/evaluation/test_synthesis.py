"""Errors of a synthesised sequence against numbers derived by hand, and baselines against what generated the data."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.evaluation.synthesis import applied, fidelity, moments, regression, ssim_map, summary


def test_psnr_and_errors_are_those_of_the_foreground_alone() -> None:
    truth = np.zeros((6, 6, 6), np.float32)
    inside = np.zeros(truth.shape, bool)
    inside[1:5, 1:5, 1:5] = True
    truth[inside] = np.linspace(-1, 3, inside.sum())
    guess = truth + np.where(inside, 0.5, 100.0).astype(np.float32)  # what lies outside must not count
    part = np.zeros_like(inside)
    part[2, 2, 2] = True
    guess[2, 2, 2] = truth[2, 2, 2] - 2
    low, high = np.percentile(truth[inside], (0.5, 99.5))
    mse = (63 * 0.25 + 4) / 64
    found = fidelity(truth, guess, inside, {"tumour": part, "nothing": np.zeros_like(part)})
    assert found["psnr"] == pytest.approx(10 * np.log10((high - low) ** 2 / mse), rel=1e-5)
    assert found["rmse"] == pytest.approx(mse**0.5, rel=1e-5)
    assert found["rmse tumour"] == pytest.approx(2.0, rel=1e-5) and found["rmse nothing"] is None
    same = fidelity(truth, truth, inside)
    assert same["psnr"] is None and same["ssim"] == pytest.approx(1.0, abs=1e-4)
    assert fidelity(truth, guess, np.zeros_like(inside))["psnr"] is None


def test_ssim_of_a_voxel_is_that_of_its_window() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 13, 13, 13))
    peak = 4.0
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weight = line[:, None, None] * line[None, :, None] * line[None, None]
    weight /= weight.sum()
    p, q = a[1:12, 1:12, 1:12], b[1:12, 1:12, 1:12]  # around the middle voxel
    mp, mq = (weight * p).sum(), (weight * q).sum()
    vp, vq, c = (
        (weight * p * p).sum() - mp**2,
        (weight * q * q).sum() - mq**2,
        (weight * p * q).sum() - mp * mq,
    )
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    wanted = (2 * mp * mq + c1) / (mp**2 + mq**2 + c1) * (2 * c + c2) / (vp + vq + c2)
    assert ssim_map(a, b, peak)[6, 6, 6] == pytest.approx(wanted, abs=1e-4)
    assert ssim_map(a[:, :, :4], b[:, :, :4], peak).shape == (13, 13, 4)


def test_regression_finds_what_made_the_data_and_ignores_absent_channels() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 8, 8, 8))
    x[2] = 0.5 + 2.0 * x[0] - 1.5 * x[3]
    x[1] = np.nan  # absent
    inside = rng.random((8, 8, 8)) < 0.7
    total = moments(x, inside) + moments(x, ~inside)
    coefficients = regression(total, [0, 3], 2)
    np.testing.assert_allclose(coefficients, [0.5, 2.0, -1.5], atol=1e-4)
    np.testing.assert_allclose(applied(coefficients, x, [0, 3])[inside], x[2][inside], atol=1e-3)
    assert np.isfinite(regression(moments(x[[0, 0, 2]], inside), [0, 1], 2)).all()  # two equal inputs


def test_summary_averages_what_is_known() -> None:
    rows = [
        {"sequence": "t2", "arm": "a", "psnr": 10.0, "ssim": None},
        {"sequence": "t2", "arm": "a", "psnr": 20.0, "ssim": None},
        {"sequence": "t2", "arm": "b", "psnr": 5.0, "ssim": 0.5},
    ]
    assert summary(rows, ("a", "b", "c"), ("psnr", "ssim")) == [
        {"sequence": "t2", "arm": "a", "subjects": 2, "psnr": 15.0, "ssim": None},
        {"sequence": "t2", "arm": "b", "subjects": 1, "psnr": 5.0, "ssim": 0.5},
    ]
