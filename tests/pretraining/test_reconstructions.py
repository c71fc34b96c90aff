"""Pictures of what a method hid and guessed, with a stand-in that guesses by rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medfm.backbones.attention import take
from medfm.backbones.patches import patchify, standardised
from medfm.pretraining.diagnostics import reconstruction_error, reconstructions
from medfm.types import Batch

HIDDEN = torch.tensor([[1, 2, 5], [0, 3, 4]])
VISIBLE = torch.tensor([[0, 3, 4], [1, 2, 5]])


class Guesser:
    """Six patches of 4 x 5; of each hidden one it guesses the target turned round."""

    patch = (4, 5)

    def __init__(self, norm: bool) -> None:
        self.norm = norm

    def patches(self, batch):
        return patchify(batch.x, self.patch)

    def masks(self, batch, tokens):
        assert (batch, tokens) == (2, 6)
        return VISIBLE, HIDDEN

    def predict(self, patches, visible, masked, grid=None, known=None):
        targets = take(patches, masked)
        targets = standardised(targets, known) if self.norm else targets
        return -targets, targets


@pytest.mark.parametrize("norm", [False, True])
def test_what_is_seen_and_what_is_guessed_stand_in_their_places(norm):
    rng = np.random.default_rng(0)
    picture = rng.normal(2.0, 3.0, size=(2, 1, 8, 17)).astype(np.float32)  # two columns fill no patch
    batch = Batch(torch.from_numpy(picture), torch.ones(2, 1, dtype=torch.bool))
    x, seen, whole, borrowed = reconstructions(Guesser(norm), batch)
    assert borrowed == norm
    np.testing.assert_array_equal(x, picture[..., :15])
    for b in range(2):
        for n in range(6):
            at = np.s_[b, 0, 4 * (n // 3) : 4 * (n // 3) + 4, 5 * (n % 3) : 5 * (n % 3) + 5]
            if n in HIDDEN[b]:
                assert np.isnan(seen[at]).all()
                # turned round about the patch's own mean where targets are standardised, about zero otherwise
                expected = 2 * x[at].mean() - x[at] if norm else -x[at]
                np.testing.assert_allclose(whole[at], expected, atol=1e-4)
            else:
                np.testing.assert_array_equal(seen[at], x[at])
                np.testing.assert_array_equal(whole[at], x[at])


@pytest.mark.parametrize("norm", [False, True])
def test_errors_of_network_interpolation_and_constant(norm):
    x = torch.randn(2, 1, 8, 15, generator=torch.Generator().manual_seed(3))
    batch = Batch(x, torch.ones(2, 1, dtype=torch.bool))
    shown = {}

    def fill(seen):
        shown["seen"] = seen
        return np.where(np.isnan(seen), 3.0 * x.numpy() + 1.0, seen)  # right up to gain and offset

    error = reconstruction_error(Guesser(norm), batch, fill)
    hidden = take(patchify(x, (4, 5)), HIDDEN)
    targets = standardised(hidden) if norm else hidden
    assert error.normalised == norm
    assert error.network == pytest.approx(float((2 * targets).square().mean()), rel=1e-5)
    assert error.constant == pytest.approx(float(targets.var(correction=0)), rel=1e-4)
    expected = 0.0 if norm else float((2 * hidden + 1).square().mean())
    assert error.interpolation == pytest.approx(expected, abs=1e-5, rel=1e-5)
    visible = take(patchify(torch.from_numpy(shown["seen"]), (4, 5)), VISIBLE)
    assert not visible.isnan().any() and np.isnan(shown["seen"]).sum() == hidden.numel()
