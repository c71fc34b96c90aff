"""NIH ChestX-ray14 and the RSNA challenge that took its pictures from it, on small copies of their published layouts.

File names, columns and encodings are those of the NIH's download (README_CHESTXRAY) and of the challenge's stage 2; every
value is read off by hand.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from xray_files import NAN, dicom, lines, picture, readable, same

from medfm.data import catalog
from medfm.data.picture_rows import picture_places
from medfm.modalities.xray import Xray
from medfm.types import ConfigError, MedfmError


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    lines(
        tmp_path / "Data_Entry_2017_v2020.csv",
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],",
        "00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.143,0.143,",
        "00000001_001.png,Cardiomegaly|Emphysema,1,1,58,M,PA,2894,2729,0.143,0.143,",
        "00000002_000.png,No Finding,0,2,80,F,AP,2500,2048,0.171,0.171,",
        "00000003_001.png,Hernia,0,3,74,F,PA,2500,2048,0.168,0.168,",
    )
    for place in (
        "images_001/images/00000001_000",
        "images_001/images/00000001_001",
        "images_002/images/00000002_000",
    ):
        picture(tmp_path / f"{place}.png")
    lines(tmp_path / "train_val_list.txt", "00000001_000.png", "00000001_001.png")
    lines(tmp_path / "test_list.txt", "00000002_000.png", "00000003_001.png")
    return tmp_path


def test_nih_patients_lists_and_words(nih: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "medfm"):
        made = catalog.manifest("nih-chestxray14", nih)
    made.check()
    assert readable(made)
    frame = made.frame
    assert "1 of 4 pictures do not lie below" in caplog.text
    assert made.records == ["00000001_000", "00000001_001", "00000002_000"]
    assert [Path(p).relative_to(nih.resolve()).as_posix() for p in made.paths][
        2
    ] == "images_002/images/00000002_000.png"
    assert made.patients == ["1", "1", "2"] and made.patients_known
    assert frame["split"].tolist() == ["train", "train", "test"]
    same(frame, ["Cardiomegaly", "Emphysema", "Hernia"], [[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    assert frame["view"].tolist() == ["PA", "PA", "AP"] and frame["sex"].tolist() == ["M", "M", "F"]
    assert (
        frame["age"].tolist() == [57, 58, 80]
        and len(catalog.load("nih-chestxray14").label_sets()["fourteen"]) == 14
    )
    assert catalog.manifest("nih-chestxray14", nih, labels="no-finding").frame["No Finding"].tolist() == [
        0,
        0,
        1,
    ]


def test_nih_older_table(nih: Path) -> None:
    """Ages of 2017 have a unit; a patient of 11 months is not 11 years old. The column of sexes has two names. Rows may end
    with a comma that the header lacks."""
    new = (nih / "Data_Entry_2017_v2020.csv").read_text()
    old = new.replace(",57,M", ",057Y,M").replace(",58,M", ",011M,M").replace("Patient Gender", "Patient Sex")
    old = old.replace("[x,y],", "[x,y]", 1)
    (nih / "Data_Entry_2017_v2020.csv").unlink()
    (nih / "Data_Entry_2017.csv").write_text(old)
    frame = catalog.manifest("nih-chestxray14", nih).frame
    np.testing.assert_array_equal(frame["age"], [57, NAN, 80])
    assert frame["sex"].tolist() == ["M", "M", "F"]


def test_nih_without_its_lists_says_so(nih: Path, caplog: pytest.LogCaptureFixture) -> None:
    (nih / "test_list.txt").unlink()
    with caplog.at_level(logging.WARNING, "medfm"):
        frame = catalog.manifest("nih-chestxray14", nih).frame
    assert "split" not in frame and "test_list.txt is missing" in caplog.text


def test_nih_as_a_word(nih: Path) -> None:
    made, weight, name = catalog.resolve_source(f"nih-chestxray14={nih}@0.5", modality=Xray())
    assert (len(made), weight, name) == (3, 0.5, "nih-chestxray14")


def test_a_picture_that_lies_twice(nih: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(nih / "resized" / "00000001_000.png")
    with caplog.at_level(logging.WARNING, "medfm"):
        made = catalog.manifest("nih-chestxray14", nih)
    assert made.paths[0].endswith("images_001/images/00000001_000.png")
    assert "1 picture(s) lie there twice" in caplog.text


def test_another_folder_or_an_empty_one(nih: Path, tmp_path: Path) -> None:
    with pytest.raises(MedfmError, match=r"Data_Entry_2017_v2020\.csv is missing.*nihcc\.app\.box\.com"):
        catalog.manifest("nih-chestxray14", nih / "images_001")
    for file in nih.rglob("*.png"):
        file.unlink()
    with pytest.raises(MedfmError, match="none of the 4 pictures"):
        catalog.manifest("nih-chestxray14", nih)
    with pytest.raises(ConfigError, match="no frontal and lateral"):
        catalog.manifest("nih-chestxray14", nih, views="frontal")
    table = nih / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace("Patient ID", "Case"))
    with pytest.raises(MedfmError, match="no column Patient ID; is this another version"):
        catalog.manifest("nih-chestxray14", nih)


@pytest.fixture
def rsna(tmp_path: Path) -> Path:
    lines(
        tmp_path / "stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target",
        "0004cfab-14fd,,,,,0",
        "00436515-870c,264.0,152.0,213.0,379.0,1",
        "00436515-870c,562.0,152.0,256.0,453.0,1",
        "00704310-78a8,,,,,0",
    )
    lines(
        tmp_path / "stage_2_detailed_class_info.csv",
        "patientId,class",
        "0004cfab-14fd,No Lung Opacity / Not Normal",
        "00436515-870c,Lung Opacity",
        "00436515-870c,Lung Opacity",
        "00704310-78a8,Normal",
    )
    for name in ("0004cfab-14fd", "00436515-870c", "00704310-78a8"):
        dicom(tmp_path / "stage_2_train_images" / f"{name}.dcm")
    dicom(tmp_path / "stage_2_test_images" / "0000a175-0e68.dcm")
    return tmp_path


def test_rsna_boxes_and_classes(rsna: Path) -> None:
    made = catalog.manifest("rsna-pneumonia", rsna)
    made.check()
    assert readable(made)
    assert made.records == ["0004cfab-14fd", "00436515-870c", "00704310-78a8"] and not made.patients_known
    assert made.frame["Lung Opacity"].tolist() == [0, 1, 0] and "split" not in made.frame
    classes = catalog.manifest("rsna-pneumonia", rsna, labels="classes").frame
    same(classes, ["Lung Opacity", "Not Normal", "Normal"], [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    info = rsna / "stage_2_detailed_class_info.csv"
    info.write_text(info.read_text().replace("00704310-78a8,Normal\n", ""))
    unknown = catalog.manifest("rsna-pneumonia", rsna, labels="classes").frame
    same(unknown.iloc[2:], ["Lung Opacity", "Not Normal", "Normal"], [[NAN] * 3])


def test_rsna_patients_are_the_nihs(rsna: Path, nih: Path) -> None:
    """RSNA's mapping gives the patients, under the same numbers as the NIH's table."""
    mapping = [
        {
            "SOPInstanceUID": "1.2",
            "img_id": "00000002_000.png",
            "subset_img_id": "0004cfab-14fd",
            "orig_labels": [],
        },
        {
            "SOPInstanceUID": "1.3",
            "img_id": "00000001_001.png",
            "subset_img_id": "00436515-870c",
            "orig_labels": [],
        },
        {
            "SOPInstanceUID": "1.4",
            "img_id": "00000001_000.png",
            "subset_img_id": "00704310-78a8",
            "orig_labels": [],
        },
    ]
    (rsna / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(mapping))
    made = catalog.manifest("rsna-pneumonia", rsna)
    assert made.patients == ["2", "1", "1"] and made.patients_known
    assert made.frame["nih_image"].tolist() == ["00000002_000.png", "00000001_001.png", "00000001_000.png"]
    assert set(made.patients) == set(catalog.manifest("nih-chestxray14", nih).patients)


def test_overlaps_are_known_from_either_side() -> None:
    assert set(catalog.overlaps("rsna-pneumonia")) == {"nih-chestxray14"}
    assert set(catalog.overlaps("NIH-ChestXray14")) == {"rsna-pneumonia"} and not catalog.overlaps("chexpert")
    said = catalog.in_common(["nih-chestxray14", "synthetic-xray"], ["rsna-pneumonia", "padchest"])
    assert len(said) == 1 and said[0].startswith("nih-chestxray14 and rsna-pneumonia overlap: ")
    assert catalog.in_common(["chexpert"], ["CheXpert"]) == ["chexpert is in both."]
    assert not catalog.in_common(["site"], ["site"])


@pytest.mark.parametrize("name", catalog.names())
def test_overlaps_name_known_sets(name: str) -> None:
    assert set(catalog.overlaps(name)) <= set(catalog.names()) - {name}


def test_places_follow_a_link_once(tmp_path: Path) -> None:
    real = picture(tmp_path / "store" / "p1" / "x.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "images").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "store" / "back").symlink_to(root, target_is_directory=True)
    picture(root / "images" / ".hidden" / "y.png")
    lines(root / "notes.txt", "no picture")
    places, twins = picture_places(root, depth=2)
    assert places == {"p1/x": str(root.resolve() / "images" / "p1" / "x.png")} and not twins
    assert real.samefile(places["p1/x"])
