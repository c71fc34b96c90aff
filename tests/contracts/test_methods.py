"""What every self-supervised method of the table promises, written once over the table."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from medfm.backbones.base import Backbone, Dense, Pyramid, build
from medfm.backbones.sequence_vit import Sequences, SequenceViT
from medfm.backbones.vit import ViT
from medfm.config.methods import METHODS
from medfm.config.run import OptimSettings
from medfm.types import Batch, ViewSpec

SIZES = {1: ((200,), (10,)), 2: ((32, 32), (8, 8)), 3: ((16, 16, 16), (8, 8, 8))}


def network(needs, rank):
    """The smallest one of the table that has the capability a method asks for."""
    if needs is Dense:
        shape = {"in_channels": 2, "input_size": (16, 16, 32), "rank": 3, "decoder": True}
        return build({"name": "unet3d", "features": (4, 4, 4, 4, 4, 4), **shape})
    if needs is Pyramid:
        return build({"name": "resnet18", "in_channels": 2, "input_size": (64, 64)})
    size, patch = SIZES[rank]
    if needs is Sequences:
        shape = {"in_channels": 2, "input_size": size, "patch": patch, "dim": 12, "depth": 2, "heads": 2}
        decoder = {"decoder": "reconstruction", "decoder_dim": 12, "decoder_depth": 2, "decoder_heads": 2}
        return SequenceViT(**shape, mlp_dim=24, **decoder)
    shape = {"rank": rank, "in_channels": 2, "input_size": size, "patch": patch}
    return ViT(**shape, dim=24, depth=2, heads=2, registers=1)


def make(name, seed=0):
    entry = METHODS[name]
    target = entry.load()
    torch.manual_seed(0)
    backbone = network(target.needs, target.ranks[0])
    return target(backbone, entry.settings(), OptimSettings(), 20, seed).train()


def batch(method):
    spec = method.view_spec
    size = spec.size or method.backbone.config()["input_size"]
    x = torch.randn(4, 2, *size, generator=torch.Generator().manual_seed(0))
    views = {"views": torch.stack([x] * spec.views, 1)} if spec.views > 1 else {}
    return Batch(x, torch.ones(4, 2, dtype=torch.bool), views=views)


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


def test_a_step_gives_a_finite_scalar_loss_with_gradients(name):
    method = make(name)
    loss, logs = method.step(batch(method))
    assert loss.ndim == 0 and math.isfinite(float(loss.detach())) and isinstance(logs, dict)
    loss.backward()
    without = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, "trained parameters that the loss does not reach stop distributed training"


def test_a_step_is_a_function_of_seed_and_step(name):
    first, again, other = make(name), make(name), make(name, seed=1)
    losses = [float(m.step(batch(m))[0].detach()) for m in (first, again, other)]
    assert losses[0] == losses[1]
    # A method of several views draws in the loader, by seed and step, and need not draw in its own step.
    assert losses[0] != losses[2] or first.view_spec.views > 1


def test_the_global_random_state_plays_no_part_and_is_left_alone(name):
    method = make(name)
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    first = float(copy.deepcopy(method).step(batch(method))[0].detach())
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(456)
    assert float(method.step(batch(method))[0].detach()) == first


def test_the_encoder_is_a_backbone_that_rebuilds(name):
    method = make(name)
    encoder = method.encoder
    assert isinstance(encoder, Backbone)
    again = build(encoder.config())
    again.load_state_dict(encoder.state_dict())
    x = torch.randn(2, 2, *encoder.config()["input_size"], generator=torch.Generator().manual_seed(0))
    # Channels may lie in memory in another order, which rounds differently.
    torch.testing.assert_close(again.eval()(x).pooled, encoder.eval()(x).pooled, rtol=1e-4, atol=1e-5)


def test_collapse_measures_and_view_spec(name):
    method = make(name)
    assert isinstance(method.view_spec, ViewSpec)
    measures = method.collapse_measures(batch(method))
    assert {"target_std", "context_std", "effective_rank"} <= set(measures)
    assert all(math.isfinite(v) for v in measures.values())


def test_every_trained_parameter_is_optimised_once(name):
    method = make(name)
    held = [id(p) for g in method.configure_optimizers().param_groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in method.parameters() if p.requires_grad)


def test_weights_go_through_a_checkpoint(name):
    method, other = make(name), make(name, seed=3)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.01)
    other.load_state_dict(method.state_dict())
    other.seed = method.seed
    assert float(method.step(batch(method))[0].detach()) == float(other.step(batch(other))[0].detach())
