"""Slices of CT volumes as pictures: Hounsfield units through windows, on one grid in mm, hung as a radiologist hangs them.

A slice is ``volume.nii.gz#slice=37``, counted from the feet (axial), the back (coronal) or the left (sagittal). Unlike the
usual 8-bit export of every slice between its own extremes, a value means the same in all slices and volumes. Shapes: one
channel a window, grey 0 to 1 (NaN: no measurement); H x W the grid, whose middle is that of the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medfm.modalities import volume_grid
from medfm.modalities.ct import CT, Way, window
from medfm.modalities.grey_pictures import GreyPictures
from medfm.modalities.volume_grid import Turn
from medfm.modalities.volume_views import PLANES
from medfm.types import Finding, MedfmError, ReadError, Sample, Volume

PART = "#slice="
LEAST = 10  # pixels of a class, on the file's own grid, from which a slice shows it


def split_address(path: str | Path) -> tuple[str, int | None]:
    """``volume#slice=37`` -> (``volume``, 37); without a slice, None. Raises :class:`ReadError` for what is no number."""
    name, mark, number = str(path).rpartition(PART)
    if not mark:
        return str(path), None
    if not number.isdigit():
        raise ReadError(f"{path}: after '{PART}' stands the number of a slice, counted from 0.")
    return name, int(number)


class CTSlice(GreyPictures):
    """The modality of CT slices. Keywords are the fields of ``CTSliceSettings``; :meth:`settings` gives them back.

    size: rows and columns; spacing: mm a pixel; plane: ``axial``, ``coronal`` or ``sagittal``; every: mm between the slices
    that a whole volume is cut into, at least; windows: HU of black and white, a channel each. The others are as for CT.
    """

    name = "ct_slice"

    def __init__(
        self,
        size: Sequence[int] = (224, 224),
        spacing: float = 1.6,
        plane: str = "axial",
        every: float = 0.0,
        windows: Sequence[Sequence[float]] = ((-175.0, 250.0),),
        units: str = "hu",
        gaps: Way = "refuse",
        tilt: Way = "refuse",
        normalise: str = "none",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.windows = tuple((float(low), float(high)) for low, high in windows)
        self.channels = tuple(f"{low:g} to {high:g} HU" for low, high in self.windows)
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != len(self.windows):
                raise MedfmError(f"modality.{name} has {len(values)} values for {len(self.windows)} windows.")
        if std is not None and not all(value > 0 for value in std):
            raise MedfmError("modality.std must be positive in every window.")
        self._size = (int(size[0]), int(size[1]))
        self.pixel, self.plane, self.every = float(spacing), plane, float(every)
        self.units, self.normalisation = units, normalise
        self.mean = None if mean is None else tuple(float(v) for v in mean)
        self.std = None if std is None else tuple(float(v) for v in std)
        self.volumes = CT(units=units, gaps=gaps, tilt=tilt)
        self._held: tuple[str, Volume, Cutter] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}

    @property
    def spacing(self) -> tuple[float, ...]:
        return (self.pixel, self.pixel)

    @property
    def suffixes(self) -> tuple[str, ...]:
        return self.volumes.suffixes

    def settings(self) -> dict[str, Any]:
        """Plain JSON that rebuilds this modality through ``CTSliceSettings``; it travels in the bundle."""
        return {
            "name": self.name,
            "size": list(self._size),
            "spacing": self.pixel,
            "plane": self.plane,
            "every": self.every,
            "windows": [list(w) for w in self.windows],
            "units": self.units,
            "gaps": self.volumes.gaps,
            "tilt": self.volumes.tilt,
            "normalise": self.normalisation,
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
        }

    def ingest_settings(self) -> dict[str, Any]:
        """The settings that shape a stored slice. Normalisation acts when a batch is made."""
        return {k: v for k, v in self.settings().items() if k not in ("normalise", "mean", "std", "every")}

    # Reading
    # -----------------------------------------------------------------------------------------------------------------

    def read(self, path: str | Path, fs: float | None = None, quality: bool = True) -> Sample:
        """One slice as a :class:`Sample`: x float32 ``[W, H, W]``, grey 0 to 1, NaN outside. The volume read last is kept,
        so that its slices, asked for one after another, cost one reading. Raises :class:`ReadError` naming the file."""
        if fs is not None:
            raise ReadError(f"{path}: a picture has no sampling rate; drop the table's 'fs' column.")
        name, number = split_address(path)
        if number is None:
            raise ReadError(
                f"{path}: names a volume and no slice of it: add {PART}N, or make a table of slices with medfm data slices."
            )
        try:
            volume, cutter = self._cutter(name)
            x = self._channels(cutter.cut(number))
        except ReadError as error:
            raise error if name in str(error) else ReadError(f"{path}: {error}") from error
        return Sample(
            x=x,
            spacing=self.spacing,
            channels=self.channels,
            present=np.ones(len(self.channels), bool),
            modality=self.name,
            record=f"{volume.record}#{number}" if volume.record else str(path),
            patient=volume.patient,
            findings=volume.findings + cutter.findings(x),
        )

    def from_volume(self, volume: Volume, cutter: Cutter | None = None) -> list[np.ndarray]:
        """All its slices ``[W, H, W]`` from the first, ``every`` mm. cutter: where :meth:`cut` made it already."""
        cutter = cutter or self.cut(volume)
        return [self._channels(cutter.cut(i)) for i in cutter.numbers(self.every)]

    def cut(self, volume: Volume) -> Cutter:
        """How a volume in memory is cut."""
        return Cutter(volume, self.plane, self.pixel, self._size)

    def slices(self, path: str | Path) -> list[str]:
        """Addresses of the slices of a volume, ``every`` mm. Reads it."""
        cutter = self._cutter(str(path))[1]
        return [f"{path}{PART}{i}" for i in cutter.numbers(self.every)]

    def cutter(self, path: str | Path) -> Cutter:
        """How the volume at ``path`` is cut. Reads it, once for many slices."""
        return self._cutter(str(path))[1]

    def _cutter(self, name: str) -> tuple[Volume, Cutter]:
        if self._held is None or self._held[0] != name:
            self._held = None  # two volumes need not be in memory
            volume = self.volumes.open(name)
            if volume.unit != "HU" and self.units == "hu":
                raise ReadError(
                    "its values are not in Hounsfield units as far as the file says or shows; convert it, or take any "
                    "values as they are with modality.units=any."
                )
            self._held = (name, volume, self.cut(volume))
        return self._held[1], self._held[2]

    def _channels(self, hu: np.ndarray) -> np.ndarray:
        x = np.stack([window(hu, low, high) for low, high in self.windows])
        x[:, np.isnan(hu)] = np.nan
        return x


