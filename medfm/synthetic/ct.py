"""Synthetic CT of the trunk: a phantom with organs and lesions, and what a scanner makes of it.

:func:`medfm.synthetic.ct_corpus.ct_chunks` yields volumes for training. A scan depends only on (seed, subject, record,
options): subject 17 of seed 1 is the same in whatever batch it is made. Simulated data prove a pipeline and feed
self-supervised learning; they say nothing about clinical performance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medfm.synthetic import ct_scan
from medfm.synthetic.anatomy import TEXTURE, draw_thoraces
from medfm.synthetic.ct_body import Trunk, draw_trunks, held
from medfm.synthetic.ct_grid import Grid, Pose
from medfm.synthetic.ct_lesions import Lesion, draw_lesions
from medfm.synthetic.ct_measures import findings, measure
from medfm.synthetic.ct_paint import Canvas
from medfm.synthetic.ct_subjects import CONDITIONS, DEVICES, Scanner, draw_phases, draw_subjects
from medfm.synthetic.ct_tissues import PHASES, TISSUES, Palette, palette
from medfm.synthetic.ct_trunk import paint
from medfm.synthetic.draws import Draws
from medfm.synthetic.subjects import Subjects, prevalences
from medfm.types import ConfigError

# Raise it whenever the same (seed, subject) gives another volume: stores are keyed by it.
GENERATOR_VERSION = 1
FIELDS = ("chest", "abdomen", "trunk")
_SUBJECT, _RECORD, _GRAIN, _NOISE = 41, 42, 43, 44  # streams of random numbers
_WAVES = 4
_HELD = 0.55  # a breath held lying down is a little shallower than one held standing
_GRAIN_MM = 2.2  # deviation over which a tissue's own grain is correlated


@dataclass(frozen=True)
class Scan:
    """x: int16 HU ``[X, Y, Z]``; label: uint8, a row of :data:`medfm.synthetic.ct_paint.ORGANS`; affine: voxel index to
    mm, RAS+. clean: float32 HU before noise, or None."""

    x: np.ndarray
    label: np.ndarray
    affine: np.ndarray
    clean: np.ndarray | None = None


@dataclass(frozen=True)
class Setting:
    """One scan: thickness of a slice (mm), phase, the deviation of the noise (HU), margins of the field (shares), what
    the tissues look like."""

    device: Scanner
    phase: str
    noise: float
    thickness: float
    field: str
    margins: np.ndarray
    pose: Pose
    colours: Palette


@dataclass(frozen=True)
class Chunk:
    """n scans; columns of ``[n]``."""

    scans: list[Scan]
    patients: list[str]
    records: list[str]
    subjects: Subjects
    settings: list[Setting]
    labels: dict[str, np.ndarray]
    measures: dict[str, np.ndarray]
    lots: np.ndarray


def simulate(
    keys: Sequence[tuple[int, int]],
    seed: int,
    *,
    spacing: float | Sequence[float] = 3.0,
    field: str = "trunk",
    thickness: float | None = None,
    size: int | Sequence[int] | None = None,
    noise: float | None = None,
    conditions: Sequence[str] | str | None = None,
    prevalence: Mapping[str, float] | None = None,
    keep: bool = False,
) -> Chunk:
    """One chunk: ``keys`` are (subject, record) pairs.

    spacing: mm, one number or three. field: chest, abdomen, trunk, or mixed (one of them for each scan). thickness: of a
    slice, mm, as far as an odd number of thin slices makes it up; None: the slice spacing. size: most voxels an axis; a
    larger field is cut about its middle. noise: HU, deviation at the middle of an average slice; None: as the scanner
    has it. conditions: None for a hospital's mix, or exactly these for everyone (``()`` or ``"normal"``: nobody is ill).
    prevalence: changes to the mix. keep: also return the volumes without noise.

    Raises ConfigError for unknown findings or fields, and for a spacing, thickness or size that makes no volume.
    """
    steps, most = _steps(spacing, thickness), _most(size)
    if field not in (*FIELDS, "mixed"):
        raise ConfigError(f"a synthetic CT of field {field!r}; choose one of {', '.join(FIELDS)} or mixed.")
    if noise is not None and noise < 0:
        raise ConfigError(f"noise of {noise} HU: give 0 or more.")
    if isinstance(conditions, str):
        conditions = () if conditions == "normal" else (conditions,)
    person = Draws([(seed, _SUBJECT, s) for s, _ in keys], TEXTURE + 2200)
    day = Draws([(seed, _RECORD, s, r) for s, r in keys], 192)
    people = draw_subjects(person, prevalences(CONDITIONS, prevalence), conditions)
    bodies = draw_thoraces(
        person, day, people.age, people.male, people.cond["cardiomegaly"], _HELD * np.ones(len(keys))
    )
    trunks = draw_trunks(person, day, [held(b) for b in bodies], people.cond)
    lesions = draw_lesions(person, trunks, people.cond)
    settings = _draw_settings(person, day, people, trunks, field, steps, noise)
    scans, numbers = [], []
    for (s, r), trunk, found, setting in zip(keys, trunks, lesions, settings):
        grains, rays = (
            np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, stream, s, r))))
            for stream in (_GRAIN, _NOISE)
        )
        scan = _scan(trunk, found, setting, steps, most, grains, rays, keep)
        scans.append(scan)
        numbers.append(measure(scan.label, steps.spacing))
    flags = [findings(m) for m in numbers]
    return Chunk(
        scans=scans,
        patients=[f"s{seed}x{s:06d}" for s, _ in keys],
        records=[f"s{seed}x{s:06d}r{r:02d}" for s, r in keys],
        subjects=people,
        settings=settings,
        labels={name: np.array([f[name] for f in flags]) for name in flags[0]} if flags else {},
        measures={name: np.array([m[name] for m in numbers]) for name in numbers[0]} if numbers else {},
        lots=day.uniform(shape=(2,)),
    )


@dataclass(frozen=True)
class Steps:
    """spacing: mm. sub: thin slices from one slice to the next, thick: thin slices that one is the mean of, both odd."""

    spacing: tuple[float, float, float]
    sub: int
    thick: int

    @property
    def thickness(self) -> float:
        return self.spacing[2] / self.sub * self.thick


def _steps(spacing: float | Sequence[float], thickness: float | None) -> Steps:
    mm = (spacing,) * 3 if isinstance(spacing, (int, float)) else tuple(spacing)
    if len(mm) != 3 or not all(0.5 <= v <= 20 for v in mm):
        raise ConfigError(f"a synthetic CT of spacing {spacing}: give one or three numbers of 0.5 to 20 mm.")
    if thickness is not None and not 0.5 <= thickness <= 30:
        raise ConfigError(f"a slice thickness of {thickness} mm: choose 0.5 to 30 mm.")
    thick = mm[2] if thickness is None else thickness
    thin = 1.5 * max(min(mm[0], mm[1]), 1.0)
    sub = next((n for n in (1, 3, 5, 7, 9, 11) if mm[2] / n <= thin), 13)
    if thickness is not None and sub == 1 and abs(thick / mm[2] - 1) > 0.25:
        sub = 3
    whole = max(1, round((thick / (mm[2] / sub) - 1) / 2) * 2 + 1)
    return Steps((float(mm[0]), float(mm[1]), float(mm[2])), sub, int(whole))


def _most(size: int | Sequence[int] | None) -> tuple[int, int, int]:
    most = (10**6,) * 3 if size is None else (size,) * 3 if isinstance(size, int) else tuple(size)
    if len(most) != 3 or min(most) < 8:
        raise ConfigError(f"a synthetic CT of at most {size} voxels: give one or three numbers of 8 or more.")
    return int(most[0]), int(most[1]), int(most[2])


def _draw_settings(
    person: Draws,
    day: Draws,
    people: Subjects,
    trunks: list[Trunk],
    field: str,
    steps: Steps,
    noise: float | None,
) -> list[Setting]:
    """It takes about 60 columns of ``person`` and 90 of ``day``."""
    spread, enhancement = person.normal(shape=(len(TISSUES),)), day.lognormal(1, 0.10)
    phases, which = draw_phases(day), day.pick((0.35, 0.35, 0.3))
    roll, lean, shift = day.normal(0, 2.5), day.normal(0, 0.018, (2,)), day.normal(0, 8, (2,))
    margins, jitter = day.uniform(shape=(6,)), day.lognormal(1, 0.12)
    waves = np.empty((person.n, 2, _WAVES, 7))
    waves[..., 0] = day.normal(0, 2.6, (2, _WAVES))
    waves[..., 1:4] = 2 * np.pi / day.uniform(260, 620, (2, _WAVES, 3))
    waves[..., 4:7] = day.uniform(0, 2 * np.pi, (2, _WAVES, 3))
    out = []
    for i, trunk in enumerate(trunks):
        device = DEVICES[people.device[i]]
        t = trunk.thorax
        sigma = device.noise * jitter[i] * (ct_scan.NOISE_SLICE / steps.thickness) ** 0.5
        pose = Pose(
            float(roll[i]),
            (float(lean[i, 0]), float(lean[i, 1])),
            (float(shift[i, 0]), float(shift[i, 1])),
            waves[i],
        )
        phase = PHASES[phases[i]]
        colours = palette(phase, spread[i], float(enhancement[i]), t.bone, t.density, device.offset)
        name = FIELDS[which[i]] if field == "mixed" else field
        level = float(sigma) if noise is None else float(noise)
        out.append(Setting(device, phase, level, steps.thickness, name, margins[i], pose, colours))
    return out


def _grid(trunk: Trunk, setting: Setting, steps: Steps, most: tuple[int, int, int]) -> tuple[Grid, float]:
    """The thin grid of one scan, and where the table's top lies."""
    t = trunk.thorax
    m = setting.margins
    base = min(t.domes)
    high = (128 + 26 * m[0]) * t.height if setting.field != "abdomen" else max(t.domes) + 16 + 30 * m[0]
    low = base - (48 + 30 * m[1]) if setting.field == "chest" else -(250 + 22 * m[1]) * t.height
    if setting.field == "chest":
        low = max(low, -255 * t.height)
    levels = np.linspace(max(low, -200), min(high, 90 * t.height), 40)
    a, b = t.outline(levels, True)
    half, front, back = float(a.max()), float(b.max()), float(b.max()) + 22
    if t.breast:
        front = max(front, 0.74 * front + 0.72 * t.breast + 6)
    # most fields hold all of the body, some cut its sides
    wide = 2 * half * (0.96 + 0.26 * m[2]) + 8
    bed = setting.pose.shift[1] + back - 2
    first, last = setting.pose.shift[1] - front - 6 - 40 * m[3], bed + 12 + 50 * m[4]
    extent = np.array([wide, last - first, high - low])
    shape = np.minimum(np.maximum(np.rint(extent / steps.spacing), 8), most).astype(int)
    middle = np.array([0.4 * setting.pose.shift[0], (first + last) / 2, (high + low) / 2])
    thin = (steps.spacing[0], steps.spacing[1], steps.spacing[2] / steps.sub)
    fine = (int(shape[0]), int(shape[1]), int(shape[2]) * steps.sub)
    corner = middle + (np.array(fine) - 1) / 2 * thin * np.array([1, 1, -1])
    return Grid(thin, fine, (float(corner[0]), float(corner[1]), float(corner[2])), setting.pose), float(bed)


