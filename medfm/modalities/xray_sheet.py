"""Radiographs as their files store them beside what a model gets of them, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medfm.modalities import sheet
from medfm.modalities.grey import statistics
from medfm.modalities.xray import Xray
from medfm.types import RESEARCH_USE, Image, Sample

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
    """Draw radiographs to ``output``, see :func:`medfm.modalities.sheet.write`."""
    return sheet.write(images, modality.from_image, draw, output, "radiograph")
