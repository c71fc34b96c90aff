"""MRI sets of the catalogue on small copies of their published layouts, files empty: a catalogue opens tables only (and, of
DICOM, headers).

Places and table columns are those of BraTS 2021 (TCIA and Kaggle), BraTS 2023 and 2024 GLI, UPENN-GBM (clinical_info v2.1),
UCSF-PDGM 5 (metadata_v5), IXI and BraTS-TCGA.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mri_trees import SE_T1, write_mr
from volume_trees import tree

from medfm.cli.main import main
from medfm.data import catalog
from medfm.data.dataset import Dataset, SubjectRows
from medfm.data.label_rules import MaskRule
from medfm.data.manifest import Manifest
from medfm.formats.subject import split_subject
from medfm.modalities.mri_sequences import SEQUENCES
from medfm.types import MedfmError

MRI_SETS = [name for name in catalog.names() if catalog.load(name).modality == "mri"]


def names(path: str) -> dict[str, str]:
    return {sequence: Path(file).name for sequence, file in (split_subject(path) or {}).items()}


# Every YAML
# ----------------------------------------------------------------------------------------------------------------------


def test_the_mri_sets_are_there() -> None:
    assert set(MRI_SETS) == {
        "brats-2021", "brats-2023-gli", "brats-2024-gli", "upenn-gbm", "ucsf-pdgm", "ixi", "tcga-gbm", "tcga-lgg",
        "brats-tcga-gbm", "brats-tcga-lgg", "openneuro",
    }  # fmt: skip


@pytest.mark.parametrize("name", MRI_SETS)
def test_every_yaml_of_subjects(name: str) -> None:
    dataset = catalog.load(name)
    rows = dataset.rows
    assert isinstance(rows, SubjectRows) and dataset.files and (dataset.doi or dataset.url)
    for other in catalog.overlaps(name):
        assert other in MRI_SETS and name in catalog.overlaps(other), "an overlap is told from both sides"
    for part in rows.parts:
        groups = re.compile(part.path).groupindex
        assert {"record", "sequence"} <= set(groups) and re.compile(part.path).groups == len(groups)
    assert set(rows.sequences.values()) <= set(SEQUENCES)
    for like in rows.masks:
        assert set(re.compile(like).groupindex) == {"record"}
    if isinstance(dataset.labels, MaskRule):
        numbers = set(dataset.labels.classes)
        assert {"TC", "WT", "ET"} <= set(dataset.labels.regions)
        assert all(set(region) <= numbers for region in dataset.labels.regions.values())
        assert [dataset.labels.classes[n].startswith("enhancing") for n in dataset.labels.regions["ET"]] == [
            True
        ]


def test_enhancement_is_4_up_to_2021_and_3_since() -> None:
    regions = {n: catalog.load(n).labels.regions for n in ("brats-2021", "brats-2023-gli", "brats-2024-gli")}  # type: ignore[union-attr]
    assert regions["brats-2021"] == {"TC": [1, 4], "WT": [1, 2, 4], "ET": [4]}
    assert regions["brats-2023-gli"] == {"TC": [1, 3], "WT": [1, 2, 3], "ET": [3]}
    assert regions["brats-2024-gli"] == {"TC": [1, 3], "WT": [1, 2, 3], "ET": [3], "RC": [4]}


def test_masks_need_a_place() -> None:
    facts = catalog.load("brats-2021").model_dump(by_alias=True)
    with pytest.raises(ValueError, match=r"rows\.mask"):
        Dataset.model_validate({**facts, "rows": {**facts["rows"], "masks": []}})


@pytest.mark.parametrize("name", MRI_SETS)
def test_another_folder_is_refused_with_the_layout(name: str, tmp_path: Path) -> None:
    tree(tmp_path, "scans/a.txt", "meta.csv")
    with pytest.raises(MedfmError, match=f"is not {name}: .*obtained"):
        catalog.manifest(name, tmp_path)


# Layouts
# ----------------------------------------------------------------------------------------------------------------------


def brats(root: Path, folder: str, case: str, *sequences: str, mark: str = "_") -> None:
    tree(root, *(f"{folder}{case}/{case}{mark}{s}.nii.gz" for s in sequences))


def test_brats_2021(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    every = ("t1", "t1ce", "t2", "flair")
    brats(tmp_path, "BraTS2021_TrainingSet/UPENN-GBM/", "BraTS2021_00002", *every, "seg")
    brats(tmp_path, "BraTS2021_ValidationSet/IvyGAP/", "BraTS2021_00001", *every)
    with caplog.at_level(logging.WARNING, "medfm"):
        made = catalog.manifest("brats-2021", tmp_path)
    assert "2 of 1251 subjects lie below" in caplog.text
    made.check()
    assert made.records == made.patients == ["BraTS2021_00002"] and made.patients_known
    assert names(made.paths[0]) == {s: f"BraTS2021_00002_{s}.nii.gz" for s in every}
    assert Path(made.frame["label"][0]).name == "BraTS2021_00002_seg.nii.gz"
    both = catalog.manifest("brats-2021", tmp_path, labels=None).frame
    assert "label" not in both and dict(zip(both["record"], both["site"])) == {
        "BraTS2021_00002": "UPENN-GBM",
        "BraTS2021_00001": "IvyGAP",
    }
    brats(tmp_path / "kaggle", "", "BraTS2021_00009", *every, "seg")
    plain = catalog.manifest("brats-2021", tmp_path / "kaggle")
    assert plain.frame["site"].isna().all()


def test_brats_2023_and_2024_are_told_apart(tmp_path: Path) -> None:
    every = ("t1n", "t1c", "t2w", "t2f", "seg")
    for visit in ("000", "001"):
        brats(tmp_path / "pre", "", f"BraTS-GLI-00005-{visit}", *every, mark="-")
    brats(tmp_path / "post", "", "BraTS-GLI-00005-100", *every, mark="-")
    made = catalog.manifest("brats-2023-gli", tmp_path / "pre")
    assert made.records == ["BraTS-GLI-00005-000", "BraTS-GLI-00005-001"]
    assert set(made.patients) == {"BraTS-GLI-00005"}
    assert names(made.paths[0]) == {
        sequence: f"BraTS-GLI-00005-000-{own}.nii.gz"
        for sequence, own in (("t1", "t1n"), ("t1ce", "t1c"), ("t2", "t2w"), ("flair", "t2f"))
    }
    assert catalog.manifest("brats-2024-gli", tmp_path / "post").records == ["BraTS-GLI-00005-100"]
    with pytest.raises(MedfmError, match=r"is not brats-2023-gli: Time points from 100 on are of BraTS 2024"):
        catalog.manifest("brats-2023-gli", tmp_path / "post")


def test_upenn_gbm(tmp_path: Path) -> None:
    for record in ("UPENN-GBM-00001_11", "UPENN-GBM-00002_11", "UPENN-GBM-00002_21", "UPENN-GBM-00003_11"):
        tree(
            tmp_path,
            *(f"NIfTI-files/images_structural/{record}/{record}_{s}.nii.gz" for s in ("T1", "T1GD", "FLAIR")),
        )
        tree(tmp_path, f"NIfTI-files/images_structural_unstripped/{record}/{record}_T1_unstripped.nii.gz")
    tree(tmp_path, "NIfTI-files/images_structural/UPENN-GBM-00001_11/old/UPENN-GBM-00001_11_T2.nii.gz")
    tree(
        tmp_path,
        *(f"NIfTI-files/automated_segm/UPENN-GBM-0000{n}_11_automated_approx_segm.nii.gz" for n in (1, 2)),
    )
    tree(tmp_path, "NIfTI-files/images_segm/UPENN-GBM-00002_11_segm.nii.gz")
    (tmp_path / "UPENN-GBM_clinical_info_v2.1.csv").write_text(
        "ID,Gender,Age_at_scan_years,Survival_from_surgery_days_UPDATED,Survival_Status,Survival_Censor,IDH1,MGMT\n"
        "UPENN-GBM-00001_11,F,61.5,210,Deceased,Not Applicable,Wildtype,Methylated\n"
        "UPENN-GBM-00002_11,M,70,Not Available,Alive,900,Mutated,Indeterminate\n"
        "UPENN-GBM-00002_21,M,71,500,Deceased,Not Applicable,NOS/NEC,Unmethylated\n"
    )
    frame = catalog.manifest("upenn-gbm", tmp_path, labels=None).frame.set_index("record")
    assert list(names(frame["path"].iloc[0])) == ["t1", "t1ce", "flair"]
    assert frame["patient"].tolist() == [f"UPENN-GBM-0000{n}" for n in (1, 2, 2, 3)]
    told = frame[["visit", "age", "sex", "time_days", "event", "idh1", "mgmt"]].astype(object)
    told = told.where(told.notna(), None)
    assert told.loc["UPENN-GBM-00001_11"].tolist() == ["preoperative", 61.5, "F", "210", "1", "0", "1"]
    assert told.loc["UPENN-GBM-00002_11"].tolist() == ["preoperative", 70, "M", "900", "0", "1", None]
    assert told.loc["UPENN-GBM-00002_21"].tolist() == ["follow-up", 71, "M", "500", "1", None, "0"]
    assert told.loc["UPENN-GBM-00003_11"].tolist() == ["preoperative", *[None] * 6]
    masked = catalog.manifest("upenn-gbm", tmp_path).frame
    assert [Path(m).name for m in masked["label"]] == [
        "UPENN-GBM-00001_11_automated_approx_segm.nii.gz",
        "UPENN-GBM-00002_11_segm.nii.gz",
    ]


def test_ucsf_pdgm(tmp_path: Path) -> None:
    for record in ("UCSF-PDGM-0004", "UCSF-PDGM-0433", "UCSF-PDGM-0433_FU007d"):
        tree(
            tmp_path,
            *(
                f"UCSF-PDGM-v5/{record}_nifti/{record}_{s}.nii.gz"
                for s in (
                    "T1",
                    "T1_bias",
                    "T1c",
                    "T2",
                    "FLAIR",
                    "SWI",
                    "brain_segmentation",
                    "tumor_segmentation",
                )
            ),
        )
    (tmp_path / "UCSF-PDGM-metadata_v5.csv").write_text(
        "ID,Sex,Age at MRI,WHO CNS Grade,Final pathologic diagnosis (WHO 2021),MGMT status,MGMT index,1p/19q,IDH,"
        "1-dead 0-alive,OS,EOR,Biopsy prior to imaging,BraTS21 ID,BraTS21 Segmentation Cohort,BraTS21 MGMT Cohort\n"
        'UCSF-PDGM-004,M,66,4,"Glioblastoma, IDH-wildtype",negative,0,unknown,wildtype,1,1303,STR,No,BraTS2021_00097,'
        "Training,Training\n"
        "UCSF-PDGM-433,F,40,2,x,unknown,unknown,intact,IDH1 p.R132H,0,20.0,GTR,No,,,\n"
        "UCSF-PDGM-0433_FU007d,F,41,2,x,positive,5,intact,IDH1 p.R132H,0,,GTR,No,,,\n"
    )
    made = catalog.manifest("ucsf-pdgm", tmp_path)
    frame = made.frame.set_index("record").sort_index()
    assert frame["patient"].tolist() == ["UCSF-PDGM-0004", "UCSF-PDGM-0433", "UCSF-PDGM-0433"]
    assert list(names(frame["path"].iloc[0]).values()) == [
        f"UCSF-PDGM-0004_{s}.nii.gz" for s in ("T1", "T1c", "T2", "FLAIR")
    ]
    assert Path(frame["label"].iloc[2]).name == "UCSF-PDGM-0433_FU007d_tumor_segmentation.nii.gz"
    columns = ["age", "sex", "grade", "time_days", "event", "idh", "mgmt", "brats_2021"]
    told = frame[columns].astype(object).where(frame[columns].notna(), None)
    assert told.iloc[0].tolist() == [66, "M", "4", "1303", "1", "wildtype", "0", "BraTS2021_00097"]
    assert told.iloc[1].tolist() == [40, "F", "2", "20", "0", "IDH1 p.R132H", None, None]
    assert told.iloc[2].tolist() == [41, "F", "2", None, "0", "IDH1 p.R132H", "1", None]


def test_ixi_and_brats_tcga(tmp_path: Path) -> None:
    tree(tmp_path / "ixi", "IXI-T1/IXI002-Guys-0828-T1.nii.gz", "IXI-T2/IXI002-Guys-0828-T2.nii.gz")
    tree(tmp_path / "ixi", "IXI-T1/IXI035-IOP-0873-T1.nii.gz", "IXI-PD/IXI035-IOP-0873-PD.nii.gz")
    frame = catalog.manifest("ixi", tmp_path / "ixi").frame
    assert frame[["patient", "site"]].to_numpy().tolist() == [["IXI002", "Guys"], ["IXI035", "IOP"]]
    assert [list(names(p)) for p in frame["path"]] == [["t1", "t2"], ["t1"]]

    case = "TCGA-02-0006/TCGA-02-0006_1996.08.23"
    ends = ("t1", "t1Gd", "t2", "flair", "GlistrBoost", "GlistrBoost_ManuallyCorrected")
    tree(tmp_path / "gbm", *(f"{case}_{s}.nii.gz" for s in ends))
    made = catalog.manifest("brats-tcga-gbm", tmp_path / "gbm").frame.iloc[0]
    assert (made["record"], made["patient"], made["site"]) == (
        "TCGA-02-0006_1996.08.23",
        "TCGA-02-0006",
        "02",
    )
    assert made["label"].endswith("GlistrBoost_ManuallyCorrected.nii.gz") and len(names(made["path"])) == 4


def test_bids_and_dicom_are_found_as_in_any_folder(tmp_path: Path) -> None:
    tree(tmp_path / "bids", "sub-1/anat/sub-1_T1w.nii.gz", "sub-1/anat/sub-1_FLAIR.nii.gz")
    made = catalog.manifest("openneuro", tmp_path / "bids")
    assert made.patients == ["sub-1"] and list(names(made.paths[0])) == ["t1", "flair"]
    write_mr(tmp_path / "tcga" / "series", "T1 SE", patient="TCGA-02-0006", **SE_T1)
    made = catalog.manifest("tcga-gbm", tmp_path / "tcga")
    assert made.patients == ["TCGA-02-0006"] and list(names(made.paths[0])) == ["t1"]


def test_a_table_for_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    brats(tmp_path, "", "BraTS2021_00002", "t1", "flair", "seg")
    brats(tmp_path, "", "BraTS2021_00003", "t1", "t2", "seg")
    out = tmp_path / "table.csv"
    assert main(["data", "table", f"brats-2021={tmp_path}", "--output", str(out)]) == 0
    assert f"medfm finetune {out} --backbone REF --target label" in capsys.readouterr().out
    table = pd.read_csv(out)
    assert table["t1"].tolist() == [f"BraTS2021_0000{n}/BraTS2021_0000{n}_t1.nii.gz" for n in (2, 3)]
    assert table["t2"].isna().tolist() == [True, False] and "path" not in table
    made = Manifest.from_table(out)
    assert list(names(made.paths[0])) == ["t1", "flair"] and made.patients == [
        "BraTS2021_00002",
        "BraTS2021_00003",
    ]
    assert main(["data", "datasets", "brats-2024-gli"]) == 0
    said = capsys.readouterr().out
    assert "3 enhancing tissue, 4 resection cavity; regions: TC 1 + 3, WT 1 + 2 + 3, ET 3, RC 4" in said


def test_a_second_copy_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for copy in ("a/", "b/"):
        brats(tmp_path, copy, "BraTS2021_00002", "t1", "seg")
    with caplog.at_level(logging.WARNING, "medfm"):
        made = catalog.manifest("brats-2021", tmp_path)
    assert "1 file(s) lie there twice" in caplog.text and len(made) == 1
    assert np.all(["/a/" in p for p in made.paths])
