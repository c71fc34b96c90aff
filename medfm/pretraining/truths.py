"""Learning from what a simulator knows: an auxiliary objective on simulated records, beside any method's own.

A generator knows of every record it makes what a physician would measure (intervals, axis, amplitudes lead by
lead) and which criteria are met. A linear head on the pooled tokens predicts them, and its gradient teaches the
encoder to measure. Records of patients have no truths and take no part; the head is thrown away after training.
This is supervised learning on simulated patients: a probe on simulated labels then says little about
self-supervision, and a card must say that it was used.

B batch, N tokens, D width, K truths.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.types import Truths

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
