"""Who stands before the detector: age, sex, site, machine and view, and which findings the chest has.

The switches drawn here (``cond_*``) drive the generator; the labels of an image are measured on the phantom
(:func:`medfm.synthetic.radiograph.label`), because a switch says what was intended and a label what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medfm.synthetic.draws import Draws
from medfm.synthetic.projection import VIEWS
from medfm.synthetic.subjects import Subjects
from medfm.types import ConfigError

# finding: share of subjects, age effect in log-odds per 20 years around 58, log-odds of a bedside image.
# A hospital's mix, pathology enriched: a corpus for learning and for trying, not an epidemiological claim.
CONDITIONS: dict[str, tuple[float, float, float]] = {
    "cardiomegaly": (0.15, 0.5, 0.3),
    "effusion": (0.20, 0.4, 0.9),
    "consolidation": (0.18, 0.2, 0.6),
    "pneumothorax": (0.08, -0.4, 0.7),
    "nodule": (0.12, 0.4, -0.6),
    "atelectasis": (0.10, 0.3, 0.6),
    "pacemaker": (0.05, 0.9, 0.2),
    "tube": (0.06, 0.0, 2.5),
    "line": (0.09, 0.1, 2.0),
}
SITES = ("site-a", "site-b", "site-c", "site-d")


@dataclass(frozen=True)
class Device:
    """A machine. cr: a phosphor plate instead of a flat panel; bedside: mobile, without a grid; dose: photons that
    would reach a mm2 of the detector through air alone; scatter: scattered over primary light behind a thick body;
    blur: detector, mm; detail: gain of fine structure in its processing; curve and middle: slope and grey of its
    tone curve; bits: stored; inverse: stores MONOCHROME1; spacing: mm a pixel of its own detector; marker: how
    large its side marker is, mm."""

    name: str
    cr: bool
    bedside: bool
    dose: float
    scatter: float
    blur: float
    detail: float
    curve: float
    middle: float
    bits: int
    inverse: bool
    spacing: float
    marker: float


DEVICES: tuple[Device, ...] = (
    Device("sim-dx-1", False, False, 9e4, 0.35, 0.25, 0.55, 4.4, 0.46, 12, False, 0.143, 11),
    Device("sim-dx-2", False, False, 9e4, 0.35, 0.25, 0.95, 5.2, 0.50, 14, True, 0.139, 9),
    Device("sim-dx-3", False, False, 6e4, 0.45, 0.30, 0.30, 3.8, 0.44, 12, False, 0.200, 13),
    Device("sim-cr-1", True, False, 4e4, 0.45, 0.45, 0.60, 4.8, 0.48, 10, True, 0.175, 15),
    Device("sim-cr-2", True, False, 4e4, 0.50, 0.50, 0.20, 3.6, 0.42, 12, False, 0.200, 10),
    Device("sim-mobile-1", False, True, 5e4, 0.85, 0.30, 0.60, 4.4, 0.50, 12, False, 0.148, 12),
    Device("sim-mobile-2", True, True, 4e4, 1.00, 0.50, 0.40, 4.0, 0.45, 10, True, 0.175, 14),
)
# share of each machine at each site
_SITE_DEVICES = np.array(
    [
        [0.45, 0.10, 0.00, 0.10, 0.00, 0.30, 0.05],
        [0.05, 0.45, 0.15, 0.00, 0.05, 0.20, 0.10],
        [0.10, 0.05, 0.35, 0.20, 0.05, 0.10, 0.15],
        [0.00, 0.05, 0.10, 0.25, 0.35, 0.05, 0.20],
    ]
)
_AGE_MEAN, _AGE_SD, _AGE_RANGE, _MEN = 58.0, 18.0, (18, 95), 0.54


def draw_subjects(d: Draws, prevalence: Mapping[str, float], only: Sequence[str] | None = None) -> Subjects:
    """Draw people. ``only``: exactly these findings in everyone (for tests and teaching) instead of the mix. It takes
    4 columns and one for each finding."""
    age = np.clip(d.normal(_AGE_MEAN, _AGE_SD), *_AGE_RANGE).round()
    male = d.chance(_MEN)
    site = d.pick([0.4, 0.25, 0.2, 0.15])
    u = d.uniform()
    device = (u[:, None] > np.cumsum(_SITE_DEVICES, axis=1)[site]).sum(axis=1).clip(0, len(DEVICES) - 1)
    bedside = np.array([m.bedside for m in DEVICES])[device]
    if unknown := sorted(set(only or ()) - set(CONDITIONS)):
        raise ConfigError(f"unknown radiographic finding {unknown[0]!r}; known: {', '.join(CONDITIONS)}.")
    cond: dict[str, np.ndarray] = {}
    for name, (_, by_age, by_bed) in CONDITIONS.items():
        share = prevalence[name]
        tilt = np.exp(by_age * (age - _AGE_MEAN) / 20 + by_bed * bedside)
        odds = share / max(1 - share, 1e-12) * tilt / _mean_tilt(by_age, by_bed)
        drawn = d.chance(odds / (1 + odds))
        cond[name] = drawn if only is None else np.full(d.n, name in only)
    return Subjects(age, male, site, device, cond)


def _mean_tilt(by_age: float, by_bed: float) -> float:
    """Mean factor on the odds, so that a table entry stays about the share of subjects that it states."""
    at = np.linspace(-3, 3, 61)
    age = np.clip(_AGE_MEAN + _AGE_SD * at, *_AGE_RANGE)
    weight = np.exp(-0.5 * at**2)
    beds = float(np.array([0.4, 0.25, 0.2, 0.15]) @ _SITE_DEVICES @ [m.bedside for m in DEVICES])
    older = float(np.sum(weight * np.exp(by_age * (age - _AGE_MEAN) / 20)) / weight.sum())
    return older * (beds * np.exp(by_bed) + 1 - beds)


def draw_views(d: Draws, bedside: np.ndarray, views: Sequence[str]) -> np.ndarray:
    """View of each image, one column: at the bedside AP where it is asked for; else PA, a few AP, and laterals.

    Raises ConfigError for an unknown view.
    """
    if unknown := [v for v in views if v not in VIEWS]:
        raise ConfigError(f"unknown view {unknown[0]!r}; known: {', '.join(VIEWS)}.")
    if not views:
        raise ConfigError(f"views is empty; give some of {', '.join(VIEWS)}.")
    usual = {"PA": 0.72, "AP": 0.08, "LL": 0.2}
    weights = np.array([usual[v] for v in views])
    standing = np.array(views)[d.pick(list(weights))]
    return np.where(bedside & ("AP" in views), "AP", standing)
