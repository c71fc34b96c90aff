"""What disease does to a heart's kernels. Each function changes the rows of :class:`Hearts` that its switch
names.

Recipes are ours, from textbook electrocardiography: a vector is added, removed, turned, slowed or delayed.
What the record then shows is measured (:mod:`medfm.synthetic.ecg_labels`); a recipe that fails to cross a
criterion earns no label.
"""

from __future__ import annotations

import numpy as np

from medfm.synthetic.draws import Draws
from medfm.synthetic.ecg_morphology import (
    ATRIAL,
    BASAL,
    DELAY_1,
    DELAY_2,
    EARLY,
    LATE,
    MAIN,
    NOTCH_1,
    P_KERNELS,
    QRS_KERNELS,
    SEPTAL,
    SHAPES,
    SPIKE,
    ST_1,
    ST_2,
    T_KERNELS,
    T_PEAK,
    T_RISE,
    U_WAVE,
    VENTRICULAR_1,
    VENTRICULAR_2,
    Hearts,
    Shapes,
    rotation,
    turn,
)

LOOP = slice(SEPTAL, NOTCH_1)
T_WAVE = slice(T_RISE, U_WAVE)
Cond = dict[str, np.ndarray]


def apply_conditions(d: Draws, h: Hearts, c: Cond) -> None:
    """Every recipe draws for every row (so that rows stay independent) and writes where its switch is on."""
    _bundle_branches(d, h, c)
    _fascicles_and_preexcitation(d, h, c)
    _hypertrophy(d, h, c)
    _infarcts(d, h, c)
    _injury(d, h, c)
    _repolarisation(d, h, c)
    _atria(d, h, c)
    _pacing(d, h, c)
    low = np.where(c["low_voltage"], d.uniform(0.24, 0.46), 1.0)
    h.vec[:, 2:] *= low[:, None, None]
    h.extra[:, 2:] *= low[:, None, None]
    h.j = np.maximum(
        h.centre[:, BASAL] + 1.5 * h.width[:, BASAL],
        np.where(h.vec[:, DELAY_1].any(1), h.centre[:, DELAY_1], 0),
    )
    h.j = h.j.clip(0.03, 0.11)


def _spread(
    d: Draws, direction: tuple[float, float, float], low: float, high: float, sd: float = 0.2
) -> np.ndarray:
    """``[n, 3]``: a direction with scatter, of a size between low and high mV."""
    return d.uniform(low, high)[:, None] * (np.array(direction) + d.normal(0.0, sd, (3,)))


