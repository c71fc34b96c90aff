"""Zip archives of DICOM, as PACS and anonymisers hand them out: unpacked aside, within limits, and removed again."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from medfm.types import ReadError

MAX_FILES = 50_000
MAX_BYTES = 8_000_000_000
"""Unpacked size of an archive: 15,000 slices of 512 x 512."""
MAX_RATIO = 200
"""Unpacked to packed size above which an archive of more than 100 MB is taken for a bomb; a CT packs to a half."""


def is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


@contextmanager
def unzipped(path: Path) -> Iterator[Path]:
    """A folder with what the archive holds, gone when left. Its path never appears in a sentence.

    Raises:
        ReadError: a damaged or encrypted archive, a name that leads out of it, or more than the limits above.
    """
    with tempfile.TemporaryDirectory(prefix="medfm-zip-") as name:
        folder = Path(name).resolve()
        try:
            with zipfile.ZipFile(path) as archive:
                _unpack(path, archive, folder)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            reason = str(error).replace(str(folder), "")
            raise ReadError(
                f"{path}: cannot be unpacked ({reason}); copy it again, or unpack it and give the folder."
            ) from error
        try:
            yield folder
        except ReadError as error:
            raise ReadError(str(error).replace(str(folder), str(path))) from error


def _unpack(path: Path, archive: zipfile.ZipFile, folder: Path) -> None:
    members = [m for m in archive.infolist() if not m.is_dir()]
    total, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if (
        len(members) > MAX_FILES
        or total > MAX_BYTES
        or (total > 100e6 and total > MAX_RATIO * max(packed, 1))
    ):
        raise ReadError(
            f"{path}: unpacks to {len(members):,} files of {total / 1e9:.3g} GB from {packed / 1e9:.3g} GB, more than is "
            "unpacked unseen; if that is right, unpack it yourself and give the folder."
        )
    if total > shutil.disk_usage(folder).free:
        raise ReadError(
            f"{path}: unpacks to {total / 1e9:.3g} GB, more than is free in {tempfile.gettempdir()}; make room."
        )
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        if not parts or ".." in parts or parts[0] == "/" or ":" in parts[0]:
            raise ReadError(
                f"{path}: holds a name that leads out of it ({member.filename!r}); unpack it with care."
            )
        if member.flag_bits & 1:
            raise ReadError(f"{path}: is encrypted; unpack it with its password and give the folder.")
        target = folder.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Written as plain files, so that a stored link is only its text; a false size stops at what was stated.
        with archive.open(member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
