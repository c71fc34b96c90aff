from __future__ import annotations

import errno
import json
import os

import numpy as np
import pandas as pd
import pytest
from ecg_records import LEADS, twelve

from medfm.data.manifest import Manifest
from medfm.data.scan import find_records, scan
from medfm.formats import wfdb
from medfm.modalities.ecg import ECG
from medfm.types import MedfmError


@pytest.fixture
def folder(tmp_path):
    """Three readable records (one in a sub-folder, one with two leads), and four kinds of bad file."""
    (tmp_path / "ward").mkdir()
    x = twelve(250.0, noise=0.01)
    wfdb.write(tmp_path / "a1", x, 250.0, LEADS, comments=("Age: 61", "Sex: F"))
    wfdb.write(tmp_path / "ward" / "a2", twelve(500.0, 12.0), 500.0, LEADS, comments=("Age: 47", "Sex: M"))
    wfdb.write(tmp_path / "a3", x[[1, 10]], 250.0, ("II", "V5"))
    wfdb.write(tmp_path / "nodata", x, 250.0, LEADS)
    (tmp_path / "nodata.dat").unlink()
    wfdb.write(tmp_path / "slow", x[:, ::25], 10.0, LEADS)
    wfdb.write(tmp_path / "names", x[:2], 250.0, ("ECG 1", "ECG 2"))
    (tmp_path / "broken.edf").write_bytes(b"0       nothing")
    (tmp_path / "notes.pdf").write_text("no record")
    return tmp_path


def test_bad_records_are_set_aside_and_the_run_goes_on(folder):
    result = scan(folder, ECG(fs=250))
    assert sorted(r.record for r in result.records) == ["a1", "a2", "a3"]
    reasons = {path.rsplit("/", 1)[1]: reason for path, reason in result.failed}
    assert {"nodata.hea", "slow.hea", "names.hea", "broken.edf"} <= set(reasons)
    assert (
        "nodata.dat" in reasons["nodata.hea"]
        and "10 Hz" in reasons["slow.hea"]
        and "alias" in reasons["names.hea"]
    )
    assert not any(str(folder) in reason for name, reason in reasons.items() if name == "slow.hea")
    assert result.total == len(result.records) + len(result.failed)


def test_what_was_found(folder):
    by_name = {r.record: r for r in scan(folder, ECG(fs=250)).records}
    two = by_name["a3"]
    assert two.channels == ("II", "V5") and "absent" in {f.code for f in two.findings} and two.warnings == ()
    assert (by_name["a2"].fs, by_name["a2"].seconds, by_name["a2"].age, by_name["a2"].sex) == (
        500.0,
        12.0,
        47.0,
        "M",
    )
    low, middle, high = by_name["a1"].amplitude["II"]
    assert low < middle < high and 0.5 < high < 1.2


def test_parallel_says_the_same(folder):
    one, two = scan(folder, ECG(fs=250)), scan(folder, ECG(fs=250), jobs=2)
    assert one.records == two.records and sorted(one.failed) == sorted(two.failed)


def test_manifest_is_read_back(folder):
    written = scan(folder, ECG(fs=250)).write_manifest(folder / "manifest.csv")
    frame = pd.read_csv(written, keep_default_na=False)
    assert sorted(frame["path"]) == ["a1.hea", "a3.hea", "ward/a2.hea"]
    assert set(frame["patient_id"]) == {""} and sorted(frame["duration"]) == [10, 10, 12]
    with pytest.raises(MedfmError, match="line 2 has no patient"):
        Manifest.from_table(written)
    Manifest.from_table(written, patient=None).check()


def test_describe(folder):
    summary = scan(folder, ECG(fs=250)).describe()
    assert summary["records"] == 3 and summary["fs"] == {"250": 2, "500": 1}
    assert (
        summary["leads"]["II"] == 3
        and summary["leads"]["V1"] == 2
        and list(summary["leads"])[:3] == ["I", "II", "III"]
    )
    assert summary["seconds"]["total"] == pytest.approx(32) and summary["sex"] == {"F": 1, "M": 1}
    assert summary["age"]["median"] == 54 and summary["patients"] is None


def test_table_with_missing_files_keeps_its_columns(folder):
    table = pd.DataFrame(
        {
            "path": ["a1.hea", "gone.hea", "ward/a2"],
            "patient_id": ["p1", "p2", "p3"],
            "af": [0, 1, 1],
            "age": [1, 2, 3],
        }
    )
    table.to_csv(folder / "site.csv", index=False)
    result = scan(folder / "site.csv", ECG(fs=250))
    assert [path.rsplit("/", 1)[1] for path, _ in result.failed] == ["gone.hea"]
    frame = result.frame(folder.resolve())
    assert (
        frame["patient_id"].tolist() == ["p1", "p3"]
        and frame["af"].tolist() == [0, 1]
        and frame["age"].tolist() == [1, 3]
    )
    assert frame.columns.is_unique and "duration" in frame


def test_table_gives_the_rate_of_bare_arrays(tmp_path):
    np.save(tmp_path / "x.npy", twelve(400.0).astype(np.float32))
    (tmp_path / "x.json").write_text(json.dumps({"channels": LEADS, "units": "mV"}))
    pd.DataFrame({"path": ["x.npy"], "fs": [400]}).to_csv(tmp_path / "t.csv", index=False)
    (record,) = scan(tmp_path / "t.csv", ECG()).records
    assert record.fs == 400 and record.seconds == pytest.approx(10)


def test_nothing_there(tmp_path):
    with pytest.raises(MedfmError, match="not found"):
        find_records(tmp_path / "none")
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(MedfmError, match=r"no record below.*1 \.docx"):
        scan(tmp_path, ECG())


def test_no_readable_record_makes_no_manifest(tmp_path):
    wfdb.write(tmp_path / "slow", twelve(250.0)[:, ::25], 10.0, LEADS)
    result = scan(tmp_path, ECG())
    with pytest.raises(MedfmError, match="no record could be read"):
        result.write_manifest(tmp_path / "m.csv")


def test_progress(folder):
    seen = []
    scan(folder, ECG(fs=250), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == len(seen)


def test_a_folder_that_may_not_be_opened_is_named(folder, monkeypatch):
    scandir = os.scandir

    def locked(path):  # root, as which tests may run, is never refused
        if str(path).endswith("ward"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    result = scan(folder, ECG(fs=250))
    assert "a2" not in {r.record for r in result.records}
    assert dict(result.failed)[str(folder / "ward")].endswith("change its permissions.")
