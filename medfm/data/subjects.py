"""MRI subjects below a folder: which file is which sequence of whom, by BIDS names, by BraTS and other names, or by DICOM tags.

One folder is one subject, or one file name up to its sequence where a folder holds several. What cannot be told is said and
left out: nothing is guessed between two files for one sequence.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medfm.data.subject_bids import Bids, bids_of, first_runs, participants
from medfm.data.subject_names import Named, is_visit, named, patient_by_name, words_of
from medfm.data.subject_table import Subject
from medfm.formats.mri_study import RULE, find_studies
from medfm.formats.series_header import is_dicom
from medfm.formats.volume import is_candidate
from medfm.modalities.mri_sequences import sequence_of, stem, subject_name
from medfm.types import Finding, MedfmError, ReadError

LAYOUTS = (
    "BIDS (sub-1/anat/sub-1_T1w.nii.gz), a folder a subject with the sequence in each file's name (7/7_t1ce.nii.gz), "
    "and DICOM studies"
)


@dataclass(frozen=True)
class Found:
    """failed: (place, reason). others: files that are no sequence, by what they are. said: a sentence for every DICOM series,
    and for what was left out as a whole."""

    subjects: list[Subject]
    failed: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)


def find_subjects(folder: str | Path, sequences: Sequence[str]) -> Found:
    """Every subject below ``folder`` with at least one of ``sequences``, by record.

    Raises :class:`MedfmError` for a folder that does not exist or holds neither a subject nor anything that failed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MedfmError(f"folder not found: {folder}.")
    folder = folder.resolve()
    found = Found([])
    files, dicom = _files(folder, found)
    bids: list[tuple[Path, Bids]] = []
    plain: list[Path] = []
    for file in files:
        entry = bids_of(file)
        bids += [(file, entry)] if entry else []
        plain += [] if entry else [file]
    _bids(bids, sequences, found)
    _plain(plain, sequences, found)
    for place in dicom:
        _dicom(place, sequences, found)
    if not found.subjects and not found.failed:
        seen = ", ".join(f"{n} {kind}" for kind, n in found.others.most_common(5)) or "no file"
        raise MedfmError(
            f"{folder}: no MRI subject below this folder (it holds {seen}). Read are {LAYOUTS}; for other layouts make a table "
            f"with a column for each of {', '.join(sequences)}."
        )
    found.subjects[:] = _renamed(found.subjects, folder)
    return found


# Files of a tree
# ---------------------------------------------------------------------------------------------------------------------


def _files(folder: Path, found: Found) -> tuple[list[Path], list[Path]]:
    """Volume files in order, and the folder itself (and zips) where DICOM lies."""
    volumes: list[Path] = []
    dicom: list[Path] = []
    for top, folders, names in os.walk(folder, onerror=lambda e: _locked(found, e)):
        parent = Path(top)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if "derivatives" in folders:
            folders.remove("derivatives")
            found.said.append(
                f"{parent / 'derivatives'}: left out: a BIDS folder of what was computed from the pictures; a mask there is "
                "named in a column 'label' of the table."
            )
        for path in (parent / name for name in sorted(names) if not name.startswith(".")):
            try:
                if is_candidate(path):
                    (dicom if path.suffix.lower() == ".zip" else volumes).append(path)
                elif is_dicom(path):
                    dicom += [] if folder in dicom else [folder]
                else:
                    found.others[path.suffix.lower() or "no suffix"] += 1
            except OSError as error:
                _locked(found, error, path)
    return volumes, dicom


def _locked(found: Found, error: OSError, path: Path | None = None) -> None:
    found.failed.append(
        (str(path or error.filename), f"cannot be opened ({error.strerror}); change its permissions.")
    )


# BIDS
# ---------------------------------------------------------------------------------------------------------------------


def _bids(files: list[tuple[Path, Bids]], sequences: Sequence[str], found: Found) -> None:
    groups: dict[tuple[Path, str], list[tuple[Path, Bids]]] = defaultdict(list)
    for file, entry in files:
        groups[entry.root, entry.record].append((file, entry))
    facts = {root: participants(root) for root in {root for root, _ in groups}}
    for (root, record), members in groups.items():
        places: dict[str, list[Path]] = defaultdict(list)
        masks: list[Path] = []
        for file, entry in first_runs(members, found.said):
            kind, name = entry.named(sequences)
            if kind == "sequence":
                places[name].append(file)
            elif kind == "mask":
                masks.append(file)
            else:
                found.others[name or f"{entry.suffix} (BIDS)"] += 1
        patient = members[0][1].patient
        about = facts[root].get(patient, {})
        made = _subject(record, patient, places, masks, root / record, sequences, found)
        if made:
            found.subjects.append(replace(made, **about))  # type: ignore[arg-type]


