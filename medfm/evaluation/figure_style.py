"""How figures look: colours that the colour-blind tell apart, type that survives a phone's width, no global
state.

Figures are matplotlib ``Figure`` objects on their own Agg canvas; pyplot is never imported, so that no
display is needed and nothing stays open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), without the yellow that white paper swallows
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, MUTED, JOIN, GRID = "#1f2933", "#6b7785", "#c9d1da", "#e3e8ee"
FONT_SIZE = 11.0
WIDTH, HEIGHT = 4.8, 3.9  # inches: a phone shows 4.8 in of 11 pt at about 8 pt, still legible


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def dash(index: int) -> Any:
    """The second round of colours is dashed, so that 28 curves stay distinct."""
    return DASHES[(index // len(COLOURS)) % len(DASHES)]


def new_figure(width: float = WIDTH, height: float = HEIGHT) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes, xlabel: str = "", ylabel: str = "", *, grid: str = "both") -> Axes:
    """Labels, light grid, no box."""
    axes.set_xlabel(xlabel, fontsize=FONT_SIZE, color=INK)
    axes.set_ylabel(ylabel, fontsize=FONT_SIZE, color=INK)
    axes.tick_params(labelsize=FONT_SIZE - 1.5, colors=INK, length=3, width=0.7)
    axes.set_facecolor("white")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
        spine.set_linewidth(0.8)
    axes.set_axisbelow(True)
    if grid != "none":
        axes.grid(True, axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    return axes


def legend(axes: Axes, **arguments: Any) -> None:
    """A legend outside the data where it would hide them, small enough for a dozen entries."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    size = FONT_SIZE - (2 if len(labels) <= 6 else 3)
    arguments = {"frameon": True, "framealpha": 0.9, "edgecolor": "none", "fontsize": size, **arguments}
    axes.legend(handles, labels, **arguments)


def legend_below(axes: Axes, **arguments: Any) -> None:
    """The legend under the axis label, in two columns, for curves that leave no corner free."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure()
    if labels and figure is not None:
        columns = 2 if max(map(len, labels)) <= 28 and len(labels) > 1 else 1
        look = {"frameon": False, "fontsize": FONT_SIZE - 1.5, "ncols": columns, **arguments}
        figure.legend(handles, labels, loc="outside lower center", **look)  # type: ignore[union-attr]
