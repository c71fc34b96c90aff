"""Where the voxels of a volume are: shapes and affines that can be, orientation codes, patient axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medfm.types import Finding, ReadError

MAX_VOXELS = 1_000_000_000
"""Largest volume read whole: 2 GB as int16. A whole-body CT of 512 x 512 x 3000 has 786 million."""
OBLIQUE = 0.01
"""Largest cosine between two axes of a grid (0.6 degrees from a right angle)."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From DICOM's and ITK's patient axes (left, posterior, superior) to ours; its own inverse."""


@dataclass(frozen=True)
class VolumeHead:
    """What the header of a volume says, no voxel decoded.

    shape: voxels along X, Y, Z; affine ``[4, 4]``: voxel index to mm in RAS+; orientation: where each axis points, as
    ``"LPS"``; dtype: of the stored values, of DICOM after its rescale; unit: None where only the values can tell; volumes: address, where a file
    or folder holds several; report: a :class:`~medfm.formats.series_report.SeriesReport` of DICOM.
    """

    path: str
    format: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: str
    unit: str | None = None
    findings: tuple[Finding, ...] = ()
    report: Any = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm between voxels along each axis."""
        return tuple(float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))  # type: ignore[return-value]

    @property
    def orientation(self) -> str:
        return orientation_codes(self.affine)


def orientation_codes(affine: np.ndarray) -> str:
    """Where each voxel axis points: R(ight), L(eft), A(nterior), P(osterior), S(uperior), I(nferior)."""
    from nibabel.orientations import aff2axcodes

    return "".join(str(code) for code in aff2axcodes(affine))


def checked_shape(path: Path, shape: Sequence[int]) -> tuple[int, int, int]:
    """Three axes of at least two voxels; trailing axes of one are dropped."""
    sizes = [int(n) for n in shape]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    stated = " x ".join(str(n) for n in sizes)
    if len(sizes) > 3:
        raise ReadError(
            f"{path}: is {len(sizes)}-dimensional ({stated}): several volumes in one file (times, echoes or channels); "
            "save the one that is meant as its own file."
        )
    if min(sizes, default=0) < 1:
        raise ReadError(f"{path}: states a size of {stated or 'nothing'}; export the volume again.")
    if len(sizes) < 3 or min(sizes) < 2:
        raise ReadError(f"{path}: is one slice ({stated}), not a volume; give the whole volume.")
    if math.prod(sizes) > MAX_VOXELS:
        raise ReadError(
            f"{path}: states {stated} voxels, more than the {MAX_VOXELS / 1e9:g} billion that are read whole; crop or "
            "resample it, or, if it is not that large, export it again: its header is damaged."
        )
    return sizes[0], sizes[1], sizes[2]


def checked_affine(path: Path, affine: np.ndarray, what: str = "orientation matrix") -> np.ndarray:
    """The affine as float64 ``[4, 4]`` if its axes have a length and stand at right angles; left-handed is fine."""
    affine = np.asarray(affine, np.float64)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not np.allclose(affine[3], (0, 0, 0, 1)):
        raise ReadError(
            f"{path}: its {what} holds values that are no numbers of mm; export the volume again."
        )
    if not ((lengths > 1e-3) & (lengths < 1e3)).all():
        stated = " x ".join(f"{v:.4g}" for v in lengths)
        raise ReadError(
            f"{path}: its {what} states a spacing of {stated} mm, which cannot be; mend its header or export it again."
        )
    cosines = affine[:3, :3] / lengths
    off = np.abs(cosines.T @ cosines - np.eye(3)).max()
    if off > OBLIQUE:
        angle = math.degrees(math.acos(min(1.0, off)))
        raise ReadError(
            f"{path}: its {what} is wrong or sheared: two of its axes stand at {angle:.1f} degrees instead of 90 (a tilted "
            "gantry, or a registration); resample it to a rectangular grid first."
        )
    return affine
