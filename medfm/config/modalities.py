"""Modality settings and their name table. They travel in the bundle and come back from it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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


MODALITIES: dict[str, Entry] = {
    "ecg": Entry(ECGSettings, "medfm.modalities.ecg:ECG"),
}
