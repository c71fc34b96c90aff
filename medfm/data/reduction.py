"""Which records of a set are redundant, and which one stays: look-alikes of one patient or series, and copies anywhere.

Wolf et al. (Comput Biol Med 2024, arXiv 2410.14524) thin out neighbouring slices of a volume before contrastive
pretraining, whose negatives should not show the same. Within one unit (a patient, a study, a series) the first picture
is kept and all that look like it are dropped, then the first that remains, and so on. Pictures of different patients
look alike as well, one chest like another: of those only the copies of one film are dropped.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medfm.data.dedup import NEAR, dhash, hamming, reduced
from medfm.data.manifest import Manifest, as_identifier

READ = 256  # pictures held at once
SERIES = ("volume", "series", "study")  # columns that part one patient's pictures, the finest first

Near = Callable[[int, np.ndarray], np.ndarray]


class Looks(NamedTuple):
    """What pictures are compared by: hashes uint64 ``[N]``, reductions uint8 ``[N, 32, 32]``."""

    codes: np.ndarray
    small: np.ndarray


@dataclass(frozen=True)
class Reduction:
    """keeper int64 ``[N]``: the kept record that each one repeats, itself where it is kept. copied bool ``[N]``: dropped
    as a copy of one film, not as a look-alike."""

    keeper: np.ndarray
    copied: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        return np.flatnonzero(self.keeper == np.arange(len(self.keeper)))

    @property
    def dropped(self) -> np.ndarray:
        return np.flatnonzero(self.keeper != np.arange(len(self.keeper)))


def looks(store: Any, progress: Callable[[int], None] | None = None) -> Looks:
    """Hash and reduction of every picture of an ``ImageStore``, without the padding around it."""
    codes, small = [], []
    for first in range(0, len(store), READ):
        x, _ = store.read(np.arange(first, min(first + READ, len(store))))
        grey = [_bare(picture) for picture in x.mean(axis=1)]
        codes.append(dhash(grey))
        small += [reduced(picture) for picture in grey]
        if progress:
            progress(first + len(x))
    return Looks(np.concatenate(codes), np.stack(small))


def _bare(grey: np.ndarray) -> np.ndarray:
    known = np.isfinite(grey)
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    return grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else grey


def by_hash(codes: np.ndarray, most: int = NEAR) -> Near:
    """Alike is what differs in at most ``most`` of the 64 bits (Wolf et al.: 6)."""
    return lambda first, rest: hamming(codes[rest], codes[first]) <= most


def by_embedding(z: np.ndarray, distance: float) -> Near:
    """Alike is what lies within a cosine ``distance`` (0 to 2) of the embeddings ``z [N, D]``, their mean taken off."""
    z = z - z.mean(axis=0)
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    return lambda first, rest: 1.0 - z[rest] @ z[first] <= distance


def select(
    units: Sequence[str] | np.ndarray, pairs: np.ndarray, near: Near, order: np.ndarray | None = None
) -> Reduction:
    """Greedy selection: in ``order`` (default: as given), each record that is not dropped yet is kept, and drops its
    copies and the records of its unit that are ``near`` it. One unit and :func:`by_hash` is the selection of Wolf et al.

    units ``[N]``: records of another unit are never near. pairs ``[P, 2]``: records that are copies of each other.
    What is dropped is always related to the kept record itself, never through another one.
    """
    n = len(units)
    _, unit = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    members = np.split(np.argsort(unit, kind="stable"), np.cumsum(np.bincount(unit))[:-1])
    twins: dict[int, list[int]] = defaultdict(list)
    for i, j in pairs.tolist():
        twins[i].append(j)
        twins[j].append(i)
    keeper, copied = np.full(n, -1, np.int64), np.zeros(n, bool)
    for first in range(n) if order is None else order.tolist():
        if keeper[first] >= 0:
            continue
        keeper[first] = first
        if first in twins:
            same = np.array([t for t in twins[first] if keeper[t] < 0], np.int64)
            keeper[same], copied[same] = first, True
        rest = members[unit[first]]
        if len(rest) > 1:
            rest = rest[keeper[rest] < 0]
            keeper[rest[near(first, rest)]] = first
    return Reduction(keeper, copied)


def series_column(manifest: Manifest) -> str | None:
    """The column that says which volume, series or study a picture is from (``series_uid``, ``StudyInstanceUID``)."""
    plain = {re.sub(r"_|instance|uid|id", "", str(c).lower()): str(c) for c in manifest.frame}
    return next((plain[name] for name in SERIES if name in plain), None)


def known_patients(manifest: Manifest) -> pd.Series:
    """The patient of every row, NA where none is known and the record stands for its patient."""
    patients = manifest.frame["patient"].astype("string")
    return patients if manifest.patients_known else patients.mask(patients == manifest.frame["record"])


def units_of(manifest: Manifest) -> list[str]:
    """Within what look-alikes are sought, one text a row: the patient, or that patient's volume, series or study where
    the manifest knows it. A record of unknown patient and series is a unit by itself."""
    patients = known_patients(manifest)
    column = series_column(manifest)
    series = as_identifier(manifest.frame[column]) if column else pd.Series(pd.NA, manifest.frame.index)
    alone = manifest.frame["path"].where(patients.isna() & series.isna(), "")
    return (patients.fillna("") + "\x1f" + series.fillna("") + "\x1f" + alone).tolist()
