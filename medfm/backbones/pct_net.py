"""PCT-Net (Wang et al., MIS-FM, arXiv 2306.16925): a U-Net whose three deep levels add windows of attention to convolutions.

An own implementation; names of parameters are the official code's, so that its weights fit. Every convolution follows a
batch norm and a PReLU. The first axis is the one with the thickest slices: ``resolution_mode`` 0 treats it as the
others, 1 does not halve it once, 2 not twice. Attention runs in cubes of ``windows`` voxels, every second block shifted
by half a cube, with a learned bias for each offset between two voxels. A network is built for one input size: from a
level that is no larger than its window on, the cube shrinks to the level and nothing is shifted.

B batch, C channels, N windows, T voxels a window, H heads, S voxels an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.backbones.attention import DropPath
from medfm.backbones.volume_net import Parts, VolumeNet, remove
from medfm.types import ConfigError

Size = tuple[int, int, int]


def kernel(flat: bool, edge: int = 3) -> Size:
    """``flat``: nothing along the first axis."""
    return (1 if flat else edge, edge, edge)


def pre_activated(width: int, layer: nn.Module) -> list[nn.Module]:
    return [nn.BatchNorm3d(width), nn.PReLU(), layer]


def convolution(inner: int, out: int, flat: bool = False) -> nn.Conv3d:
    return nn.Conv3d(inner, out, kernel(flat), padding=kernel(flat, 1) if not flat else (0, 1, 1))


class ConvBlock(nn.Module):
    """Two pre-activated convolutions of one width, dropout before the second."""

    def __init__(self, width: int, flat: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        norm, act, second = pre_activated(width, convolution(width, width, flat))
        first = pre_activated(width, convolution(width, width, flat))
        self.conv_conv = nn.Sequential(*first, norm, act, nn.Dropout(dropout), second)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_conv(x)


class Down(nn.Module):
    """Half the resolution by max pooling (``flat_pool``: not of the first axis), then a pre-activated convolution."""

    def __init__(self, inner: int, out: int, flat_pool: bool = False, flat: bool = False) -> None:
        super().__init__()
        self.pool = nn.MaxPool3d(kernel(flat_pool, 2))
        self.conv = nn.Sequential(*pre_activated(inner, convolution(inner, out, flat)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pool(x))


class UpCat(nn.Module):
    """A deep map brought up, and joined with the finer one."""

    def __init__(self, deep: int, out: int, flat: bool = False) -> None:
        super().__init__()
        edges = kernel(flat, 2)
        self.up = nn.Sequential(*pre_activated(deep, nn.ConvTranspose3d(deep, out, edges, edges)))
        self.conv = nn.Sequential(*pre_activated(2 * out, convolution(2 * out, out, flat)))

    def forward(self, fine: Tensor, deep: Tensor) -> Tensor:
        return self.conv(torch.cat([fine, self.up(deep)], 1))


class Readout(nn.Module):
    """The norm and PReLU that the official code has before a classifier of 1 x 1 x 1, which is no part of a backbone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.BatchNorm3d(width), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def relative_index(window: int) -> Tensor:
    """Row of the bias table for each pair of voxels of a cube, ``[T, T]``.

    Offsets from ``1 - w`` to ``w - 1`` an axis, counted from 0; official weights are sorted with the factors
    ``(3 w - 1, 2 w - 1, 1)``, which name some rows twice and others never.
    """
    places = torch.cartesian_prod(*[torch.arange(window)] * 3)
    offsets = places[:, None] - places[None] + window - 1
    return (offsets * torch.tensor([3 * window - 1, 2 * window - 1, 1])).sum(-1)


class WindowAttention(nn.Module):
    """Multi-head self-attention among the voxels of a cube, with a bias for each offset."""

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 3, heads))
        self.register_buffer("relative_position_index", relative_index(window), persistent=False)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.attn_drop, self.proj_drop = nn.Dropout(dropout), nn.Dropout(dropout)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``x [B * N, T, C]``, ``mask [N, T, T]`` added to the scores."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3) + bias
        if mask is not None:
            scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        out = self.attn_drop(scores.softmax(3)) @ v
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))


