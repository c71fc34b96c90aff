"""Every mistake in a configuration, found in one pass, each with the nearest valid key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from medfm.config.base import Settings
from medfm.config.layers import BLOCKS, Block, child


def nearest(word: str, known: list[str], cutoff: float = 0.6) -> str | None:
    found = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return found[0] if found else None


def valid_keys(model: type[Settings], data: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key that can be set, under the names that ``data`` chooses."""
    for key in model.model_fields:
        value = data.get(key) if isinstance(data, Mapping) else None
        below = child(model, key, value)
        if below is None:
            yield f"{prefix}{key}"
        else:
            yield from valid_keys(below, value if isinstance(value, Mapping) else {}, f"{prefix}{key}.")


class Checker:
    """Validates from the leaves up, so that one wrong block never hides the mistakes of another."""

    def __init__(self, model: type[Settings], data: dict[str, Any], origin: Mapping[str, str]) -> None:
        self.root, self.origin = model, origin
        self.keys = list(valid_keys(model, data))
        self.problems: list[str] = []
        self.result = self._check(model, data, "")

    def _say(self, path: str, message: str) -> None:
        where = self.origin.get(path)
        parent = path
        while where is None and "." in parent:
            parent = parent.rpartition(".")[0]
            where = self.origin.get(parent)
        # A mistake of the whole (two blocks that do not go together) has no path.
        self.problems.append((f"{path}: " if path else "") + message + (f" [{where}]" if where else ""))

    def _check(self, model: type[Settings], data: dict[str, Any], prefix: str) -> Settings | None:
        clean: dict[str, Any] = {}
        for key, value in data.items():
            path = f"{prefix}{key}"
            if key not in model.model_fields:
                self._say(path, self._unknown(model, str(key), prefix, data))
                continue
            block = BLOCKS.get((model, key))
            below = child(model, key, value)
            if block and below is None:
                name = value.get("name") if isinstance(value, Mapping) else value
                self._say(f"{path}.name", _unknown_name(name, block))
            elif below is not None:
                part = dict(value)
                if block:
                    part.setdefault("name", block.default)
                if (checked := self._check(below, part, f"{path}.")) is not None:
                    clean[key] = checked
            else:
                clean[key] = value
        return self._validate(model, clean, prefix)

    def _validate(self, model: type[Settings], clean: dict[str, Any], prefix: str) -> Settings | None:
        try:
            return model.model_validate(clean)
        except ValidationError as error:
            seen: set[str] = set()
            for item in error.errors(include_url=False):
                # A union reports once for each of its members; the field and its own words are enough.
                key = str(item["loc"][0]) if item["loc"] else ""
                path = f"{prefix}{key}".rstrip(".")
                if path not in seen:
                    same = [e for e in error.errors(include_url=False) if str((e["loc"] or ("",))[0]) == key]
                    self._say(path, _sentence(same, clean.get(key)))
                seen.add(path)
            return None

    def _unknown(self, model: type[Settings], key: str, prefix: str, data: Mapping[str, Any]) -> str:
        for block in BLOCKS.values():
            mine = [name for name, entry in block.table.items() if entry.settings is model]
            owners = [name for name, entry in block.table.items() if key in entry.settings.model_fields]
            if mine and owners:
                return (
                    f"a setting of {block.kind} {' and '.join(owners)}, but this run uses "
                    f"{data.get('name', block.default)}; valid here: {', '.join(model.model_fields)}"
                )
        if match := self._nearest(model, key, prefix):
            return f"unknown setting; did you mean {match}?"
        return f"unknown setting; valid here: {', '.join(model.model_fields)}"

    def _nearest(self, model: type[Settings], key: str, prefix: str) -> str | None:
        """A sibling of like name; else the same or a like leaf elsewhere; else a like path."""
        if sibling := nearest(key, list(model.model_fields)):
            return f"{prefix}{sibling}"
        leaves = {k.rpartition(".")[2]: k for k in reversed(self.keys)}
        if leaf := nearest(key, list(leaves), 0.75):
            return leaves[leaf]
        return nearest(f"{prefix}{key}", self.keys, 0.5)


def _unknown_name(name: Any, block: Block) -> str:
    guess = nearest(str(name), list(block.table))
    hint = f"; did you mean {guess}?" if guess else ""
    return f"unknown {block.kind} {name!r}{hint} (known: {', '.join(block.table)})"


def _sentence(errors: list[Any], value: Any) -> str:
    """Pydantic's words on one field, in one line with the value that was given."""
    words = []
    for item in errors:
        message = item["msg"].removeprefix("Value error, ").removeprefix("Input ").strip()
        if item["type"] == "literal_error":
            expected = item["ctx"]["expected"]
            options = [o.strip(" '") for o in expected.replace(" or ", ",").split(",")]
            guess = nearest(str(item["input"]), options)
            message = f"should be {expected}" + (f"; did you mean {guess}?" if guess else "")
        elif item["type"] == "value_error" and not item["loc"]:
            return message
        inner = ".".join(str(part) for part in item["loc"][1:] if isinstance(part, int))
        words.append(f"item {int(inner) + 1} {message}" if inner.isdigit() else message)
    return f"{', or '.join(dict.fromkeys(words))} (given: {value!r})"
