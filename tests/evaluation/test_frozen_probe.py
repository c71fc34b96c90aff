"""The frozen probe: scikit-learn's optimum, unknown labels left out, nothing learned from test rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from medfm.data.splits import patient_folds
from medfm.evaluation.logistic import fit_logistic, standardiser
from medfm.evaluation.metrics import auroc, macro
from medfm.evaluation.probe import GRID, fit_probe, probe, probe_cv
from medfm.types import MedfmError


def features(seed: int, n: int = 300, width: int = 20, targets: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of very different scales, and targets that a linear rule knows in part."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) * np.logspace(-3, 3, width) + 7
    z = (x - x.mean(0)) / x.std(0)
    truth = np.random.default_rng(99).normal(size=(width, targets)) / 3
    y = (rng.random((n, targets)) < 1 / (1 + np.exp(-(z @ truth) - [0, -1, 1.5][:targets]))).astype(float)
    return x, y


def test_every_column_is_scikit_learns_optimum():
    x, y = features(0)
    mean, std = standardiser(x)
    z = (x - mean) / std
    y[::7, 1] = np.nan
    targets, c = np.repeat([0, 1, 2], 4), np.tile([1e-4, 1e-2, 1.0, 100.0], 3)
    coef, intercept = fit_logistic(z, y[:, targets], c, tolerance=1e-7)
    for j, (k, strength) in enumerate(zip(targets, c)):
        rows = ~np.isnan(y[:, k])
        known = LogisticRegression(C=strength, tol=1e-10, max_iter=100_000).fit(z[rows], y[rows, k])
        assert coef[:, j] == pytest.approx(known.coef_[0], abs=2e-4)
        assert intercept[j] == pytest.approx(known.intercept_[0], abs=2e-4)


def test_half_precision_features_find_the_same_ranking():
    x, y = features(1)
    mean, std = standardiser(x)
    z = (x - mean) / std
    double, single = (
        fit_logistic(a, y, np.full(3, 0.1), tolerance=1e-4)[0] for a in (z, z.astype(np.float32))
    )
    assert single == pytest.approx(double, abs=5e-3)


def test_separable_classes_end_with_finite_coefficients():
    x = np.r_[np.full(20, -1.0), np.full(20, 1.0)][:, None] + np.linspace(-0.1, 0.1, 40)[:, None]
    y = (x > 0).astype(float)
    coef, _ = fit_logistic(x, y, np.array([100.0]), tolerance=1e-6)
    known = LogisticRegression(C=100.0, tol=1e-10, max_iter=10_000).fit(x, y[:, 0])
    assert coef[0, 0] == pytest.approx(known.coef_[0, 0], rel=1e-3)


def test_scales_and_shifts_of_features_do_not_matter():
    x, y = features(2)
    patients = np.arange(len(x))
    a = fit_probe(x, y, patients)
    b = fit_probe(x * np.logspace(3, -3, 20) - 5, y, patients)
    assert np.array_equal(a.c, b.c)
    assert a(x) == pytest.approx(b(x * np.logspace(3, -3, 20) - 5), abs=1e-3)


def test_noise_is_shrunk_and_signal_is_not():
    """A hundred noise features call for a small C; two informative ones for a larger."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(200, 100))
    y = rng.integers(0, 2, (200, 1)).astype(float)
    shrunk = fit_probe(noise, y, np.arange(200)).c[0]
    informative = np.c_[y + 0.5 * rng.normal(size=(200, 1)), rng.normal(size=200)]
    assert 10 * shrunk < fit_probe(informative, y, np.arange(200)).c[0]


def test_unknown_labels_train_nothing():
    """Rows whose label is blanked may as well not be there for that target."""
    x, y = features(3)
    patients = np.arange(len(x))
    blank = y[:, :1].copy()
    blank[200:] = np.nan
    one = fit_probe(x, blank, patients, grid=(0.1,))
    mean, std = standardiser(x)
    known = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000).fit(((x - mean) / std)[:200], y[:200, 0])
    assert one.coef[:, 0] * std == pytest.approx(known.coef_[0], abs=1e-3)


def test_a_target_with_one_class_gets_its_smoothed_share():
    x, y = features(4)
    y[:, 1] = 0
    p = probe(x, y, x[:5], np.arange(len(x)))
    assert p[:, 1] == pytest.approx(1 / 302)


def test_out_of_fold_predictions_know_nothing_of_their_own_fold():
    """Labels of a test fold turned round: its own predictions stay, those of other folds change."""
    x, y = features(5)
    patients = np.repeat(np.arange(150), 2)
    folds = patient_folds(y, patients, 5, 0, "multilabel")
    before, number = probe_cv(x, y, patients, folds, grid=(0.01, 1.0))
    spoiled = y.copy()
    spoiled[folds[2]] = 1 - y[folds[2]]
    after, _ = probe_cv(x, spoiled, patients, folds, grid=(0.01, 1.0))
    assert np.array_equal(before[folds[2]], after[folds[2]])
    assert not np.allclose(before[folds[0]], after[folds[0]])
    assert all((number[f] == i).all() for i, f in enumerate(folds))


def test_a_crossing_patient_is_kept_out_of_training():
    x, y = features(6)
    patients = np.arange(300)
    patients[1] = 0  # record 1 trains while record 0 is tested, unless it is left out
    y[1] = 1 - y[0]
    folds = [np.array([0, *range(2, 60)])]
    a, _ = probe_cv(x, y, patients, folds, grid=(0.01, 1.0))
    changed = x.copy()
    changed[1] = 1e3
    b, _ = probe_cv(changed, y, patients, folds, grid=(0.01, 1.0))
    assert np.array_equal(a[folds[0]], b[folds[0]])


def test_shuffled_labels_score_a_half():
    rng = np.random.default_rng(7)
    x, y = features(7, n=600)
    y = y[rng.permutation(600)]
    patients = np.arange(600)
    p, _ = probe_cv(x, y, patients, patient_folds(y, patients, 5, 0, "multilabel"), grid=(0.01, 1.0))
    assert float(macro(auroc, y, p)) == pytest.approx(0.5, abs=0.06)


def test_multiclass_probabilities_sum_to_one():
    x, _ = features(8)
    kind = np.digitize(x[:, -1], np.quantile(x[:, -1], [0.2, 0.5]))
    p = probe(x, np.eye(3)[kind], x, np.arange(300), task="multiclass")
    assert p.sum(1) == pytest.approx(1)
    assert np.mean(p.argmax(1) == kind) > 0.7


def test_two_patients_fall_back_to_the_middle_of_the_grid():
    x, y = features(9, n=10)
    fitted = fit_probe(x, y, ["a"] * 10)
    assert (fitted.c == GRID[len(GRID) // 2]).all()


def test_bad_features_are_told():
    x, y = features(10)
    x[3, 4] = np.nan
    with pytest.raises(MedfmError, match=r"1 feature vector\(s\) hold NaN"):
        fit_probe(x, y, np.arange(300))
    with pytest.raises(MedfmError, match="one vector a row"):
        fit_probe(x[:10], y, np.arange(300))
