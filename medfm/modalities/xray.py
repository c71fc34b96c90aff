"""The radiograph: grey as its file means it to be shown, bone bright, on one grid with its proportions kept.

Shapes: C is 1 (grey) or 3 (rgb), H x W the grid. A prepared picture is a window applied, inverted where the file says
so, resampled, padded; normalisation is the training data's mean and deviation (medical MAE, arXiv 2210.12843, has
0.5056 and 0.252 for NIH ChestX-ray14). All of it is a setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medfm.modalities.grey import Fit, choose, to_grid
from medfm.modalities.xray_augment import AUGMENTATIONS, MIX_ALTERS, augmentation
from medfm.modalities.xray_quality import assess, refuse
from medfm.types import Finding, Image, MedfmError, ReadError, Sample

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as every viewer turns colour to grey
LOOK = 1024  # pixels a side at which findings are looked for


class Xray:
    """The X-ray modality. Keywords are the fields of ``XraySettings``; :meth:`settings` gives them back.

    size: rows and columns; fit: ``pad``, ``crop`` or ``stretch``; colour: ``grey`` or ``rgb``; voi: which window of
    the file (-1: percentiles, -2: all that its bits hold); invert: ``file``, ``always``, ``never``; normalise:
    ``dataset`` (needs ``mean`` and ``std``, see :meth:`fit`), ``record`` or ``none``. Raises :class:`MedfmError` on
    settings that contradict each other.
    """

    name = "xray"
    rank = 2

    def __init__(
        self,
        size: Sequence[int] = (224, 224),
        fit: Fit = "pad",
        colour: str = "grey",
        voi: int = 0,
        percentiles: Sequence[float] = (0.5, 99.5),
        invert: str = "file",
        normalise: str = "dataset",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.channels: tuple[str, ...] = ("grey",) if colour == "grey" else ("red", "green", "blue")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != len(self.channels):
                raise MedfmError(
                    f"modality.{name} has {len(values)} values for {len(self.channels)} channels."
                )
        if std is not None and not all(value > 0 for value in std):
            raise MedfmError("modality.std must be positive in every channel.")
        self._size = (int(size[0]), int(size[1]))
        self.fitting: Fit = fit
        self.colour, self.voi, self.invert = colour, int(voi), invert
        self.percentiles = (float(percentiles[0]), float(percentiles[1]))
        self.normalisation = normalise
        self.mean = None if mean is None else tuple(float(v) for v in mean)
        self.std = None if std is None else tuple(float(v) for v in std)

    @property
    def spacing(self) -> tuple[float, ...]:
        """NaN: pictures are brought to one size, not to one scale, and magnification is unknown anyway."""
        return (float("nan"), float("nan"))

    @property
    def size(self) -> tuple[int, ...]:
        return self._size

    @property
    def suffixes(self) -> tuple[str, ...]:
        from medfm.formats.pictures import SUFFIXES

        return tuple(SUFFIXES)

    def settings(self) -> dict[str, Any]:
        """Plain JSON that rebuilds this modality through ``XraySettings``; it travels in the bundle."""
        return {
            "name": self.name,
            "size": list(self._size),
            "fit": self.fitting,
            "colour": self.colour,
            "voi": self.voi,
            "percentiles": list(self.percentiles),
            "invert": self.invert,
            "normalise": self.normalisation,
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
        }

    def ingest_settings(self) -> dict[str, Any]:
        """The settings that shape a stored picture. Normalisation acts when a batch is made."""
        return {k: v for k, v in self.settings().items() if k not in ("normalise", "mean", "std")}

    # Reading
    # -----------------------------------------------------------------------------------------------------------------

    def read(self, path: str | Path, fs: float | None = None, quality: bool = True) -> Sample:
        """One file (or ``file.dcm#12``) as a :class:`Sample`: x float32 ``[C, H, W]``, grey 0 to 1, NaN outside.

        ``fs`` is for signals: a picture has no sampling rate, and one that is given is refused. ``quality=False``
        leaves out the findings that need the picture looked at. Raises :class:`ReadError` naming the file.
        """
        if fs is not None:
            raise ReadError(f"{path}: a picture has no sampling rate; drop the table's 'fs' column.")
        from medfm.formats import pictures

        try:
            return self.from_image(pictures.read(path), quality)
        except ReadError as error:
            raise error if str(path) in str(error) else ReadError(f"{path}: {error}") from error

    def from_image(self, image: Image, quality: bool = True) -> Sample:
        """The same from an :class:`Image` (arrays of users, synthetic records, what ``formats.pictures.read`` returns).

        Raises :class:`ReadError` for what is no radiograph: another modality, a colour picture, one of a few pixels
        or of one value.
        """
        refuse(image)
        if self.invert != "file":
            image = replace(image, inverted=self.invert == "always")
        voi, source = choose(image, self.voi, self.percentiles)
        found = image.findings
        if source == "unusable":
            message = "the window that it states shows next to nothing; percentiles of its values were used instead."
            found += (Finding("window-unusable", message),)
        x = self._channels(to_grid(image, voi, self._size, self.fitting))
        if quality:
            found += assess(image, self._look(image, voi))
        spacing = (float("nan"), float("nan"))
        if image.spacing is not None and self.fitting != "stretch":
            per = _pixels(image, self._size, self.fitting)
            spacing = (image.spacing[0] * per[0], image.spacing[1] * per[1])
        return Sample(
            x=x,
            spacing=spacing,
            channels=self.channels,
            present=np.ones(len(self.channels), bool),
            modality=self.name,
            record=image.record,
            patient=image.patient,
            findings=found,
        )

    def _channels(self, x: np.ndarray) -> np.ndarray:
        """``x [1 or 3, H, W]`` -> the modality's channels."""
        if len(x) == 3 and self.colour == "grey":
            return np.tensordot(LUMA, x, axes=1)[None]
        if len(x) == 1 and self.colour == "rgb":
            return np.repeat(x, 3, axis=0)
        return x

    def _look(self, image: Image, voi: Any) -> np.ndarray:
        """Grey ``[h, w]`` of the whole picture for findings: at most ``LOOK`` pixels a side, proportions kept."""
        rows, columns = image.x.shape[1] * image.aspect, image.x.shape[2]
        scale = min(1.0, LOOK / max(rows, columns))
        grey = to_grid(image, voi, (max(1, round(rows * scale)), max(1, round(columns * scale))), "stretch")
        return grey[0] if len(grey) == 1 else np.tensordot(LUMA, grey, axes=1)

    # From grey to the network
    # -----------------------------------------------------------------------------------------------------------------

    def normalise(self, x: np.ndarray, present: np.ndarray) -> np.ndarray:
        """``x [..., C, H, W]`` grey -> the network's input, float32. ``present [..., C]``; an absent channel stays NaN.

        What is no picture is shown black, as it is on film: it has the normalised value of grey 0.
        """
        x = np.array(x, np.float32)
        axes = (-2, -1)
        if self.normalisation == "record":
            mean, std = _moments(x)
            mean, std = mean[..., None, None], np.maximum(std, 1e-3)[..., None, None]
        elif self.normalisation == "dataset":
            if self.mean is None or self.std is None:
                raise MedfmError(
                    "modality.normalise is 'dataset', but mean and std are not set: fit them on the training data, "
                    "load them with a bundle, or set modality.normalise=record."
                )
            mean = np.asarray(self.mean, np.float32)[:, None, None]
            std = np.asarray(self.std, np.float32)[:, None, None]
        broken = np.isnan(x.sum(axis=axes))
        if broken.any():
            x[broken] = np.nan_to_num(x[broken], nan=0.0)
        if self.normalisation != "none":
            x -= mean
            x /= std
        x[~np.asarray(present, bool)] = np.nan
        return x

    def prepare(self, sample: Sample) -> Sample:
        """Normalised; the grid is the sample's already. Deterministic. Raises on a sample of another size."""
        if sample.x.shape[1:] != self._size:
            have = " x ".join(str(n) for n in sample.x.shape[1:])
            raise MedfmError(
                f"{sample.record or 'the sample'} has {have} pixels, the modality {self._size[0]} x {self._size[1]}: "
                "read it again with this modality."
            )
        return sample.replace(x=self.normalise(sample.x, sample.present))

    def fit(self, x: np.ndarray, present: np.ndarray) -> Xray:
        """A copy with mean and deviation a channel of training pictures ``x [B, C, H, W]`` (grey), NaN left out."""
        total = np.zeros(len(self.channels))
        square, count = total.copy(), total.copy()
        for picture, there in zip(x, present):
            known = there[:, None, None] & np.isfinite(picture)
            values = np.where(known, picture, 0.0).astype(np.float64)
            total += values.sum(axis=(1, 2))
            square += np.square(values).sum(axis=(1, 2))
            count += known.sum(axis=(1, 2))
        if not count.any():
            raise MedfmError("mean and std cannot be fitted: the training pictures hold no pixel.")
        mean = total / np.maximum(count, 1)
        std = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean**2, 1e-6))
        settings = {k: v for k, v in self.settings().items() if k not in ("name", "mean", "std")}
        return Xray(**settings, mean=mean.tolist(), std=std.tolist())

    # Augmentation
    # -----------------------------------------------------------------------------------------------------------------

    def augment_batch(
        self, x: np.ndarray, present: np.ndarray, rng: np.random.Generator, names: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """``x [B, C, H, W]`` grey and ``present [B, C]`` through the named augmentations, in the order of the table.

        Returns new arrays; the same rng state gives the same batch. Raises :class:`MedfmError` on an unknown name.
        """
        chosen = [augmentation(name) for name in dict.fromkeys(names)]
        x, present = np.array(x, np.float32), np.array(present, bool)
        for one in sorted(chosen, key=lambda a: list(AUGMENTATIONS).index(a.name)):
            one.apply(x, rng)
        return x, present

    def alters(self, name: str) -> frozenset[str]:
        """Kinds of label that an augmentation or a mix falsifies. Raises :class:`MedfmError` on an unknown name."""
        return MIX_ALTERS[name] if name in MIX_ALTERS else augmentation(name).alters

    def augment(self, sample: Sample, rng: np.random.Generator, names: Sequence[str] | None = None) -> Sample:
        """One picture, augmented as grey (before :meth:`prepare`); all augmentations when no names are given."""
        names = tuple(AUGMENTATIONS) if names is None else names
        x, present = self.augment_batch(sample.x[None], sample.present[None], rng, names)
        return sample.replace(x=x[0], present=present[0])


def _pixels(image: Image, size: tuple[int, int], fit: Fit) -> tuple[float, float]:
    """Pixels of the file that one pixel of the grid covers (rows, columns)."""
    from medfm.modalities.grey import place

    target, box = place((image.x.shape[1], image.x.shape[2]), image.aspect, size, fit)
    return (box[1] - box[0]) / (target[1] - target[0]), (box[3] - box[2]) / (target[3] - target[2])


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation over the pixels ``[..., C]``, NaN left out; 0 and 0 for a channel without a pixel."""
    finite = np.isfinite(x)
    count = np.maximum(finite.sum(axis=(-2, -1)), 1)
    mean = np.where(finite, x, 0.0).sum(axis=(-2, -1)) / count
    spread = np.where(finite, x - mean[..., None, None], 0.0)
    return mean.astype(np.float32), np.sqrt(np.square(spread).sum(axis=(-2, -1)) / count).astype(np.float32)
