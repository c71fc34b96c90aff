"""Splits: a patient never crosses, rare classes reach every fold, and what cannot be split is told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from medfm.data.splits import group_folds, patient_folds, repeats_auto, split_patients
from medfm.types import MedfmError


def cohort(seed: int, n_patients: int = 80, targets: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """One to five records a patient; a patient's records share a label nine times in ten; 10 % unknown."""
    rng = np.random.default_rng(seed)
    patients = np.repeat([f"p{i}" for i in range(n_patients)], rng.integers(1, 6, n_patients))
    trait = {p: rng.random(targets) < np.linspace(0.12, 0.5, targets) for p in np.unique(patients)}
    y = np.stack([np.where(rng.random(targets) < 0.1, rng.random(targets) < 0.5, trait[p]) for p in patients])
    return np.where(rng.random(y.shape) < 0.1, np.nan, y.astype(float)), patients


@pytest.mark.parametrize("task", ["binary", "multilabel"])
@pytest.mark.parametrize("seed", range(8))
def test_folds_hold_every_row_once_and_every_patient_in_one_fold(task, seed):
    y, patients = cohort(seed)
    y = y[:, -1:] if task == "binary" else y
    folds = patient_folds(y, patients, 5, seed, task)
    assert sorted(np.concatenate(folds)) == list(range(len(y)))
    groups = [set(patients[f]) for f in folds]
    assert sum(len(g) for g in groups) == len(set(patients))
    for fold in folds:
        assert (np.nansum(y[fold] == 1, 0) > 0).all() and (np.nansum(y[fold] == 0, 0) > 0).all()


def test_multilabel_folds_balance_every_label_and_size():
    y, patients = cohort(3, n_patients=400)
    folds = patient_folds(y, patients, 5, 0, "multilabel")
    for k in range(y.shape[1]):
        share = np.array([np.nansum(y[f, k]) for f in folds]) / np.nansum(y[:, k])
        assert np.abs(share - 0.2).max() < 0.02
    assert np.abs(np.array([len(f) for f in folds]) / len(y) - 0.2).max() < 0.02


def test_multiclass_as_numbers_and_as_one_hot_spread_each_class():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 3)
    kind = rng.choice(3, 60, p=[0.6, 0.25, 0.15]).repeat(3)
    for y in (kind.astype(float), np.eye(3)[kind]):
        for fold in patient_folds(y, patients, 5, 0, "multiclass"):
            assert set(kind[fold]) == {0, 1, 2}


def test_same_seed_same_folds_other_seed_other_folds():
    y, patients = cohort(1)
    a, b, c = (patient_folds(y, patients, 5, s, "multilabel") for s in (7, 7, 8))
    assert all(np.array_equal(i, j) for i, j in zip(a, b))
    assert not all(np.array_equal(i, j) for i, j in zip(a, c))


def test_a_class_in_exactly_as_many_patients_as_folds_reaches_every_fold():
    """Twenty tries with five positive patients of ten records among eighty, all sizes different."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        patients = np.repeat(np.arange(80), rng.integers(1, 12, 80))
        y = np.isin(patients, rng.choice(80, 5, replace=False)).astype(float)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert all(y[f].any() for f in patient_folds(y, patients, 5, seed))


def test_fewer_patients_than_folds_names_the_remedy():
    with pytest.raises(MedfmError, match=r"3 patient\(s\) cannot fill 5 folds: use --folds 3"):
        patient_folds(np.array([0, 1, 0, 1.0]), ["a", "b", "c", "c"], 5, 0)


def test_one_class_only_is_refused():
    with pytest.raises(MedfmError, match="afib = 1"):
        patient_folds(np.zeros(20), np.arange(20), 5, 0, targets=["afib"])


def test_positives_in_too_few_patients_are_refused_with_the_number_that_works():
    y = np.zeros(40)
    y[:9] = 1  # nine records, but of three patients
    patients = np.repeat(np.arange(14), 3)[:40]
    with pytest.raises(
        MedfmError, match=r"afib = 1 stands in 3 patient\(s\), fewer than 5 folds: use --folds 3"
    ):
        patient_folds(y, patients, 5, 0, targets=["afib"])
    relaxed = patient_folds(y, patients, 5, 0, strict=False)
    assert sorted(np.concatenate(relaxed)) == list(range(40))


def test_unknown_labels_are_no_class():
    y = np.full(30, np.nan)
    y[:10] = 1
    with pytest.raises(MedfmError, match="target 1 = 0"):
        patient_folds(y, np.arange(30), 5, 0)


def test_labels_that_are_no_labels_are_refused():
    with pytest.raises(MedfmError, match="0, 1 or blank"):
        patient_folds(np.linspace(0, 3, 20), np.arange(20), 5, 0)


def test_blank_patients_are_refused():
    with pytest.raises(MedfmError, match="blank"):
        patient_folds(np.array([0, 1.0, 0, 1]), np.array(["a", None, "b", "c"], dtype=object), 2, 0)


def test_leave_one_group_out():
    groups = np.array(["ulm", "rome", "ulm", "oslo"])
    folds = group_folds(groups, ["a", "b", "a", "c"])
    assert {k: v.tolist() for k, v in folds.items()} == {"oslo": [3], "rome": [1], "ulm": [0, 2]}


def test_a_patient_of_two_sites_or_a_lonely_site_is_refused():
    with pytest.raises(MedfmError, match=r"1 patient\(s\) stand in more than one group"):
        group_folds(["ulm", "rome"], ["a", "a"])
    with pytest.raises(MedfmError, match="only one group"):
        group_folds(["ulm", "ulm"])
    with pytest.raises(MedfmError, match="no group"):
        group_folds(["ulm", None, "rome"])


def test_repeats_auto():
    assert [repeats_auto(n) for n in (199, 200, 999, 1000)] == [10, 5, 5, 1]


@pytest.mark.parametrize("stratified", [False, True])
def test_split_patients_keeps_patients_whole_and_shares_about_right(stratified):
    y, patients = cohort(5, n_patients=300)
    parts = split_patients(patients, (0.7, 0.2, 0.1), 0, y if stratified else None)
    owners = [set(patients[p]) for p in parts]
    assert not owners[0] & owners[1] and not owners[0] & owners[2] and not owners[1] & owners[2]
    assert sorted(np.concatenate(parts)) == list(range(len(y)))
    assert np.allclose([len(o) / 300 for o in owners], (0.7, 0.2, 0.1), atol=0.02)
    if stratified:
        ill = set(patients[y[:, 0] == 1])
        rare = np.array([len(o & ill) for o in owners]) / len(ill)
        assert np.allclose(rare, (0.7, 0.2, 0.1), atol=0.03)


def test_split_patients_leaves_no_part_empty():
    assert all(len(p) for p in split_patients(["a", "b", "c"], (0.98, 0.01, 0.01), 0))
    with pytest.raises(MedfmError, match="cannot fill"):
        split_patients(["a", "a"], (0.5, 0.5), 0)
    with pytest.raises(MedfmError, match="positive shares"):
        split_patients(["a", "b"], (1.0, 0.0), 0)
