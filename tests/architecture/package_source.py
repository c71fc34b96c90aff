"""The source of the installed package as syntax trees, for the tests of this folder."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import medfm

PACKAGE = Path(medfm.__file__).resolve().parent
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Import:
    """One import: the importing module, what it imports (dotted, absolute), where, and if for types only."""

    importer: str
    imported: str
    file: str
    line: int
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.imported}"


@lru_cache
def sources() -> dict[str, ast.Module]:
    """Path inside the package -> syntax tree."""
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"), str(path))
        for path in sorted(PACKAGE.rglob("*.py"))
        if "_shipped" not in path.parts
    }


def module_name(file: str) -> str:
    return ("medfm." + file.removesuffix(".py").replace("/", ".")).removesuffix(".__init__")


def room(module: str) -> str:
    """``medfm.data.store`` -> ``data``; the package itself is ``__init__``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@lru_cache
def imports() -> tuple[Import, ...]:
    """Every import anywhere in the package, also inside functions."""
    modules = {module_name(f) for f in sources()}
    found: list[Import] = []
    for file, tree in sources().items():
        name = module_name(file)
        typing_only = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If)
            and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                package = name.split(".") if file.endswith("__init__.py") else name.split(".")[:-1]
                base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
                module = ".".join(part for part in (base, node.module) if part)
                # `from medfm.data import store` names a module; `from medfm.types import Sample` does not.
                targets = [
                    full if (full := f"{module}.{alias.name}") in modules else module for alias in node.names
                ]
            else:
                continue
            for target in dict.fromkeys(targets):
                found.append(Import(name, target, file, node.lineno, id(node) in typing_only))
    return tuple(found)
