"""CheXpert and MIMIC-CXR-JPG, which share fourteen findings and their uncertainty, on small copies of their published layouts.

File names, columns and encodings are those of CheXpert v1.0 (small and full) and MIMIC-CXR-JPG 2.1.0; every value is read off
by hand.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from xray_files import NAN, lines, picture, readable, same

from medfm.data import catalog
from medfm.modalities.xray import Xray
from medfm.types import ConfigError, MedfmError

CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
    "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
FIVE = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]


def chexpert_tables(folder: Path, base: str) -> None:
    """Four training pictures of two patients, of whom one has two studies with the same names, and one to validate."""
    lines(
        folder / "train.csv",
        CHEXPERT,
        # No Finding, everything else unmentioned but a pneumothorax denied
        f"{base}/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
        # uncertain: edema, consolidation, atelectasis; present: effusion; absent: cardiomegaly
        f"{base}/train/patient00002/study1/view1_frontal.jpg,Male,61,Frontal,PA,,,0.0,,,-1.0,-1.0,,-1.0,,1.0,,,",
        f"{base}/train/patient00002/study1/view2_lateral.jpg,Male,61,Lateral,,,,0.0,,,-1.0,-1.0,,-1.0,,1.0,,,",
        # nobody said anything
        f"{base}/train/patient00002/study2/view1_frontal.jpg,Unknown,62,Frontal,AP,,,,,,,,,,,,,,",
    )
    lines(
        folder / "valid.csv",
        CHEXPERT,
        f"{base}/valid/patient64541/study1/view1_frontal.jpg,Female,73,Frontal,AP,"
        "0.0,1.0,1.0,1.0,0.0,0.0,0.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0",
    )


def chexpert_pictures(train: Path, valid: Path) -> None:
    for name in ("patient00001/study1/view1_frontal", "patient00002/study1/view1_frontal",
                 "patient00002/study1/view2_lateral", "patient00002/study2/view1_frontal"):  # fmt: skip
        picture(train / f"{name}.jpg")
    picture(valid / "patient64541/study1/view1_frontal.jpg")


@pytest.fixture
def chexpert(tmp_path: Path) -> Path:
    root = tmp_path / "CheXpert-v1.0-small"
    chexpert_tables(root, "CheXpert-v1.0-small")
    chexpert_pictures(root / "train", root / "valid")
    return root


def test_chexpert_default_set(chexpert: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "medfm"):
        made = catalog.manifest("chexpert", chexpert)
    made.check()
    assert readable(made)
    frame = made.frame
    assert "1 of 5 pictures are not frontal and are left out" in caplog.text
    assert (
        made.patients == ["patient00001", "patient00002", "patient00002", "patient64541"]
        and made.patients_known
    )
    assert frame["split"].tolist() == ["train", "train", "train", "val"]
    assert frame["view"].tolist() == ["AP", "PA", "AP", "AP"]
    assert frame["sex"].fillna("not known").tolist() == ["F", "M", "not known", "F"]
    assert frame["age"].tolist() == [68, 61, 62, 73]
    assert made.paths[2].endswith("train/patient00002/study2/view1_frontal.jpg")
    # Unmentioned is absent, uncertain unknown; where all fourteen are blank nothing is known.
    same(frame, FIVE, [[0, 0, 0, 0, 0], [NAN, 0, NAN, NAN, 1], [NAN] * 5, [1, 1, 0, 0, 0]])


def test_chexpert_other_sets(chexpert: Path) -> None:
    ones = catalog.manifest("chexpert", chexpert, labels="five-ones-zeros").frame
    # U-Ones for atelectasis and edema, U-Zeros for consolidation.
    same(ones, FIVE, [[0, 0, 0, 0, 0], [1, 0, 0, 1, 1], [NAN] * 5, [1, 1, 0, 0, 0]])
    mentioned = catalog.manifest("chexpert", chexpert, labels="five-mentioned").frame
    same(mentioned, FIVE, [[NAN] * 5, [NAN, 0, NAN, NAN, 1], [NAN] * 5, [1, 1, 0, 0, 0]])
    fourteen = catalog.manifest("chexpert", chexpert, labels="fourteen").frame
    same(
        fourteen,
        ["No Finding", "Pneumothorax", "Support Devices"],
        [[1, 0, 1], [0, 0, 0], [NAN] * 3, [0, 0, 0]],
    )


def test_chexpert_views(chexpert: Path) -> None:
    lateral = catalog.manifest("chexpert", chexpert, views="lateral")
    assert [r.rsplit("/")[-1] for r in lateral.records] == ["view2_lateral"] and lateral.frame[
        "view"
    ].tolist() == ["Lateral"]
    assert len(catalog.manifest("chexpert", chexpert, views="all", labels=None)) == 5
    with pytest.raises(ConfigError, match="frontal, lateral, all"):
        catalog.manifest("chexpert", chexpert, views="oblique")


def test_chexpert_full_download_in_batches(tmp_path: Path) -> None:
    """The full set comes in four folders that its own paths do not name."""
    first = tmp_path / "CheXpert-v1.0 batch 1 (validate & csv)"
    chexpert_tables(first, "CheXpert-v1.0")
    chexpert_pictures(tmp_path / "CheXpert-v1.0 batch 2 (train 1)", first / "valid")
    made = catalog.manifest("chexpert", tmp_path)
    assert made.paths[0].endswith("(train 1)/patient00001/study1/view1_frontal.jpg") and len(made) == 4
    assert made.frame["split"].tolist() == ["train", "train", "train", "val"]


def test_chexpert_test_set_where_it_lies(chexpert: Path) -> None:
    picture(chexpert / "test/patient64741/study1/view1_frontal.jpg")
    lines(
        chexpert / "test_labels.csv",
        ",".join(["Path", *CHEXPERT.split(",")[5:]]),
        "test/patient64741/study1/view1_frontal.jpg,0.0,1.0,0.0,1.0,0.0,0.0,0.0,0.0,1.0,0.0,0.0,0.0,0.0,1.0",
    )
    frame = catalog.manifest("chexpert", chexpert).frame
    assert frame["split"].tolist()[-1] == "test" and frame["patient"].tolist()[-1] == "patient64741"
    same(frame.iloc[-1:], FIVE, [[1, 0, 0, 0, 0]])


def test_a_finding_that_is_no_finding(chexpert: Path) -> None:
    text = (chexpert / "valid.csv").read_text()
    (chexpert / "valid.csv").write_text(text.replace("0.0,1.0,1.0,1.0", "0.0,1.0,7,1.0"))
    with pytest.raises(MedfmError, match="column Cardiomegaly holds 7"):
        catalog.manifest("chexpert", chexpert)


FOURTEEN = [
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
]  # fmt: skip


@pytest.fixture(params=["", ".gz"])
def mimic(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Four studies of three patients: one with a lateral view, one that no labeller has a row for."""
    rows = [
        ("02aa804e-bde0afdd", 50414267, 10000032, "train", "PA"),
        ("174413ec-4ec4c1f7", 50414267, 10000032, "train", "LATERAL"),
        ("2a2277a9-b0ded155", 53189527, 10000032, "train", "AP"),
        ("e084de3b-be89b11e", 53911762, 10000764, "validate", ""),
        ("68b5c4b1-227d0485", 56699142, 10000935, "test", "PA"),
    ]
    lines(
        tmp_path / f"mimic-cxr-2.0.0-split.csv{request.param}",
        "dicom_id,study_id,subject_id,split",
        *(f"{d},{study},{subject},{part}" for d, study, subject, part, _ in rows),
    )
    lines(
        tmp_path / f"mimic-cxr-2.0.0-metadata.csv{request.param}",
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
        "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning",
        *(f"{d},{subject},{study},CHEST (PA AND LAT),{view},10,12,21800506,213014.531,,,Erect"
          for d, study, subject, _, view in reversed(rows)),
    )  # fmt: skip
    names = ["subject_id", "study_id", *FOURTEEN]
    labels = tmp_path / f"mimic-cxr-2.0.0-chexpert.csv{request.param}"
    effusion = ["", "0.0", "", "", "", "", "", "1.0", "", "-1.0", "", "", "0.0", ""]
    nothing = [""] * 8 + ["1.0"] + [""] * 5
    lines(
        labels,
        ",".join(names),
        ",".join(["10000032", "50414267", *effusion]),
        ",".join(["10000935", "56699142", *nothing]),
    )
    lines(
        tmp_path / f"mimic-cxr-2.0.0-negbio.csv{request.param}",
        ",".join(names),
        ",".join(["10000032", "50414267", *["1.0"] * 14]),
    )
    for d, study, subject, *_ in rows:
        picture(tmp_path / "files" / f"p{str(subject)[:2]}" / f"p{subject}" / f"s{study}" / f"{d}.jpg")
    return tmp_path


