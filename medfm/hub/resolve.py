"""From a reference that a person types to the folder of a verified bundle.

Catalogue id, name in the local hub (``name`` or ``name@revision``), run folder, bundle folder,
``folder:PATH/name@revision``, ``hf://org/name@revision``. Only the last one touches the network.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from medfm.hub.bundle import WEIGHTS
from medfm.hub.catalog import shipped_models
from medfm.hub.folder import FolderStore, local_hub
from medfm.hub.seal import MANIFEST
from medfm.types import ConfigError, MedfmError

HF, FOLDER = "hf://", "folder:"


def resolve(ref: str | Path) -> Path:
    """The bundle folder that ``ref`` means; a :class:`ConfigError` names the nearest ids when there is none.

    A bare name means the shipped model of that id first (so that an id always means the same weights; where only its
    card is shipped, the local hub's weights of that name come before it), then the local hub's newest revision, then
    a folder of that name.
    """
    text = str(ref).strip()
    if not text:
        raise ConfigError("no model was named; medfm hub list shows those that have a name.")
    if text.startswith(HF):
        from medfm.hub.huggingface import pull

        return pull(text)
    if text.startswith(FOLDER):
        store, name, revision = parse_folder_ref(text)
        return store.fetch(name, revision)
    path = Path(text).expanduser()
    name, at, revision = text.partition("@")
    bare = path.name == text and text not in ("", ".", "..")
    if bare:
        known, hub = shipped_models().get(text), local_hub()
        if known is not None and ((known / WEIGHTS).is_file() or text not in hub.names()):
            return known
        if name in hub.names():
            return hub.fetch(name, revision if at else None)
    if path.is_dir():
        return bundle_in(path)
    if path.is_file():
        remedy = (
            "unpack it with medfm hub import"
            if path.suffix == ".tar"
            else "a checkpoint is converted with medfm hub convert"
        )
        raise ConfigError(f"{text} is a file, not a model: {remedy}, or give a run or bundle folder.")
    raise ConfigError(_unknown(name if bare else text, bare))


def public_ref(ref: str, identifier: str) -> str:
    """``ref`` as a bundle may state it: a name of the catalogue, the local hub or ``hf://``; for a path, which says how
    a site names its folders, the model's own ``identifier``."""
    text = ref.strip()
    named = text in shipped_models() or text.partition("@")[0] in local_hub().names()
    return text if named or text.startswith(HF) else identifier


def bundle_in(folder: Path) -> Path:
    """``folder`` itself, or its ``bundle/`` when it is a run folder."""
    for candidate in (folder, folder / "bundle"):
        if (candidate / MANIFEST).is_file():
            return candidate
    if (folder / "config.yaml").is_file():
        raise MedfmError(f"{folder} is a run that has not finished: it has no bundle. Go on with --resume.")
    raise ConfigError(
        f"{folder} is neither a bundle nor a run folder: there is no {MANIFEST} in it or in its bundle/. Give a folder "
        "that medfm wrote, whole; medfm hub list shows the models that have a name."
    )


def parse_folder_ref(ref: str) -> tuple[FolderStore, str, str | None]:
    """``folder:PATH/name[@revision]`` -> store, name, revision."""
    body, at, revision = ref.removeprefix(FOLDER).rpartition("@")
    if not at or "/" in revision:
        body, revision = ref.removeprefix(FOLDER), ""
    root, slash, name = body.rpartition("/")
    if not slash or not name:
        raise ConfigError(f"{ref}: write folder:PATH/name, or folder:PATH/name@revision.")
    return FolderStore(root or "/"), name, revision or None


def _unknown(text: str, bare: bool) -> str:
    if not bare:
        return (
            f"there is no model {text}: the folder does not exist. medfm hub list shows the models that "
            "have a name."
        )
    known = [*shipped_models(), *local_hub().names()]
    near = difflib.get_close_matches(text, known, n=3, cutoff=0.4)
    hint = f"the nearest are {', '.join(near)}" if near else "no id is near it"
    return (
        f"there is no model {text!r} in the catalogue, the local hub or this folder; {hint}. medfm hub "
        "list shows all."
    )
