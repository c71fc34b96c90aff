"""What every volume reader shares: voxel values as int16 or float32, the unit that they imply, NaN, labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medfm.formats.volume_space import checked_affine
from medfm.types import Finding, ReadError, Volume

AIR_SHARE = 0.005
"""Least share of voxels from -1100 to -900 in a CT."""
TISSUE_SHARE = 0.3
"""Least share of what is denser than -300 that lies from -150 to 150: fat, water, organs, muscle, blood."""
PEAK_SHARE = 0.2
"""Least share of it from -20 to 80, asked for only where the values lie 1024 higher: an MR has no such peak."""
_SAMPLE = 300_000


def finished(
    path: Path,
    raw: np.ndarray,
    affine: np.ndarray,
    format: str,
    *,
    scale: tuple[float, float] = (1.0, 0.0),
    label: bool = False,
    unit: str | None = None,
    valid: np.ndarray | None = None,
    record: str | None = None,
    patient: str | None = None,
    meta: dict[str, Any] | None = None,
    findings: Sequence[Finding] = (),
) -> Volume:
    """A checked Volume of ``raw [X, Y, Z]``, whose values are ``raw * slope + intercept`` (``scale``).

    unit: what the header states, None where it says nothing and the values decide (:func:`implied_unit`).

    Raises:
        ReadError: a wrong orientation matrix, or label values that are no whole numbers of 16 bits.
    """
    affine = checked_affine(path, affine)
    found = list(findings)
    x = narrowed(raw, *scale)
    if x.dtype == np.float32 and not np.isfinite(x.sum(dtype=np.float64)):
        finite = np.isfinite(x)
        lost = int(x.size - finite.sum())
        if lost == x.size:
            raise ReadError(f"{path}: none of its voxels is a number; export the volume again.")
        x = np.where(finite, x, np.float32(np.nan))
        valid = finite if valid is None else valid & finite
        message = (
            f"{lost:,} of {x.size:,} voxels are no numbers (NaN or infinite); they count as not measured."
        )
        found.append(Finding("nan-voxels", message))
    if label:
        return Volume(
            _labels(path, x),
            affine,
            "label",
            format,
            None,
            _record(path, record),
            patient,
            meta or {},
            tuple(found),
        )
    if unit is None:
        unit, told = implied_unit(x, valid)
        found.append(told)
    return Volume(x, affine, unit, format, valid, _record(path, record), patient, meta or {}, tuple(found))


def _record(path: Path, record: str | None) -> str:
    """The file's name without its suffix, also without the two of ``.nii.gz``."""
    if record is not None:
        return record
    name = path.name[:-3] if path.name.lower().endswith(".nii.gz") else path.name
    return Path(name).stem


def narrowed(raw: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> np.ndarray:
    """``raw * slope + intercept``: int16 where integers stay integers of that range, else float32; no needless copy."""
    whole = raw.dtype.kind in "iub" and float(slope).is_integer() and float(intercept).is_integer()
    if whole and raw.size:
        ends = [int(v) * int(slope) + int(intercept) for v in (raw.min(), raw.max())]
        if min(ends) >= -32768 and max(ends) <= 32767:
            x: np.ndarray = raw.astype(np.int16, copy=False)
            if (slope, intercept) != (1, 0):
                # 16-bit arithmetic wraps, and the result is right because it is known to fit.
                wrapped = np.array([int(slope), int(intercept)]).astype(np.int16)
                x = x * wrapped[0] + wrapped[1]
            return x
    scaled: np.ndarray = raw.astype(np.float32, copy=False)
    if slope != 1:
        scaled = scaled * np.float32(slope)
    return scaled if intercept == 0 else scaled + np.float32(intercept)


def _labels(path: Path, x: np.ndarray) -> np.ndarray:
    """Whole numbers as int16, exactly."""
    if x.dtype == np.int16:
        return x
    whole = np.rint(x)
    off = np.abs(x - whole)
    if not bool((off < 1e-4).all()):
        worst = x.flat[int(np.nanargmax(np.where(np.isfinite(off), off, np.inf)))]
        raise ReadError(
            f"{path}: is no mask of labels: it holds {worst:g}, which is no whole number; save the mask as integers, "
            "and resample masks with nearest neighbour only."
        )
    if float(np.abs(whole).max()) > 32767:
        raise ReadError(
            f"{path}: holds the label {np.abs(whole).max():.0f}; labels to 32767 are read: renumber its classes."
        )
    return whole.astype(np.int16)


def implied_unit(x: np.ndarray, valid: np.ndarray | None = None) -> tuple[str, Finding]:
    """``"HU"`` where the histogram is that of a CT, else ``""``; and what a person is told.

    A CT holds air (at least ``AIR_SHARE`` of the voxels from -1100 to -900), and of what is denser than -300 at least
    ``TISSUE_SHARE`` lies from -150 to 150. The same pattern 1024 higher is a CT whose intercept was lost: named, and
    not taken for HU. About ``_SAMPLE`` voxels, evenly spaced, are looked at.
    """
    step = max(1, round((x.size / _SAMPLE) ** (1 / 3)))
    part = x[::step, ::step, ::step].astype(np.float32)
    known = np.isfinite(part) if valid is None else valid[::step, ::step, ::step] & np.isfinite(part)
    values = part[known]
    if _looks_like_ct(values):
        return "HU", Finding(
            "unit-implied",
            "no header states a unit; air near -1000 and soft tissue near 0 to 100 show that the values are HU.",
            "info",
        )
    if _looks_like_ct(values - 1024, PEAK_SHARE):
        return "", Finding(
            "unit-offset",
            "its values look like HU with 1024 added (the rescale intercept was lost); convert it again from DICOM.",
        )
    return "", Finding(
        "unit-unknown", "no header states a unit, and the values do not show that they are HU.", "info"
    )


def _looks_like_ct(values: np.ndarray, peak: float = 0.0) -> bool:
    dense = values > -300
    if not values.size or not dense.any():
        return False
    air = np.mean((values >= -1100) & (values <= -900))
    tissue = np.sum((values >= -150) & (values <= 150)) / dense.sum()
    narrow = np.sum((values >= -20) & (values <= 80)) / dense.sum()
    return bool(air >= AIR_SHARE and tissue >= TISSUE_SHARE and narrow >= peak)
