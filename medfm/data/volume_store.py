"""The ingest store for volumes: placed on the model's grid once, then read as crops without loading the volume.

It is a signal store (:mod:`medfm.data.store`) whose records are volumes laid out flat, ``[C, X x Y x Z]``, the last axis
running fastest, with each one's shape and affine in the index: keys, parts, publication by rename and int16 with a gain a
channel are the same code. -32768 is NaN: no measurement. A mask is a channel ``label`` beside ``HU``, or beside the sequences
of an MRI subject, of which those that are absent are NaN throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medfm.data.flat_store import FlatStore
from medfm.data.manifest import Manifest
from medfm.data.store import NAN, Chunk, SignalStore, build, filled, fingerprint
from medfm.types import MedfmError, ReadError

LABEL = "label"


class VolumeStore(FlatStore):
    """A published store of volumes of different extents, read-only. Cheap to pickle: workers map the file by themselves."""

    @classmethod
    def open(cls, path: Path) -> VolumeStore:
        return cls(SignalStore.open(path))

    @property
    def shapes(self) -> np.ndarray:
        """Voxels along each axis ``[n, 3]``."""
        return self.flat.extra["shape"]

    @property
    def affines(self) -> np.ndarray:
        """Voxel to mm (RAS+) of each stored grid ``[n, 4, 4]``."""
        return self.flat.extra["affine"]

    def _codes(self, row: int) -> np.ndarray:
        """``[C, X, Y, Z]`` int16, mapped."""
        shape = tuple(int(n) for n in self.shapes[row])
        first, count = int(self.flat.offsets[row]), len(self.channels) * int(np.prod(shape))
        return self.flat.codes[first : first + count].reshape(len(self.channels), *shape)

    def read(
        self, rows: Sequence[int] | np.ndarray, origins: np.ndarray, size: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Crops ``x [B, C, *size]`` float32 (NaN: outside, or no measurement) and ``present [B, C]``; ``origins [B, 3]``
        are first voxels, which may lie before the volume or so that the crop ends after it."""
        rows, size = np.asarray(rows), tuple(int(n) for n in size)
        x = np.empty((len(rows), len(self.channels), *size), np.float32)
        for b, (row, origin) in enumerate(zip(rows.tolist(), np.asarray(origins).tolist())):
            codes = self._codes(row)
            begin = [max(0, int(o)) for o in origin]
            end = [min(n, int(o) + s) for n, o, s in zip(codes.shape[1:], origin, size)]
            inside = tuple(slice(lo, max(lo, hi)) for lo, hi in zip(begin, end))
            place = tuple(
                slice(s.start - int(o), s.stop - int(o)) if s.stop > s.start else slice(0, 0)
                for s, o in zip(inside, origin)
            )
            part = codes[:, inside[0], inside[1], inside[2]]
            whole = part.shape[1:] == size
            if not whole:
                x[b] = np.nan
            target = x[b][:, place[0], place[1], place[2]]
            np.multiply(part, self.flat.gains[row][:, None, None, None], out=target, casting="same_kind")
            if self.flat.gaps[row]:
                target[part == NAN] = np.nan
        return x, self.flat.present[rows]

    def whole(self, row: int) -> np.ndarray:
        """``[C, X, Y, Z]`` float32, NaN: no measurement."""
        return self.read([row], np.zeros((1, 3), int), self.shapes[row])[0][0]


def build_volumes(
    inputs: dict[str, Any],
    chunks: int,
    make: Callable[[int], Chunk],
    *,
    channels: Sequence[str],
    root: Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> VolumeStore:
    """:func:`medfm.data.store.build` for volumes: ``make(i).signals`` are ``[C, X, Y, Z]`` float32, and ``extra`` holds
    each one's ``affine``."""
    store = build(
        {**inputs, "layout": "volumes"},
        chunks,
        _Flat(make),
        fs=1.0,  # a signal store has a rate; volumes have none
        channels=channels,
        root=root,
        jobs=jobs,
        progress=progress,
    )
    return VolumeStore.open(store.path)


@dataclass
class _Flat:
    """``make`` with every volume laid out flat; a class so that spawned workers can receive it."""

    make: Callable[[int], Chunk]

    def __call__(self, index: int) -> Chunk:
        chunk = self.make(index)
        extra = {**(chunk.extra or {}), "shape": [np.array(x.shape[1:], np.int64) for x in chunk.signals]}
        return chunk._replace(signals=[x.reshape(len(x), -1) for x in chunk.signals], extra=extra)


def ingest_volumes(
    manifest: Manifest,
    modality: Any,
    root: Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    labels: Sequence[str] | None = None,
) -> VolumeStore:
    """Read and place every volume of ``manifest`` once, one a part, so that memory does not grow with their number.

    labels: the path of each row's mask, which becomes the channel ``label``. A bad file is set aside in ``.failed``, one
    whose mask does not fit it too. Raises :class:`MedfmError` when nothing at all could be read, with the first reason.
    """
    masks = None if labels is None else [str(p) for p in labels]
    inputs = {
        "sources": fingerprint([*manifest.paths, *(masks or [])]),
        "settings": modality.ingest_settings(),
        "masks": masks is not None,
    }
    store = build_volumes(
        inputs,
        len(manifest),
        VolumeChunks(manifest.paths, modality, masks),
        channels=(*modality.stored, *(() if masks is None else (LABEL,))),
        root=root,
        jobs=jobs,
        progress=progress,
    )
    filled(store.flat, manifest)
    return store


@dataclass
class VolumeChunks:
    """Chunk ``i`` is volume ``i``; a class so that spawned workers can receive it."""

    paths: list[str]
    modality: Any
    masks: list[str] | None = None

    def __call__(self, index: int) -> Chunk:
        path = self.paths[index]
        try:
            placed = self.modality.place(self.modality.open(path))
            there = placed.sample.present[:, None, None, None]  # whatever lies where a sequence is missing
            x = np.where(there, placed.sample.x, np.float32(np.nan))
            if self.masks is not None:
                x = np.concatenate([x, self._mask(path, self.masks[index], placed)[None]])
        except Exception as error:  # one bad file never ends a run: it is set aside with its reason
            known = isinstance(error, MedfmError)
            why = str(error) if known else f"{type(error).__name__}: {error}"
            return Chunk([], [], [(index, path, why)])
        return Chunk([x.astype(np.float32, copy=False)], [index], [], None, {"affine": [placed.affine]})

    def _mask(self, path: str, mask: str, placed: Any) -> np.ndarray:
        """The mask on the model's grid. Raises :class:`ReadError` where it does not lie on the image's own."""
        from medfm.formats.volume import read_volume

        label = read_volume(mask, label=True)
        volume_affine, image = placed.file_affine, "the image"
        if reference := getattr(placed, "reference", None):  # of a subject's sequences
            image = f"its {reference}"
        if label.x.shape != placed.file_shape:
            have, want = (" x ".join(map(str, s)) for s in (label.x.shape, placed.file_shape))
            raise ReadError(
                f"its mask {Path(mask).name} has {have} voxels and {image} {want}: draw or export the mask on that grid."
            )
        if not np.allclose(
            label.affine, volume_affine, atol=1e-2 * float(np.abs(volume_affine[:3, :3]).max())
        ):
            raise ReadError(
                f"its mask {Path(mask).name} lies elsewhere than {image} (another origin, spacing or direction): export it "
                "on that grid."
            )
        return placed.label(label.x).astype(np.float32)
