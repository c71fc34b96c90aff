"""What stands between the heart and the file: electrodes, muscle, mains, movement, the recorder's band and
its converter.

Noise is made per ELECTRODE (RA, LA, LL, V1-V6) and becomes lead noise as in a recorder: I = LA - RA, II = LL
- RA, Vk = Vk - (RA + LA + LL) / 3. The converter then digitises I, II, V1-V6, and III, aVR, aVL, aVF are
computed from the digitised leads, so Einthoven's and Goldberger's identities survive the noise; saturation
and lead-off act on I, II and V1-V6 too. A swap of electrodes is a permutation of potentials.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from medfm.synthetic.draws import Draws
from medfm.synthetic.ecg_subjects import DEVICES, MAINS_HZ
from medfm.synthetic.subjects import Subjects

ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
PAD = 1.0  # seconds on either side that are made and thrown away: no filter edge, no circular noise
# leads I, II, V1..V6 from electrode potentials
FROM_ELECTRODES = np.zeros((8, 9))
FROM_ELECTRODES[0, :2] = (-1, 1)
FROM_ELECTRODES[1, [0, 2]] = (-1, 1)
FROM_ELECTRODES[2:, :3] = -1 / 3
FROM_ELECTRODES[2:, 3:] = np.eye(6)
# potentials against the mean of RA, LA, LL, from leads I, II, V1..V6
TO_ELECTRODES = np.zeros((9, 8))
TO_ELECTRODES[0, :2] = (-1 / 3, -1 / 3)
TO_ELECTRODES[1, :2] = (2 / 3, -1 / 3)
TO_ELECTRODES[2, :2] = (-1 / 3, 2 / 3)
TO_ELECTRODES[3:, 2:] = np.eye(6)

# baseline wander by electrode: the leg's is the largest
_MOVES = np.array([0.6, 0.6, 1.5, 1.2, 1.2, 1.3, 1.4, 1.4, 1.4])

# swaps by name: which electrode's potential each cable carries
REVERSALS: dict[str, tuple[int, int]] = {
    "LA/RA": (0, 1),
    "RA/LL": (0, 2),
    "LA/LL": (1, 2),
    "V1/V2": (3, 4),
    "V2/V3": (4, 5),
}
REVERSAL_NAMES = tuple(REVERSALS)
_REVERSAL_SHARES = (0.5, 0.12, 0.13, 0.13, 0.12)


def reversal_matrix(name: str) -> np.ndarray:
    """``[8, 8]``: leads I, II, V1..V6 as recorded with two cables exchanged, from the leads as they should
    be."""
    order = np.arange(9)
    a, b = REVERSALS[name]
    order[[a, b]] = order[[b, a]]
    return FROM_ELECTRODES @ TO_ELECTRODES[order]


def twelve(x: np.ndarray) -> np.ndarray:
    """``[..., 8, T]`` (I, II, V1..V6) to ``[..., 12, T]`` in canonical order."""
    i, ii = x[..., 0, :], x[..., 1, :]
    out = np.empty((*x.shape[:-2], 12, x.shape[-1]), x.dtype)
    out[..., 0, :], out[..., 1, :], out[..., 2, :] = i, ii, ii - i
    out[..., 3, :], out[..., 4, :], out[..., 5, :] = -(i + ii) / 2, i - ii / 2, ii - i / 2
    out[..., 6:, :] = x[..., 2:, :]
    return out


@dataclass(frozen=True)
class Recording:
    """Settings of n recordings. Deviations in mV; ``[n]`` or ``[n, 9]`` by electrode; low, high: band, Hz."""

    muscle: np.ndarray
    burst: np.ndarray
    burst_at: np.ndarray
    burst_width: np.ndarray
    pink: np.ndarray
    wander: np.ndarray
    wander_slope: np.ndarray
    breath: np.ndarray
    mains: np.ndarray
    mains_hz: np.ndarray
    mains_phase: np.ndarray
    bumps: np.ndarray
    step: np.ndarray
    low: np.ndarray
    high: np.ndarray
    causal: np.ndarray
    notch: np.ndarray
    lsb: np.ndarray
    rail: np.ndarray
    off: np.ndarray
    swap: np.ndarray
    source_hz: np.ndarray


def draw_recording(d: Draws, s: Subjects, seconds: float, level: float = 1.0) -> Recording:
    """Noise and recorder of each record. ``level`` multiplies every noise (0: none); the recorder stays."""
    n = d.n
    device_noise = np.array([v.noise for v in DEVICES])[s.device]
    bad = d.lognormal(1.0, 0.65) * device_noise * level
    per = d.lognormal(1.0, 0.45, (9,))
    noisy = d.uniform(0, 1, (9,)) < 0.03
    per = per * np.where(noisy, 5.0, 1.0)
    band = np.array([v.band for v in DEVICES])[s.device]
    low = np.where(d.chance(0.06), 0.5, band[:, 0])
    options = np.array([band[:, 1], np.minimum(band[:, 1], 100.0), np.minimum(band[:, 1], 40.0)])
    high = options[d.pick([0.72, 0.13, 0.15]), np.arange(n)] * d.uniform(0.93, 1.07)
    wander = d.lognormal(0.022, 0.75) * level
    step = np.where(d.chance(0.03)[:, None], d.normal(0, 1.0, (9,)) * (d.uniform(0, 1, (9,)) < 0.2), 0.0)
    swap = np.where(s.cond["electrode_reversal"], d.pick(_REVERSAL_SHARES), -1)
    bump_amp = d.normal(0, 0.18, (3, 9)) * (d.uniform(0, 1, (3, 9)) < 0.3) * level
    bumps = np.stack(
        [
            np.repeat(d.uniform(-0.5, seconds + 0.5, (3,))[:, :, None], 9, axis=2),
            np.repeat(d.lognormal(0.18, 0.6, (3,))[:, :, None], 9, axis=2),
            np.where(d.chance(0.09)[:, None, None], bump_amp, 0.0),
        ],
        axis=-1,
    )
    return Recording(
        muscle=0.0065 * bad[:, None] * per,
        burst=np.where(d.chance(0.08), d.uniform(1.5, 6.0), 0.0),
        burst_at=d.uniform(0.0, seconds),
        burst_width=d.uniform(0.3, 2.0),
        pink=0.0045 * (bad * d.lognormal(1.0, 0.4))[:, None] * per,
        wander=wander[:, None] * d.lognormal(1.0, 0.45, (9,)) * _MOVES,
        wander_slope=d.uniform(0.7, 1.7),
        breath=d.lognormal(0.012, 0.8)[:, None] * d.normal(0, 1.0, (9,)) * _MOVES * level,
        mains=np.where(d.chance(0.4), d.lognormal(0.006, 0.9), 0.0)[:, None] * d.normal(0, 1.0, (9,)) * level,
        mains_hz=MAINS_HZ[s.site] + d.normal(0, 0.03),
        mains_phase=d.uniform(0, 2 * np.pi, (3,)),
        bumps=bumps,
        step=step * d.lognormal(0.3, 0.6)[:, None] * level,
        low=low,
        high=high,
        causal=np.array([v.causal for v in DEVICES])[s.device],
        notch=d.chance(0.55),
        lsb=np.array([v.lsb for v in DEVICES])[s.device],
        rail=np.where(d.chance(0.012), d.uniform(0.8, 2.5), 10.0),
        off=_lead_off(d, seconds, level),
        swap=swap,
        source_hz=np.array([v.fs for v in DEVICES])[s.device],
    )


def _lead_off(d: Draws, seconds: float, level: float) -> np.ndarray:
    """lead (or -1), from, to (s), value (mV), ``[n, 4]``: a lead that falls to a constant for a while, or
    altogether."""
    happens, whole = d.chance(0.012 * (level > 0)), d.chance(0.4)
    lead = np.where(happens, d.uniform(0, 8).astype(int), -1)
    start = np.where(whole, -1.0, d.uniform(0.0, 0.8) * seconds)
    stop = np.where(whole, seconds + 1.0, start + d.uniform(0.1, 0.6) * seconds)
    return np.stack([lead, start, stop, np.where(d.chance(0.7), 0.0, d.uniform(-2.0, 2.0))], axis=1)


def record(
    clean: np.ndarray,
    r: Recording,
    keys: list[tuple[int, ...]],
    breath: np.ndarray,
    fs: float,
    fs_out: float,
    seconds: float,
) -> np.ndarray:
    """Turn noiseless leads into what the file holds.

    clean: float32 ``[n, 8, T_pad]`` mV at fs, ``PAD`` seconds longer on both sides; keys: a seed a record for
    the sample noise; breath ``[n, 2]``: Hz and phase. Returns float32 ``[n, 12, round(seconds * fs_out)]``
    mV.
    """
    n, _, length = clean.shape
    time = np.arange(length) / fs - PAD
    white = np.empty((n, 9, length), np.float32)
    low_bins = max(int(1.5 * length / fs), 2)
    slow = np.empty((n, 9, low_bins, 2))
    for i, key in enumerate(keys):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
        rng.standard_normal(out=white[i], dtype=np.float32)
        slow[i] = rng.standard_normal((9, low_bins, 2))
    freq = fft.rfftfreq(length, 1 / fs)
    spectrum = fft.rfft(clean, axis=-1)
    for i in range(n):
        if r.swap[i] >= 0:
            spectrum[i] = reversal_matrix(REVERSAL_NAMES[r.swap[i]]).astype(np.float32) @ spectrum[i]
    noise = _electrode_noise(white, slow, r, freq, time, breath, length, fs)
    spectrum += FROM_ELECTRODES.astype(np.float32) @ noise
    spectrum *= _response(r, freq)[:, None, :]
    out_length = round(length * fs_out / fs)
    x = fft.irfft(spectrum[..., : out_length // 2 + 1], n=out_length, axis=-1) * np.float32(
        out_length / length
    )
    begin = round(PAD * fs_out)
    x = x[..., begin : begin + round(seconds * fs_out)]
    return twelve(_digitise(x, r, fs_out))


def _electrode_noise(
    white: np.ndarray,
    slow: np.ndarray,
    r: Recording,
    freq: np.ndarray,
    time: np.ndarray,
    breath: np.ndarray,
    length: int,
    fs: float,
) -> np.ndarray:
    """Spectrum ``[n, 9, F]`` of everything that the electrodes add (complex64)."""
    n = len(white)
    bump = r.burst[:, None] * np.exp(-0.5 * ((time - r.burst_at[:, None]) / r.burst_width[:, None]) ** 2)
    if r.burst.any():
        white *= (1 + bump[:, None, :]).astype(np.float32)
    noise = fft.rfft(white, axis=-1)
    # Muscle: broad, above 15 Hz. Electrode and amplifier: falls with frequency. Both shaped from the same
    # samples.
    muscle = (freq / 18.0) ** 2 / (1 + (freq / 18.0) ** 2) / (1 + (freq / 180.0) ** 2)
    pink = np.sqrt(8.0 / np.maximum(freq, 0.8)) / (1 + (freq / 60.0) ** 2)
    per_sample = np.sqrt(fs / 500.0)  # the same power a hertz at every rate
    shape = r.muscle[:, :, None] * muscle + r.pink[:, :, None] * pink
    noise *= (shape * per_sample).astype(np.float32)
    bins = slow.shape[2]
    f = freq[1:bins]
    falling = (np.maximum(f, 0.12)[None] / 0.2) ** -r.wander_slope[:, None] / (1 + (f / 0.8) ** 4)
    falling /= np.sqrt(2 * np.sum(falling**2, axis=1, keepdims=True))
    wander = r.wander[:, :, None] * falling[:, None] * length / np.sqrt(2)
    noise[:, :, 1:bins] += (wander * (slow[:, :, 1:, 0] + 1j * slow[:, :, 1:, 1])).astype(np.complex64)
    steady = _steady(r, time, breath)
    busy = np.flatnonzero([len(s) for s in steady])
    for i in busy:
        noise[i] += fft.rfft(
            np.sum([w[:, None] * s for w, s in steady[i]], axis=0).astype(np.float32), axis=-1
        )
    assert noise.shape[0] == n
    return noise


def _steady(r: Recording, time: np.ndarray, breath: np.ndarray) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Per record: (weight by electrode ``[9]``, course in time ``[T]``) of breathing, mains, movement,
    contact steps."""
    rows: list[list[tuple[np.ndarray, np.ndarray]]] = []
    for i in range(len(breath)):
        row = [(r.breath[i], np.sin(2 * np.pi * breath[i, 0] * time + breath[i, 1]))]
        if r.mains[i].any():
            angle = 2 * np.pi * r.mains_hz[i] * time + r.mains_phase[i, 0]
            hum = np.sin(angle) + 0.25 * np.sin(3 * angle + r.mains_phase[i, 1])
            row.append((r.mains[i], hum * (1 + 0.3 * np.sin(2 * np.pi * 0.17 * time + r.mains_phase[i, 2]))))
        for bump in r.bumps[i]:
            if bump[:, 2].any():
                past = (time - bump[0, 0]) / bump[0, 1]
                rise = past + 2.0
                row.append((bump[:, 2], np.where(rise > 0, rise**2 * np.exp(2 - rise) / 4, 0.0)))
        if r.step[i].any():
            row.append((r.step[i], (time > r.burst_at[i]).astype(float)))
        rows.append(row)
    return rows


