"""Segmentation: the loss by hand and against MONAI, where patches lie, tiles that equal the whole, and every strategy."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from finetuning.tiny_volumes import SIZE, ArrayVolumes, network, phantoms, problem
from torch.nn import functional as F

from medfm.backbones.vit import ViT
from medfm.config.strategies import STRATEGIES
from medfm.evaluation.segmentation import confusion, dice_of
from medfm.finetuning import tiles
from medfm.finetuning.patches import Places, Sampler
from medfm.finetuning.segmentation import (
    DenseHead,
    SegmentationModel,
    coarse,
    dense_backbone,
    dice_cross_entropy,
    supervised_loss,
    supervision_weights,
)
from medfm.finetuning.segmentation_fit import DenseLoop, fit_dense, predict_dense, prepare_dense
from medfm.types import ConfigError, MedfmError

ROWS = np.arange(4)
NAMES = list(STRATEGIES)


# Loss


def test_the_loss_of_two_voxels_by_hand():
    """p(1) = .8 where 1 is true and .4 where 0 is: cross-entropy -(ln .8 + ln .6) / 2, Dice 1.6 / (1.2 + 1)."""
    logits = torch.log(torch.tensor([[[0.2, 0.6], [0.8, 0.4]]]))[..., None, None]
    target = torch.tensor([[1, 0]])[..., None, None]
    expected = -(np.log(0.8) + np.log(0.6)) / 2 + 1 - 1.6 / 2.2
    assert dice_cross_entropy(logits, target).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("background", [False, True])
def test_the_loss_equals_monais(background):
    from monai.losses import DiceCELoss

    torch.manual_seed(0)
    logits, target = torch.randn(3, 4, 5, 6, 7), torch.randint(0, 4, (3, 5, 6, 7))
    theirs = DiceCELoss(include_background=background, to_onehot_y=True, softmax=True, batch=True)
    assert dice_cross_entropy(logits, target, background).item() == pytest.approx(
        theirs(logits, target[:, None]).item(), abs=1e-5
    )


def test_unknown_voxels_and_absent_classes_do_not_matter():
    torch.manual_seed(1)
    logits, target = torch.randn(2, 3, 4, 4, 4), torch.randint(0, 2, (2, 4, 4, 4))
    target[:, 2:] = -1
    changed = logits.clone()
    changed[:, :, 2:] = 100 * torch.randn(2, 3, 2, 4, 4)
    assert torch.equal(dice_cross_entropy(logits, target), dice_cross_entropy(changed, target))
    known = dice_cross_entropy(logits[:, :, :2], target[:, :2])
    assert dice_cross_entropy(logits, target).item() == pytest.approx(known.item(), abs=1e-6)
    # Class 2 is not in the batch: raising its logit costs cross-entropy alone, no Dice of a class that is not there.
    p = logits[:, :, :2].softmax(1)
    both, total = (p[:, 1] * (target[:, :2] == 1)).sum(), p[:, 1].sum() + (target[:, :2] == 1).sum()
    entropy = F.cross_entropy(logits[:, :, :2], target[:, :2])
    assert known.item() == pytest.approx((entropy + 1 - 2 * both / total).item(), abs=1e-4)
    assert dice_cross_entropy(logits, torch.full_like(target, -1)).item() == 0.0


def test_coarser_maps_weigh_half_as_much_and_see_the_middle_of_their_cells():
    assert supervision_weights(3, 0.5) == [4 / 7, 2 / 7, 1 / 7]
    assert supervision_weights(2, 0.0) == [1.0]
    target = torch.arange(8).reshape(1, 8, 1, 1)
    assert coarse(target, (4, 1, 1)).ravel().tolist() == [1, 3, 5, 7]
    assert coarse(target, (2, 1, 1)).ravel().tolist() == [2, 6]
    torch.manual_seed(2)
    fine, half, target = (
        torch.randn(1, 2, 4, 4, 4),
        torch.randn(1, 2, 2, 2, 2),
        torch.randint(0, 2, (1, 4, 4, 4)),
    )
    expected = 2 / 3 * dice_cross_entropy(fine, target) + 1 / 3 * dice_cross_entropy(
        half, target[:, 1::2, 1::2, 1::2]
    )
    assert supervised_loss([fine, half], target, 0.5).item() == pytest.approx(expected.item(), abs=1e-6)


# Patches


def test_the_share_of_patches_around_a_class_is_exact_and_classes_are_equally_likely():
    """Class 2 is one voxel, class 1 a thousand: both are the middle of as many patches."""
    y = np.zeros((20, 20, 20), np.int16)
    y[5:15, 5:15, 5:15] = 1
    y[10, 10, 10] = 2
    volumes = ArrayVolumes([y.astype(np.float32), np.zeros((20, 20, 20), np.float32)], [y, np.zeros_like(y)])
    sampler = Sampler(Places.find(volumes, 2), volumes.shapes, np.array([0, 1]), (5, 5, 5), 0.25)
    rows, origins = sampler.draw(0, 4000, np.random.default_rng(0))
    one_of_four = np.arange(4000) % 4 == 3
    assert (rows[one_of_four] == 0).all()
    middle = y[tuple((origins[one_of_four] + 2).T)]
    assert (middle > 0).all() and abs((middle == 2).mean() - 0.5) < 0.05
    assert abs((rows[~one_of_four] == 0).mean() - 0.5) < 0.05
    assert origins.min() == 0 and origins.max() == 15
    batches = [sampler.draw(first, 3, np.random.default_rng(first))[0] for first in range(0, 12, 3)]
    assert sum(map(len, batches)) == 12


def test_places_are_of_the_class_that_they_say_and_count_it():
    volumes = phantoms(2)
    places = Places.find(volumes, 2)
    for row, labels in enumerate(volumes.y):
        assert places.counts[row].tolist() == [(labels == k).sum() for k in range(3)]
        for k, voxels in places.voxels[row].items():
            assert (labels[tuple(voxels.T)] == k).all() and len(voxels) == (labels == k).sum()


def test_a_volume_smaller_than_a_patch_lies_in_its_middle():
    volumes = phantoms(1, (16, 14, 12))
    sampler = Sampler(Places.find(volumes, 2), volumes.shapes, np.array([0]), (20, 8, 15), 1.0)
    _, origins = sampler.draw(0, 50, np.random.default_rng(0))
    assert set(origins[:, 0]) == {-2} and set(origins[:, 2]) == {-1} and origins[:, 1].min() >= 0
    x, y = volumes.patches(np.zeros(1, int), origins[:1], (20, 8, 15), np.random.default_rng(0))
    assert (y[0, :2] == -1).all() and (y[0, 2:18, :, 1:13] >= 0).all() and torch.isfinite(x).all()


# Tiles


@pytest.mark.parametrize("shape", [(16, 14, 12), (9, 21, 8), (5, 30, 6)])
def test_tiles_of_a_voxelwise_model_equal_the_whole(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    volumes = ArrayVolumes([x], [np.zeros(shape, np.int16)])
    call = lambda t: torch.cat([t, t**2 - 1], 1)  # noqa: E731
    seen = np.full((2, *shape), np.nan)
    for axis, first, values in tiles.slabs(
        call, lambda o: volumes.tiles(0, o, SIZE), shape, SIZE, overlap=0.5, batch_size=3
    ):
        at = [slice(None)] * 3
        at[axis] = slice(first, first + values.shape[axis + 1])
        assert np.isnan(seen[(slice(None), *at)]).all()
        seen[(slice(None), *at)] = values.numpy()
    np.testing.assert_allclose(seen, np.stack([x, x**2 - 1]), atol=1e-4)
    found = tiles.segment(call, lambda o: volumes.tiles(0, o, SIZE), shape, SIZE)
    np.testing.assert_array_equal(found.labels, (x**2 - 1 > x).astype(np.uint8))


@pytest.mark.parametrize(("shape", "overlap"), [((19, 14, 12), 0.5), ((16, 16, 25), 0.25), ((6, 20, 9), 0.7)])
def test_tiles_and_their_weights_are_monais(shape, overlap):
    from monai.inferers import sliding_window_inference

    net = SegmentationModel(network(), DenseHead((8,), 3)).eval()
    x = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    volumes = ArrayVolumes([x[0, 0].numpy()], [np.zeros(shape, np.int16)])
    with torch.no_grad():
        theirs = sliding_window_inference(x, SIZE, 2, net, overlap=overlap, mode="gaussian")[0]
    ours = torch.zeros_like(theirs)
    for axis, first, values in tiles.slabs(
        net, lambda o: volumes.tiles(0, o, SIZE), shape, SIZE, overlap=overlap
    ):
        ours.narrow(axis + 1, first, values.shape[axis + 1]).copy_(values)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_probabilities_are_kept_while_they_fit_and_labels_always():
    volumes = phantoms(1)
    model = SegmentationModel(network(), DenseHead((8,), 3)).eval()
    call = lambda keep: tiles.segment(  # noqa: E731
        model, lambda o: volumes.tiles(0, o, SIZE), (16, 14, 12), SIZE, keep=keep
    )
    small, large = call(3 * 2 * 16 * 14 * 12 - 1), call(3 * 2 * 16 * 14 * 12)
    assert small.probabilities is None and large.probabilities is not None
    np.testing.assert_array_equal(small.labels, large.labels)
    np.testing.assert_allclose(large.probabilities.sum(0), 1, atol=2e-3)
    np.testing.assert_array_equal(small.plane(1), (small.labels == 1).astype(np.float32))


def test_the_way_back_takes_the_largest_class_and_background_outside():
    def back(values, order):
        assert order == 1
        out = np.zeros((1, 6, 2, 2), np.float32)
        out[:, 1:5] = np.repeat(values, 2, axis=1)
        return out

    p = np.zeros((3, 2, 2, 2), np.float16)
    p[1, 0], p[0, 0], p[2, 1], p[1, 1] = 0.6, 0.4, 0.7, 0.3
    labels = tiles.back_labels(tiles.Segmented(p.argmax(0).astype(np.uint8), p), back, 2)
    assert labels[:, 0, 0].tolist() == [0, 1, 1, 2, 2, 0]
    bare = tiles.back_labels(tiles.Segmented(p.argmax(0).astype(np.uint8), None), back, 2)
    np.testing.assert_array_equal(bare, labels)


def test_the_estimate_counts_tiles_time_and_memory_and_refuses_what_does_not_fit(monkeypatch):
    model = SegmentationModel(network(), DenseHead((8,), 3)).eval()
    said = tiles.estimate(model, 1, 3, (40, 16, 16), (16, 16, 16), overlap=0.5)
    assert said.tiles == 4 and said.seconds > 0
    # At the least the input, one map of 8 channels and the logits are alive together.
    assert said.tile_bytes > 4 * 16**3 * (1 + 8 + 3)
    assert said.slab_bytes == 2 * 4 * 3 * 16 * 16 * 16
    monkeypatch.setattr(tiles, "available", lambda device: 10_000)
    with pytest.raises(
        MedfmError, match=r"one tile of 16 x 16 x 16 voxels needs more memory than there is \(about"
    ):
        tiles.estimate(model, 1, 3, (40, 16, 16), (16, 16, 16))

    def starved(x):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with pytest.raises(MedfmError, match="smaller finetune"), tiles.enough_memory((16, 16, 16)):
        starved(None)


# Networks


def test_an_encoder_gets_a_decoder_and_keeps_its_weights():
    encoder = network(decoder=False)
    grown, fresh = dense_backbone(encoder)
    assert grown.has_decoder and not grown.training
    for name, value in encoder.state_dict().items():
        assert torch.equal(grown.state_dict()[name], value)
    assert fresh == {n for n, _ in grown.named_parameters()} - {n for n, _ in encoder.named_parameters()}
    whole = network()
    assert dense_backbone(whole) == (whole, frozenset())


def test_networks_without_a_decoder_are_refused_by_name():
    from medfm.backbones.conv3d import ResNet3D10

    vit = ViT(
        rank=3, in_channels=1, input_size=(8, 8, 8), patch=(4, 4, 4), dim=16, depth=1, heads=2, registers=1
    )
    for net in (vit, ResNet3D10(in_channels=1, input_size=(32, 32, 32))):
        with pytest.raises(
            ConfigError, match=r"cannot draw a mask: use one that has or can have a decoder \(segresnet"
        ):
            dense_backbone(net)


# Strategies


def _dice(of, model, rows=ROWS):
    each = [
        dice_of(confusion(np.maximum(of.volumes.labels(r), 0), predict_dense(of, model, int(r)).labels, 2))
        for r in rows
    ]
    return float(np.nanmean(each))


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_learns(name):
    of = problem(name, steps=60)
    model, strategy = prepare_dense(of, 1)
    loop = DenseLoop(of, model, strategy, ROWS, 1)
    before = _dice(of, model)
    loop.run(of.steps, (), None, lambda *_: None)
    assert loop.mean(10) < 0.8 * np.mean(loop.losses[:5])
    least = {"linear-probe": 0.0, "lora": 0.35}.get(name, 0.6)
    assert before < 0.1 and _dice(of, model) >= least


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_saved_never_moves_and_merging_says_the_same(name):
    of = problem(name, steps=12)
    model, strategy = prepare_dense(of, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    DenseLoop(of, model, strategy, ROWS, 2).run(12, (), None, lambda *_: None)
    saved = set(strategy.saved_keys(model))
    for key, value in model.state_dict().items():
        if key not in saved:
            assert torch.equal(value, before[key]), key
    moved = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert any(k.startswith("head.") for k in moved)
    assert any(k.startswith("backbone.") for k in moved) == (name != "linear-probe")
    x = torch.randn(1, 1, *SIZE)
    with torch.no_grad():
        expected = model.eval()(x)
        strategy.merge(model)
        torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)
        again = SegmentationModel(network(seed=9), DenseHead(**model.head.config())).eval()
        again.load_state_dict(copy.deepcopy(model.state_dict()), strict=True)
        torch.testing.assert_close(again(x), model(x))


@pytest.mark.parametrize("name", NAMES)
def test_a_new_decoder_learns_from_the_first_step_at_the_heads_rate(name):
    encoder = network(decoder=False)
    grown, fresh = dense_backbone(encoder)
    of = problem(name, backbone=grown, fresh=fresh, steps=20)
    model, strategy = prepare_dense(of, 3)
    loop = DenseLoop(of, model, strategy, ROWS, 3)
    own = {id(p) for n, p in model.backbone.named_parameters() if n in fresh}
    rates = {group["lr"] for group in loop.optimizer.param_groups if {id(p) for p in group["params"]} & own}
    assert rates == {strategy.settings.head_lr}
    held = [id(p) for group in loop.optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held)) and own <= set(held)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    loop.run(1, (), None, lambda *_: None)
    moved = {
        k.removeprefix("backbone.") for k, v in model.state_dict().items() if not torch.equal(v, before[k])
    }
    assert moved & fresh
    kept = {n for n, _ in encoder.named_parameters()}
    assert bool(moved & kept) == (name == "full"), "only full trains the encoder in the first step"
    assert fresh <= {k.removeprefix("backbone.") for k in strategy.saved_keys(model)}


def test_the_head_comes_first_in_lp_ft():
    of = problem("lp-ft", steps=10, head_share=0.3)
    model, strategy = prepare_dense(of, 4)
    loop = DenseLoop(of, model, strategy, ROWS, 4)
    before = [p.clone() for p in model.backbone.parameters()]
    loop.run(3, (), None, lambda *_: None)
    assert all(torch.equal(a, b) for a, b in zip(before, model.backbone.parameters()))
    loop.run(5, (), None, lambda *_: None)
    assert not any(torch.equal(a, b) for a, b in zip(before, model.backbone.parameters()))


def test_two_trainings_are_equal_and_see_the_same_patches_whatever_their_weights():
    of = problem("full", steps=6)
    first, second = (fit_dense(of, ROWS, 5).model.state_dict() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.values(), second.values()))
    seen = []
    for seed in (0, 1):
        of = problem("full", backbone=network(seed), steps=4)
        take = of.volumes.patches
        of.volumes.patches = lambda *a, take=take: seen.append(take(*a)) or seen[-1]
        fit_dense(of, ROWS, 5)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(seen[:4], seen[4:]))


def test_marks_are_of_the_training_as_it_goes_and_do_not_disturb_it():
    settings = STRATEGIES["progressive"].settings(
        lr=1e-2, head_lr=1e-2, epochs=2, head_epochs=1, head_dropout=0.5
    )
    of = problem("progressive", steps=8, strategy=lambda: STRATEGIES["progressive"].load()(settings))
    found: dict[int, dict[str, torch.Tensor]] = {}
    fit = fit_dense(
        of, ROWS, 6, marks=(3, 8), at_mark=lambda s, m: found.update({s: copy.deepcopy(m.state_dict())})
    )
    plain = fit_dense(of, ROWS, 6)
    assert list(found) == [3, 8] and fit.steps == 8
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, fit.model.state_dict()[key]) and torch.equal(value, found[8][key])
    three = prepare_dense(of, 6)
    DenseLoop(of, *three, ROWS, 6).run(3, (), None, lambda *_: None)
    assert all(torch.equal(v, found[3][k]) for k, v in three[0].state_dict().items())


def test_the_number_of_steps_is_chosen_on_held_records():
    of = problem("full", steps=8)
    wanted = iter([0.1, 0.7, 0.3, 0.2])
    seen = []

    def validate(model, rows):
        assert not model.training
        seen.append(rows.tolist())
        return next(wanted)

    fit = fit_dense(of, ROWS, 7, held=np.array([1]), validate=validate)
    assert fit.steps == 4 and [row["step"] for row in fit.history] == [2, 4, 6, 8] and seen == [[1]] * 4
    alone = prepare_dense(of, 7)
    DenseLoop(of, *alone, ROWS, 7).run(4, (), None, lambda *_: None)
    assert all(torch.equal(v, fit.model.state_dict()[k]) for k, v in alone[0].state_dict().items())


def test_a_loss_that_is_no_number_is_a_sentence():
    volumes = phantoms()
    volumes.tiles, take = None, volumes.patches
    volumes.patches = lambda *a: (take(*a)[0] * float("inf"), take(*a)[1])
    with pytest.raises(MedfmError, match="no longer a number in step 1"):
        fit_dense(problem("full", volumes), ROWS, 0)
