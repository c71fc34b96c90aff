"""FROZEN. Training windows of a NIfTI volume in plain nibabel and numpy: the reading half of the yardsticks of
``medfm bench pretrain --modality ct``.

What a training script does that has no ingest store, in the order of the usual transforms: read the whole file, axes to RAS,
spacing, window of HU to 0..1, box around what is not black, padding, windows at random places. Not changed since it was
written, so that a ratio measured today compares with one of last year. It imports nothing of medfm, and so is the one place
outside ``formats`` that knows nibabel. X, Y, Z voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F


def read_volume(path: str, spacing: Sequence[float]) -> np.ndarray:
    """float32 ``[X, Y, Z]`` in the file's units, at ``spacing`` mm; a file that has it already is not resampled."""
    image = nib.as_closest_canonical(nib.load(path))
    x = image.get_fdata(dtype=np.float32)
    zooms = image.header.get_zooms()[:3]
    if max(abs(have - want) for have, want in zip(zooms, spacing)) > 1e-3:
        size = [max(1, round(n * have / want)) for n, have, want in zip(x.shape, zooms, spacing)]
        tensor = torch.from_numpy(np.ascontiguousarray(x))[None, None]
        x = F.interpolate(tensor, size, mode="trilinear", align_corners=False)[0, 0].numpy()
    return x


def read_windows(
    path: str,
    spacing: Sequence[float],
    shown: tuple[float, float],
    size: Sequence[int],
    count: int,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """``count`` windows float32 ``[*size]``, 0..1, cut at random; ``shown``: HU that become 0 and 1."""
    low, high = shown
    x = np.clip((read_volume(path, spacing) - low) / (high - low), 0, 1)
    where = np.nonzero(x > 0)
    if len(where[0]):
        x = x[tuple(slice(w.min(), w.max() + 1) for w in where)]
    missing = [max(want - have, 0) for have, want in zip(x.shape, size)]
    x = np.pad(x, [(m // 2, m - m // 2) for m in missing])
    windows = []
    for _ in range(count):
        first = [rng.integers(0, have - want + 1) for have, want in zip(x.shape, size)]
        windows.append(np.ascontiguousarray(x[tuple(slice(f, f + s) for f, s in zip(first, size))]))
    return windows
