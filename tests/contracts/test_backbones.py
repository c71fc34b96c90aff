"""What every backbone of the table answers, written once over the table."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from medfm.backbones.base import Backbone, Dense, Pyramid, Tokens, build
from medfm.config.backbones import BACKBONES
from medfm.types import ConfigError, Features

SHAPES = {1: (3, (100,)), 2: (2, (64, 64)), 3: (1, (16, 16, 16))}
TINY = {
    "vit": [
        {"rank": 1, "patch": (25,), "dim": 16, "depth": 2, "heads": 2, "registers": 1},
        {"rank": 2, "patch": (8, 8), "dim": 16, "depth": 2, "heads": 2, "bias": True},
        {"rank": 3, "patch": (8, 8, 8), "dim": 18, "depth": 1, "heads": 2},
    ],
}
# Volumes of the smallest size that a network takes; with a decoder where it has one.
VOLUMES = {
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1]},
    "resnet3d_10": {"input_size": (32, 32, 32)},
    "resnet3d_18": {"input_size": (32, 32, 32)},
    "resnet3d_50": {"input_size": (32, 32, 32)},
    "swin_unetr": {"feature_size": 12, "input_size": (64, 32, 32)},
    "unet3d": {"features": [2, 3, 4, 5, 6, 3], "input_size": (32, 16, 16)},
    "dynunet": {"filters": [2, 3, 4]},
    "pct_net": {"channels": [2, 3, 4, 8, 16], "windows": [2, 2, 2], "input_size": (32, 16, 16)},
}
for name, options in VOLUMES.items():
    # The attention of swin_unetr takes seconds at its smallest size: it is asked once, with its decoder.
    choices = (False,) if "resnet3d" in name else (True,) if name == "swin_unetr" else (False, True)
    TINY[name] = [{"rank": 3, **options, "decoder": decoder} for decoder in choices]
SEQUENCES = {"rank": 3, "patch": (8, 8, 8), "dim": 12, "depth": 2, "heads": 2, "mlp_dim": 24, "decoder_dim": 12,
             "decoder_depth": 1, "decoder_heads": 2, "features": 4}  # fmt: skip
TINY["sequence_vit"] = [{**SEQUENCES, "decoder": kind} for kind in ("none", "reconstruction", "masks")]
# Networks whose name says all; two of each kind would only repeat the others at several times their size.
TINY |= {name: [{"rank": 2}] for name in BACKBONES if name not in TINY}
CASES = [(name, options) for name in BACKBONES for options in TINY[name]]


def identifier(case):
    kind = case[1].get("decoder")
    decoder = f"-{kind}" if isinstance(kind, str) else "-decoder" if kind else ""
    return f"{case[0]}-{case[1]['rank']}d{decoder}"


@pytest.fixture(scope="module", params=CASES, ids=identifier)
def backbone(request) -> Backbone:
    name, options = request.param
    channels, size = SHAPES[options["rank"]]
    torch.manual_seed(0)
    return BACKBONES[name].load()(in_channels=channels, **{"input_size": size, **options}).eval()


def example(backbone: Backbone) -> torch.Tensor:
    channels, size = backbone.in_channels, backbone.config()["input_size"]
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


def everything(backbone: Backbone, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """All maps that the network has: the decoder's where it has one, else the encoder's."""
    return backbone.dense(x) if getattr(backbone, "has_decoder", False) else backbone(x).maps


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
    everything(backbone, example(backbone))
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
    sum(m.square().mean() for m in everything(backbone, example(backbone))).backward()
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
    """In double precision: single sums in another order for a batch, which norms over few positions make large."""
    x, exact = example(backbone).double(), copy.deepcopy(backbone).double()
    with torch.no_grad():
        torch.testing.assert_close(exact(x).pooled[:1], exact(x[:1]).pooled, rtol=1e-7, atol=1e-9)


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


def test_dense_maps_are_as_wide_and_as_fine_as_they_say(backbone):
    if not isinstance(backbone, Dense):
        return
    x = example(backbone)
    if not backbone.has_decoder:
        assert "decoder" not in "".join(name for name, _ in backbone.groups())
        with pytest.raises(ConfigError, match="decoder"):
            backbone.dense(x)
        return
    maps = backbone.dense(x)
    assert [m.shape[1] for m in maps] == list(backbone.dense_widths) and maps[0].shape[2:] == x.shape[2:]
    for found, stride in zip(maps, backbone.dense_strides, strict=True):
        assert [s * n for s, n in zip(stride, found.shape[2:])] == list(x.shape[2:])
    names = [name.startswith("decoder") for name, _ in backbone.groups()]
    assert any(names) and names == sorted(names)
    assert [m.shape for m in backbone.pyramid(x)] == [m.shape for m in backbone(x).maps]
