"""Networks for images from timm: convolutional ones as timm has them, Vision Transformers as the project's own ViT.

A convolutional network stands in ``net`` under timm's own names, so ``backbone.net.state_dict()`` loads into timm. Its
classifier is left out, and with it ConvNeXt's last norm, which no feature map passes. Weights come from a file that
the user names and never from the network. B batch, C channels, H x W pixels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import timm
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv, group_parameters, load_state_dict
from torch import Tensor, nn

from medfm.backbones.base import Backbone
from medfm.backbones.patches import silenced
from medfm.backbones.vit import ViT
from medfm.types import ConfigError, Features


def local_weights(path: str | Path, arch: str, expected: dict[str, Tensor], stem: str) -> dict[str, Tensor]:
    """What a file of timm's or torchvision's holds for the names of ``expected``; tensors only, nothing is run.

    The ``stem`` weight is fitted to another number of channels: one channel takes the sum of the RGB filters, so
    that a grey image gives what its three equal channels would have. Raises :class:`ConfigError` when the file is
    missing, unreadable or of another network.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ConfigError(f"backbone.weights: {path} does not exist; give a file that is on this machine.")
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # many kinds: broken archive, foreign format, forbidden object
        raise ConfigError(
            f"backbone.weights: {path.name} cannot be read as tensors alone; save its state dict as .safetensors."
        ) from error
    # Files from before 2018 lack this counter, which nothing here reads.
    wanted = [k for k in expected if not k.endswith("num_batches_tracked")]
    if missing := [k for k in wanted if k not in state]:
        raise ConfigError(
            f"backbone.weights: {path.name} does not hold {arch} in timm's names: {missing[0]} and "
            f"{len(missing) - 1} more are missing."
        )
    state = {k: state.get(k, v) for k, v in expected.items()}
    state[stem] = adapt_input_conv(expected[stem].shape[1], state[stem])
    if "pos_embed" in state and state["pos_embed"].shape[1] != expected["pos_embed"].shape[1]:
        side = round((expected["pos_embed"].shape[1] - 1) ** 0.5)
        state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [side, side])
    if wrong := [k for k, v in expected.items() if v.shape != state[k].shape]:
        raise ConfigError(
            f"backbone.weights: {path.name} does not fit {arch}: {wrong[0]} is {list(state[wrong[0]].shape)} and "
            f"not {list(expected[wrong[0]].shape)}."
        )
    return state


