"""MAE and SparK of volumes whose sequences may be missing: no stand-in for a missing one enters a loss."""

from __future__ import annotations

import pytest
import torch

from medfm.backbones.base import build
from medfm.config.methods import METHODS
from medfm.config.run import OptimSettings
from medfm.types import Batch

SIZE = (16, 16, 16)
PRESENT = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 0]]).bool()
SETTINGS = {
    "mae": {"decoder": None, "decoder_dim": 12, "decoder_depth": 1, "decoder_heads": 2, "mask": 0.5},
    "spark": {"decoder_dim": 16},
}


def make(name, channels=3):
    torch.manual_seed(0)
    shape = {"rank": 3, "in_channels": channels, "input_size": SIZE}
    if name == "mae":
        net = {"name": "vit", **shape, "patch": (8, 8, 8), "dim": 12, "depth": 1, "heads": 2, "bias": True}
    else:
        net = {"name": "segresnet", **shape, "init_filters": 8, "blocks_down": (1, 1, 1, 1)}
    entry = METHODS[name]
    settings = entry.settings.model_validate(SETTINGS[name])
    return entry.load()(build(net), settings, OptimSettings(), 20, 0).train()


def volumes(channels=3):
    return torch.randn(3, channels, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SETTINGS)
def test_what_lies_in_a_missing_slot_changes_no_bit_of_the_loss(name):
    method, losses = make(name), []
    for value in (torch.nan, 1e9, 0.0):
        x = volumes()
        x[~PRESENT] = value
        losses.append(method.step(Batch(x, PRESENT))[0].detach())
    assert (
        torch.isfinite(losses[0]) and torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_no_value_of_a_missing_sequence_is_asked_for(name):
    """The third is missing everywhere: the part of the last layer that predicts it learns nothing, the others do."""
    method = make(name)
    method.step(Batch(volumes(), PRESENT))[0].backward()
    last = method.decoder.pred.bias if name == "mae" else method.decoder.head.bias
    asked = last.grad.view(3, -1).any(1)
    assert asked.tolist() == [True, True, False]


def test_a_subject_without_the_one_sequence_teaches_nothing():
    method = make("mae", channels=1)
    present = torch.tensor([[1], [0], [1]]).bool()
    x = volumes(1)
    loss = method.step(Batch(x, present))[0]
    visible, masked = method.masks(3, 8)
    guess, wanted = method.predict(method.patches(Batch(x, present)), visible, masked)
    assert float(loss.detach()) == pytest.approx(
        float((guess - wanted)[[0, 2]].square().mean().detach()), rel=1e-6
    )
