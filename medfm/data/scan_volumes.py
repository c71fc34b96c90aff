"""What a scan says of volumes: extent, voxels, axes, unit, findings, and what its modality makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medfm.formats.volume_space import orientation_codes
from medfm.types import Finding

PERCENTILES = (0.5, 50.0, 99.5)


@dataclass(frozen=True)
class VolumeRecord:
    """One readable volume.

    shape, spacing (mm), orientation: of the file. grid: voxels on the model's grid. values: 0.5, 50 and 99.5 percentile of
    what was measured.
    """

    path: str
    record: str
    format: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    unit: str
    grid: tuple[int, ...]
    values: tuple[float, float, float]
    findings: tuple[Finding, ...]
    patient: str | None = None
    age: float | None = None
    sex: str | None = None

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity != "info")

    def row(self) -> dict[str, Any]:
        """What the manifest says of this volume beside its path, name, patient and findings."""
        return {
            "format": self.format,
            "voxels": " x ".join(map(str, self.shape)),
            "spacing": " x ".join(f"{mm:.4g}" for mm in self.spacing),
            "orientation": self.orientation,
            "unit": self.unit,
            "age": self.age,
            "sex": self.sex or "",
        }


def inspect_volume(address: str, modality: Any) -> VolumeRecord:
    """One volume through ``modality.place``. Raises :class:`ReadError` with the reason where it cannot."""
    volume = modality.open(address)
    sample = modality.place(volume).sample
    measured = volume.x if volume.valid is None else volume.x[volume.valid]
    flat = np.ravel(measured)[:: max(1, measured.size // 1_000_000)]
    low, middle, high = (float(v) for v in np.nanpercentile(flat, PERCENTILES))
    age = volume.meta.get("age")
    return VolumeRecord(
        path=address,
        record=sample.record or Path(address).stem,
        format=volume.format,
        shape=tuple(volume.x.shape),
        spacing=volume.spacing,
        orientation=orientation_codes(volume.affine),
        unit=volume.unit,
        grid=tuple(sample.x.shape[1:]),
        values=(low, middle, high),
        findings=sample.findings,
        patient=volume.patient,
        age=float(age) if isinstance(age, int | float) else None,
        sex=str(volume.meta["sex"]) if volume.meta.get("sex") else None,
    )


def volume_summary(records: Sequence[VolumeRecord]) -> dict[str, Any]:
    """Extents, voxel sizes, axes, units and values over all volumes."""
    values = np.array([r.values for r in records])
    cells = np.prod([r.grid for r in records], axis=1)
    return {
        **extents(records),
        "units": dict(Counter(r.unit or "not stated" for r in records).most_common()),
        "values": [round(float(v), 1) for v in np.median(values, axis=0)],
        "store_mib": round(float(cells.sum()) * 2 / 2**20, 1),
    }


def extents(records: Sequence[Any]) -> dict[str, Any]:
    """Extents, voxel sizes and axes of what has ``shape``, ``spacing`` (mm) and ``orientation``."""
    shapes, spacings = np.array([r.shape for r in records]), np.array([r.spacing for r in records])
    return {
        "voxels": {
            name: " x ".join(str(int(v)) for v in pick(shapes, axis=0))
            for name, pick in (("smallest", np.min), ("median", np.median), ("largest", np.max))
        },
        "spacing_mm": {
            name: " x ".join(f"{v:.3g}" for v in pick(spacings, axis=0))
            for name, pick in (("finest", np.min), ("median", np.median), ("coarsest", np.max))
        },
        "orientation": dict(Counter(r.orientation for r in records).most_common()),
    }
