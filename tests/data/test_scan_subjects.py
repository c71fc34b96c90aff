"""A scan of MRI subjects: the table that training reads, patterns of missing sequences, masks, reasons, and the sheet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mri_trees import AFFINE, FLAIR, SE_T1, head, mask, put, write_mr
from typer.testing import CliRunner

from medfm.cli.main import app
from medfm.data.catalog import resolve_source
from medfm.data.manifest import Manifest
from medfm.data.rooms import room_of
from medfm.data.scan import find_records, scan
from medfm.data.scan_subjects import mixed_labels
from medfm.formats.subject import split_subject
from medfm.formats.volume_write import write_nifti
from medfm.modalities.mri import MRI

SMALL = MRI(size=(16, 16, 16), spacing=(2, 2, 2))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    put(root, "A/t1.nii.gz", "A/t1ce.nii.gz", "A/t2.nii.gz", "A/flair.nii.gz", "A/seg.nii.gz")
    put(root, "B/flair.nii.gz", "B/t1.nii.gz", "C/flair.nii.gz", "C/t1.nii.gz", "notes.txt.nii.gz")
    (root / "notes.txt.nii.gz").unlink()
    write_nifti(root / "A" / "seg.nii.gz", mask(1, 2, 4), AFFINE)
    write_nifti(root / "B" / "mask.nii.gz", mask(1, 3), AFFINE)
    return root


def test_the_table_of_a_folder(site: Path, tmp_path: Path) -> None:
    result = scan(site, SMALL)
    assert not result.failed
    frame = result.frame(site)
    assert list(frame.columns[:7]) == ["t1", "t1ce", "t2", "flair", "record", "patient_id", "label"]
    assert frame["t1"].tolist() == ["A/t1.nii.gz", "B/t1.nii.gz", "C/t1.nii.gz"]
    assert frame["t2"].tolist() == ["A/t2.nii.gz", "", ""]
    assert frame["label"].tolist() == ["A/seg.nii.gz", "B/mask.nii.gz", ""]
    assert frame["missing"].tolist() == ["", "t1ce t2", "t1ce t2"]
    assert frame["voxels"].tolist() == ["20 x 18 x 16"] * 3 and frame["spacing"].tolist() == ["2 x 2 x 2"] * 3
    assert frame["orientation"].tolist() == ["RAS"] * 3

    manifest = Manifest.from_table(result.write_manifest(tmp_path / "m.csv"))
    assert manifest.records == manifest.patients == ["A", "B", "C"]
    assert split_subject(manifest.paths[1]) == {
        "t1": str(site / "B/t1.nii.gz"),
        "flair": str(site / "B/flair.nii.gz"),
    }
    x = SMALL.read(manifest.paths[1])
    assert x.present.tolist() == [True, False, False, True]


def test_a_table_is_scanned_with_its_own_columns(site: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    scan(site, SMALL).write_manifest(tmp_path / "a" / "m.csv")
    table = pd.read_csv(tmp_path / "a" / "m.csv").assign(idh=[0, 1, 1], site=["X", "Y", "X"])
    table = table.rename(columns={"t1": "T1w"})
    table.to_csv(tmp_path / "a" / "m.csv", index=False)
    result = scan(tmp_path / "a" / "m.csv", SMALL)
    assert result.describe()["sites"] == {"X": 2, "Y": 1} and result.describe()["masks"]["subjects"] == 2
    again = result.frame(site)
    assert again["idh"].tolist() == [0, 1, 1] and again["patient_id"].tolist() == ["A", "B", "C"]
    assert again["t1"].tolist()[0] == "A/t1.nii.gz" and "T1w" not in again and "path" not in again
    assert again["label"].tolist()[:2] == ["A/seg.nii.gz", "B/mask.nii.gz"]


def test_summary(site: Path) -> None:
    told = scan(site, SMALL).describe()
    assert told["sequences"] == {"t1": 3, "t1ce": 1, "t2": 1, "flair": 3}
    assert told["patterns"] == {"t1 flair": 2, "t1 t1ce t2 flair": 1}
    assert told["masks"] == {"subjects": 2, "classes": {"1 2 4": 1, "1 3": 1}}
    assert "BraTS up to 2021 has 4 for enhancement" in (mixed_labels(told) or "")
    assert mixed_labels({"masks": {"classes": {"1 2 4": 5, "1 2": 2}}}) is None
    assert told["patients"] == 3 and told["voxels"]["median"] == "20 x 18 x 16"


# What is wrong with one subject
# ----------------------------------------------------------------------------------------------------------------------


def test_bad_subjects_are_set_aside(tmp_path: Path) -> None:
    from nibabel import Nifti1Image

    put(tmp_path, "good/t1.nii.gz", "four/t1.nii.gz", "same/t1.nii.gz", "zero/t1.nii.gz", "apart/t1.nii.gz")
    Nifti1Image(np.zeros((8, 8, 8, 3), np.float32), AFFINE).to_filename(tmp_path / "four" / "flair.nii.gz")
    write_nifti(tmp_path / "same" / "t2.nii.gz", head(3), AFFINE)
    write_nifti(tmp_path / "same" / "flair.nii.gz", head(3), AFFINE)
    write_nifti(tmp_path / "zero" / "t1.nii.gz", head(0) * 0, AFFINE)
    write_nifti(tmp_path / "apart" / "t2.nii.gz", head(1, (10, 9, 8)), 2 * AFFINE)
    result = scan(tmp_path, SMALL)
    assert [r.record for r in result.records] == ["good"]
    why = {
        Path(next(iter((split_subject(p) or {}).values()))).parent.name: reason for p, reason in result.failed
    }
    assert "is 4-dimensional (8 x 8 x 8 x 3)" in why["four"] and "flair.nii.gz" in why["four"]
    assert "its t2 and flair are the same picture" in why["same"]
    assert "each holds one value everywhere" in why["zero"]
    assert "its t2 does not lie on the grid of its t1" in why["apart"]


def test_masks_that_cannot_be_used(tmp_path: Path) -> None:
    put(tmp_path, "a/t1.nii.gz", "b/t1.nii.gz", "c/t1.nii.gz", "d/t1.nii.gz")
    write_nifti(tmp_path / "a" / "seg.nii.gz", mask(1, shape=(20, 18, 15)), AFFINE)
    write_nifti(tmp_path / "b" / "seg.nii.gz", mask(), AFFINE)
    write_nifti(tmp_path / "c" / "seg.nii.gz", mask(1, 3, 4), AFFINE)
    (tmp_path / "d" / "seg.nii.gz").write_bytes(b"no volume")
    records = {r.record: r for r in scan(tmp_path, SMALL).records}
    codes = {name: [f.code for f in r.findings if f.code.startswith("label")] for name, r in records.items()}
    assert codes == {
        "a": ["label-grid"],
        "b": ["label-empty"],
        "c": ["label-3-and-4"],
        "d": ["label-unreadable"],
    }
    assert [bool(records[n].label) for n in "abcd"] == [False, True, True, False]
    assert "20 x 18 x 15 voxels instead of 20 x 18 x 16" in records["a"].findings[-1].message


# Commands
# ----------------------------------------------------------------------------------------------------------------------


def run(*words: str) -> str:
    said = CliRunner().invoke(app, ["data", *words])
    assert said.exit_code == 0, said.output
    return said.output


def test_scan_prints_patterns_and_writes_the_table(site: Path, tmp_path: Path) -> None:
    said = run("scan", str(site), "--modality", "mri", "--output", str(tmp_path / "m.csv"))
    assert "sequences t1 (3), t1ce (1), t2 (1), flair (3)" in said
    assert "t1 flair              2 ( 67 %)  without t1ce, t2" in said
    assert "t1 t1ce t2 flair      1 ( 33 %)  complete" in said
    assert "masks     2 of 3, numbers 1 2 4 (1); 1 3 (1)" in said
    assert f"medfm pretrain --modality mri --data {tmp_path / 'm.csv'}" in said
    made, weight, name = resolve_source(str(tmp_path / "m.csv"), modality=SMALL)
    assert made.patients == ["A", "B", "C"] and (weight, name) == (1.0, "m")
    told = json.loads(
        run("scan", str(site), "--modality", "mri", "--output", str(tmp_path / "n.csv"), "--json")
    )
    assert told["patterns"] == {"t1 flair": 2, "t1 t1ce t2 flair": 1} and told["said"] == []


def test_dicom_studies_say_why_and_keep_their_address(tmp_path: Path) -> None:
    write_mr(tmp_path / "d" / "a", "T1 SE", number=1, **SE_T1)
    write_mr(tmp_path / "d" / "b", "FLAIR", number=2, **FLAIR)
    said = run("scan", str(tmp_path / "d"), "--modality", "mri", "--output", str(tmp_path / "m.csv"))
    assert "P1: 'FLAIR' (MR, 6 slices of 16 x 16): taken as flair because" in said
    frame = pd.read_csv(tmp_path / "m.csv")
    assert frame["path"].tolist() == ["t1=d/a;flair=d/b"] and frame["patient_id"].tolist() == ["P1"]
    made = Manifest.from_table(tmp_path / "m.csv")
    assert SMALL.read(made.paths[0]).present.tolist() == [True, False, False, True]
    assert scan(tmp_path / "m.csv", SMALL).records[0].format == "dicom"


def test_a_folder_as_data(site: Path) -> None:
    made, _, _ = resolve_source(str(site), modality=SMALL)
    assert made.patients == ["A", "B", "C"] and made.patients_known
    assert Path(made.frame["label"][0]).name == "seg.nii.gz" and made.frame["label"].isna().tolist()[2]
    made.check()


def test_subjects_are_called_by_their_names_and_not_by_their_files(site: Path) -> None:
    room = room_of(SMALL)
    addresses, failed = find_records(site, room)
    assert not failed and [room.split_address(a)[0].stem for a in addresses] == ["A", "B", "C"]
    assert [room.patient(a) for a in addresses] == ["A", "B", "C"]
    assert room_of(SMALL).split_address("t1=/x/TCGA-1_1996.08.23/t1.nii.gz")[0].stem == "TCGA-1_1996.08.23"


def test_show_draws_a_row_a_sequence(site: Path, tmp_path: Path) -> None:
    from PIL import Image

    run("show", str(site), "--modality", "mri", "--output", str(tmp_path / "s.png"), "--records", "2")
    width, height = Image.open(tmp_path / "s.png").size
    # A has four sequences; B has two, and two thin rows that say what is missing.
    assert width == 825 and height == round(110 * (6 * 2.3 + 2 * 0.6 + 0.4))
    page = tmp_path / "s.html"
    run("show", str(site), "--modality", "mri", "--output", str(page), "--records", "1")
    assert "<h2>A</h2>" in page.read_text()


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SLP"])
def test_every_plane_of_the_sheet_cuts_the_mask(orientation: str) -> None:
    from medfm.modalities.subject_sheet import _middle, _shown
    from medfm.modalities.volume_views import PLANES

    seen = np.zeros((9, 10, 11), np.float32)
    seen[1, 7, 3] = 1
    at = _middle(seen, orientation)
    for view in PLANES:
        assert _shown(seen, view, orientation, (1, 1, 1), at[view]).sum() == 1
