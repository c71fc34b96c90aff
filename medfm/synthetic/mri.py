"""Synthetic MRI of the head: a phantom with a glioma, and what scanners make of it in four contrasts.

:func:`medfm.synthetic.mri_corpus.mri_chunks` yields subjects for training. A subject depends only on (seed, subject, record,
options): subject 17 of seed 1 is the same in whatever batch it is made, and its four volumes are the same whichever of them
count as acquired. Simulated data prove a pipeline and feed self-supervised learning; they say nothing about clinical
performance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medfm.synthetic.draws import Draws
from medfm.synthetic.mri_brain import paint_brain, paint_skull
from medfm.synthetic.mri_head import Head, Hull, draw_heads, hull
from medfm.synthetic.mri_scan import acquire, coil
from medfm.synthetic.mri_subjects import CONDITIONS, SITES, People, Site, draw_missing, draw_people
from medfm.synthetic.mri_tissues import (
    ID,
    SEQUENCES,
    TISSUES,
    Protocol,
    inversion_that_nulls,
    parameters,
    signals,
)
from medfm.synthetic.mri_tumour import CORE, ENHANCING, OEDEMA, Tumour, draw_tumours, grow, labels
from medfm.synthetic.subjects import prevalences
from medfm.types import ConfigError

# Raise it whenever the same (seed, subject) gives another volume: stores are keyed by it.
GENERATOR_VERSION = 1
_PERSON, _DAY, _NOISE, _LOST = 51, 52, 53, 54  # streams of random numbers
_COIL_WAVES = 5
_FIELD = np.array(
    [[-98.0, -132.0, -100.0], [98.0, 106.0, 108.0]]
)  # of a head of size 1, mm; cut to the brain then
_MARGIN = 2  # voxels around the brain
_HEAD_FIELD = np.array([[-98.0, -138.0, -118.0], [98.0, 118.0, 108.0]])


@dataclass(frozen=True)
class Subject:
    """x: float32 ``[X, Y, Z]`` by sequence, whole numbers in the scanner's units, 0 outside the brain where it is stripped;
    present: the sequences that were acquired (``x`` has the others as well: what they would have been); label: uint8, as
    BraTS has it; affine: voxel index to mm, RAS+. clean: float32 before motion and noise, shares: ``[T, X, Y, Z]`` of
    :data:`medfm.synthetic.mri_tissues.TISSUES`, or None."""

    x: dict[str, np.ndarray]
    present: tuple[str, ...]
    label: np.ndarray
    affine: np.ndarray
    clean: dict[str, np.ndarray] | None = None
    shares: np.ndarray | None = None


@dataclass(frozen=True)
class Setting:
    """One day at the scanner. sigma: deviation of the noise by sequence and gain, in units of the volume."""

    site: Site
    protocols: dict[str, Protocol]
    gain: np.ndarray
    sigma: np.ndarray
    signal: np.ndarray
    coils: np.ndarray
    ghost: np.ndarray


@dataclass(frozen=True)
class Chunk:
    """n subjects; columns of ``[n]``."""

    subjects: list[Subject]
    patients: list[str]
    records: list[str]
    people: People
    settings: list[Setting]
    measures: dict[str, np.ndarray]


def simulate(
    keys: Sequence[tuple[int, int]],
    seed: int,
    *,
    spacing: float | Sequence[float] = 2.0,
    missing: float = 0.0,
    skull: bool = False,
    noise: float | None = None,
    prevalence: Mapping[str, float] | None = None,
    keep: bool = False,
) -> Chunk:
    """One chunk: ``keys`` are (subject, record) pairs.

    spacing: mm, one number or three. missing: share of subjects that lack sequences, at a site that is average in this.
    skull: with skull and scalp, and air around; else 0 outside the brain. noise: deviation as a share of the signal of white
    matter; None: as the scanner has it. prevalence: ``{"tumour": share}``. keep: also return what there is without noise.

    Raises ConfigError for a spacing, share or noise that makes no sense.
    """
    mm = (spacing,) * 3 if isinstance(spacing, (int, float)) else tuple(spacing)
    if len(mm) != 3 or not all(0.5 <= v <= 20 for v in mm):
        raise ConfigError(f"a synthetic MRI of spacing {spacing}: give one or three numbers of 0.5 to 20 mm.")
    if not 0 <= missing <= 1:
        raise ConfigError(f"missing is {missing}; give a share of the subjects between 0 and 1.")
    if noise is not None and noise < 0:
        raise ConfigError(f"noise of {noise}: give 0 or more, as a share of the signal of white matter.")
    person = Draws([(seed, _PERSON, s) for s, _ in keys], 700)
    day = Draws([(seed, _DAY, s, r) for s, r in keys], 64)
    people = draw_people(person, prevalences(CONDITIONS, prevalence)["tumour"])
    heads = draw_heads(person, day, people.male, people.atrophy)
    tumours = draw_tumours(person, people, heads)
    settings = _draw_settings(person, day, people, noise)
    lost = draw_missing(Draws([(seed, _LOST, s, r) for s, r in keys], 2), people.site, missing)
    subjects, numbers = [], []
    for (s, r), head, tumour, setting, gone in zip(keys, heads, tumours, settings, lost):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, _NOISE, s, r))))
        subject, measured = _scan(head, tumour, setting, mm, skull, keep, rng)
        subjects.append(replace(subject, present=tuple(n for n in SEQUENCES if n not in gone)))
        numbers.append(measured)
    return Chunk(
        subjects=subjects,
        patients=[f"s{seed}x{s:06d}" for s, _ in keys],
        records=[f"s{seed}x{s:06d}r{r:02d}" for s, r in keys],
        people=people,
        settings=settings,
        measures={name: np.array([m[name] for m in numbers]) for name in numbers[0]} if numbers else {},
    )


def _draw_settings(person: Draws, day: Draws, people: People, noise: float | None) -> list[Setting]:
    """It takes 54 columns of ``person`` and about 50 of ``day``."""
    spread = person.normal(shape=(len(TISSUES), 3))
    times, null = day.lognormal(1, 0.03, (4,)), day.normal(0, 25)
    louder, gain = day.lognormal(1, 0.12), day.lognormal(1, 0.10)
    apart = day.lognormal(1, 0.05, (4,))
    moved, strength, shift = day.uniform(), day.uniform(0.04, 0.14, (4,)), day.uniform(0.12, 0.45)
    waves = np.empty((person.n, _COIL_WAVES, 5))
    waves[..., 0] = day.normal(0, 1, (_COIL_WAVES,))
    waves[..., 1:4] = 2 * np.pi / 260 * day.normal(0, 0.6, (_COIL_WAVES, 3))
    waves[..., 4] = day.uniform(0, 2 * np.pi, (_COIL_WAVES,))
    out = []
    for i in range(person.n):
        site = SITES[people.site[i]]
        table = parameters(spread[i], site.tesla)
        ti = inversion_that_nulls(table[ID["csf"], 1], site.times[3][0] * times[i, 3]) + null[i]
        protocols = site.protocols(times[i], ti)
        signal = signals(table, protocols, float(people.dose[i]))
        units = np.array(site.gain) * gain[i] * apart[i]
        level = site.noise * louder[i] if noise is None else noise
        white = np.abs(signal[:, ID["white"]])
        out.append(
            Setting(
                *(site, protocols, units, level * white * units, signal, waves[i]),
                ghost=np.stack([strength[i] * (moved[i] < site.ghosts), np.full(4, shift[i])], -1),
            )
        )
    return out


def _grid(
    head: Head, mm: tuple[float, float, float], skull: bool
) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
    """``(points [N, 3], shape, affine)`` of a field that holds the brain, or the head."""
    low, high = (_HEAD_FIELD if skull else _FIELD) * head.size
    shape = tuple(int(n) for n in np.ceil((high - low) / mm))
    affine = np.diag([*mm, 1.0])
    affine[:3, 3] = (low + high) / 2 - (np.array(shape) - 1) / 2 * mm
    axes = (o + d * np.arange(n) for o, d, n in zip(affine[:3, 3], mm, shape))
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(np.float32), shape, affine


def _cut(brain: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
    """``(kept [N], shape, affine)``: the flat indices of a box around ``brain [X, Y, Z]``, and what it is then."""
    box = []
    for axis in range(3):
        on = np.flatnonzero(brain.any(tuple(k for k in range(3) if k != axis)))
        box.append(slice(max(0, on[0] - _MARGIN), min(brain.shape[axis], on[-1] + 1 + _MARGIN)))
    indices = np.arange(brain.size).reshape(brain.shape)[tuple(box)]
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    return indices.ravel(), indices.shape, moved


def _scan(
    head: Head,
    tumour: Tumour | None,
    setting: Setting,
    mm: tuple[float, float, float],
    skull: bool,
    keep: bool,
    rng: np.random.Generator,
) -> tuple[Subject, dict[str, float]]:
    points, shape, affine = _grid(head, mm, skull)
    edge = float(np.cbrt(np.prod(mm)))
    p = head.anatomy(points)
    hulls = hull(p, head.rim)
    brain = hulls.whole > 0
    if not skull:
        kept, shape, affine = _cut(brain.reshape(shape), affine)
        points, p, brain, hulls = points[kept], p[kept], brain[kept], hulls.of(kept)
    seen = np.flatnonzero(brain | skull)
    p, hulls = p[seen], hulls.of(seen)
    q = p if tumour is None else tumour.push(p)
    shares, ventricles = paint_brain(head, p, q, hulls, edge)
    if tumour is not None:
        grow(tumour, shares, p, q, edge)
        ventricles = np.minimum(ventricles, shares[ID["csf"]])
    if skull:
        paint_skull(shares, p, hulls.whole, edge)
    label = np.zeros(len(points), np.uint8)
    label[seen] = labels(shares)
    field = coil(points[seen], setting.coils, setting.site.bias)
    clean, x = {}, {}
    for k, name in enumerate(SEQUENCES):
        signal = np.zeros(len(points), np.float32)
        signal[seen] = (setting.signal[k] @ shares) * field * np.float32(setting.gain[k])
        volume = signal.reshape(shape)
        values = acquire(
            volume,
            step=mm[2],
            thickness=setting.site.thickness[k],
            sigma=float(setting.sigma[k]),
            ghost=(float(setting.ghost[k, 0]), float(setting.ghost[k, 1])),
            rng=rng,
        )
        values = np.rint(values)
        if not skull:  # 0 is kept for what was stripped
            values = np.where(brain.reshape(shape), np.maximum(values, 1), 0)
        x[name] = np.minimum(values, 32767).astype(np.float32)
        clean[name] = volume
    label = label.reshape(shape)
    whole = None
    if keep:
        whole = np.zeros((len(TISSUES), len(points)), np.float32)
        whole[:, seen] = shares
        whole = whole.reshape(-1, *shape)
    subject = Subject(x, SEQUENCES, label, affine, clean if keep else None, whole)
    return subject, _measure(label, shares, ventricles, hulls, float(np.prod(mm)) / 1000)


def _measure(
    label: np.ndarray, shares: np.ndarray, ventricles: np.ndarray, hulls: Hull, ml: float
) -> dict[str, float]:
    """Volumes in ml: of the labels, and (partial volumes counted) of the brain's tissue, ventricles and cortex."""
    count = np.bincount(label.ravel(), minlength=5) * ml
    inside = hulls.whole > 0
    fluid = shares[ID["csf"], inside].sum() * ml
    return {
        "volume_core_ml": float(count[CORE] + count[ENHANCING]),
        "volume_enhancing_ml": float(count[ENHANCING]),
        "volume_oedema_ml": float(count[OEDEMA]),
        "volume_whole_ml": float(count[1:].sum()),
        "volume_brain_ml": float(inside.sum() * ml - fluid),
        "volume_ventricles_ml": float(ventricles.sum() * ml),
        "volume_fluid_ml": float(fluid),
    }
