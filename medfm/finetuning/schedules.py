"""Learning rates of a fine-tuning as pure functions of the step, so that nothing of them needs to be kept.

cosine: linear warm-up, half a cosine to the end. one-cycle: half a cosine up to the peak and half a cosine down, while
momentum goes the other way (Smith and Topin, arXiv 1708.07120), step for step what torch's ``OneCycleLR`` gives. rex and
wsd: the shapes of ``pretraining.schedules``, which this room does not know. A schedule spans all the epochs of the
settings, however many of them are run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from medfm.config.strategies import TrainedSettings

BETA1 = 0.9
# torch's own: a cycle starts at a 25th of the peak and ends at a ten-thousandth of that.
FIRST, LAST = 1 / 25, 1 / 25 / 1e4
MOMENTUM = (0.95, 0.85)  # at the ends of a cycle, and at its peak


@dataclass(frozen=True)
class Schedule:
    """``share(step)`` of the peak rate, and AdamW's first ``beta(step)``, of step 0 to ``steps - 1``."""

    kind: str
    steps: int
    warmup: float = 0.1
    cooldown: float = 0.2
    end: float = 0.0

    @classmethod
    def of(cls, settings: TrainedSettings, steps: int) -> Schedule:
        return cls(settings.schedule, steps, settings.warmup, settings.cooldown, settings.end_share)

    def share(self, step: int) -> float:
        if self.kind == "one-cycle":
            return self._cycle(step, FIRST, 1.0, LAST)
        done = (step + 0.5) / self.steps  # in the middle of the step
        if done < self.warmup:
            return done / self.warmup
        left = min(1.0, (done - self.warmup) / (1 - self.warmup))
        return self.end + (1 - self.end) * self._shape(done, left)

    def _shape(self, done: float, left: float) -> float:
        """1 to 0 over what follows the warm-up; ``left`` is the share of that, ``done`` of everything."""
        if self.kind == "rex":
            return (1 - left) / (0.5 + 0.5 * (1 - left))
        if self.kind == "wsd":
            return 1 - math.sqrt(max(0.0, (done - 1 + self.cooldown) / self.cooldown))
        return 0.5 * (1 + math.cos(math.pi * left))

    def beta(self, step: int) -> float:
        ends, peak = MOMENTUM
        return self._cycle(step, ends, peak, ends) if self.kind == "one-cycle" else BETA1

    def _cycle(self, step: int, first: float, peak: float, last: float) -> float:
        top, end = (
            self.warmup * self.steps - 1,
            self.steps - 1,
        )  # as torch counts: the peak may lie between steps
        if step <= top and top > 0:
            return _cosine(first, peak, step / top)
        top = max(top, 0.0)
        return _cosine(peak, last, (step - top) / (end - top) if end > top else 1.0)


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * share))
