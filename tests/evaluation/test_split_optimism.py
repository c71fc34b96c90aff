"""Folds by record reward the recognition of a patient; the difference is measured where its truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.evaluation.metrics import auroc
from medfm.evaluation.optimism import split_optimism


def _folds(groups: np.ndarray, count: int) -> np.ndarray:
    return (groups % count)[None]


def _neighbour(z: np.ndarray, y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Each record scored by the label of the nearest record outside its fold: it knows patients and nothing else."""
    away = np.abs(z[:, None] - z[None]) + np.where(fold[0][:, None] == fold[0][None], np.inf, 0)
    return y[away.argmin(1)][None]


def test_a_model_that_only_knows_patients_gains_all_of_it_from_records() -> None:
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(120), 4)
    y = np.repeat(rng.integers(0, 2, 120), 4).astype(float)[:, None]
    z = np.repeat(rng.normal(size=120), 4) + 1e-3 * rng.normal(
        size=480
    )  # who it is, and nothing of the label
    ways = [_folds(patient, 4), _folds(np.arange(480), 4)]
    (a, b) = [(_neighbour(z, y, fold), fold) for fold in ways]
    found = split_optimism(y, a, b, patient, ["label"], 300, 1)
    assert found["by_record"] > 0.95 and 0.35 < found["by_patient"] < 0.65
    by_hand = [
        np.mean([float(auroc(y[f[0] == k, 0], s[0, f[0] == k, 0])) for k in range(4)]) for s, f in (a, b)
    ]
    assert [found["by_patient"], found["by_record"]] == pytest.approx(by_hand)
    gain = found["optimism"]
    assert gain["value"] == pytest.approx(by_hand[1] - by_hand[0])
    assert 0.2 < gain["low"] < gain["value"] < gain["high"]
    assert (found["records"], found["patients"]) == (480, 120)


def test_one_record_a_patient_has_no_optimism() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, (80, 1)).astype(float)
    scores, fold = rng.random((1, 80, 1)), _folds(np.arange(80), 4)
    found = split_optimism(y, (scores, fold), (scores, fold), np.arange(80), ["label"], 50)
    assert found["optimism"] == {"value": 0.0, "low": 0.0, "high": 0.0}
