"""The ingest store for pictures of one grid: decoded and resampled once, then read as batches by row.

It is a signal store (:mod:`medfm.data.store`) whose records are pictures laid out flat, ``[C, H x W]`` of one length:
chunks, keys, publication by rename and int16 with a gain a channel are the same code. -32768 is NaN: no picture there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medfm.data.flat_store import FlatStore
from medfm.data.manifest import Manifest
from medfm.data.store import CHUNK, Chunk, FileChunks, SignalStore, build, filled, fingerprint


@dataclass
class ImageStore(FlatStore):
    """A published store of pictures ``[C, *grid]``, read-only. Cheap to pickle: workers map the file by themselves."""

    grid: tuple[int, ...]

    @classmethod
    def open(cls, path: Path) -> ImageStore:
        meta = json.loads((path / "store.json").read_text(encoding="utf-8"))
        return cls(SignalStore.open(path), tuple(int(n) for n in meta["inputs"]["grid"]))

    def read(self, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pictures ``x [B, C, *grid]`` float32 (NaN: absent or no picture) and ``present [B, C]``; rows index the store."""
        x, present = self.flat.read(rows)
        return x.reshape(len(x), len(self.channels), *self.grid), present


def build_images(
    inputs: dict[str, Any],
    chunks: int,
    make: Callable[[int], Chunk],
    *,
    grid: Sequence[int],
    channels: Sequence[str],
    root: Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ImageStore:
    """:func:`medfm.data.store.build` for pictures: ``make(i).signals`` are ``[C, *grid]`` float32."""
    store = build(
        {**inputs, "grid": [int(n) for n in grid]},
        chunks,
        _Flat(make),
        fs=1.0,  # a signal store has a rate; pictures have none
        channels=channels,
        root=root,
        jobs=jobs,
        progress=progress,
    )
    return ImageStore.open(store.path)


@dataclass
class _Flat:
    """``make`` with every picture laid out flat; a class so that spawned workers can receive it."""

    make: Callable[[int], Chunk]

    def __call__(self, index: int) -> Chunk:
        chunk = self.make(index)
        return chunk._replace(signals=[x.reshape(len(x), -1) for x in chunk.signals])


def ingest_images(
    manifest: Manifest,
    modality: Any,
    root: Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ImageStore:
    """Read every picture of ``manifest`` once through ``modality.read``. A bad file is set aside in ``.failed``.

    Raises :class:`MedfmError` when nothing at all could be read, with the first reason.
    """
    inputs = {"sources": fingerprint(manifest.paths), "settings": modality.ingest_settings()}
    store = build_images(
        inputs,
        -(-len(manifest) // CHUNK),
        FileChunks(manifest.paths, modality),
        grid=modality.size,
        channels=modality.channels,
        root=root,
        jobs=jobs,
        progress=progress,
    )
    filled(store.flat, manifest)
    return store
