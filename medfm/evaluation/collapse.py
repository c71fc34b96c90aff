"""Has the representation collapsed? Deviation and effective rank of embeddings, and a sentence that says so.

Legend: z ``[n, D]`` embeddings of n different records. Complete collapse: all records get one vector.
Dimensional collapse: they vary along few directions only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

COMPLETE = 0.01  # deviation between records, as a share of the embedding's size
DIMENSIONS = 2.0  # an effective rank below tells records apart along one line only
LOST = 0.1  # of the first deviation or effective rank: less than this share left is a collapse
REMEDY = "Raise the teacher's first momentum, lower optim.lr, or lengthen the warm-up."


@dataclass(frozen=True)
class CollapseVerdict:
    collapsed: bool
    sentence: str


def effective_rank(z: np.ndarray, *, centre: bool = True) -> float:
    """exp(entropy of the normalised singular values) (Roy and Vetterli 2007), between 1 and min(n, D).

    Without centring it is RankMe (Garrido 2023), which a large mean drives to 1. No variation at all: 0 when
    centred.
    """
    z = np.asarray(z, dtype=float)
    z = z - z.mean(0) if centre else z
    gram = z.T @ z if z.shape[0] >= z.shape[1] else z @ z.T
    # Of the smaller Gram matrix: much faster than an SVD, and small values do not matter to an entropy.
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))
    total = singular.sum()
    if not np.isfinite(total) or total <= 1e-12 * max(1.0, float(np.abs(z).max(initial=0))):
        return 0.0
    share = singular[singular > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def rankme(z: np.ndarray) -> float:
    """Effective rank of the uncentred embeddings (Garrido 2023, arXiv 2210.02885)."""
    return effective_rank(z, centre=False)


def deviation(z: np.ndarray) -> float:
    """Mean over features of the standard deviation between records, in the embedding's own units."""
    return float(np.asarray(z, dtype=float).std(0).mean())


def relative_deviation(z: np.ndarray) -> float:
    """Root mean square distance from the mean embedding over the embeddings' own: 0 is collapse."""
    z = np.asarray(z, dtype=float)
    size = np.sqrt((z**2).mean())
    return float(np.sqrt(((z - z.mean(0)) ** 2).mean()) / size) if size > 0 else 0.0


def collapse_measures(z: np.ndarray) -> dict[str, float]:
    """``deviation``, ``relative_deviation``, ``effective_rank``, ``rankme``; NaN where z is not finite."""
    names = ("deviation", "relative_deviation", "effective_rank", "rankme")
    if not np.isfinite(z).all():
        return dict.fromkeys(names, float("nan"))
    return dict(zip(names, (deviation(z), relative_deviation(z), effective_rank(z), rankme(z))))


def judge_collapse(start: Mapping[str, float], now: Mapping[str, float]) -> CollapseVerdict:
    """Judge measures taken at the start of training (may be empty) against those now.

    Reads ``effective_rank``, ``relative_deviation`` and, against the start, any of ``target_std``,
    ``context_std``, ``deviation``; a measure that is not there is not judged."""
    if not now:
        return CollapseVerdict(False, "Collapse was not measured in this run.")
    if not all(math.isfinite(v) for v in now.values()):
        return CollapseVerdict(True, "The embeddings are not finite: training has diverged; lower optim.lr.")
    spread = now.get("relative_deviation", 1.0)
    if spread < COMPLETE:
        return CollapseVerdict(
            True,
            "The representation has collapsed: embeddings of different records differ by "
            f"{100 * spread:.2g} % of their size. {REMEDY}",
        )
    for name in ("target_std", "context_std", "deviation"):
        if name in now and name in start and now[name] < LOST * start[name]:
            return CollapseVerdict(
                True,
                f"The representation is collapsing: the deviation between records ({name}) fell from "
                f"{start[name]:.3g} to {now[name]:.3g}. {REMEDY}",
            )
    rank = now.get("effective_rank")
    before = f" ({start['effective_rank']:.1f} at the start)" if "effective_rank" in start else ""
    few = start.get("effective_rank", math.inf) <= 3.0  # a handful of records, whatever the network does
    if rank is not None and not few and (rank < DIMENSIONS or rank < LOST * start.get("effective_rank", 0.0)):
        return CollapseVerdict(
            True,
            "The representation is collapsing: it varies along about "
            f"{rank:.1f} directions{before}. {REMEDY}",
        )
    found = f": effective rank {rank:.1f}{before}" if rank is not None else ""
    return CollapseVerdict(False, f"No sign of collapse{found}.")


def collapse_verdict(start: Mapping[str, float], now: Mapping[str, float]) -> str:
    """The sentence of :func:`judge_collapse`."""
    return judge_collapse(start, now).sentence
