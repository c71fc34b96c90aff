"""The sequences of MRI subjects as a model gets them: a row a sequence, three planes, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medfm.modalities import sheet
from medfm.modalities.mri_grid import same_grid
from medfm.modalities.volume_views import PLANES, plane, square
from medfm.types import RESEARCH_USE, Finding, Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.5  # inches
RANGE = (-3.0, 3.0)  # z-scores shown black and white
OUTSIDE = "#3b4a6b"  # what was not measured
OUTLINE = "#ff9a3c"
_PAIRS = {code: pair for pair in ("RL", "AP", "SI") for code in pair}


def draw(pairs: Sequence[tuple[Any, Sample]], orientation: str, masks: dict[str, np.ndarray]) -> Figure:
    """A row a sequence: axial, coronal and sagittal through the middle of the mask, else of the grid. An absent sequence is an
    empty row that says so; the mask is outlined."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = colormaps["gray"].with_extremes(bad=OUTSIDE)
    heights = [2.3 if there else 0.6 for _, sample in pairs for there in sample.present]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.4), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    grid = {"height_ratios": heights}
    axes = iter(figure.subplots(len(heights), len(PLANES), squeeze=False, gridspec_kw=grid))
    for subject, sample in pairs:
        mask = masks.get(subject.address)
        middle = _middle(mask, orientation)
        size = f"{' x '.join(map(str, sample.x.shape[1:]))} of {' x '.join(f'{mm:.3g}' for mm in sample.spacing)} mm"
        for channel, name, there in zip(sample.x, sample.channels, sample.present):
            row = next(axes)
            for panel, view in zip(row, PLANES):
                panel.set_xticks([])
                panel.set_yticks([])
                if not there:
                    panel.set_facecolor("#eeeeee")
                    panel.text(
                        0.5, 0.5, f"{name} is missing", ha="center", va="center", transform=panel.transAxes
                    )
                    continue
                show = partial(_shown, view=view, axes=orientation, spacing=sample.spacing, at=middle[view])
                panel.imshow(show(channel), cmap=colours, vmin=RANGE[0], vmax=RANGE[1])
                if mask is not None and (seen := show((mask > 0).astype(np.float32)) > 0.5).any():
                    panel.contour(seen, levels=[0.5], colors=[OUTLINE], linewidths=0.7)
            row[0].set_title(f"{subject.record[-40:]}: {name}", fontsize=7, loc="left")
            row[-1].set_title(size, fontsize=7, loc="right")
    figure.tight_layout(rect=(0, 0.2 / figure.get_figheight(), 1, 1))
    figure.text(
        0.01,
        0.004,
        f"medfm   z-scores {RANGE[0]:g} to {RANGE[1]:g}   {RESEARCH_USE}",
        fontsize=6,
        color="#555555",
    )
    return figure


def _middle(mask: np.ndarray | None, orientation: str) -> dict[str, float]:
    """Where each plane cuts the axis that goes through it, 0 to 1 from its end in :data:`PLANES`: the mask's largest slice."""
    at = dict.fromkeys(PLANES, 0.5)
    if mask is None or not mask.any():
        return at
    for view, (through, *_) in PLANES.items():
        axis = next(i for i, code in enumerate(orientation) if code in _PAIRS[through])
        others = tuple(a for a in range(3) if a != axis)
        place = (int(np.argmax((mask > 0).sum(others))) + 0.5) / mask.shape[axis]
        at[view] = place if orientation[axis] == through else 1 - place
    return at


def _shown(x: np.ndarray, view: str, axes: str, spacing: Sequence[float], at: float) -> np.ndarray:
    return np.asarray(square(*plane(x[None], axes, spacing, view, at))[0])


def write(records: Sequence[Any], modality: Any, output: str | Path) -> list[tuple[str, str]]:
    """Draw subjects (``address``, ``record``, and the file of a mask or None as ``label``) to ``output``, see
    :func:`medfm.modalities.sheet.write`."""
    from medfm.formats.volume import read_volume

    masks: dict[str, np.ndarray] = {}

    def prepare(subject: Any) -> Sample:
        volumes = modality.open(subject.address)
        placed = modality.place(volumes)
        sample: Sample = modality.prepare(placed.sample)
        if not subject.label:
            return sample
        mask = read_volume(subject.label, label=True)
        home = volumes[placed.reference]
        if mask.x.shape != home.x.shape or not same_grid(mask, home):
            told = Finding("label-grid", "its mask does not lie on its grid and is not shown.")
            return sample.replace(findings=(*sample.findings, told))
        masks[subject.address] = placed.label(mask.x)
        return sample

    return sheet.write(
        records, prepare, partial(draw, orientation=modality.orientation, masks=masks), output, "subject"
    )
