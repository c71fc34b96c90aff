"""The decoder of BM-MAE (Robinet et al., arXiv 2505.00568): one for all sequences, it reconstructs what the encoder did not see.

C sequences of N patches each are C N tokens; token ``c N + n`` is patch n of sequence c. B batch, K visible tokens, M masked,
D width, P values a patch.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.backbones.attention import Block

EPS = 1e-5  # of every norm of BM-MAE
SWAPPED = (1, 0, 2)  # which axis of the grid each third of the width tells


def sequence_positions(grid: tuple[int, ...], dim: int, base: float = 10_000.0) -> Tensor:
    """Fixed positions ``[prod(grid), D]`` float32 of three axes, row-major over the grid, as BM-MAE's checkpoints hold them.

    A third of the width tells the place along the second axis, the next along the first, the last along the third; in each,
    all sines stand before all cosines. Columns left over when the width does not divide by six stay zero.
    """
    share = dim // 6
    frequency = base ** (-torch.arange(share, dtype=torch.float64) / max(share, 1))
    table = torch.zeros(*grid, dim, dtype=torch.float64)
    for third, axis in enumerate(SWAPPED):
        angle = torch.arange(grid[axis], dtype=torch.float64)[:, None] * frequency
        shape = [grid[a] if a == axis else 1 for a in range(3)] + [2 * share]
        waves = torch.cat([angle.sin(), angle.cos()], 1).reshape(shape)
        table[..., 2 * share * third : 2 * share * (third + 1)] = waves
    return table.reshape(-1, dim).float()


class SequenceDecoder(nn.Module):
    """Encoded visible tokens to predictions of masked ones, of all sequences alike: a mask token that all share, an embedding
    of each sequence and a fixed position say what is asked for. The class token takes part without a position.

    Only masked tokens leave the last block; visible ones serve it as keys and values.
    """

    table: Tensor

    def __init__(
        self,
        sequences: int,
        grid: tuple[int, ...],
        width: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        values: int,
        base: float = 10_000.0,
    ) -> None:
        super().__init__()
        self.grid, self.dim, self.base = grid, dim, base
        self.embed = nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.sequences = nn.Parameter(torch.zeros(sequences, dim))
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio=mlp_dim / dim, bias=True, qkv_bias=True, norm_bias=True, norm_eps=EPS)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, EPS)
        self.pred = nn.Linear(dim, values)
        self.register_buffer("table", sequence_positions(grid, dim, base), persistent=False)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)
        for token in (self.mask_token, self.sequences):
            nn.init.normal_(token, std=0.02)

    def places(self, grid: tuple[int, ...]) -> Tensor:
        """Position and sequence of every token, ``[C N, D]``."""
        table = (
            self.table if grid == self.grid else sequence_positions(grid, self.dim, self.base).to(self.table)
        )
        return (self.sequences[:, None] + table).flatten(0, 1)

    def forward(self, encoded: Tensor, visible: Tensor, masked: Tensor, grid: tuple[int, ...]) -> Tensor:
        """``encoded [B, 1 + K, D]`` (class token first), token numbers ``visible [B, K]`` and ``masked [B, M]`` to ``[B, M, P]``."""
        places = self.places(grid)
        seen = self.embed(encoded)
        seen = torch.cat([seen[:, :1], seen[:, 1:] + F.embedding(visible, places)], 1)
        hidden = self.mask_token + places
        tokens = torch.cat([seen, F.embedding(masked, hidden)], 1)
        blocks = [cast(Block, b) for b in self.blocks]
        if len(blocks) > 1 and masked.numel() > len(hidden):
            # Masked tokens differ by their place alone: queries, keys and values are made once for all subjects.
            first = blocks.pop(0)
            asked = F.embedding(masked, first.attn.qkv(first.norm1(hidden)))
            qkv = torch.cat([first.attn.qkv(first.norm1(seen)), asked], 1)
            tokens = first.after_attention(tokens, first.attn.mix(qkv))
        for block in blocks[:-1]:
            tokens = block(tokens)
        return self.pred(self.norm(blocks[-1](tokens, slice(encoded.shape[1], None))))
