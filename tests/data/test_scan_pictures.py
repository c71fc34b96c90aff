"""A folder of radiographs scanned: every file is a record or has its reason, and the same film is found twice."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from dicom_images import write
from PIL import Image
from xray_pictures import chest

from medfm.cli.main import main
from medfm.data.scan import scan
from medfm.modalities.xray import Xray


def film(seed: int = 0) -> np.ndarray:
    """Films of different people differ in more than noise."""
    grey = chest(300, 240, seed)
    spots = np.random.default_rng(seed).random((6, 5))
    return np.clip(0.6 * grey + 0.4 * np.kron(spots, np.ones((50, 48))), 0, 1)


def stored(seed: int = 0) -> np.ndarray:
    return np.rint(film(seed) * 4095).astype(np.uint16)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ward").mkdir()
    write(tmp_path / "a.dcm", stored(0), modality="DX", ViewPosition="PA", PatientAge="061Y", PatientSex="F")
    write(tmp_path / "ward" / "b.dcm", stored(1), modality="CR", PhotometricInterpretation="MONOCHROME1")
    Image.fromarray((film(0)[::2, ::2] * 255).astype(np.uint8)).save(tmp_path / "copy of a.jpg")
    write(tmp_path / "ct.dcm", stored(3), modality="CT")
    write(tmp_path / "cine.dcm", np.stack([stored(4), stored(5)]), modality="RF", NumberOfFrames=2)
    (tmp_path / "broken.dcm").write_bytes((tmp_path / "a.dcm").read_bytes()[:900])
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_every_picture_is_read_or_set_aside_with_its_reason(folder):
    result = scan(folder, Xray(size=(64, 64)))
    assert {r.record for r in result.records} == {"a", "b", "copy of a"}
    reasons = {path.rsplit("/", 1)[1]: reason for path, reason in result.failed}
    assert "CT slice" in reasons["ct.dcm"] and "2 frames" in reasons["cine.dcm"] and "broken.dcm" in reasons
    assert not reasons["ct.dcm"].startswith(str(folder)) and len(reasons) == 3
    again = scan(folder, Xray(size=(64, 64)), jobs=2)
    assert again.records == result.records and sorted(again.failed) == sorted(result.failed)


def test_description_and_manifest(folder):
    result = scan(folder, Xray(size=(64, 64)))
    about = result.describe()
    assert about["views"] == {"unknown": 2, "PA": 1} and about["pixels"]["largest"] == "240 x 300"
    assert about["photometric"] == {"MONOCHROME2": 2, "MONOCHROME1": 1} and about["windowed_before"] == 1
    ((first, second),) = about["duplicates"]
    assert first.endswith("a.dcm") and second.endswith("copy of a.jpg") and about["age"]["median"] == 61
    frame = pd.read_csv(result.write_manifest(folder / "m.csv"), keep_default_na=False).set_index("record")
    assert frame.loc["b", "path"] == "ward/b.dcm" and frame.loc["b", "photometric"] == "MONOCHROME1"
    assert frame.loc["a", "view"] == "PA" and frame.loc["a", "rows"] == 300 and frame.loc["a", "sex"] == "F"
    table = scan(folder / "m.csv", Xray(size=(64, 64)))
    assert len(table.records) == 3 and not table.failed


def test_a_frame_named_in_a_table(folder):
    pd.DataFrame({"path": ["cine.dcm#1"], "patient_id": ["p"]}).to_csv(folder / "t.csv", index=False)
    (record,) = scan(folder / "t.csv", Xray()).records
    assert record.record == "cine#1"


def test_the_command(folder, tmp_path, capsys):
    assert main(["data", "scan", str(folder), "--modality", "xray", "--output", str(tmp_path / "m.csv")]) == 0
    said = capsys.readouterr().out
    assert (
        "views     unknown (2), PA (1)" in said and "same film 1 pair" in said and "set aside: 3 of 6" in said
    )
    assert main(["data", "describe", str(folder), "--modality", "xray", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 3
    assert main(["data", "scan", str(folder), "--modality", "xray", "--alias", "ECG=II"]) == 2
    assert (
        main(["data", "show", str(folder), "--modality", "xray", "--output", str(tmp_path / "x.html")]) == 0
    )
    page = (tmp_path / "x.html").read_text()
    assert page.count("data:image/png") == 3 and "http" not in page and "PA view" in page
    assert (
        main(
            ["data", "show", str(folder / "a.dcm"), "--modality", "xray", "--output", str(tmp_path / "x.png")]
        )
        == 0
    )
    assert main(["data", "show", str(folder / "a.dcm"), "--modality", "xray", "--fs", "250"]) == 2
