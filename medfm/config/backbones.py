"""Backbone settings and their name table. ``size`` names a preset; explicit fields win over it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from medfm.config.base import Entry, Settings

# width, depth, heads. xs, s and b are the sizes of ECG-JEPA (arXiv 2410.13867); quick is ours, for a CPU.
VIT_SIZES: dict[str, tuple[int, int, int]] = {
    "quick": (64, 4, 4),
    "xs": (192, 8, 4),
    "s": (384, 8, 6),
    "b": (768, 12, 12),
}

# First width, residual blocks a stage; s and b have MONAI's stages.
SEGRESNET_SIZES: dict[str, tuple[int, tuple[int, ...]]] = {
    "quick": (8, (1, 1, 1, 1)),
    "s": (16, (1, 2, 2, 4)),
    "b": (32, (1, 2, 2, 4)),
}
# b, l and h are VoCo's.
SWIN_UNETR_SIZES: dict[str, int] = {"quick": 12, "s": 24, "b": 48, "l": 96, "h": 192}
UNET3D_SIZES: dict[str, tuple[int, ...]] = {
    "quick": (8, 8, 16, 32, 64, 8),
    "s": (16, 16, 32, 64, 128, 16),
    "b": (32, 32, 64, 128, 256, 32),
}
# b is nnU-Net's own for volumes.
DYNUNET_SIZES: dict[str, tuple[int, ...]] = {
    "quick": (8, 16, 32, 64),
    "s": (16, 32, 64, 128, 256),
    "b": (32, 64, 128, 256, 320, 320),
}
# Width, depth, heads, MLP; then width, depth, heads of the decoder. b is BM-MAE's (arXiv 2505.00568), the others are ours.
SEQUENCE_VIT_SIZES: dict[str, tuple[int, ...]] = {
    "quick": (96, 4, 4, 192, 48, 2, 4),
    "xs": (192, 6, 4, 384, 96, 2, 4),
    "s": (384, 8, 6, 768, 192, 2, 6),
    "b": (768, 12, 12, 1536, 384, 3, 12),
}
# b is the paper's.
PCT_NET_SIZES: dict[str, tuple[int, ...]] = {"quick": (8, 16, 32, 64, 128), "b": (24, 48, 128, 256, 512)}


class ViTSettings(Settings):
    """Vision Transformer of any rank; defaults are ECG-JEPA's (no bias, one register, fixed sine positions)."""

    derived: ClassVar[dict[str, tuple[str, ...]]] = {"size": ("dim", "depth", "heads")}
    name: Literal["vit"] = "vit"
    size: Literal["quick", "xs", "s", "b"] | None = "xs"
    dim: int | None = Field(None, gt=0)
    depth: int | None = Field(None, gt=0)
    heads: int | None = Field(None, gt=0)
    patch: tuple[int, ...] = (25,)
    mlp_ratio: float = Field(4.0, gt=0)
    bias: bool = False
    registers: int = Field(1, ge=0)
    drop_path: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _resolve(self) -> ViTSettings:
        width, depth, heads = VIT_SIZES[self.size] if self.size else (None, None, None)
        resolved = {"dim": self.dim or width, "depth": self.depth or depth, "heads": self.heads or heads}
        if missing := [k for k, v in resolved.items() if v is None]:
            raise ValueError(f"without backbone.size, set {', '.join(missing)}")
        if resolved["dim"] % resolved["heads"]:  # type: ignore[operator]
            raise ValueError(f"dim {resolved['dim']} is not divisible by heads {resolved['heads']}")
        self.__dict__.update(resolved)
        return self


class ImageSettings(Settings):
    """A network of timm for images; its architecture is its name."""

    weights: str | None = Field(
        None, description="local file to start from (timm's or torchvision's names); never fetched"
    )


class DenseNet121Settings(ImageSettings):
    """DenseNet-121 (arXiv 1608.06993), the usual network of the radiograph literature."""

    name: Literal["densenet121"] = "densenet121"


