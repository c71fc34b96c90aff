"""Survival by fold: what is averaged, whose censoring weighs, groups within folds, and why a number is missing."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.evaluation import survival as km
from medfm.evaluation import survival_figures
from medfm.evaluation.survival_folds import FollowUp, Forecast, evaluate_survival, group_of, marginal

N = 60
PATIENTS = [f"{i:02d}" for i in range(N)]


def case(seed: int = 0) -> tuple[FollowUp, Forecast, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=N)
    died, left = rng.exponential(10 * np.exp(-x)), rng.uniform(2, 25, N)
    follow = FollowUp(np.minimum(died, left), died <= left, np.linspace(0, 12, 25)[1:], 5.0)
    risk = (x + rng.normal(size=N))[None]
    curve = np.exp(-np.exp(0.5 * risk)[..., None] * follow.times / 10)
    return follow, Forecast(risk, np.exp(-np.exp(0.5 * risk) * 0.5), curve), (np.arange(N) % 3)[None]


def test_measures_are_averaged_over_folds_with_the_training_records_censoring() -> None:
    follow, forecast, fold = case()
    found, measured = evaluate_survival(follow, {"a": forecast}, fold, PATIENTS, "e", 50, 0)
    each = []
    for k in range(3):
        rows, train = fold[0] == k, fold[0] != k
        censor = km.censoring(follow.time[train], follow.event[train])
        seen, one = (follow.time[rows], follow.event[rows]), np.ones((20, 1))
        c = km.concordance(*seen, forecast.risk[0, rows], one, censor, 12.0)
        auc = km.auroc_at(*seen, -forecast.at_horizon[0, rows], one, 5.0, censor)
        brier = km.brier_rows(*seen, forecast.at_horizon[0, rows, None], np.array([5.0]), censor).mean()
        times = np.r_[0, follow.times]
        curve = np.c_[np.ones(20), forecast.curve[0, rows]]
        whole = km.integrated(km.brier_rows(*seen, curve, times, censor), times).mean()
        each.append([c[0][0], c[1][0], auc[0], brier, whole])
    within = found["a"]["within_fold"]
    np.testing.assert_allclose([m["value"] for m in within.values()], np.mean(each, axis=0))
    assert all(m["low"] <= m["value"] <= m["high"] for m in within.values())
    pooled = km.concordance(
        follow.time, follow.event, forecast.risk[0], np.ones((N, 1)), km.Curve(*np.zeros((2, 0)))
    )
    assert found["a"]["pooled"]["harrell_c"]["value"] == pytest.approx(pooled[0][0])
    assert [f["events"] for f in found["a"]["folds"]] == [
        int(follow.event[fold[0] == k].sum()) for k in range(3)
    ]
    assert measured.difference("a", "a")["uno_c"]["difference"] == {"value": 0, "low": 0, "high": 0}


def test_the_reference_is_kaplan_meier_of_the_training_records() -> None:
    follow, forecast, fold = case(1)
    flat = marginal(follow, fold)
    curve = km.kaplan_meier(follow.time[fold[0] != 1], follow.event[fold[0] != 1])
    np.testing.assert_allclose(flat.curve[0][fold[0] == 1][0], curve.at(follow.times))
    np.testing.assert_allclose(flat.at_horizon[0][fold[0] == 1], curve.at(5.0))
    found, _ = evaluate_survival(follow, {"a": forecast, "km": flat}, fold, PATIENTS, "e", 0)
    assert found["km"]["within_fold"]["harrell_c"]["value"] == 0.5
    assert found["km"]["risk_groups"]["logrank"] is None


def test_groups_are_thirds_of_each_fold() -> None:
    risk = np.r_[np.arange(9.0), 100 + np.arange(9.0)]
    group = group_of(risk, np.repeat([0, 1], 9))
    assert group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] * 2


def test_a_fold_without_events_is_named_and_left_out() -> None:
    follow, forecast, fold = case(2)
    event = follow.event & (fold[0] != 2)
    follow = FollowUp(follow.time, event, follow.times, follow.horizon)
    found, _ = evaluate_survival(follow, {"a": forecast}, fold, PATIENTS, "e", 20)
    assert "1 of 3 test folds hold no event" in found["a"]["notes"][0]
    folds = [f["harrell_c"] for f in found["a"]["folds"]]
    assert folds[2] is None and found["a"]["headline"]["value"] == pytest.approx(np.mean(folds[:2]))


def test_pictures_are_drawn_with_one_group_and_with_few_records() -> None:
    follow, forecast, fold = case(3)
    for group, names in (
        (group_of(forecast.risk[0], fold[0]), ("low", "middle", "high")),
        (np.zeros(N), ("low",)),
    ):
        figure = survival_figures.kaplan_meier_groups(follow.time, follow.event, group, names, "months", 5.0)
        upper, lower = figure.axes
        assert len([line for line in upper.lines if "risk" in str(line.get_label())]) == len(names)
        assert len(lower.texts) == 5 * len(names) and lower.texts[0].get_text() == str(
            int((group == 0).sum())
        )
    groups = km.calibration_groups(follow.time, follow.event, 1 - forecast.at_horizon[0], 5.0, 3)
    assert len(survival_figures.calibration_at(groups, "e by 5").axes) == 1