class MLP(nn.Module):
    """Two layers with GELU and dropout."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1, self.fc2, self.drop = nn.Linear(dim, hidden), nn.Linear(hidden, dim), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class SwinBlock(nn.Module):
    """Pre-norm block on a level of ``size`` voxels; attention in cubes of ``window``, all moved by ``shift``."""

    mask: Tensor | None

    def __init__(
        self,
        dim: int,
        size: Size,
        heads: int,
        window: int,
        shift: int,
        mlp_ratio: float,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        if min(size) <= window:
            window, shift = min(size), 0
        self.size, self.window, self.shift = size, window, shift
        a, b, c = (-(-n // window) * window for n in size)
        self.padded: Size = (a, b, c)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads, dropout)
        self.mlp = MLP(dim, int(dim * mlp_ratio), dropout)
        self.drop_path: nn.Module = DropPath(drop_path) if drop_path else nn.Identity()
        self.register_buffer("mask", self._mask() if shift else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, *S, C] -> [B, *S, C]``."""
        x = x + self.drop_path(self._attended(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attended(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, *[v for n, p in zip(self.size[::-1], self.padded[::-1]) for v in (0, p - n)]))
        x = x.roll((-self.shift,) * 3, (1, 2, 3)) if self.shift else x
        batch, channels = x.shape[0], x.shape[4]
        x = _joined(self.attn(_cubes(x, self.window), self.mask), batch, self.padded, self.window, channels)
        x = x.roll((self.shift,) * 3, (1, 2, 3)) if self.shift else x
        return x[:, : self.size[0], : self.size[1], : self.size[2]]

    def _mask(self) -> Tensor:
        """``[N, T, T]``: -100 between voxels that only the roll brought side by side."""
        w, s = self.window, self.shift
        regions = [
            torch.bucketize(torch.arange(n), torch.tensor([n - w, n - s]), right=True) for n in self.padded
        ]
        a, b, c = regions
        number = (a[:, None, None] * 9 + b[:, None] * 3 + c)[None, ..., None]
        region = _cubes(number, w)[..., 0]
        return (region[:, :, None] != region[:, None]).float() * -100.0


def _cubes(x: Tensor, w: int) -> Tensor:
    """``[B, *S, C] -> [B * N, T, C]``."""
    for axis in (3, 2, 1):
        x = x.unflatten(axis, (-1, w))
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(0, 3).flatten(1, 3)


def _joined(x: Tensor, batch: int, size: Size, w: int, channels: int) -> Tensor:
    """The inverse of :func:`_cubes`."""
    a, b, c = (n // w for n in size)
    x = x.view(batch, a, b, c, w, w, w, channels).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(batch, *size, channels)


class ConvTrans(nn.Module):
    """Convolutions and attention on the same map, added."""

    def __init__(self, dim: int, size: Size, depth: int, dropout: float, **swin: Any) -> None:
        super().__init__()
        self.conv = ConvBlock(dim, dropout=dropout)
        self.trans = nn.Module()
        shift = swin["window"] // 2
        blocks = [SwinBlock(dim, size, shift=shift * (i % 2), dropout=dropout, **swin) for i in range(depth)]
        self.trans.blocks = nn.ModuleList(blocks)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.drop(x.movedim(1, -1))
        for block in cast(nn.ModuleList, self.trans.blocks):
            tokens = block(tokens)
        return self.conv(x) + tokens.movedim(-1, 1)


class Embedding(nn.Module):
    """The two finest levels, and the step down to the third."""

    def __init__(self, in_channels: int, widths: Sequence[int], flat: tuple[bool, bool]) -> None:
        super().__init__()
        a, b, c = widths[:3]
        self.proj = convolution(in_channels, a, flat[0])
        self.conv0, self.conv1 = ConvBlock(a, flat[0]), ConvBlock(b, flat[1])
        self.down1, self.down2 = Down(a, b, flat[0], flat[1]), Down(b, c, flat[1])


class Head(nn.Module):
    """The way back through the two finest levels."""

    def __init__(self, widths: Sequence[int], flat: tuple[bool, bool]) -> None:
        super().__init__()
        a, b, c = widths[:3]
        self.up2, self.conv1, self.out_conv1 = UpCat(c, b, flat[1]), ConvBlock(b, flat[1]), Readout(b)
        self.up1, self.conv0, self.out_conv0 = UpCat(b, a, flat[0]), ConvBlock(a, flat[0]), Readout(a)


class PyramidCT(nn.Module):
    """The three deep levels; ``decoder`` builds the way back, too."""

    def __init__(
        self, widths: Sequence[int], sizes: Sequence[Size], levels: Sequence[dict[str, Any]], decoder: bool
    ) -> None:
        super().__init__()
        c, d, e = widths[2:]
        self.down3, self.down4 = Down(c, d), Down(d, e)
        for i, name in enumerate(("e2", "e3", "e4")):
            self.add_module(f"convtrans_{name}", ConvTrans(widths[2 + i], sizes[i], **levels[i]))
        if decoder:
            self.up4, self.up3 = UpCat(e, d), UpCat(d, c)
            for i, name in enumerate(("d2", "d3")):
                self.add_module(f"convtrans_{name}", ConvTrans(widths[2 + i], sizes[i], **levels[i]))
            self.out_conv2, self.out_conv3 = Readout(c), Readout(d)


class PCTNet(VolumeNet):
    """PCT-Net with the capabilities ``Pyramid`` (five maps) and ``Dense`` (four). Takes ``input_size`` alone: cut larger
    volumes into windows of that size.
    """

    name = "pct_net"

    def __init__(
        self,
        *,
        in_channels: int,
        input_size: Sequence[int],
        channels: Sequence[int],
        depths: Sequence[int] = (2, 2, 2),
        heads: Sequence[int] = (4, 8, 16),
        windows: Sequence[int] = (6, 6, 6),
        mlp_ratio: float = 4.0,
        resolution_mode: int = 0,
        dropout: float = 0.2,
        drop_path: float = 0.2,
        rank: int = 3,
        decoder: bool = False,
    ) -> None:
        self.check_rank(rank, input_size)
        flat = (resolution_mode >= 1, resolution_mode >= 2)
        if resolution_mode not in (0, 1, 2):
            raise ConfigError(f"backbone.resolution_mode of pct_net is 0, 1 or 2, not {resolution_mode}.")
        strides: list[Size] = [(1, 1, 1)]
        for a, b, c in (kernel(flat[0], 2), kernel(flat[1], 2), (2, 2, 2), (2, 2, 2)):
            strides.append((strides[-1][0] * a, strides[-1][1] * b, strides[-1][2] * c))
        x, y, z = input_size
        sizes: list[Size] = [(x // a, y // b, z // c) for a, b, c in strides[2:]]
        levels = [
            {"depth": d, "heads": h, "window": w, "mlp_ratio": mlp_ratio, "dropout": dropout, "drop_path": drop_path}
            for d, h, w in zip(depths, heads, windows)
        ]  # fmt: skip
        if wrong := [(c, h) for c, h in zip(channels[2:], heads) if c % h]:
            raise ConfigError(f"backbone.channels {wrong[0][0]} is not divisible by heads {wrong[0][1]}.")
        if min(min(size) for size in sizes) < 1:
            raise ConfigError(
                f"backbone.name pct_net takes volumes of multiples of {list(strides[-1])} along its axes, not "
                f"{list(input_size)}; set the modality's size."
            )
        self.mode = str(resolution_mode)
        net = nn.Module()
        net.embeddings = nn.ModuleDict({self.mode: Embedding(in_channels, channels, flat)})
        net.pyramid_ct = PyramidCT(channels, sizes, levels, decoder)
        net.pred_heads = nn.ModuleDict({self.mode: Head(channels, flat)})
        if not decoder:
            remove(net, ["pred_heads"])
        super().__init__(
            net,
            rank=rank,
            in_channels=in_channels,
            input_size=input_size,
            decoder=decoder,
            widths=channels,
            strides=strides,
            dense=4,
            channels=tuple(channels),
            depths=tuple(depths),
            heads=tuple(heads),
            windows=tuple(windows),
            mlp_ratio=mlp_ratio,
            resolution_mode=resolution_mode,
            dropout=dropout,
            drop_path=drop_path,
        )

    def check_size(self, size: Sequence[int], cell: bool = False) -> None:
        """As :meth:`VolumeNet.check_size`; and only the size that the windows of attention were built for."""
        super().check_size(size, cell)
        if list(size) != self._config["input_size"]:
            raise ConfigError(
                f"this pct_net was built for {self._config['input_size']} voxels, not {list(size)}: sliding windows must "
                "have that size."
            )

    def encode(self, x: Tensor) -> list[Tensor]:
        fine, deep = self.net.embeddings[self.mode], self.net.pyramid_ct
        x0 = fine.conv0(fine.proj(x))
        x1 = fine.conv1(fine.down1(x0))
        e2 = deep.convtrans_e2(fine.down2(x1))
        e3 = deep.convtrans_e3(deep.down3(e2))
        return [x0, x1, e2, e3, deep.convtrans_e4(deep.down4(e3))]

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        x0, x1, e2, e3, x = maps
        deep, head = self.net.pyramid_ct, self.net.pred_heads[self.mode]
        found = []
        for up, block, readout, skip in (
            (deep.up4, deep.convtrans_d3, deep.out_conv3, e3),
            (deep.up3, deep.convtrans_d2, deep.out_conv2, e2),
            (head.up2, head.conv1, head.out_conv1, x1),
            (head.up1, head.conv0, head.out_conv0, x0),
        ):
            x = block(up(skip, x))
            found.append(readout(x))
        return found[::-1]

    def encoder_parts(self) -> Parts:
        fine, deep = self.net.embeddings[self.mode], self.net.pyramid_ct
        return [
            ("stem", [fine.proj, fine.conv0]),
            ("stage1", [fine.down1, fine.conv1]),
            ("stage2", [fine.down2, deep.convtrans_e2]),
            ("stage3", [deep.down3, deep.convtrans_e3]),
            ("stage4", [deep.down4, deep.convtrans_e4]),
        ]

    def decoder_parts(self) -> Parts:
        deep, head = self.net.pyramid_ct, self.net.pred_heads[self.mode]
        return [
            ("decoder0", [deep.up4, deep.convtrans_d3, deep.out_conv3]),
            ("decoder1", [deep.up3, deep.convtrans_d2, deep.out_conv2]),
            ("decoder2", [head.up2, head.conv1, head.out_conv1]),
            ("decoder3", [head.up1, head.conv0, head.out_conv0]),
        ]
