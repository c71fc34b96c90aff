"""Synthetic chest radiographs: a phantom's shadow, the photons behind it, and what a machine makes of them.

:func:`medfm.synthetic.radiograph_corpus.radiograph_arrays` fills an array for training. An image depends only on
(seed, subject, record, size, options): subject 17 of seed 1 is the same in whatever batch it is made. Simulated
data prove a pipeline and feed self-supervised learning; they say nothing about clinical performance.

Physics: one effective energy (attenuation of NIST SRD 126, :mod:`medfm.synthetic.tissues`), a point source 1.8 m
(bedside 1.0 to 1.2 m) from the detector, Beer-Lambert, scatter as a wide blur of the primary light, Poisson photons.
Anatomy, findings, processing and machines are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import fft

from medfm.synthetic.anatomy import Thorax, draw_thoraces
from medfm.synthetic.draws import Draws
from medfm.synthetic.projection import Beam, smoothing
from medfm.synthetic.radiograph_display import burn_marker, collimate, display
from medfm.synthetic.subjects import Subjects, prevalences
from medfm.synthetic.tissues import attenuation
from medfm.synthetic.xray_findings import Findings, draw_findings
from medfm.synthetic.xray_shadow import Shadow, cast, seen
from medfm.synthetic.xray_subjects import (
    CONDITIONS,
    DEVICES,
    Device,
    draw_subjects,
    draw_views,
)
from medfm.types import ConfigError

# Raise it whenever the same (seed, subject) gives another image: stores are keyed by it.
GENERATOR_VERSION = 1
LABELS = (*CONDITIONS, "support_devices", "normal")
_SUBJECT, _RECORD, _PHOTONS = 31, 32, 33  # streams of random numbers

# A label is a criterion on the noiseless phantom.
CTR_LIMIT = (
    0.5  # cardiothoracic ratio on a PA radiograph above which a heart is called enlarged (Danzer 1919)
)
EFFUSION_ML = 150.0  # on one side; about what blunts a costophrenic angle
PNEUMOTHORAX_ML, CONSOLIDATION_ML = 60.0, 20.0
NODULE_MM, NODULE_CONTRAST = (
    6.0,
    0.02,
)  # smallest nodule; smallest relative loss of light at its centre, after scatter
PLATE_CM2, DEVICE_CM2 = 1.0, 0.3


@dataclass(frozen=True)
class Setting:
    """One exposure. kev: effective energy; dose: photons a mm2 through air; scatter: share added to the primary light;
    frame: left, top, right, bottom of the collimated field as shares of the image; marker: side letter or "",
    and its place (share of width and height); level: grey shift of the display."""

    beam: Beam
    kev: float
    dose: float
    scatter: float
    frame: tuple[float, float, float, float]
    marker: str
    place: tuple[float, float]
    level: float


@dataclass(frozen=True)
class Chunk:
    """n images at once: x float32 ``[n, H, W]``, 0 black to 1 white, bones bright; clean: the same light without
    photon noise, marker and frame, or None; masks: finding -> bool ``[n, H, W]`` (or None); columns of ``[n]``."""

    x: np.ndarray
    clean: np.ndarray | None
    masks: dict[str, np.ndarray] | None
    patients: list[str]
    records: list[str]
    subjects: Subjects
    views: np.ndarray
    settings: list[Setting]
    labels: dict[str, np.ndarray]
    measures: dict[str, np.ndarray]
    boxes: list[dict[str, tuple[int, int, int, int]]] = field(default_factory=list)


def simulate(
    keys: Sequence[tuple[int, int]],
    seed: int,
    *,
    size: int | tuple[int, int] = 256,
    views: Sequence[str] = ("PA", "AP"),
    conditions: Sequence[str] | str | None = None,
    prevalence: Mapping[str, float] | None = None,
    keep: bool = False,
) -> Chunk:
    """One chunk: ``keys`` are (subject, record) pairs.

    size: pixels, height and width. views: some of PA, AP, LL (lateral). conditions: None for a hospital's mix, or
    exactly these for everyone (``()`` or ``"normal"``: nobody is ill). prevalence: changes to the mix
    (:data:`medfm.synthetic.xray_subjects.CONDITIONS`). keep: also return noiseless images and masks.

    Raises ConfigError for unknown findings or views, or a size outside 32 to 4096 pixels.
    """
    shape = (size, size) if isinstance(size, int) else tuple(size)
    if len(shape) != 2 or not all(32 <= n <= 4096 for n in shape):
        raise ConfigError(f"a synthetic radiograph of size {size}: choose 32 to 4096 pixels.")
    if isinstance(conditions, str):
        conditions = () if conditions == "normal" else (conditions,)
    person = Draws([(seed, _SUBJECT, s) for s, _ in keys], 4096 + 256)
    day = Draws([(seed, _RECORD, s, r) for s, r in keys], 64)
    people = draw_subjects(person, prevalences(CONDITIONS, prevalence), conditions)
    bedside = np.array([DEVICES[k].bedside for k in people.device])
    shown = draw_views(day, bedside, views)
    bodies = draw_thoraces(person, day, people.age, people.male, people.cond["cardiomegaly"], bedside)
    found = draw_findings(person, day, bodies, people.cond)
    settings = _draw_settings(day, people, shown, bodies, shape)
    images, cleans, shadows = [], [], []
    for (s, r), body, finding, setting, k in zip(keys, bodies, found, settings, people.device):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, _PHOTONS, s, r))))
        shadow, light, signal = expose(body, finding, setting, DEVICES[k], rng)
        shadow.measures["nodule_contrast"] = _nodule_contrast(shadow, setting, light)
        images.append(finish(signal, setting, DEVICES[k]))
        shadows.append(shadow)
        if keep:
            cleans.append(display(light, setting.beam, DEVICES[k], setting.level, setting.frame))
    measures = {name: np.array([s.measures.get(name, 0.0) for s in shadows]) for name in _measured(shadows)}
    measures["rotation_deg"] = np.array([s.beam.turn for s in settings])
    measures["inspiration"] = np.array([b.inspiration for b in bodies])
    masks = None
    if keep:
        blank = np.zeros(shape, bool)
        masks = {
            name: np.stack([seen(name, s.path[name]) if name in s.path else blank for s in shadows])
            for name in sorted({n for s in shadows for n in s.path})
        }
    return Chunk(
        x=np.stack(images),
        clean=np.stack(cleans) if keep else None,
        masks=masks,
        patients=[f"s{seed}x{s:06d}" for s, _ in keys],
        records=[f"s{seed}x{s:06d}r{r:02d}" for s, r in keys],
        subjects=people,
        views=shown,
        settings=settings,
        labels=label(measures),
        measures=measures,
        boxes=[_boxes(s) for s in shadows],
    )


def label(m: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Findings by criterion, bool ``[n]`` each, from what was measured on the phantom."""
    out = {
        "cardiomegaly": m["ctr"] > CTR_LIMIT,
        "effusion": np.maximum(m["effusion_right_ml"], m["effusion_left_ml"]) >= EFFUSION_ML,
        "consolidation": m["consolidation_ml"] >= CONSOLIDATION_ML,
        "pneumothorax": np.maximum(m["pneumothorax_right_ml"], m["pneumothorax_left_ml"]) >= PNEUMOTHORAX_ML,
        "nodule": (m["nodule_mm"] >= NODULE_MM) & (m["nodule_contrast"] >= NODULE_CONTRAST),
        "atelectasis": m["plate_cm2"] >= PLATE_CM2,
    }
    out |= {name: m[f"{name}_cm2"] >= DEVICE_CM2 for name in ("pacemaker", "tube", "line")}
    out["support_devices"] = out["pacemaker"] | out["tube"] | out["line"]
    out["normal"] = ~np.any(list(out.values()), axis=0)
    return out


