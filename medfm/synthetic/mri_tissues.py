"""Signals of the head's tissues in four contrasts, from proton density, T1 and T2.

Spin echo: ``PD (1 - exp(-TR/T1)) exp(-TE/T2)``; inversion recovery: ``PD (1 - 2 exp(-TI/T1) + exp(-TR/T1)) exp(-TE/T2)``
(both for TE far below TR). Gadolinium of concentration c raises the rates: ``1/T = 1/T0 + r c``. Tissue values are rounded
ones of 3 T; at 1.5 T the T1 of tissue is about a fifth shorter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SEQUENCES = ("t1", "t1ce", "t2", "flair")
# tissue: proton density, T1 and T2 in ms, share of the gadolinium of enhancing tumour that it takes up
_TABLE: dict[str, tuple[float, float, float, float]] = {
    "air": (0.0, 1000, 50, 0),
    "csf": (1.0, 4200, 1600, 0),
    "grey": (0.80, 1450, 98, 0),
    "white": (0.70, 810, 74, 0),
    "deep": (0.79, 1120, 80, 0),
    "pallidum": (0.74, 930, 62, 0),
    "stem": (0.74, 960, 82, 0),
    "gliosis": (0.82, 1350, 125, 0),  # what ageing leaves in white matter
    "vessel": (0.30, 1700, 60, 2.2),  # blood that flows gives little spin echo
    "choroid": (0.90, 1900, 180, 1.1),
    "oedema": (0.86, 1500, 140, 0),
    "tumour": (0.86, 1650, 145, 0),  # solid, does not enhance
    "enhancing": (0.84, 1500, 118, 1.0),
    "necrosis": (0.95, 2700, 330, 0.04),
    "bone": (0.06, 1000, 30, 0),
    "marrow": (0.55, 420, 60, 0),
    "fat": (0.90, 350, 85, 0),
    "muscle": (0.72, 1250, 40, 0.25),
}
TISSUES = tuple(_TABLE)
ID = {name: k for k, name in enumerate(TISSUES)}
TUMOUR = ("oedema", "tumour", "enhancing", "necrosis")
SPREAD = (0.015, 0.03, 0.04)  # between people: PD, T1, T2 of a tissue, as shares of it
RELAXIVITY = (4.2, 5.2)  # of T1 and T2, per mM and second
_FLUIDS = ("csf", "necrosis")  # their T1 hardly knows the field


@dataclass(frozen=True)
class Protocol:
    """Repetition, echo and (inversion recovery) inversion time of one sequence, ms."""

    tr: float
    te: float
    ti: float | None = None


def spin_echo(pd: np.ndarray, t1: np.ndarray, t2: np.ndarray, tr: float, te: float) -> np.ndarray:
    """Signal of a spin echo; pd relative, times in ms."""
    return pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2)


def inversion_recovery(
    pd: np.ndarray, t1: np.ndarray, t2: np.ndarray, tr: float, te: float, ti: float
) -> np.ndarray:
    """Signal of a spin echo after an inversion, with its sign; pd relative, times in ms."""
    return pd * (1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / t2)


def gadolinium(t: np.ndarray, relaxivity: float, mm: np.ndarray) -> np.ndarray:
    """Relaxation time, ms, at a concentration of mm mmol/l; relaxivity per mM and second."""
    return 1 / (1 / t + 1e-3 * relaxivity * mm)


def inversion_that_nulls(t1: float, tr: float) -> float:
    """TI at which a tissue of T1 gives no signal, ms."""
    return float(t1 * np.log(2 / (1 + np.exp(-tr / t1))))


def parameters(spread: np.ndarray, tesla: float) -> np.ndarray:
    """PD, T1 and T2 of every tissue of one person, float64 ``[T, 3]``. spread: normals ``[T, 3]``."""
    table = np.array([row[:3] for row in _TABLE.values()])
    table = table * np.exp(np.array(SPREAD) * np.clip(spread, -2.5, 2.5))
    if tesla < 2:
        shorter = np.array([name not in _FLUIDS for name in TISSUES])
        table[shorter, 1] *= 0.8
    return table


def signals(table: np.ndarray, protocols: dict[str, Protocol], dose: float) -> np.ndarray:
    """Signed signal of every tissue in every sequence, float32 ``[4, T]``.

    table: :func:`parameters`. dose: gadolinium in enhancing tumour, mM; it is there only for ``t1ce``.
    """
    out = []
    share = np.array([row[3] for row in _TABLE.values()])
    for name in SEQUENCES:
        pd, t1, t2 = table.T
        if name == "t1ce":
            t1, t2 = (gadolinium(t, r, dose * share) for t, r in zip((t1, t2), RELAXIVITY))
        p = protocols[name]
        if p.ti is None:
            out.append(spin_echo(pd, t1, t2, p.tr, p.te))
        else:
            out.append(inversion_recovery(pd, t1, t2, p.tr, p.te, p.ti))
    return np.stack(out).astype(np.float32)
