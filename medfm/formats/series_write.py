"""CT series written as DICOM, one file a slice, with the header a scanner writes; and with the faults that archives have.

For phantoms and tests: identifiers follow from the record's name, so that the same call writes the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medfm.formats.volume_space import LPS_TO_RAS
from medfm.types import ConfigError

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PADDING = -2000
"""Stored value outside the reconstruction circle, as GE writes it."""
TILT_DEG = 12.0
FAULTS: dict[str, str] = {
    "missing": "the middle slice was never exported",
    "duplicate": "the second slice lies there twice",
    "conflict": "another picture at the position of the second slice",
    "irregular": "the middle slice lies 0.4 steps too far",
    "tilt": "a gantry tilt of 12 degrees: each slice is moved down along its columns",
    "localizer": "a scout in the same series",
    "secondary_capture": "a screenshot in the same folder",
    "second_series": "a second reconstruction in the same folder",
    "phases": "two acquisitions (contrast phases) in one series",
    "shuffled": "names and instance numbers in no order",
    "padding": "a padding value outside the circle of reconstruction",
    "orientation": "an orientation matrix whose axes are not perpendicular",
    "one_slice": "only the middle slice",
    "truncated": "the last file ends in the middle of its pixels",
}
_SYNTAXES = ("explicit", "rle", "jpeg2000")


@dataclass(frozen=True)
class SeriesHeader:
    """What the header of a series says beside its pixels.

    thickness: mm, None for the spacing. slope, intercept: from stored values to HU. syntax: explicit, rle or jpeg2000.
    """

    age: int = 60
    sex: str = "O"
    description: str = "CT Body"
    device: str = "Phantom"
    body_part: str = "ABDOMEN"
    kernel: str = "STANDARD"
    kvp: float = 120.0
    contrast: str = ""
    thickness: float | None = None
    slope: float = 1.0
    intercept: float = -1024.0
    syntax: str = "explicit"
    number: int = 2


@dataclass(frozen=True)
class _Planned:
    """One object to write: picture in HU ``[rows, columns]``, where, and what is odd about it."""

    key: str
    picture: np.ndarray
    position: np.ndarray
    orientation: np.ndarray
    series: str = "series"
    acquisition: int = 1
    kind: str = "AXIAL"
    sop: str = CT_IMAGE


def write_series(
    folder: str | Path,
    x: np.ndarray,
    affine: np.ndarray,
    *,
    record: str,
    patient: str = "",
    header: SeriesHeader | None = None,
    faults: Iterable[str] = (),
) -> Path:
    """Write ``x [X, Y, Z]`` (HU) as one CT image a slice along axis 2; return the folder.

    affine: voxel index to mm, RAS+, axes at right angles. record: any name; all identifiers follow from it. faults: of
    ``FAULTS``, any together.

    Raises:
        ConfigError: an unknown fault or transfer syntax, or values that 16 bits do not hold.
    """
    header, faults = header or SeriesHeader(), set(faults)
    if unknown := faults - set(FAULTS):
        raise ConfigError(
            f"unknown fault {sorted(unknown)[0]!r}; those that can be planted: {', '.join(FAULTS)}."
        )
    if header.syntax not in _SYNTAXES:
        raise ConfigError(f"unknown syntax {header.syntax!r}; one of {', '.join(_SYNTAXES)}.")
    if header.syntax == "jpeg2000" and min(x.shape[:2]) < 32:
        raise ConfigError(
            "JPEG 2000 is written for slices of at least 32 x 32 pixels; choose another syntax."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    planned = _with_faults(_planned(x, np.asarray(affine, float), spacing, faults), faults)
    numbers = np.arange(1, len(planned) + 1)
    names = numbers
    if "shuffled" in faults:
        rng = np.random.default_rng(len(planned))
        numbers, names = rng.permutation(numbers), rng.permutation(names)
    path = folder
    for one, number, name in zip(planned, numbers, names):
        path = folder / f"IM{name:04d}.dcm"
        data = _dataset(one, header, spacing, record, patient, int(number), "padding" in faults)
        data.save_as(str(path), enforce_file_format=True)
    if "truncated" in faults:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) * 7 // 10])
    return folder


def _planned(x: np.ndarray, affine: np.ndarray, spacing: np.ndarray, faults: set[str]) -> list[_Planned]:
    lps = LPS_TO_RAS @ affine
    along, down, through = (lps[:3, :3] / spacing).T
    stated = down
    if "orientation" in faults:
        stated = (down + 0.2 * along) / math.hypot(1, 0.2)
    slope = math.tan(math.radians(TILT_DEG)) if "tilt" in faults else 0.0
    planned = []
    for k in range(x.shape[2]):
        depth = k * spacing[2]
        if "irregular" in faults and k == x.shape[2] // 2:
            depth += 0.4 * spacing[2]
        position = lps[:3, 3] + through * depth + down * slope * depth
        picture = x[:, :, k].T.astype(np.float64)
        if slope:
            picture = _moved_up(picture, slope * depth / spacing[1])
        planned.append(_Planned(str(k), picture, position, np.concatenate([along, stated])))
    return planned


def _moved_up(picture: np.ndarray, rows: float) -> np.ndarray:
    """What a slice that lies ``rows`` further down shows of the same body; air comes in from below."""
    at = np.arange(len(picture)) + rows
    low = np.floor(at).astype(int)
    share = (at - low)[:, None]
    padded = np.concatenate([picture, np.full((2, picture.shape[1]), -1000.0)])
    last = len(padded) - 1
    return padded[np.minimum(low, last)] * (1 - share) + padded[np.minimum(low + 1, last)] * share


def _with_faults(slices: list[_Planned], faults: set[str]) -> list[_Planned]:
    """The same slices with some left out and others added."""
    middle, second = slices[len(slices) // 2], slices[1]
    planned = [middle] if "one_slice" in faults else list(slices)
    if "missing" in faults:
        planned.remove(middle)
    if "duplicate" in faults:
        planned.append(second)
    if "conflict" in faults:
        planned.append(replace(second, key="conflict", picture=second.picture + 50))
    if "phases" in faults:
        planned += [replace(s, key=f"{s.key} late", picture=s.picture + 30, acquisition=2) for s in slices]
    if "second_series" in faults:
        planned += [replace(s, series="second", picture=s.picture + 5) for s in slices]
    if "localizer" in faults:
        scout = np.stack([s.picture.mean(0) for s in slices[::-1]])
        orientation = np.concatenate([middle.orientation[:3], [0.0, 0.0, -1.0]])
        planned.append(replace(middle, key="scout", picture=scout, orientation=orientation, kind="LOCALIZER"))
    if "secondary_capture" in faults:
        planned.append(
            replace(middle, key="screen", kind="SCREEN SAVE", sop=SECONDARY_CAPTURE, series="screen")
        )
    return planned


def _dataset(
    one: _Planned,
    header: SeriesHeader,
    spacing: np.ndarray,
    record: str,
    patient: str,
    number: int,
    padded: bool,
) -> Any:
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    def uid(*names: str) -> str:
        return str(generate_uid(entropy_srcs=["medfm", record, *names]))

    meta = FileMetaDataset()
    instance = uid("object", one.series, one.key)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(one.sop), UID(instance)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = one.sop, instance
    data.StudyInstanceUID, data.SeriesInstanceUID = uid("study"), uid(one.series)
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = uid("frame"), ""
    data.PatientID, data.PatientName, data.PatientBirthDate = patient, "", ""
    data.PatientSex, data.PatientAge, data.PatientPosition = header.sex, f"{header.age:03d}Y", "HFS"
    data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20000101", "000000", "", ""
    data.SeriesDate, data.ContentDate, data.AcquisitionDate = "20000101", "20000101", "20000101"
    data.SeriesTime, data.ContentTime, data.AcquisitionTime = "000000", "000000", "000000"
    data.ReferringPhysicianName, data.Manufacturer, data.ManufacturerModelName = "", "medfm", header.device
    data.Modality, data.BodyPartExamined = "CT", header.body_part
    data.SeriesNumber = header.number + (one.series == "second") + 10 * (one.series == "screen")
    data.SeriesDescription = header.description + (" thin" if one.series == "second" else "")
    data.InstanceNumber, data.AcquisitionNumber = number, one.acquisition
    data.ImageType = ["DERIVED" if one.sop == SECONDARY_CAPTURE else "ORIGINAL", "PRIMARY", one.kind]
    data.BurnedInAnnotation, data.LossyImageCompression = "NO", "00"
    data.KVP, data.ConvolutionKernel = f"{header.kvp:g}", header.kernel
    if header.contrast:
        data.ContrastBolusAgent = header.contrast
    if one.sop == SECONDARY_CAPTURE:
        data.ConversionType = "WSD"
    else:
        _place(data, one, header, spacing)
    _pixels(data, one, header, padded)
    return data


def _place(data: Any, one: _Planned, header: SeriesHeader, spacing: np.ndarray) -> None:
    from pydicom.valuerep import format_number_as_ds

    def written(values: Iterable[float]) -> list[str]:
        return [format_number_as_ds(float(v) + 0.0) for v in values]

    data.ImagePositionPatient = written(one.position)
    data.ImageOrientationPatient = written(one.orientation)
    data.PixelSpacing = written((spacing[1], spacing[0]))
    data.SliceThickness = written([spacing[2] if header.thickness is None else header.thickness])[0]
    data.SliceLocation = written([one.position[2]])[0]
    data.GantryDetectorTilt = "0"


def _pixels(data: Any, one: _Planned, header: SeriesHeader, padded: bool) -> None:
    from pydicom.uid import JPEG2000Lossless, RLELossless

    stored = np.rint((one.picture - header.intercept) / header.slope)
    rows, columns = stored.shape
    if padded and one.sop == CT_IMAGE:
        y, x = np.ogrid[:rows, :columns]
        centre, radius = ((rows - 1) / 2, (columns - 1) / 2), min(rows, columns) / 2
        stored[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 > radius**2] = PADDING
        data.add_new("PixelPaddingValue", "SS", PADDING)
    if stored.min() < -32768 or stored.max() > 32767:
        raise ConfigError("its HU do not fit 16 bits with this slope and intercept; choose others.")
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = rows, columns
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    if one.sop == CT_IMAGE:
        data.RescaleIntercept, data.RescaleSlope = f"{header.intercept:g}", f"{header.slope:g}"
        data.RescaleType = "HU"
    data.WindowCenter, data.WindowWidth = "40", "400"
    data.PixelData = stored.astype("<i2").tobytes()
    if header.syntax != "explicit":
        syntax = RLELossless if header.syntax == "rle" else JPEG2000Lossless
        data.compress(syntax, generate_instance_uid=False)
