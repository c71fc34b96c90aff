"""When the heart beats: sinus rhythm with its variability, fibrillation, flutter, ectopic beats, pacing.

Sinus RR follows McSharry et al. (2003): two Gaussian bands, near 0.1 Hz and at the breathing rate, with
random phases, here as a sum of sinusoids read at the time of each beat. Fibrillation draws RR independently
(lognormal).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medfm.synthetic.draws import Draws
from medfm.synthetic.ecg_morphology import ATRIAL, NORMAL, VENTRICULAR_1, VENTRICULAR_2

LEAD_IN = 3.0  # seconds of beats before the record, so that its first beat has a history
SHORTEST_RR = 0.26
_WAVES = 5  # sinusoids per band of variability

SINUS, AF, FLUTTER, PACED = range(4)
RHYTHMS = ("sinus", "afib", "flutter", "paced")


@dataclass(frozen=True)
class Rhythm:
    """Beats of n records, ``[n, B]``, NaN times where a record has fewer.

    time: R peak, s from the record's start; shape: row of the heart's four beat shapes; conducted: a P wave
    precedes; af: the atria fibrillate at this beat; rr: the RR interval that ended here, s; rr_qt: the RR
    that QT has adapted to; af_from, af_to: fibrillation, s (NaN without); atrial_hz: flutter rate, Hz (NaN
    without); breath_hz, breath_phase: breathing, ``[n]``; kind: row of ``RHYTHMS``, the rhythm of most of the
    record.
    """

    time: np.ndarray
    shape: np.ndarray
    conducted: np.ndarray
    af: np.ndarray
    rr: np.ndarray
    rr_qt: np.ndarray
    af_from: np.ndarray
    af_to: np.ndarray
    atrial_hz: np.ndarray
    breath_hz: np.ndarray
    breath_phase: np.ndarray
    kind: np.ndarray


@dataclass(frozen=True)
class _Plan:
    """What is drawn before the beats run: ``[n]`` each, and the bands of variability ``[n, 2 W]``."""

    mean_rr: np.ndarray
    hz: np.ndarray
    phase: np.ndarray
    depth: np.ndarray
    af_from: np.ndarray
    af_to: np.ndarray
    af_rr: np.ndarray
    af_cv: np.ndarray
    flutter: np.ndarray
    flutter_rr: np.ndarray
    flutter_steps: np.ndarray
    ectopic: np.ndarray
    premature: np.ndarray
    early: np.ndarray
    pattern: np.ndarray


def draw_rhythm(
    subject: Draws,
    record: Draws,
    cond: dict[str, np.ndarray],
    age: np.ndarray,
    male: np.ndarray,
    seconds: float,
) -> Rhythm:
    """One rhythm a record: the subject's resting rate and tendencies, the record's state."""
    plan, breath_hz, breath_phase, atrial_hz = _plan(subject, record, cond, age, male, seconds)
    beats = int(np.ceil((seconds + LEAD_IN + 2.0) / SHORTEST_RR * 0.85))
    time, shape, af, rr = _run(plan, record, cond, seconds, beats)
    regular = np.where(np.isnan(time), np.nan, rr)
    rr_qt = _adapted(regular, plan.mean_rr)
    ventricular = (shape == VENTRICULAR_1) | (shape == VENTRICULAR_2)
    no_p = cond["paced"] & ~record.chance(0.4)
    conducted = ~af & ~ventricular & ~cond["flutter"][:, None] & ~no_p[:, None]
    kind = np.where(cond["flutter"], FLUTTER, SINUS)
    inside = np.nan_to_num(np.minimum(plan.af_to, seconds) - np.maximum(plan.af_from, 0.0), nan=0.0)
    kind = np.where(inside > 0.5 * seconds, AF, kind)
    kind = np.where(cond["paced"], PACED, kind)
    return Rhythm(
        time,
        shape,
        conducted,
        af,
        rr,
        rr_qt,
        plan.af_from,
        plan.af_to,
        atrial_hz,
        breath_hz,
        breath_phase,
        kind,
    )


def _plan(
    subject: Draws, d: Draws, cond: dict[str, np.ndarray], age: np.ndarray, male: np.ndarray, seconds: float
) -> tuple[_Plan, np.ndarray, np.ndarray, np.ndarray]:
    old = (age - 55) / 20
    resting = subject.normal(70.5, 11.0) - 1.5 * (male - 0.5)
    rate = np.clip(resting * d.lognormal(1.0, 0.09), 48.0, 105.0)
    rate = np.where(cond["bradycardia"], subject.uniform(38.0, 57.0) * d.lognormal(1.0, 0.04), rate)
    rate = np.where(cond["tachycardia"], subject.uniform(102.0, 138.0) * d.lognormal(1.0, 0.05), rate)
    rate = np.where(cond["paced"], subject.uniform(58.0, 82.0), rate)
    # Deviation of RR as a share of RR; less with age, at high rates, none when paced. RSA is strong in the
    # young.
    slow = np.exp(-0.35 * np.clip(old, -2, 2) - (rate - 70) / 60)
    lf = subject.lognormal(0.016, 0.45) * slow
    hf = subject.lognormal(0.020, 0.70) * slow
    rigid = np.where(cond["paced"], 0.03, 1.0)
    depth = np.stack([np.clip(lf, 0, 0.12), np.clip(hf, 0, 0.16)], axis=1) * rigid[:, None]
    breath_hz = subject.normal(0.25, 0.045).clip(0.13, 0.42) * d.lognormal(1.0, 0.06)
    breath_phase = d.uniform(0, 2 * np.pi)
    hz_lf = d.normal(0.1, 0.012, (_WAVES,)).clip(0.05, 0.14)
    hz_hf = breath_hz[:, None] + d.normal(0.0, 0.008, (_WAVES,))
    phase = d.uniform(0, 2 * np.pi, (2 * _WAVES,))
    phase[:, _WAVES] = breath_phase  # the strongest respiratory wave breathes with the chest
    weight = np.array([1.0] * _WAVES + [2.0] + [0.5] * (_WAVES - 1))
    weight[:_WAVES] /= np.sqrt(0.5 * np.sum(weight[:_WAVES] ** 2))
    weight[_WAVES:] /= np.sqrt(0.5 * np.sum(weight[_WAVES:] ** 2))
    depths = np.repeat(depth, _WAVES, axis=1) * weight

    af_from, af_to = _af_span(d, cond, seconds)
    af_rate = np.clip(subject.normal(85.0, 19.0) * d.lognormal(1.0, 0.10), 48.0, 165.0)
    atrial_hz = np.where(cond["flutter"], subject.uniform(4.0, 5.6), np.nan)
    steps = np.where(d.chance(0.3), 0.0, d.pick([0.0, 0.0, 0.5, 0.2, 0.3]).astype(float))
    rate_limit = np.ceil(np.nan_to_num(atrial_hz, nan=4.0) * 0.36)
    plan = _Plan(
        mean_rr=60.0 / rate,
        hz=np.concatenate([hz_lf, hz_hf], axis=1),
        phase=phase,
        depth=depths,
        af_from=af_from,
        af_to=af_to,
        af_rr=60.0 / af_rate,
        af_cv=subject.uniform(0.15, 0.29),
        flutter=cond["flutter"],
        flutter_rr=1.0 / np.nan_to_num(atrial_hz, nan=4.0),
        flutter_steps=np.where(steps > 0, np.maximum(steps, rate_limit), 0.0),
        ectopic=np.where(cond["pvc"], np.exp(d.uniform(np.log(0.05), np.log(0.3))), 0.0),
        premature=np.where(cond["pac"], np.exp(d.uniform(np.log(0.06), np.log(0.3))), 0.0),
        early=d.uniform(0.55, 0.80),
        pattern=d.pick([0.72, 0.12, 0.08, 0.08]),
    )
    return plan, breath_hz, breath_phase, atrial_hz


def _af_span(d: Draws, cond: dict[str, np.ndarray], seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Persistent: always. Paroxysmal: the record shows all of it, its onset, its end, or none (30 %)."""
    when = d.pick([0.35, 0.18, 0.17, 0.30])
    edge = d.uniform(0.15, 0.85) * seconds
    parox, always = cond["af_paroxysmal"], cond["af_persistent"]
    start = np.where(parox & (when == 1), edge, -100.0)
    stop = np.where(parox & (when == 2), edge, seconds + 100.0)
    none = ~always & ~(parox & (when < 3))
    return np.where(none, np.nan, start), np.where(none, np.nan, stop)