_CALIPERS = ("plate_cm2", "pacemaker_cm2", "tube_cm2", "line_cm2")


def _measured(shadows: list[Shadow]) -> list[str]:
    return list(dict.fromkeys([*(name for s in shadows for name in s.measures), *_CALIPERS]))


def expose(
    body: Thorax, found: Findings, setting: Setting, device: Device, rng: np.random.Generator
) -> tuple[Shadow, np.ndarray, np.ndarray]:
    """Shadow, noiseless light and counted light, both ``[H, W]``, 1 for the beam in air without scatter."""
    beam = setting.beam
    shadow = cast(body, found, beam, setting.kev, _texture(rng, beam))
    light = irradiate(shadow.loss, beam, setting, device)
    return shadow, light, count(light, setting.dose * beam.pixel**2, rng)


def count(light: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    """Light as counted: Poisson with ``photons`` a pixel where the light is 1; half a photon where none came."""
    counted = rng.poisson(np.maximum(light, 0) * photons).astype(np.float32)
    return np.maximum(counted, 0.5) / np.float32(photons)


def irradiate(loss: np.ndarray, beam: Beam, setting: Setting, device: Device) -> np.ndarray:
    """Light at the detector: Beer-Lambert, detector blur, and scatter from 45 mm around."""
    primary = np.exp(-loss)
    rows, columns = (smoothing(n, device.blur / beam.pixel) for n in beam.size)
    if device.blur > 0.3 * beam.pixel:
        primary = rows @ primary @ columns.T
    wide = [smoothing(n, 45.0 / beam.pixel) for n in beam.size]
    # the air beside the patient scatters nothing
    body = primary * (loss > 0.3)
    return (primary + np.float32(setting.scatter) * (wide[0] @ body @ wide[1].T)).astype(np.float32)


def finish(light: np.ndarray, setting: Setting, device: Device) -> np.ndarray:
    """The image as displayed: processing, frame and marker."""
    image = display(light, setting.beam, device, setting.level, setting.frame)
    image = collimate(image, setting.frame)
    return burn_marker(image, setting.marker, setting.place, device.marker / setting.beam.pixel)


def _texture(rng: np.random.Generator, beam: Beam) -> np.ndarray:
    """Relative density of lung along the rays: fine vessels and lobules below what the trees draw, 2 to 30 mm."""
    rows, columns = (fft.next_fast_len(n, real=True) for n in beam.size)
    noise = fft.rfft2(rng.standard_normal((rows, columns), np.float32))
    f = np.hypot(fft.fftfreq(rows)[:, None], fft.rfftfreq(columns)[None]) / beam.pixel  # cycles a mm
    band = (f / 0.025) / (1 + (f / 0.025) ** 2) ** 1.25
    noise *= (band / max(float(np.sqrt(np.mean(band**2))), 1e-9)).astype(np.float32)
    return 1 + np.float32(0.05) * fft.irfft2(noise, (rows, columns))[: beam.size[0], : beam.size[1]]


def _draw_settings(
    day: Draws, people: Subjects, views: np.ndarray, bodies: list[Thorax], shape: tuple[int, int]
) -> list[Setting]:
    """It takes 24 columns."""
    bed = np.array([DEVICES[k].bedside for k in people.device])
    bed &= views == "AP"
    turn = day.normal(0, 1) * np.where(bed, 5.0, 1.8)
    sid = np.where(bed, day.uniform(1000, 1200), 1800.0)
    field = day.uniform(1.02, 1.16)
    right, down = day.normal(0, 8) * (1 + bed), day.normal(0, 9)
    kev = np.clip(np.where(bed, 50.0, 58.0) + 3 * day.normal(), 42, 75)
    dose, scatter, level = day.lognormal(1, 0.4), day.lognormal(1, 0.25), day.normal(0, 0.05)
    cuts = day.uniform(shape=(4,)) ** 3 * 0.07
    framed, marked, corner = day.chance(0.6), day.chance(0.85), day.uniform(shape=(2,))
    side = day.chance(0.5)
    out = []
    for i, body in enumerate(bodies):
        device = DEVICES[people.device[i]]
        m = sid[i] / (sid[i] - 150)
        wide = 2 * 160 * max(body.width, 0.97) * m
        tall = (126 * body.height - min(body.domes) + 85) * m
        pixel = field[i] * max(wide / shape[1], tall / shape[0])
        middle = (126 * body.height + min(body.domes) - 62) / 2 * m
        frame = tuple(cuts[i] * framed[i])
        letter = ("L" if views[i] == "LL" else "R" if side[i] else "L") if marked[i] else ""
        across = 0.05 + 0.06 * corner[i, 0]
        place = (across if letter == "R" else 1 - across, 0.05 + 0.1 * corner[i, 1])
        beam = Beam(
            str(views[i]),
            shape,
            float(pixel),
            float(sid[i]),
            150.0,
            float(turn[i]),
            (float(right[i]), float(middle + down[i])),
        )
        out.append(
            Setting(
                beam,
                float(kev[i]),
                float(device.dose * dose[i]),
                float(device.scatter * scatter[i]),
                (float(frame[0]), float(frame[1]), 1 - float(frame[2]), 1 - float(frame[3])),
                letter,
                place,
                float(level[i]),
            )
        )
    return out


def _nodule_contrast(shadow: Shadow, setting: Setting, light: np.ndarray) -> float:
    """Share of the light that the nodule takes where it is thickest, scatter counted as light that tells nothing."""
    ball = shadow.path.get("nodule")
    if ball is None or ball.max() <= 0:
        return 0.0
    at = np.unravel_index(int(np.argmax(ball)), ball.shape)
    primary = float(np.exp(-shadow.loss[at]))
    gain = attenuation("soft", setting.kev) - attenuation("lung", setting.kev)
    taken = gain * float(ball[at])
    return (1 - np.exp(-taken)) * primary / max(float(light[at]), 1e-9)


def _boxes(shadow: Shadow) -> dict[str, tuple[int, int, int, int]]:
    """Left, top, right, bottom (pixels, the last two excluded) of each finding's shadow."""
    out = {}
    for name, path in shadow.path.items():
        mask = seen(name, path)
        if mask.any():
            rows, columns = (np.flatnonzero(mask.any(axis=k)) for k in (1, 0))
            out[name] = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return out
