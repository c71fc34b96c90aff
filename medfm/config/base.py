"""Strict pydantic base and the lazy name table. Torch-free: a wrong setting must be answered before torch loads."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Unknown keys are errors; assignment is validated; the resolved form is saved with the weights."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)
    # Setting -> the settings it stands for: naming it in a later layer forgets what an earlier one stood for.
    derived: ClassVar[dict[str, tuple[str, ...]]] = {}


class Entry(NamedTuple):
    """One line of a name table: the typed settings, and where the class lives (``module:Class``, loaded on use)."""

    settings: type[Settings]
    target: str

    def load(self) -> Any:
        module, name = self.target.split(":")
        return getattr(import_module(module), name)
