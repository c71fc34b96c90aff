"""The catalogue on small copies of the published folder layouts.

File names, table columns and label encodings are those of PhysioNet's ecg-arrhythmia 1.0.0, challenge-2020
1.0.2, mimic-iv-ecg 1.0, mitdb 1.0.0 and ptb-xl 1.0.3, and of CODE-15 on Zenodo (record 4916206).
"""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from ecg_records import LEADS, twelve

from medfm.data import catalog
from medfm.formats import wfdb

X = twelve(100.0)


def challenge_header(file: Path, codes: str, unit: str = "mV") -> None:
    """A header as PhysioNet's challenges write it: signals in a .mat file, the diagnoses in a comment."""
    file.parent.mkdir(parents=True, exist_ok=True)
    name = file.stem
    lines = [f"{name} 12 500 5000 12-May-2020 12:33:59"]
    lines += [f"{name}.mat 16+24 1000/{unit} 16 0 28 -1716 0 {lead}" for lead in LEADS]
    lines += ["#Age: 74", "#Sex: Male", f"#Dx: {codes}", "#Rx: Unknown", "#Hx: Unknown", "#Sx: Unknown"]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def challenge(tmp_path: Path) -> Path:
    """The root of challenge-2020: every source has its own letter."""
    records = {
        "cpsc_2018/g1/A0001": "59118001",
        "cpsc_2018/g1/A0002": "164889003,164884008",
        "cpsc_2018/g2/A1000": "426783006",
        "cpsc_2018_extra/g1/Q0001": "427172004",
        "georgia/g1/E00001": "426177001,713427006",
        "georgia/g11/E10344": "164890007",
        "ptb/g1/S0001": "426783006",
        "ptb-xl/g1/HR00001": "426783006",
        "st_petersburg_incart/g1/I0001": "426783006",
    }
    for name, codes in records.items():
        unit = "mv" if "cpsc" in name else "mV"
        challenge_header(tmp_path / "training" / f"{name}.hea", codes, unit)
    return tmp_path


def test_cpsc_in_the_challenge_folder(challenge: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "medfm"):
        made = catalog.manifest("cpsc2018", challenge)
    assert made.records == ["A0001", "A0002", "A1000"] and not made.patients_known
    # CPSC's premature ventricular beats carry the code of ventricular ectopics.
    assert made.frame[["Normal", "AF", "RBBB", "PVC"]].to_numpy().tolist() == [
        [0, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0],
    ]  # fmt: skip
    assert len(catalog.load("cpsc2018").label_sets()["nine"]) == 9
    assert "3 records found, 6877 expected" in caplog.text


def test_georgia_in_the_challenge_folder(challenge: Path) -> None:
    rhythm = catalog.manifest("georgia", challenge)
    assert rhythm.records == ["E00001", "E10344"] and not rhythm.patients_known
    assert rhythm.frame[["SB", "AF", "AFL"]].to_numpy().tolist() == [[1, 0, 0], [0, 0, 1]]
    # The challenge scores the complete block and the plain code as one.
    assert catalog.manifest("georgia", challenge, labels="conduction").frame["RBBB"].tolist() == [1, 0]


def test_chapman_two_folder_levels(tmp_path: Path) -> None:
    codes = {
        "01/010/JS00001": "164889003,59118001,164934002",
        "01/010/JS00002": "426177001",
        "11/116/JS10700": "164890007,733534002",
        "46/468/JS45551": "426783006",
    }
    for name, dx in codes.items():
        challenge_header(tmp_path / "WFDBRecords" / f"{name}.hea", dx)
    rhythm = catalog.manifest("chapman-shaoxing-ningbo", tmp_path)
    assert rhythm.records == ["JS00001", "JS00002", "JS10700", "JS45551"] and rhythm.patients_known
    # Ningbo has flutter and no fibrillation, so one label joins them.
    assert rhythm.frame["AF_AFL"].tolist() == [1, 0, 1, 0] and "AFIB" not in rhythm.frame
    conduction = catalog.manifest("chapman-shaoxing-ningbo", tmp_path, labels="conduction").frame
    assert conduction[["RBBB", "LBBB"]].to_numpy().tolist() == [[1, 0], [0, 0], [0, 1], [0, 0]]


def test_chapman_with_a_damaged_header(tmp_path: Path) -> None:
    """JS01052 of version 1.0.0 lost a line break; its diagnosis still counts, its signals cannot be read."""
    from medfm import formats
    from medfm.types import ReadError

    file = tmp_path / "WFDBRecords" / "01" / "019" / "JS01052.hea"
    challenge_header(file, "426177001")
    first, _, *rest = file.read_text(encoding="utf-8").splitlines()
    assert first.startswith("JS01052 12 500 5000")
    broken = ["JS01052 12 500 500000/mV 16 0 15 31255 0 I", *rest]
    file.write_text("\n".join(broken) + "\n", encoding="utf-8")
    made = catalog.manifest("chapman-shaoxing-ningbo", tmp_path)
    assert made.frame["SB"].tolist() == [1]
    with pytest.raises(ReadError, match="JS01052"):
        formats.read(made.paths[0])


