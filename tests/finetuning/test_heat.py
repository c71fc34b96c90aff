"""Heat maps against hand-derived values, PyTorch's own attention and MONAI's Grad-CAM; the network is left as it was."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import backbone
from torch import nn

from medfm.backbones.attention import Attention
from medfm.backbones.base import Backbone
from medfm.backbones.image2d import ResNet18
from medfm.backbones.vit import ViT
from medfm.config.strategies import STRATEGIES
from medfm.finetuning.heads import EPS, FinetuneModel, LinearHead
from medfm.finetuning.heat import Heat, _OnMap, attention_map, class_map, heat_map
from medfm.types import Features


class Toy(Backbone):
    """Two maps of stride 4: the mean of bright pixels, and of dark ones."""

    rank, in_channels, dim, widths, strides = 2, 1, 2, (2,), ((4, 4),)

    def forward(self, x, present=None):
        both = torch.cat([x, -x], 1).clamp_min(0)
        last = nn.functional.avg_pool2d(both, 4)
        return Features((last,), last.mean((2, 3)))

    def groups(self):
        return []

    @property
    def adapter_targets(self):
        return []

    def config(self):
        return {}


def head(dim: int, weight: list[float], pool: str) -> LinearHead:
    made = LinearHead(dim, 1, pool)
    w = np.array([weight])
    made.copy_solution(w, np.array([0.3]), np.linspace(-1, 1, w.size), np.linspace(0.5, 2, w.size))
    return made


def picture() -> torch.Tensor:
    """A bright lower right quadrant, a dark upper left one."""
    x = torch.zeros(1, 1, 16, 16)
    x[..., 8:, 8:], x[..., :8, :8] = 2.0, -3.0
    return x


THERE = torch.ones(1, 1, dtype=torch.bool)


def test_grad_cam_lights_the_quadrant_that_drives_the_output():
    bright = FinetuneModel(Toy(), head(2, [1.0, 0.0], "mean")).eval()
    found = heat_map(bright, picture(), THERE, 0)
    assert (found.name, found.cell) == ("grad-cam", (4, 4))
    expected = np.zeros((4, 4))
    expected[2:, 2:] = 2.0 / 16 / 0.5  # activation, a sixteenth of the mean, the feature's scale
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    assert found.shade.max() == 1 and found.shade[:2].max() == 0
    against = FinetuneModel(Toy(), head(2, [-1.0, 0.0], "mean")).eval()
    nothing = heat_map(against, picture(), THERE, 0)
    assert nothing.strongest == 0 and not nothing.shade.any()


def test_a_pooled_deviation_is_shown_too_where_plain_grad_cam_sees_nothing():
    from monai.visualize import GradCAM

    model = FinetuneModel(Toy(), head(2, [0.0, 0.0, 1.0, 0.0], "mean-std")).eval()
    last = Toy()(picture()).maps[0].requires_grad_()
    assert GradCAM(_OnMap(model.head), "maps").compute_map(last, 0).abs().max() < 1e-6
    found = class_map(model, picture(), THERE, 0)[0].numpy()
    # d std / d a_i = (a_i - mean) / (16 std), with mean 0.5 and std sqrt(0.75) of four 2s among twelve 0s; scale 1.5.
    expected = np.zeros((4, 4))
    expected[2:, 2:] = 2.0 * 1.5 / (16 * 0.75**0.5) / 1.5
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_all_positions_make_up_the_logit_and_a_pooled_mean_gives_monais_grad_cam(monkeypatch):
    from monai.visualize import GradCAM

    torch.manual_seed(0)
    net = ResNet18(in_channels=1, input_size=(64, 96)).eval()
    x = torch.randn(1, 1, 64, 96)
    rng = np.random.default_rng(0)
    for pool, width in (("mean", 512), ("mean-std", 1024)):
        model = FinetuneModel(net, head(512, rng.normal(size=width).tolist(), pool)).eval()
        with monkeypatch.context() as patch:
            patch.setattr("medfm.finetuning.heat.F", SimpleNamespace(relu=lambda v: v))
            signed = class_map(model, x, THERE, 0)
        with torch.no_grad():
            z, (weight, constant) = model.features(x)[0], model.head.folded()
            z[512:] -= (
                EPS / z[512:]
            )  # the little that keeps a deviation's slope finite belongs to no position
            logit = float(weight[0] @ z)
            assert pool == "mean-std" or logit == pytest.approx(float(model(x) - constant), rel=1e-3)
        assert float(signed.sum()) == pytest.approx(logit, rel=1e-3)
        assert signed.shape == (1, 2, 3) and bool((signed < 0).any())
        if pool == "mean":
            with torch.no_grad():
                last = net(x).maps[-1]
            plain = GradCAM(_OnMap(model.head), "maps").compute_map(last.requires_grad_(), 0)[:, 0]
            torch.testing.assert_close(class_map(model, x, THERE, 0), plain, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_network_is_left_as_it_was(frozen):
    torch.manual_seed(0)
    for net, x in (
        (ResNet18(in_channels=1, input_size=(32, 32)), torch.randn(1, 1, 32, 32)),
        (backbone(), torch.randn(1, 3, 80)),
    ):
        model = FinetuneModel(net, LinearHead(net.dim, 2)).eval()
        nn.init.normal_(model.head.linear.weight)
        model.requires_grad_(not frozen)
        before = copy.deepcopy(model.state_dict())
        present = torch.ones(x.shape[:2], dtype=torch.bool)
        logits = model(x, present)
        state = torch.get_rng_state()
        heat_map(model, x, present, 1)
        assert torch.equal(state, torch.get_rng_state())
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert not any(m.training or m._forward_hooks or m._backward_hooks for m in model.modules())
        assert all(p.requires_grad is not frozen and p.grad is None for p in model.parameters())
        assert torch.equal(model(x, present), logits)


def test_attention_is_that_of_pytorch():
    torch.manual_seed(0)
    ours = Attention(24, 3, qkv_bias=True, bias=True).eval()
    theirs = nn.MultiheadAttention(24, 3, batch_first=True).eval()
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    x = 3 * torch.randn(2, 7, 24)
    out, expected = theirs(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(ours.weights(x), expected)
    torch.testing.assert_close(ours(x), out)


@pytest.mark.parametrize("extra", [{"registers": 2}, {"class_token": True}, {}])
def test_rollout_by_hand(extra):
    torch.manual_seed(0)
    net = ViT(rank=2, in_channels=1, input_size=(8, 12), patch=(4,), dim=16, depth=3, heads=2, **extra).eval()
    for name, part in net.named_parameters():
        if name.endswith("qkv.weight"):
            nn.init.normal_(part, std=1.0)
    x, present = torch.randn(2, 1, 8, 12), torch.ones(2, 1, dtype=torch.bool)
    met: list[torch.Tensor] = []
    hooks = [b.attn.register_forward_pre_hook(lambda _, taken: met.append(taken[0])) for b in net.blocks]
    with torch.no_grad():
        net(x, present)
        for hook in hooks:
            hook.remove()
        weights = net.attention(x, present)
        for block, found, taken in zip(net.blocks, weights, met):
            torch.testing.assert_close(found, block.attn.weights(taken))
    blocks = [w.double().numpy() for w in weights]
    prefix, patches = net.prefix, 6
    assert len(blocks) == 3 and blocks[0].shape == (2, 2, prefix + patches, prefix + patches)
    for i in range(2):
        rolled = np.eye(prefix + patches)
        for block in blocks:
            np.testing.assert_allclose(block[i].sum(-1), 1, rtol=1e-6)
            rolled = (0.5 * (block[i, 0] + block[i, 1]) / 2 + 0.5 * np.eye(len(rolled))) @ rolled
        to_patches = [
            sum(rolled[prefix + q, prefix + k] for q in range(patches)) / patches for k in range(patches)
        ]
        expected = np.array(to_patches) / sum(to_patches)
        found = attention_map(net, x, present)[i].numpy()
        assert found.shape == (2, 3)
        np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)
        assert expected.std() > 1e-3


def test_attention_follows_the_adapters_of_a_network():
    model = FinetuneModel(backbone(), LinearHead(16, 1)).eval()
    x, present = torch.randn(1, 3, 80), torch.ones(1, 3, dtype=torch.bool)
    before = heat_map(model, x, present, 0)
    assert before.name == "attention" and before.cell == (10,) and before.values.shape == (8,)
    entry = STRATEGIES["lora"]
    entry.load()(entry.settings()).apply(model)
    model.eval()
    np.testing.assert_array_equal(heat_map(model, x, present, 0).values, before.values)
    for name, part in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(part)
    assert not np.allclose(heat_map(model, x, present, 0).values, before.values, atol=1e-4)


def test_attention_is_shaded_above_its_even_share():
    heat = Heat(np.array([0.1, 0.25, 0.25, 0.4]), (5,), "attention")
    assert heat.strongest == pytest.approx(1.6)
    np.testing.assert_allclose(heat.shade, [0, 0, 0, 1])
    assert not Heat(np.full(4, 0.25), (5,), "attention").shade.any()
