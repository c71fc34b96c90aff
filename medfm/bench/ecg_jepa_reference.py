"""FROZEN. One ECG-JEPA pretraining step in plain PyTorch: the yardstick of ``medfm bench pretrain --modality
ecg``.

Written before medfm's own step and not changed since, so that a ratio measured today compares with one of
last year. It is what a careful reader of arXiv 2410.13867 would write: only visible tokens go through the
context encoder, AdamW, attention as ``softmax(q k^T / sqrt(d)) v``, a loop over parameters for the moving
average. It imports nothing of medfm. Shapes: B batch, C leads, T samples, N tokens, K visible tokens, M
masked tokens, D width.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sincos(length: int, dim: int) -> Tensor:
    """Fixed positions ``[N, D]``, base 10000; even columns sine, odd columns cosine."""
    angle = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, dim, 2) / dim)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class LayerNorm(nn.LayerNorm):
    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6, bias=False)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q = q / math.sqrt(D // self.heads)
        weights = (q @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, N, D))


class MLP(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim, bias=False)
        self.fc2 = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = LayerNorm(dim)
        self.mlp = MLP(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, leads: int, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv1d(leads, dim, kernel_size=patch, stride=patch, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).transpose(1, 2)


def gather(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows ``index [B, K]`` of ``tokens [B, N, D]``."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


class Encoder(nn.Module):
    positions: Tensor

    def __init__(self, leads: int, size: int, patch: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(leads, patch, dim)
        self.registers = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = LayerNorm(dim)
        self.register_buffer("positions", sincos(size // patch, dim), persistent=False)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """``x [B, C, T]`` to tokens ``[B, N or K, D]``."""
        tokens = self.patch_embed(x) + self.positions
        if visible is not None:
            tokens = gather(tokens, visible)
        tokens = torch.cat([self.registers.expand(len(x), -1, -1), tokens], dim=1)
        return self.norm(self.blocks(tokens))[:, 1:]


class Predictor(nn.Module):
    positions: Tensor

    def __init__(self, tokens: int, width: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(width, dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = LayerNorm(dim)
        self.proj = nn.Linear(dim, width, bias=False)
        self.register_buffer("positions", sincos(tokens, dim), persistent=False)

    def forward(self, context: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Context ``[B, K, D]`` to predictions of the masked tokens ``[B, M, D]``."""
        context = self.embed(context) + self.positions[visible]
        queries = self.mask_token + self.positions[masked]
        tokens = self.blocks(torch.cat([context, queries], dim=1))
        return self.proj(self.norm(tokens)[:, context.shape[1] :])


class ReferenceECGJEPA(nn.Module):
    """Context encoder, its moving average, predictor. Sizes XS: width 192, depth 8, heads 4."""

    def __init__(
        self,
        dim: int = 192,
        depth: int = 8,
        heads: int = 4,
        leads: int = 12,
        size: int = 5000,
        patch: int = 25,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(leads, size, patch, dim, depth, heads)
        self.predictor = Predictor(size // patch, dim, dim // 2, depth, heads)
        self.apply(self._initialise)
        for name, parameter in self.named_parameters():
            if name.endswith(("attn.proj.weight", "mlp.fc2.weight")):
                nn.init.trunc_normal_(parameter, std=0.02 / math.sqrt(2 * depth))
        nn.init.trunc_normal_(self.encoder.registers, std=0.02)
        nn.init.trunc_normal_(self.predictor.mask_token, std=0.02)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.trunc_normal_(module.weight, std=0.02)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        for target, online in zip(self.target_encoder.parameters(), self.encoder.parameters()):
            target.mul_(momentum).add_(online, alpha=1 - momentum)

    def forward(self, x: Tensor, visible: Tensor, masked: Tensor, momentum: float) -> Tensor:
        """Loss of one batch; ``visible [B, K]`` and ``masked [B, M]`` are token indices in ascending
        order.
        """
        self.update_target(momentum)
        with torch.no_grad():
            targets = gather(self.target_encoder(x), masked)
        predictions = self.predictor(self.encoder(x, visible), visible, masked)
        return F.l1_loss(predictions, targets)

    def optimizer(self, lr: float = 1e-3) -> torch.optim.AdamW:
        """Weight decay on Linear and Conv weights alone."""
        decayed = [p for p in self.parameters() if p.requires_grad and p.ndim > 1 and p.shape[0] > 1]
        plain = [p for p in self.parameters() if p.requires_grad and not (p.ndim > 1 and p.shape[0] > 1)]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), eps=1e-6)


def train_step(
    model: ReferenceECGJEPA, optimizer: torch.optim.Optimizer, x: Tensor, visible: Tensor, masked: Tensor
) -> Tensor:
    """One whole optimisation step; returns the loss."""
    optimizer.zero_grad()
    loss: Tensor = model(x, visible, masked, momentum=0.998)
    loss.backward()
    optimizer.step()
    return loss.detach()
