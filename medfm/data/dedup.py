"""Pictures that show the same: a perceptual hash, the pairs that nearly share it, and which of them are one film.

The difference hash survives rescaling, recompression and another window, and so finds one film in two public sets, a
reprocessed copy beside its original, and neighbouring slices. What to keep of them is in :mod:`medfm.data.reduction`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

BLOCK = 512
CHUNK = 4096  # pairs whose reductions are held at once, 32 MiB
SMALL = 32  # pixels a side of the reduction that two candidates are compared by
SAME = 0.98  # correlation from which two reductions are called one film, see `alike`
SHARP = 0.95  # and that of their edges, see `copies`
NEAR = 6  # bits, the threshold of Wolf et al. (arXiv 2410.14524)


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


def reduced(grey: np.ndarray) -> np.ndarray:
    """``[SMALL, SMALL]`` uint8 of a picture ``[H, W]`` of grey 0 to 1, by the nearest block means; no picture is black."""
    rows, columns = (np.linspace(0, n, SMALL + 1).astype(int) for n in grey.shape)
    filled = np.nan_to_num(grey)
    sums = np.add.reduceat(np.add.reduceat(filled, rows[:-1], axis=0), columns[:-1], axis=1)
    area = np.maximum(np.diff(rows), 1)[:, None] * np.maximum(np.diff(columns), 1)[None]
    return np.clip(np.rint(255 * sums / area), 0, 255).astype(np.uint8)


def hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bits in which uint64 ``a`` and ``b`` differ (broadcast), 0 to 64."""
    return np.bitwise_count(np.bitwise_xor(a, b))


def near_duplicates(
    codes: np.ndarray, most: int = NEAR, groups: Sequence[object] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs ``[P, 2]`` (first index below second) of hashes that differ in at most ``most`` bits, and the bits ``[P]``.

    groups: one a picture (its split, its patient, its data set); then only pairs across groups are given, as a search
    for leaks wants them. All pairs are compared, block by block: 20,000 pictures take some three seconds.

    These are candidates. Radiographs of one view look alike: of PneumoniaMNIST's 12.6 million pairs 5,500 differ in two
    bits or less, and hardly any of them is one film twice. :func:`copies` tells.
    """
    codes = np.asarray(codes, np.uint64)
    label = None if groups is None else np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    pairs, bits = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)]
    for first, second, apart in _blocks(codes):
        near = apart <= most
        if label is not None:
            near &= label[first : first + BLOCK, None] != label[None, second : second + BLOCK]
        i, j = np.nonzero(near)
        pairs.append(np.stack([i + first, j + second], axis=1))
        bits.append(apart[i, j].astype(np.int64))
    return np.concatenate(pairs), np.concatenate(bits)


def _blocks(codes: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """First row, first column and the bits between them (255 where the column does not come after the row)."""
    for first in range(0, len(codes), BLOCK):
        rows = codes[first : first + BLOCK]
        for second in range(first, len(codes), BLOCK):
            apart = hamming(rows[:, None], codes[None, second : second + BLOCK])
            if first == second:
                apart[np.tri(len(rows), dtype=bool)] = 255
            yield first, second, apart


def copies(codes: np.ndarray, small: np.ndarray, most: int = NEAR) -> np.ndarray:
    """Pairs ``[P, 2]`` (first index below second) that show one film: near by their hashes, the same picture by their
    reductions ``small [N, SMALL, SMALL]``, and the same edges in them.

    The edges part films of one posture from one film: of 500,000 pairs of simulated films 30 correlate to more than 0.98,
    and their edges to 0.93 at most; those of a copy (half its size, recompressed, a gamma of 0.7 to 1.3, windowed) to 0.96
    at least. Cropped or marked copies are missed. All pairs, block by
    block: 10,000 pictures take 3 s, 100,000 some five minutes.
    """
    pairs = [np.empty((0, 2), np.int64)]
    for first, second, apart in _blocks(np.asarray(codes, np.uint64)):
        score = _flat(small[first : first + BLOCK]) @ _flat(small[second : second + BLOCK]).T
        i, j = np.nonzero((apart <= most) & (score > SAME))
        pairs.append(np.stack([i + first, j + second], axis=1))
    found = np.concatenate(pairs)
    return found[alike(small, found, edges=True) > SHARP]


def alike(small: np.ndarray, pairs: np.ndarray, edges: bool = False) -> np.ndarray:
    """Correlation ``[P]`` of the pictures of each pair, from reductions ``small [N, h, w]`` (32 x 32, say; NaN: black),
    or of their ``edges``, the differences of neighbouring pixels.

    ``SAME`` parts them: a copy correlates to 0.98 and more through recompression and mild windowing; of the candidates in
    PneumoniaMNIST 30 exceed it, all exact copies, and the next have 0.97 and less.
    """
    score = np.empty(len(pairs), np.float32)
    for first in range(0, len(pairs), CHUNK):
        i, j = (_flat(small[rows], edges) for rows in pairs[first : first + CHUNK].T)
        score[first : first + CHUNK] = np.einsum("pk,pk->p", i, j)
    return score


def _flat(small: np.ndarray, edges: bool = False) -> np.ndarray:
    """Pictures ``[n, h, w]``, or their edges, as vectors of mean 0 and length 1."""
    x = np.nan_to_num(np.asarray(small, np.float32))
    if edges:
        x = np.concatenate([np.diff(x, axis=axis).reshape(len(x), -1) for axis in (1, 2)], axis=1)
    x = x.reshape(len(x), -1)
    x = x - x.mean(axis=1, keepdims=True)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)  # type: ignore[no-any-return]
