"""Stored pixel values of a DICOM image: decompressed, colour spaces resolved, unused bits taken off.

Decoders come with a plain install and are permissively licensed: python-gdcm (Apache-2.0), Pillow (MIT-CMU), pyjpegls
(MIT), pylibjpeg-openjpeg (MIT); pydicom itself decodes RLE. pylibjpeg-libjpeg (GPL-3) is never a dependency.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from medfm.formats.image import check_pixels
from medfm.types import Finding, ReadError

DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
JPEG_12_BIT = "1.2.840.10008.1.2.4.51"

# Start of a transfer syntax -> what decodes it; all but the last line come with a plain install.
PACKAGES: tuple[tuple[str, str], ...] = (
    ("1.2.840.10008.1.2.4.50", "pillow"),
    ("1.2.840.10008.1.2.4.5", "python-gdcm"),
    ("1.2.840.10008.1.2.4.70", "python-gdcm"),
    ("1.2.840.10008.1.2.4.8", "pyjpegls"),
    ("1.2.840.10008.1.2.4.9", "python-gdcm"),
    ("1.2.840.10008.1.2.4.20", "pylibjpeg pylibjpeg-openjpeg"),
)


def stored_values(path: Path, data: Any, frame: int) -> tuple[np.ndarray, list[Finding]]:
    """Stored values of one frame, integer ``[H, W]``, or RGB ``[H, W, 3]``; and what was odd about their bits.

    Bits above the stored ones are taken off (overlays used to live there); where they turn out to belong to the
    picture, because taking them off would tear it, they are kept and the wrong bits stored are reported.

    Raises:
        ReadError: no pixel data, a size or bit depth that cannot be, or a compression that nothing here decodes.
    """
    _check(path, data)
    syntax = data.file_meta.TransferSyntaxUID
    from pydicom.pixels import get_decoder

    if syntax == DEFLATED_FRAMES:
        _inflate(path, data, frame)
        syntax, frame = data.file_meta.TransferSyntaxUID, 0
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        what = (
            "is a video"
            if "MPEG" in syntax.name or "HEVC" in syntax.name
            else f"is compressed as {syntax.name}"
        )
        raise ReadError(
            f"{path}: {what}, which no decoder here reads; export it uncompressed (gdcmconv --raw, dcmdjpeg)."
        ) from error
    if not decoder.is_available:
        needed = next((p for start, p in PACKAGES if str(syntax).startswith(start)), "python-gdcm")
        raise ReadError(f"{path}: is compressed as {syntax.name}; to decode it: pip install {needed}")
    if syntax == JPEG_12_BIT and int(data.BitsStored) > 8:
        values, bits = _gdcm(path, data, frame), int(data.BitsStored)
    else:
        # Frames are decoded one at a time; bits are corrected below, where what they hold can be looked at.
        options: Any = {"correct_unused_bits": False}
        try:
            values, about = decoder.as_array(data, index=frame, **options)
        except RuntimeError as error:  # every decoder for this compression gave up
            raise ReadError(
                f"{path}: its pixels ({syntax.name}) cannot be decoded: they are damaged, or of a kind that nothing here "
                "reads. Export it from the archive again, uncompressed."
            ) from error
        bits = int(about["bits_stored"])
    data.PixelData = b""  # let go of: a mammogram's has hundreds of megabytes
    if values.ndim == 3 or values.dtype.kind not in "iu":
        return values, []
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    native = not syntax.is_encapsulated
    high = int(data.get("HighBit", bits - 1)) if native else bits - 1
    return unused_bits(values, bits, max(high, bits - 1), _overlay_bits(data))


def _gdcm(path: Path, data: Any, frame: int) -> np.ndarray:
    """JPEG Extended of 12 bits, which GDCM decodes from a file, though not through pydicom's plugin."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if int(data.get("SamplesPerPixel", 1) or 1) != 1 or not reader.Read():
        raise ReadError(f"{path}: its 12-bit JPEG cannot be decoded; export it uncompressed.")
    # GDCM hands its bytes over as text
    raw = reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
    shape = (int(data.Rows), int(data.Columns))
    signed = int(data.get("PixelRepresentation", 0) or 0)
    frames = np.frombuffer(raw, "<i2" if signed else "<u2")
    size = shape[0] * shape[1]
    return frames[frame * size : (frame + 1) * size].reshape(shape).copy()


