"""From a file's numbers to mV on the model's grid: units, gaps, polyphase resampling, zero-phase high-pass.

Arrays are ``[C, T]``; NaN marks what was not recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np

from medfm.types import Finding

MV_PER_UNIT = {
    "mv": 1.0,
    "millivolt": 1.0,
    "millivolts": 1.0,
    "uv": 1e-3,
    "microvolt": 1e-3,
    "microvolts": 1e-3,
    "nv": 1e-6,
    "nanovolt": 1e-6,
    "v": 1e3,
    "volt": 1e3,
    "volts": 1e3,
    "1e-4v": 0.1,
    "1e-4 v": 0.1,
    "0.1mv": 0.1,
}
# Peak to peak of a lead, median over the leads. An ECG's is some tenths of a mV to a few mV; between the
# bands below
# and that lies a factor of ten on either side, so that a wrong factor of 1000 is certain and one of 10 is
# not.
PLAUSIBLE = (0.1, 6.0)
IMPOSSIBLE_HIGH, IMPOSSIBLE_LOW = 40.0, 0.008
LOBES = 16  # of the resampling filter, on either side


def typical_range(x: np.ndarray) -> float:
    """Median over the leads of the 0.5 to 99.5 percentile range; 0 when nothing varies."""
    ranges = []
    for lead in x:
        if (values := lead[np.isfinite(lead)]).size > 1:
            low, high = np.percentile(values, (0.5, 99.5))
            if high > low:
                ranges.append(high - low)
    return float(np.median(ranges)) if ranges else 0.0


def to_millivolts(x: np.ndarray, units: Sequence[str]) -> tuple[np.ndarray, tuple[Finding, ...]]:
    """``x [C, T]`` in mV. A stated unit is believed unless it makes an impossible ECG; an unstated one is
    inferred.

    Returns findings ``unit-assumed`` (none stated), ``wrong-unit`` (stated, impossible, mended by a factor
    of 1000) or ``scale-suspect`` (ten times an ECG: units of 1e-4 V, reported and not changed).
    """
    x = np.array(x, np.float64)
    stated = [u.strip().replace("µ", "u").replace("μ", "u").casefold() for u in units]
    unknown = np.array([u not in MV_PER_UNIT for u in stated])
    for lead, unit in enumerate(stated):
        x[lead] *= MV_PER_UNIT.get(unit, 1.0)
    findings: list[Finding] = []
    if unknown.any():
        findings += _infer(x, unknown, sorted({u for u, bad in zip(units, unknown) if bad}))
    if (~unknown).any():
        findings += _verify(x, ~unknown, sorted({u for u, bad in zip(units, unknown) if not bad}))
    return x, tuple(findings)


def _infer(x: np.ndarray, rows: np.ndarray, names: list[str]) -> list[Finding]:
    said = f"unit {', '.join(map(repr, names))} is unknown" if any(names) else "the file states no unit"
    size = typical_range(x[rows])
    factor, meaning = 1.0, "mV"
    if size > 80.0:
        factor, meaning = 1e-3, "microvolts"
    elif size > PLAUSIBLE[1]:
        factor, meaning = 0.1, "1e-4 V"
    elif 0 < size < IMPOSSIBLE_LOW:
        factor, meaning = 1e3, "volts"
    x[rows] *= factor
    sure = factor == 1.0
    after = size * factor
    return [
        Finding(
            "unit-assumed",
            f"{said}; its typical range of {size:.3g} was taken as {meaning} ({after:.2g} mV peak to peak).",
            "info" if sure else "warning",
        )
    ]


def _verify(x: np.ndarray, rows: np.ndarray, names: list[str]) -> list[Finding]:
    size, unit = typical_range(x[rows]), ", ".join(names)
    if size > IMPOSSIBLE_HIGH and PLAUSIBLE[0] <= size / 1000 <= PLAUSIBLE[1]:
        x[rows] /= 1000
        return [
            Finding(
                "wrong-unit",
                f"stated in {unit}, which makes {size:.0f} mV peak to peak; a thousandth of it is an "
                "ECG, so it was divided by 1000. Correct the unit in the file.",
            )
        ]
    if 0 < size < IMPOSSIBLE_LOW and PLAUSIBLE[0] <= size * 1000 <= PLAUSIBLE[1]:
        x[rows] *= 1000
        return [
            Finding(
                "wrong-unit",
                f"stated in {unit}, which makes {size * 1000:.2g} microvolts peak to peak; a thousand "
                "times that is an ECG, so it was multiplied by 1000. Correct the unit in the file.",
            )
        ]
    if size > PLAUSIBLE[1]:
        return [
            Finding(
                "scale-suspect",
                f"typical range {size:.0f} mV peak to peak, about ten times an ECG: are these units of "
                "1e-4 V? Nothing was changed.",
            )
        ]
    return []


def bridge(x: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear bridges over NaN runs of at most ``longest`` samples.

    Returns (``filled``: no NaN at all, so that filters can run; ``gap`` bool ``[C, T]``: longer runs, to be
    NaN again afterwards; ``bridged [C]``: number of samples bridged). A lead without any value stays NaN.
    """
    filled = np.array(x, np.float64)
    gap = np.zeros(x.shape, bool)
    bridged = np.zeros(len(x), int)
    for lead in np.flatnonzero(np.isnan(filled).any(axis=1)):
        bad = np.isnan(filled[lead])
        if bad.all():
            gap[lead] = True
            continue
        for start, stop in runs(bad):
            if stop - start > longest:
                gap[lead, start:stop] = True
            else:
                bridged[lead] += stop - start
        at = np.flatnonzero(~bad)
        filled[lead, bad] = np.interp(np.flatnonzero(bad), at, filled[lead, at])
    return filled, gap, bridged


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Half-open intervals where a 1-D mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def ratio(fs: float, target: float) -> tuple[int, int]:
    """``up, down`` for ``target/fs``: exact where both are round, else within 1e-6 (62.4725 Hz and its
    like)."""
    exact = Fraction(target).limit_denominator(10_000) / Fraction(fs).limit_denominator(10_000)
    share = exact
    for limit in (1000, 30_000):
        share = exact.limit_denominator(limit)
        if abs(float(share / exact) - 1.0) < 1e-6:
            break
    return max(1, share.numerator), share.denominator


