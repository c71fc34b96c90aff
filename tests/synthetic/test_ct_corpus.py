"""CT corpora as arrays, as labels and as files."""

import json

import numpy as np
import pandas as pd
import pytest

from medfm.data.truths import truths_of
from medfm.synthetic.corpus import ct_arrays, ct_chunks, ct_volumes, write_corpus
from medfm.synthetic.ct_corpus import FAULTED
from medfm.synthetic.ct_measures import BEHIND, LIMITS
from medfm.synthetic.ct_paint import ORGANS
from medfm.synthetic.ct_subjects import CONDITIONS
from medfm.types import ConfigError, MedfmError


@pytest.fixture(scope="module")
def corpus():
    return ct_volumes(24, seed=4, spacing=8.0, truths=True, faults=0.5)


def test_chunks_hold_the_same_scans_as_a_subject_alone():
    scans, labels = ct_volumes(3, seed=3, spacing=8.0, records_per_patient=2)
    parts = list(ct_chunks(3, seed=3, spacing=8.0, records_per_patient=2, chunk=4))
    for a, b in zip(scans, [s for p, _ in parts for s in p], strict=True):
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.label, b.label)
    pd.testing.assert_frame_equal(pd.concat([f for _, f in parts], ignore_index=True), labels)
    x, tail = ct_arrays(1, seed=3, spacing=8.0, records_per_patient=2, start_subject=2)
    assert len(x) == 2 and x[1].dtype == np.int16
    np.testing.assert_array_equal(x[1], scans[5].x)
    assert list(tail["record"]) == list(labels["record"][4:]) and labels["patient_id"].nunique() == 3


def test_labels_follow_from_the_numbers_beside_them(corpus):
    _, labels = corpus
    for name, number in BEHIND.items():
        known = labels[name].notna() & labels[number].notna()
        assert known.sum() > 12
        np.testing.assert_array_equal(labels[name][known] == 1, labels[number][known] >= LIMITS[name] - 0.005)
        assert set(labels[name].dropna()) <= {0, 1} and f"cond_{name}" in labels
    assert labels["age"].between(18, 95).all() and set(labels["sex"]) == {"M", "F"}
    assert set(labels["phase"]) == {"none", "arterial", "portal"} and labels["record"].is_unique


def test_truths_can_be_learnt_from(corpus):
    _, labels = corpus
    truths = truths_of(labels)
    assert truths is not None and {"truth_volume_liver_ml", "truth_ctr", "liver_lesion"} <= set(truths.names)
    assert not any(n.startswith("cond_") for n in truths.names)
    numbers = truths.values[:, ~truths.binary]
    assert np.nanmax(np.abs(numbers)) <= 4 and np.isfinite(numbers).mean() > 0.7
    np.testing.assert_allclose(labels["truth_volume_heart_ml"], labels["volume_heart_ml"], atol=0.01)


def test_prevalence_changes_the_mix():
    _, some = ct_volumes(6, seed=9, spacing=10.0, prevalence=dict.fromkeys(CONDITIONS, 0.0))
    assert some[[f"cond_{n}" for n in CONDITIONS]].to_numpy().sum() == 0
    assert some[["liver_lesion", "lung_nodule", "effusion"]].to_numpy().sum() == 0


def test_files_hold_the_arrays(tmp_path):
    import nibabel as nib

    table = write_corpus("ct", 3, tmp_path / "site", seed=2, spacing=8.0, split=(0.4, 0.3, 0.3))
    frame = pd.read_csv(table)
    scans, labels = ct_volumes(3, seed=2, spacing=8.0)
    assert list(frame.columns[:2]) == ["path", "label"] and set(labels.columns) <= set(frame.columns)
    names = json.loads((tmp_path / "site" / "labels.json").read_text())
    assert names == {str(k): name for k, name in enumerate(ORGANS)}
    for row, scan in zip(frame.itertuples(), scans):
        assert row.path == f"records/{row.record}.nii.gz" and row.label == f"labels/{row.record}.nii.gz"
        for path, values in ((row.path, scan.x), (row.label, scan.label)):
            image = nib.load(table.parent / path)
            np.testing.assert_array_equal(np.asanyarray(image.dataobj), values)
            np.testing.assert_allclose(image.affine, scan.affine, atol=1e-4)


def test_dicom_series_come_back_on_the_grid_of_their_labels(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    table = write_corpus("ct", 2, tmp_path / "site", seed=2, format="dicom", spacing=10.0)
    frame = pd.read_csv(table)
    scans, _ = ct_volumes(2, seed=2, spacing=10.0)
    for path, row, scan in zip(frame["path"], frame.itertuples(), scans):
        slices = [pydicom.dcmread(p) for p in (table.parent / path).iterdir()]
        slices.sort(key=lambda d: float(d.ImagePositionPatient[2]))
        assert len(slices) == scan.x.shape[2] and slices[0].PatientID == row.patient_id
        assert list(map(float, slices[0].ImageOrientationPatient)) == [1, 0, 0, 0, 1, 0]
        middle = slices[len(slices) // 2]
        hu = middle.pixel_array * float(middle.RescaleSlope) + float(middle.RescaleIntercept)
        # rows run to the back and columns to the left, RAS+ the other way
        np.testing.assert_allclose(hu.T[::-1, ::-1], scan.x[:, :, len(slices) // 2], atol=0.5)
        last = np.array(scan.x.shape) - 1
        corner = scan.affine @ [last[0], last[1], len(slices) // 2, 1]
        np.testing.assert_allclose(
            list(map(float, middle.ImagePositionPatient)), corner[:3] * [-1, -1, 1], atol=0.01
        )


def test_faults_are_planted_in_a_share_of_the_series_and_named(tmp_path, corpus):
    from medfm.formats.series_write import FAULTS

    _, labels = corpus
    assert set(FAULTED) <= set(FAULTS)
    assert 0.25 < (labels["fault"] != "").mean() < 0.75 and set(labels["fault"]) <= {"", *FAULTED}
    options = {"seed": 2, "format": "dicom", "spacing": (12.0, 12.0, 10.0), "faults": 1.0}
    frame = pd.read_csv(write_corpus("ct", 3, tmp_path / "a", **options))
    assert frame["fault"].notna().all() and frame["fault"].nunique() > 1
    with pytest.raises(ConfigError, match="DICOM"):
        write_corpus("ct", 1, tmp_path / "b", spacing=12.0, faults=0.5)
    with pytest.raises(ConfigError, match="share"):
        write_corpus("ct", 1, tmp_path / "c", format="dicom", faults=2.0)


def test_options_belong_to_their_modality(tmp_path):
    with pytest.raises(ConfigError, match="views"):
        write_corpus("ct", 1, tmp_path / "t", views=("PA",))
    with pytest.raises(MedfmError, match="trunk"):
        write_corpus("ct", 1, tmp_path / "t", field="leg")
