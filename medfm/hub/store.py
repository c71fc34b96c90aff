"""What every store of bundles answers: publish, fetch, list, verify, by immutable revision."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from medfm.types import MedfmError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class Revision(NamedTuple):
    """``number`` counts from 1 within a name; ``sha`` is the sha256 of the revision's own record (parent
    included).
    """

    number: int
    sha: str

    def __str__(self) -> str:
        return f"{self.number}-{self.sha[:12]}"


@dataclass(frozen=True)
class Published:
    """One revision of one model: its record as published."""

    name: str
    revision: Revision
    record: dict[str, Any]


# A class with a method named list cannot name the type list in its own annotations.
Listing = list[Published]
Sentences = list[str]


class Store(Protocol):
    """A place for bundles. A published revision never changes and never disappears."""

    def publish(self, bundle: str | Path, name: str) -> Revision:
        """Add a verified bundle folder as the next revision of ``name``; all of it appears at once, or
        nothing.
        """
        ...

    def fetch(self, name: str, revision: str | None = None) -> Path:
        """A verified local folder with that revision (None or ``latest``: the newest)."""
        ...

    def list(self) -> Listing:
        """The newest revision of every name."""
        ...

    def verify(self) -> Sentences:
        """A sentence for each damage found; empty when all is well."""
        ...


def check_store_name(name: str) -> str:
    if not NAME.fullmatch(name) or ".." in name:
        raise MedfmError(
            f"{name!r} cannot be a name in a store: use letters, digits, '-', '_' and '.', starting "
            "with a letter or digit."
        )
    return name


def matches(revision: Revision, wanted: str) -> bool:
    """``3``, ``3-1f2e3d4c5b6a`` (as printed) or a prefix of the sha of at least seven digits."""
    number, dash, sha = wanted.partition("-")
    if dash:
        return number == str(revision.number) and len(sha) >= 4 and revision.sha.startswith(sha)
    if wanted.isdigit() and len(wanted) < 7:
        return int(wanted) == revision.number
    return len(wanted) >= 7 and revision.sha.startswith(wanted)
