"""Voxels of a stack: decoded slice by slice, rescaled per slice, padding marked; gaps and tilt resampled when asked."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from medfm.formats.base import reading
from medfm.formats.dicom import mapped
from medfm.formats.dicom_pixels import stored_values
from medfm.formats.radiograph import REMEDY, modality_lut, refuse_bomb, transfer_syntax
from medfm.formats.radiograph_header import masked
from medfm.formats.series_header import Slice
from medfm.formats.series_stack import Stack
from medfm.formats.volume_values import narrowed
from medfm.types import Finding, ReadError


@dataclass(frozen=True)
class Voxels:
    """x ``[slices, rows, columns]`` int16 or float32; valid bool or None; header: of the first slice, whole."""

    x: np.ndarray
    valid: np.ndarray | None
    header: Any
    findings: tuple[Finding, ...]


class _Opened:
    """The file that was opened last: frames of one object are decoded one after the other."""

    def __init__(self) -> None:
        self.path: Path | None = None

    def data(self, s: Slice) -> Any:
        if self.path != s.path:
            self._open(s.path)
        # Decoding lets go of the pixel bytes, and unpacks a deflated frame in place.
        self.header.PixelData, self.header.file_meta.TransferSyntaxUID = self.pixels, self.syntax
        if s.frame is not None:
            self.header.NumberOfFrames = self.frames
        return self.header

    def _open(self, path: Path) -> None:
        import pydicom

        with mapped(path) as file:
            refuse_bomb(path)
            try:
                self.header = pydicom.dcmread(cast(Any, file), force=file[128:132] != b"DICM")
            except EOFError as error:
                raise ReadError(f"{path}: ends in the middle: it was cut short. {REMEDY}") from error
        transfer_syntax(path, self.header)
        self.pixels = self.header.get("PixelData") or b""
        self.syntax = self.header.file_meta.TransferSyntaxUID
        self.frames = self.header.get("NumberOfFrames", 1)
        self.path = path


def decoded(where: Path, stack: Stack) -> Voxels:
    """Every slice of the stack in its order. Slices at one position must be equal; the others are dropped.

    Raises:
        ReadError: different pictures at one position, colour, or pixels that cannot be decoded.
    """
    import pydicom

    opened = _Opened()
    rows, columns = stack.slices[0].size
    x = np.empty((len(stack.slices), rows, columns), np.int16)
    valid: np.ndarray | None = None
    findings: dict[str, Finding] = {}
    first: Any = None
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, s in enumerate(stack.slices):
            values, mask, header = _slice(opened, s, findings)
            first = header if first is None else first
            for other in stack.same.get(i, ()):
                again, _, _ = _slice(opened, other, findings)
                if not np.array_equal(values, again, equal_nan=values.dtype.kind == "f"):
                    raise ReadError(
                        f"{where}: two different slices ({s.name} and {other.name}) lie at {stack.at[i]:.2f} mm: the series "
                        "mixes acquisitions that its headers do not tell apart; export each as its own series."
                    )
            if values.dtype != np.int16 and x.dtype == np.int16:
                x = x.astype(np.float32)
            x[i] = values
            if mask is not None:
                valid = np.ones(x.shape, bool) if valid is None else valid
                valid[i] = mask
    if valid is not None:
        if not valid.any():
            raise ReadError(f"{where}: all of its voxels hold the padding value; export the series again.")
        x[~valid] = x[valid].min()  # what lies there is no measurement, and must not widen the range
        message = f"{np.mean(~valid):.1%} of its voxels hold the padding value; they count as not measured."
        findings["padding"] = Finding("padding", message, "info")
    if stack.same:
        count = sum(len(others) for others in stack.same.values())
        at = ", ".join(f"{stack.at[i]:.2f}" for i in list(stack.same)[:6])
        message = f"{count} duplicate slice(s), equal to another at its position ({at} mm), were dropped."
        findings["duplicates"] = Finding("duplicate-slices", message)
    return Voxels(x, valid, first, tuple(findings.values()))


def _slice(
    opened: _Opened, s: Slice, findings: dict[str, Finding]
) -> tuple[np.ndarray, np.ndarray | None, Any]:
    """Values of one slice after its own rescale, where they are measured, and the header that it came with."""
    with reading(s.path, "DICOM", REMEDY):
        data = opened.data(s)
        stored, odd = stored_values(s.path, data, s.frame or 0)
        if stored.shape != s.size:
            raise ReadError(
                f"{s.path}: its pixels are {stored.shape}, and its header says {s.size}. {REMEDY}"
            )
        findings.update({f.code: f for f in odd})
        mask, _ = masked(stored, data)
        if mask is not None and mask.any():
            stored = np.where(mask, stored, stored[mask].min())
        if data.get("ModalityLUTSequence"):
            return modality_lut(stored, data), mask, data
        return narrowed(stored, s.slope, s.intercept), mask, data


def even(stack: Stack, x: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Slices ``step`` apart by linear interpolation between neighbours; and how many of them are interpolated.

    A slice that is on the new grid (to 1 % of the step) stays as it is. Where a neighbour was not measured, what lies
    between was not either.
    """
    count = round((stack.at[-1] - stack.at[0]) / stack.step) + 1
    at = stack.at[0] + stack.step * np.arange(count)
    low = np.clip(np.searchsorted(stack.at, at, side="right") - 1, 0, len(stack.at) - 2)
    share = np.clip((at - stack.at[low]) / (stack.at[low + 1] - stack.at[low]), 0, 1)
    near = stack.step * 0.01
    share[np.abs(at - stack.at[low]) <= near] = 0
    share[np.abs(at - stack.at[low + 1]) <= near] = 1
    new = np.empty((count, *x.shape[1:]), x.dtype)
    known = None if valid is None else np.empty(new.shape, bool)
    for i, (j, w) in enumerate(zip(low, share)):
        below, above = x[j], x[j + 1]
        new[i] = below if w == 0 else above if w == 1 else _mixed(below, above, float(w))
        if known is not None and valid is not None:
            known[i] = valid[j + 1] if w == 1 else valid[j] if w == 0 else valid[j] & valid[j + 1]
    return new, known, int(((share > 0) & (share < 1)).sum())


