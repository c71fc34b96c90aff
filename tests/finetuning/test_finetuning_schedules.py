"""Rates step by step, against torch's own scheduler, the schedules of pretraining, and by hand."""

from __future__ import annotations

import pytest
import torch

from medfm.finetuning.schedules import Schedule
from medfm.pretraining import schedules as pretraining


@pytest.mark.parametrize(("steps", "rise"), [(100, 0.3), (37, 0.3), (600, 0.11), (12, 0.5)])
def test_one_cycle_is_torchs_step_for_step(steps: int, rise: float) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": [p]} for p in parameters])
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, [1e-3, 5e-4], total_steps=steps, pct_start=rise)
    ours = Schedule("one-cycle", steps, warmup=rise)
    for step in range(steps):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([ours.share(step) * 1e-3, ours.share(step) * 5e-4], rel=1e-9)
        assert optimizer.param_groups[0]["betas"][0] == pytest.approx(ours.beta(step), rel=1e-12)
        optimizer.step()
        theirs.step() if step + 1 < steps else None


def test_one_cycle_of_a_few_steps_is_finite() -> None:
    for steps in (1, 2, 3):
        shares = [Schedule("one-cycle", steps, warmup=0.3).share(s) for s in range(steps)]
        assert all(0 < s <= 1 for s in shares)


def test_cosine_warms_up_and_ends_where_it_is_told() -> None:
    """By hand at the middles of ten steps, of which the first warms up: 0.5 / 1; (0.55 - 0.1) / 0.9 = 1/2."""
    plain = Schedule("cosine", 10, warmup=0.1)
    assert plain.share(0) == pytest.approx(0.5)
    assert plain.share(5) == pytest.approx(0.5)
    assert plain.share(9) == pytest.approx(0.5 * (1 + -0.98480775), abs=1e-6)  # cos(17/18 pi)
    assert Schedule("cosine", 10, warmup=0.1, end=0.2).share(5) == pytest.approx(0.6)
    assert Schedule("cosine", 1000, warmup=0.0, end=0.01).share(999) == pytest.approx(0.01, abs=1e-4)
    assert plain.beta(3) == 0.9


@pytest.mark.parametrize("kind", ["cosine", "rex", "wsd"])
def test_shapes_are_those_of_pretraining(kind: str) -> None:
    """There a step has its beginning's rate, here its middle's: every second step of twice as many."""
    cooldown = (160, 40) if kind == "wsd" else None
    theirs = pretraining.Schedule(kind, 200, 20, 0.0, 1.0, 0.05, cooldown=cooldown)  # type: ignore[arg-type]
    ours = Schedule(kind, 100, warmup=0.1, cooldown=0.2, end=0.05)
    # The end is reached by the decay; the warm-up starts at zero in both.
    for step in range(100):
        assert ours.share(step) == pytest.approx(theirs.lr(2 * step + 1), abs=1e-12), step
