"""What a training step asks for beside the strategy: mixed pictures, smoothed labels, balanced classes.

mixup (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899) with one share, one partner order and
one box a batch, as published. Both mix the loss by the share, so that an unknown target stays unknown. Neither acts on
the linear probe, which takes no step. B batch, C channels, S axes, K outputs, n records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medfm.finetuning.task import Task


@dataclass(frozen=True)
class Mixed:
    """``x [B, C, *S]`` of which the ``share`` is the record's own and the rest that of its ``partner [B]``."""

    x: Tensor
    present: Tensor
    partner: np.ndarray
    share: float


@dataclass(frozen=True)
class Objective:
    """The defaults change nothing."""

    mix: Literal["none", "cutmix", "mixup"] = "none"
    probability: float = 0.5
    alpha: float = 1.0
    smoothing: float = 0.0
    balance: Literal["none", "sampling"] = "none"

    def mixed(self, x: Tensor, present: Tensor, rng: np.random.Generator) -> Mixed | None:
        """The batch, mixed with ``probability``; None: as it is."""
        if self.mix == "none" or rng.random() >= self.probability:
            return None
        blend = cutmix if self.mix == "cutmix" else mixup
        return blend(x, present, rng, self.alpha)

    def rows(self, task: Task, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The order of an epoch over targets ``y [n, K]``: all once, or n draws in which every class is as likely."""
        if self.balance == "none":
            return rng.permutation(len(y))
        classes = y.argmax(1) if task.kind == "multiclass" else y[:, 0].astype(int)
        weight = 1.0 / np.bincount(classes)[classes]
        return rng.choice(len(y), len(y), p=weight / weight.sum())

    def prior(self, task: Task, y: np.ndarray) -> np.ndarray:
        """``[K]``: how much larger logits are under the prevalence of ``y [n, K]`` than under balanced draws.

        Balanced draws raise the odds of a rare class by what its prevalence is below one half. :meth:`loss` lowers the
        logits by the same, so that those of the network are right at the prevalence of the training records.
        """
        if self.balance == "none":
            return np.zeros(task.outputs)
        count = y.sum(0)
        if task.kind == "multiclass":
            seen = count > 0
            return np.where(seen, np.log(np.maximum(count, 1) * seen.sum() / len(y)), 0.0)
        return np.log(count / (len(y) - count)) if 0 < count[0] < len(y) else np.zeros(1)

    def loss(
        self, task: Task, logits: Tensor, target: Tensor, prior: Tensor, mixed: Mixed | None = None
    ) -> Tensor:
        """Of logits ``[B, K]`` and targets ``[B, K]`` with NaN for unknown; for a mixed batch, ``share`` of the loss by
        its own targets and the rest by its partners'."""
        if self.balance != "none":
            logits = logits - prior
        if self.smoothing:
            even = 1 / task.outputs if task.kind == "multiclass" else 0.5
            target = target * (1 - self.smoothing) + self.smoothing * even
        if mixed is None:
            return task.loss(logits, target)
        other = target[torch.from_numpy(mixed.partner).to(target.device)]
        return mixed.share * task.loss(logits, target) + (1 - mixed.share) * task.loss(logits, other)


def mixup(x: Tensor, present: Tensor, rng: np.random.Generator, alpha: float) -> Mixed:
    """Each record faded into a partner; a channel that either lacks is absent."""
    share, partner = float(rng.beta(alpha, alpha)), rng.permutation(len(x))
    other = torch.from_numpy(partner)
    return Mixed(share * x + (1 - share) * x[other], present & present[other], partner, share)


def cutmix(x: Tensor, present: Tensor, rng: np.random.Generator, alpha: float) -> Mixed:
    """A box (of a signal: an interval) of each record filled from a partner; ``share`` is recounted from the box as it
    lies in the record. A channel that either lacks is absent."""
    size = np.array(x.shape[2:])
    side = size * (1 - rng.beta(alpha, alpha)) ** (1 / len(size))
    centre, partner = rng.integers(0, size), rng.permutation(len(x))
    first = np.clip(np.round(centre - side / 2), 0, size).astype(int)
    last = np.clip(np.round(centre + side / 2), 0, size).astype(int)
    box = (slice(None), slice(None), *(slice(a, b) for a, b in zip(first.tolist(), last.tolist())))
    other = torch.from_numpy(partner)
    x = x.clone()
    x[box] = x[box][other]
    share = 1 - float(np.prod((last - first) / size))
    return Mixed(x, present & present[other], partner, share)
