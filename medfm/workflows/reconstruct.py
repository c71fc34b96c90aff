"""Sequences that a subject lacks, as a model of its others: files marked as synthetic, and how far they can be trusted.

A synthesised sequence is a guess. It is named SYNTHETIC in its file name, header, sidecar and picture, so that no one takes it
for a measurement, and fine-tuning refuses it. Where the sequence was acquired and is hidden on purpose, the guess is measured
beside two that need no network (:mod:`medfm.evaluation.synthesis`).
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medfm.evaluation import synthesis
from medfm.finetuning.tiles import slabs, tile_count
from medfm.formats.synthetic import MARK, sidecar
from medfm.formats.volume_write import write_nifti
from medfm.hub.bundle import Bundle, load_bundle
from medfm.hub.resolve import public_ref, resolve
from medfm.types import RESEARCH_USE, ConfigError, MedfmError
from medfm.workflows.embed import identity
from medfm.workflows.finetune_run import choose_device
from medfm.workflows.gather import set_aside
from medfm.workflows.progress import progress as progress_bar
from medfm.workflows.run_folder import writing
from medfm.workflows.segment_predict import file_names, list_volumes
from medfm.workflows.segment_volumes import OneVolume

LOG = logging.getLogger("medfm.run")
TABLE, SUMMARY = "reconstruction.csv", "reconstruction.json"
CONTRAST = "t1ce"
MODEL, MEAN, REGRESSION = "this model", "mean of the others", "linear regression"
ARMS = (MODEL, MEAN, REGRESSION)
METRICS = ("psnr", "ssim", "rmse", "rmse tumour", "rmse enhancing part")
ENHANCING = (3, 4)  # of BraTS, since 2023 and before
BATCH = 4  # tiles at once


@dataclass
class Subjects:
    """What is asked for: addresses, masks (None where there is none), names of the files to write, and who they are."""

    addresses: list[str]
    masks: list[str | None]
    names: list[str]
    patients: list[str]
    who: Any


@dataclass
class Synthesiser:
    """A loaded model and what it is to make. ``wanted``: sequences named by the user; none: whatever a subject lacks."""

    bundle: Bundle
    modality: Any
    network: Any
    device: torch.device
    wanted: tuple[str, ...] = ()
    contrast: bool = False
    overlap: float = 0.5
    own: dict[int, np.ndarray] = field(default_factory=dict)

    def targets(self, present: np.ndarray) -> list[int]:
        """Sequences to make of a subject that has ``present [C]``."""
        names = self.modality.channels
        missing = [c for c in range(len(names)) if not present[c]]
        chosen = [names.index(w) for w in self.wanted] if self.wanted else missing
        return [c for c in chosen if self.contrast or names[c] != CONTRAST]

    def guess(self, x: np.ndarray, present: np.ndarray, target: int, bar: Any = None) -> np.ndarray:
        """Channel ``target`` ``[X, Y, Z]`` in z-scores from the others that are there, tile by tile."""
        visible = present.copy()
        visible[target] = False
        volume = OneVolume(self.modality, np.where(visible[:, None, None, None], x, np.nan), visible)
        size = tuple(self.modality.size)
        shown = torch.from_numpy(visible)[None].to(self.device)

        def call(tiles: torch.Tensor) -> torch.Tensor:
            seen = shown.expand(len(tiles), -1)
            whole: torch.Tensor = self.network.reconstruct(tiles.to(self.device), seen, seen)
            return whole[:, target : target + 1]

        out = np.zeros(x.shape[1:], np.float32)
        parts = slabs(
            call,
            lambda o: volume.tiles(o, size),
            x.shape[1:],
            size,
            overlap=self.overlap,
            batch_size=BATCH,
            progress=bar,
        )
        for axis, first, values in parts:
            at = [slice(None)] * 3
            at[axis] = slice(first, first + values.shape[axis + 1])
            out[tuple(at)] = values[0].numpy()
        return out


def reconstruct(
    source: str | Path,
    backbone: str | Path,
    output: str | Path,
    *,
    sequences: Sequence[str] = (),
    allow_synthetic_contrast: bool = False,
    scale: tuple[float, float] | None = None,
    patient: str | None = None,
    codes: bool = False,
    accelerator: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Synthesise the sequences that subjects lack, or the named ``sequences`` from the others, into the folder ``output``.

    Of each: ``RECORD_SEQUENCE_SYNTHETIC.nii.gz`` on the subject's own grid (z-scores over the foreground, 0 outside; with ``scale``
    = (mean, deviation) in those units), its ``.json`` and ``.png``. A sequence that was acquired and is named is made all the
    same and compared: ``reconstruction.csv`` has a row a subject, sequence and way (PSNR, SSIM, error in the foreground, in the
    tumour and in its enhancing part where a ``label`` column names masks), ``reconstruction.json`` the means, which are
    returned. A contrast-enhanced sequence is made only with ``allow_synthetic_contrast``: what enhances cannot be known
    without the contrast agent. Raises :class:`ConfigError` for a wrong call, :class:`MedfmError` where nothing can be made.
    """
    folder = Path(output).expanduser()
    if (folder / TABLE).exists() and not overwrite:
        raise ConfigError(
            f"--output {output} holds a reconstruction already; choose another folder, or --overwrite."
        )
    if folder.is_file() or folder.suffix.lower() in (".csv", ".gz", ".nii", ".json"):
        raise ConfigError(f"--output {output}: give a folder for the volumes.")
    made = _load(backbone, sequences, allow_synthetic_contrast, scale, choose_device(accelerator))
    manifest = list_volumes(source, made.modality, patient)
    who = identity(manifest, codes)
    labels = manifest.frame.get("label")
    cells = [None] * len(manifest) if labels is None else labels.tolist()
    masks = [m if isinstance(m, str) and m else None for m in cells]
    subjects = Subjects(manifest.paths, masks, file_names(who["record"]), manifest.patients, who)
    if made.wanted and len(manifest) > 1:
        _gather_moments(made, subjects, progress)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    written = skipped = 0
    for i, address in enumerate(subjects.addresses):
        try:
            files, left = _one(made, subjects, i, folder, scale, rows, progress)
        except MedfmError as error:
            LOG.warning("set aside: %s", set_aside(address, str(error)))
            continue
        written, skipped = written + files, skipped + left
    if skipped and not allow_synthetic_contrast:
        LOG.warning(
            "%d subject(s) lack %s, which is not made: what takes up contrast agent cannot be known without it. "
            "--allow-synthetic-contrast makes it all the same.",
            skipped, CONTRAST,
        )  # fmt: skip
    if not written:
        raise MedfmError(
            f"{source}: nothing was made: no subject could be read that lacks a sequence"
            + (f" other than {CONTRAST}" if skipped else "")
            + "; name a sequence to make from the others with --sequence, and compare it with the acquired one."
        )
    results = {
        "research_use": RESEARCH_USE,
        "model": made.bundle.card.id,
        "files": written,
        "output": str(folder),
        "compared": synthesis.summary(rows, ARMS, METRICS),
        "verdicts": verdicts(rows),
    }
    with writing(folder):
        (folder / SUMMARY).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def _load(
    backbone: str | Path, sequences: Sequence[str], contrast: bool, scale: Any, device: torch.device
) -> Synthesiser:
    from medfm.modalities.mri_sequences import sequence_of

    bundle = load_bundle(resolve(backbone))
    modality, network = bundle.modality(), bundle.build()
    if not hasattr(network, "reconstruct") or network.config().get("decoder") != "reconstruction":
        raise ConfigError(
            f"{bundle.card.id} has no decoder that makes sequences: take a backbone that bm_mae pretrained "
            "(medfm pretrain --modality mri), as it is and not fine-tuned."
        )
    wanted = []
    for name in sequences:
        own = sequence_of(name, modality.channels)
        if own is None:
            raise ConfigError(
                f"--sequence {name}: {bundle.card.id} knows {', '.join(modality.channels)}; name one of these."
            )
        if own == CONTRAST and not contrast:
            raise ConfigError(
                f"--sequence {name}: a post-contrast sequence shows where contrast agent went, which no other sequence does. If you "
                "want a synthetic one all the same, for research, say so with --allow-synthetic-contrast."
            )
        wanted.append(own)
    if scale is not None and len(wanted) != 1:
        raise ConfigError("--scale is of one sequence; name it with --sequence.")
    return Synthesiser(bundle, modality, network.to(device).eval(), device, tuple(wanted), contrast)


