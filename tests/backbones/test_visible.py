"""Layers that see visible positions only, at ranks 1, 2 and 3: against sums written out over the visible positions."""

from __future__ import annotations

import itertools
import math
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medfm.backbones.patches import patchify, unpatchify
from medfm.backbones.visible import Cells, VisibleNetwork
from medfm.types import ConfigError

GRID = {1: (6,), 2: (3, 4), 3: (2, 3, 2)}
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
MEAN = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
GLOBAL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def some(rank, share=0.5, batch=2):
    total = math.prod(GRID[rank])
    count = round(share * total)
    g = torch.Generator().manual_seed(1)
    visible = torch.rand(batch, total, generator=g).argsort(1)[:, :count].sort(1).values
    return Cells(visible, GRID[rank])


def image(rank, side, channels=3, batch=2):
    g = torch.Generator().manual_seed(2)
    return torch.randn(batch, channels, *[n * side for n in GRID[rank]], generator=g)


def cut(x, cells, side):
    """The visible cells of ``x``, one by one."""
    found = []
    for record, slots in enumerate(cells.slots):
        for n in (slots >= 0).nonzero().flatten().tolist():
            place = [int(i) for i in torch.unravel_index(torch.tensor(n), cells.grid)]
            found.append(x[(record, slice(None), *[slice(p * side, (p + 1) * side) for p in place])])
    return torch.stack(found)


def run(layer, x, cells, side):
    with VisibleNetwork(layer).sees(cells), torch.no_grad():
        return cells.dense(layer(cut(x, cells, side)))


