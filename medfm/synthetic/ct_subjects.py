"""Who lies in the scanner: age, sex, site, machine, phase of contrast, and which findings there are.

The switches drawn here (``cond_*``) drive the generator; the labels of a scan are measured on its label map
(:mod:`medfm.synthetic.ct_measures`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medfm.synthetic.draws import Draws
from medfm.synthetic.subjects import Subjects
from medfm.types import ConfigError

# finding: share of subjects, age effect in log-odds per 20 years around 60.
# A hospital's mix, pathology enriched: a corpus for learning and for trying, not an epidemiological claim.
CONDITIONS: dict[str, tuple[float, float]] = {
    "liver_lesion": (0.22, 0.3),
    "lung_nodule": (0.22, 0.4),
    "kidney_cyst": (0.25, 0.7),
    "cardiomegaly": (0.14, 0.5),
    "splenomegaly": (0.10, 0.0),
    "aneurysm": (0.08, 0.8),
    "effusion": (0.14, 0.3),
}
SITES = ("site-a", "site-b", "site-c")


@dataclass(frozen=True)
class Scanner:
    """noise: HU, deviation in the middle of an average man at a slice of 3 mm; blur: deviation of the kernel in plane,
    mm; circle: voxels outside the circle of reconstruction are -1024; table: radius of its curve, width and thickness,
    mm; shell and foam: HU added to what it is made of; offset: HU at water; volts: kV."""

    name: str
    noise: float
    blur: float
    circle: bool
    table: tuple[float, float, float]
    shell: float
    offset: float
    volts: int


DEVICES: tuple[Scanner, ...] = (
    Scanner("sim-ct-1", 11.0, 0.9, False, (620.0, 410.0, 34.0), 0.0, 0.0, 120),
    Scanner("sim-ct-2", 15.0, 0.6, True, (480.0, 430.0, 26.0), 120.0, 2.0, 120),
    Scanner("sim-ct-3", 20.0, 0.45, True, (900.0, 460.0, 42.0), -150.0, -3.0, 100),
    Scanner("sim-ct-4", 13.0, 1.1, False, (540.0, 400.0, 30.0), 220.0, 1.0, 110),
)
_SITE_DEVICES = np.array([[0.6, 0.3, 0.0, 0.1], [0.1, 0.5, 0.3, 0.1], [0.0, 0.1, 0.4, 0.5]])
_PHASE_SHARE = (0.30, 0.22, 0.48)
_AGE_MEAN, _AGE_SD, _AGE_RANGE, _MEN = 60.0, 16.0, (18, 95), 0.54


def draw_subjects(d: Draws, prevalence: Mapping[str, float], only: Sequence[str] | None = None) -> Subjects:
    """Draw people. ``only``: exactly these findings in everyone instead of the mix. It takes 4 columns and one for each
    finding."""
    age = np.clip(d.normal(_AGE_MEAN, _AGE_SD), *_AGE_RANGE).round()
    male = d.chance(_MEN)
    site = d.pick([0.45, 0.3, 0.25])
    u = d.uniform()
    device = (u[:, None] > np.cumsum(_SITE_DEVICES, axis=1)[site]).sum(axis=1).clip(0, len(DEVICES) - 1)
    if unknown := sorted(set(only or ()) - set(CONDITIONS)):
        raise ConfigError(f"unknown CT finding {unknown[0]!r}; known: {', '.join(CONDITIONS)}.")
    cond: dict[str, np.ndarray] = {}
    for name, (_, by_age) in CONDITIONS.items():
        share = prevalence[name]
        odds = share / max(1 - share, 1e-12) * np.exp(by_age * (age - _AGE_MEAN) / 20) / _mean_tilt(by_age)
        drawn = d.chance(odds / (1 + odds))
        cond[name] = drawn if only is None else np.full(d.n, name in only)
    return Subjects(age, male, site, device, cond)


def _mean_tilt(by_age: float) -> float:
    """Mean factor on the odds, so that a table entry stays about the share of subjects that it states."""
    at = np.linspace(-3, 3, 61)
    age = np.clip(_AGE_MEAN + _AGE_SD * at, *_AGE_RANGE)
    weight = np.exp(-0.5 * at**2)
    return float(np.sum(weight * np.exp(by_age * (age - _AGE_MEAN) / 20)) / weight.sum())


def draw_phases(d: Draws) -> np.ndarray:
    """int ``[n]``, a row of :data:`medfm.synthetic.ct_tissues.PHASES`; it takes one column."""
    return d.pick(_PHASE_SHARE)
