from __future__ import annotations

import stat

import pandas as pd
import pytest
from ecg_records import LEADS, twelve

from medfm.cli.main import main
from medfm.data.codes import site_codes
from medfm.formats import wfdb


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "waves").mkdir()
    for k in range(3):
        wfdb.write(tmp_path / "waves" / f"DOE_{k}", twelve(250.0, seed=k), 250.0, LEADS)
    rows = {
        "path": [f"waves/DOE_{k}.hea" for k in range(3)],
        "patient_id": ["JANE", "JOHN", "JANE"],
        "mrn": [7, 8, 9],
    }
    pd.DataFrame(rows).to_csv(tmp_path / "site.csv", index=False)
    return tmp_path


def test_a_code_is_looked_up_in_a_table_or_a_folder(site, capsys):
    assert main(["data", "codes", "site.csv", "--output", "codes.csv"]) == 0
    assert "keep it at the site" in capsys.readouterr().out
    told = pd.read_csv("codes.csv")
    assert list(told.columns) == ["row", "record", "patient", "record_code", "patient_code"]
    assert told["row"].tolist() == [2, 3, 4] and told["record"].tolist() == ["DOE_0", "DOE_1", "DOE_2"]
    assert told["patient_code"].tolist() == site_codes().of(["JANE", "JOHN", "JANE"], "patient").tolist()
    assert told["record_code"].tolist() == site_codes().of(told["record"], "record").tolist()
    assert stat.S_IMODE((site / "codes.csv").stat().st_mode) == 0o600
    assert main(["data", "codes", "site.csv", "--output", "codes.csv"]) == 2
    assert (
        main(["data", "codes", "site.csv", "--output", "codes.csv", "--overwrite", "--patient", "mrn"]) == 0
    )
    assert pd.read_csv("codes.csv")["patient_code"].nunique() == 3
    assert main(["data", "codes", "waves", "--output", "folder.csv"]) == 0
    folder = pd.read_csv("folder.csv")
    assert folder["record_code"].tolist() == told["record_code"].tolist() and folder["row"].tolist() == [
        2,
        3,
        4,
    ]


def test_what_undoes_codes_is_not_written_beside_them(site, capsys):
    (site / "run").mkdir()
    (site / "run" / "train.log").touch()
    assert main(["data", "codes", "site.csv", "--output", "run/codes.csv"]) == 2
    assert "lies in a run folder" in capsys.readouterr().err and not (site / "run" / "codes.csv").exists()
    assert main(["data", "codes", "site.csv", "--output", "codes.csv", "--modality", "eeg"]) == 2
    assert main(["data", "codes", "nowhere.csv", "--output", "codes.csv"]) == 2
