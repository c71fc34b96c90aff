"""Fine-tuning strategies: typed settings and their name table. One strategy costs one line here.

Values that no paper states (rates and epochs for a few hundred records) are ours, and not tuned: the number of epochs
is chosen on inner patients, where 0 means that the linear probe stands.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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
    """AdamW with linear warm-up and cosine decay; the number of epochs is chosen on inner patients, then the
    whole training fold is used for that many."""

    lr: float = Field(3e-4, gt=0, description="peak rate of the topmost backbone group")
    head_lr: float = Field(1e-3, gt=0, description="peak rate of the head")
    epochs: int = Field(15, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps spent warming up")
    grad_clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 is off")
    patience: int | None = Field(
        3, gt=0, description="epochs without a better inner validation loss; null: run them all"
    )


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
    """Head first, then one parameter group more at a time from the top, with discriminative rates."""

    name: Literal["progressive"] = "progressive"
    layer_decay: float = Field(0.5, gt=0, le=1, description="rate of each group relative to the one above it")
    head_epochs: int = Field(3, ge=0, description="epochs before the topmost group opens")
    never: tuple[str, ...] = Field((), description="names of groups that stay frozen")
    patience: int | None = Field(
        None, gt=0, description="epochs without a better inner validation loss; null: run them all"
    )


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
