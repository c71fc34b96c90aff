"""DICOM waveforms (PS3.3 A.34: 12-lead, general and ambulatory ECG; haemodynamic and other one-dimensional
signals).
"""

from __future__ import annotations

import mmap
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from medfm.formats.base import build, check_size, checked_rate, existing_file, reading
from medfm.types import Finding, ReadError, Signal

TWELVE_LEAD = "1.2.840.10008.5.1.4.1.1.9.1.1"

# Context group 3001 (ECG leads): the number is the same in SCP-ECG (5.6.3-9-n) and in ISO/IEEE 11073 (2:n)
LEAD_CODES: dict[int, str] = {
    1: "I",
    2: "II",
    61: "III",
    62: "aVR",
    63: "aVL",
    64: "aVF",
    65: "-aVR",
    9: "V7",
    66: "V8",
    67: "V9",
    **{2 + n: f"V{n}" for n in range(1, 7)},
    10: "V2R",
    11: "V3R",
    12: "V4R",
    13: "V5R",
    14: "V6R",
    15: "V7R",
    16: "X",
    17: "Y",
    18: "Z",
}
_DTYPES = {
    ("SB", 8): "i1",
    ("UB", 8): "u1",
    ("SS", 16): "i2",
    ("US", 16): "u2",
    ("SL", 32): "i4",
    ("UL", 32): "u4",
    ("SV", 64): "i8",
    ("UV", 64): "u8",
}


