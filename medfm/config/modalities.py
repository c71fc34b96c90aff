"""Modality settings and their name table. They travel in the bundle and come back from it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from medfm.config.base import Entry, Settings

ECG_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


class ECGSettings(Settings):
    """What an ECG means to a model. Defaults are the paper's input (ECG-JEPA, arXiv 2410.13867, section 3)."""

    name: Literal["ecg"] = "ecg"
    leads: tuple[str, ...] = ECG_LEADS
    fs: float = Field(500.0, gt=0, description="sampling rate of the model's grid, Hz")
    seconds: float = Field(10.0, gt=0, description="window length, s")
    normalise: Literal["dataset", "record", "none"] = Field(
        "dataset", description="per-lead mean and deviation of the training data, of the record, or none (mV)"
    )
    mean: tuple[float, ...] | None = Field(None, description="per-lead mean in mV; fitted on training data")
    std: tuple[float, ...] | None = Field(
        None, description="per-lead deviation in mV; fitted on training data"
    )
    clip: float = Field(5.0, gt=0, description="normalised values are clipped to +-clip")
    highpass: float = Field(0.0, ge=0, description="zero-phase Butterworth high-pass, Hz; 0 is off")
    max_gap: float = Field(
        0.2, ge=0, description="NaN gaps up to this many seconds are bridged linearly; longer ones flagged"
    )
    alias: dict[str, str] = Field(
        default_factory=dict, description="channel name -> lead, for files whose names say nothing"
    )


class XraySettings(Settings):
    """What a radiograph means to a model: which grey its values are, and how it lies on the grid."""

    name: Literal["xray"] = "xray"
    size: tuple[int, int] = Field((224, 224), description="rows and columns of the model's grid")
    fit: Literal["pad", "crop", "stretch"] = Field(
        "pad", description="keep the proportions by padding, by cropping to the centre, or not at all"
    )
    colour: Literal["grey", "rgb"] = Field("grey", description="one channel, or three (grey is repeated)")
    voi: int = Field(
        0,
        ge=-2,
        description="which of the file's windows or LUTs; whatever it says, -1: percentiles, -2: all that its bits hold",
    )
    percentiles: tuple[float, float] = Field(
        (0.5, 99.5), description="black and white of a picture without a window, in percent of its pixels"
    )
    invert: Literal["file", "always", "never"] = Field(
        "file",
        description="show small values bright: as the file says, or against it where it is known to be wrong",
    )
    normalise: Literal["dataset", "record", "none"] = Field(
        "dataset",
        description="mean and deviation of the training data, of the picture, or none (grey, 0 to 1)",
    )
    mean: tuple[float, ...] | None = Field(None, description="mean grey a channel; fitted on training data")
    std: tuple[float, ...] | None = Field(None, description="deviation a channel; fitted on training data")

    @field_validator("size")
    @classmethod
    def _size(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < 8 or max(value) > 8192:
            raise ValueError("size: give rows and columns between 8 and 8192, for instance [224, 224]")
        return value

    @field_validator("percentiles")
    @classmethod
    def _percentiles(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 100:
            raise ValueError(
                "percentiles: give two rising numbers between 0 and 100, for instance [0.5, 99.5]"
            )
        return value


MODALITIES: dict[str, Entry] = {
    "ecg": Entry(ECGSettings, "medfm.modalities.ecg:ECG"),
    "xray": Entry(XraySettings, "medfm.modalities.xray:Xray"),
}
