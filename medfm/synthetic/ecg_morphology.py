"""One heart as a moving dipole: Gaussian kernels in time around the R peak, and the leads that see it.

A beat is ``v(t) = sum_k a_k exp(-(t - c_k)^2 / (2 b_k^2))`` with vectors ``a_k`` in mV on the Frank axes (x
left, y down, z back), after the Gaussian vectorcardiogram of Sameni and Clifford (2007), here with one kernel
for all three axes and times in seconds, so that QRS keeps its duration when the rate changes. Leads are ``D
v`` with Dower's matrix (Dower et al. 1980), perturbed per subject (electrode places, torso), plus a small
part per kernel and lead that no dipole explains, as near electrodes see. Only I, II, V1-V6 are made; the
other four follow from I and II exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medfm.synthetic.draws import Draws
from medfm.synthetic.subjects import Subjects

# Rows I, II, V1..V6; columns x, y, z.
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)

# Dower's rows against medians of normal adults: his torso shows V4 too large and V2 too small.
_ROW_GAIN = np.array([1.18, 1.0, 0.74, 1.22, 0.92, 0.82, 0.96, 1.08])
# Share of the main kernels' size that the leads over the apex see beyond the dipole.
_APEX = np.array([0.0, 0.0, 0.0, 0.0, 0.05, 0.20, 0.22, 0.08])

P_RIGHT, P_LEFT = 0, 1
SEPTAL, EARLY, MAIN, LATE, BASAL, NOTCH_1, NOTCH_2, DELAY_1, DELAY_2, SPIKE = range(2, 12)
ST_1, ST_2, T_RISE, T_PEAK, T_FALL, U_WAVE = range(12, 18)
KERNELS = 18
P_KERNELS = slice(0, 2)
QRS_KERNELS = slice(2, 12)
T_KERNELS = slice(12, 18)
# Beat shapes of a heart: its usual beat, atrial ectopic, two ventricular ectopics.
NORMAL, ATRIAL, VENTRICULAR_1, VENTRICULAR_2 = range(4)
SHAPES = 4

# centre s from R, width s, vector mV: a typical adult. The T block is laid out for QT 400 ms at one beat a
# second.
_TYPICAL = np.array(
    [
        [-0.153, 0.019, 0.060, 0.080, -0.045],
        [-0.118, 0.021, 0.105, 0.055, -0.015],
        [-0.0260, 0.0068, -0.10, 0.05, -0.26],
        [-0.0115, 0.0062, 0.55, 0.35, -0.20],
        [0.0000, 0.0058, 1.03, 0.71, 0.12],
        [0.0122, 0.0068, 0.28, 0.07, 0.94],
        [0.0275, 0.0085, -0.02, -0.08, 0.34],
        [0.000, 0.0040, 0.0, 0.0, 0.0],
        [0.000, 0.0040, 0.0, 0.0, 0.0],
        [0.040, 0.0120, 0.0, 0.0, 0.0],
        [0.060, 0.0140, 0.0, 0.0, 0.0],
        [-0.060, 0.0010, 0.0, 0.0, 0.0],
        [0.085, 0.034, 0.006, 0.004, -0.022],
        [0.150, 0.047, 0.022, 0.010, -0.040],
        [0.220, 0.047, 0.195, 0.085, -0.150],
        [0.270, 0.038, 0.300, 0.125, -0.195],
        [0.325, 0.030, 0.000, 0.000, 0.000],
        [0.450, 0.045, 0.016, 0.008, -0.015],
    ]
)


@dataclass
class Hearts:
    """Morphology of n records, mutable while conditions are applied (:mod:`medfm.synthetic.ecg_conditions`).

    centre, width: s, ``[n, K]``; vec: mV, ``[n, K, 3]``; extra: mV beyond the dipole, ``[n, K, 8]``; leads
    ``[n, 8, 3]``; qt_exponent: QT grows as RR to this power; j: where the T block starts, s; gain: overall
    voltage, ``[n]``.
    """

    centre: np.ndarray
    width: np.ndarray
    vec: np.ndarray
    extra: np.ndarray
    leads: np.ndarray
    qt_exponent: np.ndarray
    j: np.ndarray
    gain: np.ndarray


@dataclass(frozen=True)
class Shapes:
    """The four beat shapes of n hearts: centre, width ``[n, S, K]`` s, vec ``[n, S, K, 3]``, extra ``[n, S,
    K, 8]`` mV."""

    centre: np.ndarray
    width: np.ndarray
    vec: np.ndarray
    extra: np.ndarray


def rotation(roll: np.ndarray, pitch: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """``[n, 3, 3]`` from angles in degrees: roll in the frontal plane (about z), pitch sagittal, yaw
    horizontal."""
    r, p, w = (np.deg2rad(a) for a in (roll, pitch, yaw))
    one, zero = np.ones_like(r), np.zeros_like(r)
    frontal = np.array([[np.cos(r), -np.sin(r), zero], [np.sin(r), np.cos(r), zero], [zero, zero, one]])
    sagittal = np.array([[one, zero, zero], [zero, np.cos(p), -np.sin(p)], [zero, np.sin(p), np.cos(p)]])
    level = np.array([[np.cos(w), zero, -np.sin(w)], [zero, one, zero], [np.sin(w), zero, np.cos(w)]])
    frontal, sagittal, level = (np.moveaxis(m, -1, 0) for m in (frontal, sagittal, level))
    return frontal @ sagittal @ level


def turn(vec: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Rotate ``[n, k, 3]`` by ``[n, 3, 3]``."""
    return vec @ np.swapaxes(matrix, 1, 2)


