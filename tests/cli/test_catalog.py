"""``medfm data datasets`` and ``medfm data table`` on a small CheXpert."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medfm.cli.main import main
from medfm.data import catalog
from medfm.data.manifest import Manifest

HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
    "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


@pytest.fixture
def chexpert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    base = "CheXpert-v1.0-small"
    rows = {
        f"{base}/train/patient00001/study1/view1_frontal.jpg": ",Female,68,Frontal,AP,1.0" + "," * 13,
        f"{base}/train/patient00001/study1/view2_lateral.jpg": ",Female,68,Lateral,,1.0" + "," * 13,
        f"{base}/train/patient00002/study1/view1_frontal.jpg": ",Male,40,Frontal,PA,,,1.0" + "," * 11,
    }
    for name in rows:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    (tmp_path / base / "train.csv").write_text("\n".join([HEADER, *(n + r for n, r in rows.items())]) + "\n")
    (tmp_path / base / "valid.csv").write_text(HEADER + "\n")
    return tmp_path / base


def test_table_can_be_trained_on(chexpert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "table", f"chexpert={chexpert}", "--output", "t.csv"]) == 0
    said = capsys.readouterr()
    assert "1 of 3 pictures are not frontal" in said.err
    assert "t.csv: 2 records, 2 patients; train 2" in said.out and "medfm finetune t.csv" in said.out
    frame = pd.read_csv("t.csv")
    assert frame["path"][1] == "CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg"
    assert frame["Cardiomegaly"].tolist() == [0, 1] and frame["patient_id"].tolist() == [
        "patient00001",
        "patient00002",
    ]
    assert frame["dataset"].tolist() == ["chexpert"] * 2
    made = Manifest.from_table("t.csv")
    made.check()
    assert made.patients_known and Path(made.paths[0]).is_file()


def test_table_of_all_views_as_json(chexpert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "data",
        "table",
        f"chexpert={chexpert}",
        "--views",
        "all",
        "--labels",
        "five-mentioned",
        "--json",
    ]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["records"] == 3 and said["split"] == {"train": 3}
    assert said["labels"]["Cardiomegaly"] == {"yes": 1, "no": 0, "unknown": 2}
    assert main(words) == 2 and "exists already" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


def test_table_without_labels_and_wrong_calls(chexpert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "table", f"chexpert={chexpert}", "--labels", "none"]) == 0
    assert "Edema" not in pd.read_csv("table.csv")
    capsys.readouterr()
    for words, says in (
        (["chexpert"], "say where chexpert lies"),
        (["chexprt=x"], "Did you mean chexpert"),
        ([f"chexpert={chexpert}", "--labels", "six"], "has no label set 'six'"),
        ([f"chexpert={chexpert}", "--views", "oblique"], "use frontal, lateral, all"),
        ([f"mit-bih={chexpert}", "--views", "all"], "leave --views out"),
    ):
        assert main(["data", "table", *words, "--output", "other.csv"]) == 2
        assert says in capsys.readouterr().err


def test_unknown_patients_are_no_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stage_2_train_labels.csv").write_text("patientId,x,y,width,height,Target\nab-1,,,,,0\n")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "ab-1.png")
    assert main(["data", "table", f"rsna-pneumonia={tmp_path}"]) == 0
    assert "patients not known" in (said := capsys.readouterr().out) and "--patient none" in said
    assert "patient_id" not in pd.read_csv("table.csv")


@pytest.mark.parametrize("name", catalog.names())
def test_every_data_set_is_described(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "datasets", name]) == 0
    said, dataset = capsys.readouterr().out, catalog.load(name)
    for fact in (dataset.licence, dataset.access, *dataset.label_sets(), *catalog.overlaps(name)):
        assert fact in said
    assert main(["data", "datasets", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overlaps"] == catalog.overlaps(name)


def test_rules_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "datasets", "chexpert"]) == 0
    said = capsys.readouterr().out
    assert "five (5): Atelectasis, Cardiomegaly, Consolidation, Edema, Pleural Effusion (default)" in said
    assert "uncertain: unknown; not mentioned: 0" in said
    assert (
        "uncertain: 1 for Atelectasis, Edema; 0 for Cardiomegaly, Consolidation, Pleural Effusion; not mentioned: 0"
        in said
    )
    assert main(["data", "datasets"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in catalog.names())
