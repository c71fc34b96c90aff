"""What the header of a DICOM radiograph says beside its pixels: spacing, masks, windows, view, intent."""

from __future__ import annotations

from typing import Any

import numpy as np

from medfm.types import Voi

# DICOM's words for a projection -> ours
_VIEWS = {
    "PA": "PA",
    "AP": "AP",
    "LL": "lateral",
    "RL": "lateral",
    "RLD": "lateral decubitus",
    "LLD": "lateral decubitus",
    "RLO": "oblique",
    "LLO": "oblique",
    "LATERAL": "lateral",
    "LAT": "lateral",
}


# Elements that a slice of a volume has and a projection has not
_SLICE = (
    "SliceThickness",
    "SliceLocation",
    "ImagePositionPatient",
    "ReconstructionDiameter",
    "ConvolutionKernel",
)


def facts(data: Any) -> dict[str, Any]:
    """Plain facts for ``Image.meta``: modality, SOP class, view, side, body part, intent, burned-in text, lossy, and
    ``slice``, what shows that it is one.
    """
    words = {
        "modality": "Modality",
        "laterality": "ImageLaterality",
        "body_part": "BodyPartExamined",
        "intent": "PresentationIntentType",
        "burned_in": "BurnedInAnnotation",
        "study": "StudyInstanceUID",
        "series": "SeriesInstanceUID",
        "conversion": "ConversionType",
    }
    found = {name: str(data.get(key)).strip() for name, key in words.items() if data.get(key)}
    if "laterality" not in found and data.get("Laterality"):
        found["laterality"] = str(data.Laterality).strip()
    if sop := data.get("SOPClassUID"):
        found["sop_class"] = str(getattr(sop, "name", sop))
    if found.get("modality") == "MG":
        found.setdefault("body_part", "BREAST")
    if str(data.get("RescaleType", "") or "").strip().upper() == "HU":
        found["slice"] = "Hounsfield units"
    elif known := [word for word in _SLICE if data.get(word) not in (None, "")]:
        found["slice"] = known[0]
    position = str(data.get("ViewPosition", "") or "").strip().upper()
    if position:
        found["view_position"] = position
        found["view"] = _VIEWS.get(position, position)
    # 8 bits from a secondary capture were windowed by whoever captured them.
    windowed = int(data.get("BitsStored", 16) or 16) <= 8
    return {**found, "windowed": windowed, "lossy": str(data.get("LossyImageCompression", "")) == "01"}


def spacing_of(data: Any) -> tuple[tuple[float, float] | None, str]:
    """mm a pixel (rows, columns), and the plane in which it holds.

    ``detector``: ImagerPixelSpacing, the size on the detector, larger than in the patient by an unknown factor.
    ``patient``: PixelSpacing that a calibration brought into the patient, which it must say or show by differing.
    ``film``: of a digitised film. ``unknown``: PixelSpacing alone (PS3.3 10.7.1.3).
    """
    imager, pixel = _pair(data, "ImagerPixelSpacing"), _pair(data, "PixelSpacing")
    if pixel is not None and data.get("PixelSpacingCalibrationType"):
        return pixel, "patient"
    if imager is not None and pixel is not None and not np.allclose(imager, pixel, rtol=1e-3):
        return pixel, "patient"
    if imager is not None:
        return imager, "detector"
    if pixel is not None:
        return pixel, "unknown"
    if (film := _pair(data, "NominalScannedPixelSpacing")) is not None:
        return film, "film"
    return None, ""


def aspect_of(data: Any, spacing: tuple[float, float] | None) -> float:
    """Row pitch over column pitch: from the spacing, else PixelAspectRatio, else 1 (square)."""
    pair = spacing or _pair(data, "PixelAspectRatio")
    aspect = pair[0] / pair[1] if pair else 1.0
    return aspect if 0.2 < aspect < 5 else 1.0


def _pair(data: Any, key: str) -> tuple[float, float] | None:
    try:
        first, second = (float(v) for v in data[key].value)
    except (KeyError, TypeError, ValueError):
        return None
    return (first, second) if 1e-4 < first < 1e4 and 1e-4 < second < 1e4 else None


def masked(stored: np.ndarray, data: Any) -> tuple[np.ndarray | None, tuple[int, int, int, int] | None]:
    """Where the picture is, bool ``[H, W]`` (padding and display shutter left out), and the collimated field.

    None for everywhere, and for a field that is not stated or is no rectangle inside the picture.
    """
    valid = None
    if (padding := _integer(data, "PixelPaddingValue", stored)) is not None:
        limit = _integer(data, "PixelPaddingRangeLimit", stored)
        low, high = sorted((padding, padding if limit is None else limit))
        valid = (stored < low) | (stored > high)
    shutter = _shape(data, "Shutter", stored.shape)
    if shutter is not None:
        valid = shutter if valid is None else valid & shutter
    if valid is not None and valid.all():
        valid = None
    return valid, _rectangle(data, "Collimator", stored.shape)


def _integer(data: Any, key: str, stored: np.ndarray) -> int | None:
    """A padding value, whose sign a careless writer gets wrong as often as not: as the pixels' own type holds it."""
    value = data.get(key)
    if value is None:
        return None
    try:
        number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)
    except (TypeError, ValueError):
        return None
    if stored.dtype.kind == "i" and number > np.iinfo(stored.dtype).max:
        number -= 2 ** (8 * stored.dtype.itemsize)
    if stored.dtype.kind == "u" and number < 0:
        number += 2 ** (8 * stored.dtype.itemsize)
    return number


