"""Does a 95 % interval cover? Simulated cohorts with a known AUROC: 60 patients of 5 correlated records."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from medfm.evaluation.protocol import evaluate_folds

PATIENTS, RECORDS = 60, 5
SHIFT, BETWEEN, WITHIN = 0.86, 0.9, 0.43589  # score = shift * y + patient + record; both deviations add to 1
TRUTH = norm.cdf(SHIFT / np.sqrt(2))  # AUROC of two unit-variance normals: .728


def coverage(repeats: int, *, by_patient: bool) -> float:
    """Share of intervals that hold the truth; the disease is the patient's, as in most clinical tables."""
    held = 0
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        y = np.repeat(np.arange(PATIENTS) % 2, RECORDS).astype(float)
        patient = np.repeat(BETWEEN * rng.normal(size=PATIENTS), RECORDS)
        score = SHIFT * y + patient + WITHIN * rng.normal(size=len(y))
        owner = np.repeat(np.arange(PATIENTS), RECORDS) if by_patient else np.arange(len(y))
        fold = np.zeros(len(y), dtype=int)
        h = evaluate_folds(y, score, fold, owner, ["afib"], "binary", 300, seed)["headline"]
        held += h["low"] <= TRUTH <= h["high"]
    return held / repeats


def test_patients_cover_where_records_do_not():
    """100 cohorts: standard error .03 to .05."""
    assert 0.85 <= coverage(100, by_patient=True) <= 0.99
    assert coverage(100, by_patient=False) <= 0.78


@pytest.mark.slow
def test_coverage_of_a_thousand_cohorts():
    assert 0.90 <= coverage(1000, by_patient=True) <= 0.97
    assert 0.55 <= coverage(1000, by_patient=False) <= 0.75
