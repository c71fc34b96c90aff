"""Records drawn for a person, as a picture or as a page that opens without a network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfm.types import RESEARCH_USE, MedfmError, Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pair = tuple[Any, Sample]
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}img{width:100%}"
)


def write(
    records: Sequence[Any],
    prepare: Callable[[Any], Sample],
    draw: Callable[[Sequence[Pair]], Figure],
    output: str | Path,
    what: str,
) -> list[tuple[str, str]]:
    """Draw ``records`` to ``output`` (.png: under one another; .html: with their findings). what: one of them is called so.

    Returns what could not be drawn as (record, reason). Raises :class:`MedfmError` for another suffix, or when nothing
    could be drawn.
    """
    output = Path(output)
    if output.suffix.lower() not in (".png", ".html"):
        raise MedfmError(f"{output}: give a file that ends in .png or .html.")
    pairs: list[Pair] = []
    failed: list[tuple[str, str]] = []
    for record in records:
        try:
            pairs.append((record, prepare(record)))
        except MedfmError as error:
            failed.append((record.record, str(error)))
    if not pairs:
        raise MedfmError(
            f"{failed[0][0]}: {failed[0][1]}" if failed else f"no {what} was given, so there is none to draw."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix.lower() == ".png":
        draw(pairs).savefig(output, format="png")
    else:
        output.write_text(_page(pairs, draw, what), encoding="utf-8")
    return failed


def _page(pairs: Sequence[Pair], draw: Callable[[Sequence[Pair]], Figure], what: str) -> str:
    parts = []
    for pair in pairs:
        buffer = io.BytesIO()
        draw([pair]).savefig(buffer, format="png")
        picture = base64.b64encode(buffer.getvalue()).decode("ascii")
        name = html.escape(pair[0].record or what)
        items = "".join(f"<li>{f.severity}: {html.escape(f.message)}</li>" for f in pair[1].findings)
        parts.append(
            f'<section><h2>{name}</h2><img alt="{what} {name}" src="data:image/png;base64,{picture}">'
            f"<ul>{items or '<li>nothing found</li>'}</ul></section>"
        )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>medfm: {what}s</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}<footer>{RESEARCH_USE}</footer></body></html>"
    )
