"""A table with a column a sequence becomes a manifest of subjects; the key of a store sees every file of each."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from medfm.data.manifest import Manifest
from medfm.data.store import fingerprint
from medfm.formats.subject import split_subject
from medfm.types import MedfmError, ReadError


def table(**columns):
    return pd.DataFrame({"patient_id": [1, 2, 3], **columns})


def made(frame, root=Path("/site"), **options):
    return Manifest.from_frame(frame, root=root, source="site.csv", **options)


def test_columns_of_volume_files_are_the_sequences_and_blanks_are_missing():
    manifest = made(
        table(
            T1=["1/t1.nii.gz", "2/t1.nii.gz", None],
            flair=["1/flair.nii.gz", " ", "/other/3/flair.nii.gz"],
            t2=[None, None, None],
            seg=["1/seg.nii.gz"] * 3,
            label=["1/m.nii.gz", None, "3/m.nii.gz"],
            site=["a", "b", "c"],
        )
    )
    assert [split_subject(p) for p in manifest.paths] == [
        {"T1": "/site/1/t1.nii.gz", "flair": "/site/1/flair.nii.gz"},
        {"T1": "/site/2/t1.nii.gz"},
        {"flair": "/other/3/flair.nii.gz"},
    ]
    assert manifest.records == ["1", "2", "3"] and manifest.patients == ["1", "2", "3"]
    label = manifest.frame["label"]
    assert label.dropna().tolist() == ["/site/1/m.nii.gz", "/site/3/m.nii.gz"] and pd.isna(label[1])


def test_names_of_records_come_from_the_files():
    flat = made(
        table(
            t1=[f"UPENN_{i}_T1.nii.gz" for i in range(3)], t1gd=[f"UPENN_{i}_T1GD.nii.gz" for i in range(3)]
        )
    )
    assert flat.records == ["UPENN_0", "UPENN_1", "UPENN_2"]
    alike = made(table(t1=[f"{i}/scan/t1.nii" for i in range(3)]))
    assert alike.records[0] == "t1=0/scan/t1.nii" and len(set(alike.records)) == 3
    named = made(table(t1=[f"{i}/t1.nii" for i in range(3)], record=["a", "b", "c"]))
    assert named.records == ["a", "b", "c"]


def test_a_row_without_any_sequence_is_named_by_its_line():
    with pytest.raises(MedfmError, match=r"site\.csv: line 3 names no sequence \(columns t1, t2\)"):
        made(table(t1=["a.nii", None, "c.nii"], t2=["b.nii", " ", None]))
    with pytest.raises(ReadError, match="holds ';'"):
        made(table(t1=["a;b.nii", "b.nii", "c.nii"]))


@pytest.mark.parametrize(
    "columns",
    [
        {"image": ["a.nii", "b.nii", "c.nii"]},  # one column that is no sequence: paths under another name
        {"t1": ["a.nii", "b", "c.nii"]},
        {"t1": ["a.nii", 7, "c.nii"]},
        {"mask": ["a.nii", "b.nii", "c.nii"], "Seg": ["a.nii", "b.nii", "c.nii"]},
        {"t1": [None] * 3, "age": [1, 2, 3]},
    ],
)
def test_other_tables_still_need_a_path_column(columns):
    with pytest.raises(MedfmError, match="no 'path' column"):
        made(table(**columns))


def test_addresses_in_a_path_column_are_taken_as_they_are_with_the_tables_folder():
    manifest = made(
        table(path=["t1=a/t1.nii;flair=/b/flair.nii", "t1=c/t1.nii", "flair=d/dicom#1.2"], t1=["x.nii"] * 3)
    )
    assert manifest.paths == [
        "t1=/site/a/t1.nii;flair=/b/flair.nii",
        "t1=/site/c/t1.nii",
        "flair=/site/d/dicom#1.2",
    ]


def test_one_file_of_a_subject_that_exists_is_enough(tmp_path):
    frame = table(t1=["a/t1.nii", "b/t1.nii", "c/t1.nii"], t2=["a/t2.nii", None, None])
    with pytest.raises(MedfmError, match="none of its 3 files exists"):
        made(frame, tmp_path).check()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "t2.nii").write_bytes(b"x")
    made(frame, tmp_path).check()


def test_the_key_of_a_store_sees_every_file_of_a_subject_and_its_sidecars(tmp_path):
    first, second = tmp_path / "t1.nii.gz", tmp_path / "t2.nii.gz"
    for file in (first, second):
        file.write_bytes(b"1")
    address = f"t1={first};t2={second}"
    keys = [fingerprint([address])]
    os.utime(second, (1, 1))
    keys.append(fingerprint([address]))
    second.write_bytes(b"12")
    keys.append(fingerprint([address]))
    (tmp_path / "t2.json").write_text('{"Synthetic": true}')
    keys.append(fingerprint([address]))
    keys.append(fingerprint([f"t1={second};t2={first}"]))
    first.unlink()
    keys.append(fingerprint([address]))
    assert len(set(keys)) == len(keys) and fingerprint([address]) == keys[-1]