def _scan(
    trunk: Trunk,
    lesions: dict[str, list[Lesion]],
    setting: Setting,
    steps: Steps,
    most: tuple[int, int, int],
    grains: np.random.Generator,
    rays: np.random.Generator,
    keep: bool,
) -> Scan:
    grid, bed = _grid(trunk, setting, steps, most)
    canvas = Canvas(grid, setting.colours)
    grain = ct_scan.smooth_noise(grains, grid.shape, _GRAIN_MM / np.array(grid.spacing))
    paint(canvas, trunk, lesions, grain)
    hu = canvas.hu
    ct_scan.add_table(hu, grid, setting.device, bed, setting.colours)
    hu += ct_scan.texture(canvas.tissue, grain, setting.colours)
    hu = ct_scan.thicken(hu, steps.sub, steps.thick)
    hu = ct_scan.kernel(hu, steps.spacing, setting.device.blur)
    label = np.ascontiguousarray(canvas.label[:, :, steps.sub // 2 :: steps.sub])
    affine = grid.affine
    affine[2, 2] = steps.spacing[2]
    affine[2, 3] += grid.spacing[2] * (steps.sub // 2)
    clean = hu.copy() if keep else None
    if setting.noise:
        blur = np.array([setting.device.blur / v for v in steps.spacing[:2]] + [0.0])
        noise = ct_scan.smooth_noise(rays, hu.shape, blur)
        noise *= ct_scan.noise_level(hu, steps.spacing, setting.noise)
        hu = hu + noise
    x = ct_scan.finish(
        hu, ((hu.shape[0] - 1) / 2, (hu.shape[1] - 1) / 2), steps.spacing, setting.device.circle
    )
    return Scan(x, label, affine, clean)
