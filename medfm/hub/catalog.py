"""The catalogue: models shipped with medfm and models of the local hub. Listing reads JSON only, no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medfm import paths
from medfm.hub.bundle import CONFIG, WEIGHTS, parse_config
from medfm.hub.card import Card, Result
from medfm.hub.folder import local_hub
from medfm.hub.seal import read_manifest
from medfm.types import MedfmError


@dataclass(frozen=True)
class CatalogRow:
    """One model as ``medfm hub list`` shows it. ``size`` is the weights' bytes, 0 where only the card is
    shipped.
    """

    id: str
    modality: str
    method: str
    size: int
    parameters: int
    simulated_only: bool
    result: str
    where: str
    revision: str = ""
    task: str = ""
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def list_models(modality: str | None = None) -> list[CatalogRow]:
    """Every model that can be named without a path, shipped ones first; one that is damaged says so in
    ``problem``.
    """
    rows = [*_shipped(), *_local()]
    return [row for row in rows if modality is None or row.modality == modality or row.problem]


def shipped_models() -> dict[str, Path]:
    """Catalogue id -> bundle folder, of what ships with medfm."""
    root = paths.model_cards()
    return {p.name: p for p in sorted(root.iterdir()) if (p / CONFIG).is_file()} if root.is_dir() else {}


def _shipped() -> Iterator[CatalogRow]:
    for identifier, folder in shipped_models().items():
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            size = entry.size if (entry := read_manifest(folder).get(WEIGHTS)) else 0
            yield _row(identifier, config, size, "shipped" if size else "card only", folder)
        except (MedfmError, ValueError) as error:
            yield _damaged(identifier, "shipped", error)


def _local() -> Iterator[CatalogRow]:
    hub = local_hub()
    for name in hub.names():
        try:
            published = hub.find(name)
            config = hub.read_json(published, CONFIG)
            size = int((published.record["files"].get(WEIGHTS) or {"size": 0})["size"])
            yield _row(name, config, size, "local hub", hub.root, str(published.revision))
        except (MedfmError, ValueError) as error:
            yield _damaged(name, "local hub", error)


def _row(identifier: str, config: Any, size: int, where: str, source: Path, revision: str = "") -> CatalogRow:
    _, card = parse_config(config, source)
    return CatalogRow(
        id=identifier,
        modality=card.modality,
        method=card.method,
        size=size,
        parameters=card.parameters,
        simulated_only=card.simulated_only,
        result=headline(card),
        where=where,
        revision=revision,
        task=card.task,
    )


def _damaged(identifier: str, where: str, error: Exception) -> CatalogRow:
    return CatalogRow(identifier, "?", "", 0, 0, False, "", where, problem=str(error))


def headline(card: Card) -> str:
    """The first result, which the card's author put first; preferably one with an interval."""
    best: Result | None = next((r for r in card.results if r.ci), card.results[0] if card.results else None)
    return best.line if best else ""
