"""Measures of a value against scikit-learn and SciPy, by fold and pooled, with intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from medfm.evaluation.measured import measure_folds
from medfm.evaluation.regression import (
    NAMES,
    agreement,
    constant_arms,
    difference_words,
    evaluate_regression,
    regression_metrics,
)
from medfm.types import MedfmError


def sample(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.normal(1000, 12, n)
    return y, 1000 + 0.6 * (y - 1000) + rng.normal(0, 8, n) + 3


def by_hand(y: np.ndarray, p: np.ndarray) -> list[float]:
    line = stats.linregress(p, y)
    return [
        sk.mean_absolute_error(y, p),
        sk.root_mean_squared_error(y, p),
        sk.r2_score(y, p),
        stats.pearsonr(y, p)[0],
        line.slope,
        line.intercept,
    ]


def test_measures_equal_other_libraries_and_weights_are_repeated_rows() -> None:
    y, p = sample()
    np.testing.assert_allclose(regression_metrics(y, p, np.ones((60, 1)))[:, 0], by_hand(y, p))
    counts = np.random.default_rng(1).integers(0, 4, (60, 2)).astype(np.float32)
    for b in range(2):
        rows = np.repeat(np.arange(60), counts[:, b].astype(int))
        np.testing.assert_allclose(
            regression_metrics(y, p, counts)[:, b], by_hand(y[rows], p[rows]), rtol=1e-6
        )


def test_a_constant_has_no_correlation_and_no_slope() -> None:
    y, p = sample()
    mae, _, r2, r, slope, intercept = regression_metrics(y, np.full(60, 1000.0), np.ones((60, 1)))[:, 0]
    assert np.isfinite(mae) and r2 <= 0 and np.isnan([r, slope, intercept]).all()
    assert np.isnan(regression_metrics(np.full(60, 5.0), p, np.ones((60, 1)))[2:4]).all()


def test_constants_come_from_the_training_rows_of_each_fold() -> None:
    y, fold = np.array([1.0, 2, 3, 10, 20, 90]), np.array([0, 0, 0, 1, 1, 1])
    arms = constant_arms(y, fold)
    np.testing.assert_array_equal(arms["training mean"], [[40, 40, 40, 2, 2, 2]])
    np.testing.assert_array_equal(arms["training median"], [[20, 20, 20, 2, 2, 2]])


def test_within_folds_is_a_mean_over_folds_and_pooled_is_not() -> None:
    """In each fold the prediction is perfect up to the fold's own shift."""
    y = np.array([0.0, 1, 2, 3, 4, 5, 6, 7])
    fold = np.repeat([0, 1], 4)
    p = y + np.where(fold == 0, 2.0, -1.0)
    found, measured = evaluate_regression(
        y, {"a": p[None], "b": y[None]}, fold[None], list("abcdefgh"), "t", 200, 0
    )
    assert (
        found["a"]["within_fold"]["mae"]["value"] == 1.5
        and found["a"]["within_fold"]["pearson"]["value"] == 1
    )
    assert found["a"]["pooled"]["pearson"]["value"] == pytest.approx(stats.pearsonr(y, p)[0])
    assert [f["mae"] for f in found["a"]["folds"]] == [2, 1]
    assert found["b"]["headline"]["value"] == 0
    pair = measured.difference("a", "b")["mae"]
    assert (pair["a"], pair["b"], pair["difference"]["value"]) == (1.5, 0, 1.5)
    # every resample errs by 2 in one fold and 1 in the other
    assert pair["difference"]["low"] == pair["difference"]["high"] == 1.5
    assert found["a"]["repeats"] == {"n": 1, "mae": [1.5], "sd": None}


def test_repeats_are_averaged_and_a_patient_in_two_folds_is_refused() -> None:
    y, p = sample(20)
    folds = np.stack([np.arange(20) % 2, np.arange(20) // 10])
    found, _ = evaluate_regression(y, {"a": np.stack([p, p + 1])}, folds, [str(i) for i in range(20)], "t", 0)
    each = [[np.abs(q - y)[f == k].mean() for k in (0, 1)] for q, f in zip((p, p + 1), folds)]
    assert found["a"]["within_fold"]["mae"]["value"] == pytest.approx(np.mean(each))
    assert found["a"]["within_fold"]["mae"]["low"] is None
    with pytest.raises(MedfmError, match="more than one test fold"):
        evaluate_regression(y, {"a": p[None]}, folds[:1], ["one"] * 20, "t", 0)


def test_the_interval_resamples_patients_and_not_records() -> None:
    """Five identical records a patient say no more than one."""
    y, p = sample(24)
    fold = np.zeros(24, int)
    once = evaluate_regression(y, {"a": p[None]}, fold[None], [f"{i:02d}" for i in range(24)], "t", 400)[0][
        "a"
    ]
    many = evaluate_regression(
        np.repeat(y, 5),
        {"a": np.repeat(p, 5)[None]},
        np.repeat(fold, 5)[None],
        np.repeat([f"{i:02d}" for i in range(24)], 5),
        "t",
        400,
    )[0]["a"]
    for bound in ("low", "high"):
        assert many["within_fold"]["mae"][bound] == pytest.approx(once["within_fold"]["mae"][bound], rel=1e-6)


def test_agreement_and_words() -> None:
    found = agreement(np.array([1.0, 2, 3]), np.array([2.0, 2, 5]))
    assert found == pytest.approx({"bias": 1, "low": 1 - 1.96, "high": 1 + 1.96})
    words = ("model", "median")
    assert "better than" in difference_words({"value": -1.0, "low": -2.0, "high": -0.1}, words, 9)
    assert "worse than" in difference_words({"value": 1.0, "low": 0.1, "high": 2.0}, words, 9)
    assert "cannot tell" in difference_words({"value": -1.0, "low": -2.0, "high": 0.1}, words, 9)
    assert "cannot be compared" in difference_words({"value": 1.0, "low": None, "high": None}, words, 9)


def test_coverage_of_the_mean_absolute_error() -> None:
    rng, covered = np.random.default_rng(5), 0
    for trial in range(120):
        error = rng.normal(size=80)
        y = rng.normal(size=80)
        found, _ = evaluate_regression(
            y, {"a": (y + error)[None]}, np.zeros((1, 80), int), np.arange(80), "t", 200, trial
        )
        low, high = (found["a"]["within_fold"]["mae"][k] for k in ("low", "high"))
        covered += low <= np.sqrt(2 / np.pi) <= high
    assert 0.88 <= covered / 120 <= 0.99


def test_names_are_the_rows_of_the_measures() -> None:
    assert len(NAMES) == len(regression_metrics(*sample(), np.ones((60, 1)))) and measure_folds.__doc__