# Names
# ---------------------------------------------------------------------------------------------------------------------


def _plain(files: list[Path], sequences: Sequence[str], found: Found) -> None:
    """Files in folders of subjects, or many subjects in one folder."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        folders[file.parent].append(file)
    places: dict[Path, list[tuple[Path, Named]]] = defaultdict(list)
    for folder, members in folders.items():
        said = _named(members, sequences)
        # patient/flair/12.nii.gz: the folder says what the files do not
        outer = named(words_of(folder.name), sequences)
        for file, what in said.items():
            if what.kind == "" and outer.kind == "sequence":
                places[folder.parent].append((file, outer))
            else:
                places[folder].append((file, what))
    guessed = 0
    for folder, entries in places.items():
        _placed(folder, entries, sequences, found)
        guessed += any(w.kind == "sequence" and words_of(stem(f)) in (["pre"], ["post"]) for f, w in entries)
    if guessed:
        found.said.append(
            f"{guessed} folder(s) with files named pre or post: taken as T1 before and after contrast; if that means before and "
            "after an operation, name the files otherwise or make a table."
        )


def _named(files: list[Path], sequences: Sequence[str]) -> dict[Path, Named]:
    """What each file of a folder is, by its words without those that all begin with: ``P1_t1_flair`` beside ``P1_t1_t2`` is a
    FLAIR of the time ``t1``."""
    words = {file: words_of(stem(file)) for file in files}
    lead = 0
    while len(files) > 1 and all(len(w) > lead + 1 for w in words.values()):
        if len({w[lead] for w in words.values()}) > 1:
            break
        lead += 1
    said = {}
    for file, every in words.items():
        short = named(every[lead:], sequences)
        said[file] = short if short.kind else named(every, sequences)
    return said


def _placed(folder: Path, entries: list[tuple[Path, Named]], sequences: Sequence[str], found: Found) -> None:
    used = [(file, what) for file, what in entries if what.kind in ("sequence", "mask")]
    for _, what in entries:
        if what.kind not in ("sequence", "mask"):
            found.others[what.name or "volume of no known sequence"] += 1
    counts = Counter(what.name for _, what in used)
    groups = _by_stem(used) if counts and max(counts.values()) > 1 else {folder.name: used}
    if groups is None:
        groups = {folder.name: used}
    elif len(groups) == 1 and (stray := _stray(folder, used)):
        found.failed.append((str(folder), stray))
        return
    unknown = [(f, w) for f, w in entries if w.kind in ("unclear", "")]
    for name, members in groups.items():
        places: dict[str, list[Path]] = defaultdict(list)
        for file, what in members:
            places[what.name].append(file)
        masks = places.pop("mask", [])
        if not places:
            if members or unknown:
                found.failed.append((str(folder), _none(members, entries, sequences)))
            continue
        patient, site = patient_by_name(name)
        made = _subject(name, patient, places, masks, folder, sequences, found)
        if made:
            notes = tuple(
                Finding(
                    "name-unclear",
                    f"{file.name}: left out, its name does not say which one sequence it is"
                    f"{f' ({what.name})' if what.name else ''}.",
                )
                for file, what in unknown
            )
            found.subjects.append(replace(made, site=site, findings=made.findings + notes))


def _none(members: list, entries: list[tuple[Path, Named]], sequences: Sequence[str]) -> str:
    names = ", ".join(file.name for file, _ in entries[:6])
    what = "only a mask" if members else "no file of a known sequence"
    return f"holds {what} ({names}); name its files after {', '.join(sequences)}, or make a table with a column for each of them."


def _by_stem(used: list[tuple[Path, Named]]) -> dict[str, list[tuple[Path, Named]]] | None:
    """The files of a flat folder by what stands before the sequence in their names; None: they are not of several subjects."""
    groups: dict[str, list[tuple[Path, Named]]] = defaultdict(list)
    for file, what in used:
        key = _key(file, what)
        if key is None:
            return None
        groups[key].append((file, what))
    several = any(max(Counter(w.name for _, w in g).values()) > 1 for g in groups.values())
    return None if several or len(groups) < 2 else dict(groups)


def _key(file: Path, what: Named) -> str | None:
    """``7_t1_ce`` -> ``7``: the name without the words at its end that say the sequence; None where that leaves nothing."""
    parts = re.split(r"([^A-Za-z0-9]+)", stem(file))
    for last in (1, 3, 5):  # words from the end, with what separates them
        if len(parts) > last:
            tail = words_of("".join(parts[-last:]))
            wanted = (what.name,) if what.kind == "sequence" else ()
            if named(tail, wanted) == what and "".join(parts[: -last - 1]):
                longer = words_of("".join(parts[-last - 2 :]))
                if (
                    len(parts) > last + 2
                    and named(longer, wanted) == what
                    and len(longer) <= 3
                    and _said(longer[0])
                ):
                    continue
                return "".join(parts[: -last - 1])
    return None


def _said(word: str) -> bool:
    """Does this word belong to the name of a sequence?"""
    return named([word], ("t1", "t1ce", "t2", "flair")).kind in ("sequence", "mask")


def _stray(folder: Path, used: list[tuple[Path, Named]]) -> str | None:
    """A file that is named after another subject than its folder."""
    keys = {file: _key(file, what) for file, what in used}
    if folder.name not in keys.values():
        return None
    like = re.sub(r"\d+", "0", folder.name)
    for file, key in keys.items():
        if key and key != folder.name and re.sub(r"\d+", "0", key) == like:
            return f"{file.name} is named after {key} and lies in the folder of {folder.name}; put it where it belongs."
    return None


def _subject(
    record: str,
    patient: str | None,
    places: dict[str, list[Path]],
    masks: list[Path],
    folder: Path,
    sequences: Sequence[str],
    found: Found,
) -> Subject | None:
    """None, and the reason under ``failed``, where two files stand for one sequence or none does."""
    for name in sequences:
        if len(several := places.get(name, [])) > 1:
            found.failed.append(
                (
                    str(folder),
                    f"{record} has {len(several)} files for {name} ({', '.join(f.name for f in several[:4])}); leave one there, or "
                    "name the right one in a table.",
                )
            )
            return None
    if not places:
        found.failed.append((str(folder), f"{record} has none of the sequences {', '.join(sequences)}."))
        return None
    findings: tuple[Finding, ...] = ()
    if len(masks) > 1:
        told = f"{len(masks)} masks ({', '.join(m.name for m in masks[:4])}): none is taken; name one in the column label."
        findings = (Finding("masks-several", told),)
    files = {name: str(places[name][0]) for name in sequences if name in places}
    label = str(masks[0]) if len(masks) == 1 else None
    return Subject(record, files, label, patient, findings=findings, folder=folder)


# DICOM
# ---------------------------------------------------------------------------------------------------------------------


def _dicom(place: Path, sequences: Sequence[str], found: Found) -> None:
    wanted: Callable[[str], str | None] = lambda name: sequence_of(name, sequences)  # noqa: E731
    try:
        studies = find_studies(place, wanted)
    except ReadError as error:
        found.failed.append((str(place), str(error).removeprefix(f"{place}: ")))
        return
    each = Counter(s.patient for s in studies)
    number: Counter[str | None] = Counter()
    for study in studies:
        number[study.patient] += 1
        name = study.patient or place.stem
        record = f"{name}_{number[study.patient]}" if each[study.patient] > 1 else name
        found.said.extend(f"{record}: {line}" for line in study.said)
        if not study.files:
            found.failed.append(
                (
                    f"{place} ({record})",
                    f"none of its series is one of {', '.join(sequences)}: {study.said[0]}",
                )
            )
            continue
        files = {n: study.files[n] for n in sequences if n in study.files}
        found.subjects.append(
            Subject(
                record, files, None, study.patient, study.site, study.age, study.sex, study.uid, folder=place
            )
        )
    if studies:
        found.said.append(f"several series for one sequence: {RULE}.")


# Names of records and patients
# ---------------------------------------------------------------------------------------------------------------------


def _renamed(subjects: list[Subject], root: Path) -> list[Subject]:
    """Records told apart by their folders, and patients by the name of the folder (of the one around it, for a visit)."""
    each = Counter(s.record for s in subjects)
    same = [s for s in subjects if each[s.record] > 1]
    # A/mri and B/mri are two patients; train/7 and test/7 nobody knows.
    outer = len({s.folder.parent for s in same}) >= len({s.record for s in same})
    return sorted((_of_patient(s, root, each[s.record] > 1, outer) for s in subjects), key=lambda s: s.record)


def _of_patient(one: Subject, root: Path, shared: bool, outer: bool) -> Subject:
    """shared: other folders are called so, too; outer: then the folder around it names the patient."""
    if one.folder == root and one.record == root.name and not one.study:
        name = subject_name(one.address)
        patient, site = patient_by_name(name)
        one = replace(one, record=name, patient=one.patient or patient, site=one.site or site)
    if one.patient is None and not one.study:
        around = one.folder.parent
        if one.folder == root or not (shared or is_visit(one.record)):
            one = replace(one, patient=one.record)
        elif around != root and (outer or not shared):
            known, site = patient_by_name(around.name)
            one = replace(one, patient=known or around.name, site=one.site or site)
    if shared and one.folder.is_relative_to(root) and one.folder != root:
        one = replace(one, record=one.folder.relative_to(root).as_posix().replace("/", "_"))
    return one
