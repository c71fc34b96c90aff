"""What a scan says of pictures: size, view, side, spacing, window, and which of them show the same film."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medfm.data.dedup import SAME, alike, dhash, near_duplicates
from medfm.formats import pictures
from medfm.types import Finding

SMALL = 32  # pixels a side of the reduction that two candidates are compared by


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
        small=_reduced(grey).tobytes(),
    )


def _reduced(grey: np.ndarray) -> np.ndarray:
    """``[SMALL, SMALL]`` uint8 by the nearest block means; no picture is black."""
    rows, columns = (np.linspace(0, n, SMALL + 1).astype(int) for n in grey.shape)
    filled = np.nan_to_num(grey)
    sums = np.add.reduceat(np.add.reduceat(filled, rows[:-1], axis=0), columns[:-1], axis=1)
    area = np.maximum(np.diff(rows), 1)[:, None] * np.maximum(np.diff(columns), 1)[None]
    return np.clip(np.rint(255 * sums / area), 0, 255).astype(np.uint8)


def duplicates(records: Sequence[Picture]) -> list[tuple[str, str]]:
    """Pairs of records that show the same film: nearly the same hash, and the same picture once reduced."""
    pairs, _ = near_duplicates(np.array([r.code for r in records], np.uint64))
    if not len(pairs):
        return []
    small = np.stack([np.frombuffer(r.small, np.uint8).reshape(SMALL, SMALL) for r in records])
    same = pairs[alike(small, pairs) > SAME]
    return [(records[i].path, records[j].path) for i, j in same]


def summary(records: Sequence[Picture]) -> dict[str, Any]:
    """Sizes, depths, views, spacing and duplicates over all pictures."""
    rows, columns = np.array([r.rows for r in records]), np.array([r.columns for r in records])
    return {
        "pixels": {
            "smallest": f"{columns.min()} x {rows.min()}",
            "median": f"{int(np.median(columns))} x {int(np.median(rows))}",
            "largest": f"{columns.max()} x {rows.max()}",
        },
        "bits": {str(b): n for b, n in Counter(r.bits for r in records).most_common()},
        "photometric": dict(Counter(r.photometric for r in records).most_common()),
        "views": dict(Counter(r.view for r in records).most_common()),
        "windowed_before": sum(r.windowed for r in records),
        "spacing": dict(Counter(r.spacing_plane or "not stated" for r in records).most_common()),
        "duplicates": duplicates(records),
    }
