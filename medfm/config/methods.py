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
Positive = Annotated[float, Field(gt=0)]


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


Three = tuple[PositiveInt, PositiveInt, PositiveInt]


class VoCoSettings(Settings):
    """Volume contrast (Wu, Zhuang and Chen, CVPR 2024). Defaults are those of its second version, but for ``floor``."""

    name: Literal["voco"] = "voco"
    grid: Three = Field(
        (3, 3, 1),
        description="base crops along each axis; the paper has 4, 4, 1. With 1 at the end overlaps are areas in plane, "
        "with more they are volumes",
    )
    crop: Three | None = Field(
        None, description="voxels an axis of a crop as the network gets it; None: the modality's size"
    )
    cut: Three | None = Field(
        None,
        description="voxels an axis of a crop in the volume, resized to crop (the first version: 96 to 64); None: crop",
    )
    crops: PositiveInt = Field(2, description="random crops a volume")
    form: Literal["paper", "v1", "v2"] = Field("v2", description="of the loss, see medfm/pretraining/voco.py")
    floor: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="-log(v) goes on as its tangent below this v, and so never exceeds 1 - log(floor); 1e-6 is close to the "
        "official loss",
    )
    teacher: Literal["none", "full", "head"] = Field(
        "head",
        description="moving average of the whole network (first version), of the projector alone, or none (paper)",
    )
    momentum: Share = Field(0.9, description="of the teacher")
    inter: bool = Field(
        True,
        description="also learn the similarity of a crop to the next volume's base crops from the teacher",
    )
    regulariser: Literal["squared", "linear"] = Field(
        "squared", description="how base crops are pushed apart; the paper: linear"
    )
    projector: tuple[PositiveInt, ...] = Field(
        (1024, 1024, 1024), min_length=1, description="widths of its layers; paper and first version: 2048"
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="of the features that the student's projector gets")
    flip: Share = Field(0.2, description="how often a crop is mirrored along an axis")
    rotate: Share = Field(0.2, description="how often a crop is turned in plane by 90, 180 or 270 degrees")
    shift: Share = Field(
        0.5, description="how often 0.1 or less is added to or taken from a crop's values; first version: 0.1"
    )
    augment: tuple[str, ...] = Field(
        (), description="augmentations of the modality, of the window as a whole"
    )

    @model_validator(mode="after")
    def _possible(self) -> VoCoSettings:
        if self.grid[0] * self.grid[1] * self.grid[2] < 2:
            raise ValueError(
                "grid makes one base crop: give two or more along an axis, or there is no place to find"
            )
        if self.inter and self.teacher == "none":
            raise ValueError("inter learns from the teacher: set teacher to head or full, or inter to false")
        return self

    def refuse(self, batch_size: int) -> str:
        """Why batches of this size cannot be learned from; empty where they can."""
        if self.inter and batch_size < 2:
            return (
                "trainer.batch_size=1 leaves method voco no other volume to compare with; set 2 or more, or "
                "method.inter=false"
            )
        return ""


class VolumeFusionSettings(Settings):
    """Volume Fusion (Wang et al., arXiv 2306.16925). Defaults are those of the authors' code of 2025."""

    name: Literal["volume_fusion"] = "volume_fusion"
    levels: int = Field(4, ge=1, le=32, description="K: shares of the foreground are 0, 1/K, .., 1")
    crop: Three | None = Field(
        None, description="voxels an axis of what the network gets; None: the modality's size"
    )
    patches: Literal["2023", "current"] = Field(
        "current", description="boxes painted over each other (paper), or one regular grid a sample"
    )
    block: tuple[PositiveInt, PositiveInt] = Field(
        (8, 32), description="smallest and largest edge of the grid's blocks, voxels; of patches=current"
    )
    pairs: Literal["volumes", "same"] = Field(
        "same", description="fused are two volumes of the batch (paper), or two windows of one volume"
    )
    zoom: tuple[Positive, Positive] = Field(
        (0.7, 1.5), description="range by which each window is enlarged; [1, 1] is off and reads the least"
    )
    flip: Share = Field(0.5, description="how often a window is mirrored along an axis")
    contrast: bool = Field(
        True, description="stretch each window between two of its percentiles, and draw a gamma"
    )
    deep_supervision: bool = Field(
        False,
        description="segment the decoder's coarser maps too, each with half the weight of the finer one",
    )
    invert: Share = Field(0.25, description="how often a fused volume is made its negative, 1 - x")
    augment: tuple[str, ...] = Field((), description="augmentations of the modality, before all of these")

    @model_validator(mode="after")
    def _ranges(self) -> VolumeFusionSettings:
        for name, (low, high) in (("block", self.block), ("zoom", self.zoom)):
            if low > high:
                raise ValueError(f"{name}: give the smaller number first")
        return self

    def refuse(self, batch_size: int) -> str:
        """Why batches of this size cannot be learned from; empty where they can."""
        if self.pairs == "volumes" and batch_size < 2:
            return (
                "trainer.batch_size=1 leaves method volume_fusion no second volume to fuse; set 2 or more, or "
                "method.pairs=same"
            )
        return ""


class BMMAESettings(Settings):
    """BM-MAE (Robinet et al., arXiv 2505.00568): a masked autoencoder over sequences. Defaults are the paper's, but for
    ``drop_sequence``."""

    name: Literal["bm_mae"] = "bm_mae"
    mask: float = Field(
        0.75, gt=0, lt=1, description="share of the patches of all sequences of a subject hidden"
    )
    drop_sequence: Share = Field(
        0.25, description="how often one or more whole sequences of a subject are hidden; 0 is the paper"
    )
    synthesise: Share = Field(
        0.0,
        description="how often a batch hides one whole sequence of each subject and shows all of the others; 0 is the paper",
    )
    norm_patches: bool = Field(
        False, description="predict each patch normalised by its own mean and deviation"
    )
    background: Literal["all", "brain"] = Field(
        "all", description="draw from all patches (paper), or from those whose values are not all equal"
    )
    augment: tuple[str, ...] = Field((), description="label-safe augmentations of the modality")


METHODS: dict[str, Entry] = {
    "ecg_jepa": Entry(ECGJEPASettings, "medfm.pretraining.ecg_jepa:ECGJEPA"),
    "mae": Entry(MAESettings, "medfm.pretraining.mae:MAE"),
    "spark": Entry(SparKSettings, "medfm.pretraining.spark:SparK"),
    "moco": Entry(MoCoSettings, "medfm.pretraining.moco:MoCo"),
    "voco": Entry(VoCoSettings, "medfm.pretraining.voco:VoCo"),
    "volume_fusion": Entry(VolumeFusionSettings, "medfm.pretraining.volume_fusion:VolumeFusion"),
    "bm_mae": Entry(BMMAESettings, "medfm.pretraining.bm_mae:BMMAE"),
}
