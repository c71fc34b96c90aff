"""Head, logistic regression and prototypes against independent arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medfm.finetuning.heads import LinearHead, pool
from medfm.finetuning.logistic import fit_logistic
from medfm.finetuning.prototypes import Prototypes
from medfm.finetuning.task import Task
from medfm.types import Features

BINARY = Task("binary", ("x",), ("x",))
RNG = np.random.default_rng(0)


def data(n: int = 90, features: int = 6) -> tuple[np.ndarray, np.ndarray]:
    z = RNG.normal(3.0, 2.0, (n, features)) * np.logspace(-2, 2, features)
    score = (z[:, 0] / 0.01 - 300 / 100) + RNG.normal(0, 1.5, n)
    return z, (score > np.median(score)).astype(float)[:, None]


def folds(n: int, k: int = 3) -> list[np.ndarray]:
    return [np.arange(n)[i::k] for i in range(k)]


def test_pool_is_mean_and_population_deviation_with_a_finite_gradient() -> None:
    positions = torch.tensor([[[1.0, 3.0, 5.0], [2.0, 2.0, 2.0]]], requires_grad=True)
    out = pool(Features((positions,), positions.mean(2)), "mean-std")
    np.testing.assert_allclose(out.detach().numpy(), [[3, 2, np.sqrt(8 / 3), 1e-3]], atol=1e-3)
    out.sum().backward()
    assert positions.grad is not None and torch.isfinite(positions.grad).all()
    assert pool(Features((positions,), positions.mean(2)), "mean").shape == (1, 2)


def test_a_regressions_solution_copies_into_the_head_exactly() -> None:
    z, y = data()
    solution = fit_logistic(z, y, BINARY, folds(90), (0.1,))
    head = LinearHead(3, 1, "mean-std")
    head.copy_solution(solution.weight, solution.bias, solution.center, solution.scale)
    inside = head(torch.from_numpy(z.astype(np.float32))).detach().numpy()
    np.testing.assert_allclose(inside, solution.logits(z), rtol=1e-3, atol=1e-3)
    weight, bias = (t.numpy() for t in head.folded())
    np.testing.assert_allclose(z @ weight.T + bias, solution.logits(z), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("features", [6, 200])
def test_the_fit_is_scikit_learns_on_standardised_features(features: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    z, y = data(features=features)
    solution = fit_logistic(z, y, BINARY, folds(90), (0.05,))
    scaled = StandardScaler().fit_transform(z)
    reference = LogisticRegression(C=0.05, tol=1e-8, max_iter=5000).fit(scaled, y[:, 0])
    np.testing.assert_allclose(solution.logits(z)[:, 0], reference.decision_function(scaled), atol=5e-3)


def test_strength_is_chosen_on_inner_folds() -> None:
    z, y = data(n=150)
    noise = RNG.normal(size=(150, 300))
    strong = fit_logistic(noise, y, BINARY, folds(150), (1e-4, 10.0)).strengths
    weak = fit_logistic(z, y, BINARY, folds(150), (1e-6, 1.0)).strengths
    assert strong == (1e-4,) and weak == (1.0,)


def test_unknown_targets_and_single_classes_do_not_break_the_other_outputs() -> None:
    z, y = data()
    both = np.concatenate([y, np.full_like(y, np.nan), np.ones_like(y)], axis=1)
    both[:40, 0] = np.nan
    task = Task("multilabel", ("a", "b", "c"), ("a", "b", "c"))
    solution = fit_logistic(z, both, task, folds(90), (0.1, 1.0))
    alone = fit_logistic(z, both[:, :1], BINARY, folds(90), (0.1, 1.0))
    np.testing.assert_allclose(solution.weight[0], alone.weight[0])
    assert (solution.weight[1:] == 0).all()
    assert solution.bias[2] == pytest.approx(np.log(91))  # (90 + 1) : 1, add-one smoothed


def test_multiclass_and_two_of_its_classes() -> None:
    task = Task("multiclass", ("x",), ("a", "b", "c"))
    centres = np.array([[4.0, 0, 0], [0, 4, 0], [0, 0, 4]])
    labels = np.arange(90) % 3
    z = centres[labels] + RNG.normal(size=(90, 3))
    y = np.eye(3)[labels]
    assert (fit_logistic(z, y, task, folds(90, 4), (0.1, 1.0)).logits(z).argmax(1) == labels).mean() > 0.9
    two = y.copy()
    two[labels == 2] = np.nan
    p = task.probabilities(fit_logistic(z, two, task, folds(90, 4), (1.0,)).logits(z))
    assert (p[:, 2] < 1e-3).all() and (p[labels < 2].argmax(1) == labels[labels < 2]).mean() > 0.9


def test_prototypes_by_hand() -> None:
    z = np.array([[2.0, 1.0], [4.0, 1.0], [3.0, 2.0], [3.0, 0.0]])
    y = np.array([[1.0], [0.0], [np.nan], [np.nan]])
    fitted = Prototypes.fit(z, y, BINARY)
    np.testing.assert_allclose(fitted.center, [3, 1])
    np.testing.assert_allclose(fitted.positive, [[-1, 0]])
    np.testing.assert_allclose(fitted.negative, [[1, 0]])
    # a record at the positive prototype: distances 0 and 2, so 1 / (1 + e^-2); one between: a half
    np.testing.assert_allclose(
        fitted.scores(np.array([[0.0, 1.0], [3.0, 9.0]])), [[1 / (1 + np.exp(-2))], [0.5]]
    )
    task = Task("multiclass", ("x",), ("a", "b"))
    p = Prototypes.fit(z[:2], np.array([[1.0, 0], [0, 1]]), task).scores(z[:2])
    np.testing.assert_allclose(p.sum(1), 1)
    assert (p.argmax(1) == [0, 1]).all()
