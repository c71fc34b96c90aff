"""The CT volume: Hounsfield units on one grid in mm, axes to the right, front and head, through windows.

Shapes: X x Y x Z the grid, one stored channel (HU), one channel a window for the network. A prepared volume is turned,
resampled, cut to the body, windowed and clipped to 0..1 (VoCo has -175 to 250 HU for the abdomen, -1000 to 500 for the
chest). All of it is a setting that travels with the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medfm.modalities import volume_grid
from medfm.modalities.ct_augment import AUGMENTATIONS, augmentation
from medfm.modalities.volume_grid import Placement
from medfm.types import Finding, MedfmError, ReadError, Sample, Volume

HU = ("HU",)
Way = Literal["refuse", "resample"]


class CT:
    """The CT modality. Keywords are the fields of ``CTSettings``; :meth:`settings` gives them back.

    size: voxels of what a network takes at once; spacing: mm; orientation: of the axes; windows: HU of black and white, one
    channel each; foreground: ``body`` or ``none``; units: ``hu`` or ``any``; gaps, tilt: ``refuse`` or ``resample``;
    normalise: ``none`` (0 to 1), ``record`` or ``dataset`` (needs ``mean`` and ``std``, see :meth:`fit`). Raises
    :class:`MedfmError` on settings that contradict each other.
    """

    name = "ct"
    rank = 3
    empty = volume_grid.AIR  # stands for what was not measured where a number is needed

    def __init__(
        self,
        size: Sequence[int] = (96, 96, 96),
        spacing: Sequence[float] = (1.5, 1.5, 1.5),
        orientation: str = "RAS",
        windows: Sequence[Sequence[float]] = ((-175.0, 250.0),),
        foreground: str = "body",
        units: str = "hu",
        gaps: Way = "refuse",
        tilt: Way = "refuse",
        normalise: str = "none",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.windows = tuple((float(low), float(high)) for low, high in windows)
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != len(self.windows):
                raise MedfmError(f"modality.{name} has {len(values)} values for {len(self.windows)} windows.")
        if std is not None and not all(value > 0 for value in std):
            raise MedfmError("modality.std must be positive in every window.")
        self._size = tuple(int(n) for n in size)
        self._spacing = tuple(float(mm) for mm in spacing)
        self.orientation, self.foreground, self.units = orientation, foreground, units
        self.gaps: Way = gaps
        self.tilt: Way = tilt
        self.normalisation = normalise
        self.mean = None if mean is None else tuple(float(v) for v in mean)
        self.std = None if std is None else tuple(float(v) for v in std)

    @property
    def channels(self) -> tuple[str, ...]:
        """Of the network: one a window. Stored and read is one channel, HU (``stored``)."""
        return tuple(f"{low:g} to {high:g} HU" for low, high in self.windows)

    @property
    def stored(self) -> tuple[str, ...]:
        return HU

    @property
    def spacing(self) -> tuple[float, ...]:
        return self._spacing

    @property
    def size(self) -> tuple[int, ...]:
        return self._size

    @property
    def suffixes(self) -> tuple[str, ...]:
        from medfm.formats.volume import SUFFIXES

        return tuple(SUFFIXES)

    def settings(self) -> dict[str, Any]:
        """Plain JSON that rebuilds this modality through ``CTSettings``; it travels in the bundle."""
        return {
            "name": self.name,
            "size": list(self._size),
            "spacing": list(self._spacing),
            "orientation": self.orientation,
            "windows": [list(w) for w in self.windows],
            "foreground": self.foreground,
            "units": self.units,
            "gaps": self.gaps,
            "tilt": self.tilt,
            "normalise": self.normalisation,
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
        }

    def ingest_settings(self) -> dict[str, Any]:
        """The settings that shape a stored volume. Windows, size and normalisation act when a batch is made."""
        shaping = ("name", "spacing", "orientation", "foreground", "units", "gaps", "tilt")
        return {k: v for k, v in self.settings().items() if k in shaping}

    # Reading
    # -----------------------------------------------------------------------------------------------------------------

    def open(self, path: str | Path) -> Volume:
        """The file, folder or zip as it is, gaps and tilt as this modality has them."""
        from medfm.formats.volume import read_volume

        return read_volume(path, gaps=self.gaps, tilt=self.tilt)

    def read(self, path: str | Path, fs: float | None = None, quality: bool = True) -> Sample:
        """One volume as a :class:`Sample`: x float32 ``[1, X, Y, Z]`` HU on the model's grid, NaN: no measurement.

        ``fs`` is for signals: a volume has no sampling rate, and one that is given is refused. Raises
        :class:`ReadError` naming the file.
        """
        if fs is not None:
            raise ReadError(f"{path}: a volume has no sampling rate; drop the table's 'fs' column.")
        try:
            return self.place(self.open(path)).sample
        except ReadError as error:
            raise error if str(path) in str(error) else ReadError(f"{path}: {error}") from error

    def place(self, volume: Volume) -> Placement:
        """A :class:`Volume` on the model's grid, with the way back. Raises :class:`ReadError` for values that are not HU."""
        if volume.unit != "HU" and self.units == "hu":
            raise ReadError(
                "its values are not in Hounsfield units as far as the file says or shows; convert it, or take any values "
                "as they are with modality.units=any."
            )
        turn, turned, full, steps, affine = volume_grid.grid_of(volume, self._spacing, self.orientation)
        x, lost = _filled(volume)
        x = volume_grid.resample(turn.apply(x), full, steps)
        if lost is not None:
            x[volume_grid.resample(turn.apply(lost), full, steps) > 0.5] = np.nan
        box = tuple(slice(0, n) for n in full)
        if self.foreground == "body" and volume.unit == "HU":
            box = volume_grid.body_box(np.nan_to_num(x, nan=volume_grid.AIR), self._spacing)
            x = np.ascontiguousarray(x[box])
            affine = affine.copy()
            affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
        findings = volume.findings
        if any(n < s for n, s in zip(x.shape, self._size)):
            have, want = (" x ".join(map(str, v)) for v in (x.shape, self._size))
            findings += (
                Finding(
                    "smaller-than-crop",
                    f"has {have} voxels on the model's grid and is padded to {want}.",
                    "info",
                ),
            )
        sample = Sample(
            x=x[None],
            spacing=self._spacing,
            channels=HU,
            present=np.ones(1, bool),
            modality=self.name,
            record=volume.record,
            patient=volume.patient,
            findings=findings,
        )
        return Placement(sample, turn, tuple(volume.x.shape), volume.affine, turned, full, steps, box, affine)

    # From HU to the network
    # -----------------------------------------------------------------------------------------------------------------

    def normalise(self, x: np.ndarray, present: np.ndarray, copy: bool = True) -> np.ndarray:
        """``x [..., 1, X, Y, Z]`` HU -> the network's input ``[..., W, X, Y, Z]`` float32, one channel a window.

        Where nothing was measured the window's black is shown. ``present [..., 1]``; an absent volume stays NaN.
        """
        x = np.asarray(x, np.float32)
        if x.shape[-4] != 1:
            raise MedfmError(f"a CT volume has one channel, HU, and not {x.shape[-4]}.")
        out = np.empty((*x.shape[:-4], len(self.windows), *x.shape[-3:]), np.float32)
        for k, (low, high) in enumerate(self.windows):
            window(x[..., 0, :, :, :], low, high, out=out[..., k, :, :, :])
        if self.normalisation == "record":
            axes = (-3, -2, -1)
            out -= out.mean(axes, keepdims=True)
            out /= np.maximum(out.std(axes, keepdims=True), np.float32(1e-3))
        elif self.normalisation == "dataset":
            if self.mean is None or self.std is None:
                raise MedfmError(
                    "modality.normalise is 'dataset', but mean and std are not set: fit them on the training data, "
                    "load them with a bundle, or set modality.normalise=none."
                )
            out -= np.asarray(self.mean, np.float32)[:, None, None, None]
            out /= np.asarray(self.std, np.float32)[:, None, None, None]
        absent = ~np.asarray(present, bool)[..., 0]
        if absent.any():
            out[absent] = np.nan
        return out

    def seen(self, present: np.ndarray) -> np.ndarray:
        """``present [..., 1]`` of the volume -> ``[..., W]`` of the network's channels."""
        return np.repeat(np.asarray(present, bool), len(self.windows), axis=-1)

    def prepare(self, sample: Sample) -> Sample:
        """Windowed and normalised; of any extent. Deterministic."""
        x = self.normalise(sample.x, sample.present)
        return sample.replace(x=x, channels=self.channels, present=self.seen(sample.present))

    def fit(self, x: np.ndarray, present: np.ndarray) -> CT:
        """A copy with mean and deviation a window of training volumes ``x [B, 1, X, Y, Z]`` (HU)."""
        plain = CT(**{**self._arguments(), "normalise": "none"})
        values = plain.normalise(
            x[np.asarray(present, bool)[:, 0]], np.ones((int(present[:, 0].sum()), 1), bool)
        )
        if not values.size:
            raise MedfmError("mean and std cannot be fitted: the training volumes hold no voxel.")
        axes = (0, 2, 3, 4)
        mean = values.mean(axes, dtype=np.float64)
        std = np.maximum(values.std(axes, dtype=np.float64), 1e-3)
        return CT(**{**self._arguments(), "mean": mean.tolist(), "std": std.tolist()})

    def _arguments(self) -> dict[str, Any]:
        return {k: v for k, v in self.settings().items() if k != "name"}

    # Augmentation
    # -----------------------------------------------------------------------------------------------------------------

    def augment_batch(
        self,
        x: np.ndarray,
        present: np.ndarray,
        rng: np.random.Generator,
        names: Sequence[str],
        labels: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """``x [B, 1, X, Y, Z]`` HU and ``present [B, 1]`` through the named augmentations, in the order of the table.

        ``labels [B, K, X, Y, Z]`` go with them in place: what moves a volume moves its mask. Returns new arrays; the
        same rng state gives the same batch. Raises :class:`MedfmError` on an unknown name.
        """
        chosen = [augmentation(name) for name in dict.fromkeys(names)]
        x, present = np.array(x, np.float32), np.array(present, bool)
        for one in sorted(chosen, key=lambda a: list(AUGMENTATIONS).index(a.name)):
            one.apply(x, rng, labels)
        return x, present

    def alters(self, name: str) -> frozenset[str]:
        """Kinds of label that an augmentation falsifies. Raises :class:`MedfmError` on an unknown name."""
        return augmentation(name).alters

    def augment(self, sample: Sample, rng: np.random.Generator, names: Sequence[str] | None = None) -> Sample:
        """One volume, augmented in HU (before :meth:`prepare`); all augmentations when no names are given."""
        names = tuple(AUGMENTATIONS) if names is None else names
        x, present = self.augment_batch(sample.x[None], sample.present[None], rng, names)
        return sample.replace(x=x[0], present=present[0])


def window(x: np.ndarray, low: float, high: float, out: np.ndarray | None = None) -> np.ndarray:
    """HU -> 0 at ``low`` and below, 1 at ``high`` and above, float32; what was not measured (NaN) is black."""
    out = np.subtract(x, np.float32(low), out=out, dtype=np.float32)
    out *= np.float32(1 / (high - low))
    # fmax and fmin take the number where the other is NaN.
    return np.fmin(np.fmax(out, np.float32(0), out=out), np.float32(1), out=out)


def _filled(volume: Volume) -> tuple[np.ndarray, np.ndarray | None]:
    """Values with air where nothing was measured, and where that is (float32, for resampling), None: nowhere."""
    lost = None if volume.valid is None else ~volume.valid
    if volume.x.dtype.kind == "f" and np.isnan(volume.x).any():
        lost = np.isnan(volume.x) if lost is None else lost | np.isnan(volume.x)
    if lost is None or not lost.any():
        return volume.x, None
    air = volume_grid.AIR if volume.unit == "HU" else float(volume.x[~lost].min()) if (~lost).any() else 0.0
    return np.where(lost, np.asarray(air, volume.x.dtype), volume.x), lost.astype(np.float32)
