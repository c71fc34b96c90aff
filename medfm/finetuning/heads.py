"""A linear head on pooled features, and the network that fine-tuning trains: backbone + head.

B batch, D width of the backbone, F features (D, or 2 D with the deviation), K outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medfm.backbones.base import Backbone
from medfm.types import Features

EPS = 1e-6


def pool(features: Features, how: str) -> Tensor:
    """``[B, F]`` from the coarsest map ``[B, D, *grid]``: mean over positions, or mean and deviation."""
    positions = features.maps[-1].flatten(2)
    mean = positions.mean(2)
    if how == "mean":
        return mean
    # The square root's slope at zero is infinite: a constant map must not turn the gradient into NaN.
    return torch.cat([mean, (positions.var(2, unbiased=False) + EPS).sqrt()], dim=1)


class LinearHead(nn.Module):
    """``logits = W (z - center) / scale + b``. ``center`` and ``scale`` are fitted on training records and
    fixed, so that a logistic regression on standardised features copies in as it is, and every feature trains
    at one rate."""

    center: Tensor
    scale: Tensor

    def __init__(self, dim: int, outputs: int, pool: str = "mean-std") -> None:
        super().__init__()
        self.dim, self.outputs, self.pool = dim, outputs, pool
        self.dropout = 0.0  # share of the standardised features zeroed while training; no part of the model
        features = 2 * dim if pool == "mean-std" else dim
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.linear = nn.Linear(features, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> Tensor:
        """``[B, F] -> [B, K]``."""
        z = (z - self.center) / self.scale
        if self.dropout and self.training:
            z = F.dropout(z, self.dropout)
        return self.linear(z)

    @torch.no_grad()
    def copy_solution(
        self, weight: np.ndarray, bias: np.ndarray, center: np.ndarray, scale: np.ndarray
    ) -> None:
        """weight ``[K, F]`` on features standardised by ``center`` and ``scale [F]``, bias ``[K]``."""
        for into, value in (
            (self.linear.weight, weight),
            (self.linear.bias, bias),
            (self.center, center),
            (self.scale, scale),
        ):
            into.copy_(torch.from_numpy(np.asarray(value, np.float32)))

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """The same head as one plain affine map of unstandardised features: weight ``[K, F]``, bias
        ``[K]``."""
        weight = self.linear.weight / self.scale
        return weight, self.linear.bias - weight @ self.center

    def config(self) -> dict[str, Any]:
        return {"dim": self.dim, "outputs": self.outputs, "pool": self.pool}


class FinetuneModel(nn.Module):
    """``forward(x [B, C, *S], present [B, C]) -> logits [B, K]``."""

    def __init__(self, backbone: Backbone, head: LinearHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def features(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        return pool(self.backbone(x, present), self.head.pool)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        return self.head(self.features(x, present))