def _response(r: Recording, freq: np.ndarray) -> np.ndarray:
    """Frequency response ``[n, F]`` of the recorder (complex64): high-pass, low-pass, mains notch, slow
    sources."""
    f = np.maximum(freq, 1e-9)[None]
    low, high = r.low[:, None], r.high[:, None]
    analogue = 1 / (1 - 1j * low / f)
    zero_phase = 1 / (1 + (low / f) ** 4)
    response = np.where(r.causal[:, None], analogue, zero_phase) / np.sqrt(1 + (f / high) ** 8)
    # What a source sampled slowly could not hold is gone after resampling.
    edge = 0.45 * r.source_hz[:, None]
    response *= 1 / (1 + np.exp(np.clip((f - edge) / (0.02 * edge), -60, 60)))
    centre = np.round(r.mains_hz)[:, None]
    hole = 1 - np.exp(-0.5 * ((f - centre) / 0.8) ** 2)
    response *= np.where(r.notch[:, None], hole, 1.0)
    response[:, freq == 0] = 0.0
    return response.astype(np.complex64)


def _digitise(x: np.ndarray, r: Recording, fs: float) -> np.ndarray:
    """Rails, lead-off, quantisation, ``[n, 8, T]``."""
    for i in np.flatnonzero(r.rail < 10):
        np.clip(x[i], -r.rail[i], r.rail[i], out=x[i])
    for i in np.flatnonzero(r.off[:, 0] >= 0):
        lead, start, stop, value = r.off[i]
        x[i, int(lead), max(int(start * fs), 0) : max(int(stop * fs), 0)] = value
    lsb = r.lsb[:, None, None].astype(np.float32)
    x /= lsb
    np.rint(x, out=x)
    x *= lsb
    return x