def _bundle_branches(d: Draws, h: Hearts, c: Cond) -> None:
    """Right: a late vector to the right and front. Left: a slow loop to the left and back. T follows
    discordantly."""
    right, part, left = c["rbbb"], c["irbbb"], c["lbbb"]
    late = _spread(d, (-0.55, 0.0, -0.85), 0.40, 1.05, 0.15)
    mild = _spread(d, (-0.35, -0.15, -0.6), 0.25, 0.7)
    t1, t2 = d.uniform(0.048, 0.062), d.uniform(0.010, 0.022)
    b1, b2 = d.uniform(0.012, 0.017), d.uniform(0.012, 0.016)
    h.centre[right, DELAY_1], h.centre[right, DELAY_2] = t1[right], (t1 + t2)[right]
    h.width[right, DELAY_1], h.width[right, DELAY_2] = b1[right], b2[right]
    h.vec[right, DELAY_1], h.vec[right, DELAY_2] = 0.8 * late[right], 0.45 * late[right]
    h.vec[right, ST_2] -= 0.03 * late[right]
    h.vec[right, T_RISE] -= 0.13 * late[right]
    h.vec[right, T_PEAK] -= 0.16 * late[right]
    h.centre[part, DELAY_1], h.width[part, DELAY_1] = (t1 - 0.006)[part], 0.78 * b1[part]
    h.vec[part, DELAY_1] = mild[part]

    slow, shift = d.uniform(1.30, 1.75), d.uniform(0.002, 0.012)
    plateau = _spread(d, (0.75, 0.05, 0.62), 0.5, 1.1, 0.15)
    early = _spread(d, (0.30, 0.10, 0.25), 0.2, 0.8, 0.15)
    discord = d.uniform(0.16, 0.34)
    h.centre[left, LOOP] = h.centre[left, LOOP] * slow[left, None] + shift[left, None]
    h.width[left, LOOP] *= slow[left, None]
    h.vec[left, SEPTAL] = early[left]
    h.vec[left, EARLY] = 0.5 * h.vec[left, EARLY] + 0.5 * early[left]
    h.vec[left, MAIN:NOTCH_1] *= np.array([0.75, 0.7, 0.4])[None, :, None]
    for kernel, share, t, b in ((DELAY_1, 0.8, 0.042, 0.019), (DELAY_2, 0.55, 0.066, 0.017)):
        h.centre[left, kernel], h.width[left, kernel] = t + shift[left], b
        h.vec[left, kernel] = share * plateau[left]
    for kernel, share in ((ST_1, 0.25), (ST_2, 0.45), (T_RISE, 0.9), (T_PEAK, 1.0)):
        h.vec[left, kernel] = 0.25 * h.vec[left, kernel] - (share * discord[left])[:, None] * plateau[left]
    both = right | left
    h.centre[both, T_WAVE] += 0.022
    h.centre[left, ST_1:T_RISE] += 0.03
    # The stretched loop starts earlier, the atria do not know.
    h.centre[left, P_KERNELS] -= (0.043 * (slow - 1) - shift + 0.016)[left, None]


def _fascicles_and_preexcitation(d: Draws, h: Hearts, c: Cond) -> None:
    """Left anterior fascicle: small q up left, then the loop turns superior. WPW: slow start, short PR."""
    m = c["lafb"]
    target = d.uniform(-72.0, -48.0)
    main = h.vec[:, MAIN] + 0.6 * h.vec[:, EARLY] + 0.5 * h.vec[:, LATE]
    now = np.rad2deg(np.arctan2(main[:, 1], main[:, 0]))
    zero = np.zeros(d.n)
    full, some = rotation(target - now, zero, zero), rotation(0.5 * (target - now), zero, zero)
    h.vec[m, MAIN:NOTCH_1] = turn(h.vec[:, MAIN:NOTCH_1], full)[m]
    h.vec[m, EARLY : EARLY + 1] = turn(h.vec[:, EARLY : EARLY + 1], some)[m]
    inferior = _spread(d, (-0.10, 0.22, -0.12), 0.6, 1.4)
    h.vec[m, SEPTAL] = inferior[m]
    h.width[m, LATE:NOTCH_1] *= 1.15

    w = c["wpw"]
    delta = _spread(d, (0.35, 0.1, -0.15), 0.5, 1.2, 0.5)
    h.centre[w, DELAY_1], h.width[w, DELAY_1] = -0.046, 0.013
    h.vec[w, DELAY_1] = delta[w]
    h.centre[w, DELAY_2], h.width[w, DELAY_2] = -0.022, 0.012
    h.vec[w, DELAY_2] = 0.6 * delta[w]
    h.centre[w, P_KERNELS] += 0.012
    h.vec[w, T_RISE] -= 0.25 * delta[w]
    h.vec[w, T_PEAK] -= 0.25 * delta[w]


