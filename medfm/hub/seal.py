"""The seal of a bundle: ``manifest.json`` with sha256 and size of every file, checked before anything is
read.

Altered, missing and added files, links, and paths that leave the folder are refused, each in a sentence. No
pickle is ever opened: a file that could hold one is refused by its name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from medfm.types import MedfmError

MANIFEST = "manifest.json"
FORMAT = 1
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"})
BLOCK = 1 << 20


class FileEntry(NamedTuple):
    sha256: str
    size: int


@contextmanager
def explained(doing: str, path: Path) -> Iterator[None]:
    """Turn the file-system failures that a user can mend into one sentence each."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MedfmError(
                f"{doing} failed: no space left on the disk of {path}. Free space, then try again."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            named = error.filename
            if named and os.access(named, os.F_OK) and not os.access(named, os.R_OK):
                raise MedfmError(
                    f"{doing} failed: {named} may not be read by this user. Ask its owner for permission."
                ) from error
            raise MedfmError(
                f"{doing} failed: {path} is read-only for you. Ask its owner for write permission, "
                "or choose another folder."
            ) from error
        where = error.filename or path
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise MedfmError(f"{doing} failed: {where} does not exist.") from error
        raise MedfmError(f"{doing} failed at {where}: {error.strerror or error}.") from error


def sha256_file(path: Path) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            size += len(block)
    return FileEntry(digest.hexdigest(), size)


def check_name(name: str, where: str | Path) -> str:
    """A file name of a bundle: relative, with forward slashes, inside the folder."""
    path = PurePosixPath(name)
    parts = name.split("/")
    if (
        not name
        or path.is_absolute()
        or "\\" in name
        or ":" in name
        or "\0" in name
        or not set(parts).isdisjoint({"", ".", ".."})
    ):
        raise MedfmError(f"{where}: refused, because it names the file {name!r}, which leaves the folder.")
    if path.suffix.lower() in PICKLES:
        raise MedfmError(
            f"{where}: refused, because {name} may hold pickled code. A bundle holds weights as "
            ".safetensors only; convert "
            "the checkpoint with medfm hub convert."
        )
    return name


def files_in(folder: Path) -> list[str]:
    """Names of all files below ``folder`` except the manifest; links and special files are refused."""
    names = []
    for root, folders, files in os.walk(folder):
        for entry in (*folders, *files):
            path = Path(root, entry)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise MedfmError(
                    f"{folder}: refused, because {path.relative_to(folder)} is a link or special "
                    "file, not a plain one."
                )
        names += [Path(root, name).relative_to(folder).as_posix() for name in files]
    return sorted(check_name(name, folder) for name in names if name != MANIFEST)


def write_manifest(folder: Path) -> dict[str, FileEntry]:
    """Seal ``folder``: hash every file in it and write ``manifest.json``."""
    entries = {name: sha256_file(folder / name) for name in files_in(folder)}
    plain = {"format": FORMAT, "files": {name: entry._asdict() for name, entry in entries.items()}}
    (folder / MANIFEST).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    return entries


def parse_entries(files: object, where: str | Path) -> dict[str, FileEntry]:
    """The ``files`` mapping of a manifest, checked for shape and for names that leave the folder."""
    if not isinstance(files, dict):
        raise MedfmError(f"{where}: damaged, it has no mapping 'files'. Get the model again.")
    entries = {}
    for name, entry in files.items():
        sha, size = (entry.get("sha256"), entry.get("size")) if isinstance(entry, dict) else (None, None)
        good = isinstance(sha, str) and len(sha) == 64 and not set(sha) - set("0123456789abcdef")
        if not good or not isinstance(size, int) or size < 0:
            raise MedfmError(
                f"{where}: damaged, its entry for {name!r} holds no sha256 and size. Get the model again."
            )
        entries[check_name(name, where)] = FileEntry(str(sha), size)
    return entries


def read_manifest(folder: Path) -> dict[str, FileEntry]:
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise MedfmError(
            f"{folder} is not a bundle: it has no {MANIFEST}. Give a folder that medfm wrote, or a model id."
        )
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MedfmError(f"{path}: damaged, not JSON ({error}). Get the model again.") from error
    version = plain.get("format") if isinstance(plain, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise MedfmError(
            f"{path}: format {version} is newer than this medfm reads ({FORMAT}); pip install -U medfm."
        )
    return parse_entries(plain.get("files") if isinstance(plain, dict) else None, path)


def verify_folder(folder: Path) -> dict[str, FileEntry]:
    """Check every file of ``folder`` against its manifest and return the entries; nothing else is read before
    this.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MedfmError(f"{folder} is not a folder.")
    with explained("checking the bundle", folder):
        entries = read_manifest(folder)
        present = set(files_in(folder))
        if missing := sorted(set(entries) - present):
            raise MedfmError(f"{folder}: incomplete, {', '.join(missing)} is missing. Get the model again.")
        if added := sorted(present - set(entries)):
            raise MedfmError(
                f"{folder}: refused, because {', '.join(added)} was added after the bundle was "
                "sealed. Move it out of the folder."
            )
        for name, entry in entries.items():
            if (found := sha256_file(folder / name)) != entry:
                how = (
                    f"{found.size} bytes instead of {entry.size}"
                    if found.size != entry.size
                    else "another sha256"
                )
                raise MedfmError(
                    f"{folder}: refused, because {name} was altered ({how}). Get the model again."
                )
    return entries


def fsync_folder(folder: Path) -> None:
    """Make names in ``folder`` durable (a folder cannot be opened for this on Windows, where rename
    suffices).
    """
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
