"""The protocol: within folds first, nothing of one fold reaches another's numbers, arms share resamples."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from medfm.evaluation.protocol import evaluate_folds, jsonable, paired_difference, verdict
from medfm.types import MedfmError

TARGETS = ["afib", "lbbb"]


def predictions(seed: int = 0, n_patients: int = 100) -> tuple[np.ndarray, ...]:
    """y and p ``[n, 2]``, fold, patients: two records a patient, 10 % of labels unknown."""
    rng = np.random.default_rng(seed)
    patients = np.repeat([f"p{i:03d}" for i in range(n_patients)], 2)
    fold = np.repeat(rng.permutation(np.arange(n_patients) % 5), 2)
    y = (rng.random((2 * n_patients, 2)) < [0.4, 0.25]).astype(float)
    p = 1 / (1 + np.exp(-(2 * y - 1 + 1.2 * rng.normal(size=y.shape))))
    return np.where(rng.random(y.shape) < 0.1, np.nan, y), p, fold, patients


def within(y, p, fold, score) -> float:
    """Written plainly: the mean over targets of the mean over folds."""
    per_target = []
    for k in range(y.shape[1]):
        rows = [(fold == f) & ~np.isnan(y[:, k]) for f in np.unique(fold)]
        per_target.append(np.mean([score(y[r, k], p[r, k]) for r in rows]))
    return float(np.mean(per_target))


def test_headline_is_within_folds_and_pooled_stands_second():
    y, p, fold, patients = predictions()
    result = evaluate_folds(y, p, fold, patients, TARGETS, "multilabel", 200)
    assert result["headline"]["value"] == pytest.approx(within(y, p, fold, roc_auc_score), abs=1e-12)
    assert result["within_fold"]["auprc"]["value"] == pytest.approx(
        within(y, p, fold, average_precision_score)
    )
    one_fold = np.zeros_like(fold)
    assert result["pooled"]["auroc"]["value"] == pytest.approx(
        within(y, p, one_fold, roc_auc_score), abs=1e-12
    )


def test_folds_of_another_scale_spoil_the_pooled_value_only():
    """A constant added to one fold's scores changes no ranking within folds."""
    y, p, fold, patients = predictions()
    shifted = p + 5.0 * (fold == 2)[:, None]
    before = evaluate_folds(y, p, fold, patients, TARGETS, "multilabel", 50)
    after = evaluate_folds(y, shifted, fold, patients, TARGETS, "multilabel", 50)
    assert after["headline"] == before["headline"]
    assert after["pooled"]["auroc"]["value"] < before["pooled"]["auroc"]["value"] - 0.05


def test_permuting_the_labels_of_one_fold_changes_that_fold_only():
    y, p, fold, patients = predictions()
    spoiled = y.copy()
    rows = np.flatnonzero(fold == 3)
    spoiled[rows] = y[np.random.default_rng(1).permutation(rows)]
    a, b = (evaluate_folds(v, p, fold, patients, TARGETS, "multilabel", 0)["folds"] for v in (y, spoiled))
    changed = [i for i, (x, z) in enumerate(zip(a, b)) if x != z]
    assert changed == [3] and a[3]["auroc"] != b[3]["auroc"]


def test_permuting_rows_changes_nothing_not_even_the_interval():
    y, p, fold, patients = predictions()
    order = np.random.default_rng(0).permutation(len(y))
    a = evaluate_folds(y, p, fold, patients, TARGETS, "multilabel", 300)
    b = evaluate_folds(y[order], p[order], fold[order], patients[order], TARGETS, "multilabel", 300)
    assert json.dumps(round_off(a)) == json.dumps(round_off(b))


def round_off(value):
    if isinstance(value, dict):
        return {k: round_off(v) for k, v in value.items()}
    if isinstance(value, list):
        return [round_off(v) for v in value]
    return round(value, 6) if isinstance(value, float) else value


