"""Volumes as their files store them beside what a model gets of them: three planes each, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medfm.modalities import sheet
from medfm.modalities.volume_grid import axis_codes
from medfm.modalities.volume_views import PLANES, plane, square
from medfm.types import RESEARCH_USE, Sample, Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 9.0  # inches
WIDE = (-1000.0, 1000.0)  # HU of the stored volume
OUTSIDE = "#3b4a6b"  # what was not measured


def draw(pairs: Sequence[tuple[Volume, Sample]], modality: Any) -> Figure:
    """Two rows a volume: the file's values (of HU -1000 to 1000, else their range), and the first window as a model gets
    it, on the model's grid."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = colormaps["gray"].with_extremes(bad=OUTSIDE)
    figure = Figure(figsize=(WIDTH, 6.4 * len(pairs)), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 * len(pairs), len(PLANES), squeeze=False)
    for i, (volume, sample) in enumerate(pairs):
        x = np.asarray(volume.x, np.float32)
        x = x if volume.valid is None else np.where(volume.valid, x, np.nan)
        low, high = WIDE if volume.unit == "HU" else (float(np.nanmin(x)), float(np.nanmax(x)))
        prepared = modality.prepare(sample)
        warned = ", ".join(dict.fromkeys(f.code for f in sample.findings if f.severity != "info"))
        said = f"{volume.record[-28:]}: {' x '.join(map(str, x.shape))} of {' x '.join(f'{mm:.3g}' for mm in volume.spacing)} mm,\n{volume.unit or 'unit not stated'}"
        given = f"as a model gets it, {' x '.join(map(str, sample.x.shape[1:]))} of {' x '.join(f'{mm:.3g}' for mm in sample.spacing)} mm,\n{modality.channels[0]}"
        rows = (
            (x[None], axis_codes(volume.affine), volume.spacing, low, high, said),
            (
                prepared.x[:1],
                modality.orientation,
                sample.spacing,
                0.0,
                1.0,
                given + (f"\n{warned}" if warned else ""),
            ),
        )
        for row, (values, codes, spacing, black, white, words) in zip(axes[2 * i : 2 * i + 2], rows):
            for panel, name in zip(row, PLANES):
                panel.imshow(
                    square(*plane(values, codes, spacing, name))[0],
                    cmap=colours,
                    vmin=black,
                    vmax=max(white, black + 1e-6),
                )
                panel.set_axis_off()
            row[0].set_title(words, fontsize=7, loc="left")
    figure.tight_layout(rect=(0, 0.2 / figure.get_figheight(), 1, 1))
    figure.text(0.01, 0.004, f"medfm   {RESEARCH_USE}", fontsize=6, color="#555555")
    return figure


def draw_slices(pairs: Sequence[tuple[Sample, Sample]]) -> Figure:
    """One row a slice: every window that a model gets."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(pairs[0][1].channels)
    figure = Figure(figsize=(3.8 * columns + 0.6, 4.0 * len(pairs) + 0.3), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    for row, (_, sample) in zip(figure.subplots(len(pairs), columns, squeeze=False), pairs):
        for panel, channel, name in zip(row, sample.x, sample.channels):
            panel.imshow(channel, cmap=colormaps["gray"].with_extremes(bad=OUTSIDE), vmin=0, vmax=1)
            panel.set_title(f"{sample.record[-28:]}: {name}", fontsize=7)
            panel.set_axis_off()
    figure.tight_layout(rect=(0, 0.2 / figure.get_figheight(), 1, 1))
    figure.text(0.01, 0.004, f"medfm   {RESEARCH_USE}", fontsize=6, color="#555555")
    return figure


def write(records: Sequence[Any], modality: Any, output: str | Path) -> list[tuple[str, str]]:
    """Draw volumes, or slices that are read already, to ``output``, see :func:`medfm.modalities.sheet.write`."""
    if modality.rank == 2:
        return sheet.write(records, lambda sample: sample, draw_slices, output, "slice")
    return sheet.write(
        records, lambda v: modality.place(v).sample, partial(draw, modality=modality), output, "volume"
    )
