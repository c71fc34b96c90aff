"""Self-supervised methods: typed settings and their name table. One method costs one line here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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


METHODS: dict[str, Entry] = {
    "ecg_jepa": Entry(ECGJEPASettings, "medfm.pretraining.ecg_jepa:ECGJEPA"),
}