def _shape(data: Any, prefix: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """True inside the shutter: the intersection of its rectangle, circle and polygon (PS3.3 C.7.6.11)."""
    words = data.get(f"{prefix}Shape") or []
    words = [words] if isinstance(words, str) else list(words)
    inside = None
    for word in words:
        part = None
        if word == "RECTANGULAR" and (box := _rectangle(data, prefix, shape)) is not None:
            part = np.zeros(shape, bool)
            part[box[0] : box[1], box[2] : box[3]] = True
        elif word == "CIRCULAR" and data.get(f"CenterOfCircular{prefix}"):
            row, column = (float(v) - 1 for v in data[f"CenterOfCircular{prefix}"].value)
            radius = float(data[f"RadiusOfCircular{prefix}"].value)
            y, x = np.ogrid[: shape[0], : shape[1]]
            part = (y - row) ** 2 + (x - column) ** 2 <= radius**2
        elif word == "POLYGONAL" and data.get(f"VerticesOfThePolygonal{prefix}"):
            part = _polygon(data[f"VerticesOfThePolygonal{prefix}"].value, shape)
        if part is not None and part.any():
            inside = part if inside is None else inside & part
    return inside


def _polygon(numbers: Any, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image, ImageDraw

    points = np.array([float(v) for v in numbers]).reshape(-1, 2) - 1
    canvas = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(canvas).polygon([(x, y) for y, x in points.tolist()], fill=1, outline=1)
    return np.array(canvas, bool)


def _rectangle(data: Any, prefix: str, shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """(top, bottom, left, right) half open. The stated edges are the first lines that are hidden, counted from 1."""
    edges = ("UpperHorizontalEdge", "LowerHorizontalEdge", "LeftVerticalEdge", "RightVerticalEdge")
    stated = [data.get(f"{prefix}{edge}") for edge in edges]
    if any(v is None for v in stated):
        return None
    upper, lower, left, right = (int(v) for v in stated)
    box = (max(0, upper), min(shape[0], lower - 1), max(0, left), min(shape[1], right - 1))
    return box if box[1] - box[0] > 8 and box[3] - box[2] > 8 else None


def views_of(data: Any) -> tuple[Voi, ...]:
    """VOI LUTs first (the standard lets either be used; the LUT is the vendor's own curve), then the windows."""
    found: list[Voi] = []
    for item in data.get("VOILUTSequence") or ():
        if item.get("LUTDescriptor") is not None and item.get("LUTData") is not None:
            table, first = lut_table(item, data)
            bits = int(item.LUTDescriptor[2])
            told = str(item.get("LUTExplanation", "") or "")
            found.append(Voi(table=table, first=first, bits=bits, explanation=told))
    function = str(data.get("VOILUTFunction", "") or "LINEAR").strip().upper()
    function = function if function in ("LINEAR", "LINEAR_EXACT", "SIGMOID") else "LINEAR"
    centres, widths = _numbers(data, "WindowCenter"), _numbers(data, "WindowWidth")
    told_of = data.get("WindowCenterWidthExplanation") or ""
    words = [told_of] if isinstance(told_of, str) else [str(w) for w in told_of]
    for i, (centre, width) in enumerate(zip(centres, widths)):
        least = 1.0 if function == "LINEAR" else 1e-6
        if np.isfinite(centre) and np.isfinite(width) and width >= least:
            found.append(Voi(centre, width, function, explanation=words[i] if i < len(words) else ""))
    return tuple(found)


def _numbers(data: Any, key: str) -> list[float]:
    value = data.get(key)
    if value is None or value == "":
        return []
    try:
        return (
            [float(v) for v in value]
            if hasattr(value, "__iter__") and not isinstance(value, str)
            else [float(value)]
        )
    except (TypeError, ValueError):
        return []


def lut_table(item: Any, data: Any) -> tuple[np.ndarray, int]:
    """Entries of a LUT item as float32 ``[N]``, and the value that the first one stands for (PS3.3 C.11.1.1).

    Entries are 16-bit words, or bytes packed two a word where the table has 8 bits and so many bytes. The first value
    mapped has the sign of the pixels, whichever way the file wrote it.
    """
    count, first, _ = (int(v) for v in item.LUTDescriptor)
    count = count or 65_536
    raw = item.LUTData
    if isinstance(raw, bytes | bytearray):
        big = str(data.file_meta.get("TransferSyntaxUID", "")) == "1.2.840.10008.1.2.2"
        wide = len(raw) >= 2 * count
        words = np.frombuffer(raw, (">u2" if big else "<u2") if wide else "u1")
    else:
        words = np.asarray(list(raw) if hasattr(raw, "__iter__") else [raw])
    if len(words) == 0:
        raise ValueError("an empty lookup table")
    signed = (
        int(data.get("PixelRepresentation", 0) or 0) == 1 or float(data.get("RescaleIntercept", 0) or 0) < 0
    )
    if signed and first > 32_767:
        first -= 65_536
    return words[:count].astype(np.float32), first
