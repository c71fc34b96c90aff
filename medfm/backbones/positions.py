"""Fixed sine-cosine positions for a grid of any rank."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos(grid: tuple[int, ...], dim: int, base: float = 10_000.0) -> Tensor:
    """Positions ``[prod(grid), D]`` float32, row-major over the grid.

    Each axis owns an equal even share of the width, and in it column ``2i`` is ``sin(p / base^(2i/d))``
    and column ``2i + 1`` the cosine of the same angle (Vaswani et al., 2017, with base 10,000). For one
    axis that is the table of ECG-JEPA. Columns left over when the width does not divide stay zero.
    """
    share = dim // len(grid) // 2 * 2
    table = torch.zeros(*grid, dim, dtype=torch.float64)
    frequency = base ** (-torch.arange(0, share, 2, dtype=torch.float64) / share)
    for axis, size in enumerate(grid):
        angle = torch.arange(size, dtype=torch.float64)[:, None] * frequency
        waves = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
        shape = [size if a == axis else 1 for a in range(len(grid))] + [share]
        table[..., axis * share : (axis + 1) * share] = waves.reshape(shape)
    return table.reshape(-1, dim).float()
