"""The band of a pulse wave: zero-phase Chebyshev-II band-pass and smoothing, as PaPaGei prepares its input.

Pillai et al., arXiv 2410.20542: Chebyshev II of order 4, 20 dB, 0.5 to 12 Hz, run forwards and backwards, then a
moving average of 50 ms, forwards and backwards too, where the rate is 75 Hz or more. Arrays are ``[C, T]``, finite.
"""

from __future__ import annotations

import numpy as np

from medfm.types import ReadError

ORDER, STOP_BAND = 4, 20.0  # of the low-pass prototype; decibels
SMOOTH_FROM = 75.0  # Hz: below, 50 ms are three samples or fewer


def check_band(fs: float, low: float, high: float) -> None:
    """Refuse (:class:`ReadError`) a sampling rate (Hz) whose Nyquist rate does not lie above the band."""
    top = high or low
    if fs <= 2 * top:
        remedy = (
            f"record faster, or set modality.lowpass below {fs / 2:g} for every recording of this model"
            if high
            else "set modality.highpass lower"
        )
        raise ReadError(
            f"the sampling rate of {fs:g} Hz cannot carry a band up to {top:g} Hz (more than {2 * top:g} Hz is "
            f"needed); {remedy}."
        )


def bandpass(x: np.ndarray, fs: float, low: float, high: float) -> np.ndarray:
    """Zero-phase Chebyshev II of order 4 and 20 dB: both edges (Hz) lie where the stop band begins; 0 leaves one off.

    The mean is taken off first: 20 dB twice would leave a hundredth of it, as much as the pulse of a camera or a watch.
    Second-order sections: at 1000 Hz the poles of 0.5 Hz are too close to one for a single polynomial.

    Raises:
        ReadError: ``fs`` is too low for the band.
    """
    from scipy.signal import cheby2, sosfiltfilt

    if not low and not high:
        return x
    check_band(fs, low, high)
    kind, edges = (
        ("bandpass", (low, high)) if low and high else ("highpass", low) if low else ("lowpass", high)
    )
    sos = cheby2(ORDER, STOP_BAND, edges, kind, fs=fs, output="sos")
    # The slowest pole takes about a period of the lower edge to die out; a short record gives what it has.
    pad = min(x.shape[1] - 1, max(3 * ORDER, round(fs / low) if low else 0))
    return sosfiltfilt(sos, x - x.mean(1, keepdims=True) if low else x, axis=1, padlen=pad)


def smooth(x: np.ndarray, fs: float, seconds: float) -> np.ndarray:
    """Moving average over ``seconds`` run forwards and backwards (a triangle of twice the width, no phase)."""
    from scipy.ndimage import convolve1d

    width = round(seconds * fs)
    if width < 2 or fs < SMOOTH_FROM:
        return x
    box = np.ones(width) / width
    return convolve1d(x, np.convolve(box, box), axis=1, mode="nearest")


def zscore(x: np.ndarray) -> np.ndarray:
    """``x [..., T]`` with mean 0 and (population) deviation 1 over what is recorded; a flat channel becomes 0."""
    finite = np.isfinite(x)
    count = np.maximum(finite.sum(-1, keepdims=True), 1)
    centred = x - np.where(finite, x, 0).sum(-1, keepdims=True, dtype=np.float64) / count
    deviation = np.sqrt(np.where(finite, centred**2, 0).sum(-1, keepdims=True) / count)
    return centred / np.where(deviation > 0, deviation, 1)