class DropPathSettings(ImageSettings):
    """A network of timm whose residual branches can be dropped while training."""

    drop_path: float = Field(0.0, ge=0, lt=1)


class RegNetX002Settings(DropPathSettings):
    """RegNetX-200MF (arXiv 2003.13678), the smallest; for a CPU."""

    name: Literal["regnetx_002"] = "regnetx_002"


class ResNet18Settings(DropPathSettings):
    """ResNet-18 (arXiv 1512.03385), for a CPU."""

    name: Literal["resnet18"] = "resnet18"


class ResNet50Settings(DropPathSettings):
    """ResNet-50 (arXiv 1512.03385)."""

    name: Literal["resnet50"] = "resnet50"


class ConvNeXtTinySettings(DropPathSettings):
    """ConvNeXt-T (arXiv 2201.03545)."""

    name: Literal["convnext_tiny"] = "convnext_tiny"


class ViTTinySettings(DropPathSettings):
    """timm's ViT-Ti/16."""

    name: Literal["vit_tiny_patch16_224"] = "vit_tiny_patch16_224"


class ViTSmallSettings(DropPathSettings):
    """timm's ViT-S/16."""

    name: Literal["vit_small_patch16_224"] = "vit_small_patch16_224"


class ViTBaseSettings(DropPathSettings):
    """timm's ViT-B/16."""

    name: Literal["vit_base_patch16_224"] = "vit_base_patch16_224"


class VolumeSettings(Settings):
    """A network of MONAI for volumes, with or without its decoder."""

    decoder: bool = Field(
        False, description="build the decoder too, for masks; without it, the encoder alone"
    )

    def _fill(self, **presets: object) -> None:
        """What the size stands for, where it is not given; without a size, all must be."""
        resolved = {k: v if getattr(self, k) is None else getattr(self, k) for k, v in presets.items()}
        if missing := [k for k, v in resolved.items() if v is None]:
            raise ValueError(f"without backbone.size, set {', '.join(missing)}")
        self.__dict__.update(resolved)


class SegResNetSettings(VolumeSettings):
    """SegResNet (arXiv 1810.11654); its quick size is for a CPU."""

    derived: ClassVar[dict[str, tuple[str, ...]]] = {"size": ("init_filters", "blocks_down")}
    name: Literal["segresnet"] = "segresnet"
    size: Literal["quick", "s", "b"] | None = "s"
    init_filters: int | None = Field(None, gt=0, multiple_of=8, description="width of the first stage")
    blocks_down: tuple[int, ...] | None = Field(
        None, min_length=2, description="residual blocks of each stage"
    )

    @model_validator(mode="after")
    def _resolve(self) -> SegResNetSettings:
        filters, blocks = SEGRESNET_SIZES[self.size] if self.size else (None, None)
        self._fill(init_filters=filters, blocks_down=blocks)
        return self


class ResNet3DSettings(VolumeSettings):
    """A ResNet for volumes; it has no decoder."""

    @field_validator("decoder")
    @classmethod
    def _none(cls, value: bool) -> bool:
        if value:
            raise ValueError("a ResNet has no decoder; for masks take backbone.name segresnet")
        return value


class ResNet3D10Settings(ResNet3DSettings):
    """ResNet-10 for volumes."""

    name: Literal["resnet3d_10"] = "resnet3d_10"


class ResNet3D18Settings(ResNet3DSettings):
    """ResNet-18 for volumes."""

    name: Literal["resnet3d_18"] = "resnet3d_18"


class ResNet3D50Settings(ResNet3DSettings):
    """ResNet-50 for volumes."""

    name: Literal["resnet3d_50"] = "resnet3d_50"


