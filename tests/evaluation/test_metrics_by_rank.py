"""Metrics against hand computation and scikit-learn, with ties, weights and unknown labels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as oracle

from medfm.evaluation import metrics
from medfm.evaluation.bootstrap import patient_index, percentile_interval, resamples
from medfm.types import MedfmError


def data(seed: int, n: int = 150, levels: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores on few levels (many ties) and three columns of weights, some zero."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(float)
    p = np.round((rng.random(n) + 0.5 * y) * levels) / levels
    return y, p, rng.random((n, 3)) * (rng.random((n, 3)) < 0.8)


@pytest.mark.parametrize("seed", range(15))
def test_auroc_and_auprc_equal_scikit_learn_with_ties_and_weights(seed):
    y, p, w = data(seed, levels=[3, 12, 10_000][seed % 3])
    for metric, known in (
        (metrics.auroc, oracle.roc_auc_score),
        (metrics.auprc, oracle.average_precision_score),
    ):
        assert metric(y, p) == pytest.approx(known(y, p), abs=1e-12)
        assert metric(y, p, w[:, 0]) == pytest.approx(known(y, p, sample_weight=w[:, 0]), abs=1e-12)
        assert metric(y, p, w) == pytest.approx([known(y, p, sample_weight=c) for c in w.T], abs=1e-12)


def test_auroc_by_hand():
    """Positives .9 and .5, negatives .7, .5 and .1: pairs won 3 + 1, one tie: 4.5 of 6."""
    y, p = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.5, 0.7, 0.5, 0.1])
    assert metrics.auroc(y, p) == pytest.approx(4.5 / 6)
    # at .9 precision 1 (recall 1/2), at .5 precision 2/4: 1/2 * 1 + 1/2 * 1/2
    assert metrics.auprc(y, p) == pytest.approx(0.75)


def test_unknown_is_left_out_and_not_negative():
    y, p, w = data(0)
    blank = y.copy()
    blank[::3] = np.nan
    keep = ~np.isnan(blank)
    assert metrics.auroc(blank, p, w) == pytest.approx(metrics.auroc(y[keep], p[keep], w[keep]), abs=1e-14)
    assert metrics.brier(blank, p) == pytest.approx(((p - y)[keep] ** 2).mean())
    assert metrics.auroc(blank, p) != metrics.auroc(np.nan_to_num(blank), p)


def test_multiplicities_are_repeated_rows():
    y, p, _ = data(1)
    times = np.random.default_rng(0).integers(0, 4, len(y))
    for metric in (metrics.auroc, metrics.auprc, metrics.brier, metrics.f1, metrics.balanced_accuracy):
        assert metric(y, p, weights=times) == pytest.approx(
            float(metric(np.repeat(y, times), np.repeat(p, times))), abs=1e-12
        )


def test_permuting_rows_changes_nothing():
    y, p, w = data(2)
    order = np.random.default_rng(0).permutation(len(y))
    assert metrics.auroc(y[order], p[order], w[order]) == pytest.approx(metrics.auroc(y, p, w), abs=1e-13)


def test_one_class_is_nan_and_not_a_number_to_believe():
    for metric in (metrics.auroc, metrics.auprc):
        assert np.isnan(metric(np.ones(4), np.arange(4) / 4))
        assert np.isnan(metric(np.zeros(4), np.arange(4) / 4))
        assert np.isnan(metric(np.array([0, 1.0]), np.array([0.1, 0.2]), np.array([1.0, 0.0])))


def test_threshold_metrics_equal_scikit_learn():
    y, p, w = data(3)
    called, w = p >= 0.5, w[:, 0]
    assert metrics.balanced_accuracy(y, p, weights=w) == pytest.approx(
        oracle.balanced_accuracy_score(y, called, sample_weight=w)
    )
    assert metrics.f1(y, p, weights=w) == pytest.approx(oracle.f1_score(y, called, sample_weight=w))
    assert metrics.sensitivity(y, p, 0.5) == pytest.approx(oracle.recall_score(y, called))
    assert metrics.specificity(y, p, 0.5) == pytest.approx(oracle.recall_score(1 - y, ~called))


def test_curves_equal_scikit_learn():
    y, p, _ = data(4)
    fpr, tpr, cuts = oracle.roc_curve(y, p, drop_intermediate=False)
    ours = metrics.roc_curve(y, p)
    assert np.allclose(ours[0], fpr) and np.allclose(ours[1], tpr) and np.allclose(ours[2][1:], cuts[1:])
    precision, recall, _ = oracle.precision_recall_curve(y, p)
    assert np.allclose(metrics.pr_curve(y, p)[0], recall[:-1][::-1])
    assert np.allclose(metrics.pr_curve(y, p)[1], precision[:-1][::-1])


def test_operating_points_by_hand():
    """Sorted by score: + - + - -; specificity 1 catches 1 of 2, specificity 2/3 both, at threshold .7."""
    y, p = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.8, 0.7, 0.3, 0.2])
    assert metrics.sensitivity_at_specificity(y, p, 1.0) == 0.5
    assert metrics.sensitivity_at_specificity(y, p, 0.66) == 1.0
    assert metrics.specificity_at_sensitivity(y, p, 1.0) == pytest.approx(2 / 3)
    assert metrics.threshold_at(y, p, sensitivity=1.0) == 0.7
    assert metrics.threshold_at(y, p, specificity=0.66) == 0.7
    assert metrics.threshold_at(y, p, specificity=1.0) == 0.9


def test_macro_is_the_mean_over_defined_targets():
    y, p = np.stack([data(s)[0] for s in range(3)], 1), np.stack([data(s)[1] for s in range(3)], 1)
    expected = [oracle.roc_auc_score(y[:, k], p[:, k]) for k in range(3)]
    assert metrics.macro(metrics.auroc, y, p) == pytest.approx(np.mean(expected), abs=1e-12)
    y[:, 1] = 0
    assert metrics.macro(metrics.auroc, y, p) == pytest.approx((expected[0] + expected[2]) / 2, abs=1e-12)


def test_multiclass_is_one_against_the_rest():
    rng = np.random.default_rng(0)
    kind = rng.choice(3, 90)
    p = rng.dirichlet(np.ones(3), 90)
    known = oracle.roc_auc_score(kind, p, multi_class="ovr", average="macro")
    assert metrics.macro(metrics.auroc, np.eye(3)[kind], p) == pytest.approx(known, abs=1e-12)
    assert metrics.multiclass_balanced_accuracy(np.eye(3)[kind], p) == pytest.approx(
        oracle.balanced_accuracy_score(kind, p.argmax(1))
    )


def test_wrong_labels_and_missing_predictions_are_told():
    with pytest.raises(MedfmError, match="0, 1 or blank"):
        metrics.auroc(np.array([0, 2.0]), np.array([0.1, 0.2]))
    with pytest.raises(MedfmError, match=r"1 labelled row\(s\) have no prediction"):
        metrics.auroc(np.array([0, 1.0, np.nan]), np.array([0.1, np.nan, np.nan]))
    with pytest.raises(MedfmError, match="3 labels but 2 predictions"):
        metrics.auroc(np.zeros(3), np.zeros(2))


def test_resamples_draw_whole_patients_with_replacement():
    patients = ["b", "a", "b", "c", "a"]
    index, n = patient_index(patients)
    assert n == 3 and index.tolist() == [1, 0, 1, 2, 0]
    counts = np.concatenate(list(resamples(n, 500, 0)), axis=1)
    assert counts.shape == (3, 500) and (counts.sum(0) == 3).all()
    # each patient is drawn once on average, and left out with probability (2/3)^3
    assert counts.mean(1) == pytest.approx([1, 1, 1], abs=0.12)
    assert (counts == 0).mean() == pytest.approx(8 / 27, abs=0.04)


def test_percentile_interval_ignores_few_undefined_draws_and_refuses_many():
    draws = np.r_[np.arange(1000.0), np.full(100, np.nan)]
    low, high = percentile_interval(draws)
    assert (low, high) == pytest.approx(np.quantile(np.arange(1000.0), [0.025, 0.975]))
    assert np.isnan(percentile_interval(np.r_[np.arange(10.0), np.full(20, np.nan)])).all()
    assert np.isnan(percentile_interval(np.zeros(0))).all()