def _hypertrophy(d: Draws, h: Hearts, c: Cond) -> None:
    """Left: larger and later forces to the left and back, with strain in half. Right: forces right and
    front."""
    m = c["lvh"]
    big, strain = d.uniform(1.5, 2.35), d.chance(0.5) * d.uniform(0.3, 1.0)
    shape = np.stack([big, 0.5 + 0.5 * big, 1.15 * big], axis=1)
    h.vec[m, MAIN:BASAL] *= shape[m, None, :]
    h.vec[m, EARLY] *= (0.4 + 0.6 * big)[m, None]
    h.width[m, MAIN:NOTCH_1] *= 1.08
    left = np.stack([d.uniform(0.15, 0.45), d.uniform(0.0, 0.18), d.uniform(-0.2, 0.25)], axis=1)
    h.vec[m, T_PEAK] -= (strain[:, None] * left * 1.2)[m]
    h.vec[m, T_RISE] -= (strain[:, None] * left * 0.5)[m]
    h.vec[m, ST_2] -= (strain[:, None] * left * 0.35)[m]
    h.vec[m, ST_1] -= (strain[:, None] * left * 0.20)[m]

    r = c["rvh"]
    force = _spread(d, (-0.8, 0.35, -0.8), 0.9, 1.7)
    h.vec[r, MAIN] = 0.45 * h.vec[r, MAIN] + 0.5 * force[r]
    h.vec[r, LATE] = 0.2 * h.vec[r, LATE] + 0.7 * force[r]
    h.vec[r, BASAL] += 0.3 * force[r]
    h.vec[r, T_PEAK] -= 0.25 * force[r]
    h.vec[r, P_KERNELS] *= 1.4


# territory: where the muscle lies, Frank axes (its loss turns the early forces away from there).
_TERRITORY = {"anterior": (0.15, 0.0, -0.95), "inferior": (-0.12, 0.95, 0.10), "lateral": (0.90, -0.25, 0.25)}
# precordial leads I, II, V1..V6 that lie over a territory and lose more than the dipole says
_NEAR = {
    "anterior": np.array([0.0, 0.0, 0.25, 0.5, 0.5, 0.3, 0.1, 0.0]),
    "inferior": np.zeros(8),
    "lateral": np.array([0.05, 0.0, 0.0, 0.0, 0.0, 0.1, 0.3, 0.3]),
}


def _infarcts(d: Draws, h: Hearts, c: Cond) -> None:
    """Old infarction: forces of the territory are lost early (Q wave, less R), often with an inverted T
    there."""
    for name, direction in _TERRITORY.items():
        m = c[f"mi_{name}"]
        lost = _spread(d, direction, 0.25, 0.75, 0.12)
        times = d.uniform(0.9, 1.5)
        spared, inverted = d.uniform(0.35, 0.85), d.chance(0.6) * d.uniform(0.05, 0.35)
        along = np.array(direction) / np.linalg.norm(direction)
        for kernel, share in ((SEPTAL, 0.7), (EARLY, 0.9), (MAIN, 0.55)):
            vec = h.vec[:, kernel]
            towards = np.maximum(vec @ along, 0.0)[:, None] * along
            h.vec[m, kernel] = (vec - (1 - spared)[:, None] * towards * share * 1.3 - share * lost)[m]
            h.extra[m, kernel] -= (share * np.linalg.norm(lost, axis=1)[:, None] * _NEAR[name] * 0.8)[m]
        h.width[m, SEPTAL] *= times[m]
        h.width[m, EARLY] *= (0.5 + 0.5 * times)[m]
        h.vec[m, T_PEAK] -= (inverted[:, None] * (along + 0.2 * d.normal(0, 1, (3,))))[m]
        h.vec[m, T_RISE] -= (0.4 * inverted[:, None] * along)[m]


