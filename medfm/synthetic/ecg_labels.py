"""Labels by criterion, measured on the noiseless beat: the generator's switches are not consulted.

The dominant beat of each record is evaluated at 1 kHz without noise, breathing or recorder, with the
electrodes in place. From its components come onsets and ends, from those the intervals, from the leads the
amplitudes, and from these the labels. Criteria: AHA/ACCF/HRS recommendations (2009) for QRS, QT and voltage,
the fourth universal definition of infarction (2018) for Q waves and ST, as stated at each label.
"""

from __future__ import annotations

import numpy as np

from medfm.synthetic.ecg_beats import evaluate, lead_weights, stretch_t
from medfm.synthetic.ecg_morphology import (
    ATRIAL,
    NORMAL,
    P_KERNELS,
    QRS_KERNELS,
    T_KERNELS,
    T_RISE,
    U_WAVE,
    VENTRICULAR_1,
    Hearts,
    Shapes,
)
from medfm.synthetic.ecg_noise import twelve
from medfm.synthetic.ecg_rhythm import FLUTTER, PACED, Rhythm

STEP = 0.001  # s
START = -0.5
_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
_AT = {name: k for k, name in enumerate(_LEADS)}
# neighbouring leads, each pair counts as contiguous
_NEIGHBOURS = ("II-aVF", "III-aVF", "I-aVL", "V1-V2", "V2-V3", "V3-V4", "V4-V5", "V5-V6")
CONTIGUOUS = tuple(pair.split("-") for pair in _NEIGHBOURS)


