"""The codes under which patients and records leave a site's tables, and the key without which nobody can make them.

A code is ``HMAC-SHA256(key, kind + "\\x1f" + text)`` (RFC 2104; text as UTF-8), the first 64 of its 256 bits in hexadecimal:
``p-9f86d081884c7d65``. The same patient has the same code in every run of a site. A plain hash would not do: all numbers
of a hospital are tried against it in seconds. At 64 bits, any two of a million patients share a code with probability
3e-8.

The key is 32 random bytes in a file that lies in no run folder and no bundle (:func:`medfm.paths.key_file`). Splits,
intervals and duplicates are computed on the ids themselves; codes are made where something is written.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from medfm import paths
from medfm.data.manifest import Manifest
from medfm.types import MedfmError

log = logging.getLogger(__name__)

BYTES = 32
MOST = 4096  # what is longer was meant to be another file
DIGITS = 16
Kind = Literal["patient", "record"]


@dataclass(frozen=True)
class Codes:
    """Codes under one key."""

    key: bytes = field(repr=False)

    def of(self, texts: Iterable[Any], kind: Kind) -> np.ndarray:
        """``[n]`` codes (``p-`` or ``r-`` and 16 hexadecimal digits), in the order of ``texts``; of a blank, a blank."""
        words = ["" if pd.isna(text) else str(text) for text in texts]
        made = {word: f"{kind[0]}-{self._hmac(kind, word)[:DIGITS]}" for word in set(words)} | {"": ""}
        return np.array([made[word] for word in words], dtype=object)

    def digest(self, text: str) -> str:
        """All 64 digits, of the digest of a whole table."""
        return self._hmac("digest", text)

    def table(self, manifest: Manifest) -> pd.DataFrame:
        """``row`` (in the user's table, whose header is row 1), and the codes ``record`` and ``patient``, row by row."""
        return pd.DataFrame(
            {
                "row": manifest.rows,
                "record": self.of(manifest.records, "record"),
                "patient": self.of(manifest.patients, "patient"),
            }
        )

    def _hmac(self, kind: str, text: str) -> str:
        message = f"{kind}\x1f{text}".encode("utf-8", "surrogateescape")
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()


def site_codes() -> Codes:
    """Codes under the site's key, which is made at its first use.

    A key that ``MEDFM_KEY_FILE`` names is never made: a drive that is not mounted would get another key, and nothing
    would match any more. Raises :class:`MedfmError` for a key that is missing there, cannot be read, or is no key.
    """
    path = paths.key_file()
    if not path.exists() and not paths.key_is_named():
        _make(path)
    try:
        key = path.read_bytes()
    except FileNotFoundError as error:
        raise MedfmError(
            f"MEDFM_KEY_FILE={path}: no such file. Mount its drive, or copy the site's key there (without this "
            "variable, medfm makes one where `medfm hub where` says)."
        ) from error
    except OSError as error:
        raise MedfmError(
            f"the site's key {path} cannot be read ({error.strerror or error}); give its file to this user, or name "
            "another with MEDFM_KEY_FILE=PATH."
        ) from error
    if not BYTES <= len(key) <= MOST:
        raise MedfmError(
            f"the site's key {path} holds {len(key)} bytes, and {BYTES} to {MOST} make a key. Put the copy that you kept in "
            "its place; if nothing was ever coded with it, delete it and run again."
        )
    _warn_of_readers(path)
    return Codes(key)


def same_data(digest: str, stated: str | None) -> bool:
    """Whether a bundle that states ``stated`` was trained on the table whose digest is ``digest``: at the site that
    trained it, since only its key makes the same digest (public data sets state theirs as it is)."""
    return stated == digest or (paths.key_file().is_file() and stated == site_codes().digest(digest))


def _make(path: Path) -> None:
    """Whole or not at all, and once: of two processes that make it, the first one's key is the site's."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(os.urandom(BYTES))
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileExistsError):
            os.link(part, path)
            log.warning(
                "made this site's key for patient codes: %s. Keep a copy in a safe place: with another key, the codes of "
                "earlier runs can no longer be matched.",
                path,
            )
    except OSError as error:
        raise MedfmError(
            f"the site's key {path} cannot be made ({error.strerror or error}). Choose another place with MEDFM_HOME=PATH, "
            f"or write {BYTES} random bytes to a file and name it with MEDFM_KEY_FILE=PATH."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


@lru_cache
def _warn_of_readers(path: Path) -> None:
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & stat.S_IROTH:
        log.warning("the site's key %s can be read by every user of this machine: chmod 600 it.", path)
