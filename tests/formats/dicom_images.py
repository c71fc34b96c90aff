"""Makes small DICOM radiographs for the tests: any bits, sign, photometric interpretation and transfer syntax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

SOP = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "RF": "1.2.840.10008.5.1.4.1.1.12.2",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "OT": "1.2.840.10008.5.1.4.1.1.7",
}


def ramp(rows: int = 40, columns: int = 48, bits: int = 12, signed: bool = False) -> np.ndarray:
    """Every level from lowest to highest on a smooth diagonal: int16 or uint16 (uint8 up to 8 bits)."""
    grey = (np.arange(rows)[:, None] + np.arange(columns)[None]) / (rows + columns - 2)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    kind = ("i" if signed else "u") + ("1" if bits <= 8 else "2")
    return np.rint(low + grey * (high - low)).astype(kind)


def dataset(stored: np.ndarray, bits: int = 12, modality: str = "CR", **tags: Any) -> Dataset:
    """A data set around ``stored [H, W]`` (or ``[H, W, 3]``, or frames ``[F, H, W]`` with NumberOfFrames in tags)."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = SOP[modality], generate_uid(entropy_srcs=[str(stored.shape)])
    data.Modality, data.PatientID = modality, "p1"
    colour = stored.ndim == 3 and stored.shape[2] == 3 and "NumberOfFrames" not in tags
    data.Rows, data.Columns = stored.shape[:2] if colour else stored.shape[-2:]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 * stored.dtype.itemsize, bits, bits - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def write(path: Path, stored: np.ndarray, bits: int = 12, modality: str = "CR", **tags: Any) -> Path:
    dataset(stored, bits, modality, **tags).save_as(path, enforce_file_format=True)
    return path


def lut_item(table: np.ndarray, first: int, bits: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(table) % 65536, first, bits])
    item.add_new("LUTData", "OW", table.astype("<u2").tobytes())
    return item


def compress(path: Path, name: str) -> Path:
    """The same file compressed by GDCM, which encodes what pydicom does not; ``name`` is GDCM's for the syntax."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
    change.SetInput(reader.GetImage())
    assert change.Change(), name
    out = path.with_name(f"{path.stem}_{name}.dcm")
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(out))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return out


def recode(path: Path, syntax: UID) -> Path:
    """The same file compressed by pydicom (RLE, JPEG-LS, JPEG 2000), deflated or big endian."""
    data = dcmread(path)
    out = path.with_name(f"{path.stem}_{syntax.replace('.', '_')}.dcm")
    if syntax.is_compressed:
        data.compress(syntax, generate_instance_uid=False)
    elif not syntax.is_little_endian:
        data.PixelData = data.pixel_array.astype(">u2").tobytes()
    data.file_meta.TransferSyntaxUID = syntax
    if syntax.is_little_endian:
        data.save_as(out)
    else:
        from pydicom import dcmwrite

        dcmwrite(out, data, implicit_vr=False, little_endian=False, force_encoding=True)
    return out
