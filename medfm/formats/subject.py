"""The address of a subject: one string that names the file of each sequence there is, as a manifest's ``path`` holds it.

``t1=/site/7/t1.nii.gz;flair=/site/7/flair.nii.gz``: a name, ``=``, a path; ``;`` between them. A sequence that is missing is
not named. Paths may be those of volume files or of DICOM series (``FOLDER#SeriesInstanceUID``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from medfm.types import ReadError

_NAME = r"[^/\\=;#\s](?:[^/\\=;#]*[^/\\=;#\s])?"
_PART = re.compile(rf"\s*({_NAME})\s*=\s*(.*\S)\s*")


def join_subject(files: Mapping[str, str | Path]) -> str:
    """The address of a subject whose sequences (name: path) are ``files``, in their order.

    Raises:
        ReadError: no file at all, or a name or path that an address cannot hold.
    """
    if not files:
        raise ReadError("a subject needs the file of at least one sequence.")
    for name, path in files.items():
        if ";" in str(path):
            raise ReadError(
                f"{path}: its path holds ';', which separates the sequences of a subject; rename the file or folder."
            )
        if not re.fullmatch(_NAME, str(name).strip()):
            raise ReadError(
                f"{name!r} is no name of a sequence: leave out '=', ';', '#' and slashes, for instance 't1'."
            )
    return ";".join(f"{str(name).strip()}={path}" for name, path in files.items())


def split_subject(address: str | Path) -> dict[str, str] | None:
    """Name to path, in the order of the address; None where ``address`` is that of a plain file or folder.

    Raises:
        ReadError: a name that stands twice.
    """
    text = str(address)
    parts = [_PART.fullmatch(part) for part in text.split(";") if part.strip()]
    if not parts or not all(parts) or _is_there(text):
        return None
    files: dict[str, str] = {}
    for part in parts:
        assert part is not None
        if part[1] in files:
            raise ReadError(f"{text}: names {part[1]} twice; a sequence has one file.")
        files[part[1]] = part[2]
    return files


def subject_files(address: str | Path) -> list[str]:
    """Every path that an address names: those of its sequences, or the one plain path."""
    files = split_subject(address)
    return [str(address)] if files is None else list(files.values())


def _is_there(text: str) -> bool:
    """A file whose own name looks like an address stays a file."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False