@pytest.fixture
def code_15(tmp_path: Path) -> Path:
    """Two parts with their filler rows; exams.csv in another order than the rows."""
    rng = np.random.default_rng(0)
    for part, ids in enumerate(([1100, 1200], [1300])):
        with h5py.File(tmp_path / f"exams_part{part}.hdf5", "w") as file:
            file["exam_id"] = np.array([*ids, 0])
            tracings = np.zeros((len(ids) + 1, 4096, 12), np.float32)
            tracings[:-1, 581:3515] = rng.normal(size=(len(ids), 2934, 12))
            file["tracings"] = tracings
    columns = "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file"
    rows = [
        "1200,38,True,40.160484,True,False,False,False,False,False,523632,False,2.1,False,exams_part0.hdf5",
        "1300,73,False,67.05944,False,False,False,False,False,True,1724173,,,False,exams_part1.hdf5",
        "1100,67,False,79.62174,False,False,False,False,False,False,523632,,,True,exams_part0.hdf5",
    ]
    (tmp_path / "exams.csv").write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")
    return tmp_path


def test_code_15_parts_fillers_and_labels(code_15: Path) -> None:
    from medfm import formats

    made = catalog.manifest("code-15", code_15)
    assert [p.rsplit("/", 1)[1] for p in made.paths] == [
        "exams_part0.hdf5#1", "exams_part1.hdf5#0", "exams_part0.hdf5#0",
    ]  # fmt: skip
    assert made.patients == ["523632", "1724173", "523632"] and made.patients_known
    assert catalog.load("code-15").label_sets()["six"] == ["1dAVb", "RBBB", "LBBB", "SB", "AF", "ST"]
    assert made.frame[["1dAVb", "AF", "ST"]].to_numpy().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert catalog.manifest("code-15", code_15, labels="normal").frame["normal_ecg"].tolist() == [0, 0, 1]
    # 2,934 samples at 400 Hz, the shorter of the two lengths, once the zeros are gone.
    assert formats.read(made.paths[0]).x.shape == (12, 2934)


def test_mimic_record_list(tmp_path: Path) -> None:
    paths = ["files/p1000/p10000032/s40689238/40689238", "files/p1000/p10000032/s44458630/44458630"]
    leads = ("I", "II", "III", "aVR", "aVF", "aVL", *LEADS[6:])
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True)
        wfdb.write(tmp_path / path, X, 100.0, leads)
    lines = ["subject_id,study_id,file_name,ecg_time,path"]
    lines += [f"10000032,{p.rsplit('/', 1)[1]},{p.rsplit('/', 1)[1]},2180-07-23 08:44:00,{p}" for p in paths]
    (tmp_path / "record_list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = catalog.manifest("mimic-iv-ecg", tmp_path)
    assert made.records == ["40689238", "44458630"] and set(made.patients) == {"10000032"}
    assert [Path(p).is_file() for p in made.paths] == [True, True]
    assert made.frame["ecg_time"].tolist()[0] == "2180-07-23 08:44:00"


def test_mit_bih_leaves_the_excerpts_out(tmp_path: Path) -> None:
    (tmp_path / "x_mitdb").mkdir()
    for name in ("100", "234", "x_mitdb/x_108"):
        wfdb.write(tmp_path / name, X[[1, 6]], 100.0, ("MLII", "V1"))
    assert catalog.manifest("mit-bih", tmp_path).records == ["100", "234"]


def test_ptb_xl_folders_of_a_thousand(tmp_path: Path) -> None:
    (tmp_path / "records100" / "00000").mkdir(parents=True)
    wfdb.write(tmp_path / "records100" / "00000" / "00001_lr", X, 100.0, LEADS)
    row = {
        "ecg_id": 1, "patient_id": 15709.0, "age": 56.0, "sex": 1, "site": 0.0, "device": "CS-12   E",
        "scp_codes": "{'NORM': 100.0, 'LVOLT': 0.0, 'SR': 0.0}", "strat_fold": 3,
        "filename_lr": "records100/00000/00001_lr", "filename_hr": "records500/00000/00001_hr",
    }  # fmt: skip
    pd.DataFrame([row]).to_csv(tmp_path / "ptbxl_database.csv", index=False)
    made = catalog.manifest("ptb-xl", tmp_path)
    assert made.patients == ["15709"] and made.frame["split"].tolist() == ["train"]
    assert made.frame["NORM"].tolist() == [1] and made.paths[0].endswith("records100/00000/00001_lr.hea")
