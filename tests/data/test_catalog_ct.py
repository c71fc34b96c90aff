"""CT sets of the catalogue: what every YAML must hold, unions and overlaps, size, commands, and masks in a table."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path

import pandas as pd
import pytest
from volume_trees import below, tree

from medfm.cli.main import main
from medfm.data import catalog
from medfm.data.dataset import Dataset, UnionRows, VolumeRows
from medfm.data.label_rules import MaskRule
from medfm.data.manifest import Manifest
from medfm.modalities.ct import CT
from medfm.types import ConfigError, MedfmError

CT_SETS = [name for name in catalog.names() if catalog.load(name).modality == "ct"]


# Every YAML
# ----------------------------------------------------------------------------------------------------------------------


def test_the_ct_sets_are_there() -> None:
    msd = {f"msd-{organ}" for organ in ("liver", "lung", "pancreas", "hepatic-vessel", "spleen", "colon")}
    others = {
        "totalsegmentator",
        "amos22",
        "btcv",
        "flare22",
        "flare23",
        "abdomenatlas",
        "luna16",
        "lidc-idri",
    }
    assert set(CT_SETS) == msd | others | {"ct-rate", "autopet", "prect-160k"}


@pytest.mark.parametrize("name", CT_SETS)
def test_every_yaml_of_volumes(name: str) -> None:
    dataset = catalog.load(name)
    assert dataset.units == "HU" and dataset.files and (dataset.doi or dataset.url)
    for other in catalog.overlaps(name):
        assert other in CT_SETS and name in catalog.overlaps(other), "an overlap is told from both sides"
    if isinstance(dataset.labels, MaskRule):
        numbers = list(dataset.labels.classes)
        assert numbers == list(range(1, len(numbers) + 1)) and len(
            set(dataset.labels.classes.values())
        ) == len(numbers)
    if isinstance(dataset.rows, VolumeRows):
        for part in dataset.rows.parts:
            groups = set(re.compile(part.path).groupindex)
            assert "record" in groups and re.compile(part.path).groups == len(groups)
        assert dataset.expected.records


def test_masks_need_a_place() -> None:
    facts = catalog.load("btcv").model_dump(by_alias=True)
    with pytest.raises(ValueError, match=r"rows\.mask"):
        Dataset.model_validate({**facts, "rows": {**facts["rows"], "mask": None}})
    with pytest.raises(ValueError, match=r"rows\.mask"):
        Dataset.model_validate({**facts, "labels": None})


@pytest.mark.parametrize("name", [n for n in CT_SETS if n != "prect-160k"])
def test_another_folder_is_refused_with_the_layout(name: str, tmp_path: Path) -> None:
    tree(tmp_path, "scans/a.nii.gz", "meta.csv")
    with pytest.raises(MedfmError, match=f"is not {name}: no volume lies at .*obtained"):
        catalog.manifest(name, tmp_path)


# Copies, unions, size
# ----------------------------------------------------------------------------------------------------------------------


def test_a_second_copy_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path, "a/s0001/ct.nii.gz", "b/s0001/ct.nii.gz")
    (tmp_path / "meta.csv").write_text(
        "image_id;age;gender;institute;study_type;split\ns0001;1;m;A;x;train\n"
    )
    with caplog.at_level(logging.WARNING, "medfm"):
        made = catalog.manifest("totalsegmentator", tmp_path, labels=None)
    assert below(tmp_path, made.paths) == ["a/s0001/ct.nii.gz"]
    assert "1 volume(s) lie there twice, for instance a/s0001/ct.nii.gz and b/s0001/ct.nii.gz" in caplog.text


def test_a_union_names_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = catalog.load("prect-160k").rows
    assert isinstance(rows, UnionRows) and {"btcv", "amos22", "totalsegmentator", "luna16", "ct-rate"} <= set(
        rows.catalogued()
    )
    for word in (f"prect-160k={tmp_path}", "prect-160k"):
        with pytest.raises(ConfigError, match=r"union of 26 data sets.*--data btcv=/path"):
            catalog.resolve_source(word, modality=CT())
    assert main(["data", "table", f"prect-160k={tmp_path}"]) == 2
    capsys.readouterr()
    assert main(["data", "datasets", "prect-160k"]) == 0
    said = capsys.readouterr().out
    assert "part      CT-RATE, training part: 47,149 volumes (ct-rate)" in said and "part      WORD\n" in said


def test_what_a_corpus_shares_with_a_test_set() -> None:
    assert catalog.in_common(["prect-160k"], ["totalsegmentator"]) == [
        "prect-160k and totalsegmentator overlap: prect-160k holds 1,203 volumes of TotalSegmentator."
    ]
    assert "holds BTCV" in catalog.in_common(["btcv"], ["prect-160k"])[0]
    assert len(catalog.in_common(["luna16"], ["lidc-idri"])) == 1
    assert catalog.in_common(["totalsegmentator"], ["ct-rate", "autopet"]) == []


def test_a_hundred_thousand_volumes_take_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The listing of folders apart, which is the disk's: places, masks, copies and patients."""
    from medfm.data import volume_rows

    folders = [
        (f"{tmp_path.resolve()}/PETCT_{n // 2:06x}/study{n}", ["CTres.nii.gz", "SEG.nii.gz"])
        for n in range(100_000)
    ]
    monkeypatch.setattr(volume_rows, "walk", lambda root: iter(folders))
    began = time.process_time()
    made = catalog.manifest("autopet", tmp_path)
    assert time.process_time() - began < 10
    assert len(made) == 100_000 and len(set(made.patients)) == 50_000


