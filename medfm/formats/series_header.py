"""DICOM files -> the slices that could be part of a volume, from headers only; everything else by name and reason."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from medfm.formats.dicom import mapped
from medfm.formats.radiograph import refuse_bomb
from medfm.formats.series_report import Dropped
from medfm.types import MedfmError

_ENHANCED = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# name of a difference between slices -> elements that show it, the first one present counts
DIFFERENCES: dict[str, tuple[str, ...]] = {
    "image type": ("FrameType", "ImageType"),
    "echo": ("EchoNumbers", "EffectiveEchoTime", "EchoTime"),
    "stack": ("StackID",),
    "temporal position": (
        "TemporalPositionIdentifier",
        "TemporalPositionIndex",
        "TemporalPositionTimeOffset",
    ),
    "cardiac phase": ("NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime"),
    "b-value": ("DiffusionBValue",),
    "acquisition": ("FrameAcquisitionNumber", "AcquisitionNumber"),
    "kernel": ("ConvolutionKernel",),
    "tube voltage": ("KVP",),
    "inversion time": ("InversionTime",),
    "trigger time": ("TriggerTime",),
}
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SeriesNumber", "SeriesDescription",
    "PatientID", "Modality", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "PixelRepresentation",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "ModalityLUTSequence", *_ENHANCED,
    *(tag for tags in DIFFERENCES.values() for tag in tags),
]  # fmt: skip
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(frozen=True)
class Slice:
    """One slice: a file, or a frame of one. position, orientation in mm of the patient (LPS), as DICOM writes them.

    pitch: mm between rows, and between columns. owner: study and patient, to keep apart what an anonymiser gave one UID;
    never shown. differs: what may tell it from another slice at its position.
    """

    path: Path
    name: str
    frame: int | None
    uid: str
    owner: str
    position: tuple[float, float, float]
    orientation: tuple[float, ...]
    pitch: tuple[float, float]
    size: tuple[int, int]
    modality: str
    description: str
    number: int
    syntax: str
    thickness: float | None
    slope: float
    intercept: float
    rescaled: bool
    rescale_type: str
    signed: bool
    differs: dict[str, str] = field(default_factory=dict)


def files_under(root: Path) -> Iterator[tuple[Path, str]]:
    """Every file of a tree in order of name, and its name relative to the root; hidden files and linked folders are left out."""
    if root.is_file():
        yield root, root.name
        return
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and name.upper() != "DICOMDIR" and path.is_file():
                yield path, path.relative_to(root).as_posix()


def is_dicom(path: Path) -> bool:
    """By its preamble; without one, a data set opens with group 2 or 8, little endian, and a small element number."""
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or (
        head[:2] in (b"\x02\x00", b"\x08\x00") and len(head) > 8 and head[3] == 0
    )


def read_header(path: Path, whole: bool = False) -> Any:
    """The data set of a file up to its pixels; ``whole``: every element, not only those that place a slice."""
    import pydicom

    with mapped(path) as file, pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refuse_bomb(path)
        force = file[128:132] != b"DICM"
        tags = None if whole else cast(Any, _TAGS)
        return pydicom.dcmread(cast(Any, file), force=force, stop_before_pixels=True, specific_tags=tags)


def slices_of(path: Path, name: str) -> tuple[list[Slice], Dropped | None]:
    """The slices of one DICOM file, or why it has none."""
    try:
        data = read_header(path)
        return _slices(path, name, data)
    except MedfmError as error:
        return [], Dropped(name, f"unreadable header: {error}")
    except Exception as error:  # whatever a broken header makes the decoder raise
        return [], Dropped(name, f"unreadable header ({type(error).__name__})")


def _slices(path: Path, name: str, data: Any) -> tuple[list[Slice], Dropped | None]:
    uid = str(data.get("SeriesInstanceUID", "") or "")
    if reason := _not_a_slice(data):
        return [], Dropped(name, reason, uid)
    frames = int(data.get("NumberOfFrames", 1) or 1)
    per_frame = list(data.get(_ENHANCED[1]) or ())
    if not per_frame and frames > 1:
        return [], Dropped(name, "multi-frame object without positions of its frames", uid)
    shared = list(data.get(_ENHANCED[0]) or ())
    if not per_frame:
        found = _slice(path, name, None, uid, [data])
        return ([found], None) if found else ([], Dropped(name, "image without position in the patient", uid))
    if len(per_frame) != frames:
        return [], Dropped(
            name, f"multi-frame object of {frames} frames that describes {len(per_frame)}", uid
        )
    found_frames = []
    common = [group[0] for s in shared for group in _groups(s)] + [data]
    for i, item in enumerate(per_frame):
        found = _slice(path, name, i, uid, [group[0] for group in _groups(item)] + common)
        if found is None:
            return [], Dropped(name, "multi-frame object without positions of its frames", uid)
        found_frames.append(found)
    return found_frames, None


def _groups(item: Any) -> Iterator[Any]:
    """The functional groups of a frame: sequences of one item that hold what a slice's own header would."""
    for element in item:
        if element.VR == "SQ" and element.value:
            yield element.value


