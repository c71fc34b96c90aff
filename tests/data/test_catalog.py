from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from ecg_records import LEADS, twelve

from medfm.data import catalog
from medfm.formats import wfdb
from medfm.modalities.ecg import ECG
from medfm.types import ConfigError, MedfmError

X = twelve(100.0)


@pytest.mark.parametrize("name", catalog.names())
def test_every_yaml(name):
    dataset = catalog.load(name)
    assert dataset.id == name and dataset.licence and dataset.access
    assert dataset.citation.startswith("@") and dataset.citation.count("{") == dataset.citation.count("}")
    if dataset.labels:
        assert dataset.labels.default in dataset.labels.sets()


def test_the_seven_are_there():
    assert set(catalog.names()) >= {
        "ptb-xl", "chapman-shaoxing-ningbo", "cpsc2018", "georgia", "mimic-iv-ecg", "code-15", "mit-bih",
    }  # fmt: skip


def test_ptb_xl_label_sets():
    sets = catalog.load("ptb-xl").label_sets()
    assert {k: len(v) for k, v in sets.items()} == {
        "all": 71, "diagnostic": 44, "subdiagnostic": 23, "superdiagnostic": 5, "form": 19, "rhythm": 12,
    }  # fmt: skip
    assert sets["superdiagnostic"] == ["CD", "HYP", "MI", "NORM", "STTC"]
    # 44 + 19 + 12 = 75: four statements are diagnostic and form at once.
    assert set(sets["diagnostic"]) & set(sets["form"]) == {"NDT", "NST_", "DIG", "LNGQT"}
    assert set(sets["diagnostic"]) | set(sets["form"]) | set(sets["rhythm"]) == set(sets["all"])


@pytest.fixture
def ptb(tmp_path):
    root = tmp_path / "ptb"
    (root / "records100").mkdir(parents=True)
    (root / "records500").mkdir()
    rows = [
        (1, 10.0, 3, "{'IMI': 100.0, 'LVH': 0.0, 'SR': 0.0}"),
        (2, 10.0, 3, "{'NORM': 80.0}"),
        (3, 11.0, 9, "{'SR': 0.0}"),
        (4, 12.0, 10, "{'1AVB': 35.0, 'NDT': 100.0}"),
    ]
    for ident, *_ in rows:
        wfdb.write(root / "records100" / f"{ident:05d}_lr", X, 100.0, LEADS)
    wfdb.write(root / "records500" / "00002_hr", X, 100.0, LEADS)
    frame = pd.DataFrame(rows, columns=["ecg_id", "patient_id", "strat_fold", "scp_codes"])
    frame["filename_lr"] = [f"records100/{i:05d}_lr" for i in frame.ecg_id]
    frame["filename_hr"] = [f"records500/{i:05d}_hr" for i in frame.ecg_id]
    frame["age"] = 50
    frame.to_csv(root / "ptbxl_database.csv", index=False)
    return root


def test_ptb_xl_manifest(ptb):
    made = catalog.manifest("ptb-xl", ptb)
    frame = made.frame
    made.check()
    assert made.patients == ["10", "10", "11", "12"] and made.patients_known
    assert frame["split"].tolist() == ["train", "train", "val", "test"]
    # A likelihood of 0 counts: LVH (0.0) makes record 1 HYP.
    assert frame[["CD", "HYP", "MI", "NORM", "STTC"]].to_numpy().tolist() == [
        [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 1],
    ]  # fmt: skip
    assert [p.rsplit("/", 1)[1] for p in made.paths] == [
        "00001_lr.hea",
        "00002_hr.hea",
        "00003_lr.hea",
        "00004_lr.hea",
    ]
    assert "scp_codes" not in frame and frame["age"].tolist() == [50] * 4


def test_ptb_xl_other_sets(ptb):
    assert catalog.manifest("ptb-xl", ptb, labels="rhythm").frame["SR"].tolist() == [1, 0, 1, 0]
    assert catalog.manifest("ptb-xl", ptb, labels="subdiagnostic").frame["_AVB"].tolist() == [0, 0, 0, 1]
    assert len(catalog.manifest("ptb-xl", ptb, drop_unlabelled=True)) == 3
    assert "NORM" not in catalog.manifest("ptb-xl", ptb, labels=None).frame
    with pytest.raises(ConfigError, match="superdiagnostic"):
        catalog.manifest("ptb-xl", ptb, labels="five")


def test_ptb_xls_own_statement_table_wins(ptb):
    pd.DataFrame(
        {"diagnostic": [1.0, np.nan], "form": [np.nan, np.nan], "rhythm": [np.nan, 1.0],
         "diagnostic_class": ["NEW", np.nan], "diagnostic_subclass": ["new", np.nan]},
        index=["NORM", "SR"],
    ).to_csv(ptb / "scp_statements.csv")  # fmt: skip
    frame = catalog.manifest("ptb-xl", ptb).frame
    assert frame["NEW"].tolist() == [0, 1, 0, 0] and "MI" not in frame