def test_interval_equals_a_bootstrap_written_plainly():
    """Rows of drawn patients repeated one by one, AUROC by ranks in each fold: the same distribution."""

    def area(labels: np.ndarray, scores: np.ndarray) -> float:
        positives = labels.sum()
        rank_sum = rankdata(scores)[labels == 1].sum()
        return (rank_sum - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))

    y, p, fold, patients = predictions(n_patients=60)
    y, p = np.nan_to_num(y[:, :1]), p[:, :1]
    rng = np.random.default_rng(3)
    names = np.unique(patients)
    draws = []
    for _ in range(400):
        rows = np.concatenate([np.flatnonzero(patients == q) for q in rng.choice(names, len(names))])
        groups = [rows[fold[rows] == f] for f in range(5)]
        scores = [area(y[g, 0], p[g, 0]) for g in groups if len(np.unique(y[g, 0])) == 2]
        draws.append(np.mean(scores))
    ours = evaluate_folds(y, p, fold, patients, ["afib"], "binary", 2000)["headline"]
    assert (ours["low"], ours["high"]) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.015)


def test_repeats_are_averaged_and_their_spread_is_given():
    y, p, fold, patients = predictions()
    rng = np.random.default_rng(0)
    folds = np.stack([fold, np.repeat(rng.permutation(np.arange(100) % 5), 2)])
    both = np.stack([p, np.clip(p + 0.1 * rng.normal(size=p.shape), 0, 1)])
    result = evaluate_folds(y, both, folds, patients, TARGETS, "multilabel", 20)
    each = [within(y, q, f, roc_auc_score) for q, f in zip(both, folds)]
    assert result["headline"]["value"] == pytest.approx(np.mean(each))
    assert result["repeats"]["auroc"] == pytest.approx(each)
    assert result["repeats"]["sd"] == pytest.approx(np.std(each, ddof=1))
    assert len(result["folds"]) == 10 and result["counts"]["repeats"] == 2


def test_counts_are_of_labelled_rows_and_distinct_patients():
    y = np.array([[1], [1], [0], [np.nan], [0], [1.0]])
    result = evaluate_folds(
        y, np.linspace(0, 1, 6)[:, None], [0, 0, 0, 1, 1, 1], list("aabccd"), ["afib"], "binary", 10
    )
    target = result["targets"]["afib"]
    assert (target["records"], target["positives"], target["patients"], target["positive_patients"]) == (
        5,
        3,
        4,
        2,
    )
    assert result["counts"] == {
        "records": 6,
        "patients": 4,
        "folds": 2,
        "repeats": 1,
        "positives": {"afib": 3},
        "unknown": {"afib": 1},
    }
    json.dumps(result, allow_nan=False)


def test_rows_of_no_fold_are_not_tested():
    y, p, fold, patients = predictions()
    held = np.where(fold == 0, 0, -1)
    result = evaluate_folds(y, p, held, patients, TARGETS, "multilabel", 50)
    assert result["counts"]["records"] == (fold == 0).sum()
    p[fold != 0] = np.nan  # never looked at
    assert evaluate_folds(y, p, held, patients, TARGETS, "multilabel", 50) == result


def test_named_folds_are_sites():
    y, p, fold, patients = predictions()
    sites = np.array(["ulm", "rome", "oslo", "bern", "graz"])[fold]
    a = evaluate_folds(y, p, sites, patients, TARGETS, "multilabel", 0)
    assert {f["fold"] for f in a["folds"]} == set(sites)
    assert a["headline"]["value"] == pytest.approx(within(y, p, fold, roc_auc_score))


def test_a_fold_with_one_class_is_left_out_and_named():
    y, p, fold, patients = predictions()
    y[(fold == 1), 0] = 0
    result = evaluate_folds(y, p, fold, patients, TARGETS, "multilabel", 20)
    assert result["notes"] == ["afib: 1 of 5 folds have one class only and are left out of its mean."]
    assert result["folds"][1]["auroc"]["afib"] is None
    json.dumps(result, allow_nan=False)