def _not_a_slice(data: Any) -> str | None:
    """Why an object is no slice of a volume: its kind by name, or None."""
    sop = data.get("SOPClassUID") or getattr(data, "file_meta", {}).get("MediaStorageSOPClassUID", "") or ""
    name = str(getattr(sop, "name", sop))
    kind = name if name != str(sop) else "object of an unknown kind" if sop else ""  # a broken UID is no name
    if str(sop).startswith(_SECONDARY_CAPTURE):
        return "secondary capture"
    if not data.get("Rows") or not data.get("Columns"):
        return kind or "object without an image"
    if str(data.get("Modality", "")).upper() in ("SEG", "RTDOSE", "SR", "KO", "PR") or "Segmentation" in kind:
        return kind or str(data.Modality)
    words = {str(w).upper() for w in _several(data.get("ImageType"))}
    if words & {"LOCALIZER", "SCOUT", "TOPOGRAM"}:
        return "localizer"
    if int(data.get("SamplesPerPixel", 1) or 1) != 1:
        return "colour image"
    return None


def _several(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)


def _slice(path: Path, name: str, frame: int | None, uid: str, levels: list[Any]) -> Slice | None:
    """levels: data sets from the frame's own to the object's; the first that states an element counts."""

    def value(key: str) -> Any:
        return next((v for v in (level.get(key) for level in levels) if v not in (None, "")), None)

    position, orientation = (
        _numbers(value("ImagePositionPatient"), 3),
        _numbers(value("ImageOrientationPatient"), 6),
    )
    pitch = _numbers(value("PixelSpacing"), 2)
    if position is None or orientation is None or pitch is None or min(pitch) <= 0:
        return None
    data = levels[-1]
    slope, intercept = _numbers(value("RescaleSlope"), 1), _numbers(value("RescaleIntercept"), 1)
    differs = {}
    for what, keys in DIFFERENCES.items():
        stated = next((v for v in map(value, keys) if v is not None), None)
        differs[what] = "\\".join(str(v) for v in _several(stated))
    syntax = getattr(data, "file_meta", {}).get("TransferSyntaxUID")
    thickness = _numbers(value("SliceThickness"), 1)
    return Slice(
        path,
        name,
        frame,
        uid,
        f"{data.get('StudyInstanceUID', '')} {data.get('PatientID', '')}",
        (position[0], position[1], position[2]),
        orientation,
        (pitch[0], pitch[1]),
        (int(data.Rows), int(data.Columns)),
        str(data.get("Modality", "") or "").strip().upper(),
        " ".join(str(data.get("SeriesDescription", "") or "").split())[:64],
        int(data.get("SeriesNumber") or 0),
        str(getattr(syntax, "name", syntax or "")),
        thickness[0] if thickness and thickness[0] > 0 else None,
        slope[0] if slope and slope[0] != 0 else 1.0,
        intercept[0] if intercept else 0.0,
        intercept is not None or bool(data.get("ModalityLUTSequence")),
        str(value("RescaleType") or "").strip().upper(),
        bool(data.get("PixelRepresentation") or 0),
        differs,
    )


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    try:
        found = tuple(float(v) for v in _several(value))
    except (TypeError, ValueError):
        return None
    return found if len(found) == count and bool(np.isfinite(found).all()) else None
