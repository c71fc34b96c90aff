"""Fine-tuning strategies: typed settings and their name table. One strategy costs one line here.

Values that no paper states (rates and epochs for a few hundred records) are ours, and not tuned: the number of epochs
is chosen on inner patients, where 0 means that the linear probe stands.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medfm.config.base import Entry, Settings


class StrategySettings(Settings):
    """What every strategy shares: how tokens become features, and the linear solution it may start from."""

    name: str
    pool: Literal["mean", "mean-std"] = Field(
        "mean-std", description="features: mean over tokens, or mean and deviation"
    )
    strengths: tuple[float, ...] = Field(
        (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        min_length=1,
        description="C of the logistic regression, chosen on inner patient folds",
    )


class LinearProbeSettings(StrategySettings):
    """Frozen backbone; logistic regression on standardised pooled features, C by inner patient folds."""

    name: Literal["linear-probe"] = "linear-probe"


class TrainedSettings(StrategySettings):
    """AdamW under a schedule that spans all ``epochs``; how many of them are run is chosen on inner patients, then the
    whole training fold is used for that many."""

    lr: float = Field(3e-4, gt=0, description="peak rate of the topmost backbone group")
    head_lr: float = Field(1e-3, gt=0, description="peak rate of the head")
    epochs: int = Field(15, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    head_weight_decay: float | None = Field(None, ge=0, description="of the head; null: as the backbone")
    schedule: Literal["cosine", "one-cycle", "rex", "wsd"] = "cosine"
    warmup: float = Field(
        0.1, ge=0, lt=1, description="share of the steps spent warming up (one-cycle: rising)"
    )
    cooldown: float = Field(0.2, gt=0, le=1, description="share of the steps of wsd's decay")
    end_share: float = Field(
        0.0, ge=0, le=1, description="of the peak, left at the end of cosine, rex and wsd"
    )
    grad_clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 is off")
    drop_path: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="residual branches dropped while training, growing with depth to this share; null: as "
        "the backbone has it",
    )
    head_dropout: float = Field(0.0, ge=0, lt=1, description="of the head's features while training")
    dropout_masks: int = Field(1, gt=0, description="dropout masks a step, whose losses are averaged")
    batch_norm: Literal["frozen", "all", "none"] = Field(
        "frozen",
        description="batch normalisations kept in evaluation mode while training: those whose weights are "
        "frozen, all, or none",
    )
    patience: int | None = Field(
        3, gt=0, description="epochs without a better inner validation loss; null: run them all"
    )

    @model_validator(mode="after")
    def _masks(self) -> TrainedSettings:
        if self.dropout_masks > 1 and not self.head_dropout:
            raise ValueError("dropout_masks are of head_dropout: set head_dropout too, for instance 0.5")
        return self


class FullSettings(TrainedSettings):
    """Every weight trained from a head at zero, with layer-wise learning-rate decay."""

    name: Literal["full"] = "full"
    layer_decay: float = Field(
        0.75, gt=0, le=1, description="rate of each group relative to the one above it"
    )


class LPFTSettings(TrainedSettings):
    """Linear probe first, its solution copied into the head, then full training at a small rate (arXiv
    2202.10054)."""

    name: Literal["lp-ft"] = "lp-ft"
    lr: float = Field(1e-4, gt=0, description="peak rate of the topmost backbone group")
    head_lr: float = Field(1e-4, gt=0, description="peak rate of the head")
    epochs: int = Field(8, gt=0)
    patience: int | None = Field(
        2, gt=0, description="epochs without a better inner validation loss; null: run them all"
    )
    layer_decay: float = Field(
        0.75, gt=0, le=1, description="rate of each group relative to the one above it"
    )


class ProgressiveSettings(TrainedSettings):
    """Head first, then one parameter group more at a time from the top, with discriminative rates (after arXiv
    2507.12269); or all of them, frozen one after another from the stem."""

    name: Literal["progressive"] = "progressive"
    direction: Literal["deep-to-shallow", "shallow-to-deep"] = Field(
        "deep-to-shallow", description="groups open from the top, or freeze from the stem"
    )
    layer_decay: float = Field(0.5, gt=0, le=1, description="rate of each group relative to the one above it")
    rates: dict[str, float] = Field(
        default_factory=dict, description="peak rates of groups by name; the others follow lr and layer_decay"
    )
    stages: int | None = Field(
        None,
        gt=0,
        description="join the groups above the stem into this many of equal size, stage1 the shallowest; "
        "null: the backbone's own groups",
    )
    starts: dict[str, float] = Field(
        default_factory=dict,
        description="share of the epochs after which each group opens (or freezes); empty: evenly spaced",
    )
    head_epochs: int | None = Field(
        None, ge=0, description="epochs before the topmost group opens, with the others evenly spaced"
    )
    never: tuple[str, ...] = Field((), description="names of groups that stay frozen")
    probe_first: bool = Field(
        False, description="start from the linear probe's solution, not from a head at zero"
    )
    patience: int | None = Field(
        None, gt=0, description="epochs without a better inner validation loss; null: run them all"
    )

    @model_validator(mode="after")
    def _spacing(self) -> ProgressiveSettings:
        for name, start in self.starts.items():
            if not 0 <= start <= 1:
                raise ValueError(f"starts: give {name} a share of the epochs, from 0 to 1, not {start:g}")
        for name, rate in self.rates.items():
            if rate <= 0:
                raise ValueError(f"rates: give {name} a rate above 0, or put it into never")
        spaced = not self.starts and self.direction == "deep-to-shallow"
        if self.head_epochs is not None and not spaced:
            raise ValueError(
                "head_epochs spaces groups evenly from the top; with starts, or shallow-to-deep, leave it out"
            )
        if self.head_epochs is None and spaced:
            self.__dict__["head_epochs"] = 3
        return self


class LoRASettings(TrainedSettings):
    """Low-rank adapters (arXiv 2106.09685) through peft on the backbone's ``adapter_targets``; the head
    starts from the linear probe."""

    name: Literal["lora"] = "lora"
    lr: float = Field(1e-3, gt=0, description="peak rate of the adapters")
    head_lr: float = Field(1e-4, gt=0, description="peak rate of the head")
    weight_decay: float = Field(0.01, ge=0)
    rank: int = Field(8, gt=0)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)


STRATEGIES: dict[str, Entry] = {
    "lp-ft": Entry(LPFTSettings, "medfm.finetuning.strategies.lp_ft:LPFT"),
    "linear-probe": Entry(LinearProbeSettings, "medfm.finetuning.strategies.linear_probe:LinearProbe"),
    "full": Entry(FullSettings, "medfm.finetuning.strategies.full:Full"),
    "progressive": Entry(ProgressiveSettings, "medfm.finetuning.strategies.progressive:Progressive"),
    "lora": Entry(LoRASettings, "medfm.finetuning.strategies.lora:LoRA"),
}
