"""What the name of a volume file says: a sequence, a mask, or something else; and whose patient a folder is by its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from medfm.modalities.mri_sequences import SEQUENCES, canonical, sequence_of

Kind = Literal["sequence", "mask", "brain", "other", "unclear", ""]
_T1 = ("mprage", "mpr", "spgr", "fspgr", "bravo", "t1weighted")
_POST = (
    "gd",
    "gad",
    "gado",
    "gadolinium",
    "ce",
    "post",
    "postgd",
    "postcontrast",
    "contrast",
    "km",
    "enhanced",
)
_PRE = ("pre", "precontrast", "native", "nativ", "noncontrast", "nonenhanced", "plain")
_OTHER = (
    "dwi", "adc", "dti", "swi", "swan", "asl", "dsc", "dce", "perf", "perfusion", "cbv", "rcbv", "cbf", "mtt", "bold",
    "fmri", "pd", "pdw", "t2star", "t2starw", "tof", "mra", "mrv", "angio", "trace", "fa", "md", "localizer", "scout",
    "phase", "t1map", "t2map", "mp2rage", "unit1",
)  # fmt: skip
_MASKS = ("dseg", "label", "labels", "lesion", "lesions", "roi", "gt", "groundtruth")
_TISSUE = ("skull", "head", "gm", "wm", "csf", "tissue", "tissues", "parenchyma", "probseg")
_ONTO = ("to", "in", "on", "space")  # `flair_to_t1` is a FLAIR
_VISIT = re.compile(
    r"(?:ses|session|visit|scan|study|tp|timepoint|time|baseline|bl|followup|fu|pre|post|preop|postop)[-_ ]?[\da-z]{0,4}"
    r"|(?:19|20)\d\d[-._]?\d\d[-._]?\d\d",
    re.IGNORECASE,
)
_PATIENTS = (  # public data sets: the patient, and the site where the name has it
    r"(?P<patient>BraTS-[A-Za-z]+-\d{5})-\d{3}",
    r"(?P<patient>UPENN-GBM-\d{5})_\d\d",
    r"(?P<patient>UCSF-PDGM-\d{3,4})(?:_FU\d+d)?(?:_nifti)?",
    r"(?P<patient>TCGA[-_](?P<site>\w\w)[-_]\w{4})(?:[-_.]\d.*)?",
    r"(?P<patient>IXI\d{3})-(?P<site>Guys|HH|IOP)-\d+",
)


class Named(NamedTuple):
    """kind: what a file is; name: of its sequence, or what else it is."""

    kind: Kind
    name: str = ""


def words_of(stem: str) -> list[str]:
    return [w for w in re.split(r"[^a-z0-9]+", stem.casefold()) if w]


def named(words: Sequence[str], sequences: Sequence[str]) -> Named:
    """What a file is whose name has these words (small letters), for a modality of ``sequences``."""
    masks = [i for i, w in enumerate(words) if w.startswith("seg") or "mask" in w or w in _MASKS]
    # `VS-SEG-001_t1c` is a T1 of a patient: a number follows, and a sequence
    masks = [
        i
        for i in masks
        if not (words[i + 1 : i + 2] and words[i + 1].isdigit() and _weightings(words[i + 2 :])[0])
    ]
    if masks:
        whole = any(w.startswith("brain") or w in _TISSUE for w in words)
        return Named("brain", "brain or tissue mask") if whole else Named("mask", "mask")
    joined = [*words, *("".join(words[i : i + 2]) for i in range(len(words) - 1))]
    own = [s for s in sequences if canonical(s) not in SEQUENCES and canonical(s) in joined]
    if len(own) == 1:
        return Named("sequence", own[0])
    if hit := next((w for w in words if w in _OTHER), None):
        return Named("other", hit)
    found, at = _weightings(words)
    if not found:
        # `pre` and `post` alone are those of TCGA-LGG as it is passed on: before and after contrast.
        alone = canonical(words[0]) if len(words) == 1 else ""
        found = {alone} if alone in ("t1", "t1ce") else set()
    if found == {"t1", "flair"}:
        found = {"t1"}  # a T1 FLAIR
    if "t1" in found and found <= {"t1", "t1ce"}:
        rest = set(words[at:]) | set(words[:at])
        post, pre = rest & set(_POST), rest & set(_PRE)
        found = (
            {"t1ce"} if (post or "t1ce" in found) and not pre else {"t1"} if "t1ce" not in found else found
        )
    if not found:
        return Named("")
    if len(found) > 1:
        return Named("unclear", " and ".join(sorted(found)))
    one = next(iter(found))
    mine = sequence_of(one, sequences)
    return Named("sequence", mine) if mine else Named("other", one)


def _weightings(words: Sequence[str]) -> tuple[set[str], int]:
    """The usual sequences that words speak of, up to one that says onto what the picture was moved."""
    found: set[str] = set()
    at = 0
    while at < len(words):
        word, pair = words[at], "".join(words[at : at + 2])
        if word in _ONTO and found:
            break
        usual = canonical(word) in SEQUENCES and word not in (*_PRE, *_POST)
        if at + 1 < len(words) and canonical(pair) in SEQUENCES and usual:
            found.add(canonical(pair))
            at += 2
            continue
        if usual:
            found.add(canonical(word))
        elif word in _T1:
            found.add("t1")
        elif word.startswith("flair") or word.endswith("flair"):
            found.add("flair")
        at += 1
    return found, at


def patient_by_name(name: str) -> tuple[str | None, str | None]:
    """(patient, site) of a record called so, where its name is one of a public data set's."""
    for pattern in _PATIENTS:
        if match := re.fullmatch(pattern, name, re.IGNORECASE):
            return match["patient"], match.groupdict().get("site")
    return None, None


def is_visit(name: str) -> bool:
    """Is this the name of a visit (``ses-2``, ``2019-03-01``, ``baseline``) and not of a person?"""
    return bool(_VISIT.fullmatch(name))
