"""Pictures that show the same: a perceptual hash, the pairs that nearly share it, and which of them to keep.

The difference hash survives rescaling, recompression and another window, and so finds one film in two public sets, a
reprocessed copy beside its original, and neighbouring slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

BLOCK = 512
SAME = 0.98  # correlation from which two reductions are called one film; see `alike`


def dhash(images: Iterable[np.ndarray], side: int = 8) -> np.ndarray:
    """Difference hash of grey pictures ``[H, W]`` (any sizes): uint64 ``[N]``, bit 1 where a cell is brighter than its
    right neighbour.

    Each picture is averaged to ``side`` rows and ``side + 1`` columns; NaN (no picture) is left out of the average. The
    bits are read row by row, the first one highest. side * side is at most 64.
    """
    assert 2 <= side <= 8
    weights = (1 << np.arange(side * side, dtype=np.uint64))[::-1]
    codes = []
    for image in images:
        cells = _cells(np.asarray(image, np.float32), side, side + 1)
        bits = (cells[:, :-1] > cells[:, 1:]).ravel()
        codes.append(weights[bits].sum(dtype=np.uint64))
    return np.array(codes, np.uint64)


def _cells(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Area averages ``[rows, columns]`` of ``x [H, W]``; a pixel on a border counts for both by its overlap."""
    known = np.isfinite(x)
    down, across = _overlap(x.shape[0], rows), _overlap(x.shape[1], columns)
    total = down @ np.where(known, x, np.float32(0.0)) @ across.T
    share = down @ known.astype(np.float32) @ across.T
    return total / np.maximum(share, 1e-6)  # type: ignore[no-any-return]


def _overlap(source: int, target: int) -> np.ndarray:
    edges = np.linspace(0.0, source, target + 1)
    pixel = np.arange(source)
    low = np.maximum(edges[:-1, None], pixel)
    high = np.minimum(edges[1:, None], pixel + 1.0)
    return np.clip(high - low, 0.0, None).astype(np.float32)


def hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bits in which uint64 ``a`` and ``b`` differ (broadcast), 0 to 64."""
    return np.bitwise_count(np.bitwise_xor(a, b))


def near_duplicates(
    codes: np.ndarray, most: int = 6, groups: Sequence[object] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs ``[P, 2]`` (first index below second) of hashes that differ in at most ``most`` bits, and the bits ``[P]``.

    groups: one a picture (its split, its patient, its data set); then only pairs across groups are given, as a search
    for leaks wants them. All pairs are compared, block by block: 20,000 pictures take some three seconds.

    These are candidates. Radiographs of one view look alike: of PneumoniaMNIST's 12.6 million pairs 5,500 differ in two
    bits or less, and hardly any of them is one film twice. :func:`alike` tells.
    """
    codes = np.asarray(codes, np.uint64)
    label = None if groups is None else np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    pairs, bits = [], []
    for first in range(0, len(codes), BLOCK):
        rows = codes[first : first + BLOCK]
        for second in range(first, len(codes), BLOCK):
            columns = codes[second : second + BLOCK]
            apart = hamming(rows[:, None], columns[None])
            near = apart <= most
            if first == second:
                near &= np.tri(len(rows), len(rows), -1, dtype=bool).T
            if label is not None:
                near &= label[first : first + BLOCK, None] != label[None, second : second + BLOCK]
            i, j = np.nonzero(near)
            pairs.append(np.stack([i + first, j + second], axis=1))
            bits.append(apart[i, j])
    if not pairs:
        return np.empty((0, 2), np.int64), np.empty(0, np.int64)
    return np.concatenate(pairs).astype(np.int64), np.concatenate(bits).astype(np.int64)


def alike(small: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Correlation ``[P]`` of the pictures of each pair, from reductions ``small [N, h, w]`` (32 x 32, say; NaN: black).

    ``SAME`` parts them: a copy correlates to 0.98 and more through recompression and mild windowing; of the candidates in
    PneumoniaMNIST 30 exceed it, all exact copies, and the next have 0.97 and less.
    """
    flat = np.nan_to_num(np.asarray(small, np.float32)).reshape(len(small), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return np.einsum("pk,pk->p", flat[pairs[:, 0]], flat[pairs[:, 1]])  # type: ignore[no-any-return]


def distinct(codes: np.ndarray, most: int = 6) -> np.ndarray:
    """Indices to keep, in order: the first picture, then each that differs from all kept ones in more than ``most``
    bits (the selection "hash" of Wolf et al., arXiv 2410.14524, whose threshold is 6). Depends on the order.
    """
    codes = np.asarray(codes, np.uint64)
    remaining, kept = np.arange(len(codes)), []
    while len(remaining):
        first = remaining[0]
        kept.append(int(first))
        remaining = remaining[hamming(codes[remaining], codes[first]) > most]
    return np.array(kept, np.int64)
