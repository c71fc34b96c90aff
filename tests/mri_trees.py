"""Small MRI subjects as files: a head of different contrast for each sequence, as NIfTI and as MR series in DICOM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from medfm.formats.series_write import SeriesHeader, write_series
from medfm.formats.volume_write import write_nifti

SHAPE = (20, 18, 16)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"


def head(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """int16 ``[X, Y, Z]``: an ellipsoid of noise on zero; another seed is another picture."""
    at = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    inside = (at**2).sum(0) < 0.8
    rng = np.random.default_rng(seed)
    return np.where(inside, rng.integers(100, 900, shape), 0).astype(np.int16)


def mask(*numbers: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    x = np.zeros(shape, np.uint8)
    for k, number in enumerate(numbers):
        x[8 + k, 8:11, 7:10] = number
    return x


def put(root: Path, *names: str, affine: np.ndarray = AFFINE) -> Path:
    """A NIfTI at each place, every one another picture; masks (``*seg*``, ``*mask*``) of 1."""
    for k, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        what = file.name.lower()
        write_nifti(file, mask(1) if "seg" in what or "mask" in what else head(k + len(name)), affine)
    return root


def write_mr(
    folder: Path,
    description: str,
    patient: str = "P1",
    study: str = "1",
    slices: int = 6,
    number: int = 1,
    **tags: Any,
) -> Path:
    """An MR series of 16 x 16 pixels; ``tags`` by DICOM keyword, None removes one."""
    folder.mkdir(parents=True)
    header = SeriesHeader(description=description, intercept=0.0, number=number)
    record = f"{folder.name} {patient} {study}"
    write_series(
        folder, head(number, (16, 16, slices)), AFFINE, record=record, patient=patient, header=header
    )
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        data.Modality, data.SOPClassUID, data.file_meta.MediaStorageSOPClassUID = "MR", MR_IMAGE, MR_IMAGE
        data.StudyInstanceUID = f"1.2.3.{study}"
        for key in ("RescaleType", "RescaleSlope", "RescaleIntercept", "KVP", "ConvolutionKernel"):
            if key in data:
                delattr(data, key)
        data.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        for key, value in tags.items():
            setattr(data, key, value)
        data.save_as(file)
    return folder


SE_T1 = {"ScanningSequence": "SE", "RepetitionTime": "600", "EchoTime": "12"}
SE_T2 = {"ScanningSequence": "SE", "RepetitionTime": "4000", "EchoTime": "100"}
FLAIR = {
    "ScanningSequence": ["SE", "IR"],
    "RepetitionTime": "9000",
    "EchoTime": "110",
    "InversionTime": "2500",
}
