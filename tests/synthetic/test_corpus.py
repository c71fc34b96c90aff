"""Corpora as arrays, as chunks and as real files that the format readers take back."""

import numpy as np
import pandas as pd
import pytest

from medfm import formats
from medfm.synthetic.corpus import SITE_PREVALENCE, ecg_arrays, ecg_chunks, write_corpus
from medfm.types import MedfmError


def test_arrays_and_chunks_hold_the_same_records():
    x, labels = ecg_arrays(10, seed=3, fs=100, records_per_patient=2)
    assert x.shape == (20, 12, 1000) and x.dtype == np.float32 and len(labels) == 20
    parts = list(ecg_chunks(10, seed=3, fs=100, records_per_patient=2, chunk=7))
    assert np.array_equal(np.concatenate([p for p, _ in parts]), x)
    pd.testing.assert_frame_equal(pd.concat([f for _, f in parts], ignore_index=True), labels)
    later, tail = ecg_arrays(4, seed=3, fs=100, records_per_patient=2, start_subject=6)
    assert np.array_equal(later, x[12:]) and list(tail["record"]) == list(labels["record"][12:])
    assert labels["patient_id"].nunique() == 10 and labels["record"].is_unique


def test_labels_are_complete_binary_and_of_every_kind():
    _, labels = ecg_arrays(400, seed=5, fs=100, seconds=5)
    for name in (
        "afib",
        "rbbb",
        "lbbb",
        "mi",
        "lvh",
        "st_elevation",
        "st_depression",
        "long_qt",
        "normal",
        "pvc",
    ):
        assert set(labels[name]) == {0, 1}, name
    assert labels.notna().all().all()
    assert 0.2 < labels["normal"].mean() < 0.6
    assert labels["rhythm"].isin(["sinus", "afib", "flutter", "paced"]).all()
    assert labels["age"].between(18, 95).all() and set(labels["sex"]) == {"M", "F"}


def test_prevalence_is_what_the_table_says():
    """Age and sex tilt who is ill, not how many: over the population the share is the one asked for."""
    _, labels = ecg_arrays(
        700, seed=6, fs=50, seconds=1, prevalence={"rbbb": 0.2, "af_persistent": 0.3, "lbbb": 0}
    )
    assert labels["cond_af_persistent"].mean() == pytest.approx(0.3, abs=0.06)
    assert labels["cond_rbbb"].mean() == pytest.approx(0.2, abs=0.05)
    assert labels["cond_lbbb"].sum() == 0
    old = labels["age"] > 65
    assert labels["cond_af_persistent"][old].mean() > 1.5 * labels["cond_af_persistent"][~old].mean()


@pytest.mark.parametrize("format", ["wfdb", "edf", "csv", "dicom"])
def test_files_come_back_through_the_readers(tmp_path, format):
    table = write_corpus("ecg", 3, tmp_path / "site", seed=2, format=format, records_per_patient=2, fs=250)
    frame = pd.read_csv(table)
    assert table == tmp_path / "site" / "table.csv" and len(frame) == 6
    assert {
        "path",
        "patient_id",
        "age",
        "sex",
        "device",
        "site",
        "rhythm",
        "afib",
        "rbbb",
        "lbbb",
        "mi",
    } <= set(frame)
    signal = formats.read(table.parent / frame["path"][4])
    assert signal.fs == 250 and signal.x.shape == (12, 2500)
    scale = {"uV": 1e-3, "mV": 1.0}[signal.units[0]]
    x, _ = ecg_arrays(3, seed=2, fs=250, records_per_patient=2, prevalence=SITE_PREVALENCE)
    assert np.abs(signal.x * scale - x[4]).max() < 0.002


def test_files_hold_the_generated_samples_to_a_step(tmp_path):
    table = write_corpus("ecg", 2, tmp_path / "s", seed=4, prevalence={"af_persistent": 0.06})
    made, _ = next(ecg_chunks(2, seed=4, prevalence={"af_persistent": 0.06, "af_paroxysmal": 0.06}))
    frame = pd.read_csv(table)
    for path, x in zip(frame["path"], made):
        signal = formats.read(table.parent / path)
        assert signal.units[0] == "mV" and np.abs(signal.x - x).max() < 0.0011


def test_default_site_has_enough_fibrillation(tmp_path):
    """A newcomer's first table must be learnable: at least 12 % of records in atrial fibrillation."""
    frame = pd.read_csv(write_corpus("ecg", 300, tmp_path / "s", seed=1, fs=50, seconds=5))
    assert 0.12 <= frame["afib"].mean() <= 0.25


def test_splits_keep_patients_together(tmp_path):
    table = write_corpus(
        "ecg", 60, tmp_path / "s", records_per_patient=2, fs=50, seconds=1, split=(0.5, 0.25, 0.25)
    )
    frame = pd.read_csv(table)
    assert frame.groupby("patient_id")["split"].nunique().max() == 1
    assert set(frame["split"]) == {"train", "val", "test"}


def test_a_corpus_is_not_overwritten_by_accident(tmp_path):
    write_corpus("ecg", 1, tmp_path / "s", fs=50, seconds=1)
    with pytest.raises(MedfmError, match="holds a corpus"):
        write_corpus("ecg", 1, tmp_path / "s", fs=50, seconds=1)
    write_corpus("ecg", 2, tmp_path / "s", fs=50, seconds=1, overwrite=True)
    assert len(pd.read_csv(tmp_path / "s" / "table.csv")) == 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"modality": "ect"}, "ecg"),
        ({"format": "tiff"}, "wfdb"),
        ({"patients": 0}, "at least one"),
        ({"split": (0.5, 0.6, 0.1)}, "add up to 1"),
    ],
)
def test_wrong_calls(tmp_path, arguments, word):
    call = {
        "modality": "ecg",
        "patients": 1,
        "output": tmp_path / "s",
        "fs": 50.0,
        "seconds": 1.0,
    } | arguments
    with pytest.raises(MedfmError, match=word):
        write_corpus(**call)
    assert not (tmp_path / "s" / "table.csv").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MedfmError, match="cannot be written"):
        write_corpus("ecg", 1, tmp_path / "file" / "s", fs=50, seconds=1)


def test_truths_are_what_was_measured_and_p_waves_are_unknown_without_p_waves():
    x, labels = ecg_arrays(150, seed=3, fs=100, seconds=5, truths=True)
    plain, without = ecg_arrays(150, seed=3, fs=100, seconds=5)
    np.testing.assert_array_equal(x, plain)
    assert list(labels.columns[: without.shape[1]]) == list(without.columns)
    np.testing.assert_allclose(labels["truth_qrs_ms"], labels["qrs_ms"], atol=1e-3)
    sokolow = labels["truth_s_V1"] + labels[["truth_r_V5", "truth_r_V6"]].max(axis=1)
    np.testing.assert_array_equal(sokolow >= 3.5, labels["truth_sokolow_mv"] >= 3.5)
    fibrillating = labels["rhythm"].str.contains("af_persistent|flutter").to_numpy()
    assert fibrillating.any() and labels.loc[fibrillating, "truth_pr_ms"].isna().all()
    assert labels.loc[labels["av_block_1"] == 1, "truth_pr_ms"].min() > 200