def _gather_moments(made: Synthesiser, subjects: Subjects, show: bool) -> None:
    """What the regression needs of every subject, so that each is judged by a fit on other patients."""
    with progress_bar(show, "reading subjects", len(subjects.addresses), "subjects") as bar:
        for i, address in enumerate(subjects.addresses):
            try:
                sample = made.modality.place(made.modality.open(address)).sample
            except MedfmError:
                continue  # said when it is its turn
            made.own[i] = synthesis.moments(sample.x, foreground(sample.x, sample.present))
            bar.update(i + 1)


def foreground(x: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Voxels of the head ``[X, Y, Z]``: those that are neither 0 nor without measurement in any sequence that is there."""
    there = x[present]
    inside: np.ndarray = ((there != 0) & np.isfinite(there)).all(0)
    return inside


def _one(
    made: Synthesiser,
    subjects: Subjects,
    i: int,
    folder: Path,
    scale: tuple[float, float] | None,
    rows: list[dict[str, Any]],
    show: bool,
) -> tuple[int, int]:
    """Write what subject i is to get; how many files, and whether a contrast sequence was left out."""
    placement = made.modality.place(made.modality.open(subjects.addresses[i]))
    x, present = placement.sample.x, placement.sample.present
    names = made.modality.channels
    lacks = (
        not made.wanted and any(n == CONTRAST and not p for n, p in zip(names, present)) and not made.contrast
    )
    count = 0
    for target in made.targets(present):
        inputs = [c for c in range(len(names)) if present[c] and c != target]
        if not inputs:
            raise MedfmError(f"has {names[target]} alone: there is nothing to make it from.")
        tiles = tile_count(x.shape[1:], made.modality.size, made.overlap)
        label = f"{names[target]} of subject {i + 1} of {len(subjects.addresses)}"
        with progress_bar(show, label, tiles, "tiles") as bar:
            guess = made.guess(x, present, target, bar.update)
        inside = foreground(x, np.isin(np.arange(len(names)), inputs))
        guess[~inside] = 0.0
        if present[target]:
            _compare(made, subjects, i, placement, guess, inside, inputs, target, rows)
            with writing(folder):
                _write_rows(folder, rows)
        with writing(folder):
            _write(made, subjects, i, folder, placement, guess, inside, inputs, target, scale)
        count += 1
    return count, int(lacks)


def _compare(
    made: Synthesiser, subjects: Subjects, i: int, placement: Any, guess: np.ndarray, inside: np.ndarray,
    inputs: list[int], target: int, rows: list[dict[str, Any]],
) -> None:  # fmt: skip
    from medfm.formats.volume import read_volume

    x = placement.sample.x
    truth = np.nan_to_num(x[target])
    parts = {}
    if mask := subjects.masks[i]:
        label = placement.label(read_volume(mask, label=True).x)
        parts = {"tumour": (label > 0) & inside, "enhancing part": np.isin(label, ENHANCING) & inside}
    guesses = {MODEL: guess, MEAN: np.where(inside, np.nan_to_num(x[inputs]).mean(0), 0.0)}
    mine, needed = subjects.patients[i], [*inputs, target]
    others = [
        m
        for j, m in made.own.items()
        if subjects.patients[j] != mine and np.isfinite(m[0, [1 + c for c in needed]]).all()
    ]
    if others:
        fitted = synthesis.regression(_summed(others, needed), inputs, target)
        guesses[REGRESSION] = np.where(inside, synthesis.applied(fitted, np.nan_to_num(x), inputs), 0.0)
    base = {k: v for k, v in subjects.who.iloc[i].items() if k != "path"}
    from_ = "+".join(made.modality.channels[c] for c in inputs)
    for arm, one in guesses.items():
        found = synthesis.fidelity(truth, one, inside, parts)
        rows.append({**base, "sequence": made.modality.channels[target], "from": from_, "arm": arm, **found})


def _summed(moments: list[np.ndarray], channels: list[int]) -> np.ndarray:
    """Their sum where all of ``channels`` are there, zero elsewhere."""
    at = np.ix_([0, *(c + 1 for c in channels)], [0, *(c + 1 for c in channels)])
    total = np.zeros_like(moments[0])
    total[at] = sum(m[at] for m in moments)
    return total


def _write(
    made: Synthesiser, subjects: Subjects, i: int, folder: Path, placement: Any, guess: np.ndarray,
    inside: np.ndarray, inputs: list[int], target: int, scale: tuple[float, float] | None,
) -> None:  # fmt: skip
    """Volume, sidecar and picture."""
    names = made.modality.channels
    path = folder / f"{subjects.names[i]}_{names[target]}_{MARK}.nii.gz"
    values = guess if scale is None else np.where(inside, guess * scale[1] + scale[0], 0.0).astype(np.float32)
    units = "z-score over the foreground" if scale is None else f"z-score * {scale[1]:g} + {scale[0]:g}"
    model = public_ref(str(made.bundle.path), made.bundle.card.id)
    write_nifti(
        path,
        placement.back(values[None].astype(np.float32), order=1)[0],
        placement.file_affine,
        description=f"{MARK} {names[target]} by {made.bundle.card.id}, {units}",
    )
    said = {
        "Synthetic": True,
        "Sequence": names[target],
        "MadeFrom": [names[c] for c in inputs],
        "Model": model,
        "ModelSHA256": made.bundle.weights_sha256,
        "Units": units,
        "Note": f"Made by a model, not measured. {RESEARCH_USE}",
    }
    sidecar(path).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    figure = _picture(made, placement, guess, inside, inputs, target, subjects.names[i])
    figure.savefig(path.with_name(f"{subjects.names[i]}_{names[target]}_{MARK}.png"), dpi=130)


def _picture(
    made: Synthesiser, placement: Any, guess: np.ndarray, inside: np.ndarray, inputs: list[int], target: int, name: str
) -> Any:  # fmt: skip
    from medfm.evaluation.synthesis_figures import synthesis as draw
    from medfm.modalities.volume_views import axial_slices

    modality, x = made.modality, placement.sample.x
    there = bool(placement.sample.present[target])
    volumes = [*(x[c] for c in inputs), guess, *([x[target]] if there else [])]
    stack = np.stack([np.where(inside, v, np.nan) for v in volumes])[:, None]
    height = np.flatnonzero(inside.any((0, 1))) if modality.orientation[2] in "SI" else np.zeros(0)
    at = 0.5 if not height.size else (height.mean() + 0.5) / inside.shape[2]
    cut = axial_slices(stack, modality.orientation, modality.spacing, float(at))[:, 0]
    pairs = [(modality.channels[c], cut[k]) for k, c in enumerate(inputs)]
    truth = cut[len(inputs) + 1] if there else None
    caption = f"{name}: made by {made.bundle.card.id}, not measured. {RESEARCH_USE}"
    return draw(pairs, modality.channels[target], cut[len(inputs)], truth, caption)


def _write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as out:
        columns = list(dict.fromkeys(k for row in rows for k in row))
        writer = csv.DictWriter(out, columns, restval="")
        writer.writeheader()
        writer.writerows(
            {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence a sequence and metric: is the model better than both baselines, by the mean over subjects?"""
    out = []
    lines = synthesis.summary(rows, ARMS, METRICS)
    for sequence in dict.fromkeys(line["sequence"] for line in lines):
        by = {line["arm"]: line for line in lines if line["sequence"] == sequence}
        for metric, words, larger in (("psnr", "PSNR", True), ("rmse tumour", "error in the tumour", False)):
            mine = by[MODEL].get(metric)
            others = {a: v for a in ARMS[1:] if a in by and (v := by[a].get(metric)) is not None}
            if mine is None or not others:
                continue
            best = (max if larger else min)(others, key=lambda a: others[a])
            better = mine > others[best] if larger else mine < others[best]
            unit = " dB" if larger else ""
            out.append(
                f"{sequence}, {words}: {mine:.2f}{unit}; the better of the simple ways ({best}) {others[best]:.2f}{unit}: the model is "
                f"{'better' if better else 'NOT better'}, over {by[MODEL]['subjects']} subject(s)."
            )
    return out
