"""Mixing, smoothing and balancing: each number by hand, and what they may not do."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from finetuning.tiny import inner, problem
from torch.nn import functional as F

from medfm.finetuning.fit import prepare, train
from medfm.finetuning.objective import Objective, cutmix, mixup
from medfm.finetuning.records import predict_logits
from medfm.finetuning.task import Task

BINARY = Task("binary", ("y",), ("y",))
THREE = Task("multiclass", ("y",), ("a", "b", "c"))
NONE = torch.zeros(1)


def own_numbers(batch: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each record is filled with its number."""
    x = torch.arange(batch).float().view(-1, *[1] * len(shape)).expand(batch, *shape).clone()
    return x, torch.ones(batch, shape[0], dtype=torch.bool)


@pytest.mark.parametrize("shape", [(2, 30, 40), (1, 200), (1, 12, 10, 8)])
def test_cutmix_fills_one_box_and_counts_it(shape: tuple[int, ...]) -> None:
    x, present = own_numbers(16, *shape)
    shares = []
    for seed in range(60):
        mixed = cutmix(x, present, np.random.default_rng(seed), 1.0)
        other = mixed.x == torch.from_numpy(mixed.partner).view(-1, *[1] * len(shape))
        moved = [b for b in range(16) if mixed.partner[b] != b]
        for b in moved:
            assert ((mixed.x[b] == b) | other[b]).all()
            assert float((mixed.x[b] == b).float().mean()) == pytest.approx(mixed.share, abs=1e-6)
        assert len({tuple(np.argwhere(other[b].numpy()).ravel()[:8].tolist()) for b in moved}) <= 1, "one box"
        shares.append(mixed.share)
    assert min(shares) < 0.3 and max(shares) > 0.9
    assert torch.equal(x, own_numbers(16, *shape)[0]), "the batch itself is left alone"


def test_the_box_has_the_area_that_was_drawn_when_it_lies_inside() -> None:
    class Drawn:
        """Share 0.75, in the middle: a box of half the sides."""

        def beta(self, a: float, b: float) -> float:
            return 0.75

        def integers(self, low: int, high: np.ndarray) -> np.ndarray:
            return high // 2

        def permutation(self, n: int) -> np.ndarray:
            return np.arange(n)[::-1].copy()

    mixed = cutmix(*own_numbers(2, 1, 40, 60), Drawn(), 1.0)  # type: ignore[arg-type]
    assert mixed.share == pytest.approx(0.75)
    assert (mixed.x[0, 0, 10:30, 15:45] == 1).all() and mixed.x[0].sum() == 20 * 30


def test_mixup_fades_and_what_either_lacks_is_absent() -> None:
    x, present = own_numbers(8, 3, 10)
    present[2, 1] = False
    x[2, 1] = math.nan
    mixed = mixup(x, present, np.random.default_rng(2), 0.4)
    assert mixed.partner[2] != 2
    for b, partner in enumerate(mixed.partner):
        assert mixed.x[b, 0].numpy() == pytest.approx(mixed.share * b + (1 - mixed.share) * partner, abs=1e-6)
        assert mixed.present[b].tolist() == [True, 2 not in (b, partner), True]
    assert torch.isfinite(mixed.x[mixed.present]).all()


def test_half_of_the_batches_are_mixed_and_none_without_a_mix() -> None:
    x, present = own_numbers(4, 1, 8)
    rng = np.random.default_rng(0)
    some = Objective("cutmix", probability=0.5)
    assert 160 < sum(some.mixed(x, present, rng) is not None for _ in range(400)) < 240
    state = rng.bit_generator.state
    assert Objective().mixed(x, present, rng) is None and rng.bit_generator.state == state


