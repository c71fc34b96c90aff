"""A store in a folder, on a laptop or a file share, without a service.

    medfm-store.json                      format
    blobs/sha256/ab/ab12...               file contents by hash, read-only
    models/NAME/00000001.json             one record a revision: files, hashes, parent; read-only
    tmp/                                  files being written

A record is made complete under ``tmp`` and then given its number by a hard link, which fails when the number
is taken: writers on several machines get a linear history without a lock, and a killed writer leaves at most
an orphan in ``tmp``. The newest revision is the highest number, never a mutable pointer (a replaced pointer
loses updates).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medfm import paths
from medfm.hub.seal import (
    BLOCK,
    MANIFEST,
    FileEntry,
    explained,
    fsync_folder,
    parse_entries,
    sha256_file,
    verify_folder,
)
from medfm.hub.store import Listing, Published, Revision, Sentences, check_store_name, matches
from medfm.types import MedfmError

FORMAT = 1
MARK = "medfm-store.json"
READ_ONLY = 0o444
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class FolderStore:
    """See :class:`medfm.hub.store.Store`. ``cache`` is where fetched bundles are unpacked (default:
    MEDFM_HOME).
    """

    def __init__(self, root: str | Path, cache: str | Path | None = None) -> None:
        self.root = Path(root).expanduser().absolute()
        self.cache = Path(cache) if cache is not None else paths.home() / "bundles"

    def publish(self, bundle: str | Path, name: str) -> Revision:
        """Add ``bundle`` as the next revision of ``name``. Safe with other writers; atomic under a kill."""
        check_store_name(name)
        folder = Path(bundle)
        entries = verify_folder(folder)
        entries[MANIFEST] = sha256_file(folder / MANIFEST)
        with explained(f"publishing {name}", self.root):
            self._create()
            for file, entry in entries.items():
                self._put(folder / file, entry)
            return self._append(name, entries)

    def fetch(self, name: str, revision: str | None = None) -> Path:
        """The folder of a revision, copied out of the store and verified. A damaged copy is made again.

        It is a copy and not a link: whoever edits a fetched file must not reach into the store.
        """
        published = self.find(name, revision)
        entries = self._entries(published)
        target = self.cache / f"{name}-{published.revision}"
        if target.is_dir():
            try:
                self._same(target, entries)
                return target
            except MedfmError:
                shutil.rmtree(target)
        with explained(f"fetching {name} (into MEDFM_HOME)", self.cache):
            self.cache.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".fetch-", dir=self.cache))
            try:
                for file, entry in entries.items():
                    self._copy_out(entry, temporary / file, f"{name}@{published.revision}: {file}")
                verify_folder(temporary)
                self._publish_cache(temporary, target, entries)
            finally:
                if temporary.exists():
                    shutil.rmtree(temporary)
        return target

    def find(self, name: str, revision: str | None = None) -> Published:
        """The record of a revision; a :class:`MedfmError` names what the store holds instead."""
        history = self.history(name)
        if not history:
            known = ", ".join(self.names()) or "nothing yet"
            raise MedfmError(f"the store {self.root} has no model {name!r}; it holds {known}.")
        if revision in (None, "", "latest"):
            return history[-1]
        assert revision is not None
        found = [p for p in history if matches(p.revision, revision)]
        if len(found) != 1:
            some = ", ".join(str(p.revision) for p in history[-5:])
            raise MedfmError(f"{name} has no revision {revision!r} in {self.root}; the newest are {some}.")
        return found[0]

    def is_store(self) -> bool:
        return (self.root / MARK).is_file()

    def names(self) -> Sentences:
        folder = self.root / "models"
        return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []

    def history(self, name: str) -> Listing:
        """All revisions, oldest first (:meth:`verify` checks that each follows the one before)."""
        folder = self._records(check_store_name(name))
        if not folder.is_dir():
            return []
        with explained(f"reading the store of {name}", folder):
            return [self._record(name, path) for path in sorted(folder.glob("[0-9]*.json"))]

    def list(self) -> Listing:
        """The newest revision of every name; an empty or absent store holds nothing."""
        newest = []
        for name in self.names():
            records = sorted(self._records(name).glob("[0-9]*.json"))
            if records:
                newest.append(self._record(name, records[-1]))
        return newest

    def read_json(self, published: Published, file: str) -> Any:
        """One small JSON file of a revision, without unpacking the rest."""
        entry = self._entries(published).get(file)
        if entry is None:
            raise MedfmError(f"{published.name}@{published.revision} has no {file}.")
        path = self._blob(entry.sha256)
        with explained("reading the store", path):
            content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise MedfmError(
                f"{path}: damaged ({file} of {published.name}@{published.revision}); restore the "
                "store from a backup."
            )
        return json.loads(content)

    def verify(self) -> Sentences:
        """Read back every revision and every blob it needs; one sentence for each damage."""
        problems: Sentences = []
        checked: dict[str, FileEntry | None] = {}
        for name in self.names():
            parent = ""
            for number, path in enumerate(sorted(self._records(name).glob("[0-9]*.json")), start=1):
                try:
                    published = self._record(name, path)
                    if (published.revision.number, published.record["parent"]) != (number, parent):
                        problems.append(
                            f"{path}: does not follow revision {number - 1}; a record was removed or altered."
                        )
                    parent = published.revision.sha
                    entries = self._entries(published)
                except MedfmError as error:
                    problems.append(str(error))
                    continue
                for file, entry in entries.items():
                    blob = self._blob(entry.sha256)
                    if entry.sha256 not in checked:
                        checked[entry.sha256] = sha256_file(blob) if blob.is_file() else None
                    if checked[entry.sha256] != entry:
                        how = "missing" if checked[entry.sha256] is None else "altered"
                        problems.append(f"{blob}: {how} ({file} of {name}@{published.revision}).")
        return problems

    # Writing

    def _create(self) -> None:
        """Make the layout; a folder of another kind is not taken over."""
        mark = self.root / MARK
        if mark.is_file():
            version = json.loads(mark.read_text(encoding="utf-8")).get("format", 0)
            if version > FORMAT:
                raise MedfmError(
                    f"{self.root}: store format {version} is newer than this medfm knows; pip "
                    "install -U medfm."
                )
        elif self.root.is_dir() and (
            other := {p.name for p in self.root.iterdir()} - {"tmp", "blobs", "models"}
        ):
            raise MedfmError(
                f"{self.root} is no store: it holds {sorted(other)[0]!r}. Give an empty or new folder."
            )
        for folder in ("tmp", "blobs/sha256", "models"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        if not mark.is_file():
            self._link(self._temporary(json.dumps({"format": FORMAT}).encode()), mark)

    def _put(self, source: Path, entry: FileEntry) -> None:
        """Store a file's content under its hash; a damaged blob is replaced by the good content."""
        target = self._blob(entry.sha256)
        if target.is_file() and sha256_file(target) == entry:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.root / "tmp")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as out:
                found = _copy(source, out)
                out.flush()
                os.fsync(out.fileno())
            if found != entry:
                raise MedfmError(f"{source} changed while it was being published; publish it again.")
            temporary.chmod(READ_ONLY)
            temporary.replace(target)  # same hash, same bytes: whichever writer is last, the content is one
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(target.parent)

    def _append(self, name: str, entries: dict[str, FileEntry]) -> Revision:
        folder = self._records(name)
        folder.mkdir(parents=True, exist_ok=True)
        files = {file: entry._asdict() for file, entry in sorted(entries.items())}
        while True:
            taken = sorted(folder.glob("[0-9]*.json"))
            last = self._record(name, taken[-1]).revision if taken else Revision(0, "")
            record = {
                "format": FORMAT,
                "name": name,
                "number": last.number + 1,
                "parent": last.sha,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "files": files,
            }
            content = _canonical(record)
            if self._link(self._temporary(content), folder / f"{last.number + 1:08d}.json"):
                fsync_folder(folder)
                return Revision(last.number + 1, hashlib.sha256(content).hexdigest())

    def _temporary(self, content: bytes) -> Path:
        handle, name = tempfile.mkstemp(dir=self.root / "tmp")
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(READ_ONLY)
        return Path(name)

    def _link(self, temporary: Path, target: Path) -> bool:
        """Give ``temporary`` its final name; False when another writer took that name first."""
        try:
            os.link(temporary, target)
            return True
        except FileExistsError:
            # Over NFS a link can succeed and its answer be lost: then both names are one file.
            return temporary.samefile(target)
        except OSError as error:
            if error.errno in NO_LINKS and os.access(target.parent, os.W_OK):
                raise MedfmError(
                    f"{self.root}: this file system knows no hard links, which a store needs to be "
                    "safe with several writers. "
                    "Use another folder, or hand the model over with medfm hub export."
                ) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)

    # Reading

    def _records(self, name: str) -> Path:
        return self.root / "models" / name

    def _blob(self, sha: str) -> Path:
        return self.root / "blobs" / "sha256" / sha[:2] / sha

    def _record(self, name: str, path: Path) -> Published:
        with explained("reading the store", path):
            content = path.read_bytes()
        try:
            record = json.loads(content)
        except ValueError as error:
            raise MedfmError(f"{path}: damaged, not JSON; restore the store from a backup.") from error
        named = isinstance(record, dict) and (record.get("name"), f"{record.get('number')!s:>08}.json") == (
            name,
            path.name,
        )
        if not named or _canonical(record) != content:
            raise MedfmError(f"{path}: damaged or altered; restore the store from a backup.")
        return Published(name, Revision(record["number"], hashlib.sha256(content).hexdigest()), record)

    def _entries(self, published: Published) -> dict[str, FileEntry]:
        where = self._records(published.name) / f"{published.revision.number:08d}.json"
        files = dict(published.record.get("files") or {})
        if MANIFEST not in files:
            raise MedfmError(f"{where}: damaged, it names no {MANIFEST}; restore the store from a backup.")
        return parse_entries(files, where)

    def _copy_out(self, entry: FileEntry, target: Path, what: str) -> None:
        blob = self._blob(entry.sha256)
        if not blob.is_file():
            raise MedfmError(
                f"{what} is missing from the store {self.root}; restore {blob} from a backup or "
                "publish the model again."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            found = _copy(blob, out)
        if found != entry:
            raise MedfmError(
                f"{what} was altered in the store {self.root}; restore {blob} from a backup or "
                "publish the model again."
            )
        target.chmod(READ_ONLY)

    def _publish_cache(self, temporary: Path, target: Path, entries: dict[str, FileEntry]) -> None:
        try:
            temporary.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            self._same(target, entries)  # another process unpacked the same revision first

    @staticmethod
    def _same(folder: Path, entries: dict[str, FileEntry]) -> None:
        """Raise unless ``folder`` is whole and is this revision."""
        found = verify_folder(folder)
        if {**found, MANIFEST: sha256_file(folder / MANIFEST)} != entries:
            raise MedfmError(f"{folder} holds another revision than its name says; delete it.")


def _copy(source: Path, out: Any) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            out.write(block)
            size += len(block)
    return FileEntry(digest.hexdigest(), size)


def _canonical(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def local_hub() -> FolderStore:
    """The hub of this user, where ``medfm pretrain`` puts its backbones."""
    return FolderStore(paths.hub())
