"""Personal devices: Apple Health's ECG CSV and AliveCor Kardia's ATC and JSON."""

import json

import numpy as np
import pytest
from ecg_files import atc

from medfm import formats
from medfm.types import ReadError

APPLE = """Name,Ann Example
Date of Birth,"4 Jan 1992"
Recorded Date,2026-08-26 18:15:35 +0100
Classification,Sinus Rhythm
Symptoms,
Software Version,1.90
Device,"Watch7,11"
Sample Rate,{rate}

Lead,Lead I
Unit,µV

{values}
"""


def test_apple_health(tmp_path):
    values = [-48.673, -59.681, 12.0, 0.5]
    text = APPLE.format(rate="512.844 hertz", values="\n".join(map(str, values)))
    (tmp_path / "ecg_1.csv").write_text(text, encoding="utf-8")
    read = formats.read(tmp_path / "ecg_1.csv")
    assert (read.format, read.fs, read.channels, read.units) == ("apple-health", 512.844, ("I",), ("µV",))
    np.testing.assert_allclose(read.x[0], values, rtol=1e-6)
    assert "Ann" not in repr(read) and "1992" not in repr(read.meta)
    assert formats.is_candidate(tmp_path / "ecg_1.csv")


def test_apple_health_with_decimal_commas_in_german(tmp_path):
    text = APPLE.format(rate="512 Hertz", values="-265,868\n-271,819\n12\n0,5")
    text = text.replace("Sample Rate", "Messrate").replace("Lead,Lead I", "Ableitung,Ableitung I")
    (tmp_path / "e.csv").write_text(text.replace("Unit", "Einheit"), encoding="utf-8")
    read = formats.read(tmp_path / "e.csv")
    assert read.fs == 512 and read.units == ("µV",)
    np.testing.assert_allclose(read.x[0], [-265.868, -271.819, 12, 0.5], rtol=1e-6)


def test_kardia_atc(tmp_path):
    rows = np.random.default_rng(7).integers(-3000, 3000, (3, 900)).astype("<i2")
    (tmp_path / "a.atc").write_bytes(atc(rows))
    read = formats.read(tmp_path / "a.atc")
    assert (read.fs, read.channels, set(read.units)) == (300, ("I", "II", "III"), {"uV"})
    np.testing.assert_allclose(read.x, rows * 0.5)  # 500 nV a step
    assert read.meta == {"device": "kardia_6l"}
    (tmp_path / "a.atc").write_bytes(atc(rows)[:1500])
    with pytest.raises(ReadError, match="is truncated inside its block"):
        formats.read(tmp_path / "a.atc")


def kardia_json(raw=True):
    block = {
        "frequency": 300,
        "amplitudeResolution": 500,
        "samples": {"leadI": [100, -200, 4000], "AVR": [1, 2, 3]},
    }
    data = {"raw": block, "enhanced": block} if raw else {"enhanced": block}
    return {"id": "x", "patientID": "abc", "data": data, "deviceInfo": {"hardwareType": "kardia_6l"}}


def test_kardia_json(tmp_path):
    path = tmp_path / "k.json"
    path.write_text(json.dumps(kardia_json()))
    read = formats.read(path)
    assert (read.fs, read.channels, read.patient) == (300, ("I", "AVR"), "abc")
    np.testing.assert_allclose(read.x, [[50, -100, 2000], [0.5, 1, 1.5]])
    assert formats.is_candidate(path) and read.findings == ()
    path.write_text(json.dumps(kardia_json(raw=False)))
    assert [f.code for f in formats.read(path).findings] == ["enhanced-samples"]
    path.write_text(json.dumps({"fs": 500}))
    with pytest.raises(ReadError, match="of JSON files only Kardia recordings"):
        formats.read(path)
    assert not formats.is_candidate(path)
