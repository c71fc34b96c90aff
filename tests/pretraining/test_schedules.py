"""Schedules: values worked out by hand, continuity, and what a branch shares with its trunk."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from medfm.config.run import OptimSettings
from medfm.pretraining.schedules import Schedule, cosine_between, from_settings


def settings(**changes):
    return OptimSettings(**{"lr": 1.0, "lr_start": 0.1, "lr_end": 0.01, "warmup": 0.1, **changes})


@pytest.mark.parametrize("kind", ["cosine", "rex", "wsd", "infinite"])
def test_warm_up_is_linear_and_the_end_is_the_end(kind):
    schedule = from_settings(settings(schedule=kind), 1000)
    assert schedule.lr(0) == pytest.approx(0.1)
    assert schedule.lr(50) == pytest.approx(0.55)
    assert schedule.lr(100) == pytest.approx(1.0)
    assert schedule.lr(1000) == pytest.approx(0.01)
    assert schedule.lr(5000) == pytest.approx(0.01)
    steps = [schedule.lr(k) for k in range(1001)]
    assert max(abs(a - b) for a, b in pairwise(steps)) < 0.1
    assert all(a >= b for a, b in pairwise(steps[100:]))


def test_cosine_by_hand():
    schedule = from_settings(settings(), 1000)
    assert schedule.lr(550) == pytest.approx((1 + 0.01) / 2)
    assert schedule.lr(325) == pytest.approx(0.01 + 0.99 * (1 + math.sqrt(0.5)) / 2)


def test_rex_by_hand():
    schedule = from_settings(settings(schedule="rex", lr_end=0.0), 1000)
    assert schedule.lr(550) == pytest.approx(0.5 / 0.75)  # (1 - t) / (1/2 + (1 - t)/2) at t = 1/2
    assert schedule.lr(775) == pytest.approx(0.25 / 0.625)


def test_wsd_by_hand():
    schedule = from_settings(settings(schedule="wsd", cooldown=0.2, lr_end=0.0), 1000)
    assert schedule.lr(101) == schedule.lr(500) == schedule.lr(800) == 1.0
    assert schedule.lr(850) == pytest.approx(0.5)  # 1 - sqrt(1/4)
    assert schedule.lr(962) == pytest.approx(1 - math.sqrt(0.81))


def test_infinite_by_hand():
    schedule = from_settings(settings(schedule="infinite", cooldown=0.2, constant_lr=0.25), 1000)
    assert schedule.lr(275) == pytest.approx(0.625)  # half way of the cosine between 100 and 450
    assert schedule.lr(450) == schedule.lr(700) == schedule.lr(800) == pytest.approx(0.25)
    assert schedule.lr(900) == pytest.approx(math.sqrt(0.25 * 0.01))  # exponential: the geometric mean


@pytest.mark.parametrize("kind", ["wsd", "infinite"])
def test_branches_leave_one_trunk_where_they_start_and_share_all_before(kind):
    trunk = from_settings(settings(schedule=kind, cooldown=0.0), 1000)
    assert trunk.lr(999) == trunk.lr(10_000) > 0.3
    for start, length in ((600, 100), (900, 400)):
        branch = trunk.branch(start, length)
        assert branch.steps == start + length
        assert all(branch.lr(k) == trunk.lr(k) for k in range(start + 1))
        assert all(branch.progress(k) == trunk.progress(k) == 0.0 for k in range(start + 1))
        assert branch.lr(start + length // 2) < trunk.lr(start)
        assert branch.lr(start + length) == pytest.approx(0.01) and branch.progress(start + length) == 1.0


def test_a_run_is_made_a_branch_by_its_settings():
    """What a resumed run sees: the trunk of 1,000 steps cooled down from step 600 in 200."""
    trunk = from_settings(settings(schedule="wsd", cooldown=0.0), 1000)
    run = from_settings(settings(schedule="wsd", cooldown_from=600), 800)
    expected = trunk.branch(600, 200)
    assert [run.lr(k) for k in range(600, 801)] == [expected.lr(k) for k in range(600, 801)]
    late = from_settings(settings(schedule="infinite", cooldown_from=600, constant_lr=0.25), 800)
    assert late.lr(600) == pytest.approx(0.25) and late.lr(800) == pytest.approx(0.01)


def test_a_branch_needs_a_level_trunk():
    with pytest.raises(ValueError, match="no trunk"):
        from_settings(settings(), 1000).branch(500, 100)
    with pytest.raises(ValueError, match="level"):
        from_settings(settings(schedule="infinite", cooldown=0.0), 1000).branch(200, 100)


def test_progress_and_weight_decay():
    schedule = Schedule("cosine", 200, 20, 0.0, 1.0, 0.0)
    assert [schedule.progress(k) for k in (0, 50, 200, 300)] == [0.0, 0.25, 1.0, 1.0]
    assert cosine_between(0.01, 0.1, 0.0) == pytest.approx(0.01)
    assert cosine_between(0.01, 0.1, 0.5) == pytest.approx(0.055)
    assert cosine_between(0.01, 0.1, 1.0) == pytest.approx(0.1)


def test_no_warm_up_and_all_warm_up():
    assert from_settings(settings(warmup=0.0), 100).lr(0) == 1.0
    assert from_settings(settings(warmup=1.0), 100).lr(50) == pytest.approx(0.55)
