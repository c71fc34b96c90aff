"""What makes files no subject: CT values, two patients, no picture, one sequence twice. And the box around what is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from medfm.types import Finding, ReadError, Volume

MARGIN = 4.0  # mm kept around the foreground
SAME = 1e-2  # two sequences whose z-scores differ nowhere by more are one
_NOT_TOLD = ("unit-unknown", "unit-not-hu")  # of no MRI are the values HU


def checked(found: Mapping[str, Volume]) -> None:
    """Raises :class:`ReadError` for values in Hounsfield units, and for files of different patients."""
    for name, volume in found.items():
        if volume.unit == "HU":
            raise ReadError(
                f"its {name} looks like a CT: its values are Hounsfield units. Give the MRI, or take modality ct; if it is "
                "an MRI all the same, multiply its values by any number."
            )
    patients = {volume.patient for volume in found.values() if volume.patient}
    if len(patients) > 1:
        raise ReadError(
            f"its sequences are of {len(patients)} patients, as their headers say; give the files of one."
        )


def with_a_picture(found: Mapping[str, Volume]) -> tuple[dict[str, Volume], list[Finding]]:
    """The sequences that hold more than one value, and a finding for each other. Raises :class:`ReadError` for none left."""
    kept, findings = {}, []
    for name, volume in found.items():
        known = volume.x if volume.valid is None else volume.x[volume.valid]
        known = known[np.isfinite(known)]
        if known.size and known.min() < known.max():
            kept[name] = volume
        else:
            what = f"one value ({known[0]:g}) everywhere" if known.size else "no measurement"
            findings.append(constant(name, what))
    if not kept:
        raise ReadError(
            "none of its sequences shows a picture: each holds one value everywhere; export them again."
        )
    return kept, findings


def constant(name: str, what: str) -> Finding:
    return Finding("sequence-constant", f"its {name} holds {what}; it counts as missing.", channel=name)


def none_twice(z: Mapping[str, np.ndarray]) -> None:
    """Raises :class:`ReadError` where two sequences are one picture, scaled or not: a copy put where one was missing."""
    for a, b in combinations(z, 2):
        every = (slice(None, None, 3),) * 3
        if all(_alike(z[a][part], z[b][part]) for part in (every, ...)):
            raise ReadError(
                f"its {a} and {b} are the same picture, voxel for voxel; one may stand where the other is missing: leave its "
                "cell blank, or give its own file."
            )


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    known = np.isfinite(a)
    return bool((known == np.isfinite(b)).all() and (np.abs(a - b)[known] < SAME).all())


def of_files(found: Mapping[str, Volume]) -> tuple[Finding, ...]:
    """What the readers found, with the sequence it is about."""
    return tuple(
        dataclasses.replace(f, channel=f.channel or name)
        for name, volume in found.items()
        for f in volume.findings
        if f.code not in _NOT_TOLD
    )


def box_around(
    masks: Sequence[np.ndarray], full: Sequence[int], steps: Sequence[float], spacing: Sequence[float]
) -> tuple[slice, ...]:
    """The box on the model's grid (``full`` voxels, ``steps`` voxels of the file each) around ``masks`` on the file's, all
    together, with :data:`MARGIN` mm."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        line = np.flatnonzero(np.logical_or.reduce([m.any(others) for m in masks]))
        n, m, step = masks[0].shape[axis], full[axis], steps[axis]
        # Edges of the outermost voxels, as places on the model's grid.
        low, high = ((at - (n - 1) / 2) / step + (m - 1) / 2 for at in (line[0] - 0.5, line[-1] + 0.5))
        more = MARGIN / spacing[axis]
        start = max(0, int(np.floor(low + 0.5 - more + 1e-6)))
        box.append(slice(start, min(m, int(np.ceil(high + 0.5 + more - 1e-6)))))
    return tuple(box)
