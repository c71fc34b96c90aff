"""Settings of a fine-tuning that draws masks: steps in place of epochs, patches, tiles, and what is measured.

They stand beside the others under ``finetune``. Rates and steps are ours, for a few to a few dozen volumes, and not tuned.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from medfm.config.base import Settings

RATE = 1e-3  # of head and backbone where none is given: a few hundred steps are few
BATCH = 2  # patches a step


class SegmentationSettings(Settings):
    """The part of ``finetune`` that is for masks; a task of another kind refuses what differs from these defaults."""

    steps: int = Field(
        1000, gt=0, description="masks: training steps, over which the strategy's epochs are spread"
    )
    marks: tuple[int, ...] = Field(
        (), description="masks: steps after which Dice is measured too; training then takes all the steps"
    )
    select: Literal["auto", "always", "never"] = Field(
        "auto",
        description="masks: choose the number of steps on inner patients; auto: from ten patients in a training fold",
    )
    patch: tuple[int, int, int] | None = Field(
        None, description="masks: voxels of a training patch and of a tile; null: the backbone's own size"
    )
    foreground: float = Field(
        1 / 3, ge=0, le=1, description="masks: share of the patches centred on a voxel of a class"
    )
    supervise: float = Field(
        0.5,
        ge=0,
        le=1,
        description="masks: weight of each coarser map relative to the next finer one; 0 is off",
    )
    dice_background: bool = Field(
        False, description="masks: background is a class in the Dice of the loss too"
    )
    head_share: float = Field(
        0.2, ge=0, lt=1, description="masks: share of the steps for the head alone in lp-ft and lora"
    )
    overlap: float = Field(0.5, ge=0, lt=1, description="masks: of neighbouring tiles, along each axis")
    classes: dict[str, int] = Field(
        default_factory=dict,
        description="masks: name of each value, {liver: 1, spleen: 2}; empty: all values found",
    )
    regions: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="masks: unions of classes that are measured in their place, {WT: [core, oedema, enhancement]}",
    )
    other_values: Literal["refuse", "background"] = Field(
        "refuse", description="masks: what a value that classes does not name means"
    )
    tolerance: float | dict[str, float] = Field(
        3.0, description="masks: mm within which surfaces count as equal (NSD); one number, or one a class"
    )
    masks: bool = Field(
        True, description="masks: write the out-of-fold masks into the run, on each file's own grid"
    )

    @field_validator("patch")
    @classmethod
    def _patch(cls, value: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        if value is not None and min(value) < 1:
            raise ValueError("patch: give three numbers of voxels, for instance [96, 96, 96]")
        return value

    @field_validator("classes")
    @classmethod
    def _classes(cls, value: dict[str, int]) -> dict[str, int]:
        if wrong := [name for name, number in value.items() if number < 1]:
            raise ValueError(
                f"classes: {wrong[0]} has the value {value[wrong[0]]}; 0 is background, classes start at 1"
            )
        if len(set(value.values())) < len(value):
            raise ValueError("classes: two names have the same value")
        return value

    @field_validator("regions")
    @classmethod
    def _regions(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if empty := [name for name, members in value.items() if not members]:
            raise ValueError(f"regions: {empty[0]} has no class; give [CLASS, ...]")
        return {name: tuple(dict.fromkeys(members)) for name, members in value.items()}

    @field_validator("tolerance")
    @classmethod
    def _tolerance(cls, value: float | dict[str, float]) -> float | dict[str, float]:
        if any(mm <= 0 for mm in (value.values() if isinstance(value, dict) else (value,))):
            raise ValueError("tolerance: give mm above 0, for instance 3")
        return value


def mask_defaults(settings: Any) -> None:
    """Of ``finetune`` settings for masks, what was not set: full training at one rate for all layers, small batches.

    A smaller rate for deep layers would handicap the baseline, which has nothing in them to keep.
    """
    from medfm.config.strategies import STRATEGIES

    if "batch_size" not in settings.model_fields_set:
        settings.__dict__["batch_size"] = BATCH
    strategy = settings.strategy
    if "strategy" not in settings.model_fields_set:
        strategy = STRATEGIES["full"].settings()
        settings.__dict__["strategy"] = strategy
    wanted = {"lr": RATE, "head_lr": RATE, "layer_decay": 1.0}
    for name, value in wanted.items():
        if name in type(strategy).model_fields and name not in strategy.model_fields_set:
            strategy.__dict__[name] = value


def changed(settings: Any) -> list[str]:
    """Settings for masks that differ from their defaults, by full name."""
    plain = SegmentationSettings()
    return [
        f"finetune.{n}"
        for n in SegmentationSettings.model_fields
        if getattr(settings, n) != getattr(plain, n)
    ]