def beat_on_paper(
    centre: np.ndarray, width: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Noiseless dominant beat by component: time ``[W]`` s from R, and P, QRS, ST-T-U leads ``[n, 8, W]`` in
    mV."""
    time = np.arange(START, 1.1, STEP)
    at = np.repeat(time[None], len(centre), axis=0)
    parts = []
    for kernels in (P_KERNELS, QRS_KERNELS, T_KERNELS):
        parts.append(evaluate(centre, width, weights, kernels, at))
    return time, parts[0], parts[1], parts[2]


def _span(size: np.ndarray, share: float, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """First and last sample at which ``size [n, W]`` stands above a share of its peak (at least ``floor``
    mV)."""
    above = size > np.maximum(share * size.max(axis=1), floor)[:, None]
    return above.argmax(axis=1), size.shape[1] - 1 - above[:, ::-1].argmax(axis=1)


def measure(
    centre: np.ndarray, width: np.ndarray, weights: np.ndarray, mean_rr: np.ndarray
) -> dict[str, np.ndarray]:
    """Fiducials (s from R), intervals (ms) and amplitudes (mV) of n beats; see the keys below. Arrays ``[n]``
    or ``[n, 12]``.

    QRS: where the root mean square of its eight leads leaves and re-enters 2.5 % of its peak (at least 8 uV);
    P likewise at 12 %; T end: the tangent at the steepest descent after the last T peak meets the baseline. U
    is left out of QT.
    """
    time, p, qrs, t = beat_on_paper(centre, width, weights)
    rows = np.arange(len(centre))
    p_size, q_size = (np.sqrt(np.mean(np.square(v), axis=1)) for v in (p, qrs))
    p_peak = p_size.max(axis=1)
    p_on, p_off = _span(p_size, 0.12, 0.004)
    on, off = _span(q_size, 0.025, 0.008)
    no_u = evaluate(
        centre, width, weights, slice(T_KERNELS.start, U_WAVE), np.repeat(time[None], len(centre), axis=0)
    )
    t_size = np.sqrt(np.mean(np.square(no_u), axis=1))
    late = np.arange(len(time))[None] > (off + 40)[:, None]
    masked = np.where(late, t_size, 0.0)
    peak_value = masked.max(axis=1)
    tall = masked > 0.6 * peak_value[:, None]
    last = len(time) - 1 - tall[:, ::-1].argmax(axis=1)
    slope = np.gradient(masked, axis=1)
    slope[np.arange(len(time))[None] < (last - 25)[:, None]] = 0.0
    steep = slope.argmin(axis=1)
    t_end = steep + masked[rows, steep] / np.maximum(-slope[rows, steep], 1e-7)
    t_end = np.minimum(t_end, steep + 120)
    whole = twelve(p + qrs + t)
    q12, t12 = twelve(qrs), twelve(t)
    ms = 1000 * STEP
    out: dict[str, np.ndarray] = {
        "p_onset_s": time[p_on],
        "p_offset_s": time[p_off],
        "qrs_onset_s": time[on],
        "qrs_offset_s": time[off],
        "t_end_s": START + STEP * t_end,
        "p_rms_mv": p_peak,
        "pr_ms": (on - p_on) * ms,
        "p_ms": (p_off - p_on) * ms,
        "qrs_ms": (off - on) * ms,
        "qt_ms": (t_end - on) * ms,
        "heart_rate_bpm": 60 / mean_rr,
    }
    out["qtc_ms"] = out["qt_ms"] / np.cbrt(mean_rr)
    t_only = evaluate(
        centre, width, weights, slice(T_RISE, U_WAVE), np.repeat(time[None], len(centre), axis=0)
    )
    out["t_mv"] = np.abs(twelve(t_only)).max(axis=(1, 2))
    for name, delay in (("j", 0), ("st60", 60), ("st80", 80)):
        out[name] = np.take_along_axis(whole, np.minimum(off + delay, len(time) - 1)[:, None, None], axis=2)[
            ..., 0
        ]
    out["r"], out["s"] = q12.max(axis=2), -q12.min(axis=2)
    area = q12.sum(axis=2)
    out["axis_deg"] = np.rad2deg(np.arctan2(2 * area[:, _AT["aVF"]] / np.sqrt(3), area[:, _AT["I"]]))
    from_t = np.where(late[:, None], t12, 0.0)
    high, low = from_t.max(axis=2), from_t.min(axis=2)
    out["t"] = np.where(high >= -low, high, low)
    out["sokolow_mv"] = out["s"][:, _AT["V1"]] + np.maximum(out["r"][:, _AT["V5"]], out["r"][:, _AT["V6"]])
    out["q_ms"], out["q_mv"] = _q_wave(q12, on, off)
    out["terminal"] = _mean_between(q12, off - 42, off - 4)
    out["area"] = area * ms
    return out


def measure_usual_beat(shapes: Shapes, hearts: Hearts, mean_rr: np.ndarray) -> dict[str, np.ndarray]:
    """:func:`measure` of each heart's usual beat at its record's mean RR."""
    scale = mean_rr**hearts.qt_exponent
    centre, width = stretch_t(shapes.centre[:, NORMAL], shapes.width[:, NORMAL], hearts.j, scale)
    weights = lead_weights(shapes.vec[:, NORMAL], shapes.extra[:, NORMAL], hearts.leads)
    return measure(centre, width, weights, mean_rr)


def fiducials(
    rhythm: Rhythm, m: dict[str, np.ndarray], hearts: Hearts, mean_rr: np.ndarray
) -> dict[str, np.ndarray]:
    """Onsets and ends of every usual beat, s from the record's start, ``[n, B]``, NaN for ectopic beats and
    missing P."""
    usual = rhythm.shape == NORMAL
    out = {
        name: np.where(usual, rhythm.time + m[name][:, None], np.nan)
        for name in ("p_onset_s", "qrs_onset_s", "qrs_offset_s")
    }
    out["p_onset_s"] = np.where(rhythm.conducted, out["p_onset_s"], np.nan)
    scale = (rhythm.rr_qt / mean_rr[:, None]) ** hearts.qt_exponent[:, None]
    j = hearts.j[:, None]
    out["t_end_s"] = np.where(usual, rhythm.time + j + (m["t_end_s"][:, None] - j) * scale, np.nan)
    return out


def _mean_between(x: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    index = np.arange(x.shape[2])[None]
    inside = (index >= start[:, None]) & (index < stop[:, None])
    return np.sum(x * inside[:, None], axis=2) / np.maximum(inside.sum(axis=1), 1)[:, None]


def _q_wave(q12: np.ndarray, on: np.ndarray, off: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Duration (ms) and depth (mV) of the negative deflection before the first positive one above 40 uV,
    ``[n, 12]``.

    A QRS without a positive deflection (QS) counts whole.
    """
    index = np.arange(q12.shape[2])[None, None]
    inside = (index >= on[:, None, None]) & (index <= off[:, None, None])
    positive = inside & (q12 > 0.04)
    first = np.where(positive.any(axis=2), positive.argmax(axis=2), off[:, None])
    before = inside & (index < first[:, :, None])
    depth = np.where(before, -q12, 0.0).max(axis=2)
    return (before & (q12 < -0.015)).sum(axis=2) * 1000 * STEP, depth


def _pairs(hit: np.ndarray, within: tuple[str, ...] = _LEADS) -> np.ndarray:
    """bool ``[n]``: two contiguous leads (both of ``within``) are hit; ``hit [n, 12]``."""
    out = np.zeros(len(hit), bool)
    for a, b in CONTIGUOUS:
        if a in within and b in within:
            out |= hit[:, _AT[a]] & hit[:, _AT[b]]
    return out


def label(
    m: dict[str, np.ndarray], rhythm: Rhythm, age: np.ndarray, male: np.ndarray, seconds: float
) -> dict[str, np.ndarray]:
    """Binary labels, bool ``[n]`` each, from :func:`measure` and the annotated beats."""
    inside = (rhythm.time >= 0) & (rhythm.time < seconds)
    beats = np.maximum(inside.sum(axis=1), 1)
    rate = m["heart_rate_bpm"]
    p_seen = (rhythm.conducted & inside).sum(axis=1) > 0.5 * beats
    p_seen &= m["p_rms_mv"] > 0.010
    af_time = np.nan_to_num(np.minimum(rhythm.af_to, seconds) - np.maximum(rhythm.af_from, 0.0), nan=0.0)
    out: dict[str, np.ndarray] = _conduction(m)
    wide_v = (rhythm.shape >= VENTRICULAR_1) & inside
    paced = rhythm.kind == PACED
    out |= {
        "afib": (af_time >= min(3.0, 0.3 * seconds)) & (irregularity(rhythm, seconds) > 0.06) & ~paced,
        "flutter": rhythm.kind == FLUTTER,
        "pvc": np.asarray(wide_v.any(axis=1)),
        "pac": np.asarray(((rhythm.shape == ATRIAL) & inside).any(axis=1)),
        "bradycardia": rate < 60,
        "tachycardia": rate > 100,
        "av_block_1": p_seen & (m["pr_ms"] > 200),
        "paced": paced,
    }
    broad = out["lbbb"] | paced | out["wpw"]
    for name in ("rbbb", "irbbb", "lbbb", "ivcd", "lafb", "wpw"):
        out[name] &= ~paced
    out["wpw"] &= p_seen
    out |= _voltage(m) | _ischaemia(m, broad, age, male)
    out["long_qt"] = (m["qtc_ms"] >= np.where(male, 450, 460)) & ~paced
    out["t_inversion"] = _t_inverted(m) & ~paced
    abnormal = [k for k in out if k not in ("bradycardia", "pac")]
    out["normal"] = ~np.any([out[k] for k in abnormal], axis=0) & (rate >= 50)
    return out


def irregularity(rhythm: Rhythm, seconds: float) -> np.ndarray:
    """Root mean square of successive RR differences over mean RR inside the fibrillating part, ``[n]`` (0
    without)."""
    use = rhythm.af & (rhythm.time >= 0) & (rhythm.time < seconds)
    rr = np.where(use, rhythm.rr, np.nan)
    step = np.diff(rr, axis=1)
    count = np.maximum((~np.isnan(step)).sum(axis=1), 1)
    level = np.nansum(rr, axis=1) / np.maximum(use.sum(axis=1), 1)
    return np.sqrt(np.nansum(step**2, axis=1) / count) / np.maximum(level, 1e-6)


def _conduction(m: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """AHA/ACCF/HRS 2009, part III. Right: terminal R in V1 or V2, slurred S in I or V6. Left: V1 negative,
    V5-V6 and I positive to the end without Q. Left anterior fascicle: axis -45 to -90 degrees, QRS below 120
    ms, R in aVL."""
    end, qrs = m["terminal"], m["qrs_ms"]
    terminal_r = (end[:, _AT["V1"]] > 0.06) | (end[:, _AT["V2"]] > 0.12)
    slurred = (end[:, _AT["I"]] < -0.03) | (end[:, _AT["V6"]] < -0.03)
    left = (
        (m["area"][:, _AT["V1"]] < 0)
        & (end[:, _AT["V1"]] < 0)
        & (end[:, _AT["I"]] > 0.02)
        & ((end[:, _AT["V6"]] > 0.02) | (end[:, _AT["V5"]] > 0.02))
        & (m["q_mv"][:, _AT["V6"]] < 0.05)
    )
    wide = qrs >= 120
    rbbb, lbbb = wide & terminal_r & slurred, wide & left
    axis = m["axis_deg"]
    wpw = (m["pr_ms"] < 120) & (m["pr_ms"] > 0) & (qrs >= 110) & (m["p_rms_mv"] > 0.010)
    return {
        "rbbb": rbbb & ~lbbb & ~wpw,
        "irbbb": (qrs >= 110) & ~wide & terminal_r & slurred & ~wpw,
        "lbbb": lbbb & ~wpw,
        "ivcd": wide & ~rbbb & ~lbbb & ~wpw,
        "lafb": ~wide & (axis >= -90) & (axis <= -45) & (m["r"][:, _AT["aVL"]] > 0.15),
        "wpw": wpw,
    }


def _voltage(m: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """LVH: Sokolow-Lyon, S(V1) + max R(V5, V6) >= 3.5 mV. RVH: R > S and R >= 0.6 mV in V1 with axis >= 90
    degrees.
    Low voltage: QRS below 0.5 mV from peak to peak in every limb lead."""
    span = m["r"] + m["s"]
    v1 = _AT["V1"]
    right = (
        (m["r"][:, v1] > m["s"][:, v1]) & (m["r"][:, v1] >= 0.6) & (m["axis_deg"] >= 90) & (m["qrs_ms"] < 120)
    )
    return {
        "lvh": (m["sokolow_mv"] >= 3.5) & (m["qrs_ms"] < 150),
        "rvh": right,
        "low_voltage": (span[:, :6] < 0.5).all(axis=1),
    }


def _ischaemia(
    m: dict[str, np.ndarray], broad: np.ndarray, age: np.ndarray, male: np.ndarray
) -> dict[str, np.ndarray]:
    """Fourth universal definition (2018), not read in left bundle branch block, preexcitation or pacing.

    Elevation, at J and still 60 ms later: >= 0.1 mV in two contiguous leads, in V2-V3 >= 0.2 mV (men over
    40), 0.25 mV (younger men) or 0.15 mV (women). Depression, at J + 60 ms: >= 0.05 mV in two contiguous
    leads other than aVR and V1. Q wave: >= 30 ms and 0.1 mV deep in two contiguous leads (V2-V3: >= 20 ms or
    QS; I and aVL not when the axis is right of 90 degrees, where QS is normal).
    """
    st = np.minimum(m["j"], m["st60"])
    high = np.full_like(st, 0.1)
    high[:, [_AT["V2"], _AT["V3"]]] = np.where(male, np.where(age >= 40, 0.2, 0.25), 0.15)[:, None]
    up = st >= high
    down = m["st60"] <= -0.05
    q = (m["q_ms"] >= 30) & (m["q_mv"] >= 0.1)
    anterior = ("V1", "V2", "V3", "V4")
    front_q = q.copy()
    for name in ("V2", "V3"):
        front_q[:, _AT[name]] = (m["q_ms"][:, _AT[name]] >= 20) & (m["q_mv"][:, _AT[name]] >= 0.1)
    inferior, lateral = ("II", "III", "aVF"), ("I", "aVL", "V5", "V6")
    out = {
        "ste_anterior": _pairs(up, anterior),
        "ste_inferior": _pairs(up, inferior),
        "ste_lateral": _pairs(up, lateral),
        "st_depression": _pairs(down, tuple(k for k in _LEADS if k not in ("aVR", "V1"))),
        "mi_anterior": _pairs(front_q, ("V2", "V3", "V4")),
        "mi_inferior": _pairs(q, inferior),
        "mi_lateral": _pairs(q, ("V5", "V6")) | (_pairs(q, ("I", "aVL")) & (m["axis_deg"] < 90)),
    }
    out = {name: hit & ~broad for name, hit in out.items()}
    out["mi"] = out["mi_anterior"] | out["mi_inferior"] | out["mi_lateral"]
    out["st_elevation"] = out["ste_anterior"] | out["ste_inferior"] | out["ste_lateral"]
    return out


def _t_inverted(m: dict[str, np.ndarray]) -> np.ndarray:
    """T <= -0.1 mV in two contiguous leads of I, II, aVL, aVF, V2-V6."""
    return _pairs(m["t"] <= -0.1, ("I", "II", "aVL", "aVF", "V2", "V3", "V4", "V5", "V6"))
