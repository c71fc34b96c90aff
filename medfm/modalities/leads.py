"""Leads by name: every spelling that carts, exports and public data sets use, and the algebra of the limb
leads.

A lead is matched by its name, never by its position: MIMIC-IV-ECG stores I, II, III, aVR, aVF, aVL. The limb
leads are linear in (I, II), so that any two of the six give the other four exactly (Einthoven's law,
Goldberger's leads).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from medfm.types import Finding, MedfmError

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
LIMB = LEADS[:6]

# Rows: each limb lead as (coefficient of I, coefficient of II).
LIMB_OF_I_II: dict[str, tuple[float, float]] = {
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}

_CANONICAL = {name.casefold(): name for name in LEADS}
# Spellings that the general rules of `parse` do not reach.
_ALIASES = {
    **{f"d{roman}": lead for roman, lead in (("i", "I"), ("ii", "II"), ("iii", "III"))},
    **{f"d{n}": lead for n, lead in ((1, "I"), (2, "II"), (3, "III"))},
    **{f"l{n}": lead for n, lead in ((1, "I"), (2, "II"), (3, "III"))},
    **{f"l{roman}": lead for roman, lead in (("i", "I"), ("ii", "II"), ("iii", "III"))},
    "la-ra": "I",
    "ll-ra": "II",
    "ll-la": "III",
    "la/ra": "I",
    "ll/ra": "II",
    "ll/la": "III",
}
# SCPECG codes of DICOM PS3.16 CID 3001.
_SCPECG = {f"5.6.3-9-{code}": lead for code, lead in zip((1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), LEADS)}
_INVERSE = {"ra-la": "I", "ra-ll": "II", "la-ll": "III"}
# Modified leads stand near the named one, not on it; they are used and reported.
_MODIFIED = {
    **{f"ml{roman}": lead for roman, lead in (("i", "I"), ("ii", "II"), ("iii", "III"))},
    **{f"ml{n}": lead for n, lead in ((1, "I"), (2, "II"), (3, "III"))},
    **{f"mcl{n}": f"V{n}" for n in range(1, 7)},
    **{f"mv{n}": f"V{n}" for n in range(1, 7)},
    **{f"cm{n}": f"V{n}" for n in range(1, 7)},
}
_EXTRA = re.compile(r"^(v[7-9]|v[1-9]r|v[xyz]|[xyz]|cr[1-7]|nst|es|as|ai|a|d|j)$")
_OTHER = re.compile(
    r"pleth|ppg|abp|art|pap|cvp|icp|resp|spo2|sp02|co2|o2|temp|press|pulse|^hr|hrv|rr|eeg|eog|emg|gsr|acc|mark|"
    r"annot|event|status|trigger|time|bp|flow|snore|body|light|battery|angle|fecg|^uc$|imp"
)
_WORDS = re.compile(
    r"(?<![a-z])(standard|limb|chest|precordial|leads?|ecg|ekg|elektrokardiogramm|channel|chan|ch|signal|"
    r"derivation|derivacion|derivação|derivacao|derivación|dérivation|ableitung|abl|abltg)(?![a-z])[\s-]*"
)
_UNIT = re.compile(r"[\[(_ ]\s*(mv|uv|µv|μv|v|millivolts?|microvolts?)\s*[\])]?$")
_ASIDE = re.compile(r"\b(einthoven|goldberger|wilson|cabrera|augmented|unipolar|bipolar|raw|filtered)\b")
_REFERENCE = re.compile(r"(?<=[iv0-9rlf])\s*-\s*(ref|wct|gnd|m|avg)$")


class Match(NamedTuple):
    """A parsed channel name: canonical lead, its sign in the file (-1: inverted, as Cabrera's -aVR),
    modified or not."""

    lead: str
    sign: int = 1
    modified: bool = False


def parse(name: str) -> Match | None:
    """The canonical lead that a channel name means, or None. ``"Lead I (Einthoven)"`` -> I, ``"-aVR"`` ->
    aVR, -1."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = re.sub(r"[−–—]", "-", text).replace("导联", " ").strip()
    text = re.sub(r"^mdc[_ ]ecg[_ ](lead|elec[_ ]potl)[_ ]", "", _UNIT.sub("", text).strip())
    if text.startswith("5.6.3-9-"):
        return Match(_SCPECG[text]) if text in _SCPECG else None
    text = _ASIDE.sub(" ", re.sub(r"[()\[\]_:;,=.]+", " ", text))
    text = _REFERENCE.sub("", text.strip())
    sign = 1
    # A hyphen turns the sign where it opens the name ("-aVR", "ECG -aVR") or, with aVR, ends it; "Lead-I"
    # only joins.
    if found := re.search(
        r"(?:^|\s)(?:-\s*|minus\s+|inverted\s+|inv\s+|neg\s+)(?=[iav])|(?<=av[rlf])\s*(?:-|neg)$", text
    ):
        sign = -1
        text = text[: found.start()] + " " + text[found.end() :]
    numbered = re.search(r"lead|ableitung|\babl\b|deriva", text) is not None
    text = _WORDS.sub(" ", text)
    text = re.sub(r"^\s*(?:ecg|ekg|lead)+(?=[iav1-3])", "", text)  # glued: "leadII", "ecgI"
    compact = re.sub(r"\s+", "", text).strip("-+/")
    if numbered and compact in ("1", "2", "3"):  # "Lead 1" names a lead, "ECG 1" only counts channels
        return Match(LIMB[int(compact) - 1], sign)
    compact = re.sub(r"^v0([1-9])$", r"v\1", compact)
    if compact in _INVERSE:
        return Match(_INVERSE[compact], -sign)
    if compact in _MODIFIED:
        return Match(_MODIFIED[compact], sign, modified=True)
    lead = _CANONICAL.get(compact) or _ALIASES.get(compact)
    return Match(lead, sign) if lead else None


@dataclass(frozen=True)
class Resolution:
    """Which channel carries which lead: ``index[lead] = (channel number, sign)``, and what there is to
    say."""

    index: dict[str, tuple[int, int]]
    findings: tuple[Finding, ...]


def resolve(channels: Sequence[str], alias: Mapping[str, str] | None = None) -> Resolution:
    """Match channel names to leads. ``alias`` (channel name -> lead) comes first, for names that nothing can
    guess.

    Channels that are no standard lead are dropped, each with a finding. Raises :class:`MedfmError` when an
    alias names no lead.
    """
    given = {}
    for key, value in (alias or {}).items():
        match = parse(value)
        if match is None:
            raise MedfmError(
                f"modality.alias: {value!r} (for channel {key!r}) is no lead; use one of {', '.join(LEADS)}."
            )
        given[key.strip().casefold()] = match
    iec = _iec_precordial(channels)
    index: dict[str, tuple[int, int]] = {}
    exact: dict[str, bool] = {}
    findings: list[Finding] = []
    for number, name in enumerate(channels):
        match = given.get(name.strip().casefold()) or parse(name) or iec.get(name.strip().casefold())
        if match is None:
            findings.append(_unmatched(name))
            continue
        if match.lead in index and (exact[match.lead] or match.modified):
            findings.append(
                Finding(
                    "duplicate-lead",
                    f"{name!r} is a second lead {match.lead}; the first one is used.",
                    channel=name,
                )
            )
            continue
        if match.modified:
            findings.append(
                Finding(
                    "modified-lead",
                    f"{name!r} is used as lead {match.lead}: a modified lead.",
                    "info",
                    match.lead,
                )
            )
        if match.sign < 0:
            findings.append(
                Finding(
                    "inverted-lead",
                    f"{name!r} is {match.lead} upside down; its sign was turned.",
                    "info",
                    match.lead,
                )
            )
        index[match.lead] = (number, match.sign)
        exact[match.lead] = not match.modified
    return Resolution(index, tuple(findings))


def _iec_precordial(channels: Sequence[str]) -> dict[str, Match]:
    """C1..C6 (IEC colours) are V1..V6, but C3 and C4 are also EEG electrodes: only the complete set is
    believed."""
    names = {c.strip().casefold() for c in channels}
    if all(f"c{n}" in names for n in range(1, 7)) and not any(f"v{n}" in names for n in range(1, 7)):
        return {f"c{n}": Match(f"V{n}") for n in range(1, 7)}
    return {}


def _unmatched(name: str) -> Finding:
    text = name.strip().casefold()
    if _EXTRA.match(re.sub(r"\b(lead|ecg|ekg)\b|[\s_]", "", text)):
        return Finding(
            "extra-lead", f"{name!r} is no lead of the standard twelve and was left out.", "info", name
        )
    if _OTHER.search(text):
        return Finding("non-ecg-channel", f"{name!r} is no ECG and was left out.", "info", name)
    if text in ("v", "mcl", "c"):
        return Finding(
            "unknown-lead",
            f"{name!r} names a chest lead without its position and was left out.",
            "warning",
            name,
        )
    return Finding(
        "unknown-lead",
        f"channel {name!r} names no lead and was left out; name it with modality.alias.",
        "warning",
        name,
    )


def derive(x: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Fill absent limb leads of ``x [12, T]`` from those that are there. Returns (x, names of the derived
    leads).

    With I and II: III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2. With any other two or
    more limb leads, I and II come first by least squares (exact for two). Fewer than two: nothing is
    derived.
    """
    missing = [i for i in range(6) if not present[i]]
    have = [i for i in range(6) if present[i]]
    if not missing or len(have) < 2:
        return x, ()
    x = x.copy()
    rows = np.array([LIMB_OF_I_II[name] for name in LIMB])
    source = [0, 1] if present[0] and present[1] else have
    base = x[:2] if source == [0, 1] else np.linalg.pinv(rows[source]) @ x[source]
    x[missing] = rows[missing] @ base
    return x, tuple(LIMB[i] for i in missing)
