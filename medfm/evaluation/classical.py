"""Features that need no network: the floor a backbone has to clear, from numpy and scipy alone.

``simple`` is mean and variance of each channel and the heart rate: a task it solves is no test of a
backbone. ``intervals_and_spectra`` is what a careful afternoon yields: band powers, amplitude percentiles,
RR statistics and wave amplitudes of the median beat. With the logistic regression of
:mod:`medfm.evaluation.probe` it is the classical comparator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from medfm.types import MedfmError

BANDS = ((0.5, 2.0), (2.0, 4.0), (4.0, 8.0), (8.0, 12.0), (12.0, 18.0), (18.0, 25.0), (25.0, 40.0))  # Hz
PERCENTILES = (1, 5, 25, 75, 95, 99)
BEAT = (-0.25, 0.45)  # seconds around R kept in the median beat
Wave = tuple[float, float, Callable[..., np.ndarray]]
# seconds after R: where each wave of the median beat is looked for, and what is taken there
WAVES: dict[str, Wave] = {
    "p_max": (-0.22, -0.08, np.max),
    "q_min": (-0.06, 0.0, np.min),
    "r_max": (-0.05, 0.05, np.max),
    "s_min": (0.0, 0.08, np.min),
    "st": (0.10, 0.13, np.mean),
    "t_max": (0.16, 0.40, np.max),
    "t_min": (0.16, 0.40, np.min),
}
CHUNK = 128
FeatureSet = Literal["simple", "intervals_and_spectra"]


def signal_features(
    x: np.ndarray, fs: float, features: FeatureSet = "intervals_and_spectra"
) -> tuple[np.ndarray, list[str]]:
    """Features ``[n, D]`` (finite, float64) and their names, of signals x ``[n, C, T]`` in mV sampled at fs
    Hz.

    NaN samples and absent channels count as zero. Raises :class:`MedfmError` for records under two seconds
    or a sampling rate below 50 Hz, where no beat can be measured."""
    if x.ndim != 3:
        raise MedfmError(f"signals are {list(x.shape)}: expected [records, channels, samples].")
    if fs < 50 or x.shape[2] < 2 * fs:
        raise MedfmError(
            f"{x.shape[2]} samples at {fs:g} Hz: classical features need 2 s or more at 50 Hz or more."
        )
    parts = [
        _features(np.nan_to_num(x[i : i + CHUNK].astype(float)), fs, features)
        for i in range(0, len(x), CHUNK)
    ]
    names = feature_names(x.shape[1], features)
    return (np.concatenate(parts) if parts else np.zeros((0, len(names)))), names


def feature_names(channels: int, features: FeatureSet) -> list[str]:
    """The columns of :func:`signal_features`, ``c0`` being the first channel."""
    if features == "simple":
        return [f"c{c}_{n}" for n in ("mean", "variance") for c in range(channels)] + ["heart_rate"]
    each = [f"log_power_{low:g}_{high:g}_hz" for low, high in BANDS]
    each += ["log_std", "skewness", "log_kurtosis", *(f"percentile_{q}" for q in PERCENTILES), *WAVES]
    rhythm = ["heart_rate", "rr_sd", "rr_rmssd", "rr_cv", "beats", "qrs_width", "beat_correlation"]
    return [f"c{c}_{n}" for n in each for c in range(channels)] + rhythm


def beats(x: np.ndarray, fs: float) -> list[np.ndarray]:
    """Sample index of each QRS in each record of x ``[n, C, T]``: peaks of the band-passed slope energy of
    all channels (after Pan and Tompkins 1985), at least 0.25 s apart."""
    from scipy.signal import find_peaks

    energy = _slope_energy(x, fs)
    reach = round(0.08 * fs)
    found = []
    for e in energy:
        height = 0.3 * np.quantile(e, 0.98)
        at = find_peaks(e, height=max(height, 1e-12), distance=max(1, round(0.25 * fs)))[0]
        # The two slopes of one QRS make a plateau whose maximum jumps: its centre of gravity does not.
        around = np.clip(at[:, None] + np.arange(-reach, reach + 1), 0, len(e) - 1)
        found.append(np.round((e[around] * around).sum(1) / e[around].sum(1)).astype(int))
    return found


def _slope_energy(x: np.ndarray, fs: float) -> np.ndarray:
    """``[n, T]``: squared slope in 5 to 25 Hz, summed over channels, smoothed over 80 ms."""
    n = x.shape[-1]
    frequency = np.fft.rfftfreq(n, 1 / fs)
    gain = np.where((frequency >= 5) & (frequency <= 25), 2j * np.pi * frequency, 0)
    slope = np.fft.irfft(np.fft.rfft(x, axis=-1) * gain, n, axis=-1)
    window = max(1, round(0.08 * fs))
    total = np.cumsum(
        np.pad((slope**2).sum(1), ((0, 0), (window // 2 + 1, window - window // 2 - 1))), axis=-1
    )
    total = np.pad(total, ((0, 0), (0, 1)), mode="edge")
    return (total[:, window : window + n] - total[:, :n]) / window


def _features(x: np.ndarray, fs: float, features: FeatureSet) -> np.ndarray:
    peaks = beats(x, fs)
    rr = [np.diff(p) / fs for p in peaks]
    rate = np.array([60 / np.median(r) if len(r) else 0.0 for r in rr])
    if features == "simple":
        return np.concatenate([x.mean(-1), x.var(-1), rate[:, None]], axis=1)
    centred = x - x.mean(-1, keepdims=True)
    std = centred.std(-1)
    z = centred / np.maximum(std, 1e-6)[..., None]
    parts = [_log_powers(centred, fs)]
    parts += [np.log(np.maximum(std, 1e-3)), (z**3).mean(-1), np.log1p((z**4).mean(-1))]
    parts += list(np.percentile(centred, PERCENTILES, axis=-1))
    median, agreement = _median_beats(centred, peaks, fs)
    parts += _waves(median, fs)
    parts += [_rhythm(rr, rate, peaks, _slope_energy(x, fs), fs), agreement[:, None]]
    return np.concatenate(parts, axis=1)


def _log_powers(x: np.ndarray, fs: float) -> np.ndarray:
    """log10 of the mean spectral power in each band, ``[n, bands * C]``, floored at 1e-8 mV^2/Hz."""
    n = x.shape[-1]
    frequency = np.fft.rfftfreq(n, 1 / fs)
    power = np.abs(np.fft.rfft(x * np.hanning(n), axis=-1)) ** 2 / (fs * n)
    bands = [power[..., (frequency >= low) & (frequency < high)] for low, high in BANDS]
    empty = np.zeros(x.shape[:2])
    return np.concatenate(
        [np.log10(np.maximum(b.mean(-1) if b.shape[-1] else empty, 1e-8)) for b in bands], axis=1
    )


def _median_beats(x: np.ndarray, peaks: list[np.ndarray], fs: float) -> tuple[np.ndarray, np.ndarray]:
    """Median beat ``[n, C, L]`` around each QRS (zero where there is none) and how well the beats agree
    with it."""
    before, after = round(-BEAT[0] * fs), round(BEAT[1] * fs)
    median = np.zeros((*x.shape[:2], before + after))
    agreement = np.zeros(len(x))
    for i, at in enumerate(peaks):
        whole = at[(at >= before) & (at + after <= x.shape[-1])]
        if not len(whole):
            continue
        each = np.stack([x[i, :, a - before : a + after] for a in whole])
        median[i] = np.median(each, axis=0)
        size = np.sqrt((median[i] ** 2).sum() * (each**2).sum((1, 2)))
        agreement[i] = ((each * median[i]).sum((1, 2)) / np.maximum(size, 1e-9)).mean()
    return median, agreement


def _waves(median: np.ndarray, fs: float) -> list[np.ndarray]:
    """Amplitude of each wave in each channel, in mV from the PR segment's level; a list of ``[n, C]``."""

    def at(seconds: float) -> int:
        return round((seconds - BEAT[0]) * fs)

    level = median[..., at(-0.08) : at(-0.05) + 1].mean(-1)
    return [take(median[..., at(low) : at(high) + 1], axis=-1) - level for low, high, take in WAVES.values()]


