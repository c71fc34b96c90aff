"""Survival measures against their definitions pair by pair, hand-computed examples, and simulations with known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medfm.evaluation import survival as km
from medfm.evaluation.bootstrap import percentile_interval, resamples

NONE = km.Curve(np.zeros(0), np.zeros(0))  # nobody is ever censored


def sample(n: int, seed: int, steps: float | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """time, event, and a noisy risk; rounded up to ``steps`` for ties."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    died, left = rng.exponential(10 * np.exp(-x)), rng.uniform(0, 25, n)
    time = np.minimum(died, left)
    time = np.ceil(time / steps) * steps if steps else time
    return time, died <= left, np.round(x + rng.normal(size=n), 1)


def test_kaplan_meier_by_hand() -> None:
    """Six records; the one censored at 2 is at risk at 2, that at 3 not at 4."""
    curve = km.kaplan_meier(np.array([1.0, 2, 2, 3, 4, 5]), np.array([1, 1, 0, 0, 1, 0], bool))
    np.testing.assert_array_equal(curve.times, [1, 2, 4])
    np.testing.assert_array_equal(curve.at_risk, [6, 5, 2])
    np.testing.assert_allclose(curve.values, [5 / 6, 5 / 6 * 4 / 5, 5 / 6 * 4 / 5 / 2])
    np.testing.assert_allclose(curve.at([0.5, 1, 1.9, 4, 9]), [1, 5 / 6, 5 / 6, 1 / 3, 1 / 3])
    np.testing.assert_allclose(curve.before([1.0, 4]), [1, 2 / 3])
    # Greenwood at 2: 1/(6*5) + 1/(5*4); bounds S ** exp(+-1.96 sqrt(.) / |log S|)
    half = 1.959964 * math.sqrt(1 / 30 + 1 / 20) / abs(math.log(2 / 3))
    low, high = curve.interval(2.0)
    assert (low, high) == pytest.approx(((2 / 3) ** math.exp(half), (2 / 3) ** math.exp(-half)))
    assert curve.interval(0.0) == (1.0, 1.0)


def test_the_censoring_curve_lets_events_go_first_and_never_reaches_zero() -> None:
    censor = km.censoring(np.array([1.0, 2, 2, 3]), np.array([0, 1, 0, 0], bool))
    # at 1: 1 of 4; at 2 the event is gone: 1 of 2; at 3 the last leaves, which would be zero
    np.testing.assert_allclose(censor.values, [3 / 4, 3 / 8, 3 / 8])
    assert censor.before(2.0) == 3 / 4 and censor.at(2.0) == 3 / 8


