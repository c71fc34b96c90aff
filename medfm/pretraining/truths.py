"""Learning from what a simulator knows: an auxiliary objective on simulated records, beside any method's own.

A generator knows of every record it makes what a physician would measure (intervals, axis, amplitudes lead by
lead) and which criteria are met. A linear head on the pooled tokens predicts them, and its gradient teaches the
encoder to measure. Records of patients have no truths and take no part; the head is thrown away after training.
This is supervised learning on simulated patients: a probe on simulated labels then says little about
self-supervision, and a card must say that it was used.

B batch, N tokens, D width, K truths.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.backbones.attention import take
from medfm.backbones.base import Backbone, Tokens
from medfm.types import ConfigError, Truths

EPS = 1e-6


class TruthHead(nn.Module):
    """Tokens ``[B, N, D]`` to predictions ``[B, K]`` from their mean and deviation, and the loss of these.

    Continuous truths: smooth L1 of standardised values. Binary ones: cross-entropy. Each kind is averaged over
    what is known (NaN is unknown), and the two are added.
    """

    binary: Tensor

    def __init__(self, dim: int, truths: Truths) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * dim)
        self.proj = nn.Linear(2 * dim, len(truths.names))
        self.register_buffer("binary", torch.from_numpy(truths.binary), persistent=False)
        nn.init.trunc_normal_(self.proj.weight, std=0.02)
        # A head that starts at the prevalence wastes no steps on learning that most findings are rare.
        rate = np.clip(np.nan_to_num(truths.rate, nan=0.5), 1e-3, 1 - 1e-3)
        bias = np.where(truths.binary, np.log(rate / (1 - rate)), 0.0)
        with torch.no_grad():
            self.proj.bias.copy_(torch.from_numpy(bias))

    @classmethod
    def wanted(cls, weight: float, dim: int, truths: Truths | None) -> TruthHead | None:
        """The head for a method's setting ``truths``, None for a weight of 0; :class:`ConfigError` when there is
        nothing to learn from."""
        if not weight:
            return None
        if truths is None:
            raise ConfigError(
                "method.truths learns what a simulator knows, and no record here is simulated: add "
                "--data synthetic, or set method.truths=0."
            )
        return cls(dim, truths)

    def known(self, target: Tensor | None) -> Tensor | None:
        """Rows of a batch whose truths are known; None where there is none."""
        rows = None if target is None else torch.isfinite(target).any(1).nonzero().flatten()
        return rows if rows is not None and len(rows) else None

    def idle(self) -> Tensor:
        """Zero, with every parameter in it: all take part in every step, also where a batch holds patients alone."""
        return cast(Tensor, sum((p.sum() for p in self.parameters()), torch.zeros(())) * 0.0)

    def forward(self, tokens: Tensor) -> Tensor:
        # The square root's slope at zero is infinite: equal tokens must not turn the gradient into NaN.
        spread = (tokens.var(1, unbiased=False) + EPS).sqrt()
        return self.proj(self.norm(torch.cat([tokens.mean(1), spread], dim=1)))

    def loss(self, tokens: Tensor, target: Tensor) -> Tensor:
        """Scalar; zero where nothing is known."""
        predicted = self(tokens).float()
        known = torch.isfinite(target)
        target = torch.nan_to_num(target)
        each = torch.where(
            self.binary,
            F.binary_cross_entropy_with_logits(predicted, target.clamp(0, 1), reduction="none"),
            F.smooth_l1_loss(predicted, target, reduction="none"),
        )
        kinds = (known & self.binary, known & ~self.binary)
        return torch.stack([(each * kind).sum() / kind.sum().clamp_min(1) for kind in kinds]).sum()

    def read(
        self,
        backbone: Backbone,
        patches: Tensor,
        target: Tensor | None,
        keep: float,
        rng: np.random.Generator,
        grid: tuple[int, ...],
    ) -> Tensor:
        """The loss of the records whose truths are known, read from a random share ``keep`` of their tokens: half of
        them cost half and teach as much, and the other half's absence keeps the head from leaning on any one place.

        patches ``[B, N, P]`` of a backbone of tokens, N those of ``grid``.
        """
        rows = self.known(target)
        if rows is None:
            return self.idle()
        patches, count = patches[rows], patches.shape[1]
        order = np.argsort(rng.random((len(rows), count)), axis=1)[:, : max(1, round(keep * count))]
        index = torch.from_numpy(order).to(patches.device, non_blocking=True)
        encoder = cast(Tokens, backbone)
        tokens = encoder.embed(take(patches, index)) + encoder.positions(grid)[index]
        return self.loss(encoder.encode(tokens), cast(Tensor, target)[rows])
