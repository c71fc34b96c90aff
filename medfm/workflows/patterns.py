"""Subjects with fewer sequences than they have: which patterns are tried, records read so, and what each costs.

One fine-tuned model serves every pattern of sequences. After a fold is trained, its test subjects are read again without some of
their sequences, as if these had not been acquired; ``finetune.pattern_models`` also trains a model for each pattern alone, on the
same folds, to say what serving all costs. C sequences, n records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from medfm.config.run import FinetuneSettings
from medfm.types import ConfigError

Pattern = tuple[str, ...]


def has_sequences(modality: Any) -> bool:
    """A modality whose records may lack channels that are pictures of their own."""
    return len(getattr(modality, "sequences", ())) > 1


def patterns_of(modality: Any, how: str, present: np.ndarray | None = None) -> list[Pattern]:
    """Patterns to be tried beside what each subject has: ``auto``, all, all but one and one alone; ``all``, every one of them.
    Of the sequences that some subject of ``present [n, C]`` has."""
    if how == "none" or not has_sequences(modality):
        return []
    names = tuple(n for c, n in enumerate(modality.sequences) if present is None or present[:, c].any())
    sizes = (
        range(len(names), 0, -1) if how == "all" else sorted({len(names), len(names) - 1, 1}, reverse=True)
    )
    return [p for size in sizes for p in combinations(names, size) if p]


def check_patterns(settings: FinetuneSettings, modality: Any) -> None:
    """Raise :class:`ConfigError` where settings for sequences were given for a modality that has none."""
    if has_sequences(modality):
        return
    plain = FinetuneSettings.model_fields
    wrong = [
        f"finetune.{name}"
        for name in ("patterns", "pattern_models", "drop_sequence")
        if getattr(settings, name) != plain[name].default
    ]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)}: for subjects of several sequences (mri); leave it out.")


def shown(pattern: Pattern) -> str:
    return " + ".join(pattern)


def keeps(pattern: Pattern, modality: Any) -> np.ndarray:
    """bool ``[C]``."""
    return np.isin(modality.sequences, pattern)


@dataclass
class KeptRecords:
    """``medfm.finetuning.records.Records`` of which only the sequences ``keep [C]`` are read; with ``drop``, each training
    example loses some of its sequences, never all, with that probability."""

    records: Any
    keep: np.ndarray | None = None
    drop: float = 0.0

    def __len__(self) -> int:
        return len(self.records)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "records":
            raise AttributeError(name)
        return getattr(self.records, name)

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        x, present = self.records.draw(rows, rng)
        return self._less(x, present, rng)

    def read(self, rows: np.ndarray, starts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        x, present = self.records.read(rows, starts)
        return self._less(x, present)

    def _less(
        self, x: torch.Tensor, present: torch.Tensor, rng: np.random.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        seen = present.numpy().copy()
        if self.keep is not None:
            seen &= self.keep
        if rng is not None and self.drop:
            seen = without_some(seen, self.drop, rng)
        x = x.clone()
        x[torch.from_numpy(~seen)] = torch.nan
        return x, torch.from_numpy(seen)


@dataclass
class KeptVolumes:
    """``medfm.finetuning.patches.Volumes`` likewise."""

    volumes: Any
    keep: np.ndarray | None = None
    drop: float = 0.0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "volumes":
            raise AttributeError(name)
        return getattr(self.volumes, name)

    def patches(
        self, rows: np.ndarray, origins: np.ndarray, size: Sequence[int], rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x, labels = self.volumes.patches(rows, origins, size, rng)
        return self._less(x, rng), labels

    def tiles(self, row: int, origins: np.ndarray, size: Sequence[int]) -> torch.Tensor:
        return self._less(self.volumes.tiles(row, origins, size))

    def _less(self, x: torch.Tensor, rng: np.random.Generator | None = None) -> torch.Tensor:
        seen = ~x.isnan().flatten(2).all(2).numpy()
        kept = seen if self.keep is None else seen & self.keep
        if rng is not None and self.drop:
            kept = without_some(kept, self.drop, rng)
        x = x.clone()
        x[torch.from_numpy(seen & ~kept)] = torch.nan
        return x


def without_some(present: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """``present [B, C]`` after each row, with ``probability``, has lost 1 to all but one of its sequences, any number equally
    likely and any of them."""
    out = present.copy()
    for row in out:
        has = np.flatnonzero(row)
        if len(has) > 1 and rng.random() < probability:
            row[rng.permutation(has)[: rng.integers(1, len(has))]] = False
    return out


def with_all(present: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Rows ``[n]`` that have every sequence of ``keep``; ``present [n, C]``."""
    return np.asarray(present[:, keep].all(axis=1))
