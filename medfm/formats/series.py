"""DICOM series -> volumes: :func:`find_series` lists what a tree holds from headers, :func:`read_series` assembles one.

Strict: nothing is guessed. What does not add up to one regular stack is refused with positions in mm, or resampled when
that is asked for, and then said in a finding.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from medfm.formats.archive import is_zip, unzipped
from medfm.formats.base import reading
from medfm.formats.dicom import identity
from medfm.formats.series_header import Slice, files_under, is_dicom, slices_of
from medfm.formats.series_pixels import decoded, even, upright
from medfm.formats.series_report import Dropped, SeriesReport, dropped_text, positions_text
from medfm.formats.series_stack import Stack, axes, stacks_of
from medfm.formats.volume_space import LPS_TO_RAS, VolumeHead, checked_shape, orientation_codes
from medfm.formats.volume_values import finished
from medfm.types import Finding, ReadError, Volume

Repair = Literal["refuse", "resample"]
MAX_GAP = 4
"""Longest step, in usual ones, that interpolation may bridge: three slices missing in a row."""


@dataclass(frozen=True)
class _Found:
    stack: Stack
    report: SeriesReport
    folders: frozenset[str]


@dataclass(frozen=True)
class _Index:
    found: tuple[_Found, ...]
    singles: tuple[Stack, ...]
    dropped: tuple[Dropped, ...]


def find_series(folder: str | Path) -> list[SeriesReport]:
    """Every series of a tree (or zip, or one file) that is a volume, reading headers only.

    An address names the deepest folder that holds the series, so that reading it does not walk the whole tree.
    Localizers, secondary captures and single slices are in no report but under ``dropped``.
    """
    path = Path(folder)
    with reading(path, "DICOM"), _tree(path) as root:
        found = _index(root).found
        return [_addressed(path, root, f, found).report for f in found]


def read_series(
    path: str | Path,
    part: str | None = None,
    *,
    gaps: Repair = "refuse",
    tilt: Repair = "refuse",
    label: bool = False,
) -> tuple[Volume, SeriesReport]:
    """One series as a volume, and what was found: ``path`` is a folder, a zip or one file.

    part: which of several series: its UID, or its number in the list that the error shows (from 1). gaps, tilt:
    ``resample`` interpolates linearly, over missing or irregular slices onto the usual step (at most ``MAX_GAP`` steps
    at once), and along the slices' axes to undo a tilt.

    Raises:
        ReadError: no series, several and none chosen, one slice, or what the assembler refuses.
    """
    path = Path(path)
    with reading(path, "a DICOM series"), _tree(path) as root:
        found = _chosen(path, root, part)
        if refusal := _refusal(found.stack, gaps, tilt):
            raise ReadError(f"{path}: {refusal}")
        return _assembled(path, found, label), found.report


def describe_series(path: str | Path, part: str | None = None) -> VolumeHead:
    """What the headers of a series say, no pixel decoded; ``report.refusal`` says whether it can be read."""
    path = Path(path)
    with reading(path, "a DICOM series"), _tree(path) as root:
        found = _chosen(path, root, part)
        report = found.report
        shape = checked_shape(path, (*report.size, report.n_slices))
        whole = all(v.is_integer() for pair in report.rescale for v in pair)
        return VolumeHead(
            report.address,
            "dicom",
            shape,
            found.stack.affine(),
            "int16" if whole else "float32",
            report.unit,
            report.findings,
            report,
        )


@contextmanager
def _tree(path: Path) -> Iterator[Path]:
    if path.is_file() and is_zip(path):
        with unzipped(path) as folder:
            yield folder
    else:
        yield path


def _index(root: Path) -> _Index:
    """Everything below ``root``; kept as long as no file changes, for a tree whose series are read one by one."""
    files = list(files_under(root))
    stats = [(name, s.st_size, s.st_mtime_ns) for path, name in files for s in (path.stat(),)]
    return _indexed(root, hash(tuple(stats)))


@lru_cache(maxsize=4)
def _indexed(root: Path, signature: int) -> _Index:
    series: dict[tuple[str, str], list[Slice]] = defaultdict(list)
    dropped: list[Dropped] = []
    for path, name in files_under(root):
        if not is_dicom(path):
            continue
        slices, other = slices_of(path, name)
        for s in slices:
            series[s.uid, s.owner].append(s)
        if other is not None:
            dropped.append(other)
    stacks = [(uid, s) for (uid, _), slices in series.items() for s in stacks_of(slices)]
    volumes = [(uid, s) for uid, s in stacks if len(s.slices) > 1]
    singles = tuple(s for _, s in stacks if len(s.slices) == 1)
    for single in singles:
        alike = (single.slices[0], *single.same.get(0, ()))
        what = "single slice, no volume" if len(alike) == 1 else "slices at one position, no volume"
        dropped += [Dropped(s.name, what, s.uid) for s in alike]
    volumes.sort(key=lambda v: (v[1].slices[0].number, v[0]))
    found = []
    for uid, stack in volumes:
        parts = [s for u, s in volumes if u == uid]
        key = uid if len(parts) == 1 else f"{uid}:{parts.index(stack) + 1}"
        theirs = tuple(d for d in dropped if d.uid == uid or len(volumes) == 1)
        folders = frozenset(str(s.path.parent) for s in stack.slices)
        found.append(_Found(stack, _report(stack, key, theirs), folders))
    return _Index(tuple(found), singles, tuple(dropped))


def _report(stack: Stack, key: str, dropped: tuple[Dropped, ...]) -> SeriesReport:
    first = stack.slices[0]
    everyone = [*stack.slices, *(o for others in stack.same.values() for o in others)]
    thickness = first.thickness
    overlap = None if thickness is None else thickness - stack.step
    rescale = tuple(sorted({(s.slope, s.intercept) for s in everyone}))
    findings = []
    if overlap is not None and abs(overlap) > 0.01 * stack.step:
        code = (
            ("overlap", "slices overlap")
            if overlap > 0
            else ("slices-apart", "lie apart, and what is between them was not imaged")
        )
        message = f"its slices are {thickness:g} mm thick and {stack.step:.4g} mm apart: they {code[1].removeprefix('slices ')}."
        findings.append(Finding(code[0], message, "info"))
    if len(rescale) > 1:
        findings.append(
            Finding(
                "rescale-varies",
                f"{len(rescale)} different rescales among its slices, each applied to its own.",
                "info",
            )
        )
    if (unit := _unit(everyone)) == "":
        message = f"its header ({first.modality or 'no modality'}) says that its values are not HU."
        findings.append(Finding("unit-not-hu", message, "info"))
    if len(stack.slices) < 4:
        findings.append(Finding("few-slices", f"it has only {len(stack.slices)} slices."))
    if dropped:
        findings.append(Finding("left-out", f"left out: {dropped_text(dropped)}.", "info"))
    affine = stack.affine()
    return SeriesReport(
        address=key,
        uid=first.uid,
        part=stack.part,
        description=first.description,
        modality=first.modality,
        n_slices=len(stack.slices),
        size=(first.size[1], first.size[0]),
        spacing=(first.pitch[1], first.pitch[0], stack.step),
        orientation=orientation_codes(affine) if np.isfinite(affine).all() else "",
        positions=(float(stack.at[0]), float(stack.at[-1])),
        gaps=stack.gaps,
        duplicates=tuple(float(stack.at[i]) for i in stack.same),
        tilt_deg=stack.tilt_deg,
        thickness=thickness,
        overlap=overlap,
        rescale=rescale,
        unit=unit,
        syntax=tuple(sorted({s.syntax for s in everyone})),
        enhanced=first.frame is not None,
        dropped=dropped,
        findings=tuple(findings),
        refusal=_refusal(stack, "refuse", "refuse"),
    )


def _unit(slices: list[Slice]) -> str | None:
    """HU where RescaleType says so, or a CT has an intercept (not of 0 on unsigned pixels, which hold no air then).

    ``""`` for other modalities, and for maps computed from a CT (perfusion), whose rescale type is US (unspecified).
    """
    types = {s.rescale_type for s in slices}
    if types == {"HU"}:
        return "HU"
    derived = slices[0].differs["image type"].upper().startswith("DERIVED") and "US" in types
    if derived or slices[0].modality in ("MR", "PT", "NM", "US"):
        return ""
    if slices[0].modality != "CT":
        return None
    lost = any(not s.rescaled or (s.intercept == 0 and not s.signed) for s in slices)
    return "HU" if types == {""} and not lost else None


def _refusal(stack: Stack, gaps: Repair, tilt: Repair) -> str | None:
    first = stack.slices[0]
    if not stack.right_angle:
        stated = ", ".join(f"{v:g}" for v in first.orientation)
        return (
            f"its ImageOrientationPatient ({stated}) is no pair of perpendicular unit vectors, so left, right and the order "
            "of its slices are not known; export the series again."
        )
    if stack.crooked > max(0.5 * min(first.pitch), 0.1):
        return (
            f"its slices do not lie on one line (up to {stack.crooked:.2f} mm beside it): the series mixes several stacks, or "
            "its positions are wrong; export each stack as its own series."
        )
    if stack.tilted and tilt == "refuse":
        return (
            f"its slices are tilted by {stack.tilt_deg:.1f} degrees against the line through them (gantry tilt); ask for "
            "tilt=resample (modality.tilt=resample on the command line) to have it straightened by interpolation, or export an untilted reconstruction."
        )
    if not stack.gaps:
        return None
    told = f"its slices are not evenly spaced (usual step {stack.step:.4g} mm): {positions_text(stack.gaps)}"
    widest = max((g.before - g.after) / stack.step for g in stack.gaps)
    if widest > MAX_GAP + 0.05:
        return f"{told}. A gap of {widest:.1f} steps is more than the {MAX_GAP} that may be interpolated; export all slices."
    if gaps == "refuse":
        return f"{told}; export all slices, or ask for gaps=resample (modality.gaps=resample on the command line) to have them interpolated."
    return None


def _chosen(path: Path, root: Path, part: str | None) -> _Found:
    index = _index(root)
    if not index.found:
        raise ReadError(f"{path}: {_nothing(index, root)}")
    if part is None and len(index.found) == 1:
        return _addressed(path, root, index.found[0], index.found)
    if part is not None:
        numbered = part.isdigit() and len(part) < 6 and 1 <= int(part) <= len(index.found)
        named = [f for f in index.found if part in (f.report.address, f.report.uid)]
        if numbered or len(named) == 1:
            found = index.found[int(part) - 1] if numbered else named[0]
            return _addressed(path, root, found, index.found)
    most = 8
    listed = "; ".join(f"#{i + 1} {f.report.line}" for i, f in enumerate(index.found[:most]))
    more = f"; and {len(index.found) - most} more" if len(index.found) > most else ""
    wrong = "" if part is None else f"has no single series {part!r}; it "
    raise ReadError(
        f"{path}: {wrong}holds {len(index.found)} series: {listed}{more}. Choose one by its number, as {path}#1, or as "
        f"{path}#UID by its SeriesInstanceUID."
    )


def _nothing(index: _Index, root: Path) -> str:
    if index.singles and len(index.singles) == len(index.dropped) == 1:
        return "is one slice, not a volume; give the folder that holds all slices of its series."
    if index.dropped:
        return f"holds no series that is a volume. Left out: {dropped_text(index.dropped)}."
    return "holds no DICOM images; give the folder (or zip) with the slices of a series."


def _addressed(path: Path, root: Path, found: _Found, everyone: tuple[_Found, ...]) -> _Found:
    """With the address that reads this series: its own folder, and its UID where other series lie there, too."""
    shown = path
    if root == path and root.is_dir():
        shown = Path(
            os.path.commonpath([f for e in everyone if e.report.uid == found.report.uid for f in e.folders])
        )
    inside = f"{shown}{os.sep}"
    alone = all(
        e is found or (shown != path and not any(f"{f}{os.sep}".startswith(inside) for f in e.folders))
        for e in everyone
    )
    address = str(shown) if alone else f"{shown}#{found.report.address}"
    return _Found(found.stack, found.report.replace(address=address), found.folders)


def _assembled(path: Path, found: _Found, label: bool) -> Volume:
    stack, report = found.stack, found.report
    checked_shape(path, (*report.size, report.n_slices))
    if label and (stack.gaps or stack.tilted):
        raise ReadError(
            f"{path}: labels are never interpolated, and its slices are not a regular stack; give a whole mask."
        )
    voxels = decoded(path, stack)
    x, valid, affine = voxels.x, voxels.valid, stack.affine()
    findings = [*report.findings, *voxels.findings]
    if stack.gaps:
        x, valid, count = even(stack, x, valid)
        message = f"{count} of {len(x)} slices were interpolated, {stack.step:.4g} mm apart: {positions_text(stack.gaps)}."
        findings.append(Finding("gaps-resampled", message))
    if stack.tilted:
        first = stack.slices[0]
        shifts = np.outer(stack.step * np.arange(len(x)), stack.shift) / (first.pitch[1], first.pitch[0])
        x, valid, before = upright(x, valid, shifts)
        along, down, _ = axes(first)
        affine[:3, 3] -= LPS_TO_RAS[:3, :3] @ (
            along * before[0] * first.pitch[1] + down * before[1] * first.pitch[0]
        )
        message = (
            f"a gantry tilt of {stack.tilt_deg:.1f} degrees was undone by interpolation within the slices."
        )
        findings.append(Finding("tilt-resampled", message))
    patient, meta = identity(voxels.header)
    words = {
        "study": "StudyInstanceUID", "body_part": "BodyPartExamined", "kernel": "ConvolutionKernel", "kvp": "KVP",
        "contrast": "ContrastBolusAgent", "protocol": "ProtocolName",
    }  # fmt: skip
    meta |= {name: str(voxels.header.get(key)) for name, key in words.items() if voxels.header.get(key)}
    meta |= {
        "modality": report.modality,
        "series": report.uid,
        "description": report.description,
        "report": report,
    }
    return finished(
        path, x.transpose(2, 1, 0), affine, "dicom", label=label, unit=report.unit, valid=valid_of(valid), patient=patient,
        record=Path(report.address.partition("#")[0]).stem if path.is_file() else path.name, meta=meta, findings=findings,
    )  # fmt: skip


def valid_of(valid: np.ndarray | None) -> np.ndarray | None:
    """``[slices, rows, columns]`` as the volume's ``[X, Y, Z]``; None where everything is measured."""
    return None if valid is None or valid.all() else valid.transpose(2, 1, 0)
