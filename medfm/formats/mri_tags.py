"""Which MRI sequence a DICOM series is, by what its header says, with the reason in words; what it does not say is not guessed.

Words of the description come first, and what TE, TR and TI mean may neither contradict them nor, where the description is
silent, leave a doubt. Times in ms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# kind: words of a series description that show it. They come before the weighting: `ep2d_diff_T2` is no T2.
_KINDS: dict[str, tuple[str, ...]] = {
    "a localizer": ("loc", "localizer", "localiser", "scout", "survey", "3plane", "smartbrain", "calibration"),
    "diffusion": ("dwi", "dti", "diff", "diffusion", "adc", "trace", "tracew", "ivim", "resolve"),
    "perfusion": ("perf", "perfusion", "pwi", "dsc", "dce", "cbv", "rcbv", "cbf", "mtt", "ttp", "asl", "pasl", "pcasl"),
    "susceptibility": ("swi", "swan", "swip", "t2star", "t2stern", "hemo", "haemo", "gre2d", "venobold"),
    "an angiogram": ("tof", "mra", "mrv", "angio", "mip", "pca"),
    "functional": ("bold", "fmri", "rsfmri"),
    "spectroscopy": ("mrs", "svs", "csi", "spectro", "spectroscopy"),
    "a subtraction": ("sub", "subtraction", "subtracted"),
    "a field map": ("fieldmap", "b0map", "b1map"),
}  # fmt: skip
_NAMES = {
    "diffusion": "dwi",
    "susceptibility": "swi",
    "perfusion": "perfusion",
}  # of sequences a site may configure
_T1 = ("mprage", "mp2rage", "spgr", "fspgr", "bravo", "vibe", "thrive")
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
    "plusc",
    "enhanced",
)
_PRE = ("pre", "precontrast", "nativ", "native", "without", "wo", "non", "noncontrast", "plain")
_REFORMATTED = {"MPR", "REFORMATTED", "PROJECTION IMAGE", "MIP", "MAX_IP", "MIN_IP", "CURVED", "RESAMPLED"}
_NO_AGENT = ("", "no", "none", "n", "without", "0")


@dataclass(frozen=True)
class MRTags:
    """What the header of a series says. Times in ms; None: not stated. agent: the contrast agent's name."""

    description: str
    protocol: str
    scanning: frozenset[str]
    variant: frozenset[str]
    image_type: tuple[str, ...]
    te: float | None
    tr: float | None
    ti: float | None
    b_value: float | None
    agent: str
    acquisition: str

    @property
    def derived(self) -> bool:
        return "DERIVED" in self.image_type

    @property
    def times(self) -> str:
        told = [f"{n} {v:g}" for n, v in (("TR", self.tr), ("TE", self.te), ("TI", self.ti)) if v]
        return f"{', '.join(told)} ms" if told else "no times stated"


def tags_of(data: Any) -> MRTags:
    """Of a classic header, or of an enhanced one (its shared and first frame's groups)."""
    levels = list(_levels(data))

    def value(*keys: str) -> Any:
        return next((v for k in keys for level in levels if (v := level.get(k)) not in (None, "")), None)

    def words(key: str) -> frozenset[str]:
        return frozenset(str(w).upper() for w in _several(value(key)))

    agents = _several(data.get("ContrastBolusAgent")) or [
        str(item.get("CodeMeaning", "stated")) for item in data.get("ContrastBolusAgentSequence") or ()
    ]
    agent = " ".join(map(str, agents)).strip()
    echo = str(value("EchoPulseSequence") or "").upper()
    scanning = words("ScanningSequence") | {
        code for code, said in (("SE", "SPIN"), ("GR", "GRADIENT")) if said in echo or echo == "BOTH"
    }
    return MRTags(
        description=" ".join(str(data.get("SeriesDescription", "") or "").split()),
        protocol=" ".join(str(data.get("ProtocolName", "") or "").split()),
        scanning=scanning,
        variant=words("SequenceVariant"),
        image_type=tuple(str(w).upper() for w in _several(value("ImageType"))),
        te=_number(value("EchoTime", "EffectiveEchoTime")),
        tr=_number(value("RepetitionTime")),
        ti=_number(value("InversionTime", "InversionTimes")),
        b_value=_number(value("DiffusionBValue")),
        agent="" if agent.casefold() in _NO_AGENT else agent,
        acquisition=str(value("MRAcquisitionType") or "").upper(),
    )