def test_mimic_joins(mimic: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "medfm"):
        made = catalog.manifest("mimic-cxr-jpg", mimic)
    made.check()
    assert readable(made)
    frame = made.frame
    assert "2 of 5 pictures are not frontal (1 state no view)" in caplog.text
    assert made.records == ["02aa804e-bde0afdd", "2a2277a9-b0ded155", "68b5c4b1-227d0485"]
    assert made.patients == ["10000032", "10000032", "10000935"] and frame["split"].tolist() == [
        "train",
        "train",
        "test",
    ]
    assert frame["view"].tolist() == ["PA", "AP", "PA"] and frame["study"].tolist() == [
        "50414267",
        "53189527",
        "56699142",
    ]
    # The second study has no row of labels: unknown, although a blank in a row means absent.
    same(frame, FIVE, [[0, 0, 0, 0, NAN], [NAN] * 5, [0, 0, 0, 0, 0]])
    assert made.paths[0].endswith("files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg")


def test_mimic_other_labellers(mimic: Path) -> None:
    negbio = catalog.manifest("mimic-cxr-jpg", mimic, labels="fourteen-negbio", views="all").frame
    assert negbio["Fracture"].tolist()[:2] == [1, 1] and negbio["Fracture"].isna().tolist()[2:] == [True] * 3
    assert negbio["split"].tolist() == ["train", "train", "train", "val", "test"]
    with pytest.raises(MedfmError, match=r"mimic-cxr-2\.1\.0-test-set-labeled\.csv is missing"):
        catalog.manifest("mimic-cxr-jpg", mimic, labels="radiologist")
    names = [n if n != "Lung Opacity" else "Airspace Opacity" for n in FOURTEEN]
    lines(
        mimic / "mimic-cxr-2.1.0-test-set-labeled.csv",
        ",".join(["study_id", *names]),
        "56699142" + "," * 7 + ",1.0" + "," * 6,
    )
    read = catalog.manifest("mimic-cxr-jpg", mimic, labels="radiologist").frame
    # Nothing but No Finding is filled in, and still the reader has read it.
    same(read, ["Lung Opacity", "Edema"], [[NAN, NAN], [NAN, NAN], [1, 0]])


def test_mimic_without_labels_needs_no_label_table(mimic: Path) -> None:
    for file in [*mimic.glob("*chexpert*"), *mimic.glob("*negbio*")]:
        file.unlink()
    assert len(catalog.resolve_source(f"mimic-cxr-jpg={mimic}", modality=Xray())[0]) == 3
    with pytest.raises(MedfmError, match=r"mimic-cxr-2\.0\.0-chexpert\.csv is missing"):
        catalog.manifest("mimic-cxr-jpg", mimic)
