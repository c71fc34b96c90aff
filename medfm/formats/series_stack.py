"""Slices -> stacks that are one volume each, and their geometry from positions along the slice normal.

Instance numbers, slice locations and stated spacings are never used: only ImagePositionPatient and
ImageOrientationPatient place a slice (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from medfm.formats.series_header import DIFFERENCES, Slice
from medfm.formats.series_report import Gap
from medfm.formats.volume_space import LPS_TO_RAS

REGULAR = 0.01
"""By how much of the usual step a step may differ from it."""
TILT_DEG = 0.1
"""Largest angle between the normal and the line through the slices that is not a tilt (1.7 mm in a metre)."""
_SAME_ORIENTATION = 5e-3
# Differences that always part a series; the others only where slices share positions or steps are irregular, because a
# scanner may number its acquisitions slice by slice.
_ALWAYS = ("echo", "stack", "temporal position")


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices of one volume in order of position along the normal, one a position, and where they are.

    at: mm along the normal ``[n]``; step: mm, the usual one; same: other slices at a position, by index in ``slices``.
    shift: mm that a slice moves (along a row, along a column) for each mm along the normal; crooked: mm by which
    slices leave that line; right_angle: is the orientation a pair of perpendicular unit vectors?
    """

    slices: tuple[Slice, ...]
    part: str
    at: np.ndarray
    step: float
    gaps: tuple[Gap, ...]
    same: dict[int, tuple[Slice, ...]]
    shift: tuple[float, float]
    crooked: float
    right_angle: bool

    @property
    def tilt_deg(self) -> float:
        return math.degrees(math.atan(math.hypot(*self.shift)))

    @property
    def tilted(self) -> bool:
        return self.tilt_deg > TILT_DEG

    def affine(self) -> np.ndarray:
        """Voxel index (column, row, slice) to mm, RAS+, for slices on the normal through the first one, ``step`` apart."""
        first = self.slices[0]
        along, down, normal = axes(first)
        lps = np.eye(4)
        lps[:3, 0], lps[:3, 1], lps[:3, 2] = along * first.pitch[1], down * first.pitch[0], normal * self.step
        lps[:3, 3] = first.position
        return LPS_TO_RAS @ lps