def sequence_by_tags(tags: MRTags) -> tuple[str | None, str]:
    """(``t1``, ``t1ce``, ``t2``, ``flair``, ``pd``, ``dwi``, ``swi`` or ``perfusion``; None: not to be used, and why."""
    words, said = _words(tags.description), f"'{tags.description}'"
    if reason := _no_picture(tags):
        return None, reason
    if tags.b_value is not None:
        return "dwi", f"diffusion: a b-value of {tags.b_value:g} is stated"
    for kind, listed in _KINDS.items():
        if hit := next((w for w in words if w in listed), None):
            return _NAMES.get(kind), f"{kind}: its description {said} says '{hit}'"
    if "EP" in tags.scanning:
        return None, "echo-planar (ScanningSequence EP), which is no T1, T2 or FLAIR for anatomy"
    by_word = _weighting_by_words(words)
    if by_word is None:
        by_word = _weighting_by_words(_words(tags.protocol))
        said = f"'{tags.protocol}' (ProtocolName)" if by_word else said
    by_times = _weighting_by_times(tags)
    if by_word and by_times and by_word != by_times:
        return None, (
            f"its description {said} says {by_word.upper()}, but {tags.times} are those of a {by_times.upper()}"
        )
    found = by_word or by_times
    if found is None:
        return None, f"neither its description {said} nor its times ({tags.times}) say which sequence it is"
    because = f"its description says {said}" if by_word else f"{tags.times} are those of a {found.upper()}"
    if found != "t1":
        return found, because
    return _contrast(tags, words, because)


def _no_picture(tags: MRTags) -> str | None:
    kinds = set(tags.image_type)
    if hit := next((k for k in tags.image_type if k in _REFORMATTED), None):
        return f"reformatted from another series (ImageType {hit})"
    if "SECONDARY" in kinds:
        return "computed from other series (ImageType SECONDARY)"
    if kinds & {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY"} and not kinds & {"M", "MAGNITUDE"}:
        return "no magnitude picture (ImageType)"
    return None


def _contrast(tags: MRTags, words: tuple[str, ...], because: str) -> tuple[str, str]:
    """T1 before or after contrast."""
    pre, post = (next((w for w in words if w in listed), None) for listed in (_PRE, _POST))
    if pre:
        return "t1", f"{because}, '{pre}': before contrast"
    if post:
        return "t1ce", f"{because}, '{'+c' if post == 'plusc' else post}': after contrast"
    if tags.agent:
        return "t1ce", f"{because}, and a contrast agent is stated ({tags.agent})"
    return (
        "t1",
        f"{because}; no contrast agent is stated, so that it counts as native (a wrong guess where the tag was blanked)",
    )


def _weighting_by_words(words: tuple[str, ...]) -> str | None:
    t1 = any(w.startswith("t1") or w in _T1 for w in words)
    flair = any("flair" in w for w in words) or {"dark", "fluid"} <= set(words) or "t2f" in words
    if t1:
        return "t1"  # a T1 FLAIR is a T1
    if flair:
        return "flair"
    t2 = any(w.startswith("t2") for w in words)
    pd = bool({"pd", "pdw", "proton"} & set(words))
    return "t2" if t2 and not pd else "pd" if pd and not t2 else None


def _weighting_by_times(tags: MRTags) -> str | None:
    """By the usual ranges of brain protocols, with gaps between them that decide nothing."""
    te, tr, ti = tags.te, tags.tr, tags.ti or 0.0
    if te is None or tr is None:
        return None
    if "GR" in tags.scanning and "SE" not in tags.scanning:
        balanced = "SS" in tags.variant and "SP" not in tags.variant
        prepared = 300 <= ti <= 1400 or "MP" in tags.variant
        return "t1" if te <= 10 and (tr <= 60 or prepared) and not balanced else None
    if ti:
        return "flair" if ti >= 1400 and te >= 60 else "t1" if 500 <= ti < 1400 and te <= 40 else None
    if tr <= 1000:
        return "t1" if te <= 40 else None
    if tr >= 1800:
        return "t2" if te >= 60 else "pd" if te <= 40 else None
    return None


def _words(text: str) -> tuple[str, ...]:
    text = re.sub(r"t2\s*\*", "t2star", text.casefold())
    text = re.sub(r"w/o\b", "without", re.sub(r"\+\s*c\b|\bc\s*\+", " plusc ", text))
    return tuple(w for w in re.split(r"[^a-z0-9]+", text) if w)


def _levels(data: Any) -> Iterator[Any]:
    """Data sets from a frame's own groups to the object's."""
    for key in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for item in list(data.get(key) or ())[:1]:
            for element in item:
                if element.VR == "SQ" and element.value:
                    yield element.value[0]
    yield data


def _several(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)


def _number(value: Any) -> float | None:
    try:
        return float(_several(value)[0])
    except (TypeError, ValueError, IndexError):
        return None
