"""Small radiographs as files, and tables as text, for tests that rebuild published folder layouts."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medfm.data.manifest import Manifest
from medfm.formats import pictures
from medfm.formats.radiograph_write import RadiographHeader, write_radiograph
from medfm.modalities.xray import Xray

GREY = np.tile(np.linspace(0, 1, 48), (40, 1))
NAN = float("nan")


def picture(file: Path, bits: int = 8) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    scaled = (GREY * (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8)
    Image.fromarray(scaled).save(file)
    return file


def dicom(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return write_radiograph(file, GREY, RadiographHeader(file.stem, "anonymous", 40, "F", "PA", "x"))


def lines(file: Path, *rows: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(rows) + "\n"
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text, encoding="utf-8")


def readable(made: Manifest) -> bool:
    """Every picture is one that the modality takes."""
    images = [pictures.read(path) for path in made.paths]
    return all(i.x.shape[1:] == GREY.shape and Xray().from_image(i).x.ndim == 3 for i in images)


def same(frame: pd.DataFrame, names: list[str], expected: list[list[float]]) -> None:
    np.testing.assert_array_equal(frame[names].to_numpy(float), np.array(expected, float))
