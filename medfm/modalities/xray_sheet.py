"""Radiographs as their files store them beside what a model gets of them, drawn without a display."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medfm.modalities.grey import statistics
from medfm.modalities.xray import Xray
from medfm.types import RESEARCH_USE, Image, MedfmError, Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 3.6  # inches a picture
OUTSIDE = "#3b4a6b"  # what is no picture


def draw(pairs: Sequence[tuple[Image, Sample]]) -> Figure:
    """One row a radiograph: stored values (their range from black to white, nothing turned round), and prepared grey
    with the codes of its warnings.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = colormaps["gray"].with_extremes(bad=OUTSIDE)
    figure = Figure(figsize=(2 * SIDE + 0.6, (SIDE + 0.35) * len(pairs) + 0.3), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(pairs), 2, squeeze=False)
    for row, (image, sample) in zip(axes, pairs):
        rows, columns = image.x.shape[1:]
        step = max(1, max(rows, columns) // 800)
        stored = image.x[:, ::step, ::step].mean(axis=0)
        low, high = np.percentile(statistics(image), (0, 100))
        row[0].imshow(stored, cmap=colours, vmin=low, vmax=max(high, low + 1e-6), aspect=image.aspect)
        row[0].set_title(f"{image.record[-28:]}: stored, {columns} x {rows}, {image.photometric}", fontsize=7)
        grey = sample.x[0] if len(sample.x) == 1 else np.moveaxis(np.nan_to_num(sample.x), 0, 2)
        row[1].imshow(grey, cmap=colours, vmin=0, vmax=1)
        warned = ", ".join(dict.fromkeys(f.code for f in sample.findings if f.severity != "info"))
        row[1].set_title(
            f"as a model gets it, {sample.x.shape[2]} x {sample.x.shape[1]}"
            + (f"\n{warned}" if warned else ""),
            fontsize=7,
        )
        for side in row:
            side.set_axis_off()
    figure.tight_layout(rect=(0, 0.2 / figure.get_figheight(), 1, 1))
    figure.text(0.01, 0.004, f"medfm   {RESEARCH_USE}", fontsize=6, color="#555555")
    return figure


def write(images: Sequence[Image], modality: Xray, output: str | Path) -> list[tuple[str, str]]:
    """Draw radiographs to ``output`` (.png: under one another; .html: with their findings, opens without a network).

    Returns what could not be drawn as (record, reason). Raises :class:`MedfmError` for another suffix, or when nothing
    could be drawn.
    """
    output = Path(output)
    if output.suffix.lower() not in (".png", ".html"):
        raise MedfmError(f"{output}: give a file that ends in .png or .html.")
    pairs: list[tuple[Image, Sample]] = []
    failed: list[tuple[str, str]] = []
    for image in images:
        try:
            pairs.append((image, modality.from_image(image)))
        except MedfmError as error:
            failed.append((image.record, str(error)))
    if not pairs:
        raise MedfmError(
            f"{failed[0][0]}: {failed[0][1]}" if failed else "no picture was given, so there is none to draw."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix.lower() == ".png":
        draw(pairs).savefig(output, format="png")
    else:
        output.write_text(_page(pairs), encoding="utf-8")
    return failed


def _page(pairs: Sequence[tuple[Image, Sample]]) -> str:
    parts = []
    for pair in pairs:
        buffer = io.BytesIO()
        draw([pair]).savefig(buffer, format="png")
        picture = base64.b64encode(buffer.getvalue()).decode("ascii")
        name = html.escape(pair[0].record or "picture")
        items = "".join(f"<li>{f.severity}: {html.escape(f.message)}</li>" for f in pair[1].findings)
        parts.append(
            f'<section><h2>{name}</h2><img alt="radiograph {name}" src="data:image/png;base64,{picture}">'
            f"<ul>{items or '<li>nothing found</li>'}</ul></section>"
        )
    style = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}img{width:100%}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>medfm X-ray</title>'
        f"<style>{style}</style></head><body>{''.join(parts)}<footer>{RESEARCH_USE}</footer></body></html>"
    )
