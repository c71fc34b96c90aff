"""Synthetic 12-lead ECG: a dipole model with subjects, rhythms, disease, electrodes and recorders.

``generate`` yields records one by one; :func:`medfm.synthetic.corpus.ecg_arrays` fills an array for training.
Everything is vectorised over a chunk of records, and a record depends only on (seed, subject, record, fs,
seconds, options): subject 17 of seed 1 is the same in whatever batch it is made. Simulated data prove a
pipeline and feed self-supervised learning; they say nothing about clinical performance.

Sources: Gaussian vectorcardiogram (Sameni, Clifford 2007), RR spectrum (McSharry et al. 2003), Dower's lead
matrix (1980), fibrillatory sawtooth (Stridh, Sornmo 2001); pathology, noise and recorders are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import fft

from medfm.synthetic.draws import Draws
from medfm.synthetic.ecg_atria import add_atrial_waves
from medfm.synthetic.ecg_beats import LEADS, lay_beats
from medfm.synthetic.ecg_conditions import apply_conditions, beat_shapes
from medfm.synthetic.ecg_labels import fiducials, label, measure_usual_beat
from medfm.synthetic.ecg_morphology import Hearts, draw_hearts, rotation, turn
from medfm.synthetic.ecg_noise import PAD, REVERSAL_NAMES, draw_recording, record, twelve
from medfm.synthetic.ecg_rhythm import RHYTHMS, Rhythm, draw_rhythm
from medfm.synthetic.ecg_subjects import CONDITIONS, DEVICES, SITES, draw_subjects
from medfm.synthetic.subjects import Subjects, prevalences
from medfm.types import ConfigError

# Raise it whenever the same (seed, subject) gives another record: stores are keyed by it.
GENERATOR_VERSION = 2
CHANNELS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
BEAT_KINDS = ("N", "A", "V", "V")
_SUBJECT, _RECORD, _SAMPLES = 11, 12, 13  # streams of random numbers
_SLOWEST = 250.0  # Hz; below this the beats are made at a multiple and decimated in the spectrum


@dataclass(frozen=True)
class SyntheticECG:
    """x: float32 ``[12, T]`` mV in canonical lead order, as recorded; clean: the same without noise, recorder
    and swap.

    labels: name -> bool, by criterion on the noiseless signal; cond: the generator's switches; measures: the
    numbers behind the labels (ms, mV, degrees, bpm, uV); beats: per beat inside the record ``r_s`` (s),
    ``rr_s``, ``kind`` (N, A, V), and of usual beats ``p_onset_s`` (NaN without P), ``qrs_onset_s``,
    ``qrs_offset_s``, ``t_end_s``. reversal: which cables were exchanged ("" for none).
    """

    x: np.ndarray
    fs: float
    patient: str
    record: str
    age: int
    sex: str
    device: str
    site: str
    rhythm: str
    labels: dict[str, bool]
    cond: dict[str, bool]
    measures: dict[str, float]
    reversal: str = ""
    clean: np.ndarray | None = None
    beats: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """n records at once: x ``[n, 12, T]``, clean likewise or None, columns of ``[n]`` each, and the per-beat
    arrays."""

    x: np.ndarray
    clean: np.ndarray | None
    patients: list[str]
    records: list[str]
    subjects: Subjects
    rhythm: Rhythm
    labels: dict[str, np.ndarray]
    measures: dict[str, np.ndarray]
    fiducials: dict[str, np.ndarray]
    reversal: list[str]


def generate(
    subjects: Sequence[int],
    seed: int = 1,
    *,
    fs: float = 500.0,
    seconds: float = 10.0,
    records_per_subject: int = 1,
    conditions: Sequence[str] | str | None = None,
    prevalence: Mapping[str, float] | None = None,
    noise: float = 1.0,
    keep_clean: bool = True,
    chunk: int = 64,
) -> Iterator[SyntheticECG]:
    """Yield ``records_per_subject`` records of each subject.

    conditions: None for a hospital's mix, or exactly these for everyone (``()`` or ``"normal"``: nobody is
    ill). prevalence: changes to the mix (:data:`medfm.synthetic.ecg_subjects.CONDITIONS`). noise: multiplier,
    0 leaves the recorder's band and converter. Raises ConfigError for unknown conditions, fs outside 50-4000
    Hz or seconds outside 1-120.
    """
    keys = [(int(s), r) for s in subjects for r in range(records_per_subject)]
    for start in range(0, len(keys), chunk):
        part = simulate(
            keys[start : start + chunk],
            seed,
            fs=fs,
            seconds=seconds,
            conditions=conditions,
            prevalence=prevalence,
            noise=noise,
            keep_clean=keep_clean,
        )
        for i in range(len(part.records)):
            yield _one(part, i, fs)


def simulate(
    keys: Sequence[tuple[int, int]],
    seed: int,
    *,
    fs: float = 500.0,
    seconds: float = 10.0,
    conditions: Sequence[str] | str | None = None,
    prevalence: Mapping[str, float] | None = None,
    noise: float = 1.0,
    keep_clean: bool = False,
) -> Chunk:
    """One chunk: ``keys`` are (subject, record) pairs. It takes about 2 MB a record of 10 s at 500 Hz."""
    if not 50 <= fs <= 4000 or not 1 <= seconds <= 120:
        raise ConfigError(f"synthetic ECG of {seconds} s at {fs} Hz: choose 1 to 120 s and 50 to 4000 Hz.")
    if isinstance(conditions, str):
        conditions = () if conditions == "normal" else (conditions,)
    subject = Draws([(seed, _SUBJECT, s) for s, _ in keys], 720)
    daily = Draws([(seed, _RECORD, s, r) for s, r in keys], 720 + 24 * int(np.ceil(seconds)))
    table = prevalences(CONDITIONS, prevalence)
    people = draw_subjects(subject, table, conditions)
    swapped = daily.chance(table["electrode_reversal"])
    if conditions is None:
        people.cond["electrode_reversal"] = swapped  # cables are swapped on a day, not for life
    hearts = draw_hearts(subject, people)
    apply_conditions(subject, hearts, people.cond)
    _posture(daily, hearts)
    shapes = beat_shapes(subject, hearts)
    rhythm = draw_rhythm(subject, daily, people.cond, people.age, people.male, seconds)
    mean_rr = _mean_rr(rhythm, seconds)
    measures = measure_usual_beat(shapes, hearts, mean_rr)
    alternans = _alternans(subject, people.cond["twa"], measures)
    labels = label(measures, rhythm, people.age, people.male, seconds)
    labels["twa"] = measures["twa_uv"] >= 2.0
    labels["electrode_reversal"] = people.cond["electrode_reversal"].copy()

    factor = 1 if fs >= _SLOWEST else int(np.ceil(_SLOWEST / fs))
    inner = fs * factor
    length = factor * fft.next_fast_len(int(np.ceil((seconds + 2 * PAD) * fs)), real=True)
    clean = np.zeros((len(keys), LEADS, length), np.float32)
    lay_beats(subject, daily, clean, inner, -PAD, rhythm, shapes, hearts, alternans)
    add_atrial_waves(subject, daily, clean, inner, -PAD, rhythm, hearts)
    setting = draw_recording(daily, people, seconds, noise)
    breath = np.stack([rhythm.breath_hz, rhythm.breath_phase], axis=1)
    x = record(clean, setting, [(seed, _SAMPLES, s, r) for s, r in keys], breath, inner, fs, seconds)
    begin, stop = round(PAD * inner), round(PAD * inner) + round(seconds * fs) * factor
    return Chunk(
        x=x,
        clean=twelve(clean[..., begin:stop:factor]) if keep_clean else None,
        patients=[f"s{seed}p{s:06d}" for s, _ in keys],
        records=[f"s{seed}p{s:06d}r{r:02d}" for s, r in keys],
        subjects=people,
        rhythm=rhythm,
        labels=labels,
        measures=measures,
        fiducials=fiducials(rhythm, measures, hearts, mean_rr),
        reversal=[REVERSAL_NAMES[k] if k >= 0 else "" for k in setting.swap],
    )


def _posture(daily: Draws, hearts: Hearts) -> None:
    """Another day, another position and other places of the electrodes."""
    matrix = rotation(*(daily.normal(0.0, sd) for sd in (3.5, 3.0, 4.0)))
    hearts.vec = turn(hearts.vec, matrix) * daily.lognormal(1.0, 0.05)[:, None, None]
    hearts.leads *= daily.lognormal(1.0, 0.05, (8, 1))


def _mean_rr(rhythm: Rhythm, seconds: float) -> np.ndarray:
    """Mean RR of the beats inside, s; a record with a single beat takes the interval that ended there."""
    inside = (rhythm.time >= 0) & (rhythm.time < seconds)
    rr = np.where(inside, rhythm.rr, 0.0)
    return (rr.sum(axis=1) / np.maximum(inside.sum(axis=1), 1)).clip(0.25, 2.5)


def _alternans(d: Draws, on: np.ndarray, measures: dict[str, np.ndarray]) -> np.ndarray:
    """Relative change of the T wave from beat to beat ``[n]``; states ``twa_uv`` among the measures.

    ``twa_uv`` is the largest difference, over the 12 leads and the T wave, between the mean even and the mean
    odd beat: the full alternation (a spectral method reports half of it).
    """
    target = np.exp(d.uniform(np.log(0.015), np.log(0.12)))
    size = np.maximum(measures["t_mv"], 1e-3)
    share = np.where(on, np.minimum(target / size, 0.8), 0.0)
    measures["twa_uv"] = 1000 * share * measures["t_mv"]
    return share


def _one(part: Chunk, i: int, fs: float) -> SyntheticECG:
    s, rhythm = part.subjects, part.rhythm
    seconds = part.x.shape[2] / fs
    inside = (rhythm.time[i] >= 0) & (rhythm.time[i] < seconds)
    beats = {name: grid[i, inside] for name, grid in part.fiducials.items()}
    beats["r_s"] = rhythm.time[i, inside]
    beats["rr_s"] = rhythm.rr[i, inside]
    beats["kind"] = np.array([BEAT_KINDS[k] for k in rhythm.shape[i, inside]])
    return SyntheticECG(
        x=part.x[i],
        fs=fs,
        patient=part.patients[i],
        record=part.records[i],
        age=int(s.age[i]),
        sex="M" if s.male[i] else "F",
        device=DEVICES[s.device[i]].name,
        site=SITES[s.site[i]],
        rhythm=RHYTHMS[rhythm.kind[i]],
        labels={k: bool(v[i]) for k, v in part.labels.items()},
        cond={k: bool(v[i]) for k, v in s.cond.items()},
        measures={k: float(v[i]) for k, v in part.measures.items() if v.ndim == 1},
        reversal=part.reversal[i],
        clean=None if part.clean is None else part.clean[i],
        beats=beats,
    )
