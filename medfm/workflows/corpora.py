"""The embedded synthetic corpora, generated once per (generator version, settings, grid) and kept in the ingest store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.config.run import SyntheticSettings
from medfm.data.image_store import ImageStore, build_images
from medfm.data.store import CHUNK, Chunk, SignalStore, build
from medfm.data.volume_store import VolumeStore, build_volumes
from medfm.types import Volume

Progress = Callable[[int, int], None]
Arrays = Callable[..., tuple[Any, pd.DataFrame]]


VOLUMES_CHUNK = 8  # volumes are large


def chunks_of(settings: SyntheticSettings, size: int = CHUNK) -> int:
    """Chunks of whole patients, at most ``size`` records each where a patient has no more."""
    return -(-settings.patients // _patients(settings.records_per_patient, size))


def _patients(records_per_patient: int, size: int = CHUNK) -> int:
    return max(1, size // records_per_patient)


def _chunk(
    index: int, *, settings: dict[str, Any], arrays: Arrays, options: dict[str, Any], size: int = CHUNK
) -> Chunk:
    repeats = settings["records_per_patient"]
    first = index * _patients(repeats, size)
    x, labels = arrays(
        min(_patients(repeats, size), settings["patients"] - first),
        seed=settings["seed"],
        records_per_patient=repeats,
        start_subject=first,
        truths=True,
        **options,
    )
    return Chunk(list(x), list(range(first * repeats, first * repeats + len(x))), [], labels)


def ecg_store(
    settings: SyntheticSettings, modality: Any, root: Path | None, jobs: int, progress: Progress
) -> SignalStore:
    from medfm.synthetic.corpus import ecg_arrays
    from medfm.synthetic.ecg import GENERATOR_VERSION

    fs = 1.0 / modality.spacing[0]
    seconds = modality.size[0] / fs
    plain = settings.model_dump()
    return build(
        {"synthetic": plain, "generator": GENERATOR_VERSION, "seconds": seconds, "truths": 1},
        chunks_of(settings),
        partial(_chunk, settings=plain, arrays=ecg_arrays, options={"fs": fs, "seconds": seconds}),
        fs=fs,
        channels=modality.channels,
        root=root,
        jobs=jobs,
        progress=progress,
    )


def xray_store(
    settings: SyntheticSettings, modality: Any, root: Path | None, jobs: int, progress: Progress
) -> ImageStore:
    """Radiographs drawn at the modality's size, as its reader would show them: grey 0 to 1, bone bright."""
    from medfm.synthetic.radiograph import GENERATOR_VERSION

    plain = settings.model_dump()
    options = {"size": tuple(modality.size), "channels": len(modality.channels)}
    return build_images(
        {"synthetic": plain, "generator": GENERATOR_VERSION, "modality": modality.name, "truths": 1},
        chunks_of(settings),
        partial(_chunk, settings=plain, arrays=_radiographs, options=options),
        grid=modality.size,
        channels=modality.channels,
        root=root,
        jobs=jobs,
        progress=progress,
    )


def _radiographs(patients: int, *, channels: int, **options: Any) -> tuple[np.ndarray, pd.DataFrame]:
    from medfm.synthetic.corpus import radiograph_arrays

    x, labels = radiograph_arrays(patients, **options)
    return (x if channels == 1 else np.repeat(x, channels, axis=1)), labels


def ct_store(
    settings: SyntheticSettings, modality: Any, root: Path | None, jobs: int, progress: Progress
) -> VolumeStore:
    """Scans of the trunk at the modality's spacing, placed as its reader would place them."""
    from medfm.synthetic.ct import GENERATOR_VERSION

    plain = settings.model_dump()
    return build_volumes(
        {
            "synthetic": plain,
            "generator": GENERATOR_VERSION,
            "settings": modality.ingest_settings(),
            "truths": 1,
        },
        chunks_of(settings, VOLUMES_CHUNK),
        partial(_scans, settings=plain, modality=modality),
        channels=modality.stored,
        root=root,
        jobs=jobs,
        progress=progress,
    )


def _scans(index: int, *, settings: dict[str, Any], modality: Any) -> Chunk:
    from medfm.synthetic.ct_corpus import ct_volumes

    options = {"spacing": modality.spacing}
    chunk = _chunk(index, settings=settings, arrays=ct_volumes, options=options, size=VOLUMES_CHUNK)
    placed = [modality.place(Volume(s.x, s.affine, "HU", "synthetic")) for s in chunk.signals]  # type: ignore[attr-defined]
    return chunk._replace(signals=[p.sample.x for p in placed], extra={"affine": [p.affine for p in placed]})