@lru_cache(maxsize=16)
def _lowpass(rate: int) -> np.ndarray:
    """Kaiser low-pass at the lower Nyquist rate. 32 lobes and beta 8 keep the pass band within 1e-4 of one;
    scipy's default (20 lobes, beta 5) leaves a ripple of 1e-3 on every offset."""
    from scipy.signal import firwin

    return firwin(2 * LOBES * rate + 1, 1.0 / rate, window=("kaiser", 8.0))


def resample(x: np.ndarray, fs: float, target: float) -> np.ndarray:
    """Polyphase resampling (``scipy.signal.resample_poly``) of finite ``[C, T]`` to ``[C, round(T * target /
    fs)]``.

    The ends are continued by odd reflection, so that neither an offset nor a slope rings there.
    """
    up, down = ratio(fs, target)
    length = max(1, round(x.shape[1] * target / fs))
    if up == down:
        return x
    from scipy.signal import resample_poly

    reach = -(-LOBES * max(up, down) // up)  # input samples under half of the filter
    pad = -(-reach // down) * down  # a multiple of down is a whole number of output samples
    extended = np.pad(x, ((0, 0), (pad, pad)), mode="reflect", reflect_type="odd")
    y = resample_poly(extended, up, down, axis=1, window=_lowpass(max(up, down)))
    first = pad * up // down
    return y[:, first : first + length]


def resample_mask(mask: np.ndarray, fs: float, target: float, length: int) -> np.ndarray:
    """A gap mask ``[C, T]`` on the new grid: a new sample is a gap when the old sample nearest to it is
    one."""
    at = np.minimum(np.rint(np.arange(length) * fs / target).astype(int), mask.shape[1] - 1)
    return mask[:, at]


def highpass(x: np.ndarray, fs: float, cutoff: float) -> np.ndarray:
    """Fourth-order Butterworth high-pass, run forwards and backwards: no phase, so the ST segment is not
    skewed."""
    from scipy.signal import butter, sosfiltfilt

    sos = butter(4, cutoff, "highpass", fs=fs, output="sos")
    pad = min(x.shape[1] - 1, round(fs / cutoff))
    return sosfiltfilt(sos, x, axis=1, padlen=pad)
