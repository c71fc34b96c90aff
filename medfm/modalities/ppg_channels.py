"""Which channel of a file is which: wavelengths of light, acceleration and ECG by their many names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from medfm.types import Finding, MedfmError

WAVELENGTHS = ("ppg", "green", "red", "infrared", "blue")
MOTION = ("acc", "acc_x", "acc_y", "acc_z")
CHANNELS = (*WAVELENGTHS, *MOTION, "ecg")
LIGHT = ("infrared", "red", "green", "blue")  # may stand for `ppg`

_NAMES: tuple[tuple[str, str], ...] = (
    ("green", r"(ppg|led|pleth|bvp)?(green|grn|g|530|525|520)(nm|ppg|led)?\d?"),
    ("red", r"(ppg|led|pleth|bvp)?(red|r|660|650|640)(nm|ppg|led)?\d?"),
    ("infrared", r"(ppg|led|pleth|bvp)?(infrared|infrarot|ir|nir|880|940|905|850)(nm|ppg|led)?\d?"),
    ("blue", r"(ppg|led|pleth|bvp)?(blue|b|470)(nm|ppg|led)?\d?"),
    ("ppg", r"(.*(pleth|ppg|photoplethysm|bvp|bloodvolumepulse|pulsewave|pulswelle)).*"),
    ("acc_x", r"(acc|accel|acceleration|accelerometer|a)x"),
    ("acc_y", r"(acc|accel|acceleration|accelerometer|a)y"),
    ("acc_z", r"(acc|accel|acceleration|accelerometer|a)z"),
    ("acc", r"(acc|accel|acceleration|accelerometer|accmag|acceleromagnitude|accmagnitude|svm|enmo)"),
    ("ecg", r"(.*(ecg|ekg).*|(lead)?(i|ii|iii|avr|avl|avf|v[1-6]|mlii|mcl\d?))"),
)
_PATTERNS = tuple((canonical, re.compile(pattern)) for canonical, pattern in _NAMES)


def canonical(name: str) -> str | None:
    """The channel that a name means, or None: ``PLETH`` -> ppg, ``IR`` -> infrared, ``ACC_X (g)`` -> acc_x."""
    text = re.sub(r"[(\[].*?[)\]]", "", name.casefold())
    compact = re.sub(r"[^a-z0-9]+", "", text)
    return next((c for c, pattern in _PATTERNS if pattern.fullmatch(compact)), None)


def check_alias(alias: Mapping[str, str]) -> dict[str, str]:
    """``alias`` with its keys folded. Raises :class:`MedfmError` for a value that is no channel."""
    for key, value in alias.items():
        if value not in CHANNELS:
            raise MedfmError(
                f"modality.alias: {value!r} (for channel {key!r}) is no channel; use one of {', '.join(CHANNELS)}."
            )
    return {key.strip().casefold(): value for key, value in alias.items()}


def resolve(names: Sequence[str], alias: Mapping[str, str]) -> tuple[dict[str, int], list[Finding]]:
    """Channel -> number in the file: an alias first, then the name. Of two of one kind the first is taken, and said.

    A file of one channel without a name is a PPG, and that is said too.
    """
    found: dict[str, int] = {}
    doubled: list[str] = []
    for number, name in enumerate(names):
        channel = alias.get(name.strip().casefold()) or canonical(name)
        if channel is None:
            continue
        if channel in found:
            doubled.append(name)
        else:
            found[channel] = number
    findings = []
    if doubled:
        first = ", ".join(names[found[c]] for c in dict.fromkeys(filter(None, map(canonical, doubled))))
        text = f"{', '.join(doubled)} left out: the first of each kind is read ({first or 'by alias'})."
        findings.append(Finding("extra-channel", text, "info"))
    if not found and len(names) == 1 and not names[0].strip():
        found["ppg"] = 0
        text = "the only channel has no name and was taken as the PPG."
        findings.append(Finding("assumed-channel", text, "warning"))
    return found, findings
