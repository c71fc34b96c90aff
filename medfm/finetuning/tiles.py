"""A network over a whole volume, tile by tile: overlapping tiles, weighted by a Gaussian, summed in a slab that moves on.

Tiles and weights are MONAI's (``sliding_window_inference``, mode ``gaussian``): the result is the same, but no more than a
slab as thick as a tile is held in float32, on the CPU. K classes and background, S spatial axes.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from medfm.types import MedfmError

SIGMA = 0.125  # of the Gaussian, in sizes of a tile
LEAST = 1e-3  # weight at the corners
WORKSPACE = 1.5  # what convolutions need beside the tensors that are alive
KEPT = 2**31  # bytes of class probabilities kept for going back to the file's grid; else labels alone

Call = Callable[[Tensor], Tensor]
Read = Callable[[np.ndarray], Tensor]


@dataclass(frozen=True)
class Segmented:
    """labels ``[*S]``, 0 background; probabilities float16 ``[K + 1, *S]``, None where they would be too large."""

    labels: np.ndarray
    probabilities: np.ndarray | None

    def plane(self, k: int) -> np.ndarray:
        """Of class k, float32 ``[*S]``: its probability, or where it is."""
        whole = self.labels == k if self.probabilities is None else self.probabilities[k]
        return whole.astype(np.float32)


def starts(length: int, size: int, overlap: float) -> list[int]:
    """First voxels of the tiles along an axis; one that is shorter than a tile lies in its middle."""
    if length <= size:
        return [-((size - length) // 2)]
    step = max(1, int(size * (1 - overlap)))
    count = -(-(length - size) // step) + 1
    return [min(i * step, length - size) for i in range(count)]


def gaussian(size: Sequence[int]) -> Tensor:
    """Weights ``[*size]``: one in the middle, at least :data:`LEAST`."""
    weight = torch.ones(())
    for n in size:
        x = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
        weight = weight[..., None] * torch.exp(-(x**2) / (2 * (SIGMA * n) ** 2))
    return weight.clamp_min(max(float(weight.min()), LEAST))


@torch.inference_mode()
def slabs(
    call: Call,
    read: Read,
    shape: Sequence[int],
    size: Sequence[int],
    *,
    overlap: float = 0.5,
    batch_size: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, int, Tensor]]:
    """``(axis, first, logits [K + 1, *S'])``, layer by layer along the longest axis, each voxel once.

    read: origins ``[B, 3]`` (they may lie before the volume) -> what ``call`` takes; call: -> logits ``[B, K + 1, *size]``.
    """
    axis = int(np.argmax(shape))
    along = [starts(n, s, overlap) for n, s in zip(shape, size)]
    weight = gaussian(size)
    held = [min(n, s) if a == axis else n for a, (n, s) in enumerate(zip(shape, size))]
    total, share, done = torch.zeros(0), torch.zeros(held), 0
    for i, start in enumerate(along[axis]):
        others = [[start] if a == axis else line for a, line in enumerate(along)]
        origins = np.array(list(itertools.product(*others)), np.int64)
        for part in (origins[b : b + batch_size] for b in range(0, len(origins), batch_size)):
            for origin, logits in zip(part, call(read(part)).float().cpu()):
                if not total.numel():
                    total = torch.zeros(len(logits), *held)
                inside, place = [], []
                for a, (o, n, s) in enumerate(zip(origin.tolist(), shape, size)):
                    low, high = max(o, 0), min(o + s, n)
                    first = low - (max(start, 0) if a == axis else 0)
                    inside.append(slice(low - o, high - o))
                    place.append(slice(first, first + high - low))
                w = weight[tuple(inside)]
                total[(slice(None), *place)] += logits[(slice(None), *inside)] * w
                share[tuple(place)] += w
            done += len(part)
            if progress:
                progress(done)
        last = i + 1 == len(along[axis])
        ready = held[axis] if last else along[axis][i + 1] - start
        yield axis, max(start, 0), total.narrow(axis + 1, 0, ready) / share.narrow(axis, 0, ready)
        if not last:
            rest = held[axis] - ready
            for tensor, at in ((total, axis + 1), (share, axis)):
                kept = tensor.narrow(at, ready, rest).clone()
                tensor.narrow(at, 0, rest).copy_(kept)
                tensor.narrow(at, rest, ready).zero_()


def tile_count(shape: Sequence[int], size: Sequence[int], overlap: float) -> int:
    return int(np.prod([len(starts(n, s, overlap)) for n, s in zip(shape, size)]))


def segment(
    call: Call, read: Read, shape: Sequence[int], size: Sequence[int], *, keep: int = KEPT, **how: Any
) -> Segmented:
    """Label of the largest probability at every voxel; ``keep``: bytes of probabilities that may be kept."""
    labels = np.zeros(tuple(shape), np.uint8)
    kept: np.ndarray | None = None
    with enough_memory(size):
        for axis, first, logits in slabs(call, read, shape, size, **how):
            p = logits.softmax(0)
            if first == 0 and 2 * len(p) * labels.size <= keep:
                kept = np.zeros((len(p), *labels.shape), np.float16)
            at = [slice(None)] * 3
            at[axis] = slice(first, first + p.shape[axis + 1])
            labels[tuple(at)] = p.argmax(0).numpy().astype(np.uint8)
            if kept is not None:
                kept[(slice(None), *at)] = p.numpy().astype(np.float16)
    return Segmented(labels, kept)


def back_labels(segmented: Segmented, back: Callable[..., np.ndarray], classes: int) -> np.ndarray:
    """Labels uint8 on the file's grid, one class at a time: ``back(values [1, *S], order) -> [1, *file shape]``; each voxel
    gets the class that is largest there, and background where all are equal (outside what the model saw)."""
    best = labels = None
    for k in range(classes + 1):
        value = back(segmented.plane(k)[None], order=1)[0]
        if best is None or labels is None:
            best, labels = value, np.zeros(value.shape, np.uint8)
            continue
        larger = value > best
        labels[larger] = k
        np.maximum(best, value, out=best)
    assert labels is not None
    return labels


@dataclass(frozen=True)
class Estimate:
    """Of one volume: tiles, seconds, bytes of a tile's network and of the slab and masks beside it."""

    tiles: int
    seconds: float
    tile_bytes: int
    slab_bytes: int


def estimate(
    call: Call, channels: int, outputs: int, shape: Sequence[int], size: Sequence[int], *, overlap: float = 0.5,
    device: torch.device | str = "cpu",
) -> Estimate:  # fmt: skip
    """Memory from a tile of half the edge, scaled by its voxels, before a whole one is run and timed.

    Raises :class:`MedfmError` where one tile needs more memory than there is.
    """
    device, half = torch.device(device), tuple(max(1, n // 2) for n in size)
    try:
        need = int(_peak(call, channels, half, device) * np.prod(size) / np.prod(half))
    except (RuntimeError, ValueError):  # some networks take no tile so small
        need = 0
    free = available(device)
    if free is not None and need > free:
        raise MedfmError(_too_little(size, need, free))
    began = time.perf_counter()
    with enough_memory(size):
        need = need or _peak(call, channels, tuple(size), device)
        call(torch.zeros(1, channels, *size, device=device))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    count = tile_count(shape, size, overlap)
    layer = int(np.prod(shape)) // max(shape)
    slab = 4 * outputs * layer * min(max(shape), size[int(np.argmax(shape))])
    return Estimate(count, count * (time.perf_counter() - began), need, 2 * slab)


def available(device: torch.device) -> int | None:
    """Free bytes of the device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


@contextmanager
def enough_memory(size: Sequence[int]) -> Iterator[None]:
    """Turns torch's own words for too little memory into a sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        starved = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        if not starved:
            raise
        raise MedfmError(_too_little(size)) from error


def _too_little(size: Sequence[int], need: int | None = None, free: int | None = None) -> str:
    edge = " x ".join(map(str, size))
    numbers = (
        "" if need is None or free is None else f" (about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free)"
    )
    return (
        f"one tile of {edge} voxels needs more memory than there is{numbers}: free some, use another machine, or train "
        "with a smaller finetune.patch."
    )


def _peak(call: Call, channels: int, size: Sequence[int], device: torch.device) -> int:
    """Bytes of the tensors that are alive at once while one tile runs, with room for what operators need beside them."""
    x = torch.zeros(1, channels, *size, device=device)
    with torch.no_grad(), _Alive() as alive:
        call(x)
    return int(WORKSPACE * (alive.most + x.nbytes))


class _Alive(TorchDispatchMode):
    """Counts the bytes of storages that were made inside and are still referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def _free(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage not in self._seen:
                    self._seen.add(storage)
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._free, storage.nbytes())
        return out
