"""Addresses of subjects, and which files a model made."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medfm.formats.subject import join_subject, split_subject, subject_files
from medfm.formats.synthetic import is_synthetic, sidecar
from medfm.formats.volume_write import write_nifti
from medfm.types import ReadError


def test_an_address_names_the_file_of_each_sequence_and_gives_them_back():
    files = {"t1": "/a b/7=x.nii.gz", "T2-FLAIR": "/d/dicom#1.2.3", "flair": "rel/b.nii"}
    address = join_subject(files)
    assert address == "t1=/a b/7=x.nii.gz;T2-FLAIR=/d/dicom#1.2.3;flair=rel/b.nii"
    assert split_subject(address) == files and list(split_subject(address)) == list(files)
    assert split_subject(" t1 = /a.nii ; t2=/b.nii ;") == {"t1": "/a.nii", "t2": "/b.nii"}
    assert subject_files(address) == list(files.values())


@pytest.mark.parametrize(
    "path", ["/a/t1.nii.gz", "a.nii", "/a/x=1/b.nii", "folder#2", "", "t1=", r"C:\a=b\c.nii"]
)
def test_a_plain_path_is_no_address(path):
    assert split_subject(path) is None and subject_files(path) == [path]


def test_a_file_whose_own_name_looks_like_an_address_stays_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_subject("a=b.nii") == {"a": "b.nii"}
    (tmp_path / "a=b.nii").write_bytes(b"x")
    assert split_subject("a=b.nii") is None


def test_what_an_address_cannot_hold_is_refused():
    with pytest.raises(ReadError, match="holds ';'"):
        join_subject({"t1": "/a;b.nii"})
    for name in ("t1=", "a/b", "", "t;1", "t#1"):
        with pytest.raises(ReadError, match="no name of a sequence"):
            join_subject({name: "/a.nii"})
    with pytest.raises(ReadError, match="at least one sequence"):
        join_subject({})
    with pytest.raises(ReadError, match="t1 twice"):
        split_subject("t1=/a.nii;t1=/b.nii")


def test_a_file_that_a_model_made_is_known_by_name_header_or_sidecar(tmp_path):
    x, affine = np.zeros((2, 2, 2), np.float32), np.eye(4)
    plain = write_nifti(tmp_path / "t1.nii.gz", x, affine, description="not SYNTHETIC")
    assert not is_synthetic(plain)
    assert is_synthetic(write_nifti(tmp_path / "7_SYNTHETIC_t2.nii.gz", x, affine))
    for name in ("packed.nii.gz", "plain.nii"):
        assert is_synthetic(write_nifti(tmp_path / name, x, affine, description="SYNTHETIC by medfm"))
    sidecar(plain).write_text(json.dumps({"Synthetic": False}))
    assert sidecar(plain).name == "t1.json" and not is_synthetic(plain)
    sidecar(plain).write_text(json.dumps({"Synthetic": True}))
    assert is_synthetic(plain)
    sidecar(plain).write_text("no json")
    assert not is_synthetic(plain) and not is_synthetic(tmp_path / "gone.nii")


def test_the_header_of_a_nifti_2_file_is_read_too(tmp_path):
    import nibabel

    image = nibabel.Nifti2Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
    image.header["descrip"] = b"SYNTHETIC"
    nibabel.save(image, tmp_path / "two.nii")
    assert is_synthetic(tmp_path / "two.nii")
