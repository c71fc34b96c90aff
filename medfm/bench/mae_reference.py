"""FROZEN. One masked-autoencoder pretraining step in plain PyTorch: a yardstick of ``medfm bench pretrain
--modality xray``.

Written before medfm's own step and not changed since, so that a ratio measured today compares with one of last
year. It is what a careful reader of He et al. (arXiv 2111.06377) and Xiao et al. (arXiv 2210.12843) would write:
only visible tokens go through the encoder, AdamW, attention as ``softmax(q k^T / sqrt(d)) v``, a decoder over all
tokens in their places. It imports nothing of medfm. Shapes: B batch, C channels, H x W pixels, N tokens, K
visible tokens, D width, P values a patch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sincos(rows: int, columns: int, dim: int) -> Tensor:
    """Fixed positions ``[N, D]``, base 10000: half of the width for the row, half for the column; in each, even
    entries sine and odd entries cosine.
    """

    def axis(length: int) -> Tensor:
        angle = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, dim // 2, 2) / (dim // 2))
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)

    row = axis(rows)[:, None].expand(-1, columns, -1)
    column = axis(columns)[None].expand(rows, -1, -1)
    return torch.cat([row, column], dim=-1).flatten(0, 1)


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
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def gather(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows ``index [B, K]`` of ``tokens [B, N, D]``."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


class ReferenceMAE(nn.Module):
    """Encoder of ViT-S/16 (width 384, depth 12, heads 6) with a class token; decoder of width 512, depth 2."""

    positions: Tensor
    decoder_positions: Tensor

    def __init__(
        self,
        dim: int = 384,
        depth: int = 12,
        heads: int = 6,
        channels: int = 1,
        size: int = 224,
        patch: int = 16,
        decoder_dim: int = 512,
        decoder_depth: int = 2,
        decoder_heads: int = 16,
    ) -> None:
        super().__init__()
        self.patch, side = patch, size // patch
        self.patch_embed = nn.Conv2d(channels, dim, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder_blocks = nn.Sequential(
            *(Block(decoder_dim, decoder_heads) for _ in range(decoder_depth))
        )
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_dim, channels * patch**2)
        self.register_buffer("positions", sincos(side, side, dim), persistent=False)
        self.register_buffer("decoder_positions", sincos(side, side, decoder_dim), persistent=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)

    def patchify(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, N, P]``."""
        return F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Mean squared error of the masked patches; ``visible [B, K]`` are token indices."""
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2) + self.positions
        B, N, _ = tokens.shape
        tokens = torch.cat([self.cls_token.expand(B, -1, -1), gather(tokens, visible)], dim=1)
        latent = self.decoder_embed(self.norm(self.blocks(tokens)))
        full = self.mask_token.expand(B, N, -1).clone()
        full = full.scatter(1, visible[:, :, None].expand(-1, -1, full.shape[2]), latent[:, 1:])
        full = torch.cat([latent[:, :1], full + self.decoder_positions], dim=1)
        predictions = self.decoder_pred(self.decoder_norm(self.decoder_blocks(full)))[:, 1:]
        masked = torch.ones(B, N, device=x.device).scatter(1, visible, 0.0)
        error = (predictions - self.patchify(x)).square().mean(dim=-1)
        return (error * masked).sum() / masked.sum()

    def optimizer(self, lr: float = 1e-3) -> torch.optim.AdamW:
        """Weight decay on Linear and Conv weights alone."""
        decayed = [p for p in self.parameters() if p.ndim > 1 and p.shape[0] > 1]
        plain = [p for p in self.parameters() if not (p.ndim > 1 and p.shape[0] > 1)]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))


def train_step(model: ReferenceMAE, optimizer: torch.optim.Optimizer, x: Tensor, visible: Tensor) -> Tensor:
    """One whole optimisation step; returns the loss."""
    optimizer.zero_grad()
    loss: Tensor = model(x, visible)
    loss.backward()
    optimizer.step()
    return loss.detach()
