"""A table of volumes as a table of their slices, for methods and networks of two dimensions. Nothing is copied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.config.modalities import MODALITIES
from medfm.data.catalog import resolve_source
from medfm.data.manifest import Manifest
from medfm.data.rooms import VolumeRoom
from medfm.data.tables import is_table, read_table
from medfm.paths import seen_from, written_whole
from medfm.types import ConfigError, MedfmError, ReadError
from medfm.workflows.progress import progress as progress_bar

NAMES = "labels.json"  # beside a table: number -> name of the classes of its masks


def slices(
    source: str | Path,
    output: str | Path = "slices.csv",
    *,
    plane: str = "axial",
    every: float = 0.0,
    mask: str | None = None,
    patient: str | None = "patient_id",
    settings: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Write ``output``: one row a slice, ``path`` (``volume#slice=N``), ``record``, ``patient_id``, ``volume``, ``slice``,
    ``position`` (mm along the plane's axis from the first slice), every further column of the table, and with ``mask`` (a
    column of mask files) ``has_<class>``: 1 where the slice shows 10 pixels or more of it.

    Splits by ``patient_id`` keep all slices of a patient together; where no patient is known, a volume is one. A volume that
    cannot be read is left out and named in ``failed``. Raises :class:`ConfigError` for an output that exists or settings
    that do not go together, :class:`MedfmError` when no volume can be read.
    """
    written = Path(output).expanduser()
    if written.suffix.lower() != ".csv":
        raise ConfigError(f"--output {output}: the name must end in .csv.")
    if written.exists() and not overwrite:
        raise ConfigError(f"--output {output} exists already; choose another name, or use --overwrite.")
    entry = MODALITIES["ct_slice"]
    chosen = entry.settings.model_validate({"plane": plane, "every": every, **(settings or {})})
    modality = entry.load()(**chosen.model_dump(exclude={"name"}))
    manifest, table = _volumes(str(source), patient)
    if mask is not None and mask not in table:
        raise ConfigError(f"--mask {mask}: {source} has no such column.")
    names, folder = _names(Path(manifest.source)), written.resolve().parent
    frames, failed = [], []
    with progress_bar(progress, "cutting volumes", len(manifest), "volumes") as bar:
        for i, path in enumerate(manifest.paths):
            try:
                frames.append(_rows(modality, path, manifest, table, i, mask, names, folder))
            except MedfmError as error:
                failed.append((path, str(error).removeprefix(f"{path}: ")))
            bar.update(i + 1)
    if not frames:
        raise MedfmError(f"none of the {len(manifest)} volumes could be read. First reason: {failed[0][1]}")
    out = pd.concat(frames, ignore_index=True)
    shown = [c for c in out if c.startswith("has_")]
    out[shown] = out[shown].fillna(0).astype(int)  # a class that one volume's mask does not know
    with written_whole(written) as part:
        out.to_csv(part, index=False)
    return {
        "slices": len(out),
        "volumes": len(frames),
        "patients": int(out["patient_id"].nunique()),
        "patients_known": manifest.patients_known,
        "classes": {c.removeprefix("has_"): int(out[c].sum()) for c in shown},
        "failed": failed,
        "table": written,
    }


def _volumes(source: str, patient: str | None) -> tuple[Manifest, pd.DataFrame]:
    """The volumes' manifest, and the table as the user wrote it where there is one."""
    volumes = MODALITIES["ct"].load()()
    manifest = resolve_source(source, modality=volumes, patient=patient)[0]
    manifest.check()
    read_from = Path(manifest.source)
    table = read_table(read_from) if is_table(read_from) and read_from.is_file() else pd.DataFrame()
    return manifest, table


def _rows(
    modality: Any,
    path: str,
    manifest: Manifest,
    table: pd.DataFrame,
    row: int,
    mask: str | None,
    names: dict[int, str],
    folder: Path,
) -> pd.DataFrame:
    cutter = modality.cutter(path)
    numbers = cutter.numbers(modality.every)
    record, patient = (str(manifest.frame[c].iloc[row]) for c in ("record", "patient"))
    if not manifest.patients_known:
        patient = VolumeRoom().patient(path) or record
    shown = seen_from(path, folder)
    frame = pd.DataFrame({"path": [f"{shown}#slice={n}" for n in numbers]})
    frame["record"] = [f"{record}#{n}" for n in numbers]
    frame["patient_id"], frame["volume"], frame["slice"] = patient, record, numbers
    frame["position"] = np.round(np.array(numbers) * cutter.step, 3)
    for column in table:
        if column not in frame and column not in ("path", mask):
            frame[column] = table[column].iloc[row]
    if mask is not None:
        for name, seen in _classes(
            cutter, numbers, path, _beside(table[mask].iloc[row], manifest), names
        ).items():
            frame[f"has_{name}"] = seen.astype(int)
    return frame


def _beside(mask: Any, manifest: Manifest) -> str:
    if pd.isna(mask):
        raise ReadError("has no mask; fill the column in, or drop the row.")
    path = Path(str(mask))
    return str(path if path.is_absolute() else Path(manifest.source).resolve().parent / path)


def _classes(
    cutter: Any, numbers: list[int], path: str, mask: str, names: dict[int, str]
) -> dict[str, np.ndarray]:
    """Which slices show which classes of the mask, within the modality's grid."""
    from medfm.formats.volume import read_volume

    label = read_volume(mask, label=True)
    expected = cutter.turn.undo(cutter.values).shape
    if label.x.shape != expected:
        have, want = (" x ".join(map(str, s)) for s in (label.x.shape, expected))
        raise ReadError(
            f"its mask {Path(mask).name} has {have} voxels and the image {want}: draw or export the mask on the image's grid."
        )
    return {names.get(k, str(k)): seen for k, seen in cutter.shown(label.x, numbers).items()}


def _names(source: Path) -> dict[int, str]:
    beside = (source.parent if source.is_file() else source) / NAMES
    if not beside.is_file():
        return {}
    try:
        return {int(k): str(v).replace(" ", "_") for k, v in json.loads(beside.read_text("utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise MedfmError(
            f'{beside}: holds no table of numbers and names, such as {{"1": "liver"}}.'
        ) from error
