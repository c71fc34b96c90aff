"""Learning what a simulator knows: the loss by hand, what is unknown teaches nothing, and the encoder learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medfm.backbones.base import build
from medfm.backbones.vit import ViT
from medfm.config.methods import ECGJEPASettings, MAESettings, SparKSettings
from medfm.config.run import OptimSettings
from medfm.pretraining.ecg_jepa import ECGJEPA
from medfm.pretraining.mae import MAE
from medfm.pretraining.spark import SparK
from medfm.pretraining.truths import TruthHead
from medfm.types import Batch, ConfigError, Truths

TOKENS, NAN = 40, float("nan")
KNOWN = Truths(("amplitude", "loud"), np.array([False, True]), np.array([[0.0, 1.0], [1.0, 0.0]], np.float32))


def method(truths=KNOWN, weight=4.0, **settings):
    torch.manual_seed(0)
    backbone = ViT(
        rank=1, in_channels=3, input_size=(TOKENS * 5,), patch=(5,), dim=16, depth=2, heads=2, registers=1
    )
    options = ECGJEPASettings(truths=weight, **settings)
    return ECGJEPA(backbone, options, OptimSettings(), 50, 0, truths).train()


def batch(target, seed=0):
    x = torch.randn(len(target), 3, TOKENS * 5, generator=torch.Generator().manual_seed(seed))
    return Batch(x, torch.ones(len(target), 3, dtype=torch.bool), torch.tensor(target))


def test_loss_by_hand():
    head = TruthHead(4, KNOWN)
    with torch.no_grad():
        head.proj.weight.zero_()
        head.proj.bias.copy_(torch.tensor([0.5, 0.0]))
    target = torch.tensor([[0.7, 1.0], [NAN, 0.0], [3.0, NAN]])
    number = (0.5 * 0.2**2 + (2.5 - 0.5)) / 2  # smooth L1, over the two that are known
    binary = math.log(2.0)  # logit 0
    loss = head.loss(torch.randn(3, 6, 4), target)
    assert float(loss.detach()) == pytest.approx(number + binary, rel=1e-6)


def test_head_starts_at_the_prevalence():
    values = np.array([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, NAN]], np.float32)
    head = TruthHead(4, Truths(KNOWN.names, KNOWN.binary, values))
    assert torch.sigmoid(head.proj.bias[1]).item() == pytest.approx(1 / 3, rel=1e-5)
    assert head.proj.bias[0].item() == 0.0


def test_a_record_without_truths_teaches_nothing_through_them():
    m = method()
    b = batch([[0.5, 1.0], [NAN, NAN], [-1.0, NAN]])
    x = b.x.clone().requires_grad_()
    m.truth_loss(m.patches(Batch(x, b.present)), b.target).backward()
    each = x.grad.abs().flatten(1).sum(1)
    assert each[1] == 0 and each[0] > 0 and each[2] > 0


@pytest.mark.parametrize("target", [None, [[NAN, NAN], [NAN, NAN]]])
def test_a_batch_of_patients_alone_gives_the_papers_loss_and_reaches_every_parameter(target):
    m, plain = method(), method(None, 0.0)
    b = batch([[0.0, 0.0], [0.0, 0.0]])
    b = Batch(b.x, b.present, None if target is None else torch.tensor(target))
    loss, logs = m.step(b)
    assert float(loss.detach()) == float(plain.step(b)[0].detach()) == float(logs["jepa_loss"].detach())
    loss.backward()
    assert all(p.grad is not None for p in m.parameters() if p.requires_grad)
    assert all(p.grad.abs().max() == 0 for p in m.truth_head.parameters())


def test_the_loss_is_the_weighted_sum():
    m = method(weight=3.0)
    loss, logs = m.step(batch([[0.5, 1.0], [1.0, 0.0]]))
    expected = logs["jepa_loss"].detach() + 3.0 * logs["truth_loss"].detach()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-6)
    assert logs["truth_loss"] > 0


def test_truths_are_read_from_the_share_of_tokens_that_was_asked():
    seen = []
    m = method(truths_keep=0.25)
    encode = m.backbone.encode
    m.backbone.encode = lambda tokens, *a, **k: seen.append(tokens.shape[1]) or encode(tokens, *a, **k)
    b = batch([[0.5, 1.0], [1.0, 0.0]])
    x = b.x.clone().requires_grad_()
    m.truth_loss(m.patches(Batch(x, b.present)), b.target).backward()
    assert seen == [10]
    tokens = x.grad.view(2, 3, TOKENS, 5).abs().sum(dim=(1, 3)) > 0
    assert tokens.sum(1).tolist() == [10, 10] and not torch.equal(tokens[0], tokens[1])


def test_without_a_simulated_record_it_is_refused_by_name():
    with pytest.raises(ConfigError, match="no record here is simulated"):
        method(None)


def test_the_head_is_no_part_of_what_is_exported():
    assert not any("truth" in name for name in method().encoder.state_dict())


def test_the_encoder_learns_to_measure():
    """The deviation of one lead: hardly readable from an untrained encoder's tokens through a fixed small head, and
    learned in 150 steps by both the head and the teacher that is exported."""
    rng = np.random.default_rng(0)
    size = np.exp(rng.normal(0, 0.5, 256)).astype(np.float32)
    x = rng.normal(size=(256, 3, TOKENS * 5)).astype(np.float32)
    x[:, 1] *= size[:, None]
    level = (np.log(size) / 0.5).astype(np.float32)
    target = np.stack([level, (level > 0).astype(np.float32)], 1)
    m = method(Truths(KNOWN.names, KNOWN.binary, target), momentum=(0.9, 0.99))
    optimizer = torch.optim.AdamW(m.parameters(), 3e-3)
    for _ in range(150):
        rows = rng.integers(0, 256, 32)
        present = torch.ones(32, 3, dtype=torch.bool)
        loss, logs = m.step(Batch(torch.from_numpy(x[rows]), present, torch.from_numpy(target[rows])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    constant = float(np.where(abs(level) < 1, level**2 / 2, abs(level) - 0.5).mean()) + math.log(2)
    assert float(logs["truth_loss"].detach()) < 0.6 * constant

    def explained(encoder):
        with torch.no_grad():
            tokens = encoder.eval()(torch.from_numpy(x)).maps[0]
        z = torch.cat([tokens.mean(2), tokens.std(2)], 1).numpy()
        z = np.c_[(z - z.mean(0)) / (z.std(0) + 1e-6), np.ones(256)]
        fit = np.linalg.solve(z[:128].T @ z[:128] + 10 * np.eye(z.shape[1]), z[:128].T @ level[:128])
        return 1 - np.var(level[128:] - z[128:] @ fit) / np.var(level[128:])

    assert explained(m.encoder) > max(0.7, explained(method().encoder) + 0.1)


def masked_method(name, weight=4.0, **settings):
    torch.manual_seed(0)
    if name == "mae":
        backbone = ViT(
            rank=2, in_channels=3, input_size=(16, 16), patch=(4, 4), dim=16, depth=2, heads=2, registers=1
        )
        options = MAESettings(
            mask=0.5, truths=weight, decoder=None, decoder_dim=8, decoder_depth=1, decoder_heads=1, **settings
        )
        return MAE(backbone, options, OptimSettings(), 50, 0, KNOWN).train()
    backbone = build({"name": "regnetx_002", "in_channels": 3, "input_size": (64, 96)})
    return SparK(
        backbone, SparKSettings(truths=weight, decoder_dim=8, **settings), OptimSettings(), 50, 0, KNOWN
    ).eval()


def pictures(method, target):
    x = torch.randn(
        len(target), 3, *method.backbone.config()["input_size"], generator=torch.Generator().manual_seed(1)
    )
    return Batch(
        x, torch.ones(len(target), 3, dtype=torch.bool), None if target is None else torch.tensor(target)
    )


@pytest.mark.parametrize("name", ["mae", "spark"])
def test_pictures_are_taught_from_what_is_visible(name):
    m = masked_method(name)
    b = pictures(m, [[0.5, 1.0], [NAN, NAN], [-1.0, NAN]])
    x = b.x.clone().requires_grad_()
    loss, logs = m.step(Batch(x, b.present, b.target))
    assert float(loss.detach()) == pytest.approx(
        float(logs[f"{name}_loss"] + 4 * logs["truth_loss"]), rel=1e-5
    )
    logs["truth_loss"].backward()
    hidden = m.masks(3, m.patches(b).shape[1])[1]
    each = m.patches(Batch(x.grad, b.present)).abs().sum(2)
    assert float(each.gather(1, hidden).max()) == 0  # nothing hidden is read
    assert float(each[1].max()) == 0 < float(each[0].max()) and float(each[2].max()) > 0


@pytest.mark.parametrize("name,keep", [("mae", 0.5), ("spark", 0.5), ("spark", 1.0)])
def test_pictures_are_taught_from_a_share_of_their_own(name, keep):
    m = masked_method(name, truths_keep=keep)
    b = pictures(m, [[0.5, 1.0], [NAN, NAN]])
    x = b.x.clone().requires_grad_()
    truth_loss = m.step(Batch(x, b.present, b.target))[1]["truth_loss"]
    truth_loss.backward()
    each = m.patches(Batch(x.grad, b.present)).abs().sum(2)
    assert (each[0] > 0).sum() == round(keep * each.shape[1]) and float(each[1].max()) == 0
    if keep == 1:  # then it is the network as it will be used
        tokens = m.backbone(b.x[:1]).maps[-1].flatten(2).transpose(1, 2)
        assert float(truth_loss.detach()) == pytest.approx(
            float(m.truth_head.loss(tokens, b.target[:1]).detach()), rel=1e-4
        )


@pytest.mark.parametrize("name,keep", [("mae", None), ("mae", 0.5), ("spark", None), ("spark", 1.0)])
def test_pictures_of_patients_alone_give_the_papers_loss(name, keep):
    m, plain = masked_method(name, truths_keep=keep), masked_method(name, 0.0)
    b = pictures(m, [[NAN, NAN], [NAN, NAN]])
    loss = m.step(b)[0]
    assert float(loss.detach()) == pytest.approx(float(plain.step(b)[0].detach()), rel=1e-6)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in m.truth_head.parameters())