class SwinUNETRSettings(VolumeSettings):
    """SwinUNETR, second version (arXiv 2201.01266); sizes b, l and h are VoCo's."""

    derived: ClassVar[dict[str, tuple[str, ...]]] = {"size": ("feature_size",)}
    name: Literal["swin_unetr"] = "swin_unetr"
    size: Literal["quick", "s", "b", "l", "h"] | None = "b"
    feature_size: int | None = Field(
        None, gt=0, multiple_of=12, description="width of the tokens; multiples of 12"
    )
    drop_path: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _resolve(self) -> SwinUNETRSettings:
        self._fill(feature_size=SWIN_UNETR_SIZES[self.size] if self.size else None)
        return self


class UNet3DSettings(VolumeSettings):
    """A plain U-Net for volumes."""

    derived: ClassVar[dict[str, tuple[str, ...]]] = {"size": ("features",)}
    name: Literal["unet3d"] = "unet3d"
    size: Literal["quick", "s", "b"] | None = "s"
    features: tuple[int, int, int, int, int, int] | None = Field(
        None, description="widths of the five stages, and of the decoder's finest map"
    )
    norm: Literal["instance", "batch"] = Field(
        "instance", description="batch keeps how bright a volume is, as in Volume Fusion's own networks"
    )

    @model_validator(mode="after")
    def _resolve(self) -> UNet3DSettings:
        self._fill(features=UNET3D_SIZES[self.size] if self.size else None)
        return self


class DynUNetSettings(VolumeSettings):
    """nnU-Net's plain U-Net (arXiv 1809.10486)."""

    derived: ClassVar[dict[str, tuple[str, ...]]] = {"size": ("filters",)}
    name: Literal["dynunet"] = "dynunet"
    size: Literal["quick", "s", "b"] | None = "s"
    filters: tuple[int, ...] | None = Field(None, min_length=3, description="width of each stage")

    @model_validator(mode="after")
    def _resolve(self) -> DynUNetSettings:
        self._fill(filters=DYNUNET_SIZES[self.size] if self.size else None)
        return self


