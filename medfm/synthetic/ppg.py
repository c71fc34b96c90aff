"""Synthetic photoplethysmograms: arteries that age, rhythms, breath, movement, skin and sensors; several recordings a person.

A record depends only on (seed, subject, record, fs, seconds, options), whatever the batch and whichever channels are asked
for beside it. Simulated data prove a pipeline and feed self-supervised learning; they say nothing about clinical performance.

Sources: two-Gaussian pulses (Tang et al., Scientific Reports 2020), stiffness and reflection index (Millasseau et al. 2002;
Chowienczyk et al. 1999), RR spectrum (McSharry et al. 2003), states of movement (Paliakaite et al. 2021); the coefficients,
optics and devices are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft

from medfm.synthetic.draws import Draws
from medfm.synthetic.ppg_beats import arrival, pulse_wave, single_lead
from medfm.synthetic.ppg_days import Day, draw_day
from medfm.synthetic.ppg_motion import Motion, draw_motion, spells_at_most
from medfm.synthetic.ppg_optics import MAIN, WAVELENGTHS, breathed, draw_setting, light, quality
from medfm.synthetic.ppg_rhythm import Rhythm, beats_at_most, draw_rhythm
from medfm.synthetic.ppg_subjects import CONDITIONS, People, draw_people
from medfm.synthetic.subjects import prevalences
from medfm.types import ConfigError

# Raise it whenever the same (seed, subject, record) gives another record: stores are keyed by it.
GENERATOR_VERSION = 1
CHANNELS = ("ppg", *WAVELENGTHS, "acc", "acc_x", "acc_y", "acc_z", "ecg")
UNITS = {**dict.fromkeys(CHANNELS, "NU"), **dict.fromkeys(CHANNELS[-5:-1], "g"), "ecg": "mV"}
PAD = 1.0  # seconds on either side that are made and thrown away: no filter edge
_SUBJECT, _RECORD, _MOVES, _LIGHT, _LEAD = 21, 22, 23, 24, 25  # streams of random numbers


@dataclass(frozen=True)
class Chunk:
    """n records at once. x: float32 ``[n, C, T]`` (light in units of what pale skin returns, acceleration in g, ECG in mV);
    clean: pulse without breath, movement and noise, ``[n, T]``; pat: per beat, s from R to the pulse's foot, ``[n, B]``;
    perfusion: AC over DC of each channel of light, ``[n, C]``, NaN for others; busy, contact: of :class:`Motion`, ``[n, T]``;
    quality: of channel ``ppg``."""

    x: np.ndarray
    clean: np.ndarray
    patients: list[str]
    records: list[str]
    people: People
    day: Day
    rhythm: Rhythm
    pat: np.ndarray
    perfusion: np.ndarray
    busy: np.ndarray
    contact: np.ndarray
    quality: np.ndarray


def simulate(
    keys: Sequence[tuple[int, int]],
    seed: int,
    *,
    fs: float = 125.0,
    seconds: float = 10.0,
    channels: Sequence[str] = ("ppg",),
    conditions: Sequence[str] | str | None = None,
    prevalence: Mapping[str, float] | None = None,
    noise: float = 1.0,
) -> Chunk:
    """One chunk: ``keys`` are (subject, record) pairs.

    channels: of :data:`CHANNELS`; ``ppg`` is the device's own wavelength. conditions: None for the mix, or exactly these for
    everyone (``()``: nobody is ill). prevalence: changes to the mix (:data:`medfm.synthetic.ppg_subjects.CONDITIONS`). noise:
    multiplier of noise, drift and movement; 0 leaves pulse, breath and converter. Raises ConfigError for unknown channels or
    conditions, fs outside 25-1000 Hz or seconds outside 2-600.
    """
    if not 25 <= fs <= 1000 or not 2 <= seconds <= 600:
        raise ConfigError(f"synthetic PPG of {seconds} s at {fs} Hz: choose 2 to 600 s and 25 to 1000 Hz.")
    if unknown := [c for c in channels if c not in CHANNELS]:
        raise ConfigError(f"synthetic PPG has no channel {unknown[0]!r}; channels: {', '.join(CHANNELS)}.")
    if not channels:
        raise ConfigError(f"synthetic PPG without channels; name some of {', '.join(CHANNELS)}.")
    only = (conditions,) if isinstance(conditions, str) else conditions
    subject = Draws([(seed, _SUBJECT, s) for s, _ in keys], 80)
    daily = Draws(
        [(seed, _RECORD, s, r) for s, r in keys],
        80 + 6 * beats_at_most(seconds) + 7 * spells_at_most(seconds),
    )
    people = draw_people(subject, prevalences(CONDITIONS, prevalence), only)
    day = draw_day(subject, daily, people, np.array([r for _, r in keys]))
    setting = draw_setting(subject, daily)
    rhythm = draw_rhythm(subject, daily, people, day, seconds)
    pat = arrival(subject, daily, people, day, rhythm)

    length = fft.next_fast_len(int(np.ceil((seconds + 2 * PAD) * fs)), real=True)
    inside = slice(round(PAD * fs), round(PAD * fs) + round(seconds * fs))
    pulse = pulse_wave(daily, people, day, rhythm, pat, length, fs, -PAD)
    motion = draw_motion(daily, day, _normal(seed, _MOVES, keys, (3, length)), fs, -PAD, seconds, noise)
    time = -PAD + np.arange(length) / fs
    moved = breathed(pulse, setting, day, time)

    def shine(which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        grain = _normal(seed, _LIGHT, keys, (length,), which)
        return light(which, grain, moved, motion, setting, people, day, fs, noise)

    main, own = shine(MAIN[day.device])
    x = np.empty((len(keys), len(channels), inside.stop - inside.start), np.float32)
    perfusion = np.full((len(keys), len(channels)), np.nan)
    for c, name in enumerate(channels):
        if name == "ppg":
            value, perfusion[:, c] = main, own
        elif name in WAVELENGTHS:
            value, perfusion[:, c] = shine(np.full(len(keys), list(WAVELENGTHS).index(name)))
        elif name == "ecg":
            value = single_lead(subject, daily, rhythm, length, fs, -PAD)
            value += _lead_noise(_normal(seed, _LEAD, keys, (length,)), fs, noise)
        else:
            value = _acceleration(motion, name, _normal(seed, _MOVES, keys, (4, length))[:, 3], noise)
        x[:, c] = value[:, inside]
    return Chunk(
        x=x,
        clean=pulse[:, inside],
        patients=[f"s{seed}p{s:06d}" for s, _ in keys],
        records=[f"s{seed}p{s:06d}r{r:02d}" for s, r in keys],
        people=people,
        day=day,
        rhythm=rhythm,
        pat=pat,
        perfusion=perfusion,
        busy=motion.busy[:, inside],
        contact=motion.contact[:, inside],
        quality=quality(main[:, inside], pulse[:, inside], fs),
    )


def _normal(
    seed: int,
    stream: int,
    keys: Sequence[tuple[int, int]],
    shape: tuple[int, ...],
    which: np.ndarray | None = None,
) -> np.ndarray:
    """Normal noise float32 ``[n, *shape]``, each row from its own key (and wavelength)."""
    out = np.empty((len(keys), *shape), np.float32)
    for i, key in enumerate(keys):
        words = (seed, stream, *key, *(() if which is None else (int(which[i]),)))
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
        rng.standard_normal(out=out[i], dtype=np.float32)
    return out


def _acceleration(motion: Motion, name: str, grain: np.ndarray, noise: float) -> np.ndarray:
    """``acc`` is the magnitude of the three axes; g."""
    if name == "acc":
        return np.linalg.norm(motion.acc, axis=1) + np.float32(0.004 * noise) * grain
    return motion.acc[:, "xyz".index(name[-1])] + np.float32(0.004 * noise) * grain


def _lead_noise(white: np.ndarray, fs: float, level: float) -> np.ndarray:
    """Muscle and a wandering baseline, mV ``[n, T]``."""
    hz = fft.rfftfreq(white.shape[1], 1 / fs)
    shape = 0.012 * np.sqrt(fs / 125) + 0.5 * np.sqrt(fs / 125) / (1 + (hz / 0.2) ** 2) * (hz > 0)
    return (level * fft.irfft(fft.rfft(white) * shape, white.shape[1])).astype(np.float32)