def at(cells, x):
    """Visibility at the resolution of ``x``, ``[B, 1, *S]``."""
    mask = (cells.slots >= 0).view(len(x), 1, *cells.grid)
    for axis, (s, g) in enumerate(zip(x.shape[2:], cells.grid)):
        mask = mask.repeat_interleave(s // g, dim=2 + axis)
    return mask


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_cells_go_to_their_places_and_records_stay_apart(rank):
    x, cells = image(rank, 4), some(rank)
    mask = at(cells, x)
    torch.testing.assert_close(cells.dense(cut(x, cells, 4)), x * mask)
    assert torch.equal(cells.hidden((4,) * rank), ~mask)
    together = cells.together(cut(x, cells, 4))
    for record in range(2):
        expected = x[record][:, mask[record, 0]].sort(1).values
        torch.testing.assert_close(together[record].flatten(1).sort(1).values, expected)
    torch.testing.assert_close(cells.apart(together), cut(x, cells, 4))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [(3, 1, 1, 1, 1), (3, 2, 1, 1, 1), (7, 2, 3, 1, 1), (1, 2, 0, 1, 1), (2, 2, 0, 1, 1), (3, 1, 2, 2, 1), (7, 1, 3, 1, 3),
     (3, 1, "same", 1, 1), (5, 4, 2, 1, 1)],
)  # fmt: skip
def test_a_convolution_adds_nothing_of_hidden_positions(rank, kernel, stride, padding, dilation, groups):
    torch.manual_seed(0)
    layer = CONV[rank](3, 6, kernel, stride, padding, dilation, groups)
    x, cells = image(rank, 8), some(rank)
    with torch.no_grad():
        expected = layer(x * at(cells, x))
    found = run(layer, x, cells, 8)
    torch.testing.assert_close(found, expected * at(cells, expected), rtol=1e-4, atol=1e-5)
    noisy = torch.where(at(cells, x), x, 1e6)
    assert torch.equal(run(layer, noisy, cells, 8), found)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil"),
    [(3, 2, 1, False), (2, 2, 0, False), (3, 2, 0, True), (3, 1, 1, False)],
)
def test_pools_over_visible_positions_written_out(rank, kernel, stride, padding, ceil):
    """All values negative: a hidden zero would win every maximum."""
    x, cells = -image(rank, 4).abs() - 1, some(rank)
    mask = at(cells, x)
    found = {
        "max": run(MAX[rank](kernel, stride, padding, ceil_mode=ceil), x, cells, 4),
        "mean": run(
            MEAN[rank](kernel, stride, padding, ceil_mode=ceil, count_include_pad=False), x, cells, 4
        ),
    }
    inner = at(cells, found["max"])
    assert inner.any() and not inner.all()
    for record, *place in (inner[:, 0]).nonzero().tolist():
        window = (
            record,
            slice(None),
            *[slice(max(0, p * stride - padding), p * stride - padding + kernel) for p in place],
        )
        seen = mask[(record, 0, *window[2:])]
        values = x[window][:, seen]
        where = (record, slice(None), *place)
        torch.testing.assert_close(found["max"][where], values.amax(1))
        torch.testing.assert_close(found["mean"][where], values.mean(1))
    for value in found.values():
        assert (value[~inner.expand_as(value)] == 0).all()


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("include", [True, False])
def test_with_all_cells_visible_a_mean_counts_padding_as_it_always_does(rank, include):
    layer = MEAN[rank](3, 2, 1, count_include_pad=include)
    x = image(rank, 4)
    every = Cells(torch.arange(math.prod(GRID[rank])).expand(2, -1), GRID[rank])
    torch.testing.assert_close(run(layer, x, every, 4), layer(x))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_batch_statistics_are_those_of_the_visible_positions(rank):
    x, cells = image(rank, 4), some(rank)
    rows = x.movedim(1, -1)[at(cells, x)[:, 0]]
    layer = BATCH[rank](3, momentum=1.0)
    found = run(layer, x, cells, 4)
    mean, variance = rows.mean(0), rows.var(0)
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, variance)
    seen = found.movedim(1, -1)[at(cells, x)[:, 0]]
    expected = (rows - mean) / (rows.var(0, correction=0) + layer.eps).sqrt()
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["instance", "group"])
def test_a_records_statistics_are_those_of_its_own_visible_positions(rank, kind):
    x, cells = image(rank, 4, channels=6), some(rank)
    layer = INSTANCE[rank](6, affine=True) if kind == "instance" else nn.GroupNorm(2, 6)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    found, width = run(layer, x, cells, 4), 1 if kind == "instance" else 3
    for record in range(2):
        where = at(cells, x)[record, 0]
        for first in range(0, 6, width):
            channels = slice(first, first + width)
            values = x[record, channels][:, where]
            normed = (values - values.mean()) / (values.var(correction=0) + layer.eps).sqrt()
            expected = normed * layer.weight[channels, None] + layer.bias[channels, None]
            torch.testing.assert_close(
                found[record, channels][:, where], expected.detach(), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_norm_over_channels_and_a_pool_over_everything(rank):
    x, cells = image(rank, 4), some(rank)

    class Over(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.pool = nn.LayerNorm(3), GLOBAL[rank](1)

        def forward(self, x):
            return self.norm(x.movedim(1, -1)).movedim(-1, 1) * self.pool(x)

    mask = at(cells, x)
    means = (x * mask).flatten(2).sum(2) / mask.flatten(2).sum(2)
    expected = F.layer_norm(x.movedim(1, -1), (3,)).movedim(-1, 1) * means.view(2, 3, *[1] * rank)
    torch.testing.assert_close(run(Over(), x, cells, 4), expected * mask, rtol=1e-4, atol=1e-5)


def test_after_the_block_the_network_is_as_it_was_also_after_an_error():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1), nn.GroupNorm(2, 4))
    before = [(m.__dict__.get("padding"), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network]
    x, cells = image(2, 4), some(2)
    expected = network(x)
    with pytest.raises(ZeroDivisionError), VisibleNetwork(network).sees(cells):
        network(cut(x, cells, 4))
        raise ZeroDivisionError
    after = [(m.__dict__.get("padding"), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network]
    assert before == after and torch.equal(network(x), expected)


def test_two_networks_with_two_masks_at_once_do_not_meet():
    """Nothing is kept in a module or a global: each replica of a data-parallel run has its own mask."""
    torch.manual_seed(0)
    networks = [
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.InstanceNorm2d(3), nn.MaxPool2d(3, 2, 1))
        for _ in "ab"
    ]
    networks[1].load_state_dict(networks[0].state_dict())
    x, masks = image(2, 4), [some(2, 0.5), some(2, 0.25)]
    alone = [run(n, x, cells, 4) for n, cells in zip(networks, masks)]
    barrier, found = threading.Barrier(2), [None, None]

    def work(i):
        with VisibleNetwork(networks[i]).sees(masks[i]), torch.no_grad():
            y = cut(x, masks[i], 4)
            for layer in networks[i]:
                barrier.wait()
                y = layer(y)
            found[i] = masks[i].dense(y)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(found, alone)) and not torch.equal(*alone)


@pytest.mark.parametrize(
    "layer", [nn.ConvTranspose2d(3, 3, 2, 2), nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")]
)
def test_layers_that_cannot_be_restricted_are_named(layer):
    with pytest.raises(ConfigError, match="layer 0"):
        VisibleNetwork(nn.Sequential(layer))


def test_patches_written_out_and_put_together_again():
    x = torch.arange(2 * 3 * 4 * 6 * 2).reshape(2, 3, 4, 6, 2).float()
    patches = patchify(x, (2, 3, 1))
    assert patches.shape == (2, 8, 18)
    for n, (i, j, k) in enumerate(itertools.product(range(2), range(2), range(2))):
        expected = x[:, :, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3, k : k + 1].flatten(1)
        assert torch.equal(patches[:, n], expected)
    assert torch.equal(unpatchify(patches, (2, 2, 2), (2, 3, 1)), x)
    assert torch.equal(patchify(F.pad(x, (0, 0, 0, 2)), (2, 3, 1)), patches)
