"""The question: inference of the task, blanks that are unknown, and a sentence for every target that cannot
be one."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from medfm.finetuning.question import make_task
from medfm.finetuning.task import Task, check_counts
from medfm.types import MedfmError

NAN = math.nan


def one(values: list, kind: str = "auto", target: str = "x") -> tuple[Task, np.ndarray]:
    return make_task(pd.DataFrame({"x": values}), [target], kind)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 1, 0], [0, 1, 1, 0]),
        ([0.0, 1.0, NAN, 1.0], [0, 1, NAN, 1]),
        (["yes", "No", " YES ", "", None], [1, 0, 1, NAN, NAN]),
        ([True, False, True, True], [1, 0, 1, 1]),
        (["True", "False", None, "True"], [1, 0, NAN, 1]),
        ([True, None, False, True], [1, NAN, 0, 1]),
        ([1, 2, 2, 1], [0, 1, 1, 0]),
    ],
)
def test_two_values_are_binary_and_blanks_are_unknown(values: list, expected: list) -> None:
    task, y = one(values)
    assert (task.kind, task.outputs) == ("binary", 1)
    np.testing.assert_array_equal(y[:, 0], expected)


def test_a_chosen_positive_value_is_said_and_can_be_reversed() -> None:
    task, y = one(["AFIB", "SR", "AFIB"])
    assert "'SR' counts as positive" in task.notes[0] and "x=AFIB" in task.notes[0]
    reverse, z = one(["AFIB", "SR", "AFIB"], target="x=AFIB")
    assert reverse.kind == "binary"
    np.testing.assert_array_equal(z, 1 - y)


def test_more_words_are_classes_one_hot_with_unknown_rows() -> None:
    task, y = one(["b", "a", "c", None, "a"])
    assert (task.kind, task.classes) == ("multiclass", ("a", "b", "c"))
    np.testing.assert_array_equal(y[[0, 1, 2, 4]], [[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]])
    assert np.isnan(y[3]).all()
    integers, z = one([3, 1, 2, 1, NAN])
    assert integers.classes == ("1", "2", "3")
    np.testing.assert_array_equal(z[:4].argmax(1), [2, 0, 1, 0])


def test_one_value_against_the_rest() -> None:
    task, y = one(["b", "a", "c", None], target="x=c")
    assert task.kind == "binary"
    np.testing.assert_array_equal(y[:, 0], [0, 0, 1, NAN])


def test_several_columns_are_multilabel_each_with_its_own_unknowns() -> None:
    frame = pd.DataFrame({"a": [0, 1, NAN], "b": ["no", "", "yes"]})
    task, y = make_task(frame, ["a", "b"])
    assert (task.kind, task.classes) == ("multilabel", ("a", "b"))
    np.testing.assert_array_equal(y, [[0, 0], [1, NAN], [NAN, 1]])


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        ([1, 1, 1], "auto", "one class only"),
        (["yes", "yes", None], "binary", "one class only"),
        ([NAN, NAN], "auto", "every row is blank"),
        ([0.1, 0.2, 0.3], "auto", "continuous"),
        ([0.1, 0.2, 0.3], "binary", "continuous"),
        (list(range(40)), "multiclass", "continuous.*--task regression"),
        ([0, 1, math.inf], "auto", "infinite"),
        (["2020-01-01", "2021-02-03", "2022-03-04"], "auto", "dates"),
        (pd.to_datetime(["2020-01-01", "2021-02-03"]).tolist(), "auto", "dates"),
        ([f"patient {i}" for i in range(50)], "auto", "too many"),
        (["a", "b", "c"], "binary", "--task multiclass"),
    ],
)
def test_what_cannot_be_a_target_is_said(values: list, kind: str, words: str) -> None:
    with pytest.raises(MedfmError, match=words):
        one(values, kind)


def test_a_missing_column_offers_the_nearest() -> None:
    with pytest.raises(MedfmError, match="did you mean 'afib'"):
        make_task(pd.DataFrame({"afib": [0, 1], "lvh": [0, 1]}), ["afb"])
    with pytest.raises(MedfmError, match="takes one target column"):
        make_task(pd.DataFrame({"a": [0, 1], "b": [0, 1]}), ["a", "b"], "binary")


def test_counts_are_patients_and_not_records() -> None:
    task, y = one([1] * 6 + [0] * 6)
    people = ["p"] * 6 + list("abcdef")
    with pytest.raises(MedfmError, match=r"1 patient\(s\) with a positive record, fewer than 3 folds"):
        check_counts(task, y, people, 3)
    check_counts(task, y, list("ghijkl") + list("abcdef"), 3)
    with pytest.raises(MedfmError, match=r"2 patients cannot be split into 3 folds; set finetune.folds=2"):
        check_counts(task, y, ["p", "q"] * 6, 3)
    three = np.array([[1.0]] * 3 + [[0.0]] * 17)
    with pytest.raises(MedfmError, match=r"3 patient\(s\) with a positive record.*set finetune.folds=3"):
        check_counts(task, three, [str(i) for i in range(20)], 5)
    with pytest.raises(MedfmError, match="one class only"):
        check_counts(task, np.zeros((20, 1)), [str(i) for i in range(20)], 5)


def test_loss_leaves_unknown_targets_out() -> None:
    task = Task("multilabel", ("a", "b"), ("a", "b"))
    logits = torch.tensor([[0.0, 3.0], [2.0, -1.0]], requires_grad=True)
    target = torch.tensor([[1.0, NAN], [0.0, NAN]])
    loss = task.loss(logits, target)
    # by hand: -log sigmoid(0) = log 2; -log(1 - sigmoid(2)) = log(1 + e^2)
    assert loss.item() == pytest.approx((math.log(2) + math.log(1 + math.e**2)) / 2, abs=1e-6)
    loss.backward()
    assert logits.grad is not None and (logits.grad[:, 1] == 0).all()
    nothing = task.loss(logits, torch.full((2, 2), NAN))
    assert nothing.item() == 0 and nothing.requires_grad


def test_multiclass_loss_is_cross_entropy_of_known_rows() -> None:
    task = Task("multiclass", ("x",), ("a", "b", "c"))
    logits = torch.tensor([[0.0, 0.0, 0.0], [5.0, 1.0, 1.0]])
    target = torch.tensor([[0.0, 1.0, 0.0], [NAN, NAN, NAN]])
    assert task.loss(logits, target).item() == pytest.approx(math.log(3), abs=1e-6)


def test_prevalence_logits_predict_the_prevalence() -> None:
    y = np.array([[1.0]] * 2 + [[0.0]] * 6 + [[NAN]] * 5)
    task = Task("binary", ("x",), ("x",))
    assert task.probabilities(task.prevalence_logits(y)[None])[0, 0] == pytest.approx(3 / 10)
    many = Task("multiclass", ("x",), ("a", "b"))
    p = many.probabilities(many.prevalence_logits(np.array([[1.0, 0], [1, 0], [0, 1], [NAN, NAN]]))[None])
    np.testing.assert_allclose(p[0], [3 / 5, 2 / 5])


def test_a_task_survives_the_bundle() -> None:
    task = Task("multiclass", ("x",), ("a", "b", "c"))
    assert Task.from_dict(task.to_dict()) == task
