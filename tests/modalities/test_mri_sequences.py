"""Names of sequences, of files and of subjects."""

from __future__ import annotations

import pytest

from medfm.modalities.mri_sequences import contradicts, said_by_name, sequence_of, subject_name, subject_names


@pytest.mark.parametrize(
    ("names", "own"),
    [
        (("t1", "T1w", "T1n", "pre", "T1_pre"), "t1"),
        (("t1ce", "T1C", "t1gd", "T1-Gd", "t1+c", "T1 post", "post"), "t1ce"),
        (("t2", "T2W"), "t2"),
        (("FLAIR", "t2f", "T2-FLAIR", "t2_flair"), "flair"),
        (("adc", "swi", "t1x", "label"), None),
    ],
)
def test_names_as_sites_write_them(names, own):
    assert {sequence_of(n) for n in names} == {own}


def test_a_modality_keeps_its_own_names():
    assert sequence_of("t1gd", ("t2w", "t1c", "ADC")) == "t1c"
    assert sequence_of("adc", ("t2w", "t1c", "ADC")) == "ADC"
    assert sequence_of("flair", ("t2w",)) is None


def test_what_a_file_says_of_itself():
    assert said_by_name("/a/BraTS_00001_t1ce.nii.gz") == {"t1ce"}
    assert said_by_name("sub-01_T2-FLAIR.nii") == said_by_name("x_t2f.nii.gz") == {"flair"}
    assert said_by_name("7_t1_ce.nii.gz") == {"t1ce"} and said_by_name("t1_to_t2.nii") == {"t1", "t2"}
    assert said_by_name("/t1/scan.nii.gz") == said_by_name("post.nii") == set()


def test_a_name_contradicts_only_where_it_is_clear():
    assert contradicts("t1", "/a/7_flair.nii.gz") == "flair"
    assert contradicts("T1w", "/a/7_t1c.nii.gz") == "t1ce"
    assert contradicts("t2", "/a/7_T2_FLAIR.nii.gz") == "flair"
    for name, file in (
        ("t1ce", "ax_t1_fs_post.nii.gz"), ("t1", "t1_to_t2.nii"), ("t1", "post.nii"), ("adc", "t2.nii"), ("t2", "t2.nii"),
        ("flair", "flair_in_t1.nii"), ("t1", "scan.nii.gz"),
    ):  # fmt: skip
        assert contradicts(name, file) is None, (name, file)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("t1=/d/BraTS_01/BraTS_01_t1.nii.gz;t1ce=/d/BraTS_01/BraTS_01_t1ce.nii.gz", "BraTS_01"),
        ("flair=/d/BraTS_01/BraTS_01_flair.nii.gz", "BraTS_01"),
        ("t1=/d/7_t1.nii.gz;t1ce=/d/7_t1_ce.nii.gz", "7"),
        ("t1ce=/d/7_t1_ce.nii.gz", "7"),
        ("pre=/d/TCGA/pre.nii.gz;flair=/d/TCGA/flair.nii.gz", "TCGA"),
        ("flair=/d/TCGA/flair.nii.gz", "TCGA"),
        ("t1=/d/T1/001.nii.gz;flair=/d/FLAIR/001.nii.gz", "001"),
        ("t1=/d/p9/series 3#1.2.3;flair=/d/p9/other#1.4", "p9"),
    ],
)
def test_a_subject_has_the_name_that_its_files_share_or_of_their_folder(address, name):
    assert subject_name(address) == name


def test_names_that_do_not_tell_subjects_apart_are_none():
    a, b = "t1=/d/1/s/t1.nii;t2=/d/1/s/t2.nii", "t1=/d/2/s/t1.nii;t2=/d/2/s/t2.nii"
    assert subject_names([a, b]) is None
    assert subject_names([a.replace("/s/", "/"), b.replace("/s/", "/")]) == ["1", "2"]
    assert subject_name("t1=rel/t1.nii;t2=/abs/t2.nii") == ""
