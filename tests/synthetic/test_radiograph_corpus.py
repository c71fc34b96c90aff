"""Radiograph corpora as arrays, as labels and as DICOM that pydicom takes back."""

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medfm.cli.main import main
from medfm.synthetic.corpus import radiograph_arrays, radiograph_chunks, write_corpus
from medfm.synthetic.radiograph import LABELS
from medfm.synthetic.xray_subjects import CONDITIONS, DEVICES
from medfm.types import ConfigError


@pytest.fixture(scope="module")
def corpus():
    return radiograph_arrays(160, seed=11, size=48, truths=True)


def test_arrays_and_chunks_hold_the_same_images():
    x, labels = radiograph_arrays(3, seed=3, size=40, records_per_patient=2)
    assert x.shape == (6, 1, 40, 40) and x.dtype == np.float32 and len(labels) == 6
    parts = list(radiograph_chunks(3, seed=3, size=40, records_per_patient=2, chunk=4))
    np.testing.assert_array_equal(np.concatenate([p for p, _ in parts]), x)
    pd.testing.assert_frame_equal(pd.concat([f for _, f in parts], ignore_index=True), labels)
    later, tail = radiograph_arrays(1, seed=3, size=40, records_per_patient=2, start_subject=2)
    np.testing.assert_array_equal(later, x[4:])
    assert list(tail["record"]) == list(labels["record"][4:]) and labels["patient_id"].nunique() == 3


def test_labels_are_binary_complete_and_of_every_kind(corpus):
    _, labels = corpus
    for name in LABELS:
        assert set(labels[name]) == {0, 1}, name
    assert labels["view"].isin(["PA", "AP"]).all() and set(labels["sex"]) == {"M", "F"}
    assert labels["age"].between(18, 95).all() and labels["device"].nunique() == len(DEVICES)
    assert 0.2 < labels["normal"].mean() < 0.55
    assert labels["truth_ctr"].between(0.3, 0.75).all()
    np.testing.assert_array_equal(labels["cardiomegaly"] == 1, labels["truth_ctr"] > 0.5)


def test_prevalence_is_about_what_the_table_says(corpus):
    _, labels = corpus
    for name, (share, _, _) in CONDITIONS.items():
        assert labels[f"cond_{name}"].mean() == pytest.approx(share, abs=0.09), name
    _, none = radiograph_arrays(16, seed=1, size=32, prevalence=dict.fromkeys(CONDITIONS, 0.0))
    assert none["normal"].mean() > 0.8  # some hearts are large by themselves


def test_tiny_pixels_do_not_solve_the_task(corpus):
    """A task that a logistic regression on 16 x 16 pixels solves teaches nobody anything; one it cannot touch is
    noise."""
    x, labels = corpus
    tiny = x.reshape(len(x), 16, 3, 16, 3).mean(axis=(2, 4)).reshape(len(x), -1)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=400))
    areas = {}
    for name in ("effusion", "cardiomegaly", "consolidation", "nodule", "normal"):
        score = cross_val_predict(model, tiny, labels[name], cv=4, method="predict_proba")[:, 1]
        areas[name] = roc_auc_score(labels[name], score)
    assert max(areas.values()) < 0.97 and areas["nodule"] < 0.75 and areas["normal"] < 0.85
    assert areas["cardiomegaly"] > 0.7 and areas["effusion"] > 0.6


def test_sick_people_lie_in_bed(corpus):
    _, labels = corpus
    bed = labels["view"] == "AP"
    assert labels.loc[bed, "line"].mean() > labels.loc[~bed, "line"].mean()
    assert (labels.loc[bed, "sid_mm"] <= 1800).all() and (labels.loc[~bed, "sid_mm"] == 1800).all()


def test_files_display_as_the_arrays(tmp_path):
    table = write_corpus("xray", 14, tmp_path / "site", seed=2, size=64, views=("PA", "AP", "LL"))
    frame = pd.read_csv(table)
    x, labels = radiograph_arrays(14, seed=2, size=64, views=("PA", "AP", "LL"))
    assert set(labels.columns) | {"path"} == set(frame.columns)
    kinds = set()
    for path, row, image in zip(frame["path"], labels.itertuples(), x[:, 0]):
        data = pydicom.dcmread(table.parent / path)
        machine = next(d for d in DEVICES if d.name == row.device)
        shown = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data, prefer_lut=False)
        shown = (shown - shown.min()) / (2**machine.bits - 1)
        if data.PhotometricInterpretation == "MONOCHROME1":
            shown = 1 - shown
        np.testing.assert_allclose(shown, image, atol=1.3 / (0.9 * (2**machine.bits - 1)))
        assert (data.Rows, data.Columns, data.BitsStored) == (64, 64, machine.bits)
        assert data.PatientID == row.patient_id and data.PatientAge == f"{row.age:03d}Y"
        assert data.ViewPosition == row.view and data.Modality == ("CR" if machine.cr else "DX")
        assert float(data.ImagerPixelSpacing[0]) == pytest.approx(row.pixel_mm, rel=1e-3)
        kinds.add((data.Modality, data.PhotometricInterpretation))
    assert len(kinds) >= 3


def test_patients_stay_in_one_split_and_options_belong_to_their_modality(tmp_path):
    table = write_corpus("xray", 6, tmp_path / "s", records_per_patient=2, size=32, split=(0.5, 0.25, 0.25))
    frame = pd.read_csv(table)
    assert frame.groupby("patient_id")["split"].nunique().max() == 1 and len(frame) == 12
    with pytest.raises(ConfigError, match="fs"):
        write_corpus("xray", 1, tmp_path / "t", fs=500)
    with pytest.raises(ConfigError, match="size"):
        write_corpus("ecg", 1, tmp_path / "t", size=64)
    with pytest.raises(ConfigError, match="dicom"):
        write_corpus("xray", 1, tmp_path / "t", format="wfdb")
    assert not (tmp_path / "t").exists()


def test_the_command_writes_a_site_of_radiographs(tmp_path, capsys):
    words = [
        "data",
        "synthesize",
        "xray",
        "--patients",
        "2",
        "--size",
        "40",
        "--output",
        str(tmp_path / "site"),
    ]
    assert main(words) == 0
    assert "2 simulated patients" in capsys.readouterr().out
    assert len(list((tmp_path / "site" / "records").glob("*.dcm"))) == 2
    words[2] = "ecg"
    assert main([*words[:-1], str(tmp_path / "other")]) == 2 and "size" in capsys.readouterr().err