def test_partial_download(ptb, caplog):
    (ptb / "records100" / "00004_lr.hea").unlink()
    with caplog.at_level(logging.WARNING, "medfm"):
        assert len(catalog.manifest("ptb-xl", ptb)) == 3
    assert "1 of 4" in caplog.text
    with pytest.raises(MedfmError, match=r"ptbxl_database\.csv is missing.*doi"):
        catalog.manifest("ptb-xl", ptb / "records100")


def test_header_codes(tmp_path):
    for name, dx in (
        ("JS00001", "# Dx: 426177001,164890007"),
        ("JS00002", "# Dx: 426783006"),
        ("JS00003", None),
    ):
        wfdb.write(tmp_path / name, X, 100.0, LEADS, comments=(dx.lstrip("# "),) if dx else ())
    made = catalog.manifest("chapman-shaoxing-ningbo", tmp_path)
    labels = made.frame[["SB", "AF_AFL", "SR"]].to_numpy()
    assert labels[:2].tolist() == [[1, 1, 0], [0, 0, 1]]
    assert np.isnan(labels[2]).all(), "a header without codes is unknown, not negative"
    assert made.patients_known and len(set(made.patients)) == 3


def test_mit_bih_one_person_two_records(tmp_path):
    for name in ("200", "201", "202"):
        wfdb.write(tmp_path / name, X[[1, 6]], 100.0, ("MLII", "V1"))
    patients = catalog.manifest("mit-bih", tmp_path).patients
    assert patients[1] == patients[2] != patients[0]


def test_mimic_columns(tmp_path):
    (tmp_path / "files" / "p1").mkdir(parents=True)
    wfdb.write(tmp_path / "files" / "p1" / "40", X, 100.0, LEADS)
    rows = {"subject_id": [7, 7], "study_id": [40, 41], "path": ["files/p1/40", "files/p1/41"]}
    pd.DataFrame(rows).to_csv(tmp_path / "record_list.csv", index=False)
    made = catalog.manifest("mimic-iv-ecg", tmp_path)
    assert made.records == ["40"] and made.patients == ["7"]


def test_code_15_rows_by_exam_id(tmp_path):
    import h5py

    with h5py.File(tmp_path / "exams_part0.hdf5", "w") as file:
        file["exam_id"] = np.array([30, 10, 20])
        file["tracings"] = np.zeros((3, 64, 12), np.float32)
    rows = {"exam_id": [10, 20, 99], "patient_id": [1, 2, 3], "trace_file": ["exams_part0.hdf5"] * 3}
    labels = {
        "1dAVb": ["True", "False", "False"],
        **{k: [False] * 3 for k in ("RBBB", "LBBB", "SB", "AF", "ST")},
    }
    pd.DataFrame({**rows, **labels}).to_csv(tmp_path / "exams.csv", index=False)
    made = catalog.manifest("code-15", tmp_path)
    assert [p.rsplit("#")[1] for p in made.paths] == ["1", "2"] and made.frame["1dAVb"].tolist() == [1, 0]


def test_words(ptb, tmp_path, caplog):
    made, weight, name = catalog.resolve_source(f"PTB-XL={ptb}@0.25", modality=ECG())
    assert (len(made), weight, name) == (4, 0.25, "ptb-xl") and "NORM" not in made.frame
    for word, says in (("ptb-xl", "doi"), ("ptbxl=/x", "Did you mean ptb-xl"),
                       (str(tmp_path / "no"), "no such"),
                       (f"ptb-xl={ptb}@0", "above zero")):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            catalog.resolve_source(word)


def test_folder_without_patients_says_so(tmp_path, caplog):
    for name in ("a", "b"):
        wfdb.write(tmp_path / name, X, 100.0, LEADS)
    with caplog.at_level(logging.WARNING, "medfm"):
        made, weight, name = catalog.resolve_source(str(tmp_path), modality=ECG())
    assert not made.patients_known and made.patients == made.records == ["a", "b"]
    assert (weight, name) == (1.0, tmp_path.name) and "patient" in caplog.text
    made.check()


def test_folder_with_a_table_uses_it(tmp_path):
    for name in ("a", "b"):
        wfdb.write(tmp_path / name, X, 100.0, LEADS)
    pd.DataFrame({"path": ["a", "b"], "patient_id": ["p", "p"]}).to_csv(tmp_path / "table.csv", index=False)
    made, _, _ = catalog.resolve_source(str(tmp_path))
    assert made.patients == ["p", "p"] and made.patients_known


def test_blank_patients_in_a_table(tmp_path):
    table = tmp_path / "t.csv"
    pd.DataFrame({"path": ["a", "b"], "patient_id": ["p", ""]}).to_csv(table, index=False)
    made, _, _ = catalog.resolve_source(str(table))
    assert made.patients == ["p", "b"] and not made.patients_known
    with pytest.raises(MedfmError, match="mrn"):
        catalog.resolve_source(str(table), patient="mrn")
