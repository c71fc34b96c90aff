"""Files that sample their channels at several rates: which channels share the grid that is read."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from medfm.types import Finding

_ECG = re.compile(
    r"^\W*(ecg|ekg|lead|d?i{1,3}|av[rlf]|-avr|v\d{0,2}r?|mcl\d?|ml?i{1,3}|mv\d|mdc_ecg|c\d|[xyz])(?![a-z])",
    re.I,
)


def common_rate(names: Sequence[str], rates: Sequence[float]) -> tuple[list[int], list[Finding]]:
    """Indices of the channels that share one sampling rate, and a finding that names the others.

    The rate is the one that most ECG channels have (the higher of two equals); without an ECG channel, that
    most channels have. One rate throughout keeps every channel.
    """
    rounded = np.round(np.asarray(rates, dtype=float), 6)
    if np.unique(rounded).size <= 1:
        return list(range(len(rates))), []
    ecg = np.array([bool(_ECG.match(n)) for n in names])
    voters = rounded[ecg] if ecg.any() else rounded
    values, counts = np.unique(voters, return_counts=True)
    rate = values[np.flatnonzero(counts == counts.max())[-1]]
    keep = [i for i, r in enumerate(rounded) if r == rate]
    left = ", ".join(f"{names[i]} ({rates[i]:g} Hz)" for i in range(len(names)) if i not in keep)
    message = f"the file samples its channels at several rates; those at {rate:g} Hz were read, not {left}."
    return keep, [Finding("mixed-sampling-rates", message, "info")]