def _run(
    p: _Plan, d: Draws, cond: dict[str, np.ndarray], seconds: float, beats: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Beat after beat, all records at once: ``time, shape, af, rr [n, B]``."""
    n = d.n
    time, rr_all = np.full((n, beats), np.nan), np.full((n, beats), np.nan)
    shape, af_all = np.zeros((n, beats), int), np.zeros((n, beats), bool)
    jitter, lot = d.normal(0.0, 1.0, (beats,)), d.uniform(0.0, 1.0, (beats,))
    which, step = d.uniform(0.0, 1.0, (beats,)), d.uniform(0.0, 1.0, (beats,))
    now = -LEAD_IN + p.mean_rr * d.uniform()
    pause, count = np.zeros(n), np.zeros(n, int)
    af_log = np.sqrt(np.log1p(p.af_cv**2))
    for b in range(beats):
        wave = np.sum(p.depth * np.sin(2 * np.pi * p.hz * now[:, None] + p.phase), axis=1)
        sinus = p.mean_rr * (1 + np.clip(wave, -0.4, 0.4)) + 0.004 * jitter[:, b] * (
            p.depth.max(axis=1) > 0.002
        )
        af = (now >= p.af_from) & (now < p.af_to)
        fib = p.af_rr * np.exp(af_log * jitter[:, b] - 0.5 * af_log**2)
        free = np.where(step[:, b] < 0.5, 2.0, np.where(step[:, b] < 0.75, 3.0, 4.0))
        block = np.where(p.flutter_steps > 0, p.flutter_steps, free)
        block = np.where(p.flutter_rr * block < 0.34, block + 1, block)
        base = np.where(af, fib, np.where(p.flutter, p.flutter_rr * block, sinus))
        count += 1
        paired = np.where(p.pattern == 1, count >= 2, np.where(p.pattern == 2, count >= 3, False))
        fixed = np.isin(p.pattern, (1, 2))
        fires = (pause == 0) & (count >= 2) & (b > 0)
        couplet = (p.pattern == 3) & (pause > 0) & (count == 1) & (which[:, b] < 0.4) & cond["pvc"]
        pvc = (
            fires & np.where(fixed & cond["pvc"], paired, lot[:, b] < p.ectopic) & (p.ectopic > 0)
        ) | couplet
        pac = fires & ~pvc & (lot[:, b] > 1 - p.premature) & ~af
        early = np.where(pvc | pac, base * (p.early + np.where(pac, 0.06, 0.0)), 0.0)
        full = np.where(pvc | pac, early, np.where(pause > 0, pause, base))
        rr = np.maximum(full, SHORTEST_RR)
        now = np.where(b == 0, now, now + rr)
        keep = now < seconds + 1.5
        time[:, b], rr_all[:, b] = np.where(keep, now, np.nan), rr
        second = (which[:, b] > 0.75) & (p.pattern == 3)
        shape[:, b] = np.where(
            pvc, np.where(second, VENTRICULAR_2, VENTRICULAR_1), np.where(pac, ATRIAL, NORMAL)
        )
        af_all[:, b] = af
        # After a ventricular beat the next sinus beat keeps its date; the sinus node is reset by an atrial
        # one.
        pace = np.where(pvc & ~af, 2 * base - rr, np.where(pac, base * 1.05, 0.0))
        pause = np.where(pvc | pac, np.maximum(pace, 0.35), 0.0)
        count = np.where(pvc | pac, 0, count)
    return time, shape, af_all, rr_all


def _adapted(rr: np.ndarray, mean_rr: np.ndarray) -> np.ndarray:
    """QT follows RR with a lag: an exponential mean with a memory of about six beats."""
    out = np.empty_like(rr)
    state = mean_rr.copy()
    for b in range(rr.shape[1]):
        now = rr[:, b]
        state = np.where(np.isnan(now), state, 0.82 * state + 0.18 * now)
        out[:, b] = state
    return out.clip(0.3, 1.7)