class TimmCNN(Backbone):
    """A convolutional network of timm with the capability ``Pyramid``: maps at strides 4 to 32, and ``pooled`` the
    mean of the coarsest, ``[B, D]``.

    ``weights``: a local file to start from; it is no part of :meth:`config`, which rebuilds the architecture.
    """

    arch: ClassVar[str]
    net: Any

    def __init__(
        self,
        *,
        in_channels: int,
        input_size: Sequence[int],
        rank: int = 2,
        drop_path: float = 0.0,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if rank != 2 or len(input_size) != 2:
            raise ConfigError(
                f"backbone.name {self.arch} is for images; for other records take backbone.name vit."
            )
        self.rank, self.in_channels, self.drop_path = rank, in_channels, drop_path
        self.input_size = tuple(input_size)
        options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        net: Any = timm.create_model(
            self.arch, pretrained=False, in_chans=in_channels, num_classes=0, **options
        )
        info = list(net.feature_info)
        self._taken = [i for i, f in enumerate(info) if f["reduction"] >= 4]
        net.prune_intermediate_layers(self._taken, prune_head=True)
        self.net = net
        self.widths = tuple(info[i]["num_chs"] for i in self._taken)
        self.strides = tuple((info[i]["reduction"],) * rank for i in self._taken)
        self.dim = self.widths[-1]
        if weights:
            stem = f"{self.net.pretrained_cfg['first_conv']}.weight"
            self.net.load_state_dict(local_weights(weights, self.arch, self.net.state_dict(), stem))

    def forward(self, x: Tensor, present: Tensor | None = None) -> Features:
        """``x [B, C, H, W]`` to four maps, fine to coarse, and the mean of the last."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ConfigError(
                f"this backbone takes [batch, {self.in_channels} channels, 2 axes], not {list(x.shape)}."
            )
        maps = self.pyramid(silenced(x, present))
        return Features(maps, maps[-1].mean((2, 3)))

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps ``[B, widths[i], H / strides[i], W / strides[i]]`` (sizes rounded up)."""
        return tuple(self.net.forward_intermediates(x, indices=self._taken, intermediates_only=True))

    def groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Stem, then each stage; a last norm belongs to the last stage."""
        named = dict(self.net.named_parameters())
        layers = group_parameters(self.net, self.net.group_matcher(coarse=True))
        stages = [[named[n] for n in layers[key]] for key in sorted(layers)]
        top = len(self._taken) + 1
        stages = [*stages[: top - 1], [p for stage in stages[top - 1 :] for p in stage]]
        return [(f"stage{i}" if i else "stem", stage) for i, stage in enumerate(stages)]

    @property
    def adapter_targets(self) -> list[str]:
        """Dense convolutions and Linear layers of the stages: not the stem, and no convolution by groups, which
        low-rank adapters do not fit.
        """
        stem = {id(p) for p in self.groups()[0][1]}
        return [
            name
            for name, part in self.named_modules()
            if isinstance(part, nn.Linear | nn.Conv2d)
            and id(part.weight) not in stem
            and getattr(part, "groups", 1) == 1
        ]

    def config(self) -> dict[str, Any]:
        config = {"name": self.arch, "rank": self.rank, "in_channels": self.in_channels}
        drop = {"drop_path": self.drop_path} if self.drop_path else {}
        return {**config, "input_size": list(self.input_size), **drop}


class ResNet18(TimmCNN):
    """ResNet-18 (He et al., arXiv 1512.03385): 11.2 million parameters, width 512."""

    arch = "resnet18"


class ResNet50(TimmCNN):
    """ResNet-50 (He et al., arXiv 1512.03385): 23.5 million parameters, width 2048."""

    arch = "resnet50"


class RegNetX002(TimmCNN):
    """RegNetX-200MF (Radosavovic et al., arXiv 2003.13678): 2.3 million parameters, width 368; a ninth of ResNet-18's
    arithmetic.
    """

    arch = "regnetx_002"


class DenseNet121(TimmCNN):
    """DenseNet-121 (Huang et al., arXiv 1608.06993): 6.9 million parameters, width 1024."""

    arch = "densenet121"


class ConvNeXtTiny(TimmCNN):
    """ConvNeXt-T (Liu et al., arXiv 2201.03545): 27.8 million parameters, width 768."""

    arch = "convnext_tiny"


class TimmViT(ViT):
    """timm's Vision Transformer with patches of 16 pixels, built as the project's :class:`ViT`: class token, learned
    positions, biases. Names and shapes are timm's, so weights go both ways; :meth:`config` says ``vit``.
    """

    arch: ClassVar[str]
    shape: ClassVar[tuple[int, int, int]]

    def __init__(
        self,
        *,
        in_channels: int,
        input_size: Sequence[int],
        rank: int = 2,
        drop_path: float = 0.0,
        weights: str | None = None,
    ) -> None:
        if rank != 2:
            raise ConfigError(
                f"backbone.name {self.arch} is for images; for other records take backbone.name vit."
            )
        dim, depth, heads = self.shape
        super().__init__(
            rank=rank,
            in_channels=in_channels,
            input_size=input_size,
            patch=(16, 16),
            dim=dim,
            depth=depth,
            heads=heads,
            bias=True,
            class_token=True,
            positions="learned",
            drop_path=drop_path,
        )
        if weights:
            self.load_state_dict(
                local_weights(weights, self.arch, self.state_dict(), "patch_embed.proj.weight")
            )


class ViTTiny(TimmViT):
    """ViT-Ti/16: width 192, 12 blocks, 3 heads."""

    arch, shape = "vit_tiny_patch16_224", (192, 12, 3)


class ViTSmall(TimmViT):
    """ViT-S/16: width 384, 12 blocks, 6 heads."""

    arch, shape = "vit_small_patch16_224", (384, 12, 6)


class ViTBase(TimmViT):
    """ViT-B/16: width 768, 12 blocks, 12 heads."""

    arch, shape = "vit_base_patch16_224", (768, 12, 12)
