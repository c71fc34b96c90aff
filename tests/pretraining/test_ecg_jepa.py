"""ECG-JEPA: sizes, equality with the frozen plain step, what may and may not influence what, determinism."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from medfm.backbones.base import Backbone
from medfm.backbones.vit import ViT
from medfm.bench.pretrain import make_pair
from medfm.config.methods import ECGJEPASettings
from medfm.config.run import OptimSettings
from medfm.pretraining import diagnostics, momentum
from medfm.pretraining.ecg_jepa import ECGJEPA, Predictor
from medfm.types import Batch, ConfigError, Features

TOKENS = 40


def method(seed=0, steps=50, optim=None, **settings):
    torch.manual_seed(0)
    backbone = ViT(
        rank=1, in_channels=3, input_size=(TOKENS * 5,), patch=(5,), dim=16, depth=2, heads=2, registers=1
    )
    return ECGJEPA(backbone, ECGJEPASettings(**settings), OptimSettings(**(optim or {})), steps, seed).train()


def batch(seed=0, size=4):
    x = torch.randn(size, 3, TOKENS * 5, generator=torch.Generator().manual_seed(seed))
    return Batch(x, torch.ones(size, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("dim", "depth", "heads", "count"),
    [(192, 8, 4, 923_328), (384, 8, 6, 3_689_856), (768, 12, 12, 21_833_472)],
)
def test_predictor_parameter_counts_are_the_official_ones(dim, depth, heads, count):
    with torch.device("meta"):
        predictor = Predictor(200, dim, dim // 2, depth, heads, depth)
    assert sum(p.numel() for p in predictor.parameters()) == count


def test_the_step_equals_the_frozen_plain_reference():
    """Same weights, same masks: the same loss and gradients, and the same three optimiser steps."""
    pair = make_pair(32, 3, 4, batch=3, samples=1000)
    reference = dict(pair.plain.named_parameters())
    loss, _ = pair.method.train().step(pair.batch)
    loss.backward()
    expected = pair.plain(pair.batch.x, pair.visible, pair.masked, momentum=0.998)
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    compared = 0
    for name, parameter in pair.method.named_parameters():
        other = reference[name.replace("backbone.", "encoder.")]
        if parameter.requires_grad:
            torch.testing.assert_close(
                parameter.grad, other.grad, rtol=1e-5, atol=1e-5 * float(other.grad.abs().max())
            )
            compared += 1
    assert compared == len([p for p in reference.values() if p.requires_grad])
    for _ in range(3):
        assert pair.ours() == pytest.approx(pair.theirs(), rel=1e-4)


def test_masked_samples_cannot_influence_the_context():
    m, b = method(), batch()
    visible, masked = m.masks(4, TOKENS)

    def context(x):
        patches = m.patches(Batch(x, b.present))
        chosen = patches.gather(1, visible[:, :, None].expand(-1, -1, patches.shape[2]))
        return m.backbone.encode(m.backbone.embed(chosen) + m.backbone.positions((TOKENS,))[visible])

    x = b.x.clone().requires_grad_()
    context(x).square().sum().backward()
    by_token = x.grad.view(4, 3, TOKENS, 5).abs().sum(dim=(1, 3))
    assert by_token.gather(1, masked).max() == 0
    assert by_token.gather(1, visible).min() > 0


def test_predictions_see_no_masked_content_while_targets_do():
    m, b = method(), batch()
    visible, masked = m.masks(4, TOKENS)
    other = b.x.clone().view(4, 3, TOKENS, 5)
    index = masked[:, None, :, None].expand(-1, 3, -1, 5)
    other.scatter_(2, index, torch.randn(index.shape))
    first = m.predict(m.patches(b), visible, masked)
    second = m.predict(m.patches(Batch(other.view(4, 3, -1), b.present)), visible, masked)
    assert torch.equal(first[0], second[0])
    assert (first[1] - second[1]).abs().min(dim=-1).values.max() > 1e-4
    third = m.predict(m.patches(Batch(b.x + 0.5 * torch.randn_like(b.x), b.present)), visible, masked)
    assert not torch.allclose(first[0], third[0])


def test_predictions_depend_on_where_they_are_asked():
    m, b = method(), batch()
    with torch.no_grad():
        m.predictor.mask_token.zero_()
    visible, masked = m.masks(4, TOKENS)
    predictions, _ = m.predict(m.patches(b), visible, masked)
    assert (predictions[:, 0] - predictions[:, -1]).abs().max() > 1e-6


def test_targets_have_no_gradient_and_are_the_teachers_tokens_of_the_whole_record():
    m, b = method(), batch()
    _, masked = m.masks(4, TOKENS)
    targets = m.targets(m.patches(b), masked)
    assert not targets.requires_grad
    whole = m.encoder(b.x, b.present).maps[0].transpose(1, 2)
    expected = torch.stack([row[index] for row, index in zip(whole, masked)])
    torch.testing.assert_close(targets, expected, rtol=1e-5, atol=1e-5)
    loss, _ = m.step(b)
    loss.backward()
    assert all(p.grad is None for p in m.target_encoder.parameters())
    assert all(p.grad is not None for n, p in m.named_parameters() if not n.startswith("target_encoder"))


def test_loss_is_the_mean_absolute_error():
    m, b = method(), batch()
    m.eval()  # no moving average: the step can be repeated
    visible, masked = m.masks(4, TOKENS)
    predictions, targets = m.predict(m.patches(b), visible, masked)
    loss, logs = m.step(b)
    expected = np.abs(predictions.detach().numpy() - targets.numpy()).mean()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-6)
    assert logs["visible"] == visible.shape[1] / TOKENS and logs["momentum"] == 0.998


def test_moving_average_is_updated_before_the_targets_by_the_formula():
    m, b = method(), batch()
    with torch.no_grad():
        for p in m.backbone.parameters():
            p.add_(torch.randn_like(p))
    online = {k: v.clone() for k, v in m.backbone.state_dict().items()}
    old = {k: v.clone() for k, v in m.target_encoder.state_dict().items()}
    frozen = copy.deepcopy(m)
    loss, _ = m.step(b)
    for name, value in m.target_encoder.state_dict().items():
        torch.testing.assert_close(value, 0.998 * old[name] + 0.002 * online[name], rtol=1e-5, atol=1e-7)
    momentum.update(frozen.target_encoder, frozen.backbone, 0.998)
    again, _ = frozen.eval().step(b)
    assert float(loss.detach()) == float(again.detach())


def test_momentum_grows_linearly():
    assert momentum.linear((0.998, 0.9995), 0.0) == 0.998
    assert momentum.linear((0.998, 0.9995), 0.5) == pytest.approx(0.99875)
    assert momentum.linear((0.998, 0.9995), 1.0) == pytest.approx(0.9995)


def test_initial_deviation_of_the_predictor_uses_the_encoders_depth():
    torch.manual_seed(0)
    predictor = Predictor(20, 64, 64, depth=2, heads=4, encoder_depth=8)
    state = predictor.state_dict()
    assert float(state["blocks.1.mlp.fc2.weight"].std()) == pytest.approx(0.005, rel=0.05)
    assert float(state["blocks.1.mlp.fc1.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(state["embed.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(state["mask_token"].std()) == pytest.approx(0.02, rel=0.4)


def test_shorter_records_and_absent_leads_go_through():
    m = method()
    x = torch.randn(2, 3, 100)
    x[0, 1] = math.nan
    present = torch.tensor([[True, False, True], [True, True, True]])
    loss, _ = m.step(Batch(x, present))
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert all(torch.isfinite(p.grad).all() for p in m.parameters() if p.grad is not None)


class _NoTokens(Backbone):
    rank, in_channels, dim = 1, 1, 1

    def forward(self, x, present=None):
        return Features((x,), x.mean(-1))

    def groups(self):
        return []

    @property
    def adapter_targets(self):
        return []

    def config(self):
        return {}


def test_a_backbone_without_tokens_or_of_another_rank_is_refused():
    with pytest.raises(ConfigError, match="Tokens"):
        ECGJEPA(_NoTokens(), ECGJEPASettings(), OptimSettings(), 10, 0)
    plane = ViT(rank=2, in_channels=1, input_size=(8, 8), patch=(4, 4), dim=8, depth=1, heads=2)
    with pytest.raises(ConfigError, match="rank"):
        ECGJEPA(plane, ECGJEPASettings(), OptimSettings(), 10, 0)


class _Records(IterableDataset):
    def __init__(self, start, stop):
        self.range = range(start, stop)

    def __iter__(self):
        return (batch(k) for k in self.range)


class _Rates(pl.Callback):
    seen: ClassVar[list] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        group = trainer.optimizers[0].param_groups
        self.seen.append(
            (module.logged["lr"], group[0]["lr"], group[0]["weight_decay"], group[1]["weight_decay"])
        )


def fit(m, start, stop, steps, path=None, accumulate=1, callbacks=()):
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = {"accelerator": "cpu", "accumulate_grad_batches": accumulate, **dict.fromkeys(quiet, False)}
    trainer = pl.Trainer(max_steps=steps, callbacks=list(callbacks), **options)
    data = DataLoader(_Records(start, stop), batch_size=None)
    trainer.fit(m, data, ckpt_path=path, weights_only=True if path else None)
    return trainer


def weights(m):
    return {k: v.clone() for k, v in m.state_dict().items()}


def test_training_is_exact_twice_and_across_a_resume(tmp_path):
    whole, again, first = method(steps=8), method(steps=8), method(steps=8)
    fit(whole, 0, 8, 8)
    fit(again, 0, 8, 8)
    fit(first, 0, 5, 5).save_checkpoint(tmp_path / "five.ckpt")
    resumed = method(steps=8)
    fit(resumed, 5, 8, 8, str(tmp_path / "five.ckpt"))
    different = method(seed=1, steps=8)
    fit(different, 0, 8, 8)
    for name, value in weights(whole).items():
        assert torch.equal(value, again.state_dict()[name]), name
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert any(not torch.equal(v, different.state_dict()[k]) for k, v in weights(whole).items())


def test_rates_are_functions_of_the_step():
    _Rates.seen.clear()
    m = method(
        steps=10, optim={"lr": 1e-3, "lr_start": 0.0, "lr_end": 0.0, "warmup": 0.2, "weight_decay": 0.01}
    )
    fit(m, 0, 10, 10, callbacks=[_Rates()])
    logged, used, decay, none = (np.array(column) for column in zip(*_Rates.seen))
    np.testing.assert_allclose(used, logged)
    np.testing.assert_allclose(used[:3], [0.0, 5e-4, 1e-3])
    np.testing.assert_allclose(used[6], 5e-4)
    np.testing.assert_allclose(decay[[0, 5]], [0.01, 0.055])
    assert (none == 0).all()


def test_accumulation_moves_the_average_once_and_draws_new_masks():
    m = method(steps=4)
    calls, masks = [], []
    original, drawn = momentum.update, m.masks

    def counted(*arguments):
        calls.append(1)
        original(*arguments)

    def recorded(*arguments):
        masks.append(drawn(*arguments))
        return masks[-1]

    m.masks = recorded
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(momentum, "update", counted)
        fit(m, 0, 12, 4, accumulate=3)
    assert len(masks) == 12 and len(calls) == 4
    assert len({tuple(visible.flatten().tolist()) for visible, _ in masks}) == 12


def test_weight_decay_only_on_linear_and_convolution_weights():
    m = method()
    groups = {g["decayed"]: {id(p) for p in g["params"]} for g in m.configure_optimizers().param_groups}
    names = {id(p): n for n, p in m.named_parameters()}
    plain = {names[i] for i in groups[False]}
    assert {"backbone.registers", "predictor.mask_token", "backbone.norm.weight"} <= plain
    assert all("norm" in n or n.endswith(("registers", "mask_token")) for n in plain)
    assert {"backbone.patch_embed.proj.weight", "predictor.proj.weight"} <= {names[i] for i in groups[True]}
    assert not any(
        n.startswith("target_encoder") for i, n in names.items() if i in groups[True] | groups[False]
    )


def test_a_few_steps_lower_the_loss_and_keep_the_representation_alive():
    m = method(steps=60, optim={"lr": 3e-3, "warmup": 0.1}, momentum=(0.9, 0.99))
    trainer_batches = batch(0, 16)
    optimizer = m.configure_optimizers()
    losses = []
    for _ in range(30):
        loss, _ = m.step(trainer_batches)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_exported_is_the_teacher_in_evaluation_mode():
    m = method().train()
    assert m.encoder is m.target_encoder and not m.encoder.training and m.backbone.training
    assert isinstance(m.encoder, Backbone)


def test_collapse_measures_tell_a_live_network_from_a_dead_one():
    m, b = method(), batch(0, 8)
    alive = m.collapse_measures(b)
    assert set(alive) == {"target_std", "context_std", "effective_rank"} and alive["effective_rank"] > 3
    with torch.no_grad():
        m.target_encoder.patch_embed.proj.weight.zero_()
    dead = m.collapse_measures(b)
    assert dead["target_std"] < 1e-6 < alive["target_std"] and dead["context_std"] == alive["context_std"]


def test_effective_rank_and_spread_by_hand():
    corners = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    assert diagnostics.effective_rank(corners) == pytest.approx(2.0)
    assert diagnostics.effective_rank(torch.outer(torch.arange(4.0), torch.ones(3))) == pytest.approx(1.0)
    assert diagnostics.effective_rank(torch.ones(4, 3)) == 0.0
    # deviations over records are 1 and 3 (two places, one dimension); that the places differ does not count
    features = torch.tensor([[[1.0, 103.0]], [[-1.0, 97.0]]])
    assert diagnostics.spread(features) == pytest.approx(2.0)


def test_mask_pictures_mark_what_was_hidden_and_its_error():
    m, b = method(), batch()
    pictures = diagnostics.mask_pictures(m, b)
    _, masked = m.masks(4, TOKENS)
    assert len(pictures) == 4
    for picture, index in zip(pictures, masked):
        assert picture.masked.sum() == len(index) and picture.masked[index.numpy()].all()
        assert np.isnan(picture.error).tolist() == (~picture.masked).tolist()
        assert (picture.error[picture.masked] > 0).all() and picture.spread > 0
