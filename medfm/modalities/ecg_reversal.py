"""Exchanged electrodes, from the median beat: the polarity of P, QRS and T in I, II and aVR, and the chest
leads' order.

Thresholds were chosen on the even patient ids of 285 PTB-XL records and on the same records with leads
exchanged numerically. An exchange of the left arm and left leg changes too little to be seen from one record
and is not sought.
"""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np

from medfm.modalities.ecg_beats import Beat, median_beat
from medfm.modalities.leads import LEADS
from medfm.types import Finding

_I, _II, _III, _AVR, _V1, _V5, _V6 = (LEADS.index(n) for n in ("I", "II", "III", "aVR", "V1", "V5", "V6"))
DISCORDANT = -0.3  # correlation with the lateral chest lead below which a limb lead looks away from it
P_WAVE = -0.02  # mV: a P wave that points down for certain
DISORDER = 0.78  # path length through V1..V6 after the best exchange, as a share of that in the stated order


def reversals(x: np.ndarray, present: np.ndarray, fs: float) -> tuple[Finding, ...]:
    """Findings ``electrode-reversal``, ``precordial-order`` and ``not-assessable``; x ``[12, T]`` in mV,
    canonical order."""
    use = present & np.isfinite(x).all(axis=1)
    if not (use[_I] or use[_V1:].all()):
        return ()
    beat = median_beat(np.where(use[:, None], x, 0.0), fs)
    if beat is None:
        return (
            Finding(
                "polarity-not-assessable",
                "fewer than three clear beats: electrode reversal was not looked for.",
                "info",
            ),
        )
    found = [*limb_reversal(beat, use), *right_leg(beat, use)]
    if use[_V1:].all():
        found += precordial_order(beat)
    return tuple(found)


def polarity(beat: Beat) -> np.ndarray:
    """Signed P, QRS and T of every lead, mV ``[3, 12]``, against the level of the PR segment."""
    level = beat.x - np.median(beat.x[:, _span(beat, -0.10, -0.06)], axis=1, keepdims=True)
    qrs = level[:, _span(beat, -0.06, 0.06)]
    return np.stack(
        [
            _extreme(level[:, _span(beat, -0.24, -0.09)]),
            qrs.max(axis=1) + qrs.min(axis=1),
            _extreme(level[:, _span(beat, 0.14, 0.42)]),
        ]
    )


def limb_reversal(beat: Beat, use: np.ndarray) -> list[Finding]:
    """Arm electrodes exchanged (I inverted), or right arm and left leg (II inverted).

    At least two of P, QRS and T point down in a lead that normally agrees with V6, and the beat disagrees
    with V6. In dextrocardia V6 turns with lead I, so that the second condition fails. Without chest leads
    all three must point down, and QRS up in aVR. For II the P wave must be among them: QRS and T alone
    point down there in inferior infarction and in paced beats.
    """
    waves = polarity(beat)
    lateral = _V6 if use[_V6] else _V5 if use[_V5] else None
    suspects = []
    for lead in (_I, _II):
        if not use[lead]:
            continue
        down = int((waves[:, lead] < 0).sum())
        if lateral is None:
            if down == 3 and use[_AVR] and waves[1, _AVR] > 0:
                suspects.append(lead)
        elif (
            down >= 2
            and (lead == _I or waves[0, lead] < P_WAVE)
            and _agreement(beat.x[lead], beat.x[lateral]) < DISCORDANT
        ):
            suspects.append(lead)
    if not suspects:
        return []
    lead = suspects[0] if len(suspects) == 1 or lateral is None else _likelier(beat, lateral)
    names = "P, QRS and T" if (waves[:, lead] < 0).all() else _down(waves[:, lead])
    upright = use[_AVR] and waves[1, _AVR] > 0
    support = (" and aVR is upright" if upright else "") + (
        f", against {LEADS[lateral]}" if lateral is not None else ""
    )
    pair = "left and right arm" if lead == _I else "right arm and left leg"
    message = f"{names} point down in lead {LEADS[lead]}{support}: {pair} electrodes are probably exchanged."
    return [Finding("electrode-reversal", message, "warning", LEADS[lead])]


def _likelier(beat: Beat, lateral: int) -> int:
    """When both I and II are suspect: undo either exchange and see which leaves I and II agreeing with V6."""
    i, ii = beat.x[_I], beat.x[_II]
    undone = {_I: (-i, ii - i), _II: (i - ii, -ii)}
    return max(undone, key=lambda k: sum(_agreement(v, beat.x[lateral]) for v in undone[k]))


def right_leg(beat: Beat, use: np.ndarray) -> list[Finding]:
    """The right-leg electrode on an arm or leg: one of I, II, III sees two legs and is almost flat."""
    if not use[[_I, _II, _III]].all():
        return []
    size = np.ptp(beat.x[:3, _span(beat, -0.06, 0.06)], axis=1)
    lead = int(np.argmin(size))
    if size[lead] < 0.08 and size[lead] < 0.12 * np.median(np.delete(size, lead)):
        message = (
            f"lead {LEADS[lead]} is almost flat ({size[lead]:.2f} mV) beside the other limb leads: is the "
            "right-leg electrode exchanged?"
        )
        return [Finding("electrode-reversal", message, "warning", LEADS[lead])]
    return []


def precordial_order(beat: Beat) -> list[Finding]:
    """Neighbouring chest leads look alike. If exchanging two makes the way from V1 to V6 much shorter, they
    were."""
    segment = beat.x[_V1:, _span(beat, -0.06, 0.42)]
    distance = np.sqrt(np.square(segment[:, None] - segment[None]).mean(axis=-1))

    def way(order: list[int]) -> float:
        return float(sum(distance[a, b] for a, b in pairwise(order)))

    stated = list(range(6))
    best, pair = np.inf, (0, 1)
    for a, b in combinations(range(6), 2):
        order = stated.copy()
        order[a], order[b] = order[b], order[a]
        if (length := way(order)) < best:
            best, pair = length, (a, b)
    if way(stated) <= 0 or best >= DISORDER * way(stated):
        return []
    first, second = LEADS[_V1 + pair[0]], LEADS[_V1 + pair[1]]
    message = f"the R wave does not progress from V1 to V6; exchanging {first} and {second} would mend it."
    return [Finding("precordial-order", message, "warning", first)]


def _span(beat: Beat, start: float, stop: float) -> slice:
    return slice(max(0, beat.r + round(start * beat.fs)), beat.r + round(stop * beat.fs) + 1)


def _extreme(x: np.ndarray) -> np.ndarray:
    return x[np.arange(len(x)), np.abs(x).argmax(axis=1)]


def _agreement(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def _down(waves: np.ndarray) -> str:
    return " and ".join(name for name, value in zip(("P", "QRS", "T"), waves) if value < 0)
