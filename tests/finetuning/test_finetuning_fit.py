"""The loop of one fold: what it may see, how it stops, and the details that fail in silence."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from finetuning.tiny import ArrayRecords, backbone, inner, problem, signals

from medfm.config.strategies import STRATEGIES
from medfm.finetuning.fit import fit, prepare, train
from medfm.finetuning.heads import FinetuneModel, LinearHead
from medfm.finetuning.records import embeddings, predict_logits
from medfm.types import MedfmError

ROWS = np.arange(48)


def test_the_test_fold_is_never_read() -> None:
    """Other labels and other signals in the test rows change nothing of what is trained."""
    of = problem("lp-ft", epochs=2, lr=1e-3)
    rows, test = ROWS[:36], ROWS[36:]
    expected = fit(of, rows, inner(36), seed=1).model.state_dict()
    x, y, z = of.records.x.copy(), of.y.copy(), of.z.copy()  # type: ignore[attr-defined]
    x[test], y[test], z[test] = np.nan, np.nan, np.nan
    changed = dataclasses.replace(of, records=ArrayRecords(x), y=y, z=z)
    for key, value in fit(changed, rows, inner(36), seed=1).model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_zero_epochs_can_be_chosen_and_then_the_probe_stands() -> None:
    of = problem("lp-ft", epochs=3, lr=0.5, head_lr=0.5)  # a rate that only destroys
    result = fit(of, ROWS, inner(48), seed=1)
    assert result.epochs == 0
    probe = fit(problem("linear-probe"), ROWS, inner(48), seed=1)
    np.testing.assert_allclose(
        predict_logits(result.model, of.records, ROWS),
        predict_logits(probe.model, of.records, ROWS),
        atol=1e-6,
    )


def test_patience_stops_and_the_best_epoch_is_taken() -> None:
    of = problem("full", epochs=30, lr=1e-2, head_lr=1e-2, patience=2)
    result = fit(of, ROWS, inner(48), seed=1)
    losses = [row["validation"] for row in result.history]
    assert len(losses) < 31
    assert result.epochs == int(np.argmin(losses)) == len(losses) - 3


def test_a_long_record_is_the_mean_of_its_windows() -> None:
    x, _ = signals(n=4, length=240)
    net = backbone()
    whole = embeddings(net, ArrayRecords(x), np.arange(4), batch_size=5)
    parts = [embeddings(net, ArrayRecords(x[:, :, s : s + 80]), np.arange(4)) for s in (0, 80, 160)]
    np.testing.assert_allclose(whole, np.mean(parts, axis=0), atol=1e-6)


def test_a_loss_that_is_no_number_ends_with_its_remedy() -> None:
    of = problem("full", epochs=2)
    x = of.records.x.copy()  # type: ignore[attr-defined]
    model, strategy, _ = prepare(of, of.strategy(), ROWS, inner(48), seed=1)
    with torch.no_grad():
        model.head.linear.bias.fill_(math.inf)
    with pytest.raises(MedfmError, match=r"Lower finetune\.strategy\.lr"):
        train(dataclasses.replace(of, records=ArrayRecords(x)), model, strategy, ROWS, 1, epochs=1)


def test_lora_refuses_a_backbone_without_targets() -> None:
    of = problem("lora")

    class Bare(type(of.backbone)):  # type: ignore[misc]
        adapter_targets: list[str] = []  # noqa: RUF012

    bare = backbone()
    bare.__class__ = Bare
    strategy = STRATEGIES["lora"].load()(STRATEGIES["lora"].settings())
    with pytest.raises(MedfmError, match="use --strategy lp-ft"):
        strategy.apply(FinetuneModel(bare, LinearHead(16, 1)))