def mri_store(
    settings: SyntheticSettings,
    modality: Any,
    root: Path | None,
    jobs: int,
    progress: Progress,
    missing: float = 0.0,
) -> VolumeStore:
    """Subjects with a glioma at the modality's spacing, as z-scores; missing: share of them that lack sequences."""
    from medfm.synthetic.mri import GENERATOR_VERSION

    plain = settings.model_dump()
    inputs = {"synthetic": plain, "generator": GENERATOR_VERSION, "settings": modality.ingest_settings()}
    return build_volumes(
        {**inputs, "truths": 1, "missing": missing},
        chunks_of(settings, VOLUMES_CHUNK),
        partial(_heads, settings=plain, modality=modality, missing=missing),
        channels=modality.stored,
        root=root,
        jobs=jobs,
        progress=progress,
    )


def _heads(index: int, *, settings: dict[str, Any], modality: Any, missing: float) -> Chunk:
    from medfm.synthetic.mri_corpus import mri_volumes

    options = {"spacing": modality.spacing, "missing": missing}
    chunk = _chunk(index, settings=settings, arrays=mri_volumes, options=options, size=VOLUMES_CHUNK)
    placed = [
        modality.place({name: Volume(s.x[name], s.affine, "", "synthetic") for name in s.present})  # type: ignore[attr-defined]
        for s in chunk.signals
    ]
    return chunk._replace(signals=[p.sample.x for p in placed], extra={"affine": [p.affine for p in placed]})


def ct_slice_store(
    settings: SyntheticSettings, modality: Any, root: Path | None, jobs: int, progress: Progress
) -> ImageStore:
    """Slices of such scans, ``modality.every`` mm, each with what it shows: ``has_<class>``, as ``medfm data slices --mask``
    says it. What was found in and measured of the whole scan is no label of a slice, and left out."""
    from medfm.synthetic.ct import GENERATOR_VERSION

    plain = settings.model_dump()
    inputs = {"synthetic": plain, "generator": GENERATOR_VERSION, "settings": modality.ingest_settings()}
    return build_images(
        {**inputs, "every": modality.every, "shown": 1},
        chunks_of(settings, VOLUMES_CHUNK),
        partial(_slices, settings=plain, modality=modality),
        grid=modality.size,
        channels=modality.channels,
        root=root,
        jobs=jobs,
        progress=progress,
    )


def _slices(index: int, *, settings: dict[str, Any], modality: Any) -> Chunk:
    from medfm.synthetic.ct_corpus import ct_volumes

    parts = max(1, np.ceil(modality.every / THICK_MM))
    through = max(modality.every / parts, STEP_MM)
    options = {"spacing": _slice_grid(modality.plane, min(2 * modality.pixel, STEP_MM), through)}
    chunk = _chunk(index, settings=settings, arrays=ct_volumes, options=options, size=VOLUMES_CHUNK)
    assert chunk.labels is not None
    scans = chunk.labels[["record", "patient_id"]].itertuples(index=False)
    cut, labels = zip(*(_cut(modality, s, *of) for s, of in zip(chunk.signals, scans)))
    shown = pd.concat(labels, ignore_index=True)
    # A chunk's first row is unknown before the others are made; rows need only be in order and apart.
    first = index * VOLUMES_CHUNK * 1000
    return Chunk([x for slices in cut for x in slices], list(range(first, first + len(shown))), [], shown)


def _cut(modality: Any, scan: Any, record: str, patient: str) -> tuple[list[np.ndarray], pd.DataFrame]:
    """The slices of a simulated scan, and a row of labels each."""
    from medfm.synthetic.ct_paint import LABEL

    volume = Volume(scan.x, scan.affine, "HU", "synthetic")
    cutter = modality.cut(volume)
    numbers = cutter.numbers(modality.every)
    shown = cutter.shown(scan.label, numbers)
    frame = pd.DataFrame({"record": [f"{record}#{n}" for n in numbers]})
    frame["patient_id"], frame["volume"] = patient, record
    for name, k in LABEL.items():
        if k:
            frame[f"has_{name}"] = shown.get(k, np.zeros(len(numbers), bool)).astype(np.int8)
    return modality.from_volume(volume, cutter), frame


STEP_MM = 4.0  # between the slices of a simulated scan at least, and between its voxels in plane at most
THICK_MM = 8.0  # a simulated slice, at most, however far apart those are that are kept


def _slice_grid(plane: str, pixel: float, through: float) -> tuple[float, float, float]:
    """Spacing to the right, front and head of a scan that is cut in ``plane``; slices are resampled to finer pixels."""
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    return tuple(through if a == axis else pixel for a in range(3))  # type: ignore[return-value]
