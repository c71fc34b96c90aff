"""BM-MAE's masks: which tokens of the sequences that a subject has are seen, and which are to be predicted.

Pure functions of a generator. C sequences of N patches are C N tokens, token ``c N + n`` being patch n of sequence c. B batch,
K visible tokens, M masked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Group(NamedTuple):
    """Subjects of a batch with equally many tokens: ``rows [G]``, ``visible [G, K]`` and ``masked [G, M]``, int64, ascending."""

    rows: np.ndarray
    visible: np.ndarray
    masked: np.ndarray


def apportion(rng: np.random.Generator, shares: np.ndarray, capacity: np.ndarray, total: int) -> np.ndarray:
    """``total`` tokens over sequences by ``shares [C]`` (summing to one), none beyond its ``capacity [C]``, int64 ``[C]``.

    What a full sequence cannot take goes to the others by their shares. Fractions are rounded by one systematic draw, so that
    the expected count of each sequence is its share of the total exactly, and the sum is the total always. (Official code
    rounds each count, and repairs the sum by cutting or adding tokens at random; shares that ask for too much it draws anew,
    but misses the first subject of a batch.) ``capacity`` must hold ``total``.
    """
    assert capacity.sum() >= total
    goal, full = shares * float(total), np.zeros(len(shares), bool)
    while (goal > capacity).any():
        full |= goal >= capacity
        rest = total - capacity[full].sum()
        weight = np.where(full, 0.0, shares)
        goal = np.where(full, capacity, rest * weight / max(weight.sum(), 1e-300))
    whole = np.floor(goal + 1e-9)
    ends = np.concatenate([[0.0], np.cumsum((goal - whole).clip(0))])
    missing = total - int(whole.sum())
    ends *= missing / ends[-1] if ends[-1] else 0.0
    ends[-1] = missing
    return (whole + np.diff(np.floor(ends + rng.random()))).astype(np.int64)


def hidden_sequences(rng: np.random.Generator, capacity: np.ndarray, total: int) -> np.ndarray:
    """Sequences to hide completely, bool ``[C]``: one or more of those with any ``capacity``, at random, as long as the others
    can hold ``total`` visible tokens; none where that cannot be.
    """
    order = rng.permutation(np.flatnonzero(capacity))
    count = int(rng.integers(1, len(order))) if len(order) > 1 else 0
    while count and capacity[order[count:]].sum() < total:
        count -= 1
    hidden = np.zeros(len(capacity), bool)
    hidden[order[:count]] = True
    return hidden


def draw(
    rng: np.random.Generator,
    present: np.ndarray,
    foreground: np.ndarray | None,
    tokens: int,
    mask: float,
    drop_sequence: float = 0.0,
    synthesise: float = 0.0,
) -> list[Group]:
    """Masks of a batch, subjects with equally many sequences together; those with none are left out.

    present bool ``[B, C]``; of all N ``tokens`` of its present sequences a subject shows (1 - mask), rounded down, at least
    one. The share of each sequence is one draw of Dirichlet(1, .., 1), and within a sequence all are equally likely.
    drop_sequence: how often one or more whole sequences are hidden. synthesise: how often, for all subjects of a group at once,
    one whole sequence of each is hidden and all of its others is seen, as when a missing one is to be made.
    foreground: bool ``[B, C, N]``, to draw from these tokens alone. As many are drawn from as the median subject of its group
    has; one with more leaves some out at random, one with fewer takes some background in.
    """
    found = []
    counts = present.sum(1)
    for count in np.unique(counts[counts > 0]).tolist():
        rows = np.flatnonzero(counts == count)
        if count > 1 and synthesise and rng.random() < synthesise:
            parts = [_one_hidden(rng, present[r], tokens) for r in rows]
            found.append(Group(rows, *(np.stack(side) for side in zip(*parts))))
            continue
        pool = count * tokens
        if foreground is not None:
            inside = (foreground[rows] & present[rows, :, None]).sum((1, 2))
            pool = min(max(int(np.median(inside)), 2), pool)
        if pool < 2:
            continue
        # The small term keeps 100 * (1 - .9) from becoming 9.
        visible = min(max(int(pool * (1 - mask) + 1e-6), 1), pool - 1)
        parts = [
            _one(rng, present[r], None if foreground is None else foreground[r], tokens, pool, visible, drop_sequence)
            for r in rows
        ]  # fmt: skip
        found.append(Group(rows, *(np.stack(side) for side in zip(*parts))))
    return found


def _one_hidden(rng: np.random.Generator, present: np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """All tokens of a subject's sequences but one, and all of that one."""
    hidden = rng.choice(np.flatnonzero(present))
    sequence = np.repeat(np.arange(len(present)), tokens)
    return np.flatnonzero(present[sequence] & (sequence != hidden)), np.flatnonzero(sequence == hidden)


def _one(
    rng: np.random.Generator,
    present: np.ndarray,
    foreground: np.ndarray | None,
    tokens: int,
    pool: int,
    visible: int,
    drop_sequence: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Visible and masked tokens of one subject, ascending, ``pool`` together."""
    considered = np.repeat(present, tokens)
    if foreground is not None:
        rank = rng.random(len(considered)) + ~foreground.ravel() + 2 * ~considered
        considered = np.zeros(len(considered), bool)
        considered[np.argpartition(rank, pool - 1)[:pool]] = True
    capacity = considered.reshape(-1, tokens).sum(1)
    shown = capacity > 0
    if rng.random() < drop_sequence:
        shown &= ~hidden_sequences(rng, capacity, visible)
    shares = np.zeros(len(present))
    shares[shown] = rng.dirichlet(np.ones(shown.sum()))
    counts = apportion(rng, shares, np.where(shown, capacity, 0), visible)
    # Within a sequence, its first tokens of a random order.
    key = np.where(considered, rng.random(len(considered)), 2.0).reshape(-1, tokens)
    place = key.argsort(1).argsort(1)
    seen = (place < counts[:, None]).ravel()
    return np.flatnonzero(seen), np.flatnonzero(considered & ~seen)
