from __future__ import annotations

import numpy as np
import pytest
from ecg_records import signal, twelve

from medfm.modalities.ecg import ECG
from medfm.modalities.ecg_paper import HEIGHT, LEFT, ROW, WIDTH, draw, draw_prepared, strips, write
from medfm.types import MedfmError


def test_scale_of_the_paper():
    """A 1 mV step at 1 s of lead II stands 10 mm high, 25 mm right of the lead's start, in paper
    millimetres."""
    x = twelve()
    x[1] = 0.001 * np.sin(np.arange(5000))
    x[1, 500:520] = 1.0
    raw, _, _ = strips(signal(x), ECG())
    axes = draw([raw]).axes[0]
    base = HEIGHT - 12.0 - ROW * 1.5
    lines = [np.asarray(line.get_xydata()) for line in axes.lines]
    lead = next(
        xy for xy in lines if len(xy) > 1000 and abs(np.median(xy[:, 1]) - base) < 0.5 and xy[0, 0] == LEFT
    )
    top = lead[np.argmax(lead[:, 1])]
    assert top[1] - base == pytest.approx(10.0, abs=0.1)
    assert top[0] - LEFT == pytest.approx(25.0, abs=0.1)
    figure = draw([raw])
    assert figure.get_figwidth() * 25.4 == pytest.approx(
        axes.get_xlim()[1], abs=1e-6
    )  # one unit is one millimetre


def test_a_prepared_record_and_attention_under_its_rhythm_strip():
    """Two leads of 4 s at 100 Hz; attention in cells of half a second, the third of which is 25 to 37.5 mm from the start."""
    x = np.stack([np.sin(np.arange(400)), np.full(400, np.nan)])
    attention = np.array([0, 0, 1, 0, 0, 0, 0, 0.5])
    axes = draw_prepared(x, ECG(fs=100, leads=("II", "V1")), attention, (50,)).axes[0]
    band = axes.images[0]
    np.testing.assert_array_equal(band.get_array(), attention[None])
    assert band.get_extent() == [LEFT, LEFT + 100, 0.5, 3.5]
    assert axes.get_xlim() == (0, WIDTH) and axes.get_ylim() == (0, HEIGHT)
    words = [t.get_text() for t in axes.texts]
    assert "V1 (absent)" in words and "II" in words and "attention" in words
    assert not draw_prepared(x, ECG(fs=100, leads=("II", "V1"))).axes[0].images


def test_attention_ends_with_the_paper():
    """12 s at 100 Hz: ten of them are on the paper."""
    x = np.tile(np.sin(np.arange(1200)), (1, 1))
    axes = draw_prepared(x, ECG(fs=100, leads=("II",)), np.linspace(0, 1, 24), (50,)).axes[0]
    assert axes.images[0].get_array().shape == (1, 20)
    assert axes.images[0].get_extent()[1] == LEFT + 250


def test_png_and_html(tmp_path):
    x = twelve()[[0, 1, 6]]
    record = signal(x, channels=("I", "II", "V1"), record="<b>one")
    assert write([record], ECG(fs=250), tmp_path / "a.png") == []
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    bad = signal(x[:, :1], channels=("I", "II", "V1"), record="bad")
    assert [name for name, _ in write([record, bad], ECG(fs=250), tmp_path / "sub" / "a.html")] == ["bad"]
    page = (tmp_path / "sub" / "a.html").read_text()
    assert "data:image/png;base64," in page and "Research use" in page and "derived" in page
    assert "http" not in page and "<b>one" not in page


def test_refusals(tmp_path):
    with pytest.raises(MedfmError, match="png"):
        write([signal(twelve())], ECG(), tmp_path / "a.svg")
    with pytest.raises(MedfmError, match="nothing to draw"):
        write([signal(twelve()[:, :1])], ECG(), tmp_path / "a.png")
