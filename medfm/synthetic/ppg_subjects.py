"""Who wears the sensor: age, build, skin, blood pressure, arteries, rhythm disease, and the device at hand.

Arteries stiffen with age and pressure: the stiffness index (height over the delay of the reflected wave) rises from 5 to
9.5 m/s between 20 and 80 years (Millasseau et al. 2002), and the reflected wave grows and comes earlier, so that the dicrotic
notch fades (Allen and Murray 2003). The coefficients are ours, chosen to meet those figures with room between people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from medfm.synthetic.draws import Draws
from medfm.types import ConfigError

# condition: (share of subjects before exclusions, log-odds for 20 years more, log-odds for men over women). A mix to learn
# from, richer in disease than a population.
CONDITIONS: dict[str, tuple[float, float, float]] = {
    "af_persistent": (0.09, 0.9, 0.1),
    "af_paroxysmal": (0.08, 0.7, 0.1),
    "pvc": (0.10, 0.4, 0.1),
    "pac": (0.08, 0.5, 0.0),
    "bradycardia": (0.05, 0.1, 0.2),
    "tachycardia": (0.05, 0.0, -0.1),
}
EXCLUDES = (
    ("af_persistent", ("af_paroxysmal", "pac", "bradycardia", "tachycardia")),
    ("af_paroxysmal", ("bradycardia", "tachycardia")),
    ("bradycardia", ("tachycardia",)),
)
_AGE_MEAN, _AGE_SD, _AGE_RANGE = 50.0, 18.0, (18.0, 90.0)
_AGES = np.clip(_AGE_MEAN + _AGE_SD * ndtri((np.arange(200) + 0.5) / 200), *_AGE_RANGE)
_SKIN_SHARES = (0.12, 0.25, 0.25, 0.15, 0.13, 0.10)  # Fitzpatrick I to VI


@dataclass(frozen=True)
class Device:
    """A sensor. wavelength: what its channel ``ppg`` is; perfusion: median AC over DC; fs: of its own sampling, Hz; noise: of
    the sensor, as a share of the light returned by pale skin; path: heart to sensor over body height; widen: what the place
    smooths, s; bits: of the converter; loose: how far movement shifts it."""

    name: str
    wavelength: str
    perfusion: float
    fs: float
    noise: float
    path: float
    widen: float
    bits: int
    loose: float


DEVICES: tuple[Device, ...] = (
    Device("sim-finger-1", "infrared", 0.035, 250.0, 3e-4, 0.55, 0.000, 16, 0.8),
    Device("sim-finger-2", "red", 0.016, 100.0, 4e-4, 0.55, 0.000, 16, 0.8),
    Device("sim-wrist-1", "green", 0.012, 64.0, 5e-4, 0.50, 0.022, 18, 1.2),
    Device("sim-wrist-2", "green", 0.010, 128.0, 3e-4, 0.50, 0.018, 18, 1.0),
    Device("sim-ear-1", "infrared", 0.016, 100.0, 3e-4, 0.25, 0.012, 16, 0.5),
    Device("sim-phone-1", "red", 0.014, 30.0, 8e-4, 0.55, 0.005, 14, 0.9),
)
DEVICE_SHARES = (0.25, 0.12, 0.22, 0.18, 0.11, 0.12)


@dataclass(frozen=True)
class People:
    """n people, ``[n]`` each. age years; height m; bmi kg/m2; skin: Fitzpatrick 1 to 6; sbp, dbp: usual pressures, mmHg;
    stiffness: index at those, m/s; first: foot to peak, s; first_width, second_width, runoff_delay, runoff_width: of the pulse's waves, s;
    reflection, runoff: size of the second and third wave over the first; perfusion: factor; ejection: pre-ejection period,
    s; rate: at rest, per minute; breath_hz; device: row of ``DEVICES``; cond: name -> bool."""

    age: np.ndarray
    male: np.ndarray
    height: np.ndarray
    bmi: np.ndarray
    skin: np.ndarray
    sbp: np.ndarray
    dbp: np.ndarray
    stiffness: np.ndarray
    first: np.ndarray
    first_width: np.ndarray
    second_width: np.ndarray
    reflection: np.ndarray
    runoff: np.ndarray
    runoff_delay: np.ndarray
    runoff_width: np.ndarray
    perfusion: np.ndarray
    ejection: np.ndarray
    rate: np.ndarray
    breath_hz: np.ndarray
    device: np.ndarray
    cond: dict[str, np.ndarray]

    @property
    def mean_pressure(self) -> np.ndarray:
        """Usual mean arterial pressure, mmHg."""
        return self.dbp + (self.sbp - self.dbp) / 3


def draw_people(d: Draws, prevalence: Mapping[str, float], only: Sequence[str] | None = None) -> People:
    """Draw people. ``only``: exactly these conditions in everyone, instead of the mix. Raises ConfigError for unknown
    conditions."""
    age = np.clip(d.normal(_AGE_MEAN, _AGE_SD), *_AGE_RANGE).round()
    male = d.chance(0.5)
    past = age - 20
    bmi = d.normal(26.0, 4.3).clip(17.0, 45.0)
    worn = d.normal()  # arteries older or younger than their owner
    sbp = 130 + 0.42 * (age - 50) + 0.7 * (bmi - 26) + 5.5 * worn + d.normal(0, 9.0)
    dbp = np.minimum(80 + 0.08 * (age - 50) + 0.45 * (bmi - 26) + 2.0 * worn + d.normal(0, 6.0), sbp - 22)
    mean_pressure = dbp + (sbp - dbp) / 3
    cond = _conditions(d, age, male, prevalence, only)
    rate = d.normal(69.0, 9.5).clip(50.0, 96.0)
    rate = np.where(cond["bradycardia"], d.uniform(38.0, 52.0), rate)
    rate = np.where(cond["tachycardia"], d.uniform(102.0, 130.0), rate)
    return People(
        age=age,
        male=male,
        height=d.normal(0, 0.066) + np.where(male, 1.77, 1.64),
        bmi=bmi,
        skin=1 + d.pick(_SKIN_SHARES),
        sbp=sbp,
        dbp=dbp,
        stiffness=(5.0 + 0.075 * past + 0.03 * (mean_pressure - 95) + 0.6 * worn).clip(3.8, 13.0),
        first=(0.120 + 0.0008 * past + d.normal(0, 0.008)).clip(0.09, 0.22),
        first_width=(0.050 + 0.0004 * past + d.normal(0, 0.005)).clip(0.034, 0.1),
        second_width=(0.085 + 0.0005 * past + d.normal(0, 0.007)).clip(0.06, 0.15),
        reflection=0.50 + 0.004 * past + d.normal(0, 0.06),
        runoff=d.normal(0.24, 0.06).clip(0.05, 0.45),
        runoff_delay=d.normal(0.17, 0.02),
        runoff_width=d.normal(0.15, 0.015),
        perfusion=d.lognormal(1.0, 0.4) * np.exp(-0.1 * (age - 50) / 20),
        ejection=d.normal(0.100, 0.009),
        rate=rate,
        breath_hz=d.normal(0.25, 0.045).clip(0.16, 0.38),
        device=d.pick(DEVICE_SHARES),
        cond=cond,
    )


def _conditions(
    d: Draws, age: np.ndarray, male: np.ndarray, prevalence: Mapping[str, float], only: Sequence[str] | None
) -> dict[str, np.ndarray]:
    if unknown := sorted(set(only or ()) - set(CONDITIONS)):
        raise ConfigError(f"unknown PPG condition {unknown[0]!r}; known: {', '.join(CONDITIONS)}.")
    cond = {}
    for name, (_, by_age, by_sex) in CONDITIONS.items():
        share = prevalence[name]
        tilt = np.exp(by_age * (age - _AGE_MEAN) / 20 + by_sex * (male - 0.5))
        # The mean factor over ages and sexes, so that the table's share stays that of the population.
        mean = np.exp(by_age * (_AGES - _AGE_MEAN) / 20).mean() * np.cosh(by_sex / 2)
        odds = share / max(1 - share, 1e-12) * tilt / mean
        drawn = d.chance(odds / (1 + odds))
        cond[name] = drawn if only is None else np.full(len(age), name in only)
    if only is None:
        for keeper, losers in EXCLUDES:
            for loser in losers:
                cond[loser] = cond[loser] & ~cond[keeper]
    return cond
