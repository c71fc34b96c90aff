"""Backbone settings and their name table. ``size`` names a preset; explicit fields win over it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from medfm.config.base import Entry, Settings

# width, depth, heads. xs, s and b are the sizes of ECG-JEPA (arXiv 2410.13867); quick is ours, for a CPU.
VIT_SIZES: dict[str, tuple[int, int, int]] = {
    "quick": (64, 4, 4),
    "xs": (192, 8, 4),
    "s": (384, 8, 6),
    "b": (768, 12, 12),
}


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
}
