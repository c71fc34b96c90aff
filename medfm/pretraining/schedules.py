"""Learning-rate schedules as pure functions of the step, so that resuming needs no state.

cosine: linear warm-up, half a cosine to the end (Loshchilov and Hutter, 2017; ECG-JEPA).
rex: warm-up, then ``(1 - t) / (1/2 + (1 - t)/2)``, high for long and steep at last (Chen et al., 2022).
wsd: warm-up, stable, decay (Hu et al., 2024), the decay as ``1 - sqrt(t)`` (Hägele et al., 2024).
infinite: warm-up, half a cosine to a plateau, the plateau for as long as wanted, exponential anneal
(Ibrahim et al., 2024).

wsd and infinite have a **trunk** that knows no end: any of its checkpoints can be continued by a
**branch**, which cools down from that step, and the trunk goes on for the next branch:
``schedule.branch(start, length)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from medfm.config.run import OptimSettings


@dataclass(frozen=True)
class Schedule:
    """All counts are steps. ``cooldown`` is (first step, length) of the decay of wsd and infinite; None:
    trunk only. ``settle``: length of infinite's descent from ``peak`` to ``plateau``.
    """

    kind: Literal["cosine", "rex", "wsd", "infinite"]
    steps: int
    warmup: int
    start: float
    peak: float
    end: float
    plateau: float = 0.0
    settle: int = 0
    cooldown: tuple[int, int] | None = None

    def branch(self, start: int, length: int) -> Schedule:
        """The same trunk with a cooldown of ``length`` steps from step ``start`` on: what a run uses that
        resumes the trunk's checkpoint of that step. ``ValueError`` where the trunk has not come to rest
        yet.
        """
        if self.kind not in ("wsd", "infinite"):
            raise ValueError(
                f"optim.schedule {self.kind} ends with its steps and has no trunk; use wsd or infinite"
            )
        if start < self.warmup + self.settle:
            raise ValueError(
                f"a cooldown from step {start} starts before the trunk is level ({self.warmup + self.settle})"
            )
        return replace(self, steps=start + length, cooldown=(start, length))

    def lr(self, step: int) -> float:
        """Learning rate of the optimiser step number ``step`` (0 is the first)."""
        if step < self.warmup:
            return self.start + (self.peak - self.start) * step / self.warmup
        if self.cooldown and step >= self.cooldown[0]:
            return self._cooled(_share(step, *self.cooldown))
        if self.kind == "wsd":
            return self.peak
        if self.kind == "infinite":
            return _cosine(self.peak, self.plateau, _share(step, self.warmup, self.settle))
        share = _share(step, self.warmup, self.steps - self.warmup)
        if self.kind == "rex":
            return self.end + (self.peak - self.end) * (1 - share) / (0.5 + 0.5 * (1 - share))
        return _cosine(self.peak, self.end, share)

    def _cooled(self, share: float) -> float:
        if self.kind == "wsd":
            return self.end + (self.peak - self.end) * (1 - math.sqrt(share))
        return self.plateau * (max(self.end, 1e-12) / self.plateau) ** share

    def progress(self, step: int) -> float:
        """0 to 1, for what else moves over a run (weight decay, EMA momentum). A trunk stays at 0 until it
        cools down, so that its checkpoints do not depend on when some branch will end.
        """
        if self.kind in ("wsd", "infinite"):
            return _share(step, *self.cooldown) if self.cooldown else 0.0
        return _share(step, 0, self.steps)


def from_settings(optim: OptimSettings, steps: int) -> Schedule:
    """The schedule of a run of ``steps``; ``optim.cooldown_from`` makes it a branch of a trunk's
    checkpoint.
    """
    warmup = round(optim.warmup * steps)
    schedule = Schedule(optim.schedule, steps, warmup, optim.lr_start, optim.lr, optim.lr_end)
    if optim.schedule not in ("wsd", "infinite"):
        return schedule
    if optim.cooldown_from is not None:
        warmup = min(warmup, optim.cooldown_from)  # the trunk's warm-up lies behind a branch
    first = steps - round(optim.cooldown * steps) if optim.cooldown_from is None else optim.cooldown_from
    settle = (first - warmup) // 2 if optim.schedule == "infinite" else 0
    plateau = optim.lr / 3 if optim.constant_lr is None else optim.constant_lr
    schedule = replace(schedule, warmup=warmup, plateau=plateau, settle=settle)
    return schedule.branch(first, steps - first) if steps > first else schedule


def cosine_between(first: float, last: float, progress: float) -> float:
    """Half a cosine from ``first`` to ``last``; ECG-JEPA's weight decay grows along one."""
    return _cosine(first, last, progress)


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _share(step: int, start: int, length: int) -> float:
    return min(max((step - start) / length, 0.0), 1.0) if length > 0 else 1.0
