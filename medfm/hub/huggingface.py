"""Push to and pull from a Hugging Face hub (or a server with its API): only when asked, pinned, and verified.

Facts of huggingface_hub 2.4 that this rests on: ``create_commit`` is one atomic commit where
``upload_folder`` may be many; open files (and not paths) go over plain LFS, which every server speaks; the
client compares sizes only, so the sha256 of the bundle's manifest is checked here.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from medfm import paths
from medfm.hub.bundle import load_bundle
from medfm.hub.seal import MANIFEST, explained, verify_folder
from medfm.types import ConfigError, MedfmError

REF = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
SHA = re.compile(r"[0-9a-f]{40}")
SERVER_FILES = {".gitattributes"}


class Pushed(NamedTuple):
    """``ref`` names the commit, which never changes; ``tag`` is empty where that tag stood already."""

    ref: str
    tag: str


def parse(ref: str) -> tuple[str, str | None]:
    match = REF.fullmatch(ref)
    if match is None:
        raise ConfigError(f"{ref}: write hf://org/name, or hf://org/name@revision.")
    return match["repo"], match["revision"]


def push(
    bundle: str | Path, ref: str, *, tag: str | None = None, private: bool = True, api: Any = None
) -> Pushed:
    """Publish a bundle as one commit and tag it (default ``v`` + the card's version, unless that tag stands).

    A new repository is private unless asked otherwise: weights trained on patients are patient-derived. Files
    of the repository that the bundle does not have are deleted in the same commit. When another writer was
    first, the push is refused and nothing changes.
    """
    folder = Path(bundle)
    card = load_bundle(folder).card
    repo, revision = parse(ref)
    if revision:
        raise MedfmError(f"{ref}: a push makes its own revision; leave out @{revision}, or give it as --tag.")
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = api or HfApi()
    with _wrapped(f"pushing to {ref}", ref, pulling=False), contextlib.ExitStack() as stack:
        api.create_repo(repo, private=private, exist_ok=True)
        info = api.model_info(repo)
        held = {s.rfilename for s in info.siblings or []} - SERVER_FILES
        files = [MANIFEST, *verify_folder(folder)]
        operations: list[Any] = [
            CommitOperationAdd(
                path_in_repo=name, path_or_fileobj=stack.enter_context((folder / name).open("rb"))
            )
            for name in files
        ]
        operations += [CommitOperationDelete(path_in_repo=name) for name in sorted(held - set(files))]
        commit = api.create_commit(
            repo, operations, commit_message=f"{card.id} {card.version}", parent_commit=info.sha
        )
        wanted = tag or f"v{card.version}"
        taken = {t.name for t in api.list_repo_refs(repo).tags}
        if wanted not in taken:
            api.create_tag(repo, tag=wanted, revision=commit.oid)
        elif tag:
            raise MedfmError(
                f"{ref}: the tag {tag} stands already and is not moved; the push itself is {commit.oid}."
            )
    return Pushed(f"hf://{repo}@{commit.oid}", "" if wanted in taken else wanted)


def pull(ref: str, *, api: Any = None) -> Path:
    """A verified local folder of ``ref``, pinned to its commit. Honours ``HF_HUB_OFFLINE``; a commit that was
    pulled before costs no request.
    """
    repo, revision = parse(ref)
    if revision and SHA.fullmatch(revision) and (kept := _folder(repo, revision)).is_dir():
        verify_folder(kept)
        return kept
    from huggingface_hub import HfApi, constants

    offline = bool(constants.HF_HUB_OFFLINE)
    api = api or HfApi()
    with _wrapped(f"fetching {ref}", ref):
        if not offline:
            revision = str(api.model_info(repo, revision=revision).sha)
        snapshot = Path(api.snapshot_download(repo, revision=revision, local_files_only=offline))
    commit = snapshot.name
    target = _folder(repo, commit)
    if target.is_dir():
        verify_folder(target)
        return target
    with explained(f"keeping {ref}", target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".hf-", dir=target.parent) as scratch:
            # The client's cache is links into a blob folder; a bundle is plain files.
            copy = shutil.copytree(
                snapshot, Path(scratch) / "bundle", ignore=shutil.ignore_patterns(*SERVER_FILES)
            )
            verify_folder(copy)
            with _unless_there(target):
                copy.rename(target)
    return target


def _folder(repo: str, commit: str) -> Path:
    return paths.home() / "bundles" / f"hf-{repo.replace('/', '--')}-{commit}"


@contextlib.contextmanager
def _unless_there(target: Path) -> Iterator[None]:
    """Another process that pulled the same commit first has won with the same bytes."""
    try:
        yield
    except OSError:
        if not target.is_dir():
            raise


@contextlib.contextmanager
def _wrapped(doing: str, ref: str, pulling: bool = True) -> Iterator[None]:
    """Any failure of the client (its exceptions differ by version) as a sentence with the way around."""
    try:
        yield
    except MedfmError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        line = f"{type(error).__name__}{': ' + reason[0] if reason else ''}"
        if pulling:
            remedy = (
                f"On a machine with network run: medfm hub export {ref} model.tar; "
                "carry the file here and run: medfm hub import model.tar"
            )
        else:
            remedy = (
                "Check the name, your token (hf auth login) and the network; nothing was published "
                "unless a commit is named"
            )
        raise MedfmError(f"{doing} failed ({line}). {remedy}.") from error