def test_a_target_without_positives_gives_no_number():
    y, p, fold, patients = predictions()
    y[:, 0] = 0
    result = evaluate_folds(y, p, fold, patients, TARGETS, "multilabel", 20)
    assert result["targets"]["afib"]["auroc"]["value"] is None
    assert result["headline"]["value"] == result["targets"]["lbbb"]["auroc"]["value"]
    assert "no fold has both classes" in result["notes"][0]


def test_a_patient_in_two_folds_is_refused():
    y, p, fold, patients = predictions()
    fold = fold.copy()
    fold[0] = (fold[0] + 1) % 5
    with pytest.raises(MedfmError, match=r"1 patient\(s\) stand in more than one test fold"):
        evaluate_folds(y, p, fold, patients, TARGETS, "multilabel", 10)


def test_shapes_that_disagree_are_told():
    y, p, fold, patients = predictions()
    with pytest.raises(MedfmError, match="target names"):
        evaluate_folds(y, p, fold, patients, ["afib"], "binary", 10)
    with pytest.raises(MedfmError, match="expected"):
        evaluate_folds(y, p[:, :1], fold, patients, TARGETS, "multilabel", 10)
    with pytest.raises(MedfmError, match="nothing to evaluate"):
        evaluate_folds(y, p, np.full(len(y), -1), patients, TARGETS, "multilabel", 10)


def test_paired_difference_is_tighter_than_two_separate_intervals_and_signed():
    y, p, fold, patients = predictions(n_patients=200)
    better = np.clip(p + 0.15 * (np.nan_to_num(y) - 0.5), 0, 1)
    pair = paired_difference(y, better, p, fold, patients, TARGETS, 500, names=("LoRA", "random"))
    d = pair["auroc"]["difference"]
    assert d["value"] == pytest.approx(
        within(y, better, fold, roc_auc_score) - within(y, p, fold, roc_auc_score)
    )
    alone = evaluate_folds(y, p, fold, patients, TARGETS, "multilabel", 500)["headline"]
    assert d["low"] > 0 and d["high"] - d["low"] < 0.7 * (alone["high"] - alone["low"])
    assert pair["verdict"].startswith("LoRA ranks better than random on these 200 patients (+")
    gap = pair["gap_closed"]
    assert gap["value"] == pytest.approx(d["value"] / (1 - pair["auroc"]["b"]))
    assert 0 < gap["low"] < gap["value"] < gap["high"] < 1
    turned = paired_difference(y, p, better, fold, patients, TARGETS, 500)
    assert turned["auroc"]["difference"]["high"] == pytest.approx(-d["low"])
    assert "A ranks worse than B" in turned["verdict"]


def test_arms_that_differ_by_noise_cannot_be_told_apart():
    y, p, fold, patients = predictions()
    other = predictions(seed=9)[1]
    mixed = 1 / (
        1 + np.exp(-(2 * np.nan_to_num(y) - 1 + 1.2 * np.random.default_rng(5).normal(size=y.shape)))
    )
    assert other.shape == mixed.shape
    pair = paired_difference(y, p, mixed, fold, patients, TARGETS, 500)
    assert pair["verdict"].startswith("The data cannot tell A and B apart")
    same = paired_difference(y, p, p, fold, patients, TARGETS, 50)["auroc"]["difference"]
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_verdict_without_an_interval_says_why():
    text = verdict({"value": 0.1, "low": None, "high": None}, ("a", "b"), 8)
    assert "too few patients" in text


def test_jsonable_turns_nan_into_none():
    value = {"a": np.float32("nan"), "b": np.arange(2), 3: (np.int64(1), float("inf"))}
    assert jsonable(value) == {"a": None, "b": [0, 1], "3": [1, None]}


def test_two_thousand_resamples_of_five_thousand_rows_take_seconds():
    """Measured 0.5 s on one idle core; a loop over resamples takes minutes."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(1250), 4)
    y = (rng.random((5000, 1)) < 0.3).astype(float)
    p = np.clip(0.3 * y + rng.random((5000, 1)), 0, 1)
    began = time.process_time()
    evaluate_folds(y, p, patients % 5, patients, ["afib"], "binary", 2000)
    assert time.process_time() - began < 6