def _injury(d: Draws, h: Hearts, c: Cond) -> None:
    """Acute ST elevation towards the injured wall, in three stages; depression away from the left
    ventricle."""
    for name, direction in _TERRITORY.items():
        m = c[f"ste_{name}"]
        size = d.uniform(0.12, 0.42)
        wall = size[:, None] * (np.array(direction) + d.normal(0.0, 0.15, (3,)))
        stage = d.uniform()  # hyperacute T, then ST, then inverting T with a Q wave
        upslope = d.uniform(0.8, 1.5)
        h.vec[m, ST_1] += wall[m] * 0.9
        h.vec[m, ST_2] += wall[m] * upslope[m, None]
        h.width[m, ST_2] *= 1.2
        h.centre[m, ST_1], h.width[m, ST_1] = 0.064, 0.040  # the J point itself leaves the line
        t_change = np.where(stage < 0.35, 0.9, np.where(stage < 0.7, 0.4, -0.8))
        h.vec[m, T_PEAK] += (t_change[:, None] * wall)[m]
        q = np.where(stage > 0.5, d.uniform(0.3, 1.2), 0.0)[:, None] * np.array(direction) * 0.5
        h.vec[m, EARLY] -= q[m]
        h.vec[m, SEPTAL] -= 0.6 * q[m]

    m = c["st_depression"]
    away = _spread(d, (-0.75, -0.45, 0.25), 0.06, 0.24, 0.25)
    slope = d.uniform(0.3, 1.5)
    h.vec[m, ST_1] += away[m]
    h.vec[m, ST_2] += (slope[:, None] * away)[m]
    h.vec[m, T_RISE] += (d.uniform(-0.2, 0.7)[:, None] * away)[m]
    m = c["early_repolarisation"]
    up = _spread(d, (0.5, 0.35, -0.75), 0.06, 0.20)
    h.vec[m, ST_1] += up[m]
    h.vec[m, ST_2] += 0.8 * up[m]
    h.vec[m, T_PEAK] *= 1.35
    j_wave = d.uniform(0.0, 1.2)
    h.centre[m, DELAY_1], h.width[m, DELAY_1] = 0.046, 0.009
    h.vec[m, DELAY_1] = (j_wave[:, None] * up)[m]
    m = c["digitalis"]
    scoop = _spread(d, (-0.6, -0.4, 0.2), 0.05, 0.16)
    h.vec[m, ST_2] += scoop[m]
    h.vec[m, T_RISE] += 0.9 * scoop[m]
    h.centre[m, T_WAVE] -= 0.02


def _repolarisation(d: Draws, h: Hearts, c: Cond) -> None:
    """T flat to inverted (globally, or anterior only); QT long by late or by broad T, with U."""
    m = c["t_inversion"]
    factor, anterior = d.uniform(-1.1, 0.1), d.chance(0.35)
    whole = m & ~anterior
    h.vec[whole, T_WAVE] *= factor[whole, None, None]
    h.extra[whole, T_WAVE] *= factor[whole, None, None]
    front = _spread(d, (-0.15, 0.0, 0.55), 0.35, 1.1)
    part = m & anterior
    h.vec[part, T_PEAK] += front[part]
    h.vec[part, T_RISE] += 0.4 * front[part]

    m = c["long_qt"]
    later, broad = d.uniform(0.055, 0.16), d.chance(0.5)
    spread = d.uniform(1.2, 1.7)
    h.centre[m, T_WAVE] += np.where(broad, 0.6 * later, later)[m, None]
    h.centre[m, U_WAVE] += later[m]
    h.centre[m, ST_2] += 0.3 * later[m]
    wide = m & broad
    h.width[wide, T_WAVE] *= spread[wide, None]
    h.vec[m, U_WAVE] *= d.uniform(0.8, 3.0)[m, None]
    h.vec[m, T_PEAK] *= d.uniform(0.5, 1.1)[m, None]


def _atria(d: Draws, h: Hearts, c: Cond) -> None:
    m = c["av_block_1"]
    h.centre[m, P_KERNELS] -= d.uniform(0.045, 0.135)[m, None]