def _check(path: Path, data: Any) -> None:
    from pydicom.uid import UncompressedTransferSyntaxes

    if not data.get("PixelData"):
        raise ReadError(
            f"{path}: holds no pixel data; it was cut short or left out, export it from the archive again."
        )
    rows, columns = int(data.get("Rows", 0) or 0), int(data.get("Columns", 0) or 0)
    samples = int(data.get("SamplesPerPixel", 1) or 1)
    check_pixels(path, columns * (samples if samples in (1, 3) else 1), rows)
    allocated, stored = int(data.get("BitsAllocated", 0) or 0), int(data.get("BitsStored", 0) or 0)
    if allocated == 1:
        raise ReadError(f"{path}: has 1 bit a pixel: a mask or an overlay, not a picture.")
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise ReadError(
            f"{path}: states {stored} bits stored in {allocated} allocated, which cannot be; mend its BitsStored and "
            "BitsAllocated, or export it again."
        )
    needed = rows * columns * samples * int(data.get("NumberOfFrames", 1) or 1) * allocated // 8
    held, shared = (
        len(data.PixelData),
        "422" in str(data.get("PhotometricInterpretation", "")),
    )  # two pixels, one colour
    if data.file_meta.TransferSyntaxUID in UncompressedTransferSyntaxes and not shared and held < needed:
        raise ReadError(
            f"{path}: holds {held:,} of the {needed:,} bytes of its pixels: it was cut short, export it from the archive "
            "again."
        )


def unused_bits(
    values: np.ndarray, bits: int, high: int, overlays: frozenset[int]
) -> tuple[np.ndarray, list[Finding]]:
    """Only the stored bits of ``values`` (integer ``[H, W]``), sign extended where the type is signed.

    bits: stored bits; high: their highest; overlays: bits that the file says hold overlay planes. Where others are in
    use they are taken off, unless that tears the picture: then the bits stored are stated wrongly.
    """
    width = 8 * values.dtype.itemsize
    if bits >= width:
        return values, []
    low = max(0, high + 1 - bits)
    high = min(high, width - 1)
    fixed = np.left_shift(values, width - 1 - high)
    np.right_shift(fixed, width - bits, out=fixed)
    whole = values >> low if low else values
    if np.array_equal(fixed, whole) or overlays:
        return fixed, []
    if _torn(fixed, whole, bits):
        message = (
            f"its values ({whole.min()} to {whole.max()}) do not fit the {bits} bits stored that it states; they were "
            "read as they stand."
        )
        return whole, [Finding("wrong-bits-stored", message)]
    return fixed, [
        Finding("unused-bits", f"bits above the {bits} stored ones were set, and were taken off.", "info")
    ]


def _torn(fixed: np.ndarray, whole: np.ndarray, bits: int) -> bool:
    """Does ``whole`` wrap in ``fixed``? Where the bits above change from a pixel to the next, a wrapped picture jumps by
    about 2**bits (by a third of it where it is steep), and one with a stray overlay taken off goes on as before.
    """
    step = max(1, len(fixed) // 256)
    below, all_bits = (np.diff(x[::step].astype(np.int64), axis=1) for x in (fixed, whole))
    jumps = np.abs(below[below != all_bits])
    return jumps.size > 0 and float(jumps.mean()) > 2.0**bits / 4


def _overlay_bits(data: Any) -> frozenset[int]:
    """Bits of the pixel words that hold overlay planes (60xx,0102), where the plane has no data of its own."""
    found = set()
    for group in range(0x6000, 0x6020, 2):
        element = data.get((group, 0x0102))
        if element is not None and (group, 0x3000) not in data and int(element.value or 0) > 0:
            found.add(int(element.value))
    return frozenset(found)


def _inflate(path: Path, data: Any, frame: int) -> None:
    """Deflated image frame compression (supplement 244): each fragment is one raw deflate stream of a native frame."""
    from pydicom.encaps import get_frame
    from pydicom.uid import ExplicitVRLittleEndian

    samples, allocated = int(data.get("SamplesPerPixel", 1) or 1), int(data.BitsAllocated)
    size = int(data.Rows) * int(data.Columns) * samples * allocated // 8
    frames = int(data.get("NumberOfFrames", 1) or 1)
    try:
        raw = zlib.decompressobj(-15).decompress(
            get_frame(data.PixelData, frame, number_of_frames=frames), size
        )
    except zlib.error as error:
        raise ReadError(f"{path}: its deflated frame is damaged ({error}); export it again.") from error
    if len(raw) < size:
        raise ReadError(f"{path}: its deflated frame holds {len(raw)} of {size} bytes; export it again.")
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.PixelData, data.NumberOfFrames = raw + b"\0" * (size % 2), 1
