"""Formats that are recognised by their content and refused, each with what to export instead."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from medfm.types import ReadError

EXPORT = "export the waveform itself as DICOM, HL7 aECG XML, GE MUSE XML, EDF, WFDB or CSV"

REFUSED: dict[str, tuple[str, str]] = {
    "scp": (
        "an SCP-ECG file (EN 1064)",
        "its compression variants are not decoded here; in the cart or viewer " + EXPORT,
    ),
    "ishne": (
        "an ISHNE Holter file",
        "in the Holter software export it as EDF, or convert it to WFDB",
    ),
    "pdf": ("a PDF", "a printed or scanned trace is a picture, not samples; " + EXPORT),
    "image": ("a picture", "a photographed or scanned trace is not samples; " + EXPORT),
    "archive": ("an archive", "unpack it first and give the folder"),
    "audio": ("an audio file", "convert it with the recorder's software and " + EXPORT),
    "office": (
        "an office document",
        "save its sheet as CSV: samples with a column a lead and a time column, or a list of files in a column named path",
    ),
    "mfer": ("an MFER file", "in the viewer " + EXPORT),
}

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"ISHNE1.0", "ishne"),
    (b"ANN  1.0", "ishne"),
    (b"\x89PNG\r\n\x1a\n", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF8", "image"),
    (b"II*\x00", "image"),
    (b"MM\x00*", "image"),
    (b"BM", "image"),
    (b"\x1f\x8b", "archive"),
    (b"7z\xbc\xaf\x27\x1c", "archive"),
    (b"Rar!", "archive"),
    (b"RIFF", "audio"),
    (b"fLaC", "audio"),
    (b"\xd0\xcf\x11\xe0", "office"),
    (b"@  MFR", "mfer"),
)


def recognise(head: bytes, suffix: str) -> str | None:
    """The refused format that these first bytes (1024 are enough) belong to, or None."""
    if head[16:22] == b"SCPECG":  # section 0's header: CRC 2, id 2, length 4, versions 2, then this mark
        return "scp"
    if b"%PDF-" in head[:1024]:
        return "pdf"
    if head[4:12] in (b"ftypheic", b"ftypmif1", b"ftypheix"):
        return "image"
    for magic, name in _MAGIC:
        if head.startswith(magic) and not (
            name == "image" and magic == b"BM" and suffix not in (".bmp", ".dib")
        ):
            return name
    return None


def refuse(path: Path, name: str) -> NoReturn:
    """Raise the sentence of one refused format."""
    what, instead = REFUSED[name]
    raise ReadError(f"{path} is {what}: {instead}.")
