"""MRI subjects below a folder: BIDS, BraTS and other names, DICOM; whose they are, and what is said of a bad tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mri_trees import FLAIR, SE_T1, SE_T2, write_mr
from volume_trees import tree

from medfm.data.subject_names import named, words_of
from medfm.data.subjects import Found, Subject, find_subjects
from medfm.modalities.mri_sequences import SEQUENCES
from medfm.types import MedfmError


def found(root: Path, sequences: tuple[str, ...] = SEQUENCES) -> Found:
    return find_subjects(root, sequences)


def files(subject: Subject) -> dict[str, str]:
    return {name: Path(file).name for name, file in subject.files.items()}


# Names
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "kind", "name"),
    [
        ("BraTS2021_00001_t1", "sequence", "t1"),
        ("BraTS-GLI-00001-000-t1n", "sequence", "t1"),
        ("BraTS-GLI-00001-000-t2f", "sequence", "flair"),
        ("UPENN-GBM-00002_11_T1GD", "sequence", "t1ce"),
        ("UCSF-PDGM-0004_T1c_bias", "sequence", "t1ce"),
        ("7_T1+C", "sequence", "t1ce"),
        ("7_t1_mprage_post_gad", "sequence", "t1ce"),
        ("7_mprage", "sequence", "t1"),
        ("t1_pre", "sequence", "t1"),
        ("T2-FLAIR", "sequence", "flair"),
        ("ax_t2w_tse", "sequence", "t2"),
        ("flair_to_t1", "sequence", "flair"),
        ("T1_FLAIR", "sequence", "t1"),
        ("pre", "sequence", "t1"),
        ("post", "sequence", "t1ce"),
        ("7_post", "", ""),  # after what?
        ("t1_t2", "unclear", "t1 and t2"),
        ("7_seg", "mask", "mask"),
        ("tumor_segmentation", "mask", "mask"),
        ("t1_mask", "mask", "mask"),
        ("VS-SEG-001_t1c_256", "sequence", "t1ce"),
        ("brain_mask", "brain", "brain or tissue mask"),
        ("7_ADC", "other", "adc"),
        ("7_T2star", "other", "t2star"),
        ("notes", "", ""),
    ],
)
def test_what_a_name_says(stem: str, kind: str, name: str) -> None:
    said = named(words_of(stem), SEQUENCES)
    assert said == (kind, name)


def test_other_sequences_by_configuration() -> None:
    assert named(words_of("7_swi"), ("t1", "swi")) == ("sequence", "swi")
    assert named(words_of("7_flair"), ("t1", "swi")) == ("other", "flair")
    assert named(words_of("7_t1c"), ("t1", "T1Gd")) == ("sequence", "T1Gd"), "as the list writes it"


# BIDS
# ----------------------------------------------------------------------------------------------------------------------


def test_bids(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_ce-gd_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_FLAIR.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_label-lesion_roi.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_ce-gd_FLAIR.nii.gz",
        "sub-01/ses-a/dwi/sub-01_ses-a_dwi.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T2w.nii.gz",
        "sub-02/anat/sub-02_run-2_T1w.nii.gz",
        "sub-02/anat/sub-02_run-1_T1w.nii.gz",
        "derivatives/masks/sub-02/anat/sub-02_desc-brain_mask.nii.gz",
    )
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\tsex\tsite\nsub-01\t61\tfemale\tNorth\nsub-02\tn/a\tM\tn/a\n"
    )
    said = found(tmp_path)
    a, b, two = said.subjects
    assert (a.record, a.patient, a.age, a.sex, a.site) == ("sub-01_ses-a", "sub-01", 61.0, "F", "North")
    assert files(a) == {
        "t1": "sub-01_ses-a_T1w.nii.gz",
        "t1ce": "sub-01_ses-a_ce-gd_T1w.nii.gz",
        "flair": "sub-01_ses-a_FLAIR.nii.gz",
    }
    assert Path(a.label or "").name == "sub-01_ses-a_label-lesion_roi.nii.gz"
    assert (b.record, b.patient, set(b.files)) == ("sub-01_ses-b", "sub-01", {"t2"})
    assert (two.record, two.age, two.sex, two.site) == ("sub-02", None, "M", None)
    assert files(two) == {"t1": "sub-02_run-1_T1w.nii.gz"}
    assert said.others == {"FLAIR after contrast": 1, "dwi": 1, ".tsv": 1} and not said.failed
    assert any("derivatives: left out" in line for line in said.said)
    assert any("the first run; left out: sub-02_run-2_T1w.nii.gz" in line for line in said.said)


# BraTS and other names
# ----------------------------------------------------------------------------------------------------------------------


def test_brats_2021_and_2023(tmp_path: Path) -> None:
    old, new = "BraTS2021_00000", "BraTS-GLI-00003"
    tree(tmp_path, *(f"old/{old}/{old}_{s}.nii.gz" for s in ("t1", "t1ce", "t2", "flair", "seg")))
    tree(
        tmp_path,
        *(f"new/{new}-{t}/{new}-{t}-{s}.nii.gz" for t in ("000", "001") for s in ("t1c", "t2f", "seg")),
    )
    zero, one, first = found(tmp_path).subjects
    assert (zero.record, zero.patient, one.record, one.patient) == (f"{new}-000", new, f"{new}-001", new)
    assert files(zero) == {"t1ce": f"{new}-000-t1c.nii.gz", "flair": f"{new}-000-t2f.nii.gz"}
    assert (first.record, first.patient, list(first.files)) == (old, old, list(SEQUENCES))
    assert first.label == str(tmp_path / "old" / old / f"{old}_seg.nii.gz")


def test_many_subjects_in_one_folder(tmp_path: Path) -> None:
    tree(
        tmp_path,
        *(f"all/P{n}_{s}.nii.gz" for n in (1, 2) for s in ("t1", "t1_ce", "seg")),
        "all/P3_flair.nii.gz",
    )
    subjects = found(tmp_path).subjects
    assert [(s.record, s.patient, list(s.files), bool(s.label)) for s in subjects] == [
        ("P1", "P1", ["t1", "t1ce"], True),
        ("P2", "P2", ["t1", "t1ce"], True),
        ("P3", "P3", ["flair"], False),
    ]


def test_folders_name_sequences_visits_and_sites(tmp_path: Path) -> None:
    tree(tmp_path, "x/7/flair/12.nii.gz", "x/7/t1/9.nii.gz")
    tree(tmp_path, *(f"y/{p}/2019-0{v}-01/t2.nii.gz" for p in ("A", "B") for v in (1, 2)))
    tree(
        tmp_path,
        "z/TCGA_DU_5852_19950709/flair.nii.gz",
        "z/UPENN-GBM-00001_21/UPENN-GBM-00001_21_T1GD.nii.gz",
    )
    subjects = {s.record: s for s in found(tmp_path).subjects}
    assert files(subjects["7"]) == {"t1": "9.nii.gz", "flair": "12.nii.gz"} and subjects["7"].patient == "7"
    visits = [(s.record, s.patient) for s in subjects.values() if "2019" in s.record]
    assert visits == [(f"y_{p}_2019-0{v}-01", p) for p in ("A", "B") for v in (1, 2)]
    tcga = subjects["TCGA_DU_5852_19950709"]
    assert (tcga.patient, tcga.site) == ("TCGA_DU_5852", "DU")
    assert subjects["UPENN-GBM-00001_21"].patient == "UPENN-GBM-00001"


def test_equal_names_of_folders(tmp_path: Path) -> None:
    tree(tmp_path, *(f"a/{p}/mri/t1.nii.gz" for p in "ABC"))
    tree(tmp_path, *(f"b/{part}/{n}/t1.nii.gz" for part in ("train", "test") for n in range(4)))
    patients = {s.record: s.patient for s in found(tmp_path / "a").subjects}
    assert patients == {"A_mri": "A", "B_mri": "B", "C_mri": "C"}
    patients = {s.record: s.patient for s in found(tmp_path / "b").subjects}
    assert len(patients) == 8 and set(patients.values()) == {None}, "the same person or not: nobody knows"


def test_what_all_names_begin_with_is_no_sequence(tmp_path: Path) -> None:
    tree(tmp_path, "a/P1_t1_t1.nii.gz", "a/P1_t1_flair.nii.gz", "a/P1_t1_t2.nii.gz")
    (one,) = found(tmp_path).subjects
    assert files(one) == {"t1": "P1_t1_t1.nii.gz", "t2": "P1_t1_t2.nii.gz", "flair": "P1_t1_flair.nii.gz"}


def test_before_and_after_contrast_is_told(tmp_path: Path) -> None:
    tree(tmp_path, "a/pre.nii.gz", "a/post.nii.gz", "a/mask.nii.gz")
    said = found(tmp_path)
    assert files(said.subjects[0]) == {"t1": "pre.nii.gz", "t1ce": "post.nii.gz"}
    assert "1 folder(s) with files named pre or post: taken as T1 before and after contrast" in said.said[0]


def test_one_subject_alone_has_the_name_of_its_files(tmp_path: Path) -> None:
    root = tree(tmp_path / "download", "BraTS2021_00005_t1.nii.gz", "BraTS2021_00005_t2.nii.gz")
    (one,) = found(root).subjects
    assert (one.record, one.patient) == ("BraTS2021_00005", "BraTS2021_00005")


# Bad trees
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (
            ("7/t1.nii.gz", "7/t1_bias.nii.gz"),
            r"7 has 2 files for t1 \(t1.nii.gz, t1_bias.nii.gz\); leave one",
        ),
        (("7/7_t1.nii.gz", "7/7_t1.nii"), "7 has 2 files for t1"),
        (("7/7_t1c.nii.gz", "7/7_t1ce.nii.gz", "7/7_t2.nii.gz"), "7 has 2 files for t1ce"),
        (("7/seg.nii.gz",), r"holds only a mask \(seg.nii.gz\)"),
        (("7/image.nii.gz",), r"no file of a known sequence \(image.nii.gz\); name its files after t1, t1ce"),
        (("7/t1_t2.nii.gz",), "no file of a known sequence"),
        (
            ("BraTS_007/BraTS_007_t1.nii.gz", "BraTS_007/BraTS_008_t2.nii.gz"),
            "BraTS_008_t2.nii.gz is named after BraTS_008 and lies in the folder of BraTS_007",
        ),
        (("sub-1/anat/sub-1_T1w.nii.gz", "sub-1/anat/sub-1_acq-b_T1w.nii.gz"), "sub-1 has 2 files for t1"),
        (("sub-1/anat/sub-1_PDw.nii.gz",), "sub-1 has none of the sequences t1, t1ce, t2, flair"),
    ],
)
def test_a_bad_subject_is_set_aside_with_its_reason(tmp_path: Path, names: tuple[str, ...], why: str) -> None:
    tree(tmp_path, *names, "good/flair.nii.gz")
    said = found(tmp_path)
    assert [s.record for s in said.subjects] == ["good"]
    ((place, reason),) = said.failed
    assert re.search(why, reason), reason
    assert place.startswith(str(tmp_path))


def test_several_masks_are_none(tmp_path: Path) -> None:
    tree(tmp_path, "7/t1.nii.gz", "7/seg_a.nii.gz", "7/seg_b.nii.gz", "7/brain_mask.nii.gz", "7/what.nii.gz")
    (one,) = found(tmp_path).subjects
    assert one.label is None
    assert [f.code for f in one.findings] == ["masks-several", "name-unclear"]
    assert "2 masks (seg_a.nii.gz, seg_b.nii.gz)" in one.findings[0].message


def test_a_folder_without_any(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        MedfmError, match=r"no MRI subject below .*1 .txt.*BIDS.*a column for each of t1, t1ce"
    ):
        found(tmp_path)
    with pytest.raises(MedfmError, match="folder not found"):
        found(tmp_path / "no")


# DICOM
# ----------------------------------------------------------------------------------------------------------------------


def test_dicom_studies(tmp_path: Path) -> None:
    write_mr(tmp_path / "a", "T1 SE", number=1, InstitutionName="North", **SE_T1)
    write_mr(tmp_path / "b", "T2 TSE", number=2, **SE_T2)
    write_mr(tmp_path / "c", "FLAIR", study="2", StudyDate="20010101", **FLAIR)
    write_mr(tmp_path / "d", "DWI", patient="P9", study="3")
    said = found(tmp_path)
    first, second = said.subjects
    assert (first.record, second.record, first.patient, second.patient) == ("P1_1", "P1_2", "P1", "P1")
    assert files(first) == {"t1": "a", "t2": "b"} and files(second) == {"flair": "c"}
    assert (first.site, first.age, first.study) == ("North", 60.0, "1.2.3.1")
    ((place, why),) = said.failed
    assert "P9" in place and "none of its series is one of t1, t1ce, t2, flair: 'DWI'" in why
    assert any(line.startswith("P1_1: 'T2 TSE'") and "taken as t2 because" in line for line in said.said)
    assert said.said[-1].startswith("several series for one sequence: ")
