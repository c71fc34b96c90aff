"""Masks of new volumes: each on the grid and in the orientation of what was handed over, with a picture and its volumes in mL.

Memory is bounded by one volume on the model's grid, its classes one after another, and one tile in the network.
"""

from __future__ import annotations

import csv
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medfm.data.codes import same_data
from medfm.data.manifest import Manifest, as_identifier
from medfm.data.rooms import room_of
from medfm.data.tables import is_table, read_table
from medfm.evaluation import segmentation_figures as figures
from medfm.finetuning.segmentation import SegmentationModel
from medfm.finetuning.segmentation_fit import caller
from medfm.finetuning.tiles import KEPT, Estimate, back_labels, estimate, segment, tile_count
from medfm.formats.volume_write import write_nifti
from medfm.hub.bundle import Bundle
from medfm.types import RESEARCH_USE, ConfigError, MedfmError
from medfm.workflows.embed import identity
from medfm.workflows.finetune_run import choose_device
from medfm.workflows.gather import plain_reason, set_aside
from medfm.workflows.progress import duration
from medfm.workflows.progress import progress as progress_bar
from medfm.workflows.run_folder import writing
from medfm.workflows.segment_bundle import load_masks
from medfm.workflows.segment_volumes import Classes, OneVolume, spacing_of

LOG = logging.getLogger("medfm.run")
TABLE = "volumes.csv"


@dataclass(frozen=True)
class Drawer:
    """A loaded model: network, classes, tile, overlap, the modality that reads for it."""

    network: SegmentationModel
    classes: Classes
    patch: tuple[int, ...]
    overlap: float
    modality: Any

    @classmethod
    def of(cls, bundle: Bundle, device: torch.device) -> Drawer:
        network, classes, patch, overlap = load_masks(bundle)
        return cls(network.to(device), classes, patch, overlap, bundle.modality())

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def estimate(self, shape: tuple[int, ...]) -> Estimate:
        """Runs a tile. Raises :class:`MedfmError` where one needs more memory than there is."""
        channels, outputs = len(self.modality.channels), len(self.classes.names) + 1
        return estimate(
            caller(self.network),
            channels,
            outputs,
            shape,
            self.patch,
            overlap=self.overlap,
            device=self.device,
        )

    def draw(self, placement: Any, progress: Any = None) -> np.ndarray:
        """Classes 0 to K, uint8 on the file's own grid."""
        volume = OneVolume(self.modality, placement.sample.x, placement.sample.present)
        found = segment(
            caller(self.network),
            lambda origins: volume.tiles(origins, self.patch),
            placement.sample.x.shape[1:],
            self.patch,
            overlap=self.overlap,
            keep=KEPT,
            progress=progress,
        )
        return back_labels(found, placement.back, len(self.classes.names))


