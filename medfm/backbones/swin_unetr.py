"""SwinUNETR (Hatamizadeh et al., arXiv 2201.01266; He et al., MICCAI 2023, for its second version), from MONAI.

A Swin Transformer with windows of 7 whose stages each begin with a residual convolution block, five residual blocks
that read its maps, and a convolutional decoder. It is the network of VoCo, in ``net`` under MONAI's own names. B
batch, S voxels an axis, F ``feature_size``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.networks.nets import SwinUNETR
from torch import Tensor

from medfm.backbones.volume_net import Parts, VolumeNet, remove
from medfm.types import ConfigError

HEADS = (3, 6, 12, 24)


class SwinUNETR3D(VolumeNet):
    """SwinUNETR in its second version. The pyramid is the five maps that VoCo averages and joins (``24 F`` numbers): the
    residual blocks' at strides 1, 2, 4, 8 and 32. Sizes are multiples of 32, at least 64 along one axis.
    """

    name, by_position = "swin_unetr", True

    def __init__(
        self,
        *,
        in_channels: int,
        input_size: Sequence[int],
        feature_size: int,
        rank: int = 3,
        decoder: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        self.check_rank(rank, input_size)
        if feature_size % 12:
            raise ConfigError(
                f"backbone.feature_size {feature_size} is no multiple of 12, as swin_unetr needs."
            )
        net: Any = SwinUNETR(
            in_channels,
            1,
            feature_size=feature_size,
            num_heads=HEADS,
            use_v2=True,
            dropout_path_rate=drop_path,
        )
        remove(net, ["out", *([] if decoder else [f"decoder{i}" for i in range(1, 6)])])
        f = feature_size
        super().__init__(
            net,
            rank=rank,
            in_channels=in_channels,
            input_size=input_size,
            decoder=decoder,
            widths=[f, f, 2 * f, 4 * f, 16 * f],
            strides=[1, 2, 4, 8, 32],
            dense=4,
            feature_size=feature_size,
            drop_path=drop_path,
        )
        self.dense_widths = (*self.dense_widths, 8 * f)
        self.dense_strides = (*self.dense_strides, (16,) * 3)

    def encode(self, x: Tensor) -> list[Tensor]:
        """The five maps, then the raw one of stride 16, which the decoder takes as it is."""
        net, swin = self.net, self.net.swinViT
        t = swin.pos_drop(swin.patch_embed(x))
        maps = [net.encoder1(x), net.encoder2(swin.proj_out(t, net.normalize))]
        for i, reader in enumerate((net.encoder3, net.encoder4, None, net.encoder10), 1):
            t = getattr(swin, f"layers{i}")[0](getattr(swin, f"layers{i}c")[0](t.contiguous()).contiguous())
            raw = swin.proj_out(t, net.normalize)
            maps.append(raw if reader is None else reader(raw))
        return [*maps[:4], maps[5], maps[4]]

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        *skips, x, raw = maps
        found, net = [], self.net
        for up, skip in zip(
            (net.decoder5, net.decoder4, net.decoder3, net.decoder2, net.decoder1), (raw, *skips[::-1])
        ):
            found.append(x := up(x, skip))
        return found[::-1]

    def encoder_parts(self) -> Parts:
        net, swin = self.net, self.net.swinViT
        readers: tuple[list[Any], ...] = ([net.encoder3], [net.encoder4], [], [net.encoder10])
        stages: Parts = [
            (f"stage{i}", [getattr(swin, f"layers{i}c"), getattr(swin, f"layers{i}"), *reader])
            for i, reader in enumerate(readers, 1)
        ]
        return [("stem", [swin.patch_embed, net.encoder1, net.encoder2]), *stages]

    def decoder_parts(self) -> Parts:
        return [(f"decoder{5 - i}", [getattr(self.net, f"decoder{i}")]) for i in range(5, 0, -1)]
