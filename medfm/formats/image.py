"""Pictures of 8 and 16 bits as PACS, scanners and public sets export them (PNG, TIFF, JPEG, BMP), and 2-D NIfTI.

Such a file states neither window nor polarity: what is bright is shown bright, and an 8-bit picture was windowed by
whoever exported it (``meta["windowed"]``), which is why it is not to be mixed blindly with raw DICOM.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medfm.formats.base import existing_file, reading
from medfm.types import Finding, Image, ReadError

MAX_PIXELS = 170_000_000
"""Largest picture decoded: 13,000 x 13,000. A mammogram has up to 12,000 x 12,000."""

PILLOW_FORMATS = ("PNG", "TIFF", "JPEG", "BMP")
_DEPTH = {"1": 1, "L": 8, "LA": 8, "P": 8, "PA": 8, "RGB": 8, "RGBA": 8, "RGBX": 8, "I;16": 16, "I;16B": 16,
          "I;16L": 16, "I;16N": 16, "I": 32, "F": 32}  # fmt: skip


def read(path: str | Path) -> Image:
    """One picture, its values untouched: grey as ``[1, H, W]``, colour as ``[3, H, W]`` (transparency dropped).

    Raises:
        ReadError: more than ``MAX_PIXELS`` (told from the header, before anything is decoded), several pages, 16-bit
        colour, or a damaged file.
    """
    path = existing_file(path)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        with reading(path, "NIfTI"):
            return _nifti(path)
    with reading(path, "a picture"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of sizes that are checked here
        return _picture(path)


def check_pixels(path: Path, columns: int, rows: int) -> None:
    """Refuse by size, before decoding: what is packed into kilobytes may unpack to any size."""
    if columns < 1 or rows < 1:
        raise ReadError(f"{path}: states a size of {columns} x {rows} pixels; export the picture again.")
    if columns * rows > MAX_PIXELS:
        raise ReadError(
            f"{path}: states {columns} x {rows} pixels, more than the {MAX_PIXELS / 1e6:.0f} million that are "
            "decoded; if that is a real picture, export it smaller, otherwise the file is damaged or a bomb."
        )


def _picture(path: Path) -> Image:
    from PIL import Image as pillow
    from PIL import ImageOps

    try:
        file = pillow.open(path, formats=PILLOW_FORMATS)
    except pillow.DecompressionBombError as error:
        raise ReadError(
            f"{path}: states more pixels than the {MAX_PIXELS / 1e6:.0f} million that are decoded; if that is a real "
            "picture, export it smaller, otherwise the file is damaged or a bomb."
        ) from error
    with file:
        check_pixels(path, *file.size)
        if getattr(file, "n_frames", 1) > 1 and file.format == "TIFF":
            pages = getattr(file, "n_frames", 1)
            raise ReadError(
                f"{path}: holds {pages} pages; save the one that is the radiograph as its own file."
            )
        if file.format == "PNG" and not file.mode.startswith("I") and _png_depth(path) == 16:
            raise ReadError(
                f"{path}: has several channels of 16 bits; save it as grey of 16 bits, or as 8 bits."
            )
        if file.mode not in _DEPTH:
            raise ReadError(
                f"{path}: its pixels ({file.mode}) are neither grey nor RGB; save it as grey PNG."
            )
        kind, depth = str(file.format).lower(), _DEPTH[file.mode]
        # Pillow turns white-is-zero around for TIFF of 8 bits and leaves it to the caller for 16.
        inverted = depth > 8 and kind == "tiff" and file.tag_v2.get(262) == 0  # type: ignore[attr-defined]
        turned: Any = ImageOps.exif_transpose(file) if depth <= 8 else file
        if turned.mode in ("P", "PA", "RGBA", "RGBX"):
            turned = turned.convert("RGB")
        elif turned.mode in ("LA", "1"):
            turned = turned.convert("L")
        values = np.asarray(turned)
        spacing = _resolution(file.info)
    if depth == 32:
        depth = 16 if values.dtype.kind == "i" and values.min() >= 0 and values.max() < 65_536 else 32
    x = values.astype(np.float32)
    x = x[None] if x.ndim == 2 else np.ascontiguousarray(np.moveaxis(x, 2, 0))
    if not np.isfinite(x.sum(dtype=np.float64)):
        raise ReadError(f"{path}: holds values that are no numbers; save it as grey PNG of 8 or 16 bits.")
    meta: dict[str, Any] = {"windowed": depth <= 8}
    if spacing is not None:
        meta["print_spacing"] = spacing
    photometric = "RGB" if len(x) == 3 else "MONOCHROME1" if inverted else "MONOCHROME2"
    return Image(x, photometric, depth, kind, inverted=inverted, record=path.stem, meta=meta)


def _png_depth(path: Path) -> int:
    """Bits a channel from the IHDR chunk: Pillow reads 16-bit colour as its upper 8 bits."""
    with path.open("rb") as file:
        return file.read(25)[24]


def _resolution(info: Mapping[Any, Any]) -> tuple[float, float] | None:
    """mm a pixel (rows, columns) of the print resolution, which says nothing about the detector."""
    dpi = info.get("dpi")
    try:
        x, y = float(dpi[0]), float(dpi[1])  # type: ignore[index]
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return (25.4 / y, 25.4 / x) if min(x, y) > 1 else None


def _nifti(path: Path) -> Image:
    """Shown as a radiological viewer does by the header's axes: the patient's left on the right, head or front up."""
    import nibabel

    volume: Any = nibabel.load(path)
    shape = tuple(int(n) for n in volume.shape)
    flat = [n for n in shape if n != 1]
    if len(flat) != 2:
        raise ReadError(
            f"{path}: is {' x '.join(map(str, shape))} voxels: a volume, not one picture; save the one picture that is meant."
        )
    check_pixels(path, flat[0], flat[1])
    closest = nibabel.as_closest_canonical(volume)
    data = np.asarray(closest.dataobj, np.float32)
    axes = [i for i, n in enumerate(closest.shape) if n != 1]
    zooms = [float(z) for z in closest.header.get_zooms()]
    plane = data.reshape([closest.shape[i] for i in axes])
    x = np.ascontiguousarray(plane[::-1, ::-1].T)
    if not np.isfinite(x.sum(dtype=np.float64)):
        raise ReadError(f"{path}: holds values that are no numbers; mask them before you save.")
    pitch = (zooms[axes[1]], zooms[axes[0]])
    spacing = pitch if min(pitch) > 0 else None
    found = Finding(
        "nifti-orientation", "up and left were taken from the NIfTI header's axes; look at it.", "info"
    )
    record = path.name.lower().removesuffix(".gz").removesuffix(".nii")
    return Image(
        x[None],
        "MONOCHROME2",
        8 * volume.get_data_dtype().itemsize,
        "nifti",
        spacing=spacing,
        aspect=pitch[0] / pitch[1] if spacing else 1.0,
        record=path.name[: len(record)],
        meta={"windowed": volume.get_data_dtype().itemsize == 1, "spacing": "nifti"},
        findings=(found,),
    )
