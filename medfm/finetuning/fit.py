"""Training on one fold: probe first where the strategy asks for it, epochs chosen on inner patients, then all
of them.

A plain loop: a fold here is seconds to minutes, and every number of it follows from (seed, epoch). The steps
are

1. the linear probe (logistic, ridge, discrete hazards) on embeddings of the training records, C by inner patient folds;
2. the strategy trains on the training records without the first inner fold, whose loss chooses the number of
epochs (0 is allowed: the probe as it is);
3. it starts anew on all training records and trains for that many epochs.

The test fold is seen by none of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from medfm.backbones.base import Backbone
from medfm.finetuning.heads import FinetuneModel, LinearHead
from medfm.finetuning.linear import fit_linear
from medfm.finetuning.logistic import standardisation
from medfm.finetuning.objective import Objective
from medfm.finetuning.records import Records, predict_logits
from medfm.finetuning.schedules import BETA1, Schedule
from medfm.finetuning.strategies.base import Strategy
from medfm.finetuning.task import Task
from medfm.types import MedfmError

Tick = Callable[[str, int, float], None]


@dataclass(frozen=True)
class Problem:
    """What all folds share: records, targets ``y [n, K]`` (NaN unknown), embeddings ``z [n, F]`` of the
    frozen backbone, and how to build a strategy (each fold needs its own)."""

    task: Task
    records: Records
    y: np.ndarray
    z: np.ndarray
    backbone: Backbone
    strategy: Callable[[], Strategy]
    batch_size: int = 32
    autocast: bool = False
    objective: Objective = field(default_factory=Objective)

    def fitted(self, rows: np.ndarray) -> Problem:
        """With the task fitted on training ``rows`` alone, and every target encoded by it."""
        task = self.task.fitted(self.y[rows])
        return replace(self, task=task, y=task.encode(self.y))


@dataclass
class Fit:
    """A trained fold: the model in evaluation mode (adapters still in place), its strategy, the task with what it took from
    the training records, and how it went."""

    model: FinetuneModel
    strategy: Strategy
    task: Task
    epochs: int
    history: list[dict[str, float]] = field(default_factory=list)
    strengths: tuple[float, ...] = ()


def fit(
    problem: Problem, rows: np.ndarray, inner: Sequence[np.ndarray], seed: int, tick: Tick | None = None
) -> Fit:
    """Train on ``rows``; ``inner`` holds positions in ``rows``, one validation part for each inner
    patient fold."""
    problem = problem.fitted(rows)
    probe = problem.strategy()
    if not probe.epochs:
        model, strategy, strengths = prepare(problem, probe, rows, inner, seed)
        return Fit(model.eval(), strategy, problem.task, 0, [], strengths)
    held = np.zeros(len(rows), bool)
    held[inner[0]] = True
    start = prepare(problem, probe, rows[~held], _within(inner[1:], held), seed)
    history = train(problem, start[0], start[1], rows[~held], seed, validation=rows[held], tick=tick)
    best = int(min(history, key=lambda row: row["validation"])["epoch"])
    del start
    model, strategy, strengths = prepare(problem, problem.strategy(), rows, inner, seed)
    if best:
        train(problem, model, strategy, rows, seed, epochs=best, tick=tick)
    return Fit(model.eval(), strategy, problem.task, best, history, strengths)


def prepare(
    problem: Problem, strategy: Strategy, rows: np.ndarray, inner: Sequence[np.ndarray], seed: int
) -> tuple[FinetuneModel, Strategy, tuple[float, ...]]:
    """A fresh copy of the backbone with its head at the start that the strategy asks for, fitted on
    ``rows`` only."""
    torch.manual_seed(seed)
    settings = strategy.settings
    model = FinetuneModel(
        copy.deepcopy(problem.backbone), LinearHead(problem.backbone.dim, problem.task.outputs, settings.pool)
    )
    model.to(next(problem.backbone.parameters()).device)
    z, y = problem.z[rows], problem.y[rows]
    strengths: tuple[float, ...] = ()
    if strategy.starts_from_probe:
        solution = fit_linear(z, y, problem.task, inner, settings.strengths)
        model.head.copy_solution(solution.weight, solution.bias, solution.center, solution.scale)
        strengths = solution.strengths
    else:
        zeros = np.zeros((problem.task.outputs, z.shape[1]))
        model.head.copy_solution(zeros, problem.task.prevalence_logits(y), *standardisation(z))
    strategy.apply(model)
    strategy.regularise(model)
    return model, strategy, strengths


def train(
    problem: Problem,
    model: FinetuneModel,
    strategy: Strategy,
    rows: np.ndarray,
    seed: int,
    *,
    validation: np.ndarray | None = None,
    epochs: int | None = None,
    tick: Tick | None = None,
) -> list[dict[str, float]]:
    """Run ``epochs`` (default: the strategy's; the schedule always spans the strategy's). With ``validation``
    rows, one row a epoch of ``{"epoch", "train", "validation"}``, the untrained state as epoch 0, and early
    stopping."""
    settings, loop = strategy.settings, _Loop(problem, model, strategy, rows, seed)
    history: list[dict[str, float]] = []
    if validation is not None:
        history.append({"epoch": 0, "train": math.nan, "validation": _loss(problem, model, validation)})
    for epoch in range(strategy.epochs if epochs is None else epochs):
        strategy.on_epoch(model, epoch)
        mean = loop.epoch(epoch)
        if tick:
            tick("selecting epochs" if validation is not None else "training", epoch + 1, mean)
        if validation is None:
            continue
        history.append({"epoch": epoch + 1, "train": mean, "validation": _loss(problem, model, validation)})
        best = min(range(len(history)), key=lambda i: history[i]["validation"])
        if settings.patience is not None and len(history) - 1 - best >= settings.patience:
            break
    return history


class _Loop:
    """The optimiser, its schedule and the order of the records with a known target."""

    def __init__(
        self, problem: Problem, model: FinetuneModel, strategy: Strategy, rows: np.ndarray, seed: int
    ) -> None:
        self.problem, self.model, self.settings, self.seed = problem, model, strategy.settings, seed
        self.rows = rows[np.isfinite(problem.y[rows]).any(1)]
        self.steps = -(-len(self.rows) // problem.batch_size)
        self.schedule = Schedule.of(self.settings, self.settings.epochs * self.steps)
        self.optimizer = torch.optim.AdamW(strategy.param_groups(model), betas=(BETA1, 0.999))
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.device = next(model.parameters()).device
        prior = problem.objective.prior(problem.task, problem.y[self.rows])
        self.prior = torch.from_numpy(prior.astype(np.float32)).to(self.device)

    def epoch(self, epoch: int) -> float:
        """One pass in an order that follows from (seed, epoch); the mean training loss."""
        rng = np.random.default_rng((self.seed, epoch))
        torch.manual_seed(int(rng.integers(2**31)))
        order = self.problem.objective.rows(self.problem.task, self.problem.y[self.rows], rng)
        total = 0.0
        for step, part in enumerate(np.array_split(self.rows[order], self.steps), epoch * self.steps):
            share, beta = self.schedule.share(step), self.schedule.beta(step)
            for group, peak in zip(self.optimizer.param_groups, self.peaks):
                group["lr"], group["betas"] = peak * share, (beta, 0.999)
            loss = self._loss(part, rng)
            if not torch.isfinite(loss):
                raise MedfmError(
                    f"the fine-tuning loss is no longer a number in epoch {epoch + 1}. Lower "
                    "finetune.strategy.lr, or use "
                    "finetune.strategy.name=linear-probe."
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if self.settings.grad_clip:
                torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.grad_clip)
            self.optimizer.step()
            total += loss.item() * len(part)
        return total / len(self.rows)

    def _loss(self, rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Of one batch, averaged over the head's dropout masks."""
        problem, objective = self.problem, self.problem.objective
        x, present = (part.to(self.device) for part in problem.records.draw(rows, rng))
        target = torch.from_numpy(problem.y[rows].astype(np.float32)).to(self.device)
        if (mixed := objective.mixed(x, present, rng)) is not None:
            x, present = mixed.x, mixed.present
        with torch.autocast(self.device.type, torch.bfloat16, enabled=problem.autocast):
            features = self.model.features(x, present)
            masked = [self.model.head(features) for _ in range(self.settings.dropout_masks)]
        losses = [objective.loss(problem.task, one.float(), target, self.prior, mixed) for one in masked]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()


def _loss(problem: Problem, model: FinetuneModel, rows: np.ndarray) -> float:
    logits = predict_logits(model, problem.records, rows, batch_size=2 * problem.batch_size)
    return float(
        problem.task.loss(torch.from_numpy(logits), torch.from_numpy(problem.y[rows].astype(np.float32)))
    )


def _within(inner: Sequence[np.ndarray], held: np.ndarray) -> list[np.ndarray]:
    """Positions after the held rows are gone."""
    position = np.cumsum(~held) - 1
    return [position[part] for part in inner]
