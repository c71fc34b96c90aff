"""BIDS names of anatomical pictures: subject, session, contrast, run; and what participants.tsv says of a subject."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medfm.data.subject_names import Named, named, words_of
from medfm.modalities.mri_sequences import canonical, sequence_of, stem

_NAME = re.compile(
    r"(?P<sub>sub-[A-Za-z0-9+]+)(?:_(?P<ses>ses-[A-Za-z0-9+]+))?(?P<rest>(?:_[a-zA-Z]+-[A-Za-z0-9+]+)*)_(?P<suffix>[A-Za-z0-9]+)"
)
_MASKS = ("dseg", "mask", "roi", "seg", "label")


@dataclass(frozen=True)
class Bids:
    """One file. root: the data set's folder. entities: the other pairs of its name, as ``{"ce": "gadolinium"}``."""

    root: Path
    patient: str
    session: str
    entities: tuple[tuple[str, str], ...]
    suffix: str

    @property
    def record(self) -> str:
        return f"{self.patient}_{self.session}" if self.session else self.patient

    def named(self, sequences: Sequence[str]) -> Named:
        """A contrast agent (``ce-``) makes a T1 a T1 after contrast, and another sequence one that is not asked for."""
        entities = dict(self.entities)
        if self.suffix in _MASKS:
            return named([*words_of(" ".join(entities.values())), "mask"], sequences)
        name = canonical(self.suffix)
        if entities.get("ce", "none").lower() not in ("none", "no", "pre"):
            if name not in ("t1", "t1ce"):
                return Named("other", f"{self.suffix} after contrast")
            name = "t1ce"
        own = sequence_of(name, sequences)
        return Named("sequence", own) if own else Named("other", self.suffix)


def bids_of(file: Path) -> Bids | None:
    """None for a file that is not named so, or lies outside its subject's folder (then its folder tells whose it is)."""
    match = _NAME.fullmatch(stem(file))
    if not match:
        return None
    home = next((p for p in file.parents if p.name == match["sub"]), None)
    if home is None:
        return None
    pairs = tuple(tuple(p.split("-", 1)) for p in match["rest"].split("_") if p)
    return Bids(home.parent, match["sub"], match["ses"] or "", pairs, match["suffix"])  # type: ignore[arg-type]


def first_runs(members: Sequence[tuple[Path, Bids]], said: list[str]) -> list[tuple[Path, Bids]]:
    """Of files that differ by ``run-`` alone, the first; and that is said."""
    groups: dict[tuple[Any, ...], list[tuple[Path, Bids]]] = defaultdict(list)
    for file, entry in members:
        rest = tuple(p for p in entry.entities if p[0] != "run")
        groups[entry.suffix, rest].append((file, entry))
    kept = []
    for several in groups.values():
        runs = [dict(entry.entities).get("run") for _, entry in several]
        if len(several) > 1 and None not in runs and len(set(runs)) == len(runs):
            several = sorted(several, key=lambda m: dict(m[1].entities)["run"].zfill(6))
            first, *others = [file.name for file, _ in several]
            said.append(
                f"{several[0][1].record}: {first} is taken, the first run; left out: {', '.join(others)}."
            )
            several = several[:1]
        kept += several
    return kept


def participants(root: Path) -> dict[str, dict[str, Any]]:
    """sub-... -> age, sex and site, as far as ``participants.tsv`` has such columns."""
    file = root / "participants.tsv"
    if not file.is_file():
        return {}
    try:
        table = pd.read_csv(file, sep="\t", dtype="string", na_values=["n/a"])
    except (ValueError, OSError):
        return {}
    if "participant_id" not in table:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for row in table.to_dict("records"):
        about: dict[str, Any] = {}
        for key in ("age", "sex", "site"):
            value = row.get(key)
            if isinstance(value, str) and value.strip():
                about[key] = (
                    _age(value)
                    if key == "age"
                    else value.strip()[:1].upper()
                    if key == "sex"
                    else value.strip()
                )
        found[str(row["participant_id"])] = {k: v for k, v in about.items() if v is not None}
    return found


def _age(text: str) -> float | None:
    try:
        return float(text.rstrip("+"))
    except ValueError:
        return None
