"""Who lies in the MRI scanner: age, sex, site, whether there is a tumour and of which kind, how long they live, and which
sequences were acquired.

Subtype 1 is to subtype 0 what a glioblastoma is to a glioma of lower grade: older people, more enhancement and necrosis,
more oedema, each with much overlap. Who knows these numbers themselves tells the subtypes apart with an AUROC of about 0.9.

Survival follows a Weibull model with proportional hazards: ``S(t) = exp(-(t / SCALE)^SHAPE exp(risk + unexplained))``.
``risk`` is linear in subtype, age and the logarithms of the drawn volumes of core and enhancement; who knows it reaches a
C-index of about 0.72. Censoring is by the date of entry, whatever the risk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from medfm.synthetic.draws import Draws
from medfm.synthetic.mri_tissues import SEQUENCES, Protocol

CONDITIONS: dict[str, tuple[float]] = {"tumour": (0.9,)}
SUBTYPE_ONE = 0.55
SHAPE, SCALE = 1.25, 30.0  # of the Weibull, months
UNEXPLAINED = 0.5
FOLLOW_UP = (8.0, 84.0)  # months from entry to the end of the study, uniform
RISK = {"subtype": 0.75, "age": 0.45, "core": 0.35, "enhancing": 0.4}
_OLD = np.array([51.5, 57.5])  # mean age by subtype; 55 without a tumour
_AGE_SD, _AGE_RANGE = 13.5, (18, 90)


@dataclass(frozen=True)
class Site:
    """One institution. share: of the subjects; tesla: field; times: TR, TE of t1, t1ce, t2 and flair (its TI nulls CSF);
    gain: units of a signal of 1, by sequence; bias: deviation of the logarithm of the coil's field; noise: deviation, as a
    share of the signal of white matter; thickness: of a slice, mm, by sequence; ghosts: share of the scans in which
    somebody moved; missing: factor on the odds that sequences are missing; patterns: what is then missing, and how often."""

    name: str
    device: str
    share: float
    tesla: float
    times: tuple[tuple[float, float], ...]
    gain: tuple[float, ...]
    bias: float
    noise: float
    thickness: tuple[float, ...]
    ghosts: float
    missing: float
    patterns: Mapping[tuple[str, ...], float]

    def protocols(self, jitter: np.ndarray, null: float) -> dict[str, Protocol]:
        """jitter: factors of the times ``[4]``; null: TI of the FLAIR, ms."""
        out = {}
        for name, (tr, te), f in zip(SEQUENCES, self.times, jitter.tolist()):
            out[name] = Protocol(tr * f, te * f, null if name == "flair" else None)
        return out


SITES: tuple[Site, ...] = (
    Site(
        name="site-a",
        device="sim-mr-1",
        share=0.35,
        tesla=3.0,
        times=((600, 10), (600, 10), (4200, 95), (9000, 118)),
        gain=(1500, 1500, 1400, 2900),
        bias=0.08,
        noise=0.022,
        thickness=(1.0, 1.0, 3.0, 3.0),
        ghosts=0.06,
        missing=0.6,
        patterns={("t1",): 1, ("t2",): 3, ("flair",): 1},
    ),
    Site(
        name="site-b",
        device="sim-mr-2",
        share=0.27,
        tesla=1.5,
        times=((480, 13), (520, 13), (3600, 102), (8000, 125)),
        gain=(820, 900, 1050, 2200),
        bias=0.14,
        noise=0.036,
        thickness=(5.0, 5.0, 5.0, 5.0),
        ghosts=0.14,
        missing=1.0,
        patterns={("t1ce",): 4, ("t1", "t1ce"): 3, ("t1",): 1},
    ),
    Site(
        name="site-c",
        device="sim-mr-3",
        share=0.22,
        tesla=3.0,
        times=((760, 9), (720, 9), (5200, 84), (10000, 135)),
        gain=(3400, 3100, 3600, 7800),
        bias=0.2,
        noise=0.016,
        thickness=(1.0, 1.0, 4.0, 1.0),
        ghosts=0.05,
        missing=1.2,
        patterns={("t2",): 2, ("flair",): 2, ("t2", "flair"): 1, ("t1",): 1},
    ),
    Site(
        name="site-d",
        device="sim-mr-4",
        share=0.16,
        tesla=1.5,
        times=((560, 15), (560, 15), (3000, 112), (9000, 140)),
        gain=(420, 470, 380, 1200),
        bias=0.1,
        noise=0.048,
        thickness=(4.0, 2.0, 6.0, 6.0),
        ghosts=0.2,
        missing=2.0,
        patterns={("t1ce",): 2, ("t1", "t2"): 2, ("flair",): 2, ("t1", "t1ce", "t2"): 1},
    ),
)


@dataclass(frozen=True)
class People:
    """Columns of ``[n]``. subtype 0 or 1 and what follows from it also where ``tumour`` is False: then it means nothing.
    radius: of the tumour's core, mm; enhancing, necrosis: shares of the core; oedema: how far it spreads, mm; dose: mM of
    gadolinium in what enhances; risk: the linear predictor of survival; atrophy: 0 is usual at 50, 1 at 70."""

    age: np.ndarray
    male: np.ndarray
    site: np.ndarray
    tumour: np.ndarray
    subtype: np.ndarray
    grade: np.ndarray
    radius: np.ndarray
    enhancing: np.ndarray
    necrosis: np.ndarray
    oedema: np.ndarray
    dose: np.ndarray
    risk: np.ndarray
    months: np.ndarray
    event: np.ndarray
    atrophy: np.ndarray


def draw_people(d: Draws, tumour: float) -> People:
    """tumour: share of subjects with one. It takes 15 columns."""
    site = d.pick([s.share for s in SITES])
    male, has, kind = d.chance(0.55), d.chance(tumour), d.chance(SUBTYPE_ONE)
    one = kind.astype(int)
    mean = np.where(has, _OLD[one], 55.0)
    age = np.clip(mean + d.normal(0, _AGE_SD), *_AGE_RANGE).round()
    radius = np.clip(d.lognormal(19.5, 0.24), 9.0, 31.0)
    enhancing = expit(np.array([-2.0, -0.5])[one] + d.normal(0, 1.1))
    necrosis = expit(np.array([-1.8, -1.2])[one] + d.normal(0, 0.9)) * (1 - enhancing)
    oedema = np.array([8.5, 12.5])[one] * d.lognormal(1, 0.38)
    dose = d.lognormal(0.38, 0.25)
    sharp = d.uniform()
    grade = np.where(kind, np.where(sharp < 0.9, 4, 3), np.where(sharp < 0.55, 2, 3))
    core = 4 / 3 * np.pi * radius**3 / 1000
    risk = (
        RISK["subtype"] * (one - SUBTYPE_ONE)
        + RISK["age"] * (age - 55) / 13.5
        + RISK["core"] * np.log(core / 31)
        + RISK["enhancing"] * np.log((core * enhancing + 0.5) / 8)
    )
    hazard = np.exp(risk + d.normal(0, UNEXPLAINED))
    death = SCALE * (-np.log(np.clip(d.uniform(), 1e-12, 1 - 1e-12)) / hazard) ** (1 / SHAPE)
    end = d.uniform(*FOLLOW_UP)
    atrophy = (age - 50) / 20 + d.normal(0, 0.35)
    return People(
        *(age, male, site, has, one, grade, radius, enhancing, necrosis, oedema, dose, risk),
        *(np.minimum(death, end), death <= end, atrophy),
    )


def draw_missing(d: Draws, site: np.ndarray, share: float) -> list[tuple[str, ...]]:
    """Which sequences were not acquired, for each subject; it takes two columns.

    share: of subjects with any missing at a site of factor 1, where 0 is none and 1 is all.
    """
    lot, which = d.uniform(), d.uniform()
    out: list[tuple[str, ...]] = []
    for k, u, v in zip(site, lot, which):
        s = SITES[k]
        p = s.missing * share / (s.missing * share + 1 - share)
        edges = np.cumsum(list(s.patterns.values()))
        out.append(tuple(s.patterns)[int(np.searchsorted(edges, v * edges[-1], "right"))] if u < p else ())
    return out
