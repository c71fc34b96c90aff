"""What every backbone of the table answers, written once over the table."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from medfm.backbones.base import Backbone, Pyramid, Tokens, build
from medfm.config.backbones import BACKBONES
from medfm.types import Features

SHAPES = {1: (3, (100,)), 2: (2, (64, 64)), 3: (1, (16, 16, 16))}
TINY = {
    "vit": [
        {"rank": 1, "patch": (25,), "dim": 16, "depth": 2, "heads": 2, "registers": 1},
        {"rank": 2, "patch": (8, 8), "dim": 16, "depth": 2, "heads": 2, "bias": True},
        {"rank": 3, "patch": (8, 8, 8), "dim": 18, "depth": 1, "heads": 2},
    ],
}
# Networks whose name says all; two of each kind would only repeat the others at several times their size.
TINY |= {name: [{"rank": 2}] for name in BACKBONES if name not in TINY}
CASES = [(name, options) for name in BACKBONES for options in TINY[name]]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]['rank']}d")
def backbone(request) -> Backbone:
    name, options = request.param
    channels, size = SHAPES[options["rank"]]
    torch.manual_seed(0)
    return BACKBONES[name].load()(in_channels=channels, input_size=size, **options).eval()


def example(backbone: Backbone) -> torch.Tensor:
    channels, size = SHAPES[backbone.rank]
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


def test_forward_gives_maps_and_a_pooled_vector(backbone):
    features = backbone(example(backbone), torch.ones(2, backbone.in_channels, dtype=torch.bool))
    assert isinstance(features, Features)
    assert features.pooled.shape == (2, backbone.dim)
    assert all(m.shape[0] == 2 and m.ndim == 2 + backbone.rank for m in features.maps)
    assert torch.isfinite(features.pooled).all()


def test_each_parameter_is_in_exactly_one_group(backbone):
    groups = backbone.groups()
    assert len({name for name, _ in groups}) == len(groups)
    listed = [id(p) for _, parameters in groups for p in parameters]
    assert sorted(listed) == sorted(id(p) for p in backbone.parameters())


def test_groups_run_from_the_stem_to_the_top(backbone):
    """Layer decay and progressive thawing read the order: it is the one in which a record meets the layers."""
    groups = backbone.groups()
    assert groups[0][0] == "stem"
    place = {id(p): i for i, (_, parameters) in enumerate(groups) for p in parameters}
    met, handles = [], []
    for module in backbone.modules():
        if own := [place[id(p)] for p in module.parameters(recurse=False)]:
            handles.append(module.register_forward_pre_hook(lambda *_, own=own: met.extend(own)))
    backbone(example(backbone))
    for handle in handles:
        handle.remove()
    assert met == sorted(met) and len(set(met)) >= len(groups) - 1


def test_config_is_json_and_rebuilds_the_same_network(backbone):
    config = json.loads(json.dumps(backbone.config()))
    again = build(config).eval()
    again.load_state_dict(backbone.state_dict())
    x = example(backbone)
    assert torch.equal(again(x).pooled, backbone(x).pooled)
    assert again.config() == config


def test_adapter_targets_exist_and_take_gradient(backbone):
    modules = dict(backbone.named_modules())
    assert backbone.adapter_targets
    backbone(example(backbone)).pooled.square().sum().backward()
    for name in backbone.adapter_targets:
        assert isinstance(modules[name], nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        assert modules[name].weight.grad is not None


def test_an_absent_channel_cannot_speak(backbone):
    x, present = example(backbone), torch.ones(2, backbone.in_channels, dtype=torch.bool)
    present[:, 0] = False
    silent, loud = x.clone(), x.clone()
    silent[:, 0], loud[:, 0] = float("nan"), 7.0
    assert torch.equal(backbone(silent, present).pooled, backbone(loud, present).pooled)


def test_records_of_a_batch_do_not_meet(backbone):
    x = example(backbone)
    alone = backbone(x[:1]).pooled
    torch.testing.assert_close(backbone(x).pooled[:1], alone, rtol=1e-5, atol=1e-6)


def test_a_pyramid_is_as_wide_and_as_coarse_as_it_says(backbone):
    if not isinstance(backbone, Pyramid):
        assert isinstance(backbone, Tokens)
        return
    x = example(backbone)
    maps = backbone.pyramid(x)
    assert [m.shape[1] for m in maps] == list(backbone.widths) and backbone.dim == backbone.widths[-1]
    for found, stride in zip(maps, backbone.strides, strict=True):
        assert [s * n for s, n in zip(stride, found.shape[2:])] == list(x.shape[2:])
    assert sorted(backbone.strides) == list(backbone.strides)