def predict_masks(
    source: str | Path,
    bundle: Bundle,
    output: str | Path,
    *,
    patient: str | None = None,
    codes: bool = False,
    accelerator: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write into the folder ``output``: ``NAME.nii.gz``, ``NAME.png`` and ``volumes.csv`` (one row a volume and class:
    ``record, patient, path, class, value, ml, mask, seconds, error``); return the folder.

    ``codes``: names are codes, as in every file that leaves the site. Raises :class:`ConfigError` for an output that is a
    file or holds a result already, :class:`MedfmError` when nothing could be read or a tile does not fit into memory.
    """
    folder = check_folder(output, overwrite)
    drawer = Drawer.of(bundle, choose_device(accelerator))
    manifest = list_volumes(source, drawer.modality, patient)
    if same_data(manifest.digest, (bundle.config.get("training") or {}).get("data_digest")):
        LOG.warning(
            "these volumes trained this model: read the run's out-of-fold predictions.csv instead of these."
        )
    who, names, rows = identity(manifest, codes), file_names(identity(manifest, codes)["record"]), []
    told = False
    for i, path in enumerate(manifest.paths):
        base = {**who.iloc[i]}
        try:
            placement = drawer.modality.place(drawer.modality.open(path))
        except MedfmError as error:
            LOG.warning("set aside: %s", set_aside(path, str(error)))
            rows.append({**base, "error": plain_reason(str(error)) if codes else str(error)})
            continue
        shape = placement.sample.x.shape[1:]
        if not told:
            _tell(drawer, shape, len(manifest))
            told = True
        began, tiles = time.monotonic(), tile_count(shape, drawer.patch, drawer.overlap)
        with progress_bar(progress, f"volume {i + 1} of {len(manifest)}", tiles, "tiles") as bar:
            labels = drawer.draw(placement, bar.update)
        seconds = round(time.monotonic() - began, 1)
        with writing(folder):
            write_nifti(folder / f"{names[i]}.nii.gz", drawer.classes.back(labels), placement.file_affine)
            preview(drawer, placement, labels, names[i]).savefig(folder / f"{names[i]}.png", dpi=110)
        counts = np.bincount(labels.ravel(), minlength=len(drawer.classes.names) + 1)
        ml = float(np.prod(spacing_of(placement.file_affine))) / 1000
        for k, (name, value) in enumerate(zip(drawer.classes.names, drawer.classes.values), 1):
            said = {"class": name, "value": value, "ml": round(int(counts[k]) * ml, 3)}
            rows.append({**base, **said, "mask": f"{names[i]}.nii.gz", "seconds": seconds, "error": ""})
        _write(folder, rows)
    if not told:
        raise MedfmError(f"{source}: no volume could be read; the first reason: {rows[0]['error']}")
    _write(folder, rows)
    LOG.info("%d masks in %s. %s", len({r.get("mask") for r in rows} - {None}), folder, RESEARCH_USE)
    return folder


def _tell(drawer: Drawer, shape: tuple[int, ...], count: int) -> None:
    said = drawer.estimate(shape)
    edge = " x ".join(map(str, drawer.patch))
    each = "" if count == 1 else f" for the first of {count} volumes"
    LOG.info(
        "about %s%s: %d tiles of %s voxels on %s, %.1f GB for a tile and %.1f GB for a slab of the mask",
        duration(max(1, said.seconds)), each, said.tiles, edge, drawer.device.type,
        said.tile_bytes / 1e9, said.slab_bytes / 1e9,
    )  # fmt: skip


def _write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """After every volume, so that an interrupted run leaves what it has."""
    with writing(folder), (folder / TABLE).open("w", newline="", encoding="utf-8") as out:
        columns = list(dict.fromkeys(k for row in rows for k in row if k != "error"))
        writer = csv.DictWriter(out, [*columns, "error"], restval="")
        writer.writeheader()
        writer.writerows({k: "" if v is pd.NA else v for k, v in row.items()} for row in rows)


def check_folder(output: str | Path, overwrite: bool) -> Path:
    """The folder of the results, made. A file, or a folder with a result of before, is refused unless ``overwrite``."""
    folder = Path(output).expanduser()
    if folder.is_file() or folder.suffix.lower() in (".csv", ".gz", ".nii"):
        raise ConfigError(f"--output {output}: this model draws masks; give a folder for them.")
    if (folder / TABLE).exists() and not overwrite:
        raise ConfigError(f"--output {output} holds masks already; choose another folder, or --overwrite.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def list_volumes(source: str | Path, modality: Any, patient: str | None) -> Manifest:
    """The volumes of a table, a tree, a zip or one file."""
    path = Path(source).expanduser()
    if is_table(path):
        frame = read_table(path)
        whole = "patient_id" in frame and as_identifier(frame["patient_id"]).notna().all()
        column = patient or ("patient_id" if whole else None)
        manifest = Manifest.from_frame(frame, root=path.parent.resolve(), patient=column, source=str(path))
    else:
        room, failed = room_of(modality), []
        if path.is_dir():
            addresses, failed = room.tree(path, Counter())
        else:
            addresses = room.records(path)
        for file, reason in failed:
            LOG.warning("set aside: %s", set_aside(file, reason))
        if not addresses:
            first = f"; the first reason: {failed[0][1]}" if failed else ""
            raise MedfmError(f"{source}: no volume was found{first}.")
        if path.is_dir() and hasattr(room, "rows"):  # a subject has a name that none of its files has
            frame = room.rows(addresses)
        else:
            frame = pd.DataFrame({"record": [Path(a).name for a in addresses], "path": addresses})
        if frame["record"].duplicated().any():  # the same name in two folders
            frame["record"] = frame["path"]
        manifest = Manifest.from_frame(frame, patient=None, source=str(source))
    manifest.check(files=is_table(path))
    return manifest


def file_names(records: pd.Series) -> list[str]:
    """One a record: its name without what a file name cannot hold, numbered where two would be the same."""

    def made() -> Iterator[str]:
        seen: set[str] = set()
        for record in records.astype(str):
            name = Path(record).name
            for suffix in (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".zip", ".dcm"):
                name = name.removesuffix(suffix)
            name = "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip(".") or "volume"
            unique, number = name, 1
            while unique.lower() in seen:
                number += 1
                unique = f"{name}-{number}"
            seen.add(unique.lower())
            yield unique

    return list(made())


def preview(drawer: Drawer, placement: Any, labels: np.ndarray, name: str) -> Any:
    """Axial, coronal and sagittal slices through the middle of what was drawn, on the model's grid."""
    from medfm.modalities.volume_views import PLANES, plane, square

    modality = drawer.modality
    drawn = placement.label(labels)
    sample = placement.sample
    shown = int(np.argmax(modality.seen(sample.present)))  # the first that is there
    grey = np.nan_to_num(modality.normalise(sample.x, sample.present))[shown : shown + 1]
    stack = np.concatenate([grey, drawn[None].astype(np.float32)])
    cases = []
    for title, (cut, _, _) in PLANES.items():
        pair = {"S": "SI", "A": "AP", "R": "RL"}[cut]
        axis = next(a for a, code in enumerate(modality.orientation) if code in pair)
        area = (drawn > 0).sum(tuple(a for a in range(3) if a != axis))
        index = int(area.argmax()) if area.any() else drawn.shape[axis] // 2
        one = np.take(stack, [index], axis=axis + 1)
        image, mask = square(*plane(one, modality.orientation, modality.spacing, title, 0.0))
        cases.append((title, image, None, np.rint(mask).astype(int), 1.0))
    figure = figures.overlays(cases, drawer.classes.names)
    figure.suptitle(f"{name}. {RESEARCH_USE}", fontsize=7)
    return figure
