"""Projection radiographs as DICOM: CR, DX, MG, RF and secondary capture; any other single image is read as well.

Order of the standard (PS3.3 C.7.6.3, C.11.1, C.11.2): stored value, modality LUT or rescale; windows, LUTs and the
inversion come after that and are handed over with the values, because choosing one is not the reader's business.
"""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np

from medfm.formats.base import existing_file, reading
from medfm.formats.dicom import identity, mapped
from medfm.formats.dicom_pixels import stored_values
from medfm.formats.image import MAX_PIXELS
from medfm.formats.radiograph_header import aspect_of, facts, lut_table, masked, spacing_of, views_of
from medfm.types import Finding, Image, ReadError

GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")  # photometric interpretations of one sample a pixel
RUNS = ("XA", "RF", "CR", "DX", "MG", "OT", "SC", "")  # modalities whose frames may each be a radiograph
REMEDY = "Export it from the archive again."


def read(path: str | Path, frame: int | None = None) -> Image:
    """One image of a DICOM file, its values after modality LUT or rescale.

    frame: which frame of a multi-frame object, from 0. Without it a multi-frame object is refused: a cine run is
    many pictures of one moment, and which of them is meant is for a person to say (``file.dcm#12``).

    Raises:
        ReadError: no image in the object, several frames, or pixels that cannot be (said in one sentence).
    """
    path = existing_file(path)
    import pydicom

    with (
        reading(path, "DICOM", REMEDY),
        mapped(path) as file,
        pydicom.config.disable_value_validation(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # odd names, dates and lengths are no reason to warn, or to stop
        refuse_bomb(path)
        try:
            data = pydicom.dcmread(cast(Any, file), force=file[128:132] != b"DICM")
        except (ValueError, EOFError) as error:
            if isinstance(error, EOFError) or "out of range" in str(
                error
            ):  # mmap's word for beyond the file's end
                raise ReadError(f"{path}: ends in the middle: it was cut short. {REMEDY}") from error
            raise
        return _image(path, data, frame)


def frames(path: Path) -> int:
    """Number of frames that the header states; 1 where it states none."""
    import pydicom

    with reading(path, "DICOM", REMEDY), mapped(path) as file, pydicom.config.disable_value_validation():
        data = pydicom.dcmread(
            cast(Any, file),
            force=file[128:132] != b"DICM",
            specific_tags=["NumberOfFrames"],
            stop_before_pixels=True,
        )
        return int(data.get("NumberOfFrames", 1) or 1)


def refuse_bomb(path: Path) -> None:
    """A deflated data set may unpack to any size: unpack it once, keeping nothing, before pydicom does so whole."""
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        file.seek(144 + int(meta.get("FileMetaInformationGroupLength", 0)))
        stream, total = zlib.decompressobj(-15), 0
        while block := file.read(1 << 16):
            while block and not stream.eof:
                total += len(stream.decompress(block, 1 << 24))
                block = stream.unconsumed_tail
                if total > 4 * MAX_PIXELS:
                    raise ReadError(
                        f"{path}: unpacks to more than {4 * MAX_PIXELS / 1e9:.2g} GB; it is no radiograph."
                    )


def _image(path: Path, data: Any, frame: int | None) -> Image:
    transfer_syntax(path, data)
    sop = data.get("SOPClassUID", "")
    named = str(getattr(sop, "name", sop))
    if "Rows" not in data and "PixelData" not in data:
        raise ReadError(f"{path}: {_no_image(named, data)}")
    count = int(data.get("NumberOfFrames", 1) or 1)
    if frame is None and count > 1:
        held = f"holds {count} frames ({named or 'of no stated kind'})"
        if str(data.get("Modality", "") or "").strip().upper() not in RUNS:
            raise ReadError(f"{path}: {held}, not a radiograph.")
        raise ReadError(
            f"{path}: {held}; name the one that is meant in a table, for instance {path.name}#0, or export it as a "
            "single image."
        )
    if not 0 <= (frame or 0) < count:
        raise ReadError(f"{path}: holds frames 0 to {count - 1}; there is no frame {frame}.")
    described = facts(data)  # before decoding, which lets go of the pixel bytes
    photometric = str(data.get("PhotometricInterpretation", "") or "").strip().upper()
    told = photometric
    if int(data.get("SamplesPerPixel", 1) or 1) == 1 and photometric not in GREY:
        data.PhotometricInterpretation = photometric = "MONOCHROME2"
    values, odd = stored_values(path, data, frame or 0)
    found = [*odd]
    if values.ndim == 3:
        x, valid, field = _colour(values), None, None
        photometric = "RGB"
    elif photometric == "PALETTE COLOR":
        x, valid, field, photometric = _palette(values, data), None, None, "RGB"
        described["range"] = (0.0, 255.0)
    else:
        valid, field = masked(values, data)
        described["range"] = _range(values, data)
        x = modality_lut(values, data)[None]
        if told != photometric:
            states = f"states {told!r}" if told else "states no photometric interpretation"
            found.append(Finding("photometric", f"{states}; small values were taken for dark."))
    del values
    if not np.isfinite(x.sum(dtype=np.float64)):
        raise ReadError(f"{path}: its modality LUT yields values that are no numbers. {REMEDY}")
    inverted, remark = _inverted(told, data)
    patient, meta = identity(data)
    spacing, plane = spacing_of(data)
    if plane:
        meta["spacing_plane"] = plane
    number = "" if frame is None else f"#{frame}"
    return Image(
        x,
        photometric,
        int(data.BitsStored),
        "dicom",
        spacing=spacing,
        aspect=aspect_of(data, spacing),
        inverted=inverted,
        voi=views_of(data),
        valid=valid,
        field=field,
        record=path.stem + number,
        patient=patient,
        meta={**meta, **described},
        findings=(*found, *remark),
    )


def _no_image(named: str, data: Any) -> str:
    """What a data set without an image is: cut short, an object of another kind, or something else altogether."""
    if getattr(data, "preamble", None) is None and not named:
        return "is no DICOM file, whatever its name says; give the image itself."
    if not named or named.endswith("Image Storage"):
        return f"ends before its image: it was cut short. {REMEDY}"
    return f"is {named} without an image; give the image itself."


def transfer_syntax(path: Path, data: Any) -> None:
    """A file without its meta header, as some carts and CD burners write: the encoding that it was parsed with."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if getattr(data, "file_meta", None) is None:
        data.file_meta = FileMetaDataset()
    if data.file_meta.get("TransferSyntaxUID"):
        return
    pixels = data.get("PixelData") or b""
    if bytes(pixels[:4]) == b"\xfe\xff\x00\xe0":
        raise ReadError(f"{path}: its pixels are compressed and its header does not say how. {REMEDY}")
    implicit, little = data.original_encoding
    data.file_meta.TransferSyntaxUID = (
        ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    )


def modality_lut(stored: np.ndarray, data: Any) -> np.ndarray:
    """Stored values ``[H, W]`` -> float32 through the modality LUT sequence, else slope and intercept.

    Written out because pydicom 3.0 builds no table of 9 to 15 bits and computes in 64 bits, four times a mammogram.
    """
    if data.get("ModalityLUTSequence"):
        item = data.ModalityLUTSequence[0]
        table, first = lut_table(item, data)
        return table[np.clip(stored.astype(np.int32) - first, 0, len(table) - 1)]  # type: ignore[no-any-return]
    x = stored.astype(np.float32)
    slope, intercept = data.get("RescaleSlope"), data.get("RescaleIntercept")
    if slope is not None and float(slope) not in (0.0, 1.0):
        x *= np.float32(slope)
    if intercept is not None and float(intercept) != 0.0:
        x += np.float32(intercept)
    return x


def _range(stored: np.ndarray, data: Any) -> tuple[float, float]:
    """Smallest and largest value that the stored bits can hold, after the modality LUT (which rises or falls)."""
    signed = stored.dtype.kind == "i"
    largest = max(int(stored.max()), -int(stored.min()) - 1, 0)
    bits = max(int(data.BitsStored), largest.bit_length() + signed)  # more than stated where that is wrong
    ends = np.array([[-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1]], np.int64)
    low, high = sorted(float(v) for v in modality_lut(ends, data)[0])
    return low, high


def _colour(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(values, 2, 0), np.float32)


def _palette(values: np.ndarray, data: Any) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    colours = apply_color_lut(values, data)
    if colours.dtype == np.uint16:
        colours = colours >> 8
    return np.ascontiguousarray(np.moveaxis(colours[..., :3], 2, 0), np.float32)


def _inverted(photometric: str, data: Any) -> tuple[bool, list[Finding]]:
    """Is small bright? MONOCHROME1 says so, and so does PRESENTATION LUT SHAPE INVERSE; in DX both say the same."""
    shape = str(data.get("PresentationLUTShape", "") or "").strip().upper()
    first = photometric == "MONOCHROME1"
    if (first and shape == "IDENTITY") or (photometric == "MONOCHROME2" and shape == "INVERSE"):
        message = (
            f"{photometric} and PresentationLUTShape {shape} contradict each other: it was shown inverted."
        )
        return True, [Finding("presentation-contradiction", message)]
    return first or shape == "INVERSE", []
