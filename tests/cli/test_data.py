from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from ecg_records import LEADS, twelve
from PIL import Image

from medfm.cli.main import main
from medfm.formats import wfdb


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "waves").mkdir()
    for k in range(6):
        wfdb.write(tmp_path / "waves" / f"r{k}", twelve(250.0, noise=0.01, seed=k), 250.0, LEADS)
    (tmp_path / "waves" / "bad.hea").write_text("bad 1 250 10\nbad.dat 16 200 16 0 0 0 0 II\n")
    return tmp_path


def test_scan(site, capsys):
    assert main(["data", "scan", "waves"]) == 0
    out = capsys.readouterr().out
    assert (
        "6 records" in out and "bad.dat" in out and "manifest: manifest.csv" in out and "Research use" in out
    )
    assert len(pd.read_csv("manifest.csv")) == 6


def test_scan_json_is_json(site, capsys):
    assert main(["data", "scan", "waves", "--json", "--output", "sub/m.csv"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["records"] == 6 and len(said["failed_files"]) == 1 and (site / "sub" / "m.csv").is_file()


def test_scan_of_nothing_readable_fails(site, capsys):
    for file in (site / "waves").glob("r*"):
        file.unlink()
    assert main(["data", "scan", "waves"]) == 1
    assert "none of its 1 records" in capsys.readouterr().err
    assert main(["data", "scan", "nowhere"]) == 1


def test_alias(site, capsys):
    wfdb.write(site / "one", twelve(250.0)[1:2], 250.0, ("ECG",))
    assert main(["data", "scan", "one.hea"]) == 1
    assert main(["data", "scan", "one.hea", "--alias", "ECG=II"]) == 0
    assert main(["data", "scan", "one.hea", "--alias", "ECG"]) == 2


def test_describe(site, capsys):
    assert main(["data", "describe", "waves", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fs"] == {"250": 6}
    assert main(["data", "describe", "waves"]) == 0
    assert "aVF (6)" in capsys.readouterr().out


def test_show(site, capsys):
    assert main(["data", "show", "waves/r0.hea", "--output", "a.png"]) == 0
    assert (site / "a.png").stat().st_size > 10_000
    assert main(["data", "show", "waves", "--records", "2", "--output", "a.html"]) == 0
    assert (site / "a.html").read_text().count("<section>") == 1  # the first of the two is the bad one
    assert "not drawn" in capsys.readouterr().err
    assert main(["data", "show", "waves", "--output", "a.gif"]) == 2


def test_datasets(capsys):
    assert main(["data", "datasets"]) == 0
    assert "ptb-xl" in capsys.readouterr().out
    assert main(["data", "datasets", "ptb-xl", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["label_sets"]["all"]) == 71
    assert main(["data", "datasets", "ptb-xl"]) == 0
    assert "superdiagnostic (5): CD, HYP, MI, NORM, STTC" in capsys.readouterr().out
    assert main(["data", "datasets", "ptbxl"]) == 2


def test_split_keeps_patients_whole(site, capsys):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"path": [f"waves/r{k % 6}" for k in range(60)], "patient_id": rng.integers(0, 25, 60)}
    )
    frame["record"], frame["af"] = range(60), rng.integers(0, 2, 60)
    frame.to_csv("t.csv", index=False)
    assert (
        main(
            [
                "data",
                "split",
                "t.csv",
                "--output",
                "out/s.csv",
                "--fractions",
                "0.6,0.2,0.2",
                "--target",
                "af",
            ]
        )
        == 0
    )
    made = pd.read_csv("out/s.csv")
    assert made.groupby("patient_id")["split"].nunique().max() == 1
    assert set(made["split"]) == {"train", "val", "test"} and made["split"].notna().all()
    assert main(["data", "split", "t.csv", "--fractions", "1"]) == 2
    assert main(["data", "split", "t.csv", "--patient", "mrn"]) == 2


def test_synthesize(site, capsys):
    assert main(["data", "synthesize", "ecg", "--patients", "3", "--output", "sim", "--seed", "4"]) == 0
    assert "next: medfm" in capsys.readouterr().out
    assert main(["data", "scan", "sim", "--output", "m.csv"]) == 0
    assert main(["data", "synthesize", "eeg", "--output", "sim2"]) == 2


def test_outputs_that_exist_are_kept(site, capsys):
    assert main(["data", "scan", "waves"]) == 0
    filled = pd.read_csv("manifest.csv").assign(patient_id="by hand")
    filled.to_csv("manifest.csv", index=False)
    assert main(["data", "scan", "waves"]) == 0
    assert "was kept" in capsys.readouterr().out
    assert main(["data", "scan", "waves", "--output", "manifest.csv"]) == 2
    assert main(["data", "split", "manifest.csv", "--output", "manifest.csv"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert set(pd.read_csv("manifest.csv")["patient_id"]) == {"by hand"}
    assert main(["data", "scan", "waves", "--overwrite"]) == 0
    assert pd.read_csv("manifest.csv")["patient_id"].isna().all()
    assert main(["data", "split", "manifest.csv", "--patient", "none", "--output", "s.csv"]) == 0
    assert main(["data", "synthesize", "ecg", "--patients", "1", "--output", "syn"]) == 0
    assert main(["data", "synthesize", "ecg", "--patients", "1", "--output", "syn"]) == 1
    assert main(["data", "synthesize", "ecg", "--patients", "1", "--output", "syn", "--overwrite"]) == 0


def test_show_names_the_record_that_cannot_be_drawn(site, capsys):
    wfdb.write(site / "flat", np.zeros((12, 2500)), 250.0, LEADS)
    assert main(["data", "show", "flat.hea", "--output", "flat.html"]) == 1
    assert "flat: none of its leads" in capsys.readouterr().err and not (site / "flat.html").exists()


@pytest.fixture
def films(tmp_path, monkeypatch):
    """Three films of two patients: the second one twice, under another name."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for name, seed, patient in (("a", 0, "p"), ("b", 1, "q"), ("c", 1, "q")):
        grey = np.kron(np.random.default_rng(seed).random((12, 10)), np.ones((8, 8)))
        Image.fromarray(np.rint(grey * 255).astype(np.uint8)).save(f"{name}.png")
        rows.append({"path": f"{name}.png", "patient_id": patient, "nodule": int(name == "c")})
    pd.DataFrame(rows).to_csv("t.csv", index=False)
    return tmp_path


def test_dedup(films, capsys):
    assert main(["data", "dedup", "t.csv"]) == 0
    said = capsys.readouterr().out
    for part in ("pictures     3", "kept         2", "copies       1", "6 bits or less, within one patient_id",
                 "finding: 1 of the dropped copies have other labels", "keep list: keep.csv; dropped: keep.dropped.csv",
                 "--data keep.csv", "Research use"):  # fmt: skip
        assert part in said, said
    assert pd.read_csv("keep.csv")["path"].tolist() == ["a.png", "b.png"]
    assert pd.read_csv("keep.dropped.csv")["repeats"].tolist() == ["b.png"]
    assert main(["data", "dedup", "t.csv"]) == 2 and "exists already" in capsys.readouterr().err
    assert (
        main(["data", "dedup", "t.csv", "--overwrite", "--json", "--patient", "none", "--target", "nodule"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["kept"] == 2 and found["within"] is None and found["keep"] == "keep.csv"
    assert found["findings"][0]["code"] == "copies-contradict"


def test_dedup_says_what_it_cannot(films, capsys):
    assert main(["data", "dedup", "t.csv", "--modality", "ecg"]) == 2
    assert "among pictures (xray, ct_slice)" in capsys.readouterr().err
    pd.read_csv("t.csv").drop(columns="patient_id").to_csv("t.csv", index=False)
    assert main(["data", "dedup", "t.csv", "--distance", "3", "--output", "k.csv"]) == 0
    assert "not sought: no patient column (--patient COLUMN)" in capsys.readouterr().out
    assert main(["data", "dedup", "nowhere", "--output", "n.csv"]) == 2
