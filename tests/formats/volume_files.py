"""Makes small volumes for the tests: a body in air, grids in any orientation, NRRD, MetaImage and enhanced DICOM files."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


def body(shape: tuple[int, int, int] = (20, 16, 8), seed: int = 0) -> np.ndarray:
    """HU int16 ``[X, Y, Z]``: an ellipse of soft tissue with a bone in air, no two voxels' rows alike."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    radius = ((x - shape[0] / 2 + 1) / (0.4 * shape[0])) ** 2 + ((y - shape[1] / 2) / (0.35 * shape[1])) ** 2
    hu = np.where(radius < 1, 40, -1000)
    hu[(radius < 0.05) & (z > 1)] = 700
    return (hu + np.random.default_rng(seed).integers(-15, 16, shape)).astype(np.int16)


def turned(
    axes: tuple[int, int, int] = (0, 1, 2),
    signs: tuple[int, int, int] = (1, 1, 1),
    spacing: tuple[float, float, float] = (0.8, 0.7, 2.5),
    origin: tuple[float, float, float] = (-12.5, 20.25, 31.0),
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """RAS+ affine: voxel axis i runs along patient axis ``axes[i]``, then everything is rotated by ``angles``, degrees."""
    directions = np.zeros((3, 3))
    for i, (axis, sign) in enumerate(zip(axes, signs)):
        directions[axis, i] = sign
    for k, angle in enumerate(np.radians(angles)):
        a, b = [i for i in range(3) if i != k]
        rotation = np.eye(3)
        rotation[a, a] = rotation[b, b] = np.cos(angle)
        rotation[a, b], rotation[b, a] = -np.sin(angle), np.sin(angle)
        directions = rotation @ directions
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions * spacing, origin
    return affine


def same_places(x: np.ndarray, affine: np.ndarray, y: np.ndarray, other: np.ndarray) -> bool:
    """Do two grids hold the same values at the same mm? Every voxel of ``x`` is looked up in ``y``."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in x.shape), indexing="ij"), -1).reshape(-1, 3)
    mm = index @ affine[:3, :3].T + affine[:3, 3]
    there = (mm - other[:3, 3]) @ np.linalg.inv(other[:3, :3]).T
    if x.size != y.size or np.abs(there - np.rint(there)).max() > 1e-3:
        return False
    i, j, k = np.rint(there).astype(int).T
    if min(i.min(), j.min(), k.min()) < 0 or (np.array([i.max(), j.max(), k.max()]) >= y.shape).any():
        return False
    return np.array_equal(x.ravel(), y[i, j, k])


def write_nrrd(path: Path, x: np.ndarray, **fields: str) -> Path:
    """A raw NRRD, header lines as given over a plain LPS one (``_`` in a name is a space; None leaves a line out)."""
    kinds = {"i2": "short", "u1": "uchar", "f4": "float", "f8": "double", "i4": "int"}
    lines: dict[str, Any] = {
        "type": kinds[x.dtype.str[1:]],
        "dimension": str(x.ndim),
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, x.shape)),
        "space directions": "(0.8,0,0) (0,0.7,0) (0,0,2.5)",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(10,20,30)",
    } | {k.replace("_", " "): v for k, v in fields.items()}
    head = "NRRD0004\n# made by a test\n" + "".join(f"{k}: {v}\n" for k, v in lines.items() if v is not None)
    path.write_bytes(head.encode() + b"\n" + x.tobytes(order="F"))
    return path


def write_mha(path: Path, x: np.ndarray, packed: bool = False, beside: str = "", **fields: str) -> Path:
    """A MetaImage of its own header lines over a plain one (None leaves a line out)."""
    kinds = {"i2": "MET_SHORT", "u1": "MET_UCHAR", "f4": "MET_FLOAT"}
    data = x.tobytes(order="F")
    data = zlib.compress(data) if packed else data
    lines: dict[str, Any] = {
        "ObjectType": "Image",
        "NDims": str(x.ndim),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(packed),
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "10 20 30",
        "ElementSpacing": "0.8 0.7 2.5",
        "DimSize": " ".join(map(str, x.shape)),
        "ElementType": kinds[x.dtype.str[1:]],
    } | fields
    lines["ElementDataFile"] = beside or "LOCAL"
    head = "".join(f"{k} = {v}\n" for k, v in lines.items() if v is not None).encode()
    path.write_bytes(head if beside else head + data)
    if beside and "/" not in beside:
        path.with_name(beside).write_bytes(data)
    return path


def write_enhanced(
    path: Path,
    frames: list[tuple[np.ndarray, tuple[float, float, float], dict[str, Any]]],
    rescale: float = -1024,
) -> Path:
    """One enhanced CT object: (stored int16 ``[rows, columns]``, position, frame content) a frame; axial, 0.7 x 0.8 mm."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UID(ENHANCED_CT)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    data.FrameOfReferenceUID = "1.2.3.5"
    data.Modality, data.PatientID, data.ImageType = "CT", "p7", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.Rows, data.Columns = frames[0][0].shape
    data.NumberOfFrames, data.SamplesPerPixel, data.PhotometricInterpretation = len(frames), 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    shared, measures, orientation, values = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = ["0.7", "0.8"], "2.5"
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    values.RescaleIntercept, values.RescaleSlope, values.RescaleType = rescale, 1, "HU"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    shared.PixelValueTransformationSequence = [values]
    data.SharedFunctionalGroupsSequence = [shared]
    items = []
    for _, position, content in frames:
        item, plane, about = Dataset(), Dataset(), Dataset()
        plane.ImagePositionPatient = list(position)
        for name, value in content.items():
            setattr(about, name, value)
        item.PlanePositionSequence, item.FrameContentSequence = [plane], [about]
        items.append(item)
    data.PerFrameFunctionalGroupsSequence = items
    data.PixelData = np.stack([f[0] for f in frames]).astype("<i2").tobytes()
    data.save_as(path, enforce_file_format=True)
    return path
