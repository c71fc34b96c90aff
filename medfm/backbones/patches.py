"""An input cut into patches that do not overlap, and put together again, at any rank.

B batch, C channels, S spatial or time axes, N patches (row-major over the grid), P values a patch (channel first).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def silenced(x: Tensor, present: Tensor | None) -> Tensor:
    """``x [B, C, *S]`` with absent channels (``present [B, C]`` False) and NaN gaps at zero, the mean after
    normalisation.
    """
    x = torch.nan_to_num(x)
    return x if present is None else x * present.view(*present.shape, *[1] * (x.ndim - 2))


def patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    """``[B, C, *S] -> [B, N, C * prod(patch)]``; what does not fill a last patch is left out."""
    rank = len(patch)
    grid = [s // p for s, p in zip(x.shape[2:], patch)]
    for axis, (count, p) in enumerate(zip(grid, patch)):
        if x.shape[2 + axis] != count * p:
            x = x.narrow(2 + axis, 0, count * p)
    split = x.reshape(*x.shape[:2], *[n for pair in zip(grid, patch) for n in pair])
    cells, inner = [2 + 2 * a for a in range(rank)], [3 + 2 * a for a in range(rank)]
    return split.permute(0, *cells, 1, *inner).flatten(rank + 1).flatten(1, rank)


def unpatchify(patches: Tensor, grid: Sequence[int], patch: Sequence[int]) -> Tensor:
    """``[B, N, C * prod(patch)] -> [B, C, *S]``, the inverse of :func:`patchify`."""
    rank = len(patch)
    channels = patches.shape[2] // math.prod(patch)
    split = patches.reshape(len(patches), *grid, channels, *patch)
    order = [n for a in range(rank) for n in (1 + a, 2 + rank + a)]
    size = [g * p for g, p in zip(grid, patch)]
    return split.permute(0, 1 + rank, *order).reshape(len(patches), channels, *size)


def known_values(present: Tensor, values: int) -> Tensor:
    """1.0 where a value of a patch belongs to a channel that is ``present [B, C]``: ``[B, 1, P]``."""
    return present.float().repeat_interleave(values // present.shape[1], dim=1)[:, None]


def standardised(patches: Tensor, known: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Each patch ``[B, M, P]`` less its mean, over the root of its (unbiased) variance + ``eps``, both over its
    ``known [B, 1, P]`` values alone; others become zero.
    """
    if known is None:
        known = torch.ones_like(patches[:1, :1])
    count = known.sum(-1, keepdim=True)
    centred = (patches - (patches * known).sum(-1, keepdim=True) / count.clamp_min(1)) * known
    variance = centred.square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)
    return centred / (variance + eps).sqrt()


def masked_error(predictions: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Mean squared error of ``[B, M, P]`` over ``known [B, 1, P]`` values, in float32; every one counts alike."""
    error = (predictions.float() - targets.float()).square() * known
    return error.sum() / (known.sum() * predictions.shape[1]).clamp_min(1)
