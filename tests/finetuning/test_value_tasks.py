"""Regression and survival as tasks: what a table may hold, losses and hazards by hand, linear probes by other libraries."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from tiny import ArrayRecords, backbone, inner, signals

from medfm.config.strategies import STRATEGIES
from medfm.finetuning.fit import Problem, fit
from medfm.finetuning.linear import fit_linear
from medfm.finetuning.question import make_task, task_of
from medfm.finetuning.records import embeddings, predict_logits
from medfm.finetuning.regression import Regression
from medfm.finetuning.survival import Survival
from medfm.finetuning.task import Task, check_counts
from medfm.types import ConfigError, MedfmError

NAN = math.nan
INF = math.inf


def one(values: list, kind: str = "auto") -> tuple[Task, np.ndarray]:
    return make_task(pd.DataFrame({"x": values}), ["x"], kind)


def two(time: list, event: list, targets: str = "t,e") -> tuple[Task, np.ndarray]:
    return make_task(pd.DataFrame({"t": time, "e": event}), targets.split(","), "survival")


def survival(**more: Any) -> Survival:
    return Survival("survival", ("t", "e"), ("e",), **more)


# --- what a table may hold ---


def test_many_numbers_are_a_regression_and_it_is_said() -> None:
    task, y = one([*range(40), None])
    assert isinstance(task, Regression) and "40 different numbers" in task.notes[0]
    np.testing.assert_array_equal(y[:, 0], [*range(40), NAN])
    assert one(list(range(20)))[0].kind == "multiclass"
    three, _ = one([0.5, 1.0, 2.5, 1.0], "regression")
    assert "3 different values only (0.5, 1, 2.5)" in three.notes[0]
    assert one(["1.5", " ", "3"], "regression")[1][:, 0].tolist()[::2] == [1.5, 3.0]


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        ([5.0] * 30, "regression", "is 5 in every known row"),
        ([1.0, INF, *range(30)], "regression", "infinite"),
        ([1.0, INF, *range(30)], "auto", "infinite"),
        (["2020-01-01", "2021-02-03", "2022-03-04"], "regression", "holds dates"),
        (["5", "12 mg", "7"], "regression", r"1 cells that are no numbers \(12 mg\)"),
        ([NAN, NAN], "regression", "every row is blank"),
    ],
)
def test_what_cannot_be_a_value_is_said(values: list, kind: str, words: str) -> None:
    with pytest.raises(MedfmError, match=words):
        one(values, kind)


def test_regression_takes_one_column() -> None:
    frame = pd.DataFrame({"a": [1.0, 2], "b": [1.0, 2]})
    with pytest.raises(MedfmError, match="regression takes one target column, not 2"):
        make_task(frame, ["a", "b"], "regression")
    with pytest.raises(MedfmError, match="--task guess is unknown; use auto, binary"):
        make_task(frame, ["a"], "guess")


def test_time_and_event_with_blanks_set_aside_and_words_understood() -> None:
    task, y = two([1, 2, None, 4, 5.5], ["yes", "no", "no", None, "YES"])
    np.testing.assert_array_equal(y, [[1, 1], [2, 0], [NAN, NAN], [NAN, NAN], [5.5, 1]])
    assert "1 record(s) have no time and 1 no event status" in task.notes[0]
    assert "Only 2 event(s)" in task.notes[1]
    assert two([1, 2], ["dead", "alive"])[1][:, 1].tolist() == [1, 0]
    assert two([1, 2, 3], ["a", "b", "c"], "t,e=b")[1][:, 1].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("time", "event", "words"),
    [
        ([1, -2, 0], [1, 0, 1], r"2 value\(s\) that are not above 0 \(smallest -2\)"),
        ([1, INF, 3], [1, 0, 1], "infinite"),
        (["2020-01-01", "2020-02-01"], [1, 0], "'t' holds dates"),
        (["1", "two years"], [1, 0], r"no numbers \(two years\)"),
        ([1, 2, 3], [0, 0, 0], "every record is censored"),
        ([None, 2, 3], [1, 0, 0], "no event with a known time"),
        ([1, 2, 3], [0, 1, 2], r"3 values \(0, 1, 2\): competing risks are not supported.*t,e=VALUE"),
        ([1, 2, 3], [1, 2, 2], "holds '2': write 1 for the event and 0 for censored"),
        ([0, 1] * 15, list(range(30)), "the time comes first, --target TIME,EVENT .say --target e,t"),
        ([1, 2], [None, None], "every row is blank"),
    ],
)
def test_what_cannot_be_survival_is_said(time: list, event: list, words: str) -> None:
    with pytest.raises(MedfmError, match=words):
        two(time, event)


def test_survival_with_one_column_and_with_too_few_events() -> None:
    with pytest.raises(MedfmError, match=r"takes two columns, --target TIME,EVENT.*1 was given"):
        make_task(pd.DataFrame({"t": [1, 2]}), ["t"], "survival")
    task, y = two(list(range(1, 11)), [1] + [0] * 9)
    with pytest.raises(
        MedfmError, match=r"1 patient\(s\) have the event 'e', fewer than 3 folds: bring more"
    ):
        check_counts(task, y, [str(i) for i in range(10)], 3)
    task, y = two(list(range(1, 11)), [1] * 4 + [0] * 6)
    with pytest.raises(MedfmError, match=r"2 patient\(s\) have the event.*set finetune.folds=2"):
        check_counts(task, y, [*"aabb", *(str(i) for i in range(6))], 3)


def test_a_column_that_looks_continuous_names_the_ways_out() -> None:
    with pytest.raises(
        MedfmError, match=r"--task regression for its value, --task survival --target TIME,EVENT"
    ):
        make_task(pd.DataFrame({"t": [1.5, 2.5, 3.5], "e": [0, 1, 0]}), ["t", "e"])


def test_folds_are_balanced_on_quarters_and_on_events() -> None:
    labels, kind = Regression("regression", ("x",), ("x",)).strata(np.arange(1.0, 9)[:, None])
    assert kind == "multiclass" and labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    few = np.array([[1.0, 1], [2, 0], [3, 1]])
    assert survival().strata(few)[0].tolist() == [1, 0, 1]
    many = np.stack([np.arange(1.0, 101), np.arange(100) % 2], axis=1)
    assert np.bincount(survival().strata(many)[0].astype(int)).tolist() == [25, 25, 25, 25]


# --- losses, hazards, survival by hand ---


def test_a_value_is_standardised_by_training_records_and_comes_back_in_its_unit() -> None:
    y = np.array([[10.0], [14.0], [18.0]])
    task = Regression("regression", ("x",), ("x",)).fitted(y)
    assert (task.mean, task.deviation) == (14.0, pytest.approx(math.sqrt(32 / 3)))
    assert task.encode(y).std() == pytest.approx(1) and task.encode(y).mean() == pytest.approx(0)
    np.testing.assert_allclose(task.predictions(task.encode(y)), y)
    loss = task.loss(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]]))
    assert loss.item() == 2.5
    assert task_of(task.to_dict() | task.parameters) == task
    assert list(task.columns_of(y, "random_")) == ["predicted_random_x"]


def test_cut_points_are_quantiles_of_event_times_alone() -> None:
    events, censored = np.arange(1.0, 101), np.full(50, 1000.0)
    y = np.stack([np.r_[events, censored], np.r_[np.ones(100), np.zeros(50)]], axis=1)
    task = survival(intervals=4).fitted(y)
    np.testing.assert_allclose(task.cuts, [25.75, 50.5, 75.25, 100])
    assert (
        task.outputs == 4 and len(survival(intervals=10).fitted(y[:20]).cuts) == 4
    )  # five events an interval
    assert len(survival().fitted(np.array([[3.0, 1]] * 40)).cuts) == 1
    assert len(survival(intervals=1).fitted(y).cuts) == 1 and survival(intervals=1).fitted(y).cuts[-1] == 100
    with pytest.raises(MedfmError, match="no event"):
        survival().fitted(y[100:])


def test_the_likelihood_is_that_of_hazards_interval_by_interval() -> None:
    task = survival(cuts=(2.0, 4.0, 8.0))
    y = np.array([[3.0, 1], [4, 1], [6, 0], [9, 0], [9, 1]])
    np.testing.assert_allclose(
        task.encode(y),
        [
            [0, 1, 0, 1, 0, 0],  # event in the second interval
            [0, 1, 0, 1, 0, 0],  # its end belongs to it
            [0, 0, 0, 1, 1, 0.5],  # half of the third was seen
            [0, 0, 0, 1, 1, 1],
            [0, 0, 0, 1, 1, 1],  # after the last cut: no longer looked at
        ],
    )
    logits = np.array([[-1.0, 0.5, 0.2]])
    h = 1 / (1 + np.exp(-logits[0]))
    by_hand = [
        math.log(1 - h[0]) + math.log(h[1]),
        math.log(1 - h[0]) + math.log(h[1]),
        math.log(1 - h[0]) + math.log(1 - h[1]) + 0.5 * math.log(1 - h[2]),
        sum(math.log(1 - x) for x in h),
        sum(math.log(1 - x) for x in h),
    ]
    loss = task.loss(torch.tensor(np.tile(logits, (5, 1))), torch.tensor(task.encode(y)))
    assert loss.item() == pytest.approx(-np.mean(by_hand))
    # the censored one's likelihood is its chance of being without the event at 6
    assert task.survival(logits, np.array([6.0]))[0, 0] == pytest.approx(math.exp(by_hand[2]))
    curve = task.survival(logits, np.array([0.0, 2, 4, 8, 20]))[0]
    np.testing.assert_allclose(curve, [1, *np.cumprod(1 - h), np.prod(1 - h)])


def test_risk_is_time_lost_and_the_marginal_hazards_give_back_kaplan_meier() -> None:
    rng = np.random.default_rng(0)
    y = np.stack([rng.exponential(10, 4000), np.ones(4000)], axis=1)
    task = survival(intervals=10).fitted(y)
    task = replace(task, limit=15.0, horizon=5.0)
    p = task.predictions(task.prevalence_logits(task.encode(y))[None])[0]
    assert p.shape == (102,) and p[1] == pytest.approx((y[:, 0] > 5).mean(), abs=0.01)
    assert p[0] == pytest.approx(15 - np.minimum(y[:, 0], 15).mean(), abs=0.15)
    assert p[-1] == pytest.approx((y[:, 0] > 15).mean(), abs=0.01)
    assert list(task.columns_of(p[None])) == ["risk_e", "survival_e_at_5"]
    again = task_of(task.to_dict())
    assert again == task and isinstance(again, Survival) and again.outputs == 10


def test_horizon_and_limit_come_from_the_training_rows() -> None:
    y = np.stack([np.arange(1.0, 41), np.arange(40) % 2], axis=1)
    trains = [np.arange(0, 30), np.arange(10, 40)]
    task = survival().stated(y, trains, None, 6)
    # events at even times 2..30 and 12..40: medians 16 and 26; nine tenths of the times end by 27.1 and 37.1
    assert (task.horizon, task.intervals) == (21, 6) and task.limit == pytest.approx(27.1)
    assert survival().stated(y, trains, 9.0, 6).horizon == 9
    with pytest.raises(ConfigError, match=r"finetune.horizon=30 lies beyond 27.1"):
        survival().stated(y, trains, 30.0, 6)
    with pytest.raises(MedfmError, match="no event"):
        survival().stated(y, [np.array([0, 2])], None, 6)


# --- linear probes ---


def test_ridge_equals_scikit_learns_and_chooses_by_inner_folds() -> None:
    rng = np.random.default_rng(0)
    for n, width in ((60, 12), (30, 50)):
        z = rng.normal(2, 3, (n, width))
        y = (z[:, :1] - 2) / 3 + rng.normal(0, 0.5, (n, 1))
        task = Regression("regression", ("x",), ("x",))
        found = fit_linear(z, y, task, inner(n), [0.1])
        standard = (z - z.mean(0)) / z.std(0)
        other = Ridge(alpha=10).fit(standard, y[:, 0])
        np.testing.assert_allclose(found.logits(z)[:, 0], other.predict(standard), atol=1e-8)
        np.testing.assert_allclose(found.weight[0], other.coef_, atol=1e-8)
    noise = rng.normal(size=(80, 60))
    assert fit_linear(noise, rng.normal(size=(80, 1)), task, inner(80), [1e-4, 1.0]).strengths == (1e-4,)
    clear = fit_linear(noise, noise[:, :1], task, inner(80), [1e-4, 1.0])
    assert clear.strengths == (1.0,)


def test_hazards_equal_a_logistic_regression_on_one_row_an_interval() -> None:
    """Whole intervals only: the likelihood is that of scikit-learn's regression on records repeated by interval."""
    rng = np.random.default_rng(1)
    n = 120
    z = rng.normal(size=(n, 5))
    last, event = rng.integers(1, 4, n), rng.random(n) < 0.7
    task = survival(cuts=(1.0, 2.0, 3.0))
    y = task.encode(np.stack([last.astype(float), event], axis=1))
    found = fit_linear(z, y, task, inner(n), [0.1])
    assert found.weight.shape == (3, 5) and np.allclose(found.weight, found.weight[0])
    standard = (z - z.mean(0)) / z.std(0)
    rows = [(i, k) for i in range(n) for k in range(last[i])]
    big = 1e3  # an intercept an interval, all but unpenalised
    x = np.array([[*standard[i], *(big * np.eye(3)[k])] for i, k in rows])
    truth = [bool(event[i] and k == last[i] - 1) for i, k in rows]
    other = LogisticRegression(
        C=0.1, fit_intercept=False, tol=1e-10, max_iter=5000, solver="newton-cholesky"
    ).fit(x, truth)
    np.testing.assert_allclose(found.weight[0], other.coef_[0, :5], atol=2e-4)
    np.testing.assert_allclose(found.bias, other.coef_[0, 5:] * big, atol=2e-3)


