"""An official checkpoint becomes a bundle: converter, card, seal."""

from __future__ import annotations

import datetime
import difflib
import inspect
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from medfm.hub.bundle import Bundle, save_bundle
from medfm.hub.card import Card, Parent
from medfm.hub.seal import sha256_file
from medfm.types import ConfigError, MedfmError


def converters() -> dict[str, str]:
    """Source -> ``module:function``."""
    from medfm.hub.convert import CONVERTERS

    return CONVERTERS


def convert_checkpoint(
    source: str,
    checkpoint: str | Path,
    output: str | Path,
    *,
    identifier: str | None = None,
    overwrite: bool = False,
    options: Mapping[str, str] | None = None,
) -> Bundle:
    """Convert ``checkpoint`` with the converter of ``source`` and save the bundle in ``output``.

    The id is ``identifier`` or the output folder's name. ``options``: what the file does not say and the converter
    takes. Raises :class:`ConfigError` for an unknown source or option,
    and :class:`MedfmError` for a file that the converter does not recognise.
    """
    table = converters()
    if source not in table:
        near = difflib.get_close_matches(source, table, n=1) or list(table)
        raise ConfigError(f"no converter {source!r}; known: {', '.join(table)} (nearest: {near[0]}).")
    checkpoint, output = Path(checkpoint).expanduser(), Path(output).expanduser().absolute()
    if not checkpoint.is_file():
        raise MedfmError(f"checkpoint not found: {checkpoint}.")
    module, function = table[source].split(":")
    convert, options = getattr(import_module(module), function), dict(options or {})
    known = list(inspect.signature(convert).parameters)[1:]
    if unknown := [key for key in options if key not in known]:
        raise ConfigError(
            f"the converter {source} has no option {unknown[0]}; it has {', '.join(known) or 'none'}."
        )
    converted = convert(checkpoint, **options)
    name = identifier or re.sub(r"[^a-z0-9._-]+", "-", output.name.lower()).strip("-.")
    card = _card(source, name, checkpoint, converted)
    return save_bundle(
        output,
        converted.backbone,
        converted.modality_settings,
        card,
        {
            "method": {"name": source.replace("-", "_")},
            "converted": {"source": source, "notes": list(converted.notes)},
        },
        overwrite=overwrite,
    )


def _card(source: str, name: str, checkpoint: Path, converted: Any) -> Card:
    backbone = converted.backbone
    arguments = backbone.config()
    shape = ", ".join(
        f"{key} {arguments[key]}" for key in ("dim", "depth", "heads", "patch") if key in arguments
    )
    said: dict[str, Any] = {
        "summary": f"Converted from the official {source} checkpoint {checkpoint.name}, whose weights are unchanged.",
        "license": "other",
        "data": "What the official authors state of their checkpoint; medfm does not know it. Their license applies "
        "to the weights.",
        "preprocessing": _words(converted.modality_settings),
        "citations": [source],
        **converted.card,
    }
    return Card(
        id=name,
        modality=converted.modality_settings["name"],
        architecture=f"{arguments['name']}, {shape}" if shape else arguments["name"],
        parameters=sum(p.numel() for p in backbone.parameters()),
        method=source.replace("-", "_"),
        limitations=" ".join(converted.notes) or "Not evaluated by medfm.",
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        parents=[Parent(ref=checkpoint.name, checkpoint=sha256_file(checkpoint).sha256)],
        **said,
    )


def _words(settings: dict[str, Any]) -> str:
    """The settings that a reader compares first, as they stand in ``config.json``."""
    shown = {key: value for key, value in settings.items() if isinstance(value, str | int | float)}
    return ", ".join(f"{key} {value}" for key, value in shown.items()) + "; medfm applies it at load."
