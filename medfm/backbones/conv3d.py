"""Networks for volumes from MONAI: SegResNet, ResNet, a plain U-Net and nnU-Net's, with or without their decoders.

The network stands in ``net`` under MONAI's own names, so ``backbone.net.state_dict()`` loads into MONAI's class; what
that class has besides is the last 1 x 1 x 1 convolution, whose place the head of a task takes. Its order of work
is written here, as MONAI's ``forward`` gives the classes alone. ``decoder=False`` leaves the decoder's parameters out.
B batch, C channels, S voxels an axis, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from monai.networks.nets import BasicUNet, DynUNet, ResNet, SegResNet
from torch import Tensor

from medfm.backbones.volume_net import Parts, VolumeNet, remove
from medfm.types import ConfigError


class SegResNet3D(VolumeNet):
    """SegResNet (Myronenko, arXiv 1810.11654): residual blocks with group norms, half the resolution and twice the width
    a stage; the decoder adds the encoder's maps. The dense map of full resolution has passed MONAI's last norm and ReLU.
    """

    name = "segresnet"

    def __init__(
        self,
        *,
        in_channels: int,
        input_size: Sequence[int],
        init_filters: int,
        blocks_down: Sequence[int],
        rank: int = 3,
        decoder: bool = False,
    ) -> None:
        self.check_rank(rank, input_size)
        if init_filters % 8 or len(blocks_down) < 2:
            raise ConfigError(
                "backbone.name segresnet needs init_filters in multiples of 8, the groups of its norms, and two stages "
                f"or more in blocks_down; not {init_filters} and {list(blocks_down)}."
            )
        levels = len(blocks_down)
        net: Any = SegResNet(
            spatial_dims=3,
            init_filters=init_filters,
            in_channels=in_channels,
            blocks_down=tuple(blocks_down),
            blocks_up=(1,) * (levels - 1),
        )
        if decoder:
            net.conv_final = net.conv_final[:2]
        else:
            remove(net, ("up_layers", "up_samples", "conv_final"))
        super().__init__(
            net,
            rank=rank,
            in_channels=in_channels,
            input_size=input_size,
            decoder=decoder,
            widths=[init_filters * 2**i for i in range(levels)],
            strides=[2**i for i in range(levels)],
            dense=levels - 1,
            init_filters=init_filters,
            blocks_down=tuple(blocks_down),
        )

    def encode(self, x: Tensor) -> list[Tensor]:
        x, maps = self.net.convInit(x), []
        for down in self.net.down_layers:
            maps.append(x := down(x))
        return maps

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        x, found = maps[-1], []
        for up, block, skip in zip(self.net.up_samples, self.net.up_layers, maps[-2::-1]):
            found.append(x := block(up(x) + skip))
        return [self.net.conv_final(x), *found[-2::-1]]

    def encoder_parts(self) -> Parts:
        stages = [(f"stage{i}", [down]) for i, down in enumerate(self.net.down_layers)]
        return [("stem", [self.net.convInit]), *stages]

    def decoder_parts(self) -> Parts:
        pairs = zip(self.net.up_samples, self.net.up_layers)
        parts: Parts = [(f"decoder{i}", [*pair]) for i, pair in enumerate(pairs)]
        parts[-1][1].append(self.net.conv_final)
        return parts


class ResNet3D(VolumeNet):
    """ResNet (He et al., arXiv 1512.03385) in three dimensions: a stem of stride 4, maps at strides 4 to 32.

    As MedicalNet has it (stride 2 in the first convolution). Shortcuts are projections in every depth: MONAI's other
    kind, of its ResNet-18, pads with zeros and lets no gradient through.
    """

    block: ClassVar[str]
    layers: ClassVar[tuple[int, ...]]

    def __init__(
        self, *, in_channels: int, input_size: Sequence[int], rank: int = 3, decoder: bool = False
    ) -> None:
        self.check_rank(rank, input_size)
        if decoder:
            raise ConfigError(
                f"backbone.name {self.name} has no decoder; for masks take backbone.name segresnet."
            )
        net: Any = ResNet(
            self.block,
            list(self.layers),
            [64, 128, 256, 512],
            spatial_dims=3,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )
        remove(net, ("avgpool",))
        super().__init__(
            net,
            rank=rank,
            in_channels=in_channels,
            input_size=input_size,
            decoder=False,
            widths=[(4 if self.block == "bottleneck" else 1) * w for w in (64, 128, 256, 512)],
            strides=[4, 8, 16, 32],
            dense=0,
        )

    def encode(self, x: Tensor) -> list[Tensor]:
        net, maps = self.net, []
        x = net.maxpool(net.act(net.bn1(net.conv1(x))))
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            maps.append(x := layer(x))
        return maps

    def encoder_parts(self) -> Parts:
        stages: Parts = [(f"stage{i}", [getattr(self.net, f"layer{i}")]) for i in range(1, 5)]
        return [("stem", [self.net.conv1, self.net.bn1]), *stages]


class ResNet3D10(ResNet3D):
    """ResNet-10 for volumes: 14.4 million parameters, width 512."""

    name, block, layers = "resnet3d_10", "basic", (1, 1, 1, 1)


class ResNet3D18(ResNet3D):
    """ResNet-18 for volumes: 33.2 million parameters, width 512."""

    name, block, layers = "resnet3d_18", "basic", (2, 2, 2, 2)


class ResNet3D50(ResNet3D):
    """ResNet-50 for volumes: 46.2 million parameters, width 2048."""

    name, block, layers = "resnet3d_50", "bottleneck", (3, 4, 6, 3)


class UNet3D(VolumeNet):
    """Plain U-Net (MONAI's BasicUNet, after Falk et al., 2019): two convolutions with instance norms a stage, four
    halvings by max pooling. ``features``: widths of the five stages, and of the finest decoder map. ``norm``: ``instance``,
    or ``batch``, which keeps how bright a volume is, as the U-Nets of Volume Fusion's authors have it.
    """

    name = "unet3d"

    def __init__(
        self,
        *,
        in_channels: int,
        input_size: Sequence[int],
        features: Sequence[int],
        rank: int = 3,
        decoder: bool = False,
        norm: str = "instance",
    ) -> None:
        self.by_position = norm == "instance"
        self.check_rank(rank, input_size)
        if len(features) != 6:
            raise ConfigError(f"backbone.features of unet3d are six widths, not {list(features)}.")
        kind = (norm, {"affine": True})
        net: Any = BasicUNet(spatial_dims=3, in_channels=in_channels, features=tuple(features), norm=kind)
        remove(net, ["final_conv", *([] if decoder else [f"upcat_{i}" for i in range(1, 5)])])
        super().__init__(
            net,
            rank=rank,
            in_channels=in_channels,
            input_size=input_size,
            decoder=decoder,
            widths=features[:5],
            strides=[1, 2, 4, 8, 16],
            dense=4,
            features=tuple(features),
            norm=norm,
        )
        self.dense_widths = (features[5], *self.dense_widths[1:])

    def encode(self, x: Tensor) -> list[Tensor]:
        maps = [x := self.net.conv_0(x)]
        for i in range(1, 5):
            maps.append(x := getattr(self.net, f"down_{i}")(x))
        return maps

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        x, found = maps[4], []
        for i in range(4, 0, -1):
            found.append(x := getattr(self.net, f"upcat_{i}")(x, maps[i - 1]))
        return found[::-1]

    def encoder_parts(self) -> Parts:
        stages: Parts = [(f"stage{i}", [getattr(self.net, f"down_{i}")]) for i in range(1, 5)]
        return [("stem", [self.net.conv_0]), *stages]

    def decoder_parts(self) -> Parts:
        return [(f"decoder{4 - i}", [getattr(self.net, f"upcat_{i}")]) for i in range(4, 0, -1)]


class DynUNet3D(VolumeNet):
    """nnU-Net's plain U-Net (Isensee et al., arXiv 1809.10486; MONAI's DynUNet): strided convolutions, instance norms,
    leaky ReLU. ``filters``: width of each stage. MONAI names every weight a second time, under ``skip_layers``; those
    names are left out here.
    """

    name, by_position = "dynunet", True

    def __init__(
        self,
        *,
        in_channels: int,
        input_size: Sequence[int],
        filters: Sequence[int],
        rank: int = 3,
        decoder: bool = False,
    ) -> None:
        self.check_rank(rank, input_size)
        levels = len(filters)
        if levels < 3:
            raise ConfigError(f"backbone.filters of dynunet are three widths or more, not {list(filters)}.")
        strides = [1] + [2] * (levels - 1)
        net: Any = DynUNet(3, in_channels, 1, [3] * levels, strides, strides[1:], list(filters))
        remove(net, ["skip_layers", "output_block", *([] if decoder else ["upsamples"])])
        super().__init__(
            net,
            rank=rank,
            in_channels=in_channels,
            input_size=input_size,
            decoder=decoder,
            widths=filters,
            strides=[2**i for i in range(levels)],
            dense=levels - 1,
            filters=tuple(filters),
        )

    def encode(self, x: Tensor) -> list[Tensor]:
        maps = [x := self.net.input_block(x)]
        for down in (*self.net.downsamples, self.net.bottleneck):
            maps.append(x := down(x))
        return maps

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        x, found = maps[-1], []
        for up, skip in zip(self.net.upsamples, maps[-2::-1]):
            found.append(x := up(x, skip))
        return found[::-1]

    def encoder_parts(self) -> Parts:
        stages: Parts = [
            (f"stage{i}", [down]) for i, down in enumerate((*self.net.downsamples, self.net.bottleneck), 1)
        ]
        return [("stem", [self.net.input_block]), *stages]

    def decoder_parts(self) -> Parts:
        return [(f"decoder{i}", [up]) for i, up in enumerate(self.net.upsamples)]