def test_the_loss_of_a_mixed_batch_is_mixed_by_area() -> None:
    logits, target = torch.tensor([[0.3], [-1.2], [2.0]]), torch.tensor([[1.0], [0.0], [1.0]])
    mixed = mixup(*own_numbers(3, 1, 4), np.random.default_rng(1), 1.0)
    assert mixed.partner.tolist() != [0, 1, 2] and 0.05 < mixed.share < 0.95
    share = mixed.share
    expected = F.binary_cross_entropy_with_logits(
        logits, share * target + (1 - share) * target[mixed.partner]
    )
    assert Objective("mixup").loss(BINARY, logits, target, NONE, mixed).item() == pytest.approx(
        expected.item(), abs=1e-6
    )
    target[1] = math.nan  # unknown: neither as its own target nor as a partner's
    known = [b for b in range(3) if b != 1]
    partners = [b for b in range(3) if mixed.partner[b] != 1]
    expected = share * F.binary_cross_entropy_with_logits(logits[known], target[known]) + (
        1 - share
    ) * F.binary_cross_entropy_with_logits(logits[partners], target[mixed.partner[partners]])
    assert Objective("mixup").loss(BINARY, logits, target, NONE, mixed).item() == pytest.approx(
        expected.item(), abs=1e-6
    )


def test_smoothing_by_hand_and_as_torch_has_it() -> None:
    """Target 1 smoothed by 0.2 is 0.9: -0.9 log p - 0.1 log(1 - p)."""
    p = 0.7
    loss = Objective(smoothing=0.2).loss(BINARY, torch.logit(torch.tensor([[p]])), torch.ones(1, 1), NONE)
    assert loss.item() == pytest.approx(-0.9 * math.log(p) - 0.1 * math.log(1 - p), abs=1e-6)
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([0, 1, 2, 0, 1, 1])
    ours = Objective(smoothing=0.1).loss(THREE, logits, F.one_hot(classes, 3).float(), torch.zeros(3))
    assert ours.item() == pytest.approx(
        F.cross_entropy(logits, classes, label_smoothing=0.1).item(), abs=1e-6
    )


def test_balanced_draws_have_every_class_as_often() -> None:
    rng, balanced = np.random.default_rng(0), Objective(balance="sampling")
    y = np.zeros((200, 1))
    y[:20] = 1
    rows = np.concatenate([balanced.rows(BINARY, y, rng) for _ in range(50)])
    assert len(rows) == 50 * 200 and y[rows].mean() == pytest.approx(0.5, abs=0.02)
    assert len(set(rows.tolist())) == 200
    one_hot = np.eye(3)[[0] * 150 + [1] * 40 + [2] * 10]
    rows = np.concatenate([balanced.rows(THREE, one_hot, rng) for _ in range(50)])
    np.testing.assert_allclose(one_hot[rows].mean(0), 1 / 3, atol=0.02)
    assert sorted(Objective().rows(BINARY, y, rng)) == list(range(200))


def test_the_prior_is_the_log_odds_that_balancing_takes_away() -> None:
    balanced = Objective(balance="sampling")
    y = np.array([[1.0]] * 20 + [[0.0]] * 180)
    assert balanced.prior(BINARY, y) == pytest.approx([math.log(20 / 180)])
    one_hot = np.eye(3)[[0] * 150 + [1] * 40 + [2] * 10]
    # softmax of the prior alone, from even odds, is the prevalence
    p = np.exp(balanced.prior(THREE, one_hot)) / 3
    np.testing.assert_allclose(p, [0.75, 0.2, 0.05])
    assert balanced.prior(BINARY, np.ones((5, 1))) == 0 and Objective().prior(BINARY, y) == 0


def test_a_balanced_training_still_predicts_the_prevalence() -> None:
    """One in six is positive and no feature is seen: what is learned is the bias, which must not become even odds."""
    of = problem("full", n=96, epochs=20, head_lr=0.2, weight_decay=0.0)
    y = (np.arange(96) % 6 == 0).astype(float)[:, None]
    of = dataclasses.replace(of, y=y, objective=Objective(balance="sampling"))
    rows = np.arange(96)
    model, strategy, _ = prepare(of, of.strategy(), rows, inner(96), seed=1)
    with torch.no_grad():
        model.head.scale.fill_(1e9)
        model.head.linear.bias.fill_(1.0)
    train(of, model, strategy, rows, 1, epochs=20)
    p = 1 / (1 + np.exp(-predict_logits(model, of.records, rows)))
    assert p.mean() == pytest.approx(1 / 6, abs=0.03)
