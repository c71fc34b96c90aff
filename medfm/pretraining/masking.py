"""Masks as index sets: which tokens a context encoder sees, which it must predict. Pure functions of a
generator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np


def random_masks(
    rng: np.random.Generator, batch: int, tokens: int, visible: int
) -> tuple[np.ndarray, np.ndarray]:
    """A uniformly drawn set of ``visible`` tokens a record: ``visible [B, K]`` and ``masked [B, M]``, int64,
    ascending token indices.
    """
    order = np.argsort(rng.random((batch, tokens)), axis=1)
    return np.sort(order[:, :visible], axis=1), np.sort(order[:, visible:], axis=1)


def interval_masks(
    rng: np.random.Generator, batch: int, tokens: int, keep: tuple[float, float], min_block: int
) -> tuple[np.ndarray, np.ndarray]:
    """ECG-JEPA's masks by interval splitting (arXiv 2410.13867): ``visible [B, K]`` and ``masked [B, M]``,
    int64, ascending token indices.

    One visible share is drawn for the batch, so that K = ceil(share * tokens) is the same for all its
    records. Then, for each record, blocks are cut out of the intervals that are still visible until
    exactly K tokens are left.
    """
    count = math.ceil(rng.uniform(*keep) * tokens)
    count = min(max(count, 1), tokens - 1)
    masked = np.zeros((batch, tokens), bool)
    uniform = _uniforms(rng)
    for row in masked:
        for start, stop in _blocks(uniform, tokens, tokens - count, min_block):
            row[start:stop] = True
    columns = np.broadcast_to(np.arange(tokens), masked.shape)
    return columns[~masked].reshape(batch, count), columns[masked].reshape(batch, tokens - count)


def _uniforms(rng: np.random.Generator) -> Iterator[float]:
    """An endless stream of uniform numbers; drawn in bulk, because one call a number costs more than the
    mask.
    """
    while True:
        yield from rng.random(512).tolist()


def _blocks(uniform: Iterator[float], tokens: int, target: int, min_block: int) -> list[tuple[int, int]]:
    """Blocks ``(start, stop)`` that mask exactly ``target`` of ``tokens``."""
    intervals = [(0, tokens)]
    blocks = []
    remaining = target
    while remaining:
        # An interval by its length is the interval of a uniformly drawn visible token.
        point = next(uniform) * (tokens - target + remaining)
        for index, (low, high) in enumerate(intervals):  # noqa: B007
            point -= high - low
            if point < 0:
                break
        low, high = intervals.pop(index)
        small = remaining < min_block
        block = remaining if small else min_block + int(next(uniform) * (remaining - min_block + 1))
        if high - low <= block:
            start, stop = low, high
        else:
            start = (
                _leftover(uniform, low, high, block, tokens)
                if small
                else low + int(next(uniform) * (high - low - block + 1))
            )
            stop = start + block
            intervals += [part for part in ((low, start), (stop, high)) if part[1] > part[0]]
        blocks.append((start, stop))
        remaining -= stop - start
    return blocks


def _leftover(uniform: Iterator[float], low: int, high: int, block: int, tokens: int) -> int:
    """Where a block shorter than the minimum goes: against an edge that a masked run already touches, so
    that it lengthens that run and adds none shorter than the minimum.
    """
    edges = [start for start, free in ((low, low > 0), (high - block, high < tokens)) if free]
    if not edges:  # the first block of a record whose whole mask is shorter than the minimum
        return low + int(next(uniform) * (high - low - block + 1))
    return edges[int(next(uniform) * len(edges))]
