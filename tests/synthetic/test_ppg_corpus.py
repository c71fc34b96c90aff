"""PPG corpora as arrays, as chunks and as files."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pandas as pd
import pytest
import wfdb

from medfm.synthetic import corpus
from medfm.synthetic.corpus import Kind, write_corpus
from medfm.synthetic.ppg_corpus import SITE_PREVALENCE, WRITERS, ppg_arrays, ppg_chunks
from medfm.types import ConfigError

AXES = ("acc_x", "acc_y", "acc_z")


@pytest.fixture
def site(monkeypatch, tmp_path):
    """A corpus of two people in the folder that the test names."""
    monkeypatch.setitem(corpus.KINDS, "ppg", Kind(ppg_chunks, WRITERS, SITE_PREVALENCE))

    def make(format="wfdb", **options):
        table = write_corpus("ppg", 2, tmp_path / format, 5, format, 2, **options)
        frame = pd.read_csv(table)
        channels = options.get("channels", ("ppg",))
        x, labels = ppg_arrays(
            2, seed=5, records_per_patient=2, prevalence=SITE_PREVALENCE, channels=channels
        )
        assert list(frame["record"]) == list(labels["record"])
        return [table.parent / p for p in frame["path"]], frame, x

    return make


def test_arrays_and_chunks_hold_the_same_records():
    x, labels = ppg_arrays(6, seed=3, records_per_patient=3, truths=True)
    assert x.shape == (18, 1, 1250) and x.dtype == np.float32
    parts = list(ppg_chunks(6, 3, records_per_patient=3, truths=True, chunk=5))
    assert np.array_equal(np.concatenate([a for a, _ in parts]), x)
    pd.testing.assert_frame_equal(pd.concat([f for _, f in parts], ignore_index=True), labels)
    tail, late = ppg_arrays(2, seed=3, records_per_patient=3, start_subject=4)
    assert np.array_equal(tail, x[12:]) and list(late["record"]) == list(labels["record"][12:])
    assert labels["patient_id"].tolist() == np.repeat(labels["patient_id"].unique(), 3).tolist()


def test_labels_are_complete_and_agree_with_the_truths():
    _, labels = ppg_arrays(300, seed=4, fs=64.0, records_per_patient=2, truths=True)
    assert labels.notna().all().all() and labels["record"].is_unique
    assert {"bmi", "hypertension", "afib", "heart_rate", "quality", "skin_tone", "device", "time_h"} <= set(
        labels
    )
    assert np.array_equal(labels["afib"] == 1, labels["truth_af_share"] >= 0.3 - 1e-6)
    assert labels.loc[labels["afib"] == 1, "truth_rr_cv"].median() > 0.13
    assert (
        labels.loc[labels["cond_pvc"] + labels["afib"] + labels["cond_pac"] == 0, "truth_rr_cv"].median()
        < 0.06
    )
    assert 0.06 < labels["afib"].mean() < 0.2 and 0.15 < labels["hypertension"].mean() < 0.4
    assert np.array_equal(labels["tachycardia"] == 1, labels["heart_rate"] > 100)
    one = labels.groupby("patient_id")[["age", "sex", "bmi", "skin_tone", "hypertension"]].nunique()
    assert (one == 1).all().all()
    assert (labels.loc[labels["pvc"] == 1, "cond_pvc"] == 1).all() and labels["pvc"].sum() > 10
    assert set(labels["activity"]) == {"sleep", "rest", "daily", "walk"}


def test_wfdb_files_hold_the_samples_with_their_units(site):
    channels = ("ppg", "acc", "ecg")
    paths, frame, x = site(channels=channels)
    for path, wave in zip(paths, x):
        record = wfdb.rdrecord(str(path.with_suffix("")))
        assert record.sig_name == list(channels) and record.units == ["NU", "g", "mV"] and record.fs == 125
        span = np.ptp(wave, axis=1)
        assert (np.abs(record.p_signal.T - wave).max(axis=1) < 1e-4 * span).all()
    assert f"Age: {frame['age'][0]}" in wfdb.rdheader(str(paths[0].with_suffix(""))).comments


def test_csv_files_hold_the_samples(site):
    paths, _, x = site("csv")
    table = pd.read_csv(paths[3])
    assert list(table) == ["time (s)", "ppg (NU)"]
    assert np.allclose(table["ppg (NU)"], x[3, 0], atol=1e-6) and table["time (s)"][125] == 1.0


def test_a_zip_is_laid_out_as_an_e4_exports_it(site):
    paths, frame, x = site("e4", channels=("ppg", *AXES))
    with zipfile.ZipFile(paths[1]) as archive:
        assert sorted(archive.namelist()) == ["ACC.csv", "BVP.csv"]
        pulse = np.loadtxt(io.StringIO(archive.read("BVP.csv").decode()))
        acc = np.loadtxt(io.StringIO(archive.read("ACC.csv").decode()), delimiter=",")
    assert pulse[1] == 125 and acc.shape == (1252, 3) and (acc[0] == pulse[0]).all()
    assert np.corrcoef(pulse[2:], x[1, 0])[0, 1] > 0.9999 and abs(pulse[2:].mean()) < 0.01
    assert np.allclose(acc[2:].T / 64, x[1, 1:], atol=0.5 / 64 + 1e-6)
    assert pulse[0] - 1_700_000_000 == round(3600 * frame["time_h"][1])


def test_an_e4_without_light_is_refused(site):
    with pytest.raises(ConfigError, match="ppg or green"):
        site("e4", channels=AXES)
