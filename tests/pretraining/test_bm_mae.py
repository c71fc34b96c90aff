"""BM-MAE: the loss written out, truth alone in it, subjects with any sequences, nothing unused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medfm.backbones.base import build
from medfm.backbones.transfer import with_decoder
from medfm.backbones.vit import ViT
from medfm.config.methods import BMMAESettings
from medfm.config.run import OptimSettings
from medfm.pretraining.bm_mae import BMMAE, token_errors
from medfm.pretraining.diagnostics import reconstruction_error, reconstructions
from medfm.types import Batch, ConfigError

SIZE, PATCH = (16, 16, 8), (8, 8, 4)
MIXED = torch.tensor([[1, 1, 1], [0, 1, 0], [1, 0, 1], [1, 1, 1]]).bool()


def make(decoder="reconstruction", **settings):
    torch.manual_seed(0)
    shape = {"in_channels": 3, "input_size": SIZE, "patch": PATCH, "dim": 12, "depth": 2, "heads": 2}
    light = {"decoder_dim": 12, "decoder_depth": 2, "decoder_heads": 2}
    backbone = build({"name": "sequence_vit", **shape, "mlp_dim": 24, "decoder": decoder, **light})
    settings = BMMAESettings.model_validate({"drop_sequence": 0, **settings})
    return BMMAE(backbone.double(), settings, OptimSettings(), 20, 0).train()


def batch(present=MIXED):
    x = torch.randn(len(present), 3, *SIZE, generator=torch.Generator().manual_seed(1)).double()
    x[~present] = torch.nan
    return Batch(x, present)


def drawn(method, data):
    """The masks of a step, by subject."""
    found = {}
    for rows, visible, masked in method.groups(data, method.network.sequence_patches(data.x), method.rng()):
        found |= {int(r): (v, m) for r, v, m in zip(rows, visible, masked)}
    return found


def voxels(token):
    """Channel and box of a token: 8 patches a sequence in a grid of 2 x 2 x 2."""
    c, n = divmod(int(token), 8)
    i, j, k = n // 4, n // 2 % 2, n % 2
    return c, slice(8 * i, 8 * i + 8), slice(8 * j, 8 * j + 8), slice(4 * k, 4 * k + 4)


@pytest.mark.parametrize("norm", [False, True])
def test_the_loss_is_the_one_written_out(norm):
    """Subject by subject, patch by patch, from voxels: summed over sequences, averaged over their masked patches."""
    method, data = make(norm_patches=norm, drop_sequence=0.5), batch()
    loss, logs = method.step(data)
    network = method.network
    patches, errors = network.sequence_patches(data.x), [[], [], []]
    for row, (visible, masked) in drawn(method, data).items():
        encoded = network.encode_visible(patches[row : row + 1], visible[None], network.grid)
        guess = network.decode_masked(encoded, visible[None], masked[None], network.grid)[0]
        for values, token in zip(guess, masked):
            c, *box = voxels(token)
            truth = data.x[(row, c, *box)].flatten()
            if norm:
                truth = (truth - truth.mean()) / (truth.var() + 1e-6).sqrt()
            errors[c].append(float((values - truth).detach().square().mean()))
    assert float(loss.detach()) == pytest.approx(sum(np.mean(e) for e in errors), rel=1e-5)
    assert logs["visible"] == pytest.approx(0.25)
    counts = [sum(MIXED[:, c].tolist()) for c in range(3)]
    assert sum(len(e) for e in errors) == 18 * sum(counts) / 3


def test_a_tiny_loss_by_hand():
    guess = torch.tensor([[[1.0, 2.0], [0.0, 0.0], [3.0, 5.0]]])
    targets = torch.tensor([[[0.0, 0.0], [1.0, 9.0], [0.0, 0.0]]])
    known = torch.tensor([[[True, True], [True, False], [False, False]]])
    error, weight = token_errors(guess, targets, known)
    assert error.tolist() == [[2.5, 1.0, 0.0]] and weight.tolist() == [[1.0, 1.0, 0.0]]


def test_nothing_that_is_absent_or_hidden_enters():
    """The slot of an absent sequence, and what lies beyond the volume."""
    method, losses = make(), []
    for value in (torch.nan, 1e9, 0.0):
        data = batch()
        data.x[~MIXED] = value
        losses.append(float(method.step(data)[0].detach()))
    assert losses[0] == losses[1] == losses[2]
    data = batch()
    data.x[0, 0, :, :, 2:] = torch.nan  # half of each lower patch, all of each upper one
    loss = method.step(data)[0]
    loss.backward()
    assert math.isfinite(float(loss.detach())) and float(loss.detach()) != losses[0]
    assert all(torch.isfinite(p.grad).all() for p in method.parameters())
    other = batch()
    other.x[0, 0, :, :, 2:] = torch.nan
    visible, masked = drawn(method, other)[0]
    asked = [t for t in masked.tolist() if t < 8 and t % 2]  # unknown patches: counted in no mean
    assert asked and {*visible.tolist(), *masked.tolist()} == set(range(24))
    errors = method.guesses(other, method.rng())[1]
    assert errors[0, 0, 1::2].isnan().all() and not errors[0, 1][torch.tensor(
        [t - 8 for t in masked.tolist() if 8 <= t < 16], dtype=torch.long)].isnan().any()  # fmt: skip


def test_sequences_that_no_subject_has_add_nothing_and_learn_nothing():
    present = torch.tensor([[1, 0, 1]] * 3).bool()
    method, data = make(), batch(present)
    loss, _ = method.step(data)
    loss.backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        if name.startswith("backbone.tokenizers.1"):
            assert not parameter.grad.any()
        elif "attn.qkv.bias" not in name:
            assert parameter.grad.any(), name
    assert not method.network.decoder.sequences.grad[1].any()
    none = Batch(data.x, torch.zeros(3, 3).bool())
    loss, _ = method.step(none)
    loss.backward()
    assert float(loss.detach()) == 0


def test_with_all_present_every_parameter_is_used():
    method = make()
    method.step(batch(torch.ones(3, 3).bool()))[0].backward()
    assert all(
        p.grad is not None and p.grad.any() for n, p in method.named_parameters() if "qkv.bias" not in n
    )


def test_a_fully_visible_sequence_divides_by_no_zero():
    method, data = make(), batch(torch.ones(1, 3).bool())
    order = torch.arange(24)[None]
    method.groups = lambda *_: iter([(torch.tensor([0]), order[:, :10], order[:, 10:])])
    loss = method.step(data)[0]
    _, wanted, _ = method.guesses(data, method.rng())
    assert math.isfinite(float(loss.detach())) and wanted[0, 0].isnan().all()


def test_patches_of_one_value_are_background_whatever_augmentation_adds():
    method, data = make(background="brain"), batch(torch.ones(2, 3).bool())
    data.x[:, :, 8:] = 0.0
    data.x[1, 2] += 0.1
    for visible, masked in drawn(method, data).values():
        assert sorted([*visible.tolist(), *masked.tolist()]) == [
            c * 8 + n for c in range(3) for n in range(4)
        ]
        assert len(visible) == 3


def test_it_learns_a_sequence_from_another():
    """The second sequence is the first one upside down: with whole sequences hidden, it is soon told from it."""
    method = make(drop_sequence=1.0, mask=0.6)
    method.float()
    optimizer = torch.optim.AdamW(method.parameters(), 1e-2)
    losses = []
    for step in range(120):
        value = torch.randn(32, 1, 1, 1, 1, generator=torch.Generator().manual_seed(step))
        x = (value * torch.tensor([1.0, -1.0, 0.5]).view(1, 3, 1, 1, 1)).expand(32, 3, *SIZE).contiguous()
        loss = method.step(Batch(x, torch.ones(32, 3).bool()))[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.1 * np.mean(losses[:10])


@pytest.mark.parametrize("norm", [False, True])
def test_pictures_and_errors_for_the_report(norm):
    method, data = make(norm_patches=norm), batch()
    x, seen, whole, borrowed = reconstructions(method, data)
    assert borrowed == norm and x.shape == seen.shape == whole.shape == (4, 3, *SIZE)
    np.testing.assert_array_equal(np.isnan(x).all((2, 3, 4)), ~MIXED.numpy())
    masks, hidden = drawn(method, data), np.zeros(x.shape, bool)
    for row, (_, masked) in masks.items():
        for token in masked:
            c, *box = voxels(token)
            hidden[(row, c, *box)] = True
    known = ~np.isnan(x)
    np.testing.assert_array_equal(np.isnan(seen), ~known | hidden)
    np.testing.assert_array_equal(whole[~hidden & known], x[~hidden & known])
    assert np.isfinite(whole[hidden]).all() and not np.isclose(whole[hidden], x[hidden]).all()

    def fill(values):
        return np.where(np.isnan(values), 2.0, values)

    error = reconstruction_error(method, data, fill)
    if not norm:
        assert error.network == pytest.approx(np.square(whole - x)[hidden].mean(), rel=1e-5)
        assert error.interpolation == pytest.approx(np.square(2 - x[hidden]).mean(), rel=1e-5)
        assert error.constant == pytest.approx(x[hidden].var(), rel=1e-5)
    else:
        assert error.interpolation == pytest.approx(255 / 256, rel=1e-3) == error.constant
    assert error.normalised == norm


def test_measures_and_what_is_said_of_them():
    method, data = make(drop_sequence=1.0), batch()
    found = method.collapse_measures(data)
    assert method.training and set(method.measures) < set(found)
    held = method.held_out([data, data])
    assert held["mean_error"] == pytest.approx(1, abs=0.1) and held["masked_error"] > 0.5
    assert BMMAE.verdict({}, {"masked_error": 0.99, "mean_error": 1.0}).startswith("FLAT")
    assert not BMMAE.verdict({}, {"masked_error": 0.9, "mean_error": 1.0}) and not BMMAE.verdict({}, {})


def test_other_networks_are_refused_with_what_to_set():
    vit = ViT(rank=3, in_channels=1, input_size=(16,) * 3, patch=(8,) * 3, dim=12, depth=1, heads=2)
    without, _ = with_decoder(make().backbone, False)
    for wrong in (vit, without):
        with pytest.raises(ConfigError, match=r"sequence_vit and backbone\.decoder=reconstruction"):
            BMMAE.check(wrong)
    for wrong in ({"mask": 1}, {"drop_sequence": 2}, {"background": "none"}):
        with pytest.raises(ValueError):
            BMMAESettings.model_validate(wrong)


def test_whole_sequences_are_hidden_as_often_as_asked():
    data, whole = batch(torch.ones(8, 3).bool()), []
    for share in (0.0, 1.0):
        masks = drawn(make(drop_sequence=share, mask=0.5), data).values()
        whole.append([len(set((v // 8).tolist())) < 3 for v, _ in masks])
    assert all(whole[1]) and not all(whole[0])
    method = make(drop_sequence=1.0)
    patches = method.network.sequence_patches(data.x)
    ((_, visible, _),) = method.groups(data, patches, method.rng(), drop=0.0)
    ((_, same, _),) = make().groups(data, patches, method.rng())
    assert torch.equal(visible, same)


@torch.no_grad()
def test_a_normalised_guess_of_nothing_is_shown_as_the_mean_of_its_patch():
    method, data = make(norm_patches=True), batch()
    for parameter in method.network.decoder.pred.parameters():
        parameter.zero_()
    x, seen, whole, _ = reconstructions(method, data)
    row, (_, masked) = next(iter(drawn(method, data).items()))
    c, *box = voxels(masked[0])
    at = (row, c, *box)
    assert np.isnan(seen[at]).all()
    np.testing.assert_allclose(whole[at], x[at].mean(), atol=1e-5)