@pytest.mark.parametrize("steps", [None, 2.0])
def test_concordance_is_its_definition_pair_by_pair(
    steps: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    time, event, risk = sample(40, 0, steps)
    censor, limit = km.censoring(*sample(60, 1, steps)[:2]), 12.0
    weights = np.random.default_rng(2).integers(0, 3, (40, 3)).astype(float)
    sums = np.zeros((4, 3))
    for i in range(40):
        for j in range(40):
            if not event[i] or not (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                continue
            right = 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
            again = (time[i] < limit) / censor.before(time[i]) ** 2
            for row, factor in ((0, right), (1, 1.0), (2, right * again), (3, again)):
                sums[row] += weights[i] * weights[j] * factor
    monkeypatch.setattr(km, "BLOCK", 200)  # several blocks of pairs
    harrell, uno = km.concordance(time, event, risk, weights, censor, limit)
    np.testing.assert_allclose(harrell, sums[0] / sums[1])
    np.testing.assert_allclose(uno, sums[2] / sums[3])
    assert not np.allclose(harrell, uno)


def test_concordance_without_comparable_pairs_is_undefined() -> None:
    one = np.ones((2, 1))
    harrell, uno = km.concordance(np.array([1.0, 2]), np.zeros(2, bool), np.array([1.0, 0]), one, NONE)
    assert np.isnan(harrell).all() and np.isnan(uno).all()


@pytest.mark.parametrize("steps", [None, 2.0])
def test_scores_at_a_time_are_their_definitions(steps: float | None) -> None:
    time, event, risk = sample(50, 3, steps)
    censor, horizon = km.censoring(time, event), 6.0
    times = np.array([2.0, horizon, 9.0])
    survival = np.exp(-np.outer(np.exp(0.3 * risk), times) / 10)
    brier, num, den = np.zeros(3), 0.0, 0.0
    for i in range(50):
        for k, t in enumerate(times):
            if event[i] and time[i] <= t:
                brier[k] += survival[i, k] ** 2 / censor.before(time[i])
            elif time[i] > t:
                brier[k] += (1 - survival[i, k]) ** 2 / censor.at(t)
        for j in range(50):
            if event[i] and time[i] <= horizon < time[j]:
                weight = 1 / censor.before(time[i])
                num += weight * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
                den += weight
    rows = km.brier_rows(time, event, survival, times, censor)
    np.testing.assert_allclose(rows.mean(0), brier / 50)
    assert km.integrated(rows, times).mean() * 50 == pytest.approx(
        ((brier[0] + brier[1]) / 2 * 4 + (brier[1] + brier[2]) / 2 * 3) / 7
    )
    assert km.auroc_at(time, event, risk, np.ones((50, 1)), horizon, censor)[0] == pytest.approx(num / den)


def test_logrank_of_two_groups_by_hand() -> None:
    """Sum of (O - E) over its hypergeometric variance, written out for the four event times."""
    time, event = np.array([1.0, 3, 5, 2, 4, 6]), np.array([1, 1, 1, 1, 0, 1], bool)
    group = np.array([0, 0, 0, 1, 1, 1])
    excess = (1 - 3 / 6) + (0 - 2 / 5) + (1 - 2 / 4) + (1 - 1 / 2) + 0
    variance = 1 / 4 + (2 / 5) * (3 / 5) + 1 / 4 + 1 / 4
    statistic, p = km.logrank(time, event, group)
    assert statistic == pytest.approx(excess**2 / variance)
    assert p == pytest.approx(math.erfc(math.sqrt(statistic / 2)))
    assert np.isnan(km.logrank(time, event, np.zeros(6))[0])


def test_calibration_tells_true_chances_from_extreme_ones() -> None:
    rng = np.random.default_rng(0)
    n, x = 4000, rng.normal(size=4000)
    died, left = rng.exponential(10 * np.exp(-x)), rng.uniform(2, 30, n)
    time, event = np.minimum(died, left), died <= left
    p, censor = 1 - np.exp(-5 * np.exp(x) / 10), km.censoring(time, event)
    true = km.calibration_at(time, event, p, 5.0, censor)
    assert true["slope"] == pytest.approx(1, abs=0.08) and true["observed"] == pytest.approx(
        true["predicted"], abs=0.02
    )
    logits = np.log(p / (1 - p))
    extreme = km.calibration_at(time, event, 1 / (1 + np.exp(-2 * logits)), 5.0, censor)
    assert extreme["slope"] == pytest.approx(0.5, abs=0.05)
    groups = km.calibration_groups(time, event, p, 5.0, 5)
    assert [g["records"] for g in groups] == [800] * 5
    assert all(g["low"] <= g["observed"] <= g["high"] for g in groups)
    assert max(abs(g["predicted"] - g["observed"]) for g in groups) < 0.06
    # censored records are made up for: leaving them out would overstate the chance
    seen = event | (time > 5)
    assert (event & (time <= 5))[seen].mean() > true["observed"] + 0.02


def test_unos_c_does_not_move_with_censoring_where_harrells_does() -> None:
    """Hazards that cross: risk ranks right early and wrong late. The truth is that of the uncensored within the limit."""
    rng = np.random.default_rng(1)
    n = 3000
    x = rng.normal(size=n)
    died = np.where(
        rng.random(n) < 0.5, rng.exponential(2 * np.exp(-2 * x)), 4 + rng.exponential(4 * np.exp(2 * x))
    )
    all_seen, ones = np.ones(n, bool), np.ones((n, 1))
    truth = km.concordance(died, all_seen, x, ones, NONE, 8.0)[1][0]
    left = rng.uniform(0, 12, n)
    time, event = np.minimum(died, left), died <= left
    harrell, uno = km.concordance(time, event, x, ones, km.censoring(time, event), 8.0)
    assert uno[0] == pytest.approx(truth, abs=0.015)
    assert abs(harrell[0] - truth) > 0.02


def test_the_patient_interval_of_c_covers_the_truth_about_as_often_as_it_says() -> None:
    """60 patients of 3 records with one risk each; nominal 95 %, the true C from a large sample of patients."""
    rng = np.random.default_rng(2)

    def draw(patients: int, each: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x = np.repeat(rng.normal(size=patients), each)
        died, left = rng.exponential(10 * np.exp(-0.8 * x)), rng.uniform(2, 25, len(x))
        return np.minimum(died, left), died <= left, x

    truth = float(km.concordance(*draw(3000, 1), np.ones((3000, 1)), NONE)[0][0])
    index, covered = np.repeat(np.arange(60), 3), 0
    for trial in range(150):
        time, event, x = draw(60, 3)
        counts = np.concatenate(list(resamples(60, 200, trial)), axis=1)
        c = km.concordance(time, event, x, counts[index], NONE)[0]
        low, high = percentile_interval(c)
        covered += low <= truth <= high
    assert 0.88 <= covered / 150 <= 0.99