# Tables of the user
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def liver(tmp_path: Path) -> Path:
    base = "Task03_Liver"
    tree(tmp_path, *(f"{base}/{part}/liver_{n}.nii.gz" for part in ("imagesTr", "labelsTr") for n in (0, 10)))
    # The published archives hold a hidden file beside each file.
    return tree(
        tmp_path,
        f"{base}/imagesTs/liver_132.nii.gz",
        f"{base}/imagesTr/._liver_0.nii.gz",
        f"{base}/dataset.json",
    )


def test_a_table_with_masks_can_be_used_elsewhere(
    liver: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(liver)
    assert main(["data", "table", "msd-liver=Task03_Liver", "--output", "t.csv"]) == 0
    said = capsys.readouterr().out
    assert "t.csv: 2 records, patients not known" in said
    assert "medfm finetune t.csv --backbone REF --target label --patient none" in said
    frame = pd.read_csv("t.csv")
    assert frame["label"].tolist() == [
        "Task03_Liver/labelsTr/liver_0.nii.gz",
        "Task03_Liver/labelsTr/liver_10.nii.gz",
    ]
    monkeypatch.chdir("/")
    made = Manifest.from_table(liver / "t.csv", patient=None)
    assert [Path(p).is_file() for p in made.frame["label"]] == [True, True]
    assert (
        main(
            [
                "data",
                "table",
                f"msd-liver={liver}",
                "--labels",
                "none",
                "--output",
                str(liver / "u.csv"),
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["records"] == 3 and "label" not in pd.read_csv(liver / "u.csv")


def test_classes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "datasets", "btcv"]) == 0
    said = capsys.readouterr().out
    assert "masks (13): spleen" in said and "numbers in the mask: 1 spleen, 2 right kidney" in said
    assert "layout    RawData/Training/img" in said
    assert main(["data", "datasets", "btcv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"]["6"] == "liver"


def test_the_label_column_of_a_table(tmp_path: Path) -> None:
    paths, root = ["a.nii.gz", "b.nii.gz"], tmp_path / "x"

    def labels(*values: object) -> list[object]:
        frame = pd.DataFrame({"path": paths, "label": list(values)})
        return Manifest.from_frame(frame, root=root, patient=None).frame["label"].tolist()

    assert labels("m/a.nii.gz", str(tmp_path / "b.mhd")) == [
        str(root / "m/a.nii.gz"),
        str(tmp_path / "b.mhd"),
    ]
    mask, blank = labels("a.nii.gz", None)
    assert mask == str(root / "a.nii.gz") and pd.isna(blank)
    assert labels("benign", "malignant") == ["benign", "malignant"] and labels(0, 1) == [0, 1]
    assert labels("see a.nii.gz", "v1.2") == ["see a.nii.gz", "v1.2"], "not all are names of volume files"
    alone = pd.DataFrame({"path": paths, "label": paths})
    assert Manifest.from_frame(alone, patient=None).frame["label"].tolist() == paths
