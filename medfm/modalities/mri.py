"""The MRI of a subject: several sequences on one grid in mm, each a channel, as z-scores over its foreground.

Shapes: C sequences, X x Y x Z the grid, axes to the right, front and head. An address names the files
(:mod:`medfm.formats.subject`). Sequences that a subject lacks are NaN and ``present`` False, everywhere: no value stands in
for them. The chain is that of BM-MAE for BraTS (1 mm, 128 voxels an edge, z-scores over the voxels that are not zero), with
the axes turned to where they are said to point.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medfm.formats.subject import split_subject, subject_files
from medfm.modalities import mri_checks, mri_grid, volume_grid
from medfm.modalities.mri_augment import AUGMENTATIONS, augmentation
from medfm.modalities.mri_foreground import masks_of, scored
from medfm.modalities.mri_sequences import (
    SEQUENCES,
    checked_sequences,
    contradicts,
    sequence_of,
    subject_name,
)
from medfm.modalities.volume_grid import Placement
from medfm.types import Finding, MedfmError, ReadError, Sample, Volume

Way = Literal["refuse", "resample"]


@dataclass(frozen=True)
class SubjectPlacement(Placement):
    """A subject on the model's grid. The file's grid is that of ``reference``, the first sequence that is there. scales:
    mean and deviation of each sequence ``[C, 2]`` in its file's units (z-score = (value - mean) / deviation), NaN where absent.
    """

    scales: np.ndarray
    reference: str


class MRI:
    """The MRI modality. Keywords are the fields of ``MRISettings``; :meth:`settings` gives them back.

    size: voxels of what a network takes at once; spacing: mm; orientation: of the axes; sequences: the channels, in order;
    foreground: ``auto``, ``nonzero``, ``otsu`` or ``none`` (:mod:`~medfm.modalities.mri_foreground`); grid: sequences on different
    grids are a ``refuse`` or brought to that of the first present by ``resample``; percentiles: clip to these of the foreground
    first; gaps, tilt: of DICOM; synthetic: files that a model made are a ``refuse`` or an ``allow``. Raises :class:`MedfmError`
    on settings that contradict each other.
    """

    name = "mri"
    rank = 3

    def __init__(
        self,
        size: Sequence[int] = (128, 128, 128),
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        orientation: str = "RAS",
        sequences: Sequence[str] = SEQUENCES,
        foreground: str = "auto",
        grid: Way = "refuse",
        percentiles: Sequence[float] | None = None,
        gaps: Way = "refuse",
        tilt: Way = "refuse",
        synthetic: str = "refuse",
    ) -> None:
        self.sequences = checked_sequences(sequences)
        self._size = tuple(int(n) for n in size)
        self._spacing = tuple(float(mm) for mm in spacing)
        self.orientation, self.foreground = orientation, foreground
        self.grid: Way = grid
        self.percentiles = None if percentiles is None else (float(percentiles[0]), float(percentiles[1]))
        self.gaps: Way = gaps
        self.tilt: Way = tilt
        self.synthetic = synthetic

    @property
    def channels(self) -> tuple[str, ...]:
        return self.sequences

    @property
    def stored(self) -> tuple[str, ...]:
        return self.sequences

    @property
    def spacing(self) -> tuple[float, ...]:
        return self._spacing

    @property
    def size(self) -> tuple[int, ...]:
        return self._size

    @property
    def suffixes(self) -> tuple[str, ...]:
        from medfm.formats.volume import SUFFIXES

        return tuple(SUFFIXES)

    def settings(self) -> dict[str, Any]:
        """Plain JSON that rebuilds this modality through ``MRISettings``; it travels in the bundle."""
        return {
            "name": self.name,
            "size": list(self._size),
            "spacing": list(self._spacing),
            "orientation": self.orientation,
            "sequences": list(self.sequences),
            "foreground": self.foreground,
            "grid": self.grid,
            "percentiles": None if self.percentiles is None else list(self.percentiles),
            "gaps": self.gaps,
            "tilt": self.tilt,
            "synthetic": self.synthetic,
        }

    def ingest_settings(self) -> dict[str, Any]:
        """The settings that shape a stored subject: all but the size."""
        return {k: v for k, v in self.settings().items() if k != "size"}

    # Reading
    # -----------------------------------------------------------------------------------------------------------------

    def open(self, address: str | Path) -> dict[str, Volume]:
        """The sequences of a subject as their files have them. A plain path is the one sequence of a modality that has one.

        Raises:
            ReadError: no sequence of this modality, two files for one or one for two, a file whose name says that it is
                another sequence, a synthetic file, or what its reader refuses.
        """
        from medfm.formats.synthetic import is_synthetic
        from medfm.formats.volume import read_volume

        files, unused = self._files(address)
        volumes = {}
        for name, file in files.items():
            if self.synthetic == "refuse" and is_synthetic(file):
                raise ReadError(
                    f"{file}: is synthetic (a model made it, as its name, header or sidecar says); leave {name} out of this "
                    "subject, or take it all the same with modality.synthetic=allow."
                )
            volumes[name] = read_volume(file, gaps=self.gaps, tilt=self.tilt)
        if unused:
            first = next(iter(volumes))
            told = Finding(
                "sequences-unused", f"{', '.join(unused)}: not among modality.sequences, not read.", "info"
            )
            volumes[first] = dataclasses.replace(volumes[first], findings=(*volumes[first].findings, told))
        return volumes

    def _files(self, address: str | Path) -> tuple[dict[str, str], list[str]]:
        """The file of each sequence, in the modality's order, and names that it does not have."""
        named = split_subject(address)
        if named is None:
            if len(self.sequences) > 1:
                raise ReadError(
                    f"{address}: names one file and no sequence of {', '.join(self.sequences)}; make a table with a column a "
                    "sequence, scan the folder (medfm data scan), or write t1=FILE;flair=FILE."
                )
            named = {self.sequences[0]: str(address)}
        files = self._in_order(named)
        places = [(n, os.path.realpath(f.partition("#")[0]), f.partition("#")[2]) for n, f in files.items()]
        for (a, *first), (b, *second) in combinations(places, 2):
            if first == second:
                raise ReadError(
                    f"{files[a]}: stands for both {a} and {b}; leave the one that is missing blank."
                )
        for name, file in files.items():
            if other := contradicts(name, file):
                raise ReadError(
                    f"{file}: stands for {name}, and its name says {other}; were two columns exchanged? Correct the table, or "
                    "rename the file if its name is wrong."
                )
        return files, [n for n in named if sequence_of(n, self.sequences) is None]

    def _in_order(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """``named`` under the modality's own names, in its order. Raises :class:`ReadError` for none, or two of one name."""
        found: dict[str, Any] = {}
        for name, value in named.items():
            own = sequence_of(name, self.sequences)
            if own in found:
                raise ReadError(f"has two files for the sequence {own}; leave out all but one.")
            if own is not None:
                found[own] = value
        if not found:
            raise ReadError(
                f"has none of the sequences {', '.join(self.sequences)} (it names {', '.join(named) or 'nothing'}); set "
                "modality.sequences to the names that your files have."
            )
        return {name: found[name] for name in self.sequences if name in found}

    def read(self, path: str | Path, fs: float | None = None, quality: bool = True) -> Sample:
        """One subject as a :class:`Sample`: x float32 ``[C, X, Y, Z]`` z-scores on the model's grid, NaN where absent or not
        measured. Raises :class:`ReadError` naming a file; ``fs`` is for signals, and refused."""
        if fs is not None:
            raise ReadError(f"{path}: a volume has no sampling rate; drop the table's 'fs' column.")
        try:
            sample = self.place(self.open(path)).sample
        except ReadError as error:
            named = any(part in str(error) for part in (str(path), *subject_files(path)))
            raise error if named else ReadError(f"{path}: {error}") from error
        return sample.replace(record=subject_name(str(path)))

    def place(self, volumes: Mapping[str, Volume]) -> SubjectPlacement:
        """Sequences by name on the model's grid, with the way back to the file's.

        A sequence that holds one value everywhere (files of zeros are written for missing ones) counts as missing, with a
        finding, as long as another is there.

        Raises:
            ReadError: Hounsfield units, several patients, no sequence with a picture, one twice, or different grids.
        """
        found = self._in_order(volumes)
        mri_checks.checked(found)
        kept, findings = mri_checks.with_a_picture(found)
        reference, home = next(iter(kept.items()))
        arrays, told = self._on_one_grid(kept)
        masks, chosen = masks_of(arrays, home.spacing, self.foreground)
        scales = np.full((len(self.sequences), 2), np.nan)
        z = {}
        for name in list(arrays):
            done = scored(arrays.pop(name), masks[name], self.percentiles, self.foreground != "none")
            if done is None:
                findings.append(mri_checks.constant(name, "one value over its foreground"))
                continue
            z[name], *scales[self.sequences.index(name)] = done
        if not z:
            raise ReadError(
                "none of its sequences shows a picture: each holds one value over its foreground."
            )
        mri_checks.none_twice(z)
        return self._placed(
            found, home, reference, z, masks, scales, (*mri_checks.of_files(found), *findings, *told, *chosen)
        )

    def _on_one_grid(self, kept: dict[str, Volume]) -> tuple[dict[str, np.ndarray], list[Finding]]:
        """Values of each sequence on the grid of the first."""
        (reference, home), *others = kept.items()
        arrays, findings = {reference: mri_grid.values_of(home)}, []
        for name, volume in others:
            if not mri_grid.same_grid(volume, home):
                said = f"its {name} does not lie on the grid of its {reference}: {mri_grid.difference(volume, home)}"
                if self.grid == "refuse":
                    raise ReadError(
                        f"{said}. Register and resample them first, or, if their coordinates are right, bring all on the grid of "
                        f"{reference} with modality.grid=resample."
                    )
                if mri_grid.cover(volume, home) < mri_grid.LEAST_COVER:
                    raise ReadError(
                        f"{said}. Too little is shown by both to be one subject's picture: leave {name} out, or check "
                        "whether it is of another part of the body."
                    )
                findings.append(
                    Finding("grid-resampled", f"{said}; it was resampled, and not registered.", channel=name)
                )
            arrays[name] = mri_grid.onto(volume, home)
        return arrays, findings

    def _placed(
        self,
        found: dict[str, Volume],
        home: Volume,
        reference: str,
        z: dict[str, np.ndarray],
        masks: dict[str, np.ndarray],
        scales: np.ndarray,
        findings: tuple[Finding, ...],
    ) -> SubjectPlacement:
        """z-scores of the file's grid turned, resampled and cut to the box of the foreground, which is that of all together."""
        turn, turned, full, steps, affine = volume_grid.grid_of(home, self._spacing, self.orientation)
        box = tuple(slice(0, n) for n in full)
        if self.foreground != "none":
            seen = [turn.apply(masks[name]) for name in z]
            box = mri_checks.box_around(seen, full, steps, self._spacing)
        affine = affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
        x = np.full((len(self.sequences), *(s.stop - s.start for s in box)), np.nan, np.float32)
        for name in list(z):
            moved = mri_grid.through(turn.apply(z.pop(name)), lambda v: volume_grid.resample(v, full, steps))
            x[self.sequences.index(name)] = moved[box]
        if any(n < s for n, s in zip(x.shape[1:], self._size)):
            have, want = (" x ".join(map(str, v)) for v in (x.shape[1:], self._size))
            message = f"has {have} voxels on the model's grid and is padded to {want}."
            findings += (Finding("smaller-than-crop", message, "info"),)
        sample = Sample(
            x=x,
            spacing=self._spacing,
            channels=self.sequences,
            present=np.isfinite(scales[:, 0]),
            modality=self.name,
            record=home.record,
            patient=next((v.patient for v in found.values() if v.patient), None),
            findings=findings,
        )
        return SubjectPlacement(
            sample,
            turn,
            tuple(home.x.shape),
            home.affine,
            turned,
            full,
            steps,
            box,
            affine,
            scales,
            reference,
        )

    # To the network
    # -----------------------------------------------------------------------------------------------------------------

    def normalise(self, x: np.ndarray, present: np.ndarray, copy: bool = True) -> np.ndarray:
        """``x [..., C, X, Y, Z]`` z-scores -> the network's input, float32: an absent sequence NaN whatever lies in its place,
        and background (0) where a present one has no measurement, beyond its border too. ``present [..., C]``."""
        present = np.asarray(present, bool)
        if x.shape[-4] != len(self.sequences) or present.shape != x.shape[:-3]:
            raise MedfmError(
                f"an MRI subject has {len(self.sequences)} channels ({', '.join(self.sequences)}), and not {x.shape[-4]}."
            )
        out = np.array(x, np.float32) if copy else np.asarray(x, np.float32)
        np.nan_to_num(out, copy=False, nan=0.0)
        out[~present] = np.nan
        return out

    def seen(self, present: np.ndarray) -> np.ndarray:
        """``present [..., C]`` of the subject is that of the network's channels."""
        return np.asarray(present, bool)

    def prepare(self, sample: Sample) -> Sample:
        """As a network gets it; of any extent. Deterministic."""
        return sample.replace(x=self.normalise(sample.x, sample.present))

    # Augmentation
    # -----------------------------------------------------------------------------------------------------------------

    def augment_batch(
        self,
        x: np.ndarray,
        present: np.ndarray,
        rng: np.random.Generator,
        names: Sequence[str],
        labels: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """``x [B, C, X, Y, Z]`` z-scores and ``present [B, C]`` through the named augmentations, in the order of the table.

        ``labels [B, K, X, Y, Z]`` go with them in place: what moves a subject moves its mask. Returns new arrays, absent
        sequences NaN; the same rng state gives the same batch. Raises :class:`MedfmError` on an unknown name.
        """
        chosen = [augmentation(name) for name in dict.fromkeys(names)]
        x, present = np.array(x, np.float32), np.array(present, bool)
        x[~present] = np.nan
        for one in sorted(chosen, key=lambda a: list(AUGMENTATIONS).index(a.name)):
            one.apply(x, rng, labels)
        return x, present

    def alters(self, name: str) -> frozenset[str]:
        """Kinds of label that an augmentation falsifies. Raises :class:`MedfmError` on an unknown name."""
        return augmentation(name).alters

    def augment(self, sample: Sample, rng: np.random.Generator, names: Sequence[str] | None = None) -> Sample:
        """One subject, augmented before :meth:`prepare`; all augmentations when no names are given."""
        names = tuple(AUGMENTATIONS) if names is None else names
        x, present = self.augment_batch(sample.x[None], sample.present[None], rng, names)
        return sample.replace(x=x[0], present=present[0])
