"""Radiographs written as DICOM: DX for presentation or CR, one frame, uncompressed, with the header a machine writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CR_STORAGE = "1.2.840.10008.5.1.4.1.1.1"
DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
# SNOMED CT codes of context group 4010 and the patient directions of image rows and columns
_VIEWS = {
    "PA": ("399348003", "postero-anterior", ["L", "F"]),
    "AP": ("399173006", "antero-posterior", ["L", "F"]),
    "LL": ("399260004", "left lateral", ["P", "F"]),
}


@dataclass(frozen=True)
class RadiographHeader:
    """What a radiograph's header says beside its pixels.

    record: any name; the object's identifiers follow from it. age: years. view: PA, AP or LL. cr: a phosphor plate
    (CR) instead of a flat panel (DX). bits: stored, 8 to 16. inverse: MONOCHROME1. pixel_mm: on the detector. sid_mm:
    source to detector. frame: left, top, right, bottom of the collimated field, pixels.
    """

    record: str
    patient: str
    age: int
    sex: str
    view: str
    device: str
    cr: bool = False
    bits: int = 12
    inverse: bool = False
    pixel_mm: float = 0.15
    sid_mm: float = 1800.0
    kvp: float = 120.0
    frame: tuple[int, int, int, int] | None = None


def write_radiograph(path: str | Path, image: np.ndarray, header: RadiographHeader) -> Path:
    """Write ``image [H, W]`` (0 displayed black to 1 displayed white) to ``path``; return it.

    The stored values fill the middle nine tenths of the range of ``bits``, and the header's window (VOI LUT function
    LINEAR, PS3.3 C.11.2.1.2.1) takes them back to 0 to 1; a MONOCHROME1 object stores the negative, which displays
    as the same picture.
    """
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    assert 8 <= header.bits <= 16 and image.ndim == 2, "8 to 16 bits a pixel, one grey image"
    sop = CR_STORAGE if header.cr else DX_FOR_PRESENTATION
    uids = [
        generate_uid(entropy_srcs=["medfm", level, header.record]) for level in ("study", "series", "object")
    ]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop), uids[2]
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = sop, uids[2]
    data.StudyInstanceUID, data.SeriesInstanceUID = uids[0], uids[1]
    data.PatientID, data.PatientName, data.PatientSex, data.PatientBirthDate = (
        header.patient,
        "",
        header.sex,
        "",
    )
    data.PatientAge = f"{header.age:03d}Y"
    data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20000101", "000000", "", ""
    data.ContentDate, data.ContentTime, data.AcquisitionDate = "20000101", "000000", "20000101"
    data.ReferringPhysicianName, data.Manufacturer, data.ManufacturerModelName = "", "medfm", header.device
    data.Modality, data.SeriesNumber, data.InstanceNumber = ("CR" if header.cr else "DX"), 1, 1
    data.ImageType = ["DERIVED" if header.cr else "ORIGINAL", "PRIMARY", ""]
    data.BodyPartExamined, data.BurnedInAnnotation, data.LossyImageCompression = "CHEST", "NO", "00"
    _geometry(data, header)
    _pixels(data, image, header)
    data.save_as(str(path), enforce_file_format=True)
    return Path(path)


def _geometry(data: Any, header: RadiographHeader) -> None:
    code, meaning, orientation = _VIEWS[header.view]
    data.ViewPosition, data.PatientOrientation = header.view, orientation
    data.ImagerPixelSpacing = [f"{header.pixel_mm:.5g}"] * 2
    data.DistanceSourceToDetector, data.KVP = f"{header.sid_mm:.5g}", f"{header.kvp:.4g}"
    if header.frame is not None:
        left, top, right, bottom = header.frame
        data.CollimatorShape = "RECTANGULAR"
        # the edges' own columns and rows count as shuttered (PS3.3 C.8.7.3)
        data.CollimatorLeftVerticalEdge, data.CollimatorRightVerticalEdge = left, right + 1
        data.CollimatorUpperHorizontalEdge, data.CollimatorLowerHorizontalEdge = top, bottom + 1
    if header.cr:
        return
    data.PresentationIntentType, data.ImageLaterality = "FOR PRESENTATION", "U"
    data.ViewCodeSequence = [_coded(code, meaning)]
    data.AnatomicRegionSequence = [_coded("51185008", "Chest")]
    data.DetectorType, data.PositionerType, data.AcquisitionContextSequence = "SCINTILLATOR", "NONE", []
    data.PixelIntensityRelationship, data.PixelIntensityRelationshipSign = "LOG", 1 if header.inverse else -1
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = 0, 1, "US"
    data.PresentationLUTShape = "INVERSE" if header.inverse else "IDENTITY"


def _coded(value: str, meaning: str) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _pixels(data: Any, image: np.ndarray, header: RadiographHeader) -> None:
    top = 2**header.bits - 1
    low, high = round(0.05 * top), round(0.95 * top)
    stored = np.rint(low + np.clip(image, 0, 1) * (high - low))
    if header.inverse:
        stored = top - stored
        low, high = top - high, top - low
    data.PhotometricInterpretation = "MONOCHROME1" if header.inverse else "MONOCHROME2"
    data.SamplesPerPixel, data.Rows, data.Columns = 1, *image.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, header.bits, header.bits - 1
    data.PixelRepresentation = 0
    data.WindowCenter, data.WindowWidth = f"{(low + high + 1) / 2:.6g}", f"{high - low + 1}"
    data.VOILUTFunction = "LINEAR"
    data.PixelData = stored.astype("<u2").tobytes()
