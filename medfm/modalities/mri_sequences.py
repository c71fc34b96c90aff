"""Names of MRI sequences as sites and data sets write them, and what a subject is called."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from medfm.formats.subject import split_subject
from medfm.types import MedfmError

SEQUENCES = ("t1", "t1ce", "t2", "flair")
# Written without separators. `pre` and `post` are columns of TCGA-LGG as it is passed on; BraTS 2023 has t1n, t1c, t2w, t2f.
ALIASES = {
    "t1": ("t1w", "t1n", "t1pre", "t1native", "pre", "precontrast"),
    "t1ce": ("t1c", "t1gd", "t1wgd", "t1post", "t1wce", "cet1", "cet1w", "post", "postcontrast"),
    "t2": ("t2w",),
    "flair": ("t2f", "t2flair", "flairw"),
}
_OF = {alias: name for name, aliases in ALIASES.items() for alias in (name, *aliases)}
# In a file's name, `pre` and `post` may be before and after an operation.
_TELLING = {alias: name for alias, name in _OF.items() if not alias.startswith(("pre", "post"))}


def canonical(name: str) -> str:
    """``T2-FLAIR`` -> ``flair``; a name that is not known, in small letters without separators."""
    plain = re.sub(r"[\s_\-+.]+", "", name.casefold())
    return _OF.get(plain, plain)


def sequence_of(name: str, sequences: Sequence[str] = SEQUENCES) -> str | None:
    """Which of ``sequences`` a file or column called ``name`` is, as that list writes it; None: none of them."""
    return next((s for s in sequences if canonical(s) == canonical(name)), None)


def is_known(name: str) -> bool:
    """Is it one of the usual sequences, under any of its names?"""
    return canonical(name) in SEQUENCES


def checked_sequences(sequences: Sequence[str]) -> tuple[str, ...]:
    """Raises :class:`MedfmError` for none, or two names of the same sequence."""
    names = tuple(str(s).strip() for s in sequences)
    if not names or not all(names):
        raise MedfmError("modality.sequences names no sequence: give for instance [t1, t1ce, t2, flair].")
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(canonical(name), name)) is not name:
            raise MedfmError(
                f"modality.sequences names one sequence twice: {other} and {name}; drop one of them."
            )
    return names


def said_by_name(path: str | Path) -> set[str]:
    """Sequences that the name of a file or folder speaks of: ``7_t1_ce.nii.gz`` -> ``{"t1ce"}``."""
    words = [w for w in re.split(r"[^a-z0-9]+", stem(path).casefold()) if w]
    found, at = set(), 0
    while at < len(words):
        pair = "".join(words[at : at + 2])
        if at + 1 < len(words) and (pair in _OF) and words[at] in _TELLING:
            found.add(_OF[pair])
            at += 2
            continue
        if words[at] in _TELLING:
            found.add(_TELLING[words[at]])
        at += 1
    return found


def contradicts(name: str, path: str | Path) -> str | None:
    """The sequence that a file's name says it is, where that is another one than ``name``. ``t1`` in the name of a
    post-contrast T1 is no contradiction, and a name that speaks of several (``t1_to_t2``) is none either."""
    said, own = said_by_name(path), canonical(name)
    if own not in SEQUENCES or own in said or (own == "t1ce" and "t1" in said) or len(said) != 1:
        return None
    return said.pop()


# What a subject is called
# ---------------------------------------------------------------------------------------------------------------------


def subject_names(addresses: Sequence[str]) -> list[str] | None:
    """A name each: what the names of its files have in common, else the folder that holds them; None where neither tells
    all of them apart."""
    for names in ([_shared(a) for a in addresses], [_folder(a) for a in addresses]):
        if all(names) and len(set(names)) == len(names):
            return names
    return None


def subject_name(address: str) -> str:
    """Of one subject, as :func:`subject_names`."""
    return _shared(address) or _folder(address)


def stem(path: str | Path) -> str:
    """The name of a file without what tells its format; of ``FOLDER#part`` that of the folder."""
    name = Path(str(path).partition("#")[0]).name
    return re.sub(r"\.(nii|nrrd|nhdr|mha|mhd|zip)(\.gz)?$", "", name, flags=re.IGNORECASE)


def _shared(address: str) -> str:
    """``7_t1ce`` and ``7_flair`` -> ``7``; whole words, and none that is the name of a sequence."""
    files = list((split_subject(address) or {"": address}).values())
    words = [re.split(r"(?<=[_\-. ])", stem(f)) for f in files]
    kept = []
    for first, *others in zip(*words):
        bare = {w.rstrip("_-. ") for w in (first, *others)}
        if len(bare) > 1:
            break
        kept.append(first)
    while kept:
        last = next((n for n in (1, 2) if canonical("".join(kept[-n:])) in (*SEQUENCES, "")), 0)
        if not last:
            break
        del kept[-last:]
    return "".join(kept).rstrip("_-. ")


def _folder(address: str) -> str:
    files = list((split_subject(address) or {"": address}).values())
    folders = {Path(f.partition("#")[0]).parent for f in files}
    try:
        return Path(os.path.commonpath(folders)).name
    except ValueError:  # a relative path beside an absolute one
        return ""
