"""When the heart beats and how much blood each beat moves: sinus rhythm, fibrillation, early beats.

Sinus intervals swing near 0.1 Hz and with the breath (after McSharry et al. 2003). In fibrillation they are independent draws.
A ventricular beat comes early, moves little blood, and is followed by a full pause; an atrial one resets the sinus node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medfm.synthetic.draws import Draws
from medfm.synthetic.ppg_days import Day
from medfm.synthetic.ppg_subjects import People

LEAD_IN = 3.0  # seconds of beats before the record, so that its first beat has a history
AFTER = 1.0
SHORTEST, LONGEST = 0.33, 2.2  # s
NORMAL, ATRIAL, VENTRICULAR = range(3)
_WAVES = 3  # sinusoids a band


@dataclass(frozen=True)
class Rhythm:
    """Beats of n records, ``[n, B]``, NaN times where a record has fewer. time: R peak, s from the record's start; rr: the
    interval that ended there, s; kind: of beat; af: the atria fibrillate; stroke: blood moved, 1 for a usual beat; mean_rr,
    af_from, af_to: ``[n]``, s (NaN without fibrillation)."""

    time: np.ndarray
    rr: np.ndarray
    kind: np.ndarray
    af: np.ndarray
    stroke: np.ndarray
    mean_rr: np.ndarray
    af_from: np.ndarray
    af_to: np.ndarray


def beats_at_most(seconds: float) -> int:
    """Columns that hold every beat of a record."""
    return int(np.ceil((seconds + LEAD_IN + AFTER) / SHORTEST)) + 2


def draw_rhythm(subject: Draws, d: Draws, people: People, day: Day, seconds: float) -> Rhythm:
    """One rhythm a record."""
    cond, columns = people.cond, beats_at_most(seconds)
    mean_rr = 60 / day.rate
    af_from, af_to = _fibrillation_span(d, cond, seconds)
    fib_rr = 60 / np.clip(subject.normal(80.0, 14.0) * day.rate / people.rate, 50.0, 150.0)
    fib_log = np.sqrt(np.log1p(subject.uniform(0.15, 0.26) ** 2))
    hz, phase, depth = _variability(subject, d, people, day)
    p_ventricular = np.where(cond["pvc"], np.exp(d.uniform(np.log(0.06), np.log(0.25))), 0.0)
    p_atrial = np.where(cond["pac"], np.exp(d.uniform(np.log(0.06), np.log(0.22))), 0.0)
    weak = subject.uniform(0.2, 0.6)
    early = subject.uniform(0.55, 0.72)
    now = -LEAD_IN + mean_rr * d.uniform()
    z, lot = d.normal(shape=(columns,)), d.uniform(shape=(columns,))

    n = d.n
    time, rr_all, stroke = np.full((n, columns), np.nan), np.zeros((n, columns)), np.ones((n, columns))
    kind_all, af_all = np.zeros((n, columns), int), np.zeros((n, columns), bool)
    last, base_before = np.zeros(n, int), mean_rr
    for b in range(columns):
        swing = np.sum(depth * np.sin(2 * np.pi * hz * now[:, None] + phase), axis=1)
        sinus = mean_rr * (1 + swing.clip(-0.35, 0.35) + 0.006 * z[:, b])
        af = (now >= af_from) & (now < af_to)
        base = np.where(af, fib_rr * np.exp(fib_log * z[:, b] - 0.5 * fib_log**2), sinus)
        free = (last == NORMAL) & (b > 1)
        ventricular = free & (lot[:, b] < p_ventricular)
        atrial = free & ~ventricular & ~af & (lot[:, b] > 1 - p_atrial)
        # What a ventricular beat took from its own interval comes back in the pause.
        full = np.where((last == VENTRICULAR) & ~af, 2 * base_before - rr_all[:, b - 1], base)
        rr = np.where(ventricular, early * base, np.where(atrial, (early + 0.13) * base, full))
        rr = rr.clip(SHORTEST, LONGEST)
        now = now + rr if b else now
        filled = (1 - np.exp(-rr / (0.35 * mean_rr))) / (1 - np.exp(-1 / 0.35))
        after = np.where(last == VENTRICULAR, 1.15, 1.0)
        stroke[:, b] = filled * np.where(ventricular, weak, after)
        kind_all[:, b] = last = np.where(ventricular, VENTRICULAR, np.where(atrial, ATRIAL, NORMAL))
        time[:, b] = np.where(now < seconds + AFTER, now, np.nan)
        rr_all[:, b], af_all[:, b], base_before = rr, af, base
    return Rhythm(time, rr_all, kind_all, af_all, stroke, mean_rr, af_from, af_to)


def _variability(
    subject: Draws, d: Draws, people: People, day: Day
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hz, phase and depth (share of RR) of the waves of sinus RR, ``[n, 2 W]``: less with age and at high rates."""
    calm = np.exp(-0.35 * (people.age - 50) / 20 - (day.rate - 70) / 60)
    slow = (subject.lognormal(0.018, 0.4) * calm).clip(0, 0.08)
    fast = (subject.lognormal(0.024, 0.5) * calm).clip(0, 0.12)
    hz = np.concatenate(
        [
            d.normal(0.1, 0.012, (_WAVES,)).clip(0.05, 0.14),
            day.breath_hz[:, None] + d.normal(0, 0.008, (_WAVES,)),
        ],
        axis=1,
    )
    phase = d.uniform(0, 2 * np.pi, (2 * _WAVES,))
    hz[:, _WAVES], phase[:, _WAVES] = day.breath_hz, day.breath_phase  # the main one is the chest's
    share = np.array([1.0, 1.0, 1.0, 1.3, 0.4, 0.4])
    share[:_WAVES] /= np.sqrt(0.5 * np.sum(share[:_WAVES] ** 2))
    share[_WAVES:] /= np.sqrt(0.5 * np.sum(share[_WAVES:] ** 2))
    return hz, phase, np.repeat(np.stack([slow, fast], axis=1), _WAVES, axis=1) * share


def _fibrillation_span(
    d: Draws, cond: dict[str, np.ndarray], seconds: float
) -> tuple[np.ndarray, np.ndarray]:
    """Persistent: always. Paroxysmal: a record shows all of it, its onset, its end, or (35 %) none."""
    when, edge = d.pick([0.35, 0.15, 0.15, 0.35]), d.uniform(0.1, 0.9) * seconds
    spell = cond["af_paroxysmal"] & (when < 3)
    start = np.where(spell & (when == 1), edge, -100.0)
    stop = np.where(spell & (when == 2), edge, seconds + 100.0)
    none = ~cond["af_persistent"] & ~spell
    return np.where(none, np.nan, start), np.where(none, np.nan, stop)
