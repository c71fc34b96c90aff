"""Self-supervised methods: typed settings and their name table. One method costs one line here."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from medfm.config.base import Entry, Settings


class ECGJEPASettings(Settings):
    """ECG-JEPA (Weimann and Conrad, arXiv 2410.13867). Defaults are the paper's."""

    name: Literal["ecg_jepa"] = "ecg_jepa"
    keep: tuple[float, float] = Field(
        (0.15, 0.25), description="range of the visible share, drawn once a batch"
    )
    min_block: int | None = Field(
        None, description="shortest masked run, tokens; None: a twentieth of the record (10 of 200)"
    )
    predictor_dim: int | None = Field(None, description="None: half of the encoder's width")
    predictor_depth: int | None = Field(None, description="None: the encoder's depth")
    predictor_heads: int | None = Field(None, description="None: the encoder's heads")
    momentum: tuple[float, float] = Field(
        (0.998, 0.9995), description="EMA momentum, first and last step, linear"
    )
    truths: float = Field(
        0.0,
        ge=0,
        description="weight of learning what the simulator knows, on simulated records; 0 is the paper",
    )
    truths_keep: float = Field(
        0.5, gt=0, le=1, description="share of the tokens, drawn at random, that the truths are read from"
    )
    augment: tuple[str, ...] = Field(
        (), description="label-safe augmentations of the modality; the paper uses none"
    )


# Width, depth, heads of the decoders of the official medical MAE: light with ViT-S, full with ViT-B.
MAE_DECODERS: dict[str, tuple[int, int, int]] = {"light": (512, 2, 16), "full": (512, 8, 16)}


class MAESettings(Settings):
    """Masked autoencoder (He et al., arXiv 2111.06377). Defaults are those for radiographs (Xiao et al., arXiv
    2210.12843, with a ViT-S)."""

    derived: ClassVar[dict[str, tuple[str, ...]]] = {
        "decoder": ("decoder_dim", "decoder_depth", "decoder_heads")
    }
    name: Literal["mae"] = "mae"
    mask: float = Field(
        0.9, gt=0, lt=1, description="share of the patches hidden; 0.75 is usual for photographs"
    )
    norm_patches: bool = Field(
        False, description="predict each patch normalised by its own mean and deviation"
    )
    decoder: Literal["light", "full"] | None = Field(
        "light", description="light: 2 blocks, with ViT-S; full: 8 blocks, with ViT-B; both of width 512"
    )
    decoder_dim: int | None = Field(None, gt=0)
    decoder_depth: int | None = Field(None, gt=0)
    decoder_heads: int | None = Field(None, gt=0)
    truths: float = Field(
        0.0,
        ge=0,
        description="weight of learning what the simulator knows, on simulated records; 0 is the paper",
    )
    truths_keep: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the patches, drawn anew, that the truths are read from; None: those that are visible anyway",
    )
    augment: tuple[str, ...] = Field((), description="label-safe augmentations of the modality")

    @model_validator(mode="after")
    def _resolve(self) -> MAESettings:
        dim, depth, heads = MAE_DECODERS[self.decoder] if self.decoder else (None, None, None)
        resolved = {
            "decoder_dim": self.decoder_dim or dim,
            "decoder_depth": self.decoder_depth or depth,
            "decoder_heads": self.decoder_heads or heads,
        }
        if missing := [k for k, v in resolved.items() if v is None]:
            raise ValueError(f"without method.decoder, set {', '.join(missing)}")
        if resolved["decoder_dim"] % resolved["decoder_heads"]:  # type: ignore[operator]
            raise ValueError("decoder_dim is not divisible by decoder_heads")
        self.__dict__.update(resolved)
        return self


class SparKSettings(Settings):
    """SparK (Tian et al., arXiv 2301.03580): masked modelling for convolutional networks. Defaults are the paper's."""

    name: Literal["spark"] = "spark"
    mask: float = Field(
        0.6, gt=0, lt=1, description="share of the cells hidden; a cell is as large as the total stride"
    )
    decoder_dim: int = Field(768, ge=8, description="width at the coarsest map; each finer one has half")
    truths: float = Field(
        0.0,
        ge=0,
        description="weight of learning what the simulator knows, on simulated records; 0 is the paper",
    )
    truths_keep: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the cells, drawn anew, that the truths are read from; 1: whole records, as in use; None: "
        "those that are visible anyway",
    )
    augment: tuple[str, ...] = Field((), description="label-safe augmentations of the modality")


Share = Annotated[float, Field(ge=0, le=1)]


class MoCoSettings(Settings):
    """Momentum contrast. Defaults are those of MoCo v3 with a ViT (Chen, Xie and He, arXiv 2104.02057), views aside."""

    name: Literal["moco"] = "moco"
    queue: int = Field(
        0,
        ge=0,
        description="keys of past steps to compare with, and no batch norm in the heads (v2: 65536); 0: the other "
        "records of the batch, and batch norm (v3)",
    )
    projector: tuple[PositiveInt, ...] = Field(
        (4096, 4096, 256), min_length=1, description="widths of its layers; v2: the backbone's width, 128"
    )
    predictor: tuple[PositiveInt, ...] = Field((4096, 256), description="widths of its layers; [] is none")
    temperature: float = Field(0.2, gt=0)
    momentum: tuple[Share, Share] = Field(
        (0.99, 1.0), description="of the key network, first and last step, half a cosine; v2: [.999, .999]"
    )
    augment: tuple[str, ...] = Field(
        ("crop", "rotation", "contrast", "gamma", "blur", "noise"),
        min_length=1,
        description="augmentations of the modality in which two views of a record differ; these are a radiograph's",
    )

    @model_validator(mode="after")
    def _widths(self) -> MoCoSettings:
        if self.predictor and self.predictor[-1] != self.projector[-1]:
            raise ValueError(
                f"predictor ends with {self.predictor[-1]} and projector with {self.projector[-1]}: queries and keys are "
                "to be of one width"
            )
        return self

    def refuse(self, batch_size: int) -> str:
        """Why batches of this size cannot be learned from; empty where they can."""
        if not self.queue and batch_size < 2:
            return (
                "trainer.batch_size=1 leaves method moco no other record to tell this one from; set 2 or more, or "
                "method.queue"
            )
        if self.queue and self.queue < 2 * batch_size:
            return (
                f"method.queue={self.queue} does not hold the {2 * batch_size} keys of one step; raise it, or lower "
                "trainer.batch_size"
            )
        return ""


METHODS: dict[str, Entry] = {
    "ecg_jepa": Entry(ECGJEPASettings, "medfm.pretraining.ecg_jepa:ECGJEPA"),
    "mae": Entry(MAESettings, "medfm.pretraining.mae:MAE"),
    "spark": Entry(SparKSettings, "medfm.pretraining.spark:SparK"),
    "moco": Entry(MoCoSettings, "medfm.pretraining.moco:MoCo"),
}