def draw_hearts(d: Draws, s: Subjects) -> Hearts:
    """Healthy morphology with age, sex and individual variation; conditions come after."""
    n = d.n
    centre = np.repeat(_TYPICAL[None, :, 0], n, axis=0)
    width = np.repeat(_TYPICAL[None, :, 1], n, axis=0)
    vec = np.repeat(_TYPICAL[None, :, 2:], n, axis=0)
    old = (s.age - 55) / 20
    _draw_p(d, old, centre, width, vec)
    _draw_qrs(d, s, old, centre, width, vec)
    _draw_t(d, s, old, centre, width, vec)
    _rotate(d, old, vec)
    extra = _beyond_dipole(d, vec)
    gain = d.lognormal(0.93, 0.155) * np.exp(0.03 * (s.male - 0.5) - 0.05 * np.clip(old, -1.5, 1.5))
    vec *= gain[:, None, None]
    extra *= gain[:, None, None]
    j = centre[:, BASAL] + 1.5 * width[:, BASAL]
    return Hearts(centre, width, vec, extra, _lead_matrix(d), d.normal(0.36, 0.05), j, gain)


def _draw_p(d: Draws, old: np.ndarray, centre: np.ndarray, width: np.ndarray, vec: np.ndarray) -> None:
    pr = np.clip(d.normal(0.152, 0.017) + 0.006 * old, 0.118, 0.196)
    stretch = d.lognormal(1.0, 0.13) * (1 + 0.03 * old)
    gap = d.uniform(0.022, 0.048) * stretch
    width[:, P_KERNELS] *= stretch[:, None] * d.lognormal(1.0, 0.08, (2,))
    qrs_onset = -0.043
    centre[:, P_RIGHT] = qrs_onset - pr + 2.2 * width[:, P_RIGHT]
    centre[:, P_LEFT] = centre[:, P_RIGHT] + gap
    vec[:, P_KERNELS] *= d.lognormal(1.0, 0.30, (2, 1))
    vec[:, P_KERNELS] += d.normal(0.0, 0.009, (2, 3))


def _draw_qrs(
    d: Draws, s: Subjects, old: np.ndarray, centre: np.ndarray, width: np.ndarray, vec: np.ndarray
) -> None:
    """Duration, loop shape, voltage (young men high), and notches of a fragmented QRS in some."""
    stretch = d.lognormal(1.0, 0.09) * np.where(s.male, 1.09, 1.02)
    centre[:, SEPTAL:NOTCH_1] += d.normal(0.0, 0.0015, (5,))
    centre[:, SEPTAL:NOTCH_1] *= stretch[:, None]
    width[:, SEPTAL:NOTCH_1] *= stretch[:, None] * d.lognormal(1.0, 0.13, (5,))
    loop = vec[:, SEPTAL:NOTCH_1]
    loop *= d.lognormal(1.0, 0.20, (5, 1)) * d.lognormal(1.0, 0.12, (5, 3))
    loop += d.normal(0.0, 0.065, (5, 3))
    loop *= np.exp(np.where(s.male, 0.06, -0.03) - 0.10 * np.clip(old, -2, 2))[:, None, None]
    vec[:, SEPTAL] *= d.uniform(0.1, 1.4)[:, None]
    centre[:, NOTCH_1:DELAY_1] = d.uniform(-0.02, 0.04, (2,)) * stretch[:, None]
    width[:, NOTCH_1:DELAY_1] = d.uniform(0.003, 0.007, (2,))
    fragmented = np.where(d.chance(0.12), 0.22, 0.05)
    vec[:, NOTCH_1:DELAY_1] = d.normal(0.0, 1.0, (2, 3)) * fragmented[:, None, None]


