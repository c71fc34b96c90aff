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
from medfm.modalities.grey_pictures import GreyPictures
from medfm.modalities.xray_quality import assess, refuse
from medfm.types import Finding, Image, MedfmError, ReadError, Sample

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as every viewer turns colour to grey
LOOK = 1024  # pixels a side at which findings are looked for


class Xray(GreyPictures):
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


def _pixels(image: Image, size: tuple[int, int], fit: Fit) -> tuple[float, float]:
    """Pixels of the file that one pixel of the grid covers (rows, columns)."""
    from medfm.modalities.grey import place

    target, box = place((image.x.shape[1], image.x.shape[2]), image.aspect, size, fit)
    return (box[1] - box[0]) / (target[1] - target[0]), (box[3] - box[2]) / (target[3] - target[2])
