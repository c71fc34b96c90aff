"""Where things lie: shipped recipes, data-set cards and model cards, and the user's own cache.

Nothing is created at import, and no environment variable is mandatory: ``MEDFM_HOME`` moves the cache (ingest store
and local hub), whose default is the platform's user cache folder.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path


@lru_cache
def shipped() -> Path:
    """The folder that holds ``configs``, ``datasets`` and ``model_cards``.

    The repository wins only when the parent folder's ``pyproject.toml`` names this project, so that an unrelated
    folder called ``datasets`` beside an installed package is never mistaken for ours.
    """
    parent = Path(__file__).resolve().parent.parent
    project = parent / "pyproject.toml"
    if project.is_file():
        try:
            name = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("name")
        except (OSError, tomllib.TOMLDecodeError):
            name = None
        if name == "medfm":
            return parent
    return Path(__file__).resolve().parent / "_shipped"


def configs() -> Path:
    return shipped() / "configs"


def datasets() -> Path:
    return shipped() / "datasets"


def model_cards() -> Path:
    return shipped() / "model_cards"


def home() -> Path:
    """``$MEDFM_HOME``, or the user's cache folder for medfm. Read at every call: tests and notebooks move it."""
    if value := os.environ.get("MEDFM_HOME"):
        return Path(value).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("medfm", appauthor=False))


def store() -> Path:
    """Where ingested records lie (`data.store=PATH` overrides it for one run)."""
    return home() / "store"


def hub() -> Path:
    """The local hub: a folder store of bundles."""
    return home() / "hub"


def key_is_named() -> bool:
    return bool(os.environ.get("MEDFM_KEY_FILE"))


def key_file() -> Path:
    """The site's key (:mod:`medfm.data.codes`): ``$MEDFM_KEY_FILE``, or ``$MEDFM_HOME/keys/site.key``; without either, in
    the user's data folder, since a cache may be emptied."""
    if key_is_named():
        return Path(os.environ["MEDFM_KEY_FILE"]).expanduser()
    if os.environ.get("MEDFM_HOME"):
        return home() / "keys" / "site.key"
    from platformdirs import user_data_dir

    return Path(user_data_dir("medfm", appauthor=False)) / "keys" / "site.key"


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A path beside ``target`` to write to, which takes its place when the block ends well: a full disk, Ctrl-C or a kill
    leaves the old file or none, never half of one. Folders on the way are made."""
    part = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(target)
    except OSError as error:
        if error.filename == str(part):  # a person knows the name that they gave
            error.filename = str(target)
        raise
    finally:
        part.unlink(missing_ok=True)


def seen_from(path: str | Path, folder: Path) -> str:
    """``path`` as a table in ``folder`` (absolute) names it: relative where it lies below, else absolute."""
    resolved = Path(path).resolve()
    return resolved.relative_to(folder).as_posix() if resolved.is_relative_to(folder) else str(resolved)
