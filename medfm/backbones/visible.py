"""A convolutional network on the visible cells of its input alone, at any rank.

SparK (Tian et al., arXiv 2301.03580) hides cells as large as the network's total stride and asks that no layer mixes
hidden positions into visible ones. Here hidden positions do not exist: the cells that are seen, ``[B * K, C, *s]``,
are the batch. Pointwise layers, batch statistics and norms over channels are then right as they stand. What looks
beyond a cell is told what lies there: convolutions and pools get each cell with the margin they need, taken from
visible neighbours, and norms over a record's positions get its cells side by side. The network itself is changed by
nothing but hooks, and by those only inside ``with sees(cells)``.

B records, K visible cells a record, N cells a record, C channels, s positions of a cell an axis at some resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd, _MaxPoolNd

from medfm.types import ConfigError

POOLS = {1: nn.MaxPool1d | nn.AvgPool1d, 2: nn.MaxPool2d | nn.AvgPool2d, 3: nn.MaxPool3d | nn.AvgPool3d}
Span = tuple[int, ...]
Hook = Callable[..., Any]
Rule = Callable[[Any, "Cells"], tuple[Hook, Hook | None]]


class Cells:
    """Which cells of a batch are visible: ``visible [B, K]``, indices into the ``grid`` (row-major, ascending).

    Held by whoever runs the network, for one forward pass. What it works out for a resolution it remembers.
    """

    def __init__(self, visible: Tensor, grid: Sequence[int]) -> None:
        self.batch, self.count = visible.shape
        self.grid = tuple(grid)
        total, device = math.prod(self.grid), visible.device
        number = torch.arange(self.batch * self.count, device=device).view(self.batch, self.count)
        self.slots = torch.full((self.batch, total), -1, device=device).scatter(1, visible, number)
        self.record = torch.arange(self.batch, device=device).repeat_interleave(self.count)
        self.places = torch.unravel_index(visible.flatten(), self.grid)
        self._known: dict[Any, tuple[Tensor, Tensor]] = {}

    def margin(self, x: Tensor, before: Span, after: Span, fill: float = 0.0) -> Tensor:
        """Every cell ``[B * K, C, *s]`` with so many positions more on each side, ``fill`` where nothing is visible."""
        rows, size = _rows(x), x.shape[2:]
        index, _ = self.tile(tuple(size), before, after)
        tile = torch.cat([rows, rows.new_full((1, rows.shape[1]), fill)]).index_select(0, index.flatten())
        return tile.view(*index.shape, -1).movedim(-1, 1)

    def tile(self, size: Span, before: Span, after: Span) -> tuple[Tensor, Tensor]:
        """Row among the visible positions of every position of :meth:`margin`'s result (one past the last row where
        hidden or outside), and whether it lies inside the input; ``[B * K, *tile]``.
        """
        key = (size, before, after)
        if key not in self._known:
            reach = [
                place[:, None] * s + torch.arange(-b, s + a, device=place.device)
                for place, s, b, a in zip(self.places, size, before, after)
            ]
            self._known[key] = self._look_up(reach, size, self.record)
        return self._known[key]

    def dense(self, x: Tensor) -> Tensor:
        """Cells ``[B * K, C, *s]`` in their places ``[B, C, *S]``, zero where hidden."""
        rows, size = _rows(x), tuple(x.shape[2:])
        if size not in self._known:
            device = x.device
            reach = [
                torch.arange(g * s, device=device).expand(self.batch, -1) for g, s in zip(self.grid, size)
            ]
            self._known[size] = self._look_up(reach, size, torch.arange(self.batch, device=device))
        index, _ = self._known[size]
        full = torch.cat([rows, rows.new_zeros(1, rows.shape[1])]).index_select(0, index.flatten())
        return full.view(*index.shape, -1).movedim(-1, 1)

    def hidden(self, size: Span) -> Tensor:
        """1 where hidden, ``[B, 1, *S]``, for cells of ``size``."""
        mask = (self.slots < 0).view(self.batch, 1, *self.grid)
        for axis, s in enumerate(size):
            mask = mask.repeat_interleave(s, dim=2 + axis)
        return mask

    def _look_up(self, reach: list[Tensor], size: Span, record: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the positions ``reach[axis] [n, T_axis]`` (of the whole input at this resolution) of ``record``."""
        rank, n = len(size), len(record)
        cell = inner = torch.zeros((), dtype=torch.long, device=record.device)
        inside = torch.ones((), dtype=torch.bool, device=record.device)
        for axis, (at, s, g) in enumerate(zip(reach, size, self.grid)):
            shape = [n, *[at.shape[1] if a == axis else 1 for a in range(rank)]]
            at = at.view(shape)
            inside = inside & (at >= 0) & (at < s * g)
            cell = cell * g + at.div(s, rounding_mode="floor").clamp(0, g - 1)
            inner = inner * s + at.remainder(s)
        slot = self.slots[record.view(n, *[1] * rank), cell]
        area = math.prod(size)
        row = torch.where(inside & (slot >= 0), slot * area + inner, self.batch * self.count * area)
        return row, inside

    def together(self, x: Tensor) -> Tensor:
        """``[B * K, C, *s] -> [B, C, K * s_0, ...]``: all that is visible of a record."""
        split = x.view(self.batch, self.count, *x.shape[1:]).transpose(1, 2)
        return split.reshape(self.batch, x.shape[1], self.count * x.shape[2], *x.shape[3:])

    def apart(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`together`."""
        split = x.unflatten(2, (self.count, -1)).transpose(1, 2)
        return split.reshape(self.batch * self.count, *split.shape[2:])


def _rows(x: Tensor) -> Tensor:
    """``[n, C, *s] -> [n * prod(s), C]``, without a copy when channels lie last in memory."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


class VisibleNetwork:
    """``with self.sees(cells): network(x)`` runs ``network`` on cells. Outside such blocks it is as it was.

    Raises :class:`ConfigError` for a layer that cannot be restricted to visible positions.
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers: list[tuple[nn.Module, Rule]] = []
        for name, module in network.named_modules():
            if isinstance(module, _ConvTransposeNd) or getattr(module, "padding_mode", "zeros") != "zeros":
                raise ConfigError(
                    f"SparK cannot keep hidden positions out of layer {name} ({type(module).__name__}): it takes "
                    "convolutions with zero padding; set another backbone.name."
                )
            if isinstance(module, _ConvNd | _MaxPoolNd | _AvgPoolNd):
                if any(before or after > 0 for before, after in zip(*_margins(module))):
                    self.layers.append((module, _with_margin))
            elif isinstance(module, nn.GroupNorm | _InstanceNorm):
                self.layers.append((module, _by_record))
            elif isinstance(module, _AdaptiveAvgPoolNd):
                self.layers.append((module, _over_records))

    @contextmanager
    def sees(self, cells: Cells) -> Iterator[None]:
        """The current mask is this argument: nothing outside the block and no other copy of the network sees it."""
        handles, paddings = [], [(m, m.padding) for m, rule in self.layers if rule is _with_margin]
        try:
            for module, rule in self.layers:
                before, after = rule(module, cells)
                handles.append(module.register_forward_pre_hook(before))
                if after:
                    handles.append(module.register_forward_hook(after))
            for module, _ in paddings:
                module.padding = (0,) * len(_spans(module)[0]) if isinstance(module, _ConvNd) else 0  # type: ignore[assignment]
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module, padding in paddings:
                module.padding = padding


def _spans(module: Any) -> tuple[Span, Span, Span]:
    """Kernel, stride and dilation, a number an axis."""
    rank = next((r for r, pools in POOLS.items() if isinstance(module, pools)), 0) or module.weight.ndim - 2
    kernel, stride, dilation = (
        (v,) * rank if isinstance(v, int) else tuple(v)
        for v in (module.kernel_size, module.stride, getattr(module, "dilation", 1))
    )
    return kernel, stride, dilation


def _margins(module: Any) -> tuple[Span, Span]:
    """How far a convolution or pool looks beyond a cell, before and after it, an axis.

    Output o reads inputs ``o t - p + d j``, j < k, and the outputs of a cell of s inputs are the s / t that begin in
    it: from p before its first to ``d (k - 1) - p - t + 1`` past its last.
    """
    kernel, stride, dilation = _spans(module)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation)]
    padding = module.padding
    if padding == "same":
        before = tuple(r // 2 for r in reach)
    elif padding == "valid":
        before = (0,) * len(reach)
    else:
        before = (padding,) * len(reach) if isinstance(padding, int) else tuple(padding)
    return before, tuple(r - p - t + 1 for r, p, t in zip(reach, before, stride))


def _with_margin(module: Any, cells: Cells) -> tuple[Hook, Hook | None]:
    """Convolutions and pools: a cell with its visible surroundings, and no padding beside them. What is hidden adds
    nothing to a sum, is never a maximum, and is not counted in a mean.
    """
    before, after = _margins(module)
    fill = -math.inf if isinstance(module, _MaxPoolNd) else 0.0

    def widen(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return cells.margin(inputs[0], before, after, fill)

    def recount(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        tile = inputs[0]
        size = tuple(t - b - a for t, b, a in zip(tile.shape[2:], before, after))
        index, inside = cells.tile(size, before, after)
        seen = (index < cells.batch * cells.count * math.prod(size)).to(tile.dtype)[:, None]
        # A mean that counts padding divides by the whole kernel: of the input's own places only hidden ones go.
        full = inside.to(tile.dtype)[:, None] if module.count_include_pad else torch.ones_like(seen)
        return output * (module.forward(full) / module.forward(seen))

    return widen, recount if isinstance(module, _AvgPoolNd) else None


def _by_record(_: Any, cells: Cells) -> tuple[Hook, Hook]:
    """Norms over a record's positions: statistics of all its visible cells."""
    return (lambda _, inputs: cells.together(inputs[0])), (lambda _, __, output: cells.apart(output))


def _over_records(_: Any, cells: Cells) -> tuple[Hook, Hook]:
    """A pool over all positions: the mean of a record's visible ones, given to each of its cells."""
    return (lambda _, inputs: cells.together(inputs[0])), (
        lambda _, __, output: output.repeat_interleave(cells.count, dim=0)
    )
