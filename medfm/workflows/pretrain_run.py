"""One pretraining run's pieces, and its name."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from medfm.config.run import RunConfig
from medfm.workflows.run_folder import RunFolder
from medfm.workflows.sources import SYNTHETIC, Source


@dataclass
class Pretraining:
    """One run's pieces, made in order; each stage fills what the next one needs."""

    config: RunConfig
    folder: RunFolder
    log: logging.Logger
    show: bool
    modality: Any = None
    sources: list[Source] = field(default_factory=list)
    method: Any = None
    parents: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    probe: dict[str, Any] = field(default_factory=dict)
    guard: Any = None
    held: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def simulated_only(self) -> bool:
        return all(s.simulated for s in self.sources) and self.parents.get("simulated_only", True)


def default_name(config: RunConfig, simulated: bool | None = None) -> str:
    """``ecg-jepa-quick-sim``: modality, method, size; ``-continued`` after ``init``; ``-sim`` for synthetic data alone.

    ``simulated``: whether that is so, once it is known (``init`` may have seen patients); before, a guess.
    """
    if config.name:
        return config.name
    method = config.method.name.replace("_", "-")
    stem = method if method.startswith(config.modality.name) else f"{config.modality.name}-{method}"
    if simulated is None:
        simulated = all(s.split("@")[0] == SYNTHETIC for s in config.data.sources) and not config.init
    shape = config.backbone
    own = f"d{shape.dim}" if hasattr(shape, "dim") else shape.name
    size = getattr(shape, "size", None) or own
    return (
        f"{stem}-{size.replace('_', '-')}{'-continued' if config.init else ''}{'-sim' if simulated else ''}"
    )
