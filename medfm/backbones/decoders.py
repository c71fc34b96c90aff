"""Light decoders that reconstruct what an encoder did not see. Thrown away after pretraining.

B batch, K visible tokens, R extra tokens (class token, registers), M masked tokens, D width, P values a patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.backbones.attention import Block
from medfm.backbones.positions import sincos
from medfm.backbones.visible import Cells
from medfm.types import ConfigError


class TokenDecoder(nn.Module):
    """Encoded visible tokens to predictions of the masked patches, for a grid of any rank: the decoder of a masked
    autoencoder (He et al., arXiv 2111.06377).

    Attention does not know order, so tokens are not put back into their places: positions alone say where each
    one is, and a last block works on the masked tokens alone. ``grid`` is the usual one; others are possible.
    """

    table: Tensor

    def __init__(
        self, grid: tuple[int, ...], width: int, dim: int, depth: int, heads: int, values: int
    ) -> None:
        super().__init__()
        self.grid, self.dim = grid, dim
        self.embed = nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, heads, bias=True, qkv_bias=True, norm_bias=True) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, 1e-6)
        self.pred = nn.Linear(dim, values)
        self.register_buffer("table", sincos(grid, dim), persistent=False)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)
        nn.init.normal_(self.mask_token, std=0.02)

    def positions(self, grid: tuple[int, ...]) -> Tensor:
        """``[N, D]`` of the decoder."""
        return self.table if grid == self.grid else sincos(grid, self.dim).to(self.table)

    def forward(
        self, encoded: Tensor, visible: Tensor, masked: Tensor, grid: tuple[int, ...] | None = None
    ) -> Tensor:
        """``encoded [B, R + K, D]``, token indices ``visible [B, K]`` and ``masked [B, M]`` to ``[B, M, P]``."""
        positions = self.positions(grid or self.grid)
        assert len(positions) == visible.shape[1] + masked.shape[1] == math.prod(grid or self.grid)
        seen, extra = self.embed(encoded), encoded.shape[1] - visible.shape[1]
        seen = torch.cat([seen[:, :extra], seen[:, extra:] + positions[visible]], 1)
        places = self.mask_token[0] + positions
        tokens = torch.cat([seen, F.embedding(masked, places)], 1)
        if len(self.blocks) > 1:
            # Hidden tokens differ by their place alone: queries, keys and values are made once for all records.
            first = cast(Block, self.blocks[0])
            hidden = F.embedding(masked, first.attn.qkv(first.norm1(places)))
            qkv = torch.cat([first.attn.qkv(first.norm1(seen)), hidden], 1)
            tokens = first.after_attention(tokens, first.attn.mix(qkv))
        for block in self.blocks[1:-1]:
            tokens = block(tokens)
        return self.pred(self.norm(self.blocks[-1](tokens, slice(encoded.shape[1], None))))


NORM: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
UP: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class Densify(nn.Module):
    """One map of visible cells to a whole map: norm over the visible positions, a learned token at the hidden ones, a
    convolution to the decoder's width.
    """

    def __init__(self, rank: int, width: int, out: int, kernel: int) -> None:
        super().__init__()
        self.norm = NORM[rank](width)
        self.token = nn.Parameter(torch.zeros(1, width, *[1] * rank))
        self.proj = CONV[rank](width, out, kernel, padding=kernel // 2)
        nn.init.trunc_normal_(self.token, std=0.02)

    def forward(self, x: Tensor, cells: Cells) -> Tensor:
        """``[B * K, C, *s] -> [B, out, *S]``."""
        dense = cells.dense(self.norm(x))
        return self.proj(dense + cells.hidden(tuple(x.shape[2:])) * self.token)


class UpBlock(nn.Module):
    """Twice the resolution along the axes whose ``factor`` is 2, then two convolutions to half the width."""

    def __init__(self, factor: Sequence[int], width: int, out: int) -> None:
        super().__init__()
        rank = len(factor)
        self.up = UP[rank](width, width, [2 + f for f in factor], tuple(factor), 1)
        self.conv1, self.bn1 = CONV[rank](width, width, 3, padding=1, bias=False), NORM[rank](width)
        self.conv2, self.bn2 = CONV[rank](width, out, 3, padding=1, bias=False), NORM[rank](out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn1(self.conv1(self.up(x))), inplace=True)
        return self.bn2(self.conv2(x))


class PyramidDecoder(nn.Module):
    """Visible cells of a pyramid's maps to the whole input: SparK's light decoder (Tian et al., arXiv 2301.03580).

    ``widths`` and ``strides`` are the network's, fine to coarse. From the coarsest map on, each block doubles the
    resolution and halves the width (at least 8); a finer map is added where its resolution is reached. 23.2 million
    parameters for stride 32 and width 768.
    """

    def __init__(
        self, widths: Sequence[int], strides: Sequence[Sequence[int]], dim: int, channels: int
    ) -> None:
        super().__init__()
        rank, levels = len(strides[0]), len(widths)
        self.densify, self.blocks = nn.ModuleList(), nn.ModuleList()
        self.joins: list[bool] = []
        now, level = list(strides[-1]), levels - 1
        while max(now) > 1:
            joins = level >= 0 and now == list(strides[level])
            if joins:
                self.densify.append(Densify(rank, widths[level], dim, 3 if level < levels - 1 else 1))
                level -= 1
            goal = strides[level] if level >= 0 else [1] * rank
            factor = [2 if n > g and n % 2 == 0 else 1 for n, g in zip(now, goal)]
            if max(factor) == 1:
                raise ConfigError(
                    f"SparK's decoder doubles resolutions, and the network's strides {tuple(strides)} do not."
                )
            half = max(dim // 2, 8)
            self.blocks.append(UpBlock(factor, dim, half))
            self.joins.append(joins)
            now, dim = [n // f for n, f in zip(now, factor)], half
        self.joins.append(level == 0)  # a map as fine as the input
        if level == 0:
            self.densify.append(Densify(rank, widths[0], dim, 3))
        self.head = CONV[rank](dim, channels, 1)

    def forward(self, maps: Sequence[Tensor], cells: Cells) -> Tensor:
        """``maps[i] [B * K, widths[i], *s_i]``, fine to coarse, to ``[B, C, *S]``."""
        wholes = iter([d(m, cells) for d, m in zip(self.densify, reversed(maps))])
        x = next(wholes)
        for block, joins in zip(self.blocks, self.joins[1:]):
            x = block(x)
            x = x + next(wholes) if joins else x
        return self.head(x)
