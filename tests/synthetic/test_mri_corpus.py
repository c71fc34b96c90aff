"""MRI corpora as subjects with labels, as files, and in the store."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medfm.config.run import SyntheticSettings
from medfm.data.truths import truths_of
from medfm.synthetic.corpus import mri_chunks, mri_volumes, write_corpus
from medfm.synthetic.mri_tissues import SEQUENCES
from medfm.types import ConfigError


@pytest.fixture(scope="module")
def corpus():
    return mri_volumes(40, seed=4, spacing=9.0, missing=0.5, truths=True)


def test_chunks_hold_the_same_subjects_as_all_at_once():
    subjects, labels = mri_volumes(3, seed=3, spacing=9.0, records_per_patient=2, missing=0.5)
    parts = list(mri_chunks(3, seed=3, spacing=9.0, records_per_patient=2, missing=0.5, chunk=4))
    for a, b in zip(subjects, [s for p, _ in parts for s in p], strict=True):
        for name in SEQUENCES:
            np.testing.assert_array_equal(a.x[name], b.x[name])
        np.testing.assert_array_equal(a.label, b.label)
        assert a.present == b.present
    pd.testing.assert_frame_equal(pd.concat([f for _, f in parts], ignore_index=True), labels)
    one, tail = mri_volumes(1, seed=3, spacing=9.0, records_per_patient=2, start_subject=2, missing=0.5)
    np.testing.assert_array_equal(one[1].x["t2"], subjects[5].x["t2"])
    assert list(tail["record"]) == list(labels["record"][4:]) and labels["patient_id"].nunique() == 3
    same = labels.drop_duplicates("patient_id")[["subtype", "time_months", "age"]]
    assert len(labels.drop_duplicates(["patient_id", "subtype", "time_months", "age"])) == len(same)


def test_labels_say_what_is_known(corpus):
    subjects, labels = corpus
    ill = labels["has_tumour"] == 1
    assert 0 < (~ill).sum() < 15
    only = ["subtype", "grade", "time_months", "event", "truth_risk"]
    assert labels.loc[ill, only].notna().all().all() and labels.loc[~ill, only].isna().all().all()
    assert set(labels.loc[ill, "subtype"]) == {0, 1} == set(labels.loc[ill, "event"])
    assert labels.loc[ill, "time_months"].between(0.01, 84).all()
    assert (labels.loc[~ill, "volume_whole_ml"] == 0).all() and (labels["volume_brain_ml"] > 800).all()
    for s, missing in zip(subjects, labels["missing"]):
        assert tuple(n for n in SEQUENCES if n not in missing.split()) == s.present and set(s.x) == set(
            SEQUENCES
        )
    assert 0.2 < (labels["missing"] != "").mean() < 0.8
    assert labels["record"].is_unique and set(labels["sex"]) == {"M", "F"} and labels["site"].nunique() == 4


def test_truths_can_be_learnt_from(corpus):
    _, labels = corpus
    truths = truths_of(labels)
    assert truths is not None
    wanted = {
        "truth_age",
        "truth_atrophy",
        "truth_risk",
        "truth_volume_enhancing_ml",
        "subtype",
        "has_tumour",
    }
    assert wanted <= set(truths.names)
    assert np.nanmax(np.abs(truths.values[:, ~truths.binary])) <= 4
    np.testing.assert_allclose(labels["truth_volume_core_ml"], labels["volume_core_ml"], atol=0.01)
    np.testing.assert_array_equal(labels["truth_age"], labels["age"])


def test_the_share_of_tumours_can_be_set():
    for share in (0.0, 1.0):
        subjects, labels = mri_volumes(3, seed=9, spacing=10.0, prevalence={"tumour": share})
        assert (labels["has_tumour"] == share).all()
        assert all(bool(s.label.any()) == bool(share) for s in subjects)


def test_files_hold_the_subjects_and_nothing_stands_where_a_sequence_is_missing(tmp_path):
    table = write_corpus("mri", 6, tmp_path / "site", seed=2, spacing=9.0, missing=0.8, split=(0.4, 0.3, 0.3))
    frame = pd.read_csv(table)
    subjects, labels = mri_volumes(6, seed=2, spacing=9.0, missing=0.8)
    assert {*SEQUENCES, "label", *labels.columns} <= set(frame.columns) and "path" not in frame
    assert frame[list(SEQUENCES)].isna().any().any()
    for row, s in zip(frame.to_dict("records"), subjects):
        files = list((table.parent / "records" / row["record"]).iterdir())
        assert len(files) == len(s.present) + 1
        assert row["label"] == f"records/{row['record']}/{row['record']}_seg.nii.gz"
        for name in (*SEQUENCES, "label"):
            if name != "label" and name not in s.present:
                assert pd.isna(row[name])
                continue
            image = nib.load(table.parent / row[name])
            np.testing.assert_array_equal(
                np.asanyarray(image.dataobj), s.label if name == "label" else s.x[name]
            )
            np.testing.assert_allclose(image.affine, s.affine, atol=1e-4)


def test_files_are_read_as_subjects(tmp_path):
    from medfm.data.manifest import Manifest
    from medfm.modalities.mri import MRI

    table = write_corpus("mri", 3, tmp_path / "site", seed=2, spacing=9.0, missing=1.0)
    manifest = Manifest.from_frame(pd.read_csv(table), root=table.parent.resolve(), source=str(table))
    modality = MRI(size=(8, 8, 8), spacing=(9.0, 9.0, 9.0))
    subjects, _ = mri_volumes(3, seed=2, spacing=9.0, missing=1.0)
    for path, s in zip(manifest.paths, subjects):
        sample = modality.read(path)
        assert tuple(np.array(SEQUENCES)[sample.present]) == s.present
        assert np.isnan(sample.x[~sample.present]).all() and np.isfinite(sample.x[sample.present]).all()


def test_the_store_holds_z_scores_and_no_value_for_what_is_missing(tmp_path):
    from medfm.modalities.mri import MRI
    from medfm.workflows.corpora import mri_store

    settings = SyntheticSettings(patients=10, seed=4)  # more than a chunk
    modality = MRI(size=(8, 8, 8), spacing=(9.0, 9.0, 9.0))
    quiet = lambda done, total: None  # noqa: E731
    store = mri_store(settings, modality, tmp_path, 1, quiet, missing=0.6)
    subjects, labels = mri_volumes(10, seed=4, spacing=9.0, missing=0.6)
    assert store.channels == SEQUENCES and store.labels["record"].tolist() == labels["record"].tolist()
    for k, s in enumerate(subjects):
        x, there = store.whole(k), store.read([k], np.zeros((1, 3), int), (4, 4, 4))[1][0]
        assert tuple(np.array(SEQUENCES)[there]) == s.present
        assert np.isnan(x[~there]).all()
        for name, z in zip(SEQUENCES, x):
            if name in s.present:
                raw = s.x[name][s.x[name] > 0]
                assert np.nanmax(z) == pytest.approx((raw.max() - raw.mean()) / raw.std(), rel=1e-3)
    whole = mri_store(settings, modality, tmp_path, 1, quiet)
    assert whole.path != store.path
    assert all(whole.read([k], np.zeros((1, 3), int), (4, 4, 4))[1].all() for k in range(10))
    assert mri_store(settings, modality, tmp_path, 1, lambda *_: pytest.fail("made anew")).path == whole.path


def test_options_belong_to_their_modality(tmp_path):
    with pytest.raises(ConfigError, match="faults"):
        write_corpus("mri", 1, tmp_path / "t", faults=0.5)
    with pytest.raises(ConfigError, match="dicom"):
        write_corpus("mri", 1, tmp_path / "t", format="dicom")
    with pytest.raises(ConfigError, match="missing"):
        write_corpus("mri", 1, tmp_path / "t", missing=2.0)


def test_the_command_writes_a_site(tmp_path, monkeypatch, capsys):
    from medfm.cli.main import main

    monkeypatch.chdir(tmp_path)
    command = ["data", "synthesize", "mri", "--patients", "2", "--output", "site", "--spacing", "10"]
    assert main([*command, "--missing", "1"]) == 0
    assert "next: medfm data scan" in capsys.readouterr().out
    assert pd.read_csv("site/table.csv")[list(SEQUENCES)].isna().any(axis=1).all()