def test_hazards_choose_the_penalty_by_likelihood() -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(size=(150, 30))
    for signal, chosen in ((0.0, 1e-4), (2.0, 1.0)):
        y = np.stack([rng.exponential(np.exp(-signal * z[:, 0])), np.ones(150)], axis=1)
        task = survival().fitted(y)
        assert fit_linear(z, task.encode(y), task, inner(150), [1e-4, 1.0]).strengths == (chosen,)


# --- every strategy trains them ---


def problem(kind: str, strategy: str, n: int = 48, **settings: Any) -> tuple[Problem, np.ndarray]:
    """The burst of ``tiny`` decides value and time; some records are censored."""
    x, burst = signals(n)
    rng = np.random.default_rng(0)
    if kind == "regression":
        task: Task = Regression("regression", ("x",), ("x",))
        y = 100 + 20 * burst + rng.normal(0, 4, (n, 1))
    else:
        task = survival(intervals=3, limit=8.0, horizon=3.0)
        time = rng.exponential(np.where(burst[:, 0] == 1, 1.0, 40.0))
        y = np.stack([np.minimum(time, 10.0) + 0.01, time < 10], axis=1).astype(float)
    net, records, entry = backbone(), ArrayRecords(x), STRATEGIES[strategy]
    resolved: Any = entry.settings(**settings)
    z = embeddings(net, records, np.arange(n), pooling=resolved.pool)
    return Problem(task, records, y, z, net, lambda: entry.load()(resolved), batch_size=8), burst[:, 0]


@pytest.mark.parametrize("kind", ["regression", "survival"])
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_learns_a_value_and_a_risk(kind: str, strategy: str) -> None:
    more = {} if strategy == "linear-probe" else {"epochs": 6, "lr": 3e-3, "head_lr": 3e-3, "patience": None}
    one, burst = problem(kind, strategy, **more)
    rows = np.arange(36)
    made = fit(one, rows, inner(36), 0)
    task = made.task
    if isinstance(task, Regression):
        assert task.mean == pytest.approx(one.y[rows].mean())
    else:
        assert isinstance(task, Survival) and task.cuts[-1] == one.y[rows][one.y[rows, 1] == 1, 0].max()
    assert made.model.head.outputs == task.outputs
    p = task.predictions(predict_logits(made.model, one.records, np.arange(48)))[:, 0]
    assert np.isfinite(p).all()
    low, high = p[rows][burst[rows] == 0].mean(), p[rows][burst[rows] == 1].mean()
    assert high > low
    if made.history:
        assert made.history[-1]["train"] < made.history[1]["train"] * 1.05
