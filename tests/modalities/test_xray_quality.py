"""Named findings: each is there when it should be, and absent when it should be."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_images import write
from scipy.ndimage import zoom
from xray_pictures import chest, with_text

from medfm.modalities.xray import Xray
from medfm.modalities.xray_quality import painted, polarity, writing
from medfm.types import Image


def stored() -> np.ndarray:
    return np.rint(chest() * 4095).astype(np.uint16)


def codes(path) -> set[str]:
    return {f.code for f in Xray(size=(64, 64)).read(path).findings}


def test_a_clean_film_has_its_view_and_nothing_else(tmp_path):
    assert codes(write(tmp_path / "a.dcm", stored(), modality="DX", ViewPosition="PA")) == {"view"}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, "view-unknown"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for-processing"),
        ({"BurnedInAnnotation": "YES"}, "burned-in-annotation"),
        ({"ImagerPixelSpacing": [0.1, 0.1]}, "detector-spacing"),
        ({"modality": "OT"}, "modality-unstated"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "polarity"),
    ],
)
def test_what_the_file_says_becomes_a_sentence(tmp_path, tags, expected):
    path = write(tmp_path / "a.dcm", stored(), **tags)
    finding = next(f for f in Xray().read(path).findings if f.code == expected)
    assert finding.message.endswith(".") and expected not in codes(
        write(tmp_path / "b.dcm", stored(), modality="DX", ViewPosition="AP")
    )


def test_polarity_with_and_without_borders():
    grey = chest()
    framed = np.full((400, 400), 0.0)
    framed[50:350, 80:320] = grey
    nothing = np.full((400, 400), np.nan)
    nothing[50:350, 80:320] = grey
    for picture in (grey, framed, nothing, zoom(grey, 0.1)):
        assert polarity(picture) > 0.1
    collimated = np.where(framed > 0, 1 - framed, 0.0)  # the film turned round, the black border not
    for picture in (1 - grey, collimated, 1 - nothing, 1 - zoom(grey, 0.1)):
        assert polarity(picture) < -0.1


@pytest.mark.parametrize("size", [12, 18, 30])
def test_burned_in_writing(size):
    grey = zoom(chest(), 3, order=1)  # 900 x 720
    assert writing(grey) == (0, 0)
    _, lines = writing(with_text(grey, "DOE^JANE 1950", (20, 20), size))
    assert lines >= 1
    glyphs, lines = writing(with_text(grey, "L", (660, 40), size))
    assert (glyphs, lines) == (1, 0)
    assert writing(chest(60, 50)) == (0, 0), "too small to tell"


def test_writing_and_markers_are_findings(tmp_path):
    named = with_text(zoom(chest(), 3, order=1), "DOE^JANE 1950 PORTABLE", (20, 20), 18)
    marked = with_text(zoom(chest(), 3, order=1), "L", (660, 40), 24)
    files = [
        write(tmp_path / f"{i}.dcm", np.rint(g * 4095).astype(np.uint16))
        for i, g in enumerate((named, marked))
    ]
    assert "burned-in-text" in codes(files[0]) and "burned-in-text" not in codes(files[1])
    assert "marker" in codes(files[1])


def test_colour_marks():
    x = np.repeat(chest()[None], 3, axis=0).astype(np.float32)
    assert painted(x) == 0
    x[0, 100:110, 100:140] = 1.0
    assert 0 < painted(x) < 0.02
    sample = Xray(size=(64, 64)).from_image(Image(x, "RGB", 8, "array"))
    assert "colour-marks" in {f.code for f in sample.findings}


def test_findings_that_need_a_look_can_be_left_out(tmp_path):
    path = write(tmp_path / "a.dcm", stored(), PhotometricInterpretation="MONOCHROME1")
    assert Xray().read(path, quality=False).findings == ()
