"""What a scan says of pictures: size, view, side, spacing, window, and which of them show the same film."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medfm.data.dedup import SMALL, copies, dhash, reduced
from medfm.formats import pictures
from medfm.types import Finding


@dataclass(frozen=True)
class Picture:
    """One readable picture: what the file says, and what its modality made of it.

    spacing: mm a pixel of the file and the plane in which it holds. code: difference hash; small: bytes of the
    ``SMALL`` x ``SMALL`` reduction.
    """

    path: str
    record: str
    format: str
    rows: int
    columns: int
    bits: int
    photometric: str
    view: str
    laterality: str
    body_part: str
    windowed: bool
    spacing: tuple[float, float] | None
    spacing_plane: str
    findings: tuple[Finding, ...]
    patient: str | None = None
    age: float | None = None
    sex: str | None = None
    code: int = 0
    small: bytes = b""

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity != "info")

    def row(self) -> dict[str, Any]:
        """What the manifest says of this picture beside its path, name, patient and findings."""
        return {
            "format": self.format,
            "rows": self.rows,
            "columns": self.columns,
            "bits": self.bits,
            "photometric": self.photometric,
            "view": self.view,
            "laterality": self.laterality,
            "body_part": self.body_part,
            "windowed": int(self.windowed),
            "age": self.age,
            "sex": self.sex or "",
        }


def inspect_picture(address: str, modality: Any) -> Picture:
    """One picture through ``modality.from_image``. Raises :class:`ReadError` with the reason where it cannot."""
    image = pictures.read(address)
    sample = modality.from_image(image)
    meta = image.meta
    grey = sample.x[0]
    return Picture(
        path=address,
        record=sample.record or Path(address).stem,
        format=image.format,
        rows=image.x.shape[1],
        columns=image.x.shape[2],
        bits=image.bits,
        photometric=image.photometric,
        view=str(meta.get("view", "")) or "unknown",
        laterality=str(meta.get("laterality", "")),
        body_part=str(meta.get("body_part", "")),
        windowed=bool(meta.get("windowed", False)),
        spacing=image.spacing,
        spacing_plane=str(meta.get("spacing_plane", "")),
        findings=sample.findings,
        patient=image.patient,
        age=meta.get("age"),
        sex=meta.get("sex"),
        code=int(dhash([grey])[0]),
        small=reduced(grey).tobytes(),
    )


def duplicates(records: Sequence[Picture]) -> list[tuple[str, str]]:
    """Pairs of records that show the same film: nearly the same hash, and the same picture once reduced."""
    codes = np.array([r.code for r in records], np.uint64)
    small = np.array([np.frombuffer(r.small, np.uint8) for r in records]).reshape(-1, SMALL, SMALL)
    return [(records[i].path, records[j].path) for i, j in copies(codes, small)]


def summary(records: Sequence[Picture], patients: Sequence[str], splits: Sequence[str]) -> dict[str, Any]:
    """Sizes, depths, views, parts of the body, spacing and duplicates over all pictures.

    patients, splits: one a picture, blank where unknown; duplicates of different ones are counted.
    """
    pairs = duplicates(records)
    rows, columns = np.array([r.rows for r in records]), np.array([r.columns for r in records])
    return {
        "pixels": {
            "smallest": f"{columns.min()} x {rows.min()}",
            "median": f"{int(np.median(columns))} x {int(np.median(rows))}",
            "largest": f"{columns.max()} x {rows.max()}",
        },
        "bits": {str(b): n for b, n in Counter(r.bits for r in records).most_common()},
        "photometric": dict(Counter(r.photometric for r in records).most_common()),
        "body_parts": dict(Counter(r.body_part.upper() or "not stated" for r in records).most_common()),
        "views": dict(Counter(r.view for r in records).most_common()),
        "windowed_before": sum(r.windowed for r in records),
        "spacing": dict(Counter(r.spacing_plane or "not stated" for r in records).most_common()),
        "duplicates": pairs,
        "duplicates_across": {
            "patients": _across(pairs, records, patients),
            "splits": _across(pairs, records, splits),
        },
    }


def _across(pairs: list[tuple[str, str]], records: Sequence[Picture], groups: Sequence[str]) -> int:
    """How many pairs lie in two known groups."""
    group = {record.path: name for record, name in zip(records, groups)}
    return sum(bool(group[a] and group[b]) and group[a] != group[b] for a, b in pairs)
