"""From a file's values to grey on the model's grid: window or table, then resampling, then inversion.

Grey is 0 (black) to 1 (white) with bone bright; NaN marks what is no picture (padding, shutter). Work is done in strips
of rows, so that a mammogram of 12,000 x 12,000 pixels needs little beyond its own values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from medfm.types import Image, Voi

STRIP = 512  # rows
SAMPLE = 1_000_000  # pixels that statistics look at
Fit = Literal["pad", "crop", "stretch"]


def shade(values: np.ndarray, voi: Voi) -> np.ndarray:
    """Values -> grey float32 in [0, 1] by one window or table (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    LINEAR maps ``centre - 0.5 +- (width - 1) / 2``, LINEAR_EXACT ``centre +- width / 2``; both clip. SIGMOID is
    ``1 / (1 + exp(-4 (x - centre) / width))``.
    """
    if voi.table is not None:
        index = np.rint(values).astype(np.int32) - voi.first
        white = max(float(voi.table.max()), 2.0**voi.bits - 1.0)
        return (voi.table[np.clip(index, 0, len(voi.table) - 1)] / np.float32(white)).astype(np.float32)
    if voi.function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 1.0 / (1.0 + np.exp((values - np.float32(voi.centre)) * np.float32(-4.0 / voi.width)))
    centre, width = voi.centre, voi.width
    if voi.function == "LINEAR":
        centre, width = centre - 0.5, width - 1.0
    if width <= 0:  # LINEAR of width 1: a threshold
        return (values > np.float32(centre)).astype(np.float32)
    grey = values - np.float32(centre)
    grey *= np.float32(1.0 / width)
    grey += np.float32(0.5)
    return np.clip(grey, 0.0, 1.0, out=grey)


def choose(image: Image, index: int, percentiles: tuple[float, float] | None) -> tuple[Voi, str]:
    """The window to show ``image`` with, and where it comes from: ``file``, ``percentiles``, ``bits`` or ``unusable``.

    index: which of the file's windows and tables (the last one where it has fewer); -1: percentiles; -2: from the
    smallest to the largest value that the stored bits hold (of 8 to 16 bits, or as the file's header has it).
    percentiles: used where the file has no window, and where the chosen one shows nothing (``unusable``); the
    picture's own, collimation left out.
    """
    if index == -2 and ("range" in image.meta or 8 <= image.bits <= 16):
        low, high = image.meta.get("range") or (0.0, 2.0**image.bits - 1.0)
        return Voi((low + high) / 2, high - low, "LINEAR_EXACT", explanation="bits"), "bits"
    values = statistics(image)
    source = "percentiles"
    if image.voi and index >= 0:
        voi = image.voi[min(index, len(image.voi) - 1)]
        grey = shade(values, voi)
        # Nine tenths of the middle of the grey scale unused, and that evenly: nobody meant to show it so.
        if float(grey.std()) > 0.01:
            return voi, "file"
        source = "unusable"
    low, high = (float(v) for v in np.percentile(values, percentiles or (0.0, 100.0)))
    if not high > low:
        low, high = float(values.min()), float(values.max())
    return Voi((low + high) / 2, max(high - low, 1e-6), "LINEAR_EXACT", explanation="percentiles"), source


def statistics(image: Image) -> np.ndarray:
    """Values ``[N]`` that speak for the picture: inside field and shutter, without padding and even borders.

    A regular sample of at most ``SAMPLE`` pixels of the first channel (of colour, their mean).
    """
    top, bottom, left, right = image.field or (0, image.x.shape[1], 0, image.x.shape[2])
    step = max(1, int(np.ceil(np.sqrt((bottom - top) * (right - left) / SAMPLE))))
    inside = image.x[:, top:bottom:step, left:right:step].mean(axis=0)
    valid = None if image.valid is None else image.valid[top:bottom:step, left:right:step]
    if valid is not None and not valid.any():
        return inside.ravel()
    if image.field is None:
        rows, columns = _exposed(inside, valid)
        inside = inside[rows, columns]
        valid = None if valid is None else valid[rows, columns]
    if valid is None or not valid.any():
        return inside.ravel()
    return inside[valid]  # type: ignore[no-any-return]


def _exposed(values: np.ndarray, valid: np.ndarray | None) -> tuple[slice, slice]:
    """Rows and columns inside the even borders that a collimator leaves; everything where little would be left."""
    known = values if valid is None else values[valid]
    low, high = np.percentile(known, (1, 99))
    even = 0.02 * (float(high) - float(low))
    slices = []
    for axis in (1, 0):
        spread = np.subtract(*np.percentile(values, (90, 10), axis=axis))
        busy = np.flatnonzero(spread > even)
        slices.append(slice(int(busy[0]), int(busy[-1]) + 1) if len(busy) else slice(None))
    small = any(len(range(*s.indices(n))) < n / 4 for s, n in zip(slices, values.shape))
    return (slice(None), slice(None)) if small else (slices[0], slices[1])


def place(
    shape: tuple[int, int], aspect: float, size: tuple[int, int], fit: Fit
) -> tuple[list[int], list[float]]:
    """Where a picture goes: target (top, bottom, left, right) in the grid, source box (same order) in the picture.

    shape: rows and columns; aspect: row pitch / column pitch. pad: all of it, centred; crop: the centre that fills the
    grid; stretch: all of it, proportions lost.
    """
    rows, columns = float(shape[0]), float(shape[1])
    if fit == "stretch":
        return [0, size[0], 0, size[1]], [0.0, rows, 0.0, columns]
    height, width = rows * aspect, columns  # in column pitches
    if fit == "pad":
        scale = min(size[0] / height, size[1] / width)
        tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (size[0] - tall) // 2, (size[1] - wide) // 2
        return [top, top + tall, left, left + wide], [0.0, rows, 0.0, columns]
    scale = max(size[0] / height, size[1] / width)
    box = (size[0] / (scale * aspect), size[1] / scale)
    y, x = (rows - box[0]) / 2, (columns - box[1]) / 2
    return [0, size[0], 0, size[1]], [y, y + box[0], x, x + box[1]]


def to_grid(image: Image, voi: Voi, size: tuple[int, int], fit: Fit) -> np.ndarray:
    """``image`` as grey ``[C, *size]`` float32, shown as its file means it (inverted last); NaN where no picture is."""
    channels, rows, columns = image.x.shape
    target, box = place((rows, columns), image.aspect, size, fit)
    down = _weights(rows, target[1] - target[0], box[0], box[1])
    across = _weights(columns, target[3] - target[2], box[2], box[3])
    inner = np.zeros((channels, target[1] - target[0], target[3] - target[2]), np.float32)
    weight = np.zeros(inner.shape[1:], np.float32)
    for first, last in _strips(rows):
        part = down[:, first:last]
        if part.nnz == 0:
            continue
        seen = None if image.valid is None else image.valid[first:last]
        for c in range(channels):
            grey = shade(image.x[c, first:last], voi)
            if seen is not None:
                grey *= seen
            inner[c] += part @ np.ascontiguousarray((across @ grey.T).T)
        if seen is not None:
            weight += part @ np.ascontiguousarray((across @ seen.T.astype(np.float32)).T)
    if image.valid is not None:
        inner /= np.where(weight > 0.5, weight, np.float32(np.nan))
    if image.inverted:
        np.subtract(np.float32(1.0), inner, out=inner)
    out = np.full((channels, *size), np.nan, np.float32)
    out[:, target[0] : target[1], target[2] : target[3]] = np.clip(inner, 0.0, 1.0)
    return out


def _strips(rows: int) -> Iterator[tuple[int, int]]:
    for first in range(0, rows, STRIP):
        yield first, min(first + STRIP, rows)


def _weights(source: int, target: int, start: float, stop: float) -> Any:
    """Sparse ``[target, source]`` of a triangle filter that widens with the reduction (Pillow's BILINEAR)."""
    from scipy.sparse import csr_matrix

    scale = (stop - start) / target
    reach = max(scale, 1.0)
    centre = start + (np.arange(target) + 0.5) * scale
    first = np.clip(np.floor(centre - reach + 0.5).astype(int), 0, source - 1)
    index = first[:, None] + np.arange(int(np.ceil(2 * reach)) + 2)
    value = np.clip(1.0 - np.abs((index + 0.5 - centre[:, None]) / reach), 0.0, None) * (index < source)
    value /= value.sum(axis=1, keepdims=True)
    used = value > 0
    row = np.broadcast_to(np.arange(target)[:, None], index.shape)
    return csr_matrix(
        (value[used].astype(np.float32), (row[used], index[used])), shape=(target, source), dtype=np.float32
    )
