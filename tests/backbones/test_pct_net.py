"""PCT-Net: windows against a loop over voxels, the fixed size, and what stands in its weights."""

from __future__ import annotations

import itertools

import pytest
import torch

from medfm.backbones.base import build
from medfm.backbones.pct_net import SwinBlock, relative_index
from medfm.types import ConfigError

TINY = {"name": "pct_net", "in_channels": 1, "channels": [2, 3, 4, 8, 16]}


def made(seed=0, **options):
    torch.manual_seed(seed)
    return build({**TINY, "input_size": [32, 16, 16], "windows": [2, 2, 2], **options}).eval()


def volume(*size, batch=1):
    return torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(1))


def test_offsets_are_counted_as_official_weights_are_sorted():
    places = list(itertools.product(range(3), repeat=3))
    index = relative_index(3)
    for i, j in itertools.product(range(27), repeat=2):
        a, b, c = (p - q + 2 for p, q in zip(places[i], places[j]))
        assert index[i, j] == 8 * a + 5 * b + c
    assert relative_index(6).max() < 11**3 and relative_index(1).tolist() == [[0]]


def by_hand(block, x, window, shift):
    """Each voxel attends to those of its cube of the padded, moved level that were neighbours before the move."""
    size, heads, attn = x.shape[:3], block.attn.heads, block.attn
    padded = [-(-n // window) * window for n in size]
    y = torch.zeros(*padded, x.shape[3])
    y[: size[0], : size[1], : size[2]] = block.norm1(x)
    width = x.shape[3] // heads
    out = torch.zeros_like(x)
    for voxel in itertools.product(*(range(n) for n in size)):
        moved = [(v - shift) % n for v, n in zip(voxel, padded)]
        start = [m // window * window for m in moved]
        inside = list(itertools.product(range(window), repeat=3))
        own = inside.index(tuple(m - s for m, s in zip(moved, start)))
        scores, values = [], []
        q, _, _ = attn.qkv(y[voxel]).view(3, heads, width)
        for j, step in enumerate(inside):
            other = [(s + t + shift) % n for s, t, n in zip(start, step, padded)]
            # Side by side only by the move: one of the two came round the edge of the padded level.
            apart = any(
                (m >= n - shift) != (s + t >= n - shift)
                for m, s, t, n in zip(moved, start, step, padded)
            ) if shift else False  # fmt: skip
            _, k, v = attn.qkv(y[tuple(other)]).view(3, heads, width)
            bias = attn.relative_position_bias_table[attn.relative_position_index[own, j]]
            scores.append((q * k).sum(1) / width**0.5 + bias - 100.0 * apart)
            values.append(v)
        share = torch.stack(scores).softmax(0)
        out[voxel] = attn.proj((share[..., None] * torch.stack(values)).sum(0).flatten())
    x = x + out
    return x + block.mlp(block.norm2(x))


@pytest.mark.parametrize(
    ("size", "window", "shift", "used"),
    [
        ((4, 5, 7), 3, 0, (3, 0)), ((4, 5, 7), 3, 1, (3, 1)), ((4, 6, 5), 2, 1, (2, 1)),
        ((2, 4, 5), 3, 1, (2, 0)), ((3, 4, 5), 3, 1, (3, 0)),
    ],
)  # fmt: skip
@torch.no_grad()
def test_windows_are_what_a_loop_over_voxels_says(size, window, shift, used):
    """On a level as small as its window, the window shrinks to it and nothing moves."""
    torch.manual_seed(0)
    block = SwinBlock(4, size, 2, window, shift, 2.0, 0.1, 0.1).eval()
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    x = torch.randn(1, *size, 4)
    expected = by_hand(block, x[0], *used)
    torch.testing.assert_close(block(x)[0], expected, rtol=1e-4, atol=1e-5)
    assert (block(x) - x).abs().max() > 0.1


@pytest.mark.parametrize(
    ("mode", "strides"),
    [
        (0, [(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8), (16, 16, 16)]),
        (1, [(1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8), (8, 16, 16)]),
        (2, [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16)]),
    ],
)
def test_the_resolution_mode_spares_the_first_axis(mode, strides):
    network = made(resolution_mode=mode, decoder=True, input_size=[16, 32, 32])
    assert list(network.strides) == strides and list(network.dense_strides) == strides[:4]
    x = volume(16, 32, 32)
    for maps, expected in ((network.pyramid(x), strides), (network.dense(x), strides[:4])):
        assert [m.shape[2:] for m in maps] == [(16 // a, 32 // b, 32 // c) for a, b, c in expected]
    kernels = {n: tuple(p.shape[2:]) for n, p in network.named_parameters() if p.ndim == 5}
    assert kernels[f"net.embeddings.{mode}.proj.weight"] == ((3, 3, 3) if mode == 0 else (1, 3, 3))
    assert kernels[f"net.embeddings.{mode}.conv1.conv_conv.2.weight"] == (1 if mode == 2 else 3, 3, 3)
    assert kernels[f"net.pred_heads.{mode}.up2.up.2.weight"] == (1 if mode == 2 else 2, 2, 2)


def test_another_size_is_refused_and_told_which_windows_need():
    network = made()
    for action in (network, network.pyramid):
        with pytest.raises(ConfigError, match=r"built for \[32, 16, 16\].*sliding windows must"):
            action(volume(32, 32, 16))
    with pytest.raises(ConfigError, match="multiples of"):
        made(input_size=[24, 16, 16])
    with pytest.raises(ConfigError, match="multiples of"):
        made(input_size=[8, 2, 2])
    with pytest.raises(ConfigError, match="not divisible by heads"):
        made(heads=[3, 8, 16])
    with pytest.raises(ConfigError, match="resolution_mode"):
        made(resolution_mode=3)
    with pytest.raises(ConfigError, match="for volumes"):
        made(rank=2)


def test_it_has_as_many_parameters_as_the_official_network():
    """45.26 million at full width for 64 cubed; not here are the embeddings and heads of the two modes that are not used,
    norms that nothing passes, and classifiers (of 5 classes).
    """
    a, b, c, d, e = channels = [24, 48, 128, 256, 512]
    network = build({**TINY, "channels": channels, "input_size": [64] * 3, "decoder": True})
    own = sum(p.numel() for p in network.parameters())

    def conv(inner, out, kernel):  # batch norm, PReLU, convolution
        return 2 * inner + 1 + inner * out * kernel + out

    def fine(flat):  # embedding and head with kernels of 1 x 3 x 3 on the first level, or on both
        first, second, up1, up2 = 9, 9 if flat else 27, 4, 4 if flat else 8
        embedding = (
            a * first
            + a
            + 2 * conv(a, a, first)
            + conv(a, b, second)
            + 2 * conv(b, b, second)
            + conv(b, c, 27)
        )
        head = conv(c, b, up2) + conv(2 * b, b, second) + 2 * conv(b, b, second)
        head += conv(b, a, up1) + conv(2 * a, a, first) + 2 * conv(a, a, first)
        return embedding + head + conv(a, 5, 1) + conv(b, 5, 1)

    classifiers = sum(5 * w + 5 for w in (a, b, c, d))
    unused_norms = 2 * (2 * c + 2 * d) + 2 * e
    assert round((own + fine(False) + fine(True) + classifiers + unused_norms) / 1e6, 2) == 45.26


def test_stochastic_depth_and_dropout_leave_evaluation_alone():
    network, x = made(), volume(32, 16, 16, batch=2)
    expected = network(x).pooled
    network.set_drop_path(0.9)
    assert torch.equal(network(x).pooled, expected)
    assert not torch.allclose(network.train()(x).pooled, expected)


def test_every_parameter_is_reached_by_the_dense_maps():
    network = made(decoder=True, drop_path=0.0).train()
    sum(m.square().mean() for m in network.dense(volume(32, 16, 16, batch=2))).backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None]