def _draw_t(
    d: Draws, s: Subjects, old: np.ndarray, centre: np.ndarray, width: np.ndarray, vec: np.ndarray
) -> None:
    """QTc, T of all shapes (flat, peaked, biphasic, notched), ST level and slope, U wave."""
    qt = np.clip(d.normal(0.402, 0.016) + np.where(s.male, -0.005, 0.008) + 0.006 * old, 0.35, 0.45)
    wide = d.lognormal(1.0, 0.16)
    width[:, T_RISE:U_WAVE] *= wide[:, None] * d.lognormal(1.0, 0.10, (3,))
    peak = qt - 0.043 - 2.0 * width[:, T_PEAK]
    centre[:, T_PEAK] = peak
    centre[:, T_RISE] = peak - d.uniform(0.5, 1.45) * width[:, T_PEAK]
    centre[:, T_FALL] = peak + d.uniform(0.8, 1.4) * width[:, T_FALL]
    centre[:, ST_2] = 0.06 + d.uniform(0.36, 0.52) * (peak - 0.06)
    centre[:, U_WAVE] = peak + d.uniform(0.15, 0.20)
    size = d.lognormal(1.0, 0.32) * np.exp(np.where(s.male, 0.15, -0.12) - 0.16 * np.clip(old, -2, 2))
    vec[:, T_RISE:U_WAVE] *= size[:, None, None] * d.lognormal(1.0, 0.18, (3, 1))
    vec[:, T_RISE:U_WAVE] += d.normal(0.0, 0.020, (3, 3))
    biphasic = np.where(d.chance(0.10), -d.uniform(0.4, 1.1), d.normal(0.0, 0.10))
    vec[:, T_FALL] += biphasic[:, None] * vec[:, T_PEAK]
    vec[:, ST_1] = vec[:, ST_1] * (size * np.where(s.male, 1.5, 0.6))[:, None] + d.normal(0.0, 0.007, (3,))
    vec[:, ST_2] = vec[:, ST_2] * (size * np.where(s.male, 1.4, 0.8))[:, None] + d.normal(0.0, 0.009, (3,))
    vec[:, U_WAVE] *= d.lognormal(0.8, 0.7)[:, None]


def _rotate(d: Draws, old: np.ndarray, vec: np.ndarray) -> None:
    """The heart lies differently in every chest: frontal axis (leftward with age), transition zone, tilt."""
    roll = d.normal(0.0, 20.0) - 9.0 * old
    pitch, yaw = d.normal(0.0, 11.0), d.normal(0.0, 17.0)
    vec[:, QRS_KERNELS] = turn(vec[:, QRS_KERNELS], rotation(roll, pitch, yaw))
    t_angles = d.normal(0.0, 1.0, (3,)) * np.array([13.0, 9.0, 17.0])
    t_matrix = rotation(
        0.45 * roll + t_angles[:, 0], 0.5 * pitch + t_angles[:, 1], 0.4 * yaw + t_angles[:, 2]
    )
    vec[:, T_KERNELS] = turn(vec[:, T_KERNELS], t_matrix)
    p_angles = d.normal(0.0, 1.0, (3,)) * np.array([14.0, 10.0, 15.0])
    vec[:, P_KERNELS] = turn(
        vec[:, P_KERNELS], rotation(0.2 * roll + p_angles[:, 0], p_angles[:, 1], p_angles[:, 2])
    )


def _beyond_dipole(d: Draws, vec: np.ndarray) -> np.ndarray:
    """Per kernel and lead, mV: a tenth of the kernel's size in limb leads, more under the precordial
    electrodes."""
    share = np.array([0.04, 0.04, 0.10, 0.16, 0.18, 0.15, 0.10, 0.06])
    size = np.linalg.norm(vec, axis=2)[:, :, None]
    extra = d.normal(0.0, 1.0, (KERNELS, 8)) * share * size
    extra[:, EARLY : MAIN + 1] += size[:, EARLY : MAIN + 1] * _APEX * d.uniform(0.3, 1.7)[:, None, None]
    return extra


def _lead_matrix(d: Draws) -> np.ndarray:
    """Dower's matrix seen through another torso, with electrodes that a person has stuck on: ``[n, 8,
    3]``."""
    n = d.n
    leads = np.repeat((DOWER * _ROW_GAIN[:, None])[None], n, axis=0)
    leads *= d.lognormal(1.0, 0.09, (8, 1))
    leads += d.normal(0.0, 0.05, (8, 3))
    chest = leads[:, 2:]
    # V1 and V2 are most often placed too high: the vertical share grows, and an rSr' appears.
    high = np.abs(d.normal(0.0, 0.10))[:, None] * np.array([1.0, 1.0, 0.6, 0.3, 0.2, 0.2])
    chest[:, :, 1] -= high
    # Along the chest wall an electrode sees a mixture of its own place and its neighbour's.
    slide = d.normal(0.0, 0.22)[:, None] + d.normal(0.0, 0.13, (6,))
    left, right = np.roll(chest, 1, axis=1), np.roll(chest, -1, axis=1)
    left[:, 0], right[:, 5] = chest[:, 0], chest[:, 5]
    share = np.abs(slide)[:, :, None].clip(0, 0.8)
    leads[:, 2:] = (1 - share) * chest + share * np.where(slide[:, :, None] > 0, right, left)
    leads[:, 2:] *= d.lognormal(0.92, 0.16)[:, None, None]
    leads[:, :2] *= d.lognormal(0.97, 0.09)[:, None, None]
    return leads