class PCTNetSettings(VolumeSettings):
    """PCT-Net (arXiv 2306.16925): convolutions and windows of attention side by side; built for one input size."""

    derived: ClassVar[dict[str, tuple[str, ...]]] = {"size": ("channels",)}
    name: Literal["pct_net"] = "pct_net"
    size: Literal["quick", "b"] | None = "b"
    channels: tuple[int, int, int, int, int] | None = Field(None, description="width of each level")
    depths: tuple[int, int, int] = Field((2, 2, 2), description="attention blocks of the three deep levels")
    heads: tuple[int, int, int] = (4, 8, 16)
    windows: tuple[int, int, int] = Field((6, 6, 6), description="edge of the attention windows")
    mlp_ratio: float = Field(4.0, gt=0)
    resolution_mode: Literal[0, 1, 2] = Field(
        0, description="first axis as fine as the others (0), coarser (1) or much coarser (2)"
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="of the three deep levels")
    drop_path: float = Field(0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _resolve(self) -> PCTNetSettings:
        self._fill(channels=PCT_NET_SIZES[self.size] if self.size else None)
        if self.channels and (wrong := [(c, h) for c, h in zip(self.channels[2:], self.heads) if c % h]):
            raise ValueError(f"channels {wrong[0][0]} is not divisible by heads {wrong[0][1]}")
        return self


class SequenceViTSettings(Settings):
    """Vision Transformer over several sequences, any of which may be missing (BM-MAE, arXiv 2505.00568)."""

    derived: ClassVar[dict[str, tuple[str, ...]]] = {
        "size": ("dim", "depth", "heads", "mlp_dim", "decoder_dim", "decoder_depth", "decoder_heads")
    }
    name: Literal["sequence_vit"] = "sequence_vit"
    size: Literal["quick", "xs", "s", "b"] | None = "s"
    dim: int | None = Field(None, gt=0)
    depth: int | None = Field(None, gt=0)
    heads: int | None = Field(None, gt=0)
    mlp_dim: int | None = Field(None, gt=0)
    patch: tuple[int, ...] = Field((16, 16, 16), description="voxels an axis; may differ between axes")
    pool: Literal["class", "mean"] = Field(
        "class", description="what stands for a subject: class token or mean"
    )
    drop_path: float = Field(0.0, ge=0, lt=1)
    decoder: Literal["none", "reconstruction", "masks"] = Field(
        "none", description="of values, which bm_mae trains; of masks (UNETR's); or none"
    )
    decoder_dim: int | None = Field(None, gt=0, description="width of the decoder of values")
    decoder_depth: int | None = Field(None, gt=0)
    decoder_heads: int | None = Field(None, gt=0)
    decoder_mlp_dim: int | None = Field(None, gt=0, description="None: four times decoder_dim")
    features: int = Field(16, gt=0, description="width of the finest map of the decoder of masks")
    position_base: float = Field(
        10_000.0,
        gt=1,
        description="longest wave of the positions, in patches / 2 pi; the paper's hardly varies over few",
    )

    @model_validator(mode="after")
    def _resolve(self) -> SequenceViTSettings:
        names = self.derived["size"]
        values = SEQUENCE_VIT_SIZES[self.size] if self.size else (None,) * len(names)
        resolved: dict[str, Any] = {k: getattr(self, k) or v for k, v in zip(names, values)}
        if missing := [k for k, v in resolved.items() if v is None]:
            raise ValueError(f"without backbone.size, set {', '.join(missing)}")
        for prefix in ("", "decoder_"):
            dim, heads = resolved[f"{prefix}dim"], resolved[f"{prefix}heads"]
            if dim % heads:
                raise ValueError(f"{prefix}dim {dim} is not divisible by {prefix}heads {heads}")
        self.__dict__.update(resolved)
        return self


BACKBONES: dict[str, Entry] = {
    "vit": Entry(ViTSettings, "medfm.backbones.vit:ViT"),
    "regnetx_002": Entry(RegNetX002Settings, "medfm.backbones.image2d:RegNetX002"),
    "resnet18": Entry(ResNet18Settings, "medfm.backbones.image2d:ResNet18"),
    "resnet50": Entry(ResNet50Settings, "medfm.backbones.image2d:ResNet50"),
    "densenet121": Entry(DenseNet121Settings, "medfm.backbones.image2d:DenseNet121"),
    "convnext_tiny": Entry(ConvNeXtTinySettings, "medfm.backbones.image2d:ConvNeXtTiny"),
    "vit_tiny_patch16_224": Entry(ViTTinySettings, "medfm.backbones.image2d:ViTTiny"),
    "vit_small_patch16_224": Entry(ViTSmallSettings, "medfm.backbones.image2d:ViTSmall"),
    "vit_base_patch16_224": Entry(ViTBaseSettings, "medfm.backbones.image2d:ViTBase"),
    "segresnet": Entry(SegResNetSettings, "medfm.backbones.conv3d:SegResNet3D"),
    "resnet3d_10": Entry(ResNet3D10Settings, "medfm.backbones.conv3d:ResNet3D10"),
    "resnet3d_18": Entry(ResNet3D18Settings, "medfm.backbones.conv3d:ResNet3D18"),
    "resnet3d_50": Entry(ResNet3D50Settings, "medfm.backbones.conv3d:ResNet3D50"),
    "swin_unetr": Entry(SwinUNETRSettings, "medfm.backbones.swin_unetr:SwinUNETR3D"),
    "unet3d": Entry(UNet3DSettings, "medfm.backbones.conv3d:UNet3D"),
    "dynunet": Entry(DynUNetSettings, "medfm.backbones.conv3d:DynUNet3D"),
    "sequence_vit": Entry(SequenceViTSettings, "medfm.backbones.sequence_vit:SequenceViT"),
    "pct_net": Entry(PCTNetSettings, "medfm.backbones.pct_net:PCTNet"),
}
