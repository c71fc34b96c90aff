"""The one Vision Transformer: official sizes, timm's weights, positions, what absent input may do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medfm.backbones.attention import Attention, Block, DropPath, LayerScale, take
from medfm.backbones.base import Tokens, build
from medfm.backbones.positions import sincos
from medfm.backbones.vit import ViT
from medfm.types import ConfigError


def small(**changes):
    options = {
        "rank": 1,
        "in_channels": 3,
        "input_size": (80,),
        "patch": (10,),
        "dim": 16,
        "depth": 2,
        "heads": 4,
    }
    torch.manual_seed(0)
    return ViT(**{**options, "registers": 1, **changes}).eval()


@pytest.mark.parametrize(
    ("dim", "depth", "heads", "count"),
    [(192, 8, 4, 3_600_000), (384, 8, 6, 14_277_888), (768, 12, 12, 85_185_024)],
)
def test_parameter_counts_are_the_official_ones(dim, depth, heads, count):
    with torch.device("meta"):
        vit = ViT(
            rank=1,
            in_channels=12,
            input_size=(5000,),
            patch=(25,),
            dim=dim,
            depth=depth,
            heads=heads,
            registers=1,
        )
    assert sum(p.numel() for p in vit.parameters()) == count
    assert not any(name.endswith("bias") for name, _ in vit.named_parameters())


@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
def test_the_2d_form_loads_timm_weights_by_name_and_computes_the_same(size):
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    official = timm.create_model("vit_tiny_patch16_224", img_size=size, num_classes=0, depth=3).eval()
    for parameter in official.parameters():  # timm starts with zero biases, which would hide a lost one
        nn.init.normal_(parameter, std=0.05)
    ours = ViT(
        rank=2, in_channels=3, input_size=size, patch=(16, 16), dim=192, depth=3, heads=3,
        bias=True, class_token=True, positions="learned",
    ).eval()  # fmt: skip
    ours.load_state_dict(official.state_dict())
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = official.forward_features(x)
        tokens, positions = ours.tokenize(x)
        found = ours.encode(tokens + positions, prefix=True)
        features = ours(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    rows, columns = size[0] // 16, size[1] // 16
    grid = expected[:, 1:].reshape(2, rows, columns, 192).permute(0, 3, 1, 2)
    torch.testing.assert_close(features.maps[0], grid, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.pooled, expected[:, 1:].mean(1), rtol=1e-4, atol=1e-4)


def test_positions_against_the_formula_written_out():
    table = sincos((7,), 6)
    for place in range(7):
        for i in range(3):
            angle = place / 10000 ** (2 * i / 6)
            assert table[place, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[place, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


def test_positions_of_a_plane_are_those_of_its_axes_side_by_side():
    table = sincos((3, 5), 8).reshape(3, 5, 8)
    for row in range(3):
        torch.testing.assert_close(table[row, :, :4], sincos((3,), 4)[row].expand(5, 4))
        torch.testing.assert_close(table[row, :, 4:], sincos((5,), 4))


@pytest.mark.parametrize(
    ("rank", "size", "patch"), [(1, (80,), (10,)), (2, (24, 16), (8, 4)), (3, (8, 12, 16), (4, 4, 8))]
)
def test_the_patch_embedding_is_the_strided_convolution(rank, size, patch):
    vit = small(rank=rank, input_size=size, patch=patch, bias=True)
    nn.init.normal_(vit.patch_embed.proj.bias)
    x = torch.randn(2, 3, *size)
    tokens, _ = vit.tokenize(x)
    expected = vit.patch_embed.proj(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)
    features = vit(x)
    grid = tuple(s // p for s, p in zip(size, patch))
    assert features.maps[0].shape == (2, 16, *grid) and features.pooled.shape == (2, 16)
    torch.testing.assert_close(features.pooled, features.maps[0].flatten(2).mean(2))


def test_attention_against_softmax_written_out():
    torch.manual_seed(2)
    attention = Attention(12, 3, qkv_bias=True, bias=True)
    x = torch.randn(2, 5, 12)
    q, k, v = (x @ attention.qkv.weight.T + attention.qkv.bias).split(12, dim=2)
    heads = []
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / 2.0, dim=-1)
        heads.append(weights @ v[..., part])
    expected = torch.cat(heads, 2) @ attention.proj.weight.T + attention.proj.bias
    torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrapped", [False, True])
def test_asking_for_some_tokens_gives_those_of_the_whole(wrapped):
    vit = small(bias=True)
    if wrapped:  # as an adapter does: qkv is no plain Linear any more
        for block in vit.blocks:
            block.attn.qkv = nn.Sequential(block.attn.qkv)
    tokens = torch.randn(2, 8, 16)
    keep = torch.tensor([[0, 3, 7], [1, 2, 5]])
    whole, part = vit.encode(tokens), vit.encode(tokens, keep=keep)
    torch.testing.assert_close(part, take(whole, keep), rtol=1e-5, atol=1e-6)
    everything, prefixed = vit.encode(tokens, prefix=True), vit.encode(tokens, keep=keep, prefix=True)
    torch.testing.assert_close(everything[:, 1:], whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(prefixed, torch.cat([everything[:, :1], part], 1), rtol=1e-5, atol=1e-6)
    block = vit.blocks[0]
    torch.testing.assert_close(block(tokens, slice(3, None)), block(tokens)[:, 3:], rtol=1e-5, atol=1e-6)


def test_registers_take_part_and_leave_no_trace_in_the_shape():
    vit = small()
    tokens = torch.randn(2, 8, 16)
    before = vit.encode(tokens)
    assert before.shape == tokens.shape
    with torch.no_grad():
        vit.registers.copy_(torch.randn(1, 1, 16))
    assert (vit.encode(tokens) - before).abs().max() > 1e-5


def test_encoding_does_not_depend_on_the_order_of_tokens():
    """Nothing but the positions that a caller added tells tokens apart."""
    vit = small()
    tokens, order = torch.randn(1, 8, 16), torch.randperm(8)
    torch.testing.assert_close(
        vit.encode(tokens[:, order]), vit.encode(tokens)[:, order], rtol=1e-5, atol=1e-6
    )


def test_an_absent_channel_changes_nothing_and_leaves_no_nan():
    vit = small()
    x = torch.randn(2, 3, 80)
    present = torch.tensor([[True, False, True], [True, True, True]])
    zeroed, absent, junk = x.clone(), x.clone(), x.clone()
    zeroed[0, 1], absent[0, 1], junk[0, 1] = 0.0, math.nan, 99.0
    expected = vit(zeroed).pooled
    for variant in (absent, junk):
        torch.testing.assert_close(vit(variant, present).pooled, expected)
    gap = x.clone()
    gap[1, 2, 5:9] = math.nan
    assert torch.isfinite(vit(gap, present).pooled).all()


def test_shorter_inputs_use_the_first_positions_and_longer_ones_continue_the_table():
    vit = small()
    x = torch.randn(1, 3, 120)
    for length in (30, 34, 80, 120):
        tokens, positions = vit.tokenize(x[..., :length])
        assert tokens.shape[1] == length // 10
        torch.testing.assert_close(positions, sincos((12,), 16)[: length // 10])
    plane = small(rank=2, input_size=(16, 24), patch=(8, 8))
    _, positions = plane.tokenize(torch.randn(1, 3, 8, 16))
    torch.testing.assert_close(positions, sincos((2, 3), 16).view(2, 3, 16)[:1, :2].reshape(2, 16))


def test_learned_positions_are_cut_and_never_exceeded():
    vit = small(rank=2, input_size=(16, 24), patch=(8, 8), positions="learned", class_token=True, registers=0)
    _, positions = vit.tokenize(torch.randn(1, 3, 16, 16))
    torch.testing.assert_close(positions, vit.pos_embed[0, [1, 2, 4, 5]])
    with pytest.raises(ConfigError, match="positions"):
        vit(torch.randn(1, 3, 16, 32))


@pytest.mark.parametrize("shape", [(1, 2, 80), (1, 3, 9), (1, 3, 80, 4)])
def test_input_of_another_shape_is_an_error_that_says_so(shape):
    with pytest.raises(ConfigError):
        small()(torch.randn(*shape))


@pytest.mark.parametrize("change", [{"heads": 3}, {"input_size": (8, 8)}, {"patch": (5, 5)}])
def test_contradictory_arguments_are_an_error(change):
    with pytest.raises(ConfigError):
        small(**change)


def test_initialisation_has_the_papers_deviations():
    torch.manual_seed(0)
    vit = ViT(
        rank=1,
        in_channels=12,
        input_size=(500,),
        patch=(25,),
        dim=128,
        depth=8,
        heads=4,
        registers=1,
        bias=True,
    )
    state = vit.state_dict()
    for name, weight in state.items():
        if name.endswith("bias"):
            assert weight.abs().max() == 0
        elif "norm" in name:
            assert (weight == 1).all()
        elif weight.ndim > 1 and weight.numel() > 5000:
            residual = name.endswith(("attn.proj.weight", "mlp.fc2.weight"))
            assert float(weight.std()) == pytest.approx(0.005 if residual else 0.02, rel=0.03), name
    assert float(state["registers"].std()) == pytest.approx(0.02, rel=0.3)


def test_layer_scale_and_stochastic_depth():
    torch.manual_seed(0)
    block = Block(8, 2, layer_scale=0.5)
    assert isinstance(block.ls1, LayerScale)
    x = torch.randn(3, 4, 8)
    middle = x + 0.5 * block.attn(block.norm1(x))
    torch.testing.assert_close(block(x), middle + 0.5 * block.mlp(block.norm2(middle)))
    drop, ones = DropPath(0.25), torch.ones(20_000, 2)
    out = drop(ones)
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert torch.equal(out[:, 0], out[:, 1]) and float(out.mean()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(drop.eval()(ones), ones)
    assert [getattr(b.drop_path, "rate", 0.0) for b in small(depth=3, drop_path=0.2).blocks] == [
        0.0,
        0.1,
        0.2,
    ]


def test_adapter_targets_are_linear_layers_of_the_blocks_alone():
    vit = small()
    modules = dict(vit.named_modules())
    assert len(vit.adapter_targets) == 8
    assert all(
        isinstance(modules[name], nn.Linear) and name.startswith("blocks.") for name in vit.adapter_targets
    )


def test_it_has_the_capability_and_rebuilds():
    vit = small(bias=False, norm_bias=True, layer_scale=0.1)
    assert isinstance(vit, Tokens)
    again = build(vit.config()).eval()
    again.load_state_dict(vit.state_dict())
    x = torch.randn(2, 3, 80)
    assert torch.equal(again(x).pooled, vit(x).pooled)
