"""Volume Fusion: patches painted by hand, volumes mixed by the formula, losses in loops, and a Dice that rises."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.backbones.base import Backbone
from medfm.backbones.patches import silenced
from medfm.backbones.vit import ViT
from medfm.config.methods import VolumeFusionSettings
from medfm.config.run import OptimSettings
from medfm.pretraining import volume_fusion as module
from medfm.pretraining.volume_fusion import VolumeFusion
from medfm.types import Batch, ConfigError, Features

PLAIN: dict[str, Any] = {"zoom": (1, 1), "flip": 0, "contrast": False, "invert": 0, "block": (2, 5)}


class Net(Backbone):
    """One halving and back, 6 and 12 wide."""

    def __init__(self, size: tuple[int, ...] = (8, 10, 6), channels: int = 2, decoder: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rank, self.in_channels, self.dim, self.size = 3, channels, 12, size
        self.has_decoder, self.dense_widths, self.dense_strides = decoder, (6, 12), ((1, 1, 1), (2, 2, 2))
        self.fine = nn.Sequential(nn.Conv3d(channels, 6, 3, 1, 1), nn.GroupNorm(2, 6), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv3d(6, 12, 3, 2, 1), nn.GroupNorm(2, 12), nn.ReLU())
        self.back = nn.Conv3d(18, 6, 3, 1, 1)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Features:
        fine = self.fine(silenced(x, present))
        coarse = self.coarse(fine)
        return Features((fine, coarse), coarse.flatten(2).mean(2))

    def dense(self, x: Tensor) -> tuple[Tensor, ...]:
        assert not x.isnan().any()
        fine = self.fine(x)
        coarse = self.coarse(fine)
        up = F.interpolate(coarse, x.shape[2:])
        return F.relu(self.back(torch.cat([fine, up], 1))), coarse

    def groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        return [("stem", list(self.parameters()))]

    @property
    def adapter_targets(self) -> list[str]:
        return []

    def config(self) -> dict[str, Any]:
        return {"name": "net", "input_size": list(self.size)}


def make(size=(8, 10, 6), seed=0, channels=2, **settings: Any) -> VolumeFusion:
    torch.manual_seed(0)
    options = VolumeFusionSettings(**{**PLAIN, **settings})
    return VolumeFusion(Net(size, channels), options, OptimSettings(), 20, seed).train()


def batch(method: VolumeFusion, records: int = 3, seed: int = 1) -> Batch:
    g = torch.Generator().manual_seed(seed)
    views = torch.rand(records, 2, method.backbone.in_channels, *method.window, generator=g)
    present = torch.ones(records, method.backbone.in_channels, dtype=torch.bool)
    return Batch(views[:, 0], present, views={"views": views})


def painted_slowly(first, edges, classes, size):
    """Box after box into an array, as one would by hand."""
    out = np.zeros((len(first), *size), np.int64)
    for b in range(len(first)):
        for start, edge, c in zip(first[b], edges[b], classes[b]):
            if c:
                box = [slice(max(s, 0), max(s + e, 0)) for s, e in zip(start, edge)]
                out[b][tuple(box)] = c
    return out


def test_later_boxes_overwrite_earlier_ones():
    first = torch.tensor([[[0, 0, 0], [1, 1, -2], [0, 0, 0]]])
    edges = torch.tensor([[[2, 2, 2], [5, 1, 3], [1, 1, 1]]])
    found = module.painted(first, edges, torch.tensor([[1, 2, 0]]), (3, 2, 2))[0]
    expected = torch.zeros(3, 2, 2, dtype=torch.long)
    expected[:2] = 1
    expected[1:, 1, 0] = 2
    assert torch.equal(found, expected)
    swapped = module.painted(first, edges, torch.tensor([[1, 2, 3]]), (3, 2, 2))[0]
    assert int(swapped[0, 0, 0]) == 3 and torch.equal(swapped.flatten()[1:], expected.flatten()[1:])


def test_the_papers_boxes_are_those_painted_in_a_loop():
    """10 to 40 of them, clipped at the border, with the paper's edges where the crop is the paper's."""
    rng, size = np.random.default_rng(0), (16, 24, 12)
    first, edges, classes = module.boxes(rng, 4, size, 4)
    found = module.painted(first, edges, classes, size)
    assert np.array_equal(found.numpy(), painted_slowly(first.numpy(), edges.numpy(), classes.numpy(), size))
    assert set(found.unique().tolist()) == {0, 1, 2, 3, 4}
    _, edges, classes = module.boxes(rng, 500, (128, 128, 64), 4)
    count = (classes > 0).sum(1)
    assert (int(count.min()), int(count.max())) == (10, 40)
    low, high = edges.flatten(0, 1).min(0).values, edges.flatten(0, 1).max(0).values
    assert low.tolist() == [8, 8, 8] and high.tolist() == [80, 80, 40]
    first, edges, _ = module.boxes(rng, 500, (128, 128, 64), 4)
    middles = (first + edges // 2).flatten(0, 1)
    assert middles.min(0).values.tolist() == [0, 0, 0] and middles.max(0).values.tolist() == [127, 127, 63]


def test_blocks_are_a_regular_grid():
    table = torch.arange(2 * 27).view(2, 3, 3, 3)
    edges, offset = torch.tensor([[3, 2, 4], [2, 2, 2]]), torch.tensor([[1, 0, 3], [0, 1, 0]])
    found = module.tiled(table, edges, offset, (5, 4, 5))
    for b in range(2):
        for i, j, k in np.ndindex(5, 4, 5):
            at = [(p + int(o)) // int(e) for p, o, e in zip((i, j, k), offset[b], edges[b])]
            assert found[b, i, j, k] == table[b, at[0], at[1], at[2]]


def test_seven_of_ten_blocks_are_foreground_and_sizes_are_in_range():
    table, edges, offset = module.blocks(np.random.default_rng(0), 300, (32, 32, 32), 4, (8, 20))
    share = (table > 0).float().mean()
    assert float(share) == pytest.approx(0.7, abs=0.01)
    assert [int((table == c).sum()) / table.numel() for c in (1, 2, 3, 4)] == pytest.approx(
        [0.175] * 4, abs=0.01
    )
    assert (int(edges.min()), int(edges.max())) == (8, 20)
    assert int((offset - edges).max()) < 0 <= int(offset.min())
    module.tiled(table, edges, offset, (32, 32, 32))  # the table is large enough
    smallest = torch.full((1, 3), 8)
    module.tiled(table[:1], smallest, smallest - 1, (32, 32, 32))


@pytest.mark.parametrize("pairs", ["same", "volumes"])
@pytest.mark.parametrize("patches", ["current", "2023"])
def test_the_fused_volume_equals_the_formula_at_every_voxel(pairs, patches):
    method = make(pairs=pairs, patches=patches)
    data = batch(method)
    fused, target = method.fused(data, np.random.default_rng(3))
    views = data.views["views"]
    front = views[:, 0]
    back = views[:, 1] if pairs == "same" else front[[2, 0, 1]]
    assert fused.shape == (3, 2, 8, 10, 6) and target.shape == (3, 8, 10, 6)
    assert target.dtype == torch.long and set(target.unique().tolist()) == {0, 1, 2, 3, 4}
    share = target[:, None].double() / 4
    torch.testing.assert_close(fused.double(), share * front + (1 - share) * back, rtol=0, atol=1e-6)
    only = fused.movedim(1, -1)
    assert torch.equal(only[target == 0], back.movedim(1, -1)[target == 0])
    assert torch.equal(only[target == 4], front.movedim(1, -1)[target == 4])


def test_a_negative_is_one_less_and_absent_channels_stay_zero():
    method = make(invert=1)
    data = batch(method)
    data.present[1, 0] = False
    data.views["views"][1, :, 0] = torch.nan
    data.views["views"][0, 0, 0, 0, 0, 0] = torch.nan
    fused, target = method.fused(data, np.random.default_rng(3))
    plain, again = make().fused(data, np.random.default_rng(3))
    assert torch.equal(target, again)
    plain = 1 - plain
    plain[1, 0] = 0
    torch.testing.assert_close(fused, plain)
    pair = make(pairs="volumes")
    fused, _ = pair.fused(data, np.random.default_rng(3))
    assert not fused[1, 0].any() and not fused[2, 0].any() and fused[0, 0].any()


def test_a_zoomed_window_is_the_part_that_was_asked_for():
    """Brightness is the place itself, so that a trilinear interpolation can be worked out exactly."""
    window, crop = (9, 12, 8), (6, 4, 4)
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in window), indexing="ij")
    x = torch.stack(axes)[None].repeat(2, 1, 1, 1, 1)
    zoom, place = torch.tensor([1.0, 0.8]), torch.tensor([[1 / 3, 0.5, 1.0], [0.0, 0.25, 0.5]])
    mirror = torch.tensor([[False, True, False], [True, False, False]])
    found = module.zoomed(x, crop, zoom, place, mirror)
    for b in range(2):
        for axis, length in enumerate(crop):
            part = length / float(zoom[b])
            start = float(place[b, axis]) * (window[axis] - part)
            expected = start + (torch.arange(length) + 0.5) * part / length - 0.5
            if mirror[b, axis]:
                expected = expected.flip(0)
            line = found[b, axis].movedim(axis, 0).flatten(1)
            torch.testing.assert_close(line, expected[:, None].expand_as(line), rtol=0, atol=1e-5)
    # Whole voxels at zoom 1: a plain cut.
    assert torch.allclose(found[0, 0, :, 0, 0], torch.arange(1.0, 7.0), atol=1e-5)


def test_windows_are_large_enough_for_the_smallest_zoom():
    method = make((8, 10, 6), zoom=(0.7, 1.5), flip=0.5)
    assert method.view_spec.size == (12, 15, 9) and method.view_spec.views == 2
    assert method.view_spec.place == "any"
    fused, target = method.fused(batch(method), np.random.default_rng(0))
    assert fused.shape == (3, 2, 8, 10, 6) and target.shape == (3, 8, 10, 6)
    assert make(pairs="volumes").view_spec.views == 1
    assert make(zoom=(0.5, 1.2)).view_spec.size == (16, 20, 12)
    assert make(crop=(4, 4, 4)).view_spec.size == (4, 4, 4)


def test_contrast_stretches_between_percentiles_and_draws_a_gamma(monkeypatch):
    monkeypatch.setattr(module, "RANKED", 10**6)
    x = torch.linspace(-3, 7, 1001).view(1, 1, 1001, 1, 1).repeat(2, 1, 1, 1, 1)
    low, high, gamma = torch.tensor([1.0, 2.0]), torch.tensor([99.0, 98.0]), torch.tensor([1.0, 0.7])
    found = module.stretched(x, low, high, gamma)
    for b in range(2):
        v = x[b].double().numpy()
        bottom, top = np.percentile(v, [float(low[b]), float(high[b])])
        expected = np.clip((v - bottom) / (top - bottom), 0, 1) ** float(gamma[b])
        np.testing.assert_allclose(found[b].numpy(), expected, atol=1e-5)
    assert not module.stretched(torch.full((1, 1, 8, 1, 1), 3.0), low[:1], high[:1], gamma[:1]).any()
    monkeypatch.setattr(module, "RANKED", 300)  # of every third voxel: nearly the same
    near = module.stretched(x, low, high, gamma)
    assert 0 < float((near - found).abs().max()) < 0.01
    moved = make(contrast=True, channels=1).altered(
        5 * torch.rand(2, 1, 8, 10, 6) - 2, torch.ones(2, 1), np.random.default_rng(0)
    )
    assert float(moved.min()) == 0 and float(moved.max()) == 1


def test_dice_by_hand():
    shares = torch.tensor([[[0.8, 0.4], [0.2, 0.6], [0.0, 0.0]]]).view(1, 3, 2, 1, 1)
    target = torch.tensor([0, 1]).view(1, 2, 1, 1)
    found = module.dice(shares, target)
    expected = [2 * 0.8 / (1.2 + 1), 2 * 0.6 / (0.8 + 1), 1.0]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_the_loss_is_half_dice_and_half_cross_entropy():
    method = make()
    data = batch(method)
    fused, target = method.fused(data, method.rng())
    with torch.no_grad():
        share = method.heads[0](method.backbone.dense(fused)[0]).softmax(1).double().numpy()
    truth = np.eye(5)[target.numpy()].transpose(0, 4, 1, 2, 3)
    entropy = -np.mean(np.log((share * truth).sum(1)))
    classes = [
        2 * (share[:, c] * truth[:, c]).sum() / (share[:, c].sum() + truth[:, c].sum()) for c in range(5)
    ]
    loss, logs = method.step(data)
    assert float(loss.detach()) == pytest.approx((1 - np.mean(classes) + entropy) / 2, rel=1e-5)
    assert float(logs["dice_loss"].detach()) == pytest.approx(1 - np.mean(classes), rel=1e-5)
    assert float(logs["cross_entropy"].detach()) == pytest.approx(entropy, rel=1e-5)
    assert set(logs) == set(VolumeFusion.losses)
    loss.backward()
    assert all(p.grad is not None for p in method.parameters())


def test_deep_supervision_halves_the_weight_of_every_coarser_map():
    method = make(deep_supervision=True)
    assert len(method.heads) == 2 and len(make().heads) == 1
    data = batch(method)
    fused, target = method.fused(data, method.rng())
    with torch.no_grad():
        fine, coarse = method.logits(fused)
    small = torch.stack(
        [target[:, i, j, k] for i in (1, 3, 5, 7) for j in (1, 3, 5, 7, 9) for k in (1, 3, 5)], 1
    )
    small = small.view(3, 4, 5, 3)
    expected = (2 * F.cross_entropy(fine, target) + F.cross_entropy(coarse, small)) / 3
    overlap = [1 - module.dice(x.softmax(1), t).mean() for x, t in ((fine, target), (coarse, small))]
    loss, logs = method.step(data)
    torch.testing.assert_close(logs["cross_entropy"].detach(), expected)
    torch.testing.assert_close(logs["dice_loss"].detach(), (2 * overlap[0] + overlap[1]) / 3)
    torch.testing.assert_close(loss.detach(), (logs["cross_entropy"] + logs["dice_loss"]).detach() / 2)


def test_a_step_is_a_function_of_seed_step_and_micro_batch(monkeypatch):
    options = {"zoom": (0.7, 1.5), "flip": 0.5, "contrast": True, "invert": 0.5}
    data = batch(make(**options))

    def loss(seed=0, step=0, micro=0):
        method = make(seed=seed, **options)
        monkeypatch.setattr(VolumeFusion, "global_step", property(lambda self: step))
        monkeypatch.setattr(VolumeFusion, "micro", property(lambda self: micro))
        return float(method.step(data)[0].detach())

    first = loss()
    assert loss() == first
    assert len({first, loss(seed=1), loss(step=1), loss(micro=1)}) == 4


def test_the_loss_is_float32_under_autocast():
    method = make()
    plain = float(method.step(batch(method))[0].detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, logs = method.step(batch(method))
    assert loss.dtype == torch.float32 and all(v.dtype == torch.float32 for v in logs.values())
    assert float(loss.detach()) == pytest.approx(plain, rel=0.02)


@pytest.mark.parametrize("pairs", ["same", "volumes"])
def test_measures_leave_the_network_alone_and_state_the_chance(pairs):
    method = make(pairs=pairs, zoom=(0.7, 1.2))
    method.backbone.fine.append(nn.Dropout(0.5))  # in training two measures would differ
    before = copy.deepcopy(method.state_dict())
    measures = method.collapse_measures(batch(method, 5))
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items()) and method.backbone.training
    assert set(VolumeFusion.measures) < set(measures) and measures["fusion_dice_chance"] == 0.2
    assert measures["target_std"] > 0 and measures["effective_rank"] > 1
    assert measures == method.collapse_measures(batch(method, 5))
    target = method.fused(batch(method, 5), np.random.default_rng(method.seed))[1]
    method.logits = lambda part: [F.one_hot(target[found.pop(0)], 5).movedim(-1, 0).float()[None]]
    found = [0, 1, 2, 3, 4]
    assert method.collapse_measures(batch(method, 5))["fusion_dice"] == pytest.approx(1)


def test_guessing_by_prevalence_has_the_stated_chance():
    rng = np.random.default_rng(0)
    target = torch.from_numpy(rng.choice(5, 200_000, p=[0.3, 0.3, 0.2, 0.1, 0.1])).view(1, -1, 1, 1)
    guess = torch.from_numpy(rng.permutation(target.numpy().ravel())).view(1, -1, 1, 1)
    found = module.dice(F.one_hot(guess, 5).movedim(-1, 1).float(), target)
    assert float(found.mean()) == pytest.approx(0.2, abs=0.01)


def striped(method: VolumeFusion, records: int, seed: int) -> Batch:
    """Of each pair the foreground has waves along axis 0 and the background along axis 1."""
    g = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in method.window), indexing="ij")
    phase = torch.rand(records, 2, 1, 1, 1, generator=g) * 2 * math.pi
    waves = torch.sin(torch.stack(axes[:2]) * 1.6 + phase)
    x = (0.5 + 0.5 * waves)[:, :, None]
    return Batch(x[:, 0], torch.ones(records, 1, dtype=torch.bool), views={"views": x})


def test_it_learns_to_take_volumes_apart(monkeypatch):
    method = make((12, 12, 12), channels=1, block=(4, 8))
    held = striped(method, 8, 10_000)
    first = method.collapse_measures(held)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(300):
        monkeypatch.setattr(VolumeFusion, "global_step", property(lambda self, step=step: step))
        loss, _ = method.step(striped(method, 4, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    last = method.collapse_measures(held)
    assert first["fusion_dice"] < 0.25 and last["fusion_dice"] > 0.5
    assert method.verdict(first, last) == ""


def test_a_flat_run_is_said_in_one_sentence():
    chance = {"fusion_dice_chance": 0.2}
    assert VolumeFusion.verdict({}, {"fusion_dice": 0.26, **chance}) == ""
    said = VolumeFusion.verdict({}, {"fusion_dice": 0.21, **chance})
    assert said.startswith("FLAT") and "0.21" in said and "trainer.steps" in said
    assert VolumeFusion.verdict({}, {}) == ""


def test_what_cannot_work_is_an_error_that_says_so():
    assert "method.pairs=same" in VolumeFusionSettings(pairs="volumes").refuse(1)
    assert not VolumeFusionSettings(pairs="volumes").refuse(2) and not VolumeFusionSettings().refuse(1)
    with pytest.raises(ValueError, match="smaller number first"):
        VolumeFusionSettings(zoom=(1.5, 0.7))
    with pytest.raises(ConfigError, match="decoder=true"):
        VolumeFusion(Net(decoder=False), VolumeFusionSettings(), OptimSettings(), 20, 0)
    vit = ViT(rank=3, in_channels=1, input_size=(8, 8, 8), patch=(4, 4, 4), dim=18, depth=1, heads=2)
    with pytest.raises(ConfigError, match="decoder"):
        VolumeFusion(vit, VolumeFusionSettings(), OptimSettings(), 20, 0)
    method = make()
    views = torch.zeros(2, 2, 2, 9, 10, 6)
    with pytest.raises(ConfigError, match="view_spec"):
        method.step(Batch(views[:, 0], torch.ones(2, 2, dtype=torch.bool), views={"views": views}))
