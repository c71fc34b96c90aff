from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_bundle import FS, ecg, save, waves

import medfm
from medfm.formats import wfdb
from medfm.sklearn import BackboneClassifier, BackboneFeatures
from medfm.types import MedfmError


@pytest.fixture(scope="module")
def ref(tmp_path_factory):
    return str(save(tmp_path_factory.mktemp("made") / "bundle").path)


@pytest.fixture(scope="module")
def site():
    """Twenty-four records of twelve patients; the beats of half of them are upside down in V1 to V6."""
    x = waves(24, seed=2)
    patients = np.repeat(np.arange(12), 2)
    y = (patients < 6).astype(int)
    x[y == 1, 6:] *= -1
    return x, y, patients


def test_features_are_the_models_embeddings(ref, site):
    x, _, _ = site
    features = BackboneFeatures(ref, fs=FS).fit(x)
    z = features.transform(x)
    assert np.array_equal(z, medfm.load(ref).embed(x, fs=FS, pool="mean-std"))
    assert z.shape == (24, 32) == (24, len(features.get_feature_names_out()))
    assert BackboneFeatures(ref, fs=FS, pool="mean").fit_transform(x).shape == (24, 16)


@pytest.mark.parametrize("estimator", [BackboneFeatures, BackboneClassifier])
def test_estimators_can_be_cloned_and_set(estimator, ref):
    made = estimator(ref, fs=FS, channels=("I", "II"), pool="mean", batch_size=3)
    assert clone(made).get_params() == made.get_params()
    assert clone(made).set_params(pool="mean-std").pool == "mean-std" and made.pool == "mean"


def test_a_pipeline_is_searched_and_scored_by_patient(ref, site):
    x, y, patients = site
    pipe = make_pipeline(BackboneFeatures(ref, fs=FS), StandardScaler(), LogisticRegression(max_iter=500))
    search = GridSearchCV(pipe, {"backbonefeatures__pool": ["mean", "mean-std"]}, cv=GroupKFold(2))
    assert search.fit(x, y, groups=patients).best_score_ > 0.8
    by_patient = {"groups": patients, "cv": GroupKFold(2), "scoring": "roc_auc"}
    scores = cross_val_score(BackboneClassifier(ref, fs=FS, C=0.1), x, y, **by_patient)
    assert scores.mean() > 0.9


def test_the_classifier_keeps_its_labels_and_chooses_c_on_patient_folds(ref, site, monkeypatch):
    x, y, patients = site
    words = np.array(["sinus", "inverted"])[y]
    seen = []
    split = StratifiedGroupKFold.split

    def watched(self, X, y=None, groups=None):
        for train, test in split(self, X, y, groups):
            seen.append(not set(np.asarray(groups)[train]) & set(np.asarray(groups)[test]))
            yield train, test

    monkeypatch.setattr(StratifiedGroupKFold, "split", watched)
    model = BackboneClassifier(ref, fs=FS).fit(x, words, groups=patients)
    assert seen and all(seen)
    assert list(model.classes_) == ["inverted", "sinus"]
    p = model.predict_proba(x)
    assert np.allclose(p.sum(1), 1) and (model.predict(x) == words).mean() > 0.9
    assert np.array_equal(model.predict(x) == "inverted", p[:, 0] > 0.5)


def test_paths_are_records_too_and_a_bad_one_is_an_error(ref, site, tmp_path):
    x, _, _ = site
    for i in range(2):
        wfdb.write(tmp_path / f"r{i}", x[i], FS, ecg().channels)
    frame = pd.DataFrame({"path": [str(tmp_path / f"r{i}.hea") for i in range(2)]})
    assert np.allclose(
        BackboneFeatures(ref).fit_transform(frame),
        BackboneFeatures(ref, fs=FS).fit_transform(x[:2]),
        atol=2e-2,
    )
    (tmp_path / "r1.dat").unlink()
    with pytest.raises(MedfmError, match=r"1 record\(s\) cannot be read"):
        BackboneFeatures(ref).fit_transform(frame)


def test_wrong_calls_are_sentences(ref, site):
    x, y, _ = site
    with pytest.raises(MedfmError, match="one class only"):
        BackboneClassifier(ref, fs=FS).fit(x, np.zeros(24))
    with pytest.raises(MedfmError, match="one label a record"):
        BackboneClassifier(ref, fs=FS).fit(x, np.stack([y, y], 1))
    with pytest.raises(MedfmError, match="too few to choose C"):
        BackboneClassifier(ref, fs=FS).fit(x, np.arange(24) == 0)
    with pytest.raises(MedfmError, match="sampling rate"):
        BackboneFeatures(ref).fit_transform(x)
    with pytest.raises(MedfmError, match="no feature vector"):
        BackboneFeatures(ref, fs=FS, pool="tokens").fit_transform(x)
