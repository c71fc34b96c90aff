"""CT volumes in the catalogue, on small copies of the published layouts.

Places, table columns and encodings are those of TotalSegmentator 2.0.1, AMOS22, BTCV, FLARE22 and 23, AbdomenAtlas Mini, LUNA16,
LIDC-IDRI as TCIA's tool writes it, the Medical Segmentation Decathlon, CT-RATE 2 and FDG-PET-CT-Lesions. Files are empty: a
catalogue opens tables only.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from volume_trees import below, tree

from medfm.data import catalog
from medfm.data.label_rules import MaskRule
from medfm.modalities.ct import CT
from medfm.types import ConfigError, MedfmError


def classes(name: str) -> dict[int, str]:
    rule = catalog.load(name).labels
    assert isinstance(rule, MaskRule)
    return rule.classes


# Masks and splits
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


def test_decathlon_with_masks(liver: Path) -> None:
    made = catalog.manifest("msd-liver", liver)
    made.check()
    assert made.records == ["liver_0", "liver_10"] and not made.patients_known
    assert below(liver, made.paths) == [
        "Task03_Liver/imagesTr/liver_0.nii.gz",
        "Task03_Liver/imagesTr/liver_10.nii.gz",
    ]
    assert below(liver, made.frame["label"].tolist()) == [
        "Task03_Liver/labelsTr/liver_0.nii.gz", "Task03_Liver/labelsTr/liver_10.nii.gz",
    ]  # fmt: skip
    assert "split" not in made.frame, "all that has masks is training data, which is no split"


def test_decathlon_without_masks_keeps_the_test_part_apart(
    liver: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "medfm"):
        made, _, _ = catalog.resolve_source(f"msd-liver={liver / 'Task03_Liver'}", modality=CT())
    assert made.records == ["liver_0", "liver_10", "liver_132"] and "label" not in made.frame
    assert made.frame["split"].tolist() == ["train", "train", "test"] and "3 of 201 volumes" in caplog.text


def test_decathlon_unpacked_files(tmp_path: Path) -> None:
    tree(tmp_path, "imagesTr/colon_001.nii", "labelsTr/colon_001.nii", "imagesTr/colon_5.nii.gz")
    made = catalog.manifest("msd-colon", tmp_path)
    assert below(tmp_path, made.frame["label"].tolist()) == ["labelsTr/colon_001.nii"], (
        "colon_5 has no mask here"
    )
    assert catalog.load("msd-colon").label_sets() == {"masks": ["colon cancer primary"]}


def test_amos_is_ct_below_500(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for part, numbers in {"Tr": ("0001", "0499", "0500", "0507"), "Va": ("0013", "0544")}.items():
        tree(
            tmp_path,
            *(f"amos22/{kind}{part}/amos_{n}.nii.gz" for kind in ("images", "labels") for n in numbers),
        )
    tree(tmp_path, "amos22/imagesTs/amos_0002.nii.gz", "amos22/imagesTs/amos_0600.nii.gz")
    with caplog.at_level(logging.WARNING, "medfm"):
        made = catalog.manifest("amos22", tmp_path)
    assert "4 file(s) are no rows: numbers from 500 are MRI" in caplog.text
    assert made.records == ["amos_0001", "amos_0499", "amos_0013"] and made.frame["split"].tolist() == [
        "train",
        "train",
        "val",
    ]
    assert below(tmp_path, made.frame["label"].tolist())[2] == "amos22/labelsVa/amos_0013.nii.gz"
    whole = catalog.manifest("amos22", tmp_path, labels=None).frame
    assert whole["split"].tolist() == ["train", "train", "val", "test"]
    assert classes("amos22")[8] == "aorta"
    mri = tree(tmp_path / "mri", "imagesTr/amos_0507.nii.gz")
    with pytest.raises(MedfmError, match=r"is not amos22: numbers from 500 are MRI"):
        catalog.manifest("amos22", mri)


def test_btcv(tmp_path: Path) -> None:
    base = "Abdomen/RawData"
    tree(tmp_path, f"{base}/Training/img/img0001.nii.gz", f"{base}/Training/label/label0001.nii.gz")
    tree(tmp_path, f"{base}/Testing/img/img0061.nii.gz")
    frame = catalog.manifest("btcv", tmp_path).frame
    assert below(tmp_path, frame["label"].tolist()) == [f"{base}/Training/label/label0001.nii.gz"]
    assert catalog.manifest("btcv", tmp_path, labels=None).frame["split"].tolist() == ["train", "test"]


def test_flare(tmp_path: Path) -> None:
    base = "Training/FLARE22_LabeledCase50"
    tree(tmp_path, f"{base}/images/FLARE22_Tr_0001_0000.nii.gz", f"{base}/labels/FLARE22_Tr_0001.nii.gz")
    tree(
        tmp_path,
        "Training/FLARE22_UnlabeledCase1-1000/Case_00001_0000.nii.gz",
        "Validation/FLARETs_0001_0000.nii.gz",
    )
    frame = catalog.manifest("flare22", tmp_path).frame
    assert frame["record"].tolist() == ["FLARE22_Tr_0001"]
    assert below(tmp_path, frame["label"].tolist()) == [f"{base}/labels/FLARE22_Tr_0001.nii.gz"]
    whole = catalog.manifest("flare22", tmp_path, labels=None).frame
    assert dict(zip(whole["record"], whole["split"])) == {
        "FLARE22_Tr_0001": "train", "Case_00001": "train", "FLARETs_0001": "val",
    }  # fmt: skip
    tree(tmp_path, "23/imagesTr2200/FLARE23_0001_0000.nii.gz", "23/labelsTr2200/FLARE23_0001.nii.gz")
    tree(tmp_path, "23/unlabeledTr1800/FLARE23_2201.nii.gz", "24/unlabelTr1800/FLARE23_2202_0000.nii.gz")
    assert catalog.manifest("flare23", tmp_path).records == ["FLARE23_0001"]
    assert catalog.manifest("flare23", tmp_path, labels=None).records == [
        "FLARE23_0001",
        "FLARE23_2201",
        "FLARE23_2202",
    ]


def test_abdomenatlas(tmp_path: Path) -> None:
    tree(tmp_path, *(f"BDMAP_0000000{n}/{file}.nii.gz" for n in (1, 2) for file in ("ct", "combined_labels")))
    tree(tmp_path, "BDMAP_00000001/segmentations/liver.nii.gz")
    frame = catalog.manifest("abdomenatlas", tmp_path).frame
    assert frame["record"].tolist() == ["BDMAP_00000001", "BDMAP_00000002"]
    assert below(tmp_path, frame["label"].tolist())[1] == "BDMAP_00000002/combined_labels.nii.gz"


@pytest.fixture
def total(tmp_path: Path) -> Path:
    root = tmp_path / "Totalsegmentator_dataset_v201"
    tree(
        root,
        *(
            f"s{n:04d}/{file}.nii.gz"
            for n in (0, 1, 4)
            for file in ("ct", "segmentations/liver", "segmentations/spleen")
        ),
    )
    head = "image_id;age;gender;institute;study_type;split;manufacturer;scanner_model;kvp;pathology;pathology_location"
    rows = [
        "s0000;66.0;m;C;ct abdomen-pelvis;train;siemens;X;120.0;no;",
        "s0001;;f;A;ct thorax;val;siemens;X;120.0;no;",
        "s0004;50.0;f;A;ct thorax;test;siemens;X;120.0;no;",
    ]
    (root / "meta.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8-sig")
    return root


def test_totalsegmentator_for_pretraining(total: Path) -> None:
    made = catalog.manifest("totalsegmentator", total, labels=None)
    frame = made.frame
    assert made.records == ["s0000", "s0001", "s0004"] and frame["split"].tolist() == ["train", "val", "test"]
    np.testing.assert_array_equal(frame["age"], [66, np.nan, 50])
    assert frame["sex"].tolist() == ["M", "F", "F"] and frame["site"].tolist() == ["C", "A", "A"]
    assert catalog.manifest("totalsegmentator", total.parent, labels=None).records == made.records
    (total / "meta.csv").unlink()
    with pytest.raises(MedfmError, match=r"meta\.csv is missing"):
        catalog.manifest("totalsegmentator", total, labels=None)


def test_totalsegmentator_masks_are_one_file_that_the_user_makes(total: Path) -> None:
    with pytest.raises(MedfmError, match=r"no volume .* has its mask.*sXXXX/label\.nii\.gz.*--labels none"):
        catalog.manifest("totalsegmentator", total)
    tree(total, "s0000/label.nii.gz", "s0004/label.nii.gz")
    frame = catalog.manifest("totalsegmentator", total).frame
    assert frame["record"].tolist() == ["s0000", "s0004"] and frame["split"].tolist() == ["train", "test"]
    names = classes("totalsegmentator")
    assert (len(names), names[5], names[90], names[117]) == (
        117,
        "liver",
        "brain",
        "costal_cartilages",
    )


def test_autopet_takes_the_ct_and_refuses_pet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    studies = [
        "PETCT_0b57b247b6/05-02-2002-NA-PET-CT Ganzkoerper  primaer mit KM-42966",
        "PETCT_0b57b247b6/07-01-2003-NA-x-1",
    ]
    for study in [*studies, "PETCT_ff57b247b6/05-02-2002-NA-y-2"]:
        tree(
            tmp_path,
            *(f"FDG-PET-CT-Lesions/{study}/{file}.nii.gz" for file in ("CT", "CTres", "PET", "SUV", "SEG")),
        )
    with caplog.at_level(logging.WARNING, "medfm"):
        made = catalog.manifest("autopet", tmp_path)
    assert "6 file(s) are no rows: PET is not read" in caplog.text
    assert made.records[0] == studies[0] and len(made) == 3
    assert (
        made.patients == ["PETCT_0b57b247b6", "PETCT_0b57b247b6", "PETCT_ff57b247b6"] and made.patients_known
    )
    assert below(tmp_path, made.paths)[0].endswith("KM-42966/CTres.nii.gz")
    assert below(tmp_path, made.frame["label"].tolist())[0].endswith("KM-42966/SEG.nii.gz")
    only = tree(tmp_path / "pet", f"{studies[0]}/SUV.nii.gz")
    with pytest.raises(MedfmError, match=r"PET is not read, since medfm has no standardised uptake values"):
        catalog.manifest("autopet", only)


# Tables beside volumes
# ----------------------------------------------------------------------------------------------------------------------

UIDS = [f"1.3.6.1.4.1.14519.5.2.1.6279.6001.10{n}" for n in range(3)]


def test_luna16_nodules_folds_and_patients(tmp_path: Path) -> None:
    for n, uid in enumerate(UIDS):
        tree(tmp_path, f"subset{n}/{uid}.mhd", f"subset{n}/{uid}.raw")
    tree(tmp_path, f"seg-lungs-LUNA16/{UIDS[0]}.mhd")
    lines = [
        "seriesuid,coordX,coordY,coordZ,diameter_mm",
        f"{UIDS[1]},-128.7,-175.3,-298.4,5.65",
        f"{UIDS[1]},1,2,3,4.2",
    ]
    (tmp_path / "annotations.csv").write_text("\n".join(lines) + "\n")
    made = catalog.manifest("luna16", tmp_path)
    assert (
        made.records == UIDS
        and made.frame["nodule"].tolist() == [0, 1, 0]
        and made.frame["fold"].tolist() == ["0", "1", "2"]
    )
    assert not made.patients_known and made.paths[0].endswith(".mhd")
    header = "Series UID,Collection,3rd Party Analysis,Data Description URI,Subject ID,Study UID"
    rows = [f"{uid},LIDC-IDRI,NO,,LIDC-IDRI-0{n // 2:03d},1" for n, uid in enumerate(UIDS)]
    (tmp_path / "metadata.csv").write_text("\n".join([header, *rows]) + "\n")
    made = catalog.manifest("luna16", tmp_path)
    assert made.patients == ["LIDC-IDRI-0000", "LIDC-IDRI-0000", "LIDC-IDRI-0001"] and made.patients_known
    (tmp_path / "annotations.csv").unlink()
    assert len(catalog.manifest("luna16", tmp_path, labels=None)) == 3
    with pytest.raises(MedfmError, match=r"annotations\.csv is missing"):
        catalog.manifest("luna16", tmp_path)


def test_lidc_series_are_folders(tmp_path: Path) -> None:
    ct = "manifest-1600709154662/LIDC-IDRI/LIDC-IDRI-0001/01-01-2000-NA-NA-30178/3000566.000000-NA-03192"
    radiograph = (
        "manifest-1600709154662/LIDC-IDRI/LIDC-IDRI-0001/01-01-2000-NA-NA-35511/3000923.000000-NA-62357"
    )
    tree(tmp_path, *(f"{ct}/1-{n:03d}.dcm" for n in range(20)), *(f"{radiograph}/1-{n}.dcm" for n in (1, 2)))
    made = catalog.manifest("lidc-idri", tmp_path)
    assert below(tmp_path, made.paths) == [ct] and made.patients == ["LIDC-IDRI-0001"] and made.patients_known
    made.check()
    with pytest.raises(ConfigError, match="without labels"):
        catalog.manifest("lidc-idri", tmp_path, labels="nodule")


@pytest.fixture
def rate(tmp_path: Path) -> Path:
    names = ["train_1_a_1", "train_1_a_2", "train_1_b_1", "train_109_a_1", "valid_53_a_1"]
    for name in names:
        split, patient, scan, _ = name.split("_")
        folder = f"dataset/{split}_fixed/{split}_{patient}/{split}_{patient}_{scan}"
        tree(tmp_path, f"{folder}/{name}.nii.gz")
    tree(
        tmp_path,
        "dataset/ts_seg/ts_total/train_fixed/train_1_a_1.nii.gz.seg",
        "dataset/train/train_1/train_1_a/train_1_a_1.nii.gz",
    )
    columns = catalog.load("ct-rate").label_sets()["eighteen"]
    assert len(columns) == 18
    labels, meta = tmp_path / "dataset/multi_abnormality_labels", tmp_path / "dataset/metadata"
    labels.mkdir()
    meta.mkdir()
    for split in ("train", "valid"):
        rows = [
            (f"{n}.nii.gz", *(int(c == "Lung nodule" and n != "train_1_b_1") for c in columns))
            for n in names
            if split in n
        ]
        pd.DataFrame(rows, columns=["VolumeName", *columns]).to_csv(
            labels / f"{split}_predicted_labels.csv", index=False
        )
    (meta / "no_chest_train.txt").write_text("dataset/train/train_109/train_109_a/train_109_a_1.nii.gz\n")
    (meta / "no_chest_valid.txt").write_text("\n")
    return tmp_path


def test_ct_rate(rate: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "medfm"):
        made = catalog.manifest("ct-rate", rate)
    made.check()
    frame = made.frame
    assert made.records == ["train_1_a_1", "train_1_a_2", "train_1_b_1", "valid_53_a_1"]
    assert made.patients == ["train_1", "train_1", "train_1", "valid_53"] and made.patients_known
    assert frame["split"].tolist() == ["train", "train", "train", "val"]
    assert frame["scan"].tolist() == ["train_1_a", "train_1_a", "train_1_b", "valid_53_a"]
    assert frame["Lung nodule"].tolist() == [1, 1, 0, 1] and frame["Cardiomegaly"].tolist() == [0] * 4
    assert "1 volumes are left out, as no_chest_train.txt and no_chest_valid.txt says" in caplog.text
    assert "state neither spacing nor HU" in caplog.text
    assert catalog.manifest("ct-rate", rate / "dataset").records == made.records
    assert "Lung nodule" not in catalog.manifest("ct-rate", rate, labels=None).frame


def test_ct_rate_without_its_tables(rate: Path, caplog: pytest.LogCaptureFixture) -> None:
    alone = rate / "dataset/valid_fixed"
    with caplog.at_level(logging.WARNING, "medfm"), pytest.raises(MedfmError, match="is not ct-rate"):
        catalog.manifest("ct-rate", alone)
    for file in (rate / "dataset/metadata").iterdir():
        file.unlink()
    with caplog.at_level(logging.WARNING, "medfm"):
        assert len(catalog.manifest("ct-rate", rate, labels=None)) == 5
    assert "none of its lists of volumes to leave out" in caplog.text
    for file in (rate / "dataset/multi_abnormality_labels").iterdir():
        file.unlink()
    with pytest.raises(MedfmError, match="predicted_labels"):
        catalog.manifest("ct-rate", rate)


def test_the_first_release_of_ct_rate_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "dataset/train/train_1/train_1_a/train_1_a_1.nii.gz")
    with pytest.raises(MedfmError, match="download train_fixed and valid_fixed"):
        catalog.manifest("ct-rate", tmp_path)
