"""Layers of settings laid over each other, remembering which layer each value came from."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from medfm.config.backbones import BACKBONES
from medfm.config.base import Entry, Settings
from medfm.config.methods import METHODS
from medfm.config.modalities import MODALITIES
from medfm.config.run import FinetuneSettings, RunConfig
from medfm.config.strategies import STRATEGIES


class Block(NamedTuple):
    """A part of the configuration whose settings class is chosen by its ``name`` from a table."""

    table: dict[str, Entry]
    kind: str
    default: str


BLOCKS: dict[tuple[type[Settings], str], Block] = {
    (RunConfig, "modality"): Block(MODALITIES, "modality", "ecg"),
    (RunConfig, "backbone"): Block(BACKBONES, "backbone", "vit"),
    (RunConfig, "method"): Block(METHODS, "method", "ecg_jepa"),
    (FinetuneSettings, "strategy"): Block(STRATEGIES, "strategy", "lp-ft"),
}


def child(model: type[Settings] | None, key: str, value: Any) -> type[Settings] | None:
    """The settings class below ``key``; None for a leaf, an unknown key or an unknown name."""
    if model is None:
        return None
    if block := BLOCKS.get((model, key)):
        name = value.get("name", block.default) if isinstance(value, Mapping) else value or block.default
        entry = block.table.get(name) if isinstance(name, str) else None
        return entry.settings if entry else None
    field = model.model_fields.get(key)
    kind: Any = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, Settings) else None


def alternatives(annotation: Any) -> set[type]:
    """The plain types a field takes, unions and literals flattened: ``int | Literal["auto"]``: int, str."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return set().union(*(alternatives(a) for a in get_args(annotation)))
    if origin is Literal:
        return {type(a) for a in get_args(annotation)}
    kind = origin or annotation
    return {kind} if isinstance(kind, type) else set()


class Layers:
    """The merged settings of a run; ``origin`` maps a dotted key to the last layer that set it."""

    def __init__(self, model: type[Settings]) -> None:
        self.model = model
        self.data: dict[str, Any] = {}
        self.origin: dict[str, str] = {}
        self.problems: list[str] = []

    def add(self, data: Mapping[str, Any], label: str) -> None:
        """Lay ``data`` (nested) on top."""
        self._merge(self.model, self.data, data, "", label)

    def set(self, dotted: str, value: Any, label: str) -> None:
        """Set one ``key.path``; a mapping is laid over, everything else replaces."""
        nested: Any = value
        for part in reversed(dotted.split(".")):
            nested = {part: nested}
        self.add(nested, label)

    def annotation(self, dotted: str) -> Any:
        """The annotation of the field at ``dotted`` under the names chosen so far; None if there is none."""
        model: type[Settings] | None = self.model
        data: Any = self.data
        *parents, leaf = dotted.split(".")
        for part in parents:
            data = data.get(part) if isinstance(data, Mapping) else None
            model = child(model, part, data)
        field = model.model_fields.get(leaf) if model else None
        return field.annotation if field else None

    def _merge(
        self,
        model: type[Settings] | None,
        into: dict[str, Any],
        data: Mapping[str, Any],
        prefix: str,
        label: str,
    ) -> None:
        self._forget_derived(model, into, data)
        for key, value in data.items():
            path = f"{prefix}{key}"
            block = BLOCKS.get((model, key)) if model else None
            if block and isinstance(value, str):
                value = {"name": value}
            below = child(
                model, key, value if isinstance(value, Mapping) and "name" in value else into.get(key)
            )
            is_part = block is not None or below is not None
            if is_part and isinstance(value, Mapping):
                old = into.get(key)
                if not isinstance(old, dict) or (
                    block and value.get("name", old.get("name")) != old.get("name")
                ):
                    # Another name means another set of settings: the old ones say nothing about the new.
                    old = into[key] = {}
                    self.origin = {k: v for k, v in self.origin.items() if not k.startswith(f"{path}.")}
                self._merge(below, old, value, f"{path}.", label)
            elif is_part:
                if value is not None:  # an empty group in a file changes nothing
                    valid = f"; valid in it: {', '.join(below.model_fields)}" if below else ""
                    self.problems.append(f"{path}: is a group of settings, not {value!r}{valid} [{label}]")
                continue
            else:
                into[key] = value
            self.origin[path] = label

    @staticmethod
    def _forget_derived(model: type[Settings] | None, into: dict[str, Any], data: Mapping[str, Any]) -> None:
        """A saved configuration holds what a size stood for; a later layer that names a size means it."""
        for key, derived in (model.derived if model else {}).items():
            if data.get(key) is not None:
                for name in derived:
                    into.pop(name, None)
