"""One Vision Transformer for records of any rank: ECG and PPG (1-D), radiographs (2-D), volumes (3-D).

``[B, C, *S]`` is cut into patches that hold all channels, embedded, given positions, and encoded by
pre-norm blocks. With ``bias=False, registers=1, positions="sincos"`` it is the encoder of ECG-JEPA (arXiv
2410.13867): 3,600,000 parameters for XS, 14,277,888 for S, 85,185,024 for B. With ``bias=True,
class_token=True, positions="learned"`` it is timm's ``VisionTransformer`` and loads its weights by name. B
batch, C channels, N patch tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.backbones.attention import Block, initialise
from medfm.backbones.base import Backbone
from medfm.backbones.patches import patchify, silenced
from medfm.backbones.positions import sincos
from medfm.types import ConfigError, Features

CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class PatchEmbed(nn.Module):
    """Patches that do not overlap, each projected to the width.

    The weight is that of a convolution with stride equal to its kernel, so that official weights fit; the
    work is one matrix product, which can be done for a subset of the patches and is faster than the
    convolution on a CPU.
    """

    def __init__(self, in_channels: int, patch: tuple[int, ...], dim: int, bias: bool) -> None:
        super().__init__()
        self.patch = patch
        self.proj = CONV[len(patch)](in_channels, dim, patch, stride=patch, bias=bias)

    def forward(self, patches: Tensor) -> Tensor:
        """``[..., C * prod(patch)] -> [..., D]``."""
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class ViT(Backbone):
    """Vision Transformer with the capability ``Tokens``.

    ``input_size`` is the usual extent in samples or voxels; shorter inputs use the first positions, longer
    ones are possible with fixed positions. ``bias`` governs Linear, Conv and LayerNorm; ``qkv_bias`` and
    ``norm_bias`` depart from it where an official checkpoint does. Registers (Darcet et al., 2024) are
    learned tokens without a position, prepended to whatever tokens are encoded and dropped after the final
    norm.
    """

    fixed_positions: Tensor

    def __init__(
        self,
        *,
        rank: int,
        in_channels: int,
        input_size: Sequence[int],
        patch: Sequence[int],
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        bias: bool = False,
        qkv_bias: bool | None = None,
        norm_bias: bool | None = None,
        registers: int = 0,
        class_token: bool = False,
        positions: Literal["sincos", "learned"] = "sincos",
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        patch = tuple(patch) * (rank if len(patch) == 1 else 1)
        if rank not in CONV or len(patch) != rank or len(input_size) != rank:
            raise ConfigError(
                f"a ViT of rank {rank} needs {rank} numbers in patch {patch} and size {tuple(input_size)}."
            )
        if dim % heads:
            raise ConfigError(f"backbone.dim {dim} is not divisible by backbone.heads {heads}.")
        self.rank, self.in_channels, self.dim = rank, in_channels, dim
        qkv_bias = bias if qkv_bias is None else qkv_bias
        norm_bias = bias if norm_bias is None else norm_bias
        self._config: dict[str, Any] = {
            "name": "vit",
            "rank": rank,
            "in_channels": in_channels,
            "input_size": list(input_size),
            "patch": list(patch),
            "dim": dim,
            "depth": depth,
            "heads": heads,
            "mlp_ratio": mlp_ratio,
            "bias": bias,
            "qkv_bias": qkv_bias,
            "norm_bias": norm_bias,
            "registers": registers,
            "class_token": class_token,
            "positions": positions,
            "drop_path": drop_path,
            "norm_eps": norm_eps,
            "layer_scale": layer_scale,
        }
        self.grid = tuple(s // p for s, p in zip(input_size, patch))
        self.patch_embed = PatchEmbed(in_channels, patch, dim, bias)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.registers = nn.Parameter(torch.zeros(1, registers, dim)) if registers else None
        self.prefix = int(class_token) + registers
        if positions == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, int(class_token) + math.prod(self.grid), dim))
        else:
            self.register_buffer("fixed_positions", sincos(self.grid, dim), persistent=False)
        shared = ("mlp_ratio", "bias", "qkv_bias", "norm_bias", "norm_eps", "layer_scale")
        options = {k: self._config[k] for k in shared}
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, drop_path=rate, **options) for rate in rates)
        self.norm = nn.LayerNorm(dim, norm_eps, bias=norm_bias)
        initialise(self, depth)
        for token in (self.cls_token, self.registers, getattr(self, "pos_embed", None)):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Features:
        """``x [B, C, *S]`` to one map ``[B, D, *grid]`` and its mean over patch tokens ``[B, D]``."""
        grid = self.grid_of(x)
        tokens, positions = self.tokenize(x, present)
        encoded = self.encode(tokens + positions)
        return Features((encoded.transpose(1, 2).unflatten(2, grid),), encoded.mean(1))

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """Number of patches an axis; :class:`ConfigError` when the input is shorter than one patch."""
        patch = self.patch_embed.patch
        if x.ndim != self.rank + 2 or x.shape[1] != self.in_channels:
            raise ConfigError(
                f"this backbone takes [batch, {self.in_channels} channels, {self.rank} axes], "
                f"not {list(x.shape)}."
            )
        grid = tuple(s // p for s, p in zip(x.shape[2:], patch))
        if 0 in grid:
            raise ConfigError(
                f"an input of {list(x.shape[2:])} is shorter than one patch of {list(patch)}; pad it."
            )
        return grid

    def patchify(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """``[B, C, *S] -> [B, N, C * prod(patch)]``; absent channels and NaN gaps are zero, the mean after
        normalisation."""
        self.grid_of(x)
        return patchify(silenced(x, present), self.patch_embed.patch)

    def embed(self, patches: Tensor) -> Tensor:
        """Any subset of patches ``[B, K, C * prod(patch)] -> [B, K, D]``, without positions."""
        return self.patch_embed(patches)

    def positions(self, grid: tuple[int, ...]) -> Tensor:
        """Positions ``[prod(grid), D]``: the first ones of each axis."""
        if self._config["positions"] == "learned":
            table: Tensor = self.pos_embed[0, self.pos_embed.shape[1] - math.prod(self.grid) :]
        else:
            table = self.fixed_positions
        if grid == self.grid:
            return table
        if any(g > full for g, full in zip(grid, self.grid)):
            if self._config["positions"] == "learned":
                raise ConfigError(
                    f"an input of {grid} patches exceeds the {self.grid} learned positions; cut it."
                )
            return sincos(grid, self.dim).to(table)
        return table.view(*self.grid, self.dim)[tuple(slice(g) for g in grid)].reshape(-1, self.dim)

    def tokenize(self, x: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens ``[B, N, D]`` without positions, and positions ``[N, D]``."""
        return self.embed(self.patchify(x, present)), self.positions(self.grid_of(x))

    def encode(self, tokens: Tensor, keep: Tensor | None = None, prefix: bool = False) -> Tensor:
        """``[B, K, D] -> [B, K, D]`` through blocks and final norm.

        keep: index ``[B, M]`` of the tokens whose output is wanted (``[B, M, D]``); the last block works
        on them alone.
        prefix: return class token and registers too, in front.
        """
        drop = 0 if prefix else self.prefix
        tokens = self._prefixed(tokens)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        if keep is None:
            return self.norm(self.blocks[-1](tokens)[:, drop:])
        keep = keep + self.prefix
        if prefix:
            front = torch.arange(self.prefix, device=keep.device).expand(len(keep), -1)
            keep = torch.cat([front, keep], dim=1)
        return self.norm(self.blocks[-1](tokens, keep))

    def attention(self, x: Tensor, present: Tensor | None = None) -> list[Tensor]:
        """Attention of each block ``[B, H, P + N, P + N]`` for ``x [B, C, *S]``, a query a row; P extra tokens stand
        before the N patches."""
        patches, positions = self.tokenize(x, present)
        tokens, found = self._prefixed(patches + positions), []
        for block in cast(Iterable[Block], self.blocks):
            found.append(block.attn.weights(block.norm1(tokens)))
            tokens = block(tokens)
        return found

    def _prefixed(self, tokens: Tensor) -> Tensor:
        """``[B, N, D] -> [B, P + N, D]``: class token and registers in front."""
        parts = []
        if self.cls_token is not None:
            learned = self._config["positions"] == "learned"
            parts.append(self.cls_token + self.pos_embed[:, :1] if learned else self.cls_token)
        if self.registers is not None:
            parts.append(self.registers)
        return (
            torch.cat([*(p.expand(len(tokens), -1, -1) for p in parts), tokens], dim=1) if parts else tokens
        )

    def groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Stem (patches, positions, extra tokens), each block, final norm."""
        stem = [p for n, p in self.named_parameters() if not n.startswith(("blocks.", "norm."))]
        blocks = [(f"blocks.{i}", list(b.parameters())) for i, b in enumerate(self.blocks)]
        return [("stem", stem), *blocks, ("norm", list(self.norm.parameters()))]

    @property
    def adapter_targets(self) -> list[str]:
        """Attention and MLP projections of every block (never ``patch_embed.proj``, which shares a short
        name).
        """
        parts = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        return [f"blocks.{i}.{part}" for i in range(len(self.blocks)) for part in parts]

    def config(self) -> dict[str, Any]:
        return dict(self._config)
