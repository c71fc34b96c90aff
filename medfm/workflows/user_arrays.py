"""Arrays that a user hands over, as one reader a record; what an array does not say is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from medfm.types import Image, MedfmError, Sample, Signal


def signals(
    x: np.ndarray, modality: Any, fs: float | None, channels: Sequence[str] | None
) -> list[Callable[[], Sample]]:
    """``x [C, T]`` or ``[n, C, T]`` at ``fs`` Hz; ``channels`` None: the modality's in its order."""
    if fs is None:
        raise MedfmError(
            "an array does not say its sampling rate: give it in Hz, as in model.embed(x, fs=500)."
        )
    if not (np.isfinite(fs) and fs > 0):
        raise MedfmError(f"fs must be a positive number of Hz, not {fs}.")
    if x.ndim not in (2, 3):
        raise MedfmError(
            f"an array must be [channels, samples] or [records, channels, samples], not {list(x.shape)}."
        )
    batch = x if x.ndim == 3 else x[None]
    names = tuple(modality.channels if channels is None else channels)
    if batch.shape[1] != len(names):
        told = "has these" if channels is None else "were named"
        raise MedfmError(
            f"the array has {batch.shape[1]} channels, the model {told}: {', '.join(names)}. "
            "Name the array's own in their order, as in model.embed(x, fs=500, channels=['I', 'II'])."
        )

    def read(i: int) -> Sample:
        signal = Signal(
            np.asarray(batch[i], np.float32),
            float(fs),
            names,
            ("mV",) * len(names),
            "array",
            record=f"record {i}",
        )
        return modality.from_signal(signal)

    return [partial(read, i) for i in range(len(batch))]


def pictures(
    x: np.ndarray, modality: Any, fs: float | None, channels: Sequence[str] | None
) -> list[Callable[[], Sample]]:
    """Grey pictures ``[H, W]`` or ``[n, H, W]``, or with channels ``[n, C, H, W]`` (C 1 or 3), bone bright. Percentiles
    of each picture become black and white, as for a file without a window."""
    if fs is not None or channels is not None:
        raise MedfmError(
            "pictures have neither a sampling rate nor named channels: leave out fs and channels."
        )
    if x.ndim not in (2, 3, 4) or (x.ndim == 4 and x.shape[1] not in (1, 3)):
        raise MedfmError(
            "an array of pictures must be [rows, columns], [pictures, rows, columns] or [pictures, channels, rows, "
            f"columns] with 1 or 3 channels, not {list(x.shape)}."
        )
    batch = x[None, None] if x.ndim == 2 else x[:, None] if x.ndim == 3 else x

    def read(i: int) -> Sample:
        values = np.asarray(batch[i], np.float32)
        meant = "MONOCHROME2" if len(values) == 1 else "RGB"
        bits = 8 * x.dtype.itemsize
        return modality.from_image(Image(values, meant, bits, "array", record=f"record {i}"))

    return [partial(read, i) for i in range(len(batch))]


def volumes(
    x: np.ndarray, modality: Any, fs: float | None, channels: Sequence[str] | None
) -> list[Callable[[], Sample]]:
    """Refused: an array says neither its spacing nor its orientation, and a model needs both."""
    raise MedfmError(
        "an array does not say how large its voxels are nor where its axes point: give a medfm.types.Volume with its "
        "affine and unit='HU', or a file."
    )
