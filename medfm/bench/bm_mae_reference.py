"""FROZEN. One BM-MAE pretraining step in plain PyTorch: the yardstick of ``medfm bench pretrain --modality mri``.

Not changed since it was first measured, so that a ratio measured today compares with one of last year. It is what a careful
reader of Robinet et al. (arXiv 2505.00568) would write: a convolution a sequence makes its tokens, only visible ones go
through the encoder, attention as ``softmax(q k^T / sqrt(d)) v``, one decoder over all tokens in their places, and the mean
squared error of the masked patches of each sequence, summed. Every subject has every sequence. It imports nothing of medfm.
Shapes: B batch, C sequences, N patches each, K visible tokens (numbered ``c N + n``), D width, P values a patch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sincos(side: int, dim: int) -> Tensor:
    """Fixed positions ``[side^3, D]``, base 10000: a third of the width for the second axis, then the first, then the third;
    in each all sines, then all cosines.
    """
    share = dim // 6
    angle = torch.arange(side)[:, None] / 10000 ** (torch.arange(share) / share)
    waves = torch.cat([angle.sin(), angle.cos()], dim=1)
    i, j, k = torch.meshgrid(*[torch.arange(side)] * 3, indexing="ij")
    return torch.cat([waves[j], waves[i], waves[k]], dim=-1).flatten(0, 2)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q = q / math.sqrt(D // self.heads)
        weights = (q @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, N, D))


class MLP(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ReferenceBMMAE(nn.Module):
    """Encoder of width 768, depth 12, 12 heads, MLP 1536, with a class token; decoder of width 384, depth 3."""

    positions: Tensor
    decoder_positions: Tensor

    def __init__(
        self,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp: int = 1536,
        sequences: int = 4,
        size: int = 128,
        patch: int = 16,
        decoder_dim: int = 384,
        decoder_depth: int = 3,
        decoder_heads: int = 12,
        decoder_mlp: int = 1536,
    ) -> None:
        super().__init__()
        self.patch, side = patch, size // patch
        self.tokenizers = nn.ModuleList(nn.Conv3d(1, dim, patch, stride=patch) for _ in range(sequences))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.sequences = nn.Parameter(torch.zeros(sequences, 1, decoder_dim))
        self.decoder_blocks = nn.Sequential(
            *(Block(decoder_dim, decoder_heads, decoder_mlp) for _ in range(decoder_depth))
        )
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.decoder_pred = nn.Linear(decoder_dim, patch**3)
        self.register_buffer("positions", sincos(side, dim), persistent=False)
        self.register_buffer("decoder_positions", sincos(side, decoder_dim), persistent=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)

    def patchify(self, x: Tensor) -> Tensor:
        """``[B, C, S, S, S] -> [B, C N, P]``."""
        B, C, S, p = x.shape[0], x.shape[1], x.shape[2] // self.patch, self.patch
        x = x.reshape(B, C, S, p, S, p, S, p).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return x.reshape(B, C * S**3, p**3)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Sum over sequences of the mean squared error of their masked patches."""
        each = [t(x[:, c : c + 1]).flatten(2).transpose(1, 2) for c, t in enumerate(self.tokenizers)]
        tokens = torch.cat([e + self.positions for e in each], dim=1)
        B, N, D = tokens.shape
        seen = tokens.gather(1, visible[:, :, None].expand(-1, -1, D))
        latent = self.norm(self.blocks(torch.cat([self.cls_token.expand(B, -1, -1), seen], dim=1)))
        latent = self.decoder_embed(latent)
        full = self.mask_token.expand(B, N, -1).clone()
        full = full.scatter(1, visible[:, :, None].expand(-1, -1, full.shape[2]), latent[:, 1:])
        full = full + (self.decoder_positions + self.sequences).flatten(0, 1)
        full = torch.cat([latent[:, :1], full], dim=1)
        predictions = self.decoder_pred(self.decoder_norm(self.decoder_blocks(full)))[:, 1:]
        masked = torch.ones(B, N, device=x.device).scatter(1, visible, 0.0)
        error = (predictions - self.patchify(x)).square().mean(dim=-1) * masked
        C = len(self.tokenizers)
        return (error.reshape(B, C, -1).sum((0, 2)) / masked.reshape(B, C, -1).sum((0, 2))).sum()

    def optimizer(self, lr: float = 1e-4) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.parameters(), lr=lr, weight_decay=0.05)


def train_step(model: ReferenceBMMAE, optimizer: torch.optim.Optimizer, x: Tensor, visible: Tensor) -> Tensor:
    """One whole optimisation step; returns the loss."""
    optimizer.zero_grad()
    loss: Tensor = model(x, visible)
    loss.backward()
    optimizer.step()
    return loss.detach()
