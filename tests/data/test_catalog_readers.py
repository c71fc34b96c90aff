"""PadChest's lists of words and VinDr-CXR's panels of readers, on small copies of their published layouts.

File names, columns and encodings are those of PadChest 160K and VinDr-CXR 1.0.0; every value is read off by hand.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from xray_files import NAN, dicom, lines, picture, readable, same

from medfm.data import catalog
from medfm.formats import pictures
from medfm.types import MedfmError


@pytest.fixture
def padchest(tmp_path: Path) -> Path:
    names = ["ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
             "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Manufacturer_DICOM", "Report",
             "MethodLabel", "Labels"]  # fmt: skip
    long = "8398604886942923316379882356816609"
    rows = [
        ("a_1.png", 0, 20140915, 1, f"{long}87", 1930.0, "F", "", "PA", "", "No", "ImagingDynamics", "sin hallazgo .", "Physician", "['normal']"),
        ("a_2.png", 0, 20140915, 1, f"{long}87", 1930.0, "F", "", "L", "", "No", "ImagingDynamics", "sin hallazgo .", "Physician", "['normal']"),
        ("b_1.png", 3, 20150102, 2, f"{long}88", 1951.0, "M", "", "AP_horizontal", "", "No", "Philips", "derrame, izq", "RNN_model",
         "['loculated pleural effusion', 'pacemaker']"),
        ("c_1.png", 54, 20160102, 3, f"{long}89", "", "M", "", "PA", "", "No", "Philips", "sin cambi .", "RNN_model", "['unchanged', 'cardiomegaly']"),
        ("d_1.png", 54, 20160102, 4, f"{long}90", 1980.0, "", "", "PA", "", "No", "Philips", "", "RNN_model", ""),
        ("e_1.png", 54, 20160102, 5, f"{long}91", 1980.0, "M", "", "COSTAL", "", "No", "Philips", "", "RNN_model", "[]"),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=names)
    # The published table opens with an unnamed column of row numbers.
    table.to_csv(tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv")
    for name, folder in zip(table["ImageID"], table["ImageDir"]):
        picture(tmp_path / str(folder) / name, bits=16)
    return tmp_path


def test_padchest_lists_of_words(padchest: Path) -> None:
    made = catalog.manifest("padchest", padchest)
    made.check()
    assert readable(made)
    frame = made.frame
    assert made.records == ["a_1", "b_1", "c_1", "d_1"]
    # Ids of 36 digits stay whole: as numbers these four would be one.
    assert made.patients[1] == "839860488694292331637988235681660988" and len(set(made.patients)) == 4
    np.testing.assert_array_equal(frame["age"], [84, 64, NAN, 36])
    assert frame["device"].tolist()[:2] == ["ImagingDynamics", "Philips"] and "split" not in frame
    assert frame["label_method"].tolist() == ["Physician", "RNN_model", "RNN_model", "RNN_model"]
    # A loculated effusion is an effusion. "unchanged" leaves what is not listed unknown; no list, nothing known.
    same(
        frame,
        ["normal", "pleural effusion", "cardiomegaly"],
        [[1, 0, 0], [0, 1, 0], [NAN, NAN, 1], [NAN, NAN, NAN]],
    )
    assert catalog.manifest("padchest", padchest, labels="diagnoses").frame["pneumonia"].tolist()[:2] == [
        0,
        0,
    ]


def test_padchest_gzipped_and_all_views(padchest: Path) -> None:
    plain = padchest / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    plain.with_name(f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    frame = catalog.manifest("padchest", padchest, views="all").frame
    assert frame["view"].tolist() == ["PA", "L", "AP_horizontal", "PA", "PA", "COSTAL"]
    assert frame["normal"].isna().tolist() == [False, False, False, True, True, True]


def test_padchest_text_that_is_no_list(padchest: Path) -> None:
    table = padchest / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    table.write_text(table.read_text().replace("['normal']", "__import__('os')"))
    with pytest.raises(MedfmError, match="no list of words"):
        catalog.manifest("padchest", padchest)


def test_padchest_sixteen_bits_are_read(padchest: Path) -> None:
    image = pictures.read(catalog.manifest("padchest", padchest).paths[0])
    assert image.bits == 16 and image.x.max() > 255


@pytest.fixture
def vindr(tmp_path: Path) -> Path:
    local = catalog.load("vindr-cxr").label_sets()["findings"]
    names = [*local, "COPD", "Lung tumor", "Pneumonia", "Tuberculosis"]

    def row(ident: str, reader: list[str], *found: str) -> str:
        values = ["1" if name in found else "0" for name in names]
        return ",".join([ident, *reader, *values, "0", str(int(not found))])

    lines(
        tmp_path / "annotations" / "image_labels_train.csv",
        ",".join(["image_id", "rad_id", *names, "Other diseases", "No finding"]),
        row("0017", ["R9"], "Cardiomegaly"),
        row("0005", ["R10"]),
        row("0017", ["R8"], "Cardiomegaly", "Edema", "Pneumonia"),
        row("0005", ["R9"], "Edema"),
        row("0017", ["R10"], "Pneumonia"),
        row("0005", ["R8"]),
    )
    lines(
        tmp_path / "annotations" / "image_labels_test.csv",
        ",".join(["image_id", *names, "Other disease", "No finding"]),
        row("7a3c", [], "Edema"),
    )
    for place in ("train/0017", "train/0005", "test/7a3c"):
        dicom(tmp_path / f"{place}.dicom")
    return tmp_path


def test_vindr_votes(vindr: Path) -> None:
    made = catalog.manifest("vindr-cxr", vindr)
    made.check()
    assert readable(made)
    frame = made.frame
    assert made.records == ["0017", "0005", "7a3c"] and frame["split"].tolist() == ["train", "train", "test"]
    assert not made.patients_known and made.patients == made.records
    same(frame, ["Cardiomegaly", "Edema"], [[1, 0], [0, 0], [0, 1]])
    some = catalog.manifest("vindr-cxr", vindr, labels="findings-any").frame
    same(some, ["Cardiomegaly", "Edema"], [[1, 1], [0, 1], [0, 1]])
    same(
        catalog.manifest("vindr-cxr", vindr, labels="diagnoses").frame,
        ["Pneumonia", "No finding"],
        [[1, 0], [0, 1], [0, 0]],
    )
    assert len(catalog.load("vindr-cxr").label_sets()["findings"]) == 22
    assert len(catalog.manifest("vindr-cxr", vindr, labels=None)) == 3
