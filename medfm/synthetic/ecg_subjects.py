"""Who lies under the electrodes: age, sex, site, device, and which conditions the heart has.

The switches drawn here (``cond_*``) drive the generator; the labels of a record are measured elsewhere
(:mod:`medfm.synthetic.ecg_labels`), because a switch says what was intended and a label what is visible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medfm.synthetic.draws import Draws
from medfm.synthetic.subjects import Subjects
from medfm.types import ConfigError

# condition: (share of subjects, age effect in log-odds per 20 years around 55, log-odds for men over women).
# A hospital's mix, pathology enriched: a corpus for learning and for trying, not an epidemiological claim.
CONDITIONS: dict[str, tuple[float, float, float]] = {
    "af_persistent": (0.075, 0.9, 0.1),
    "af_paroxysmal": (0.050, 0.7, 0.1),
    "flutter": (0.020, 0.6, 0.2),
    "pvc": (0.060, 0.4, 0.1),
    "pac": (0.055, 0.5, 0.0),
    "bradycardia": (0.050, 0.1, 0.2),
    "tachycardia": (0.040, 0.0, -0.1),
    "av_block_1": (0.050, 0.6, 0.2),
    "rbbb": (0.050, 0.6, 0.2),
    "irbbb": (0.040, 0.0, 0.2),
    "lbbb": (0.030, 0.7, 0.0),
    "lafb": (0.050, 0.6, 0.2),
    "wpw": (0.008, -0.4, 0.1),
    "paced": (0.015, 0.8, 0.0),
    "ste_anterior": (0.022, 0.3, 0.4),
    "ste_inferior": (0.022, 0.3, 0.4),
    "ste_lateral": (0.008, 0.3, 0.4),
    "mi_anterior": (0.045, 0.6, 0.5),
    "mi_inferior": (0.050, 0.6, 0.5),
    "mi_lateral": (0.020, 0.6, 0.5),
    "st_depression": (0.045, 0.6, -0.1),
    "t_inversion": (0.045, 0.4, -0.1),
    "lvh": (0.065, 0.5, 0.1),
    "rvh": (0.015, 0.1, 0.0),
    "long_qt": (0.035, 0.3, -0.3),
    "low_voltage": (0.020, 0.3, -0.1),
    "early_repolarisation": (0.040, -0.8, 0.8),
    "digitalis": (0.020, 0.8, 0.0),
    "twa": (0.020, 0.3, 0.1),
    "electrode_reversal": (0.015, 0.0, 0.0),
}
# A condition switches off those to its right: one rhythm at a time, and what hides another is kept alone.
EXCLUDES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "paced",
        (
            "lbbb",
            "rbbb",
            "irbbb",
            "lafb",
            "wpw",
            "av_block_1",
            "pac",
            "flutter",
            "twa",
            "tachycardia",
            "bradycardia",
        ),
    ),
    (
        "af_persistent",
        ("af_paroxysmal", "flutter", "pac", "av_block_1", "wpw", "bradycardia", "tachycardia", "twa"),
    ),
    ("flutter", ("af_paroxysmal", "pac", "av_block_1", "wpw", "bradycardia", "tachycardia")),
    ("af_paroxysmal", ("wpw", "bradycardia", "tachycardia")),
    ("bradycardia", ("tachycardia",)),
    ("lbbb", ("rbbb", "irbbb", "lafb", "wpw", "ste_anterior", "mi_anterior", "rvh", "early_repolarisation")),
    ("rbbb", ("irbbb", "wpw", "rvh")),
    ("wpw", ("av_block_1", "lafb", "rvh")),
    ("ste_anterior", ("ste_inferior", "ste_lateral", "st_depression", "early_repolarisation", "digitalis")),
    ("ste_inferior", ("ste_lateral", "st_depression", "early_repolarisation", "digitalis")),
    ("ste_lateral", ("st_depression", "early_repolarisation", "digitalis")),
    ("lvh", ("low_voltage", "rvh")),
    ("st_depression", ("early_repolarisation",)),
)

SITES = ("site-a", "site-b", "site-c", "site-d")
MAINS_HZ = np.array([50.0, 50.0, 60.0, 50.0])


@dataclass(frozen=True)
class Device:
    """A recorder. fs: its own sampling rate, Hz; band: high- and low-pass corners, Hz; causal: an analogue
    high-pass, which tilts the ST segment, against a zero-phase one; lsb in mV; noise: multiplier of the
    electrode noise."""

    name: str
    fs: float
    band: tuple[float, float]
    causal: bool
    lsb: float
    noise: float


DEVICES: tuple[Device, ...] = (
    Device("sim-cart-1", 500.0, (0.05, 150.0), True, 0.005, 1.0),
    Device("sim-cart-2", 500.0, (0.05, 150.0), False, 0.00488, 0.6),
    Device("sim-cart-3", 1000.0, (0.05, 100.0), True, 0.001, 0.8),
    Device("sim-cart-4", 250.0, (0.05, 40.0), True, 0.005, 1.0),
    Device("sim-old-1", 400.0, (0.05, 70.0), True, 0.010, 1.6),
    Device("sim-monitor-1", 500.0, (0.5, 40.0), True, 0.0025, 1.3),
    Device("sim-monitor-2", 250.0, (0.5, 40.0), False, 0.010, 1.2),
    Device("sim-archive-1", 100.0, (0.05, 45.0), True, 0.001, 0.9),
)
# share of each device at each site
_SITE_DEVICES = np.array(
    [
        [0.45, 0.10, 0.10, 0.05, 0.15, 0.05, 0.05, 0.05],
        [0.10, 0.40, 0.05, 0.15, 0.05, 0.10, 0.10, 0.05],
        [0.15, 0.15, 0.30, 0.10, 0.05, 0.10, 0.10, 0.05],
        [0.05, 0.05, 0.05, 0.25, 0.25, 0.05, 0.05, 0.25],
    ]
)


_AGE_MEAN, _AGE_SD, _AGE_RANGE, _MEN = 57.0, 19.0, (18, 95), 0.52


def _mean_tilt(by_age: float, by_sex: float) -> float:
    """Mean factor on the odds over the population, so that a table entry stays the share of subjects it
    states."""
    at = np.linspace(-3, 3, 121)
    weight = np.exp(-0.5 * at**2)
    age = np.clip(_AGE_MEAN + _AGE_SD * at, *_AGE_RANGE)
    sexes = _MEN * np.exp(0.5 * by_sex) + (1 - _MEN) * np.exp(-0.5 * by_sex)
    return float(np.sum(weight * np.exp(by_age * (age - 55) / 20)) / weight.sum() * sexes)


def draw_subjects(d: Draws, prevalence: Mapping[str, float], only: Sequence[str] | None = None) -> Subjects:
    """Draw people. ``only``: exactly these conditions in everyone (for tests and teaching) instead of the
    mix."""
    n = d.n
    age = np.clip(d.normal(_AGE_MEAN, _AGE_SD), *_AGE_RANGE).round()
    male = d.chance(_MEN)
    site = d.pick([0.4, 0.25, 0.2, 0.15])
    u = d.uniform()
    device = (u[:, None] > np.cumsum(_SITE_DEVICES, axis=1)[site]).sum(axis=1).clip(0, len(DEVICES) - 1)
    if unknown := sorted(set(only or ()) - set(CONDITIONS)):
        raise ConfigError(f"unknown ECG condition {unknown[0]!r}; known: {', '.join(CONDITIONS)}.")
    cond: dict[str, np.ndarray] = {}
    for name, (_, by_age, by_sex) in CONDITIONS.items():
        share = prevalence[name]
        tilt = by_age * (age - 55) / 20 + by_sex * (male - 0.5)
        odds = share / max(1 - share, 1e-12) * np.exp(tilt) / _mean_tilt(by_age, by_sex)
        drawn = d.chance(odds / (1 + odds))
        cond[name] = drawn if only is None else np.full(n, name in only)
    if only is None:
        for keeper, losers in EXCLUDES:
            for loser in losers:
                cond[loser] = cond[loser] & ~cond[keeper]
    return Subjects(age, male, site, device, cond)
