"""The project's one attention, and the pre-norm block around it. Parameter names are timm's.

B batch, N tokens, D width, H heads. ``keep`` names the tokens whose output is wanted: a last block then
spends queries and MLP on those alone, while every token still serves as key and value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def take(tokens: Tensor, keep: Tensor | slice) -> Tensor:
    """Tokens ``[B, M, D]`` of ``[B, N, D]``: a slice of the token axis, or an index ``[B, M]`` of each
    record.
    """
    if isinstance(keep, slice):
        return tokens[:, keep]
    batch, count, dim = tokens.shape
    # One row lookup is far cheaper than gather with an index as wide as the tokens, forward and backward.
    rows = keep + torch.arange(batch, device=keep.device)[:, None] * count
    return tokens.reshape(-1, dim).index_select(0, rows.flatten()).view(batch, -1, dim)


class Attention(nn.Module):
    """Multi-head self-attention; rows of ``qkv.weight`` are all queries, then all keys, then all values."""

    def __init__(self, dim: int, heads: int, qkv_bias: bool, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor, keep: Tensor | slice | None = None) -> Tensor:
        """``[B, N, D] -> [B, N, D]``, or ``[B, M, D]`` for the queries of ``keep``."""
        if keep is None:
            return self.mix(self.qkv(x))
        batch, count, dim = x.shape
        if type(self.qkv) is nn.Linear:
            bias = (None, None) if self.qkv.bias is None else self.qkv.bias.split((dim, 2 * dim))
            wq, wkv = self.qkv.weight.split((dim, 2 * dim))
            q = self._heads(F.linear(take(x, keep), wq, bias[0]))
            k, v = F.linear(x, wkv, bias[1]).view(batch, count, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        else:
            # An adapter wraps qkv: its own forward must run.
            q, k, v = self.qkv(x).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            q = self._heads(take(q.transpose(1, 2).flatten(2), keep))
        return self._attend(q, k, v)

    def mix(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values side by side ``[B, N, 3 D]`` to ``[B, N, D]``."""
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self._attend(q, k, v)

    def weights(self, x: Tensor) -> Tensor:
        """What :meth:`forward` weighs values by, ``[B, H, N, N]``: row i sums to one over the keys of query i."""
        q, k, _ = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(3)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class MLP(nn.Module):
    """Two layers with the exact (erf) GELU."""

    def __init__(self, dim: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor a channel on a residual branch (Touvron et al., 2021)."""

    def __init__(self, dim: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    """Stochastic depth: a residual branch is dropped for whole records while training (Huang et al.,
    2016).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device, dtype=x.dtype) >= self.rate
        return x * kept / (1 - self.rate)


class Block(nn.Module):
    """Pre-norm Transformer block: ``x + attn(norm1(x))``, then ``x + mlp(norm2(x))``."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        bias: bool = False,
        qkv_bias: bool = False,
        norm_bias: bool = False,
        norm_eps: float = 1e-6,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()

        def scale() -> nn.Module:
            return nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

        self.norm1 = nn.LayerNorm(dim, norm_eps, bias=norm_bias)
        self.attn = Attention(dim, heads, qkv_bias, bias)
        self.ls1 = scale()
        self.norm2 = nn.LayerNorm(dim, norm_eps, bias=norm_bias)
        self.mlp = MLP(dim, round(dim * mlp_ratio), bias)
        self.ls2 = scale()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, keep: Tensor | slice | None = None) -> Tensor:
        """``[B, N, D] -> [B, N, D]``, or ``[B, M, D]`` for the tokens of ``keep``."""
        branch = self.attn(self.norm1(x), keep)
        return self.after_attention(x if keep is None else take(x, keep), branch)

    def after_attention(self, x: Tensor, branch: Tensor) -> Tensor:
        """The tokens with what attention found for them, through the second half of the block."""
        x = x + self.drop_path(self.ls1(branch))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


def initialise(module: nn.Module, depth: int) -> None:
    """ECG-JEPA's initialisation: weights truncated normal of deviation 0.02; the two projections that
    write into the residual stream ``0.02 / sqrt(2 depth)``, so that its variance does not grow with depth;
    biases zero.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            residual = name.endswith(("attn.proj", "mlp.fc2"))
            nn.init.trunc_normal_(part.weight, std=0.02 / (2 * depth) ** 0.5 if residual else 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
