"""What the strict series assembler says of a DICOM series: plain facts, no identity beside the series' own UID."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from medfm.types import Finding


@dataclass(frozen=True)
class Dropped:
    """An object that is part of no volume. name: its file, relative to the folder; uid: of its series."""

    name: str
    reason: str
    uid: str = ""


@dataclass(frozen=True)
class Gap:
    """A step between two slices that is not the usual one. after, before: their positions along the normal, mm.

    missing: slices that would fill it; 0 where the step is no multiple of the usual one (irregular spacing).
    """

    after: float
    before: float
    missing: int


@dataclass(frozen=True)
class SeriesReport:
    """One series, or the part of one that is one volume.

    address: what :func:`~medfm.formats.volume.read_volume` takes to read it. part: what told it from the others of its
    UID, ``""`` where it is the whole series. n_slices: at different positions. size: columns, rows. spacing: mm along
    columns, rows, slices, from positions. orientation: where the axes point, as ``"LPS"``. positions: first and last,
    mm along the slice normal. gaps: irregular steps. duplicates: positions held more than once. tilt_deg: between the
    slices' normal and the line through them. thickness: mm as stated. overlap: mm by which neighbours overlap, negative
    where tissue between them was not imaged. rescale: (slope, intercept) of the slices, each pair once. unit: ``"HU"``,
    ``""``, or None where the values must tell. syntax: transfer syntaxes. refusal: why it cannot be read as it is, None
    if it can.
    """

    address: str
    uid: str
    part: str
    description: str
    modality: str
    n_slices: int
    size: tuple[int, int]
    spacing: tuple[float, float, float]
    orientation: str
    positions: tuple[float, float]
    gaps: tuple[Gap, ...]
    duplicates: tuple[float, ...]
    tilt_deg: float
    thickness: float | None
    overlap: float | None
    rescale: tuple[tuple[float, float], ...]
    unit: str | None
    syntax: tuple[str, ...]
    enhanced: bool = False
    dropped: tuple[Dropped, ...] = ()
    findings: tuple[Finding, ...] = ()
    refusal: str | None = None

    @property
    def line(self) -> str:
        """One line for a list of series."""
        named = f"'{self.description}'" if self.description else "without a description"
        part = f", {self.part}" if self.part else ""
        return f"{named} ({self.modality or 'modality not stated'}{part}, {self.n_slices} slices of {self.size[0]} x {self.size[1]})"

    def replace(self, **changes: Any) -> SeriesReport:
        return replace(self, **changes)


def dropped_text(dropped: Sequence[Dropped], most: int = 4) -> str:
    """``3 localizer (a.dcm, ...), 1 Segmentation Storage (b.dcm)``: by reason, a few names each."""
    groups = Counter(d.reason for d in dropped)
    told = []
    for reason, count in groups.most_common(6):
        names = [d.name for d in dropped if d.reason == reason][:most]
        told.append(f"{count} {reason} ({', '.join(names)}{', ...' if count > most else ''})")
    return ", ".join(told) + (", and others" if len(groups) > 6 else "")


def positions_text(gaps: Sequence[Gap], most: int = 6) -> str:
    """``2 missing between 10.0 and 16.0 mm; 3.4 mm apart at 20.0 and 23.4 mm``."""
    told = [
        f"{g.missing} missing between {g.after:.2f} and {g.before:.2f} mm"
        if g.missing
        else f"{g.before - g.after:.2f} mm apart at {g.after:.2f} and {g.before:.2f} mm"
        for g in gaps[:most]
    ]
    return "; ".join(told) + (f"; and {len(gaps) - most} more" if len(gaps) > most else "")
