"""Folders of empty files in published layouts, for the catalogue, which opens tables only."""

from __future__ import annotations

from pathlib import Path


def tree(root: Path, *places: str) -> Path:
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).touch()
    return root


def below(root: Path, paths: list[str]) -> list[str]:
    return [Path(path).relative_to(root.resolve()).as_posix() for path in paths]
