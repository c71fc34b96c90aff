"""One plain tar a model, for sites that no network reaches; it is read without being trusted."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path

from medfm.hub.bundle import load_bundle
from medfm.hub.seal import BLOCK, MANIFEST, check_name, explained, verify_folder
from medfm.hub.store import Revision, Store
from medfm.types import MedfmError


def export_bundle(bundle: str | Path, target: str | Path, *, overwrite: bool = False) -> Path:
    """Write the verified ``bundle`` to ``target`` (``.tar``). The same bundle always gives the same bytes."""
    folder, target = Path(bundle), Path(target).expanduser().absolute()
    card = load_bundle(folder).card
    if target.suffix != ".tar":
        raise MedfmError(f"{target}: the file must end in .tar.")
    if target.exists() and not overwrite:
        raise MedfmError(f"{target} exists already; choose another name or delete it.")
    with explained("exporting", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".export-", dir=target.parent)
        temporary = Path(name)
        try:
            with (
                os.fdopen(handle, "wb") as out,
                tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                for file in (MANIFEST, *verify_folder(folder)):
                    info = tarfile.TarInfo(f"{card.id}/{file}")
                    info.size, info.mode = (folder / file).stat().st_size, 0o644
                    with (folder / file).open("rb") as stream:
                        tar.addfile(info, stream)
            temporary.chmod(0o644)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target


def import_archive(archive: str | Path, store: Store) -> tuple[str, Revision]:
    """Unpack and verify ``archive``, then publish it to ``store`` under its card's id: ``(id, revision)``.

    Members that are links, devices, duplicates or that leave the one top folder are refused before anything
    of them is written.
    """
    archive = Path(archive).expanduser()
    if not archive.is_file():
        raise MedfmError(f"archive not found: {archive}.")
    with tempfile.TemporaryDirectory(prefix="medfm-import-") as scratch:
        with explained("importing", archive):
            try:
                with tarfile.open(archive, mode="r:") as tar:
                    folder = _unpack(tar, Path(scratch), archive)
            except tarfile.TarError as error:
                raise MedfmError(
                    f"{archive} is not a tar written by medfm hub export, or it is cut off ({error})."
                ) from error
        bundle = load_bundle(folder)
        return bundle.card.id, store.publish(folder, bundle.card.id)


def _unpack(tar: tarfile.TarFile, scratch: Path, archive: Path) -> Path:
    seen: set[str] = set()
    tops: set[str] = set()
    for member in tar:
        if member.isdir():
            check_name(member.name.rstrip("/"), archive)
            continue
        if not member.isreg():
            raise MedfmError(f"{archive}: refused, because {member.name!r} is a link or special file.")
        name = check_name(member.name, archive)
        top, slash, rest = name.partition("/")
        if not slash or not rest or name in seen:
            raise MedfmError(
                f"{archive}: refused, because {member.name!r} "
                f"{'stands twice' if name in seen else 'lies outside a folder'}."
            )
        seen.add(name)
        tops.add(top)
        target = scratch / name
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = tar.extractfile(member)
        assert stream is not None
        with stream, target.open("wb") as out:
            while block := stream.read(BLOCK):
                out.write(block)
    if len(tops) != 1:
        raise MedfmError(f"{archive} holds {len(tops)} models; medfm hub export writes one.")
    return scratch / tops.pop()
