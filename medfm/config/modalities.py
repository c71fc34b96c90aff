"""Modality settings and their name table. They travel in the bundle and come back from it."""

from __future__ import annotations

from typing import Annotated, Literal

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


Edge = Annotated[int, Field(ge=8, le=1024)]
Millimetres = Annotated[float, Field(gt=0, le=50)]


def _rising_windows(value: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    for low, high in value:
        if not low < high:
            raise ValueError("windows: give pairs of rising HU, for instance [[-175, 250], [-1000, 400]]")
    return value


def _pointing_axes(value: str) -> str:
    value = value.upper()
    if len(value) != 3 or {frozenset("RL"), frozenset("AP"), frozenset("SI")} != {
        next((pair for pair in map(frozenset, ("RL", "AP", "SI")) if c in pair), frozenset()) for c in value
    }:
        raise ValueError("orientation: give where the axes point, for instance RAS or LPS")
    return value


class CTSettings(Settings):
    """What a CT volume means to a model: its axes, its grid in mm, and which Hounsfield units are black and white."""

    name: Literal["ct"] = "ct"
    size: tuple[Edge, Edge, Edge] = Field(
        (96, 96, 96), description="voxels of what the network takes at once: to the right, front and head"
    )
    spacing: tuple[Millimetres, Millimetres, Millimetres] = Field(
        (1.5, 1.5, 1.5), description="mm between voxels of the model's grid"
    )
    orientation: str = Field(
        "RAS", description="where the three axes point: R or L, A or P, S or I, in any order"
    )
    windows: tuple[tuple[float, float], ...] = Field(
        ((-175.0, 250.0),),
        min_length=1,
        description="HU shown black and white, clipped to 0 and 1; one channel a window",
    )
    foreground: Literal["body", "none"] = Field(
        "body", description="keep the box around the body, without the air beside it, or all of the volume"
    )
    units: Literal["hu", "any"] = Field(
        "hu", description="set volumes aside whose values are not in HU, or take any values as they are"
    )
    gaps: Literal["refuse", "resample"] = Field(
        "refuse", description="a DICOM series with missing slices: set aside, or filled by interpolation"
    )
    tilt: Literal["refuse", "resample"] = Field(
        "refuse", description="a DICOM series with a tilted gantry: set aside, or straightened"
    )
    normalise: Literal["dataset", "record", "none"] = Field(
        "none",
        description="after the windows: mean and deviation of the training data, of the volume, or 0 to 1",
    )
    mean: tuple[float, ...] | None = Field(None, description="mean a window; fitted on training data")
    std: tuple[float, ...] | None = Field(None, description="deviation a window; fitted on training data")

    _pointing = field_validator("orientation")(_pointing_axes)
    _rising = field_validator("windows")(_rising_windows)


class CTSliceSettings(Settings):
    """What a slice of a CT volume means to a model of pictures."""

    name: Literal["ct_slice"] = "ct_slice"
    size: tuple[Edge, Edge] = Field((224, 224), description="rows and columns of the model's grid")
    spacing: Millimetres = Field(1.6, description="mm a pixel: at 224 pixels, 358 mm about the body's middle")
    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    every: float = Field(
        0.0, ge=0, description="mm between slices, at least, where whole volumes are given; 0: all slices"
    )
    windows: tuple[tuple[float, float], ...] = Field(
        ((-175.0, 250.0),), min_length=1, description="HU shown black and white; one channel a window"
    )
    units: Literal["hu", "any"] = Field(
        "hu", description="set volumes aside whose values are not in HU, or not"
    )
    gaps: Literal["refuse", "resample"] = Field("refuse", description="as for modality ct")
    tilt: Literal["refuse", "resample"] = Field("refuse", description="as for modality ct")
    normalise: Literal["dataset", "record", "none"] = Field(
        "none",
        description="after the windows: mean and deviation of the training data, of the slice, or 0 to 1",
    )
    mean: tuple[float, ...] | None = Field(None, description="mean a window; fitted on training data")
    std: tuple[float, ...] | None = Field(None, description="deviation a window; fitted on training data")

    _rising = field_validator("windows")(_rising_windows)


class MRISettings(Settings):
    """What the MRI of a subject means to a model: its sequences, their grid in mm, and what of them is the patient."""

    name: Literal["mri"] = "mri"
    size: tuple[Edge, Edge, Edge] = Field(
        (128, 128, 128), description="voxels of what the network takes at once: to the right, front and head"
    )
    spacing: tuple[Millimetres, Millimetres, Millimetres] = Field(
        (1.0, 1.0, 1.0), description="mm between voxels of the model's grid"
    )
    orientation: str = Field(
        "RAS", description="where the three axes point: R or L, A or P, S or I, in any order"
    )
    sequences: tuple[str, ...] = Field(
        ("t1", "t1ce", "t2", "flair"),
        min_length=1,
        description="the channels, in order; a subject may lack any. The grid is that of the first it has",
    )
    foreground: Literal["auto", "nonzero", "otsu", "none"] = Field(
        "auto",
        description="z-scores are over the voxels that are not 0 (stripped skulls), over the head, or over all",
    )
    grid: Literal["refuse", "resample"] = Field(
        "refuse", description="sequences that lie on different grids: set the subject aside, or resample"
    )
    percentiles: tuple[float, float] | None = Field(
        None, description="clip to these percentiles of the foreground before z-scores; null is off"
    )
    gaps: Literal["refuse", "resample"] = Field("refuse", description="as for modality ct")
    tilt: Literal["refuse", "resample"] = Field("refuse", description="as for modality ct")
    synthetic: Literal["refuse", "allow"] = Field(
        "refuse", description="files that a model made (medfm reconstruct): set aside, or taken as measured"
    )

    _pointing = field_validator("orientation")(_pointing_axes)

    @field_validator("percentiles")
    @classmethod
    def _percentiles(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] < value[1] <= 100:
            raise ValueError(
                "percentiles: give two rising numbers between 0 and 100, for instance [0.5, 99.5]"
            )
        return value


class PPGSettings(Settings):
    """What a PPG means to a model. The filter is PaPaGei's (arXiv 2410.20542); other windows in use: 30 s, 60 s at 64 Hz."""

    name: Literal["ppg"] = "ppg"
    channels: tuple[str, ...] = Field(
        ("ppg",),
        min_length=1,
        description="one to four of ppg, green, red, infrared, blue; then acc or acc_x, acc_y, acc_z, and ecg, if wanted",
    )
    fs: float = Field(125.0, gt=0, description="sampling rate of the model's grid, Hz")
    seconds: float = Field(10.0, gt=0, description="window length, s")
    highpass: float = Field(0.5, ge=0, description="lower edge of the Chebyshev II band-pass, Hz; 0 is off")
    lowpass: float = Field(
        12.0, ge=0, description="upper edge, Hz; a file of no more than twice this rate is refused; 0 is off"
    )
    smooth: float = Field(
        0.05, ge=0, description="moving average, s, both ways, at file rates from 75 Hz on; 0 is off"
    )
    polarity: Literal["auto", "keep", "invert"] = Field(
        "auto", description="turn a record whose pulses fall fast and rise slowly, none, or all"
    )
    normalise: Literal["record", "window", "none"] = Field(
        "window", description="z-score a channel over the whole record, over the window, or not at all"
    )
    min_quality: float = Field(
        0.7,
        ge=0,
        le=1,
        description="windows whose beats correlate less with their median beat, or are flat, clipped or without pulse, are set aside; 0 keeps all",
    )
    max_gap: float = Field(
        0.2, ge=0, description="NaN gaps up to this many seconds are bridged linearly; longer ones masked"
    )
    alias: dict[str, str] = Field(
        default_factory=dict, description="channel name -> channel, for files whose names say nothing"
    )


MODALITIES: dict[str, Entry] = {
    "ecg": Entry(ECGSettings, "medfm.modalities.ecg:ECG"),
    "xray": Entry(XraySettings, "medfm.modalities.xray:Xray"),
    "ct": Entry(CTSettings, "medfm.modalities.ct:CT"),
    "ct_slice": Entry(CTSliceSettings, "medfm.modalities.ct_slice:CTSlice"),
    "mri": Entry(MRISettings, "medfm.modalities.mri:MRI"),
}
