"""ECG paper: 25 mm/s and 10 mm/mV, 3 x 4 leads over a rhythm strip, drawn without a display.

One sheet shows the record as it came (its own rate, measured leads only) over the record as a model gets it
(the modality's grid, derived leads, bridged gaps). Coordinates are millimetres of paper.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medfm.modalities.ecg import ECG
from medfm.modalities.leads import LEADS
from medfm.types import RESEARCH_USE, MedfmError, Sample, Signal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPEED, GAIN = 25.0, 10.0  # mm/s, mm/mV
GRID = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
ROW, LEFT, COLUMN = 27.0, 14.0, 62.5  # mm: row height, room for the pulse, 2.5 s
WIDTH, HEIGHT = LEFT + 4 * COLUMN + 4.0, 4 * ROW + 14.0
FINE, COARSE, INK, BAND = "#f6d5d5", "#e59a9a", "#1a1a2e", "Purples"


@dataclass(frozen=True)
class Strip:
    """What one sheet shows: x ``[12, T]`` in mV (NaN where absent), Hz, a title, and a remark for leads
    (derived)."""

    x: np.ndarray
    fs: float
    title: str
    remarks: dict[str, str]


def strips(signal: Signal, modality: ECG) -> tuple[Strip, Strip, Sample]:
    """Raw and prepared strips of a record, and its sample. Raises :class:`ReadError` as ``ECG.from_signal``
    does."""
    raw, measured, _ = modality.leads_of(signal)
    sample = modality.from_signal(signal)
    prepared = np.full((12, sample.x.shape[1]), np.nan)
    prepared[[LEADS.index(lead) for lead in sample.channels]] = sample.x
    derived = {lead: "derived" for lead in sample.channels if not measured[LEADS.index(lead)]}
    seconds = signal.x.shape[1] / signal.fs
    length = f"{seconds:.4g} s" if seconds <= 10.5 else f"the first 10 of {seconds:.0f} s"
    name = signal.record or "record"
    first = Strip(raw, signal.fs, f"{name}: as recorded, {signal.format}, {signal.fs:g} Hz, {length}", {})
    grid = [f"{modality.fs:g} Hz"]
    if modality.highpass:
        grid.append(f"high-pass {modality.highpass:g} Hz")
    second = Strip(
        prepared, modality.fs, f"{name}: prepared, {', '.join(grid)}, in mV before normalisation", derived
    )
    return first, second, sample


def draw(sheets: Sequence[Strip], lines: Sequence[str] = ()) -> Figure:
    """Sheets under one another at true scale (at 100 % print size), with remarks below. No display is
    needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    notes = list(lines)
    below = 8.0 + 4.2 * len(notes)
    total = len(sheets) * HEIGHT + below
    figure = Figure(figsize=(WIDTH / 25.4, total / 25.4), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    for number, sheet in enumerate(sheets):
        bottom = total - (number + 1) * HEIGHT
        axes = figure.add_axes((0.0, bottom / total, 1.0, HEIGHT / total))
        _paper(axes)
        _traces(axes, sheet)
    for number, text in enumerate(notes):
        y = (below - 4.5 - 4.2 * number) / total
        figure.text(4 / WIDTH, y, text, fontsize=7, color=INK, va="center")
    footer = f"25 mm/s   10 mm/mV   medfm   {RESEARCH_USE}"
    figure.text(4 / WIDTH, 3.0 / total, footer, fontsize=6.5, color="#555555", va="center")
    return figure


def draw_prepared(
    x: np.ndarray, modality: ECG, attention: np.ndarray | None = None, cell: Sequence[int] = ()
) -> Figure:
    """One sheet of a record on the modality's grid, ``x [C, T]`` in mV of its leads (NaN: absent).

    attention: ``[n]`` from 0 to 1, of ``cell[0]`` samples each from the start: a band under the rhythm strip.
    """
    leads = np.full((12, x.shape[1]), np.nan)
    leads[[LEADS.index(lead) for lead in modality.channels]] = x
    title = f"As the network got it, before normalisation: {modality.fs:g} Hz"
    figure = draw([Strip(leads, modality.fs, title, {})])
    if attention is not None:
        axes = figure.axes[0]
        seconds = min(len(attention) * cell[0] / modality.fs, 4 * COLUMN / SPEED)
        shown = attention[: round(seconds * modality.fs / cell[0])]
        right = LEFT + SPEED * len(shown) * cell[0] / modality.fs
        axes.imshow(
            shown[None], extent=(LEFT, right, 0.5, 3.5), cmap=BAND, vmin=0, vmax=1, aspect="auto", zorder=5
        )
        axes.text(LEFT - 1, 2.0, "attention", fontsize=6.5, color=INK, ha="right", va="center")
        axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    return figure


def _paper(axes: Axes) -> None:
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, HEIGHT)
    axes.axis("off")
    for step, colour, width in ((1.0, FINE, 0.35), (5.0, COARSE, 0.55)):
        axes.vlines(np.arange(0, WIDTH + 0.1, step), 0, HEIGHT, color=colour, linewidth=width)
        axes.hlines(np.arange(0, HEIGHT + 0.1, step), 0, WIDTH, color=colour, linewidth=width)


