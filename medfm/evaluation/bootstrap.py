"""Patient-cluster resampling: whole patients are drawn with replacement, all their records with them.

Records of a patient are not independent. With 60 patients of 5 records, a nominal 95 % interval that draws
records covers about 66 %, one that draws patients about 91 % (``tests/evaluation/test_coverage.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

LEVEL = 0.95
CHUNK_BYTES = 4 * 2**20  # fits a cache: twice as fast as 32 MB [measured, 5,000 rows, 2,000 resamples]


def patient_index(patients: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, int]:
    """Integer code of each row's patient, and how many patients there are."""
    names, codes = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    return codes.ravel(), len(names)


def resamples(n_patients: int, n_boot: int, seed: int, n_rows: int = 0) -> Iterator[np.ndarray]:
    """Chunks ``[P, b]``: how often each patient was drawn; the chunks add up to ``n_boot`` columns.

    ``counts[index[rows]]`` are the weights of some rows. Chunked, so that 2,000 resamples of 100,000 rows
    fit into memory; float32 holds sums of counts exactly (up to 2**24). The draw depends on the number of
    patients and the seed only, so that permuting rows changes nothing."""
    rng = np.random.default_rng(seed)
    size = max(1, min(n_boot, CHUNK_BYTES // (4 * max(1, n_rows, n_patients))))
    for start in range(0, n_boot, size):
        width = min(size, n_boot - start)
        drawn = rng.integers(0, n_patients, (width, n_patients)) + n_patients * np.arange(width)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=width * n_patients).reshape(width, n_patients)
        yield np.ascontiguousarray(counts.T, dtype=np.float32)


def percentile_interval(draws: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bounds over the last axis, from the defined draws; NaN where fewer than half are defined."""
    draws = np.asarray(draws, dtype=float)
    tail = (1 - level) / 2
    usable = (~np.isnan(draws)).sum(-1) >= max(1, draws.shape[-1] / 2)
    filled = np.where(usable[..., None], draws, 0.0) if draws.shape[-1] else np.zeros((*usable.shape, 1))
    low, high = np.nanquantile(filled, [tail, 1 - tail], axis=-1)
    return np.where(usable, low, np.nan), np.where(usable, high, np.nan)
