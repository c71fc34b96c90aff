"""What every generator says of the people it draws: who they are, and how common each condition is among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from medfm.types import ConfigError


@dataclass(frozen=True)
class Subjects:
    """age years, male bool, site and device int (rows of the generator's ``SITES`` and ``DEVICES``), all ``[n]``;
    cond: name -> bool ``[n]``."""

    age: np.ndarray
    male: np.ndarray
    site: np.ndarray
    device: np.ndarray
    cond: dict[str, np.ndarray]


def prevalences(
    conditions: Mapping[str, Iterable[float]], changes: Mapping[str, float] | None
) -> dict[str, float]:
    """Share of subjects with each condition before exclusions, the first number of its row; ``changes`` overrides
    single entries.

    Raises ConfigError for an unknown condition or a share outside [0, 1].
    """
    table = {name: next(iter(row)) for name, row in conditions.items()}
    for name, share in (changes or {}).items():
        if name not in table:
            raise ConfigError(f"unknown condition {name!r}; known: {', '.join(table)}.")
        if not 0 <= share <= 1:
            raise ConfigError(f"prevalence of {name} is {share}; give a share between 0 and 1.")
        table[name] = float(share)
    return table
