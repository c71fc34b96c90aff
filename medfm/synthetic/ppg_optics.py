"""From the pulse to what the photodiode and its converter give, wavelength by wavelength.

The light is ``DC * (1 + perfusion * (pulse + breath + movement))`` upright (more blood, higher value), in units of the light
that pale skin returns. Melanin takes more of the short wavelengths; the sensor's noise stays, so dark skin has less signal to
noise in green than in infrared. Shares and losses are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from medfm.synthetic.draws import Draws
from medfm.synthetic.ppg_days import Day
from medfm.synthetic.ppg_motion import Motion
from medfm.synthetic.ppg_subjects import DEVICES, People


@dataclass(frozen=True)
class Wavelength:
    """perfusion: AC over DC relative to green; melanin: share of the light that the darkest skin takes; delay: of the pulse,
    s; moves: share of movement in its signal relative to green."""

    perfusion: float
    melanin: float
    delay: float
    moves: float


WAVELENGTHS: dict[str, Wavelength] = {
    "green": Wavelength(1.0, 0.60, 0.000, 1.0),
    "red": Wavelength(0.30, 0.30, 0.004, 1.5),
    "infrared": Wavelength(0.50, 0.12, 0.006, 1.3),
    "blue": Wavelength(0.80, 0.70, 0.002, 1.1),
}
_BY_WAVELENGTH = {
    field: np.array([getattr(w, field) for w in WAVELENGTHS.values()])
    for field in ("perfusion", "melanin", "delay", "moves")
}
MAIN = np.array([list(WAVELENGTHS).index(d.wavelength) for d in DEVICES])  # of each device


@dataclass(frozen=True)
class Setting:
    """Of n recordings: breath_level and breath_size: sway of the baseline and of the pulse's height with the breath, shares
    of the pulse; drift: deviation of slow change, in pulses; rail: pulses that the converter holds either side; gain."""

    breath_level: np.ndarray
    breath_size: np.ndarray
    drift: np.ndarray
    rail: np.ndarray
    gain: np.ndarray
    noise: np.ndarray


def draw_setting(subject: Draws, d: Draws) -> Setting:
    return Setting(
        breath_level=(subject.lognormal(0.12, 0.4) * d.lognormal(1.0, 0.2)).clip(0.03, 0.35),
        breath_size=(subject.lognormal(0.08, 0.35) * d.lognormal(1.0, 0.2)).clip(0.02, 0.18),
        drift=d.lognormal(0.12, 0.6),
        rail=np.where(d.chance(0.03), d.uniform(0.9, 1.6), 12.0),
        gain=d.lognormal(1.0, 0.2),
        noise=d.lognormal(1.0, 0.4),
    )


def breathed(pulse: np.ndarray, s: Setting, day: Day, time: np.ndarray) -> np.ndarray:
    """The pulse ``[n, T]`` with the breath in its height and its baseline."""
    breath = np.sin(2 * np.pi * day.breath_hz[:, None] * time + day.breath_phase[:, None]).astype(np.float32)
    size, level = (v[:, None].astype(np.float32) for v in (s.breath_size, s.breath_level))
    return pulse * (1 + size * breath) - level * breath


def light(
    which: np.ndarray,
    noise: np.ndarray,
    pulse: np.ndarray,
    motion: Motion,
    s: Setting,
    people: People,
    day: Day,
    fs: float,
    level: float,
) -> tuple[np.ndarray, np.ndarray]:
    """One channel, ``[n, T]`` float32, and its AC over DC ``[n]``. which ``[n]``: row of ``WAVELENGTHS``, of each record;
    noise: normal ``[n, T]``; pulse: breathed, ``[n, T]``."""
    length = pulse.shape[1]
    hz = fft.rfftfreq(length, 1 / fs)
    w = {name: values[which] for name, values in _BY_WAVELENGTH.items()}
    own = {name: values[MAIN[day.device]] for name, values in _BY_WAVELENGTH.items()}
    perfusion = day.perfusion * w["perfusion"] / own["perfusion"]
    dark = ((people.skin - 1) / 5) ** 1.3
    dc = s.gain * (1 - w["melanin"] * dark)
    moves = (w["moves"] / own["moves"])[:, None]
    body = pulse * motion.contact + motion.light * moves.astype(np.float32)
    spectrum = fft.rfft(body) * np.exp(-2j * np.pi * hz * w["delay"][:, None])
    spectrum *= (dc * perfusion)[:, None]

    sensor = np.array([k.noise for k in DEVICES])[day.device] * s.noise * s.gain * level * np.sqrt(fs / 125)
    slow = 1 / (1 + (hz / 0.15) ** 2) * (hz > 0)
    slow /= np.sqrt(np.mean(np.concatenate([slow, slow[1:-1]]) ** 2))
    drift = (s.drift * dc * perfusion * level)[:, None] * slow
    spectrum += fft.rfft(noise) * (sensor[:, None] + drift)
    edge = 0.45 * np.array([k.fs for k in DEVICES])[day.device][:, None]
    spectrum /= 1 + np.exp(np.clip((hz - edge) / (0.03 * edge), -60, 60))
    x = fft.irfft(spectrum, length)
    rail = (s.rail * dc * perfusion)[:, None]
    x = np.clip(x, -0.6 * rail, rail) + dc[:, None]
    step = (2.0 * s.gain / 2.0 ** np.array([k.bits for k in DEVICES])[day.device])[:, None]
    return (np.rint(x / step) * step).astype(np.float32), perfusion


def quality(x: np.ndarray, pulse: np.ndarray, fs: float) -> np.ndarray:
    """Share of the signal that is pulse, ``[n]`` in 0 to 1: squared correlation of x and the noiseless pulse ``[n, T]``, both
    within 0.5 to 8 Hz; 0 where they run against each other."""
    hz = fft.rfftfreq(x.shape[1], 1 / fs)
    band = (hz >= 0.5) & (hz <= 8.0)
    a, b = (fft.rfft(v)[:, band] for v in (x, pulse))
    cross = np.sum((a * b.conj()).real, axis=1)
    power = np.sum(np.abs(a) ** 2, axis=1) * np.sum(np.abs(b) ** 2, axis=1)
    return (cross / np.sqrt(np.maximum(power, 1e-30))).clip(0, 1) ** 2
