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

Progress = Callable[[int, int], None]
Arrays = Callable[..., tuple[np.ndarray, pd.DataFrame]]


def chunks_of(settings: SyntheticSettings) -> int:
    """Chunks of whole patients, at most ``CHUNK`` records each where a patient has no more."""
    return -(-settings.patients // _patients(settings.records_per_patient))


def _patients(records_per_patient: int) -> int:
    return max(1, CHUNK // records_per_patient)


def _chunk(index: int, *, settings: dict[str, Any], arrays: Arrays, options: dict[str, Any]) -> Chunk:
    repeats = settings["records_per_patient"]
    first = index * _patients(repeats)
    x, labels = arrays(
        min(_patients(repeats), settings["patients"] - first),
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