def _rhythm(
    rr: list[np.ndarray], rate: np.ndarray, peaks: list[np.ndarray], energy: np.ndarray, fs: float
) -> np.ndarray:
    """Heart rate, RR deviation, RMSSD, RR variation (deviation / mean), beats, QRS width (s): ``[n, 6]``."""
    rows = []
    for r, bpm, at, e in zip(rr, rate, peaks, energy):
        sd = float(np.std(r)) if len(r) else 0.0
        rmssd = float(np.sqrt(np.mean(np.diff(r) ** 2))) if len(r) > 1 else 0.0
        cv = sd / float(np.mean(r)) if len(r) else 0.0
        rows.append([bpm, sd, rmssd, cv, len(at), _width(e, at, fs)])
    return np.array(rows, dtype=float).reshape(len(rr), 6)


def _width(energy: np.ndarray, at: np.ndarray, fs: float) -> float:
    """Median time that the slope energy around a QRS stays above a tenth of its peak."""
    reach = round(0.15 * fs)
    whole = at[(at >= reach) & (at + reach < len(energy))]
    if not len(whole):
        return 0.0
    window = energy[whole[:, None] + np.arange(-reach, reach + 1)]
    return float(np.median((window > 0.1 * energy[whole][:, None]).sum(1)) / fs)