def _pacing(d: Draws, h: Hearts, c: Cond) -> None:
    """Right ventricular pacing: a spike, then a wide superior loop; the chest sees the spike in any
    polarity."""
    m = c["paced"]
    direction = np.array([0.35, -0.8, 0.55]) + d.normal(0.0, 0.25, (3,))
    centre, width, vec = _wide_beat(d, direction, d.uniform(0.8, 1.6), d.uniform(1.35, 1.75))
    spike = d.normal(0.0, 0.9, (3,))
    h.centre[m, QRS_KERNELS], h.width[m, QRS_KERNELS], h.vec[m, QRS_KERNELS] = (
        centre[m][:, :10],
        width[m][:, :10],
        vec[m][:, :10],
    )
    h.vec[m, T_KERNELS] = vec[m][:, 10:]
    h.extra[m] *= 0.6
    h.vec[m, SPIKE] = spike[m]
    h.centre[m, SPIKE] = h.centre[m, SEPTAL] - 2.6 * h.width[m, SEPTAL]
    h.centre[m, P_KERNELS] -= 0.045
    h.centre[m, T_WAVE] += 0.03


def _wide_beat(
    d: Draws, direction: np.ndarray, size: np.ndarray, slow: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A beat from one ventricle: QRS kernels (10) and T kernels (6) of a slow loop with discordant T."""
    n = d.n
    unit = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    other = np.cross(unit, d.normal(0.0, 1.0, (3,)))
    other /= np.linalg.norm(other, axis=1, keepdims=True).clip(1e-6)
    centre, width, vec = np.zeros((n, 16)), np.full((n, 16), 0.01), np.zeros((n, 16, 3))
    angles = np.deg2rad(np.array([-45.0, -20.0, 0.0, 25.0, 55.0])) * d.uniform(0.5, 1.6)[:, None]
    weight = np.array([0.35, 0.8, 0.9, 0.75, 0.4]) * d.lognormal(1.0, 0.18, (5,))
    centre[:, :5] = np.array([-0.028, -0.013, 0.0, 0.016, 0.034]) * slow[:, None] + 0.004
    width[:, :5] = 0.0088 * slow[:, None]
    vec[:, :5] = weight[:, :, None] * (
        np.cos(angles)[:, :, None] * unit[:, None] + np.sin(angles)[:, :, None] * other[:, None]
    )
    vec[:, :5] *= size[:, None, None]
    discord = -d.uniform(0.18, 0.42) * size
    for kernel, share in ((10, 0.25), (11, 0.5), (12, 0.8), (13, 0.9)):
        vec[:, kernel] = (share * discord)[:, None] * unit
    return centre, width, vec


def beat_shapes(d: Draws, h: Hearts) -> Shapes:
    """The usual beat, an atrial ectopic (another P), two ventricular ectopics (wide, from anywhere, no P)."""
    centre, width = (np.repeat(a[:, None], SHAPES, axis=1) for a in (h.centre, h.width))
    vec, extra = (np.repeat(a[:, None], SHAPES, axis=1) for a in (h.vec, h.extra))
    atrial = rotation(*(d.normal(0.0, 60.0) for _ in range(3)))
    vec[:, ATRIAL, P_KERNELS] = turn(vec[:, ATRIAL, P_KERNELS], atrial) * d.uniform(0.6, 1.3)[:, None, None]
    centre[:, ATRIAL, P_KERNELS] += d.uniform(-0.02, 0.03)[:, None]
    for shape in (VENTRICULAR_1, VENTRICULAR_2):
        direction = d.normal(0.0, 1.0, (3,)) + np.array([0.1, 0.4, 0.0])
        c, w, v = _wide_beat(d, direction, d.uniform(0.9, 2.0) * h.gain, d.uniform(1.25, 1.9))
        centre[:, shape, QRS_KERNELS], width[:, shape, QRS_KERNELS] = c[:, :10], w[:, :10]
        vec[:, shape, QRS_KERNELS], vec[:, shape, T_KERNELS] = v[:, :10], v[:, 10:]
        vec[:, shape, P_KERNELS] = 0.0
        extra[:, shape, P_KERNELS] = 0.0
        extra[:, shape, QRS_KERNELS] *= 0.6
        centre[:, shape, T_WAVE] = h.centre[:, T_WAVE] + 0.04
    return Shapes(centre, width, vec, extra)