def _traces(axes: Axes, sheet: Strip) -> None:
    axes.text(4, HEIGHT - 5.0, sheet.title, fontsize=8.5, color=INK, weight="bold", va="center", **_halo())
    seconds = sheet.x.shape[1] / sheet.fs
    slice_seconds = COLUMN / SPEED
    for row, names in enumerate(GRID):
        base = HEIGHT - 12.0 - ROW * (row + 0.5)
        _pulse(axes, base)
        for column, name in enumerate(names):
            # Carts print four consecutive slices; a record too short for that shows its start in every lead.
            start = column * slice_seconds if seconds >= 4 * slice_seconds - 0.01 else 0.0
            _lead(axes, sheet, name, start, slice_seconds, LEFT + column * COLUMN, base)
    base = HEIGHT - 12.0 - ROW * 3.5
    there = [name for name in ("II", "V1", "I", *LEADS) if np.isfinite(sheet.x[LEADS.index(name)]).any()]
    _pulse(axes, base)
    if there:
        _lead(axes, sheet, there[0], 0.0, 4 * slice_seconds, LEFT, base)


def _lead(
    axes: Axes, sheet: Strip, name: str, start: float, seconds: float, left: float, base: float
) -> None:
    lead = sheet.x[LEADS.index(name)]
    first = round(start * sheet.fs)
    part = lead[first : first + round(seconds * sheet.fs) + 1]
    remark = sheet.remarks.get(name, "")
    if not np.isfinite(lead).any():
        remark = "absent"
    label = f"{name} ({remark})" if remark else name
    if np.isfinite(part).any():
        # The electrode offset is no information; carts remove it before printing as well.
        y = base + GAIN * (part - np.nanmedian(lead))
        x = left + SPEED * np.arange(len(part)) / sheet.fs
        axes.plot(x, y, color=INK, linewidth=0.75, solid_joinstyle="round", zorder=4)
    axes.plot([left, left], [base - 3, base + 3], color=INK, linewidth=0.6)
    axes.text(left + 1.5, base + 10.0, label, fontsize=8, color=INK, weight="bold", va="center", **_halo())


def _pulse(axes: Axes, base: float) -> None:
    """Calibration: 1 mV for 0.2 s, which is 10 mm high and 5 mm wide."""
    x = np.array([3.0, 5.0, 5.0, 10.0, 10.0, 12.0])
    y = base + np.array([0.0, 0.0, 10.0, 10.0, 0.0, 0.0])
    axes.plot(x, y, color=INK, linewidth=0.75)


def _halo() -> dict[str, Any]:
    return {"zorder": 3, "bbox": {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.8}}


def remarks(sample: Sample, most: int = 6) -> list[str]:
    """The findings as lines, gravest first."""
    rank = {"error": 0, "warning": 1, "info": 2}
    ordered = sorted(sample.findings, key=lambda f: rank[f.severity])
    lines = [f"{f.severity}: {f.message}" for f in ordered[:most]]
    if len(ordered) > most:
        lines.append(f"and {len(ordered) - most} more")
    return lines or ["nothing found"]


def write(signals: Sequence[Signal], modality: ECG, output: str | Path) -> list[tuple[str, str]]:
    """Draw records to ``output`` (.png: under one another; .html: self-contained, opens without a network).

    Returns what could not be drawn as (record, reason). Raises :class:`MedfmError` for another suffix, or
    when no record could be drawn.
    """
    output = Path(output)
    if output.suffix.lower() not in (".png", ".html"):
        raise MedfmError(f"{output}: give a file that ends in .png or .html.")
    pages: list[tuple[str, Figure, list[str]]] = []
    failed: list[tuple[str, str]] = []
    sheets: list[Strip] = []
    lines: list[str] = []
    for signal in signals:
        try:
            raw, prepared, sample = strips(signal, modality)
        except MedfmError as error:
            failed.append((signal.record, str(error)))
            continue
        notes = remarks(sample)
        if output.suffix.lower() == ".html":
            pages.append((signal.record or "record", draw([raw, prepared]), remarks(sample, 50)))
        else:
            sheets += [raw, prepared]
            lines += notes if len(signals) == 1 else [f"{signal.record}: {note}" for note in notes]
    if not pages and not sheets:
        reason = f"{failed[0][0]}: {failed[0][1]}" if failed else "no record was given."
        raise MedfmError(f"nothing to draw. {reason}")
    output.parent.mkdir(parents=True, exist_ok=True)
    if pages:
        output.write_text(_page(pages), encoding="utf-8")
    else:
        draw(sheets, lines).savefig(output, format="png")
    return failed


def _page(pages: Sequence[tuple[str, Figure, list[str]]]) -> str:
    parts = []
    for name, figure, notes in pages:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        image = base64.b64encode(buffer.getvalue()).decode("ascii")
        items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        parts.append(
            f'<section><h2>{html.escape(name)}</h2><img alt="ECG {html.escape(name)}" '
            f'src="data:image/png;base64,{image}"><ul>{items}</ul></section>'
        )
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1700px;"
        "padding:0 1rem;color:#1a1a2e}"
        "img{width:100%;height:auto;border:1px solid #ddd}footer{color:#555;margin-top:2rem}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>medfm ECG</title>'
        f"<style>{style}</style></head><body>{''.join(parts)}"
        f"<footer>25 mm/s, 10 mm/mV. {RESEARCH_USE}</footer></body></html>"
    )