class Cutter:
    """Slices of one volume on the grid: ``count`` of them, ``step`` mm apart, ``turn`` the way its axes are hung."""

    def __init__(self, volume: Volume, plane: str, pixel: float, size: tuple[int, int]) -> None:
        self.turn = Turn.to(volume.affine, "".join(PLANES[plane]))
        # Counted from the feet, the back or the left.
        self.values = self.turn.apply(volume.x)
        self.valid = None if volume.valid is None else self.turn.apply(volume.valid)
        spacing = [volume.spacing[a] for a in self.turn.order]
        self.step, self.count = float(spacing[0]), self.values.shape[0]
        self.scale, self.size = (pixel / spacing[1], pixel / spacing[2]), size
        self.affine = self.turn.affine(volume.affine, volume.x.shape)
        if volume.unit == "HU":
            known = self.values if self.valid is None else np.where(self.valid, self.values, volume_grid.AIR)
            box = volume_grid.body_box(np.nan_to_num(known, nan=volume_grid.AIR), spacing, 0)[1:]
            self.middle = [(s.start + s.stop - 1) / 2 for s in box]
        else:
            self.middle = [(n - 1) / 2 for n in self.values.shape[1:]]

    def numbers(self, every: float = 0.0) -> list[int]:
        """Slices at least ``every`` mm apart, from the first; all of them at 0."""
        stride = max(1, int(np.ceil(every / self.step - 1e-6)))
        return list(range(0, self.count, stride))

    def cut(self, number: int) -> np.ndarray:
        """Slice ``number`` as HU ``[H, W]``, NaN outside. Raises :class:`ReadError` past the last one."""
        if not 0 <= number < self.count:
            raise ReadError(f"has {self.count} slices in this plane, and none with the number {number}.")
        x = self.values[number].astype(np.float32)
        if self.valid is not None:
            x[~self.valid[number]] = np.nan
        return self._placed(x, linear=True)

    def label(self, mask: np.ndarray, number: int) -> np.ndarray:
        """The same slice of a mask ``[X, Y, Z]`` on the file's grid: ``[H, W]``, 0 outside."""
        return np.nan_to_num(self._placed(self.turn.apply(mask)[number].astype(np.float32), linear=False))

    def shown(self, mask: np.ndarray, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        """Class of a mask ``[X, Y, Z]`` on the file's grid -> bool ``[n]``, which of the slices hold :data:`LEAST` pixels
        of it. Classes that the mask does not hold at all are left out, and so is 0."""
        turned = self.turn.apply(mask)
        classes = [int(v) for v in np.unique(turned) if v]
        return {k: np.array([(turned[n] == k).sum() >= LEAST for n in numbers]) for k in classes}

    def _placed(self, x: np.ndarray, linear: bool) -> np.ndarray:
        lost = np.isnan(x)
        grids = []
        for values in [np.where(lost, volume_grid.AIR, x)] + ([lost] if lost.any() else []):
            for axis in (0, 1):
                values = _line(
                    np.moveaxis(values, axis, 0), self.size[axis], self.scale[axis], self.middle[axis], linear
                )
                values = np.moveaxis(values, 0, axis)
            grids.append(values)
        out = grids[0]
        if len(grids) > 1:
            out[grids[1] > 0.5] = np.nan
        return out

    @staticmethod
    def findings(x: np.ndarray) -> tuple[Finding, ...]:
        share = float(np.isnan(x[0]).mean())
        if share < 0.9:
            return ()
        return (Finding("slice-mostly-outside", "hardly any of the grid lies in the volume.", "warning"),)


def _line(x: np.ndarray, out: int, step: float, middle: float, linear: bool) -> np.ndarray:
    """``x [n, m]`` at ``out`` places ``step`` apart about ``middle``, float32; NaN outside."""
    at = (np.arange(out) - (out - 1) / 2) * step + middle
    inside = (at > -0.5) & (at < len(x) - 0.5)
    if linear:
        values = volume_grid.weights_at(len(x), at, step) @ np.ascontiguousarray(x, np.float32)
    else:
        values = x[np.rint(at).astype(int).clip(0, len(x) - 1)].astype(np.float32)
    values[~inside] = np.nan
    return values