def axes(s: Slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Direction along a row (its columns), down a column (its rows), and the slice normal, LPS."""
    along, down = np.array(s.orientation[:3]), np.array(s.orientation[3:])
    return along, down, np.cross(along, down)


def stacks_of(slices: Sequence[Slice]) -> list[Stack]:
    """The stacks of one SeriesInstanceUID, each with what told it from the others."""
    found: list[tuple[str, list[Slice]]] = []
    for _, sized in _by(slices, lambda s: (s.size, round(s.pitch[0], 4), round(s.pitch[1], 4), s.modality)):
        for oriented in _by_orientation(sized):
            for part, alike in _always(oriented):
                found += [(_joined(part, more), some) for more, some in _where_needed(alike)]
    return [stack(some, part if len(found) > 1 else "") for part, some in found]


def _joined(*parts: str) -> str:
    return ", ".join(p for p in parts if p)


def _by(slices: Sequence[Slice], key: Callable[[Slice], Hashable]) -> list[tuple[Hashable, list[Slice]]]:
    groups: dict[Hashable, list[Slice]] = defaultdict(list)
    for s in slices:
        groups[key(s)].append(s)
    return list(groups.items())


def _by_orientation(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Parts of one orientation; headers round it, so near is the same."""
    parts: list[list[Slice]] = []
    for s in slices:
        for part in parts:
            if np.abs(np.subtract(part[0].orientation, s.orientation)).max() < _SAME_ORIENTATION:
                part.append(s)
                break
        else:
            parts.append([s])
    return parts


def _always(slices: list[Slice]) -> list[tuple[str, list[Slice]]]:
    parts = [("", slices)]
    keys: list[tuple[str, Callable[[Slice], str]]] = [
        ("image type", lambda s: "\\".join(s.differs["image type"].split("\\")[:3]))
    ]
    keys += [(what, lambda s, what=what: s.differs[what]) for what in _ALWAYS]  # type: ignore[misc]
    for what, key in keys:
        parted = []
        for part, some in parts:
            groups = _by(some, key)
            if len(groups) == 1 or len(groups) == len(some):  # counted slice by slice: no difference of kind
                parted.append((part, some))
            else:
                parted += [(_joined(part, f"{what} {value}"), few) for value, few in groups]
        parts = parted
    return parts


def _where_needed(slices: list[Slice]) -> list[tuple[str, list[Slice]]]:
    """Split by the first difference that leaves every part regular, else by the first that leaves no position shared."""
    whole = stack(slices, "")
    if not whole.same and not whole.gaps:
        return [("", slices)]
    several = [what for what in DIFFERENCES if len({s.differs[what] for s in slices}) > 1]
    candidates = [(what,) for what in several] + ([tuple(several)] if len(several) > 1 else [])
    for strict in (True, False) if whole.same else (True,):
        for names in candidates:
            groups = _by(slices, lambda s, names=names: tuple(s.differs[n] for n in names))  # type: ignore[misc]
            if min(len(few) for _, few in groups) < 2:
                continue
            parts = [stack(few, "") for _, few in groups]
            if not any(p.same or (strict and p.gaps) for p in parts):
                return [(_joined(*(f"{n} {few[0].differs[n]}" for n in names)), few) for _, few in groups]
    return [("", slices)]


def stack(slices: Sequence[Slice], part: str) -> Stack:
    """Geometry of slices of one orientation: sorted along the normal, steps, gaps, line through the positions."""
    first = slices[0]
    along, down, normal = axes(first)
    positions = np.array([s.position for s in slices])
    distance = positions @ normal
    order = np.argsort(distance, kind="stable")
    steps = np.diff(distance[order])
    moving = np.sort(steps[steps > 1e-3])
    usual = float(moving[(len(moving) - 1) // 2]) if len(moving) else 0.0
    own = np.concatenate([[True], steps > max(1e-3, REGULAR * usual)])
    place = np.cumsum(own) - 1
    kept = order[own]
    same: dict[int, tuple[Slice, ...]] = {}
    for i in np.unique(place[~own]):
        same[int(i)] = tuple(slices[j] for j in order[(place == i) & ~own])
    at = distance[kept]
    step, gaps = _steps(at)
    offsets = (positions[kept] - positions[kept[0]]) @ np.stack([along, down], 1)
    shift, crooked = _line(at, offsets)
    lengths = np.linalg.norm([along, down], axis=1)
    # Slices at one position that lie side by side leave the line, too.
    for i, others in same.items():
        apart = [np.linalg.norm(np.subtract(o.position, slices[kept[i]].position)) for o in others]
        crooked = max(crooked, float(max(apart)))
    right = bool(np.abs(lengths - 1).max() < 1e-2 and abs(along @ down) < 2e-3)
    return Stack(tuple(slices[i] for i in kept), part, at, step, gaps, same, shift, crooked, right)


def _steps(at: np.ndarray) -> tuple[float, tuple[Gap, ...]]:
    """The usual step, and what differs from it. Of two middle steps the lower one: gaps only lengthen a step."""
    if len(at) < 2:
        return 0.0, ()
    steps = np.diff(at)
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    odd = np.flatnonzero(np.abs(steps - usual) > max(REGULAR * usual, 0.01))
    if not len(odd):
        return float((at[-1] - at[0]) / (len(at) - 1)), ()
    regular = np.delete(steps, odd)
    usual = float(regular.mean()) if len(regular) else usual
    gaps = []
    for i in odd:
        times = steps[i] / usual
        whole = round(times) if round(times) >= 2 and abs(times - round(times)) < 0.05 else 1
        gaps.append(Gap(float(at[i]), float(at[i + 1]), whole - 1))
    return usual, tuple(gaps)


def _line(at: np.ndarray, offsets: np.ndarray) -> tuple[tuple[float, float], float]:
    """Slope of the in-plane offsets ``[n, 2]`` along the normal, and the largest distance from that line, mm."""
    if len(at) < 2:
        return (0.0, 0.0), 0.0
    centred = at - at.mean()
    slope = centred @ offsets / (centred @ centred)
    rest = offsets - offsets.mean(0) - centred[:, None] * slope
    return (float(slope[0]), float(slope[1])), float(np.linalg.norm(rest, axis=1).max())