def read(path: str | Path) -> Signal:
    """The rhythm of one DICOM waveform object, in the units that each channel states.

    Value = stored x sensitivity x correction factor + baseline (PS3.3 C.10.9.1.4); padding becomes NaN. Of
    several multiplex groups the one labelled RHYTHM is read, else the longest original one; MEDIAN BEAT is
    left aside.

    Raises:
        ReadError: no waveform in the object (an image, say), a truncated or damaged one.
    """
    path = existing_file(path)
    import pydicom

    with (
        reading(path, "DICOM", "Export it from the archive again."),
        mapped(path) as file,
        pydicom.config.disable_value_validation(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # odd names and dates are no reason to warn, or to stop
        data = pydicom.dcmread(cast(Any, file), force=file[128:132] != b"DICM", stop_before_pixels=True)
        if "WaveformSequence" not in data or not data.WaveformSequence:
            what = "an image" if "Rows" in data else "no waveform object"
            raise ReadError(
                f"{path}: is {what}; a DICOM ECG holds a WaveformSequence. Export the ECG itself."
            )
        group, findings = _choose(list(data.WaveformSequence))
        big = _big_endian(data)
        x = _decode(path, group, big)
        names, units = _scale(x, group)
        fs = checked_rate(path, group.get("SamplingFrequency"))
        patient, meta = identity(data)
        return build(path, "dicom", x, fs, names, units, patient=patient, meta=meta, findings=findings)


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """The file mapped: a damaged length makes no read reserve more memory than the file has."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


def _big_endian(data: Any) -> bool:
    """Explicit VR big endian is retired, yet old carts wrote it."""
    syntax = getattr(getattr(data, "file_meta", None), "TransferSyntaxUID", "")
    return str(syntax) == "1.2.840.10008.1.2.2"


def _choose(groups: list[Any]) -> tuple[Any, list[Finding]]:
    labels = [str(g.get("MultiplexGroupLabel", "")).strip().upper() for g in groups]

    def rank(i: int) -> tuple[bool, bool, bool, float]:
        median = "MEDIAN" in labels[i] or "REPRESENTATIVE" in labels[i] or "AVERAGE" in labels[i]
        original = str(groups[i].get("WaveformOriginality", "ORIGINAL")).upper() == "ORIGINAL"
        return (
            "RHYTHM" in labels[i],
            not median,
            original,
            float(groups[i].get("NumberOfWaveformSamples", 0) or 0),
        )

    best = max(range(len(groups)), key=rank)
    if len(groups) == 1:
        return groups[0], []
    others = ", ".join(labels[i] or f"group {i}" for i in range(len(groups)) if i != best)
    chosen = labels[best] or f"group {best}"
    message = f"the object holds {len(groups)} waveform groups; {chosen} was read, not {others}."
    return groups[best], [Finding("waveform-groups", message, "info")]


def _decode(path: Path, group: Any, big_endian: bool) -> np.ndarray:
    """Stored values as float64 ``[C, T]``, NaN where they equal the padding value."""
    channels, samples = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
    check_size(path, channels * samples)
    kind = (str(group.get("WaveformSampleInterpretation", "SS")), int(group.get("WaveformBitsAllocated", 16)))
    if kind not in _DTYPES:
        raise ReadError(
            f"{path}: samples of {kind[1]} bit, interpretation {kind[0]}, are not read; export it as 16 bit."
        )
    dtype = np.dtype(_DTYPES[kind]).newbyteorder(">" if big_endian else "<")
    raw = group.WaveformData
    raw = bytes(raw) if isinstance(raw, bytes | bytearray | memoryview) else b""
    needed = channels * samples * dtype.itemsize
    if channels < 1 or samples < 1 or len(raw) < needed:
        raise ReadError(
            f"{path}: is truncated, its waveform holds {len(raw)} of {needed} bytes; "
            "export it from the archive again."
        )
    stored = np.frombuffer(raw, dtype, count=channels * samples).reshape(samples, channels).T
    x = stored.astype(np.float64)
    padding = group.get("WaveformPaddingValue")
    if isinstance(padding, bytes) and len(padding) >= dtype.itemsize:
        padding = int(np.frombuffer(padding[: dtype.itemsize], dtype)[0])
    if isinstance(padding, int | float):
        x[stored == padding] = np.nan
    return x


def _scale(x: np.ndarray, group: Any) -> tuple[list[str], list[str]]:
    """Bring each row of ``x`` to its physical unit, in place; channel names and units."""
    definitions = list(group.get("ChannelDefinitionSequence", []))
    names, units = [], []
    for i in range(x.shape[0]):
        channel = definitions[i] if i < len(definitions) else {}
        sensitivity = channel.get("ChannelSensitivity")
        if sensitivity is not None:
            x[i] *= float(sensitivity) * float(channel.get("ChannelSensitivityCorrectionFactor") or 1.0)
            x[i] += float(channel.get("ChannelBaseline") or 0.0)
        names.append(_name(channel))
        unit = channel.get("ChannelSensitivityUnitsSequence")
        units.append(str(unit[0].get("CodeValue", "")) if sensitivity is not None and unit else "")
    return names, units


def _name(channel: Any) -> str:
    """The lead that the source code means; else the label, else the code's own words."""
    source = channel.get("ChannelSourceSequence")
    code = str(source[0].get("CodeValue", "")) if source else ""
    scheme = str(source[0].get("CodingSchemeDesignator", "")).upper() if source else ""
    if found := re.fullmatch(r"(?:5\.6\.3-9-|2:)(\d+)", code):
        number = int(found[1])
        if number in LEAD_CODES and (scheme.startswith(("SCPECG", "MDC")) or not scheme):
            return LEAD_CODES[number]
    if code.upper().startswith("MDC_ECG_"):
        return code
    meaning = str(source[0].get("CodeMeaning", "")) if source else ""
    return str(channel.get("ChannelLabel") or meaning or code)


def identity(data: Any) -> tuple[str | None, dict[str, Any]]:
    """Patient id, and age in years, sex, uid and device where the data set states them."""
    meta: dict[str, Any] = {}
    if found := re.fullmatch(r"(\d{1,3})([YMWD])", str(data.get("PatientAge", "")).strip().upper()):
        meta["age"] = int(found[1]) / {"Y": 1, "M": 12, "W": 52.18, "D": 365.25}[found[2]]
    if sex := str(data.get("PatientSex", "") or "").strip():
        meta["sex"] = sex
    for key, name in (("SOPInstanceUID", "uid"), ("Manufacturer", "device")):
        if value := str(data.get(key, "") or ""):
            meta[name] = value
    return str(data.get("PatientID", "") or "").strip() or None, meta


def write_ecg(
    path: str | Path,
    x_mV: np.ndarray,
    fs: float,
    channels: Sequence[str],
    patient: str = "",
    age: int | None = None,
    sex: str = "",
    median: np.ndarray | None = None,
) -> Path:
    """Write ``x_mV [C, T]`` as a 12-lead ECG object (16 bit, 1 uV a step, sources coded SCP-ECG); return the
    path.

    ``median [C, M]`` adds a MEDIAN BEAT group before the RHYTHM, as carts do. NaN is written as the padding
    value.
    """
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    uid = generate_uid()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(TWELVE_LEAD), uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = TWELVE_LEAD, uid
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    data.Modality, data.PatientID, data.PatientName, data.PatientSex = "ECG", patient, "", sex
    data.PatientBirthDate, data.StudyDate, data.StudyTime, data.StudyID = "", "", "", ""
    data.AccessionNumber, data.ReferringPhysicianName, data.Manufacturer = "", "", "medfm"
    data.SeriesNumber, data.InstanceNumber = 1, 1
    data.ContentDate, data.ContentTime, data.AcquisitionDateTime = "20000101", "000000", "20000101000000"
    data.AcquisitionContextSequence = []
    if age is not None:
        data.PatientAge = f"{age:03d}Y"
    groups = [] if median is None else [("MEDIAN BEAT", "DERIVED", np.asarray(median))]
    groups.append(("RHYTHM", "ORIGINAL", np.asarray(x_mV)))
    data.WaveformSequence = [_group(*g, fs, channels) for g in groups]
    data.save_as(str(path), enforce_file_format=True)
    return Path(path)


def _group(label: str, originality: str, x: np.ndarray, fs: float, channels: Sequence[str]) -> Any:
    from pydicom.dataset import Dataset

    gaps = ~np.isfinite(x)
    steps = np.clip(np.rint(np.where(gaps, 0, x) * 1000), -32767, 32767).astype("<i2")
    steps[gaps] = -32768
    group = Dataset()
    group.MultiplexGroupLabel, group.WaveformOriginality = label, originality
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = x.shape
    group.SamplingFrequency, group.WaveformBitsAllocated, group.WaveformSampleInterpretation = fs, 16, "SS"
    group.add_new("WaveformPaddingValue", "OW", np.array([-32768], "<i2").tobytes())
    group.add_new("WaveformData", "OW", steps.T.tobytes())
    codes = {name: number for number, name in LEAD_CODES.items()}
    definitions = []
    for name in channels:
        channel, source, unit = Dataset(), Dataset(), Dataset()
        source.CodeValue = f"5.6.3-9-{codes[name]}" if name in codes else name
        source.CodingSchemeDesignator, source.CodingSchemeVersion = (
            "SCPECG" if name in codes else "99MEDFM",
            "1.3",
        )
        source.CodeMeaning = f"Lead {name}"
        unit.CodeValue, unit.CodingSchemeDesignator, unit.CodingSchemeVersion = "uV", "UCUM", "1.4"
        unit.CodeMeaning = "microvolt"
        channel.ChannelSourceSequence, channel.ChannelSensitivityUnitsSequence = [source], [unit]
        channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline = (
            1,
            1,
            0,
        )
        channel.ChannelSampleSkew, channel.WaveformBitsStored = 0, 16
        definitions.append(channel)
    group.ChannelDefinitionSequence = definitions
    return group
