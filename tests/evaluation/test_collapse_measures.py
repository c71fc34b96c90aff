"""Effective rank and deviation on representations whose collapse is built in."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.evaluation import collapse

RNG = np.random.default_rng(0)
HEALTHY = RNG.normal(size=(4000, 16)) + 2
CONSTANT = np.full((500, 16), 3.0) + 1e-4 * RNG.normal(size=(500, 16))
LINE = RNG.normal(size=(500, 1)) * np.ones((1, 16)) + 1e-3 * RNG.normal(size=(500, 16))


def test_effective_rank_of_equal_axes_is_their_number():
    axes = np.concatenate([np.eye(6), -np.eye(6)])
    assert collapse.effective_rank(axes) == pytest.approx(6)
    assert collapse.effective_rank(HEALTHY) == pytest.approx(16, abs=0.1)


def test_effective_rank_by_hand():
    """Singular values 3 and 1: entropy of (3/4, 1/4)."""
    z = np.diag([3.0, 1.0])
    assert collapse.rankme(z) == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))


def test_wide_and_tall_give_the_same_rank():
    z = RNG.normal(size=(30, 50))
    assert collapse.rankme(z) == pytest.approx(collapse.rankme(z.T))


def test_a_constant_has_rank_zero_and_no_deviation():
    assert collapse.effective_rank(np.ones((20, 4))) == 0
    assert collapse.deviation(np.ones((20, 4))) == 0
    assert collapse.relative_deviation(np.zeros((20, 4))) == 0


@pytest.mark.parametrize(
    "z, says", [(CONSTANT, "has collapsed"), (LINE, "directions"), (HEALTHY * np.nan, "not finite")]
)
def test_collapse_is_told(z, says):
    found = collapse.judge_collapse({}, collapse.collapse_measures(z))
    assert found.collapsed and says in found.sentence


def test_health_is_told():
    found = collapse.judge_collapse({}, collapse.collapse_measures(HEALTHY))
    assert not found.collapsed and "effective rank 16.0" in found.sentence


def test_a_fall_from_the_start_is_a_collapse():
    start = {"target_std": 0.5, "effective_rank": 40.0}
    assert "target_std" in collapse.collapse_verdict(start, {"target_std": 0.04, "effective_rank": 30.0})
    assert "3.0 directions (40.0 at" in collapse.collapse_verdict(
        start, {"target_std": 0.4, "effective_rank": 3.0}
    )
    assert "No sign" in collapse.collapse_verdict(start, {"target_std": 0.4, "effective_rank": 30.0})
    assert "not measured" in collapse.collapse_verdict(start, {})