def upright(
    x: np.ndarray, valid: np.ndarray | None, shifts: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, tuple[int, int]]:
    """Undo a shear: slice i lies ``shifts[i]`` (columns, rows; pixels) beside the first one.

    Each slice is moved by linear interpolation along the axes that move by more than a twentieth of a pixel. The grid
    grows so that nothing is cut off; what no slice covers counts as not measured. Returns also how many (columns, rows)
    the grid begins before the first slice's.
    """
    before = [0, 0]
    valid = np.ones(x.shape, bool) if valid is None else valid
    for axis, moves in ((2, shifts[:, 0]), (1, shifts[:, 1])):
        if np.abs(moves).max() < 0.05:
            continue
        start = int(np.floor(moves.min()))
        grown = int(np.ceil(moves.max())) - start
        shape = list(x.shape)
        shape[axis] += grown
        floor = x[valid].min()
        new, known = np.full(shape, floor, x.dtype), np.zeros(shape, bool)
        for i, move in enumerate(moves - start):
            whole, part = int(np.floor(move)), float(move - np.floor(move))
            new[i], known[i] = _moved(x[i], valid[i], axis - 1, whole, part, shape[axis], floor)
        x, valid = new, known
        before[2 - axis] = -start
    return x, None if valid.all() else valid, (before[0], before[1])


def _moved(
    plane: np.ndarray, valid: np.ndarray, axis: int, whole: int, part: float, length: int, floor: Any
) -> tuple[np.ndarray, np.ndarray]:
    """``plane`` moved by whole + part pixels along ``axis`` into ``length`` of them."""

    def placed(values: np.ndarray, at: int, empty: Any) -> np.ndarray:
        widths = [(0, 0), (0, 0)]
        widths[axis] = (at, max(0, length - at - values.shape[axis]))
        padded = np.pad(values, widths, constant_values=empty)
        return padded[:length] if axis == 0 else padded[:, :length]

    here, known = placed(plane, whole, floor), placed(valid, whole, False)
    if part < 1e-6:
        return here, known
    return _mixed(here, placed(plane, whole + 1, floor), part), known & placed(valid, whole + 1, False)


def _mixed(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    mixed = first.astype(np.float32) * np.float32(1 - share) + second.astype(np.float32) * np.float32(share)
    return np.rint(mixed).astype(np.int16) if first.dtype == np.int16 else mixed
