"""Training a segmentation by steps: patches in, and how good it is at listed steps out.

A strategy counts epochs; here the ``steps`` of a run are divided evenly into as many spans as it has epochs. Patch and
augmentation of step t follow from (seed, t) alone, so that two arms see the same patches. Of the strategies that begin with
a probe (lp-ft, lora), a first share of the steps trains the head alone, by gradient: there is no closed solution over
voxels. A decoder that was drawn anew learns with the head and at its rate from the first step. K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from medfm.backbones.base import Backbone
from medfm.config.strategies import TrainedSettings
from medfm.finetuning.patches import Places, Sampler, Volumes
from medfm.finetuning.schedules import BETA1, Schedule
from medfm.finetuning.segmentation import DenseHead, SegmentationModel, supervised_loss
from medfm.finetuning.strategies.base import Strategy, freeze, split_decay, train_mode
from medfm.finetuning.tiles import Segmented, enough_memory, segment
from medfm.types import MedfmError

Tick = Callable[[str, int, float], None]
AtMark = Callable[[int, SegmentationModel], bool | None]  # true: that is enough


class HeadOnly(Strategy):
    """linear-probe where there is no closed solution: the classifiers alone, by gradient, on frozen dense maps."""

    def apply(self, model: Any) -> None:
        freeze(model.backbone.parameters())

    def param_groups(self, model: Any) -> list[dict[str, Any]]:
        s = self.settings
        decay = s.weight_decay if s.head_weight_decay is None else s.head_weight_decay
        return split_decay(model.head.named_parameters(), s.head_lr, decay)

    def saved_keys(self, model: Any) -> list[str]:
        own = {f"backbone.{name}" for name in self.fresh}
        return [k for k in model.state_dict() if k.startswith("head.") or k in own]


def dense_strategy(strategy: Strategy) -> Strategy:
    """A strategy that takes no step becomes :class:`HeadOnly`; the others are what they are."""
    if isinstance(strategy.settings, TrainedSettings):
        return strategy
    # A classifier on fixed maps bears a large rate; ours, and not tuned.
    return HeadOnly(TrainedSettings(name=strategy.settings.name, head_lr=1e-2))


@dataclass(frozen=True)
class DenseProblem:
    """What all folds share. ``backbone`` has its decoder; ``fresh`` names those of its parameters that were drawn for it
    and not pretrained. supervise: share of each coarser map's weight; head_share: of the steps, before the rest trains."""

    volumes: Volumes
    places: Places
    classes: int
    backbone: Backbone
    strategy: Callable[[], Strategy]
    size: tuple[int, ...]
    steps: int = 1000
    batch_size: int = 2
    foreground: float = 1 / 3
    supervise: float = 0.5
    background: bool = False
    head_share: float = 0.2
    overlap: float = 0.5
    autocast: bool = False
    fresh: frozenset[str] = frozenset()

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device


@dataclass
class DenseFit:
    """A trained fold: the model in evaluation mode (adapters in place), its strategy, the steps it was trained for, and
    how that number was found: rows of ``{"step", "train", "validation"}``."""

    model: SegmentationModel
    strategy: Strategy
    steps: int
    history: list[dict[str, float]] = field(default_factory=list)


def fit_dense(
    problem: DenseProblem,
    rows: np.ndarray,
    seed: int,
    *,
    held: np.ndarray | None = None,
    validate: Callable[[SegmentationModel, np.ndarray], float] | None = None,
    marks: Sequence[int] = (),
    at_mark: AtMark | None = None,
    tick: Tick | None = None,
) -> DenseFit:
    """Train on ``rows`` for all steps; or, with ``held`` (positions in rows) and ``validate(model, rows) -> larger is
    better``, for the number that was best on those after training without them. ``at_mark(step, model)`` after each of
    ``marks``, the model in evaluation mode."""
    best, history = problem.steps, []
    if held is not None and len(held):
        assert validate is not None
        out = np.zeros(len(rows), bool)
        out[held] = True
        model, strategy = prepare_dense(problem, seed)
        spans = max(1, strategy.epochs)
        ends = sorted({-(-(e + 1) * problem.steps // spans) for e in range(spans)})

        def note(step: int, at: SegmentationModel) -> bool:
            history.append({"step": step, "train": loop.mean(), "validation": validate(at, rows[out])})
            best = max(range(len(history)), key=lambda i: history[i]["validation"])
            patience = strategy.settings.patience
            return patience is not None and len(history) - 1 - best >= patience

        loop = DenseLoop(problem, model, strategy, rows[~out], seed)
        loop.run(problem.steps, ends, note, lambda s, x: tick("selecting steps", s, x) if tick else None)
        best = int(max(history, key=lambda row: row["validation"])["step"])
        del model, strategy, loop
    model, strategy = prepare_dense(problem, seed)
    loop = DenseLoop(problem, model, strategy, rows, seed)
    loop.run(best, marks, at_mark, lambda s, x: tick("training", s, x) if tick else None)
    return DenseFit(model.eval(), strategy, best, history)


def prepare_dense(problem: DenseProblem, seed: int) -> tuple[SegmentationModel, Strategy]:
    """A fresh copy of the backbone, a head drawn from ``seed``, and the strategy applied."""
    torch.manual_seed(seed)
    backbone: Any = copy.deepcopy(problem.backbone)
    widths = backbone.dense_widths if problem.supervise else backbone.dense_widths[:1]
    model = SegmentationModel(backbone, DenseHead(widths, problem.classes + 1)).to(problem.device)
    strategy = dense_strategy(problem.strategy())
    strategy.fresh = problem.fresh
    strategy.apply(model)  # type: ignore[arg-type]
    strategy.regularise(model)  # type: ignore[arg-type]
    return model, strategy


class DenseLoop:
    """The optimiser, its schedule and the patches of one training."""

    def __init__(
        self,
        problem: DenseProblem,
        model: SegmentationModel,
        strategy: Strategy,
        rows: np.ndarray,
        seed: int,
    ) -> None:
        self.problem, self.model, self.strategy, self.seed = problem, model, strategy, seed
        self.settings = strategy.settings
        self.sampler = Sampler(problem.places, problem.volumes.shapes, rows, problem.size, problem.foreground)
        self.fresh = [p for n, p in model.backbone.named_parameters() if _bare(n) in problem.fresh]
        for parameter in self.fresh:  # whatever the strategy froze
            parameter.requires_grad_(True)
        self.flags = [(p, p.requires_grad) for p in model.backbone.parameters()]
        self.schedule = Schedule.of(self.settings, problem.steps)
        self.optimizer = torch.optim.AdamW(self._groups(), betas=(BETA1, 0.999))
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.head_steps = round(problem.head_share * problem.steps) if strategy.starts_from_probe else 0
        self.losses: list[float] = []

    def _groups(self) -> list[dict[str, Any]]:
        """The strategy's, and what was drawn anew at the head's rate, once."""
        fresh = {id(p) for p in self.fresh}
        groups = []
        for group in self.strategy.param_groups(self.model):  # type: ignore[arg-type]
            params = [p for p in group["params"] if id(p) not in fresh]
            groups += [{**group, "params": params}] if params else []
        named = [(n, p) for n, p in self.model.backbone.named_parameters() if id(p) in fresh]
        return [*groups, *split_decay(named, self.settings.head_lr, self.settings.weight_decay)]

    def open(self, epoch: int, head_only: bool) -> None:
        """Which weights train, and the modes; a pure function of both."""
        for parameter, flag in self.flags:
            parameter.requires_grad_(flag)
        self.strategy.on_epoch(self.model, epoch)  # type: ignore[arg-type]
        fresh = {id(p) for p in self.fresh}
        for parameter, _ in self.flags:
            if id(parameter) in fresh:
                parameter.requires_grad_(True)
            elif head_only:
                parameter.requires_grad_(False)
        train_mode(self.model, self.settings.batch_norm)

    def run(
        self, steps: int, marks: Sequence[int], at_mark: AtMark | None, tick: Callable[[int, float], None]
    ) -> None:
        """Steps 0 to ``steps - 1`` of the schedule's."""
        total, epochs = self.problem.steps, max(1, self.strategy.epochs)
        state = None
        for step in range(steps):
            now = (step * epochs // total, step < self.head_steps)
            if now != state:
                self.open(*now)
                state = now
            loss = self.step(step)
            self.losses.append(loss)
            tick(step + 1, loss)
            if at_mark and step + 1 in marks:
                self.model.eval()
                if at_mark(step + 1, self.model):
                    return
                state = None  # modes must be set again

    def step(self, step: int) -> float:
        """One batch, whose patches follow from (seed, step)."""
        problem, device = self.problem, self.problem.device
        rng = np.random.default_rng((self.seed, step))
        torch.manual_seed(int(rng.integers(2**31)))
        for group, peak in zip(self.optimizer.param_groups, self.peaks):
            group["lr"], group["betas"] = peak * self.schedule.share(step), (self.schedule.beta(step), 0.999)
        rows, origins = self.sampler.draw(step * problem.batch_size, problem.batch_size, rng)
        x, target = problem.volumes.patches(rows, origins, problem.size, rng)
        with enough_memory(problem.size):
            with torch.autocast(device.type, torch.bfloat16, enabled=problem.autocast):
                maps = self.model.maps(x.to(device))
                masked = [self.model.head(maps) for _ in range(self.settings.dropout_masks)]
            truth = target.to(device)
            each = [supervised_loss(one, truth, problem.supervise, problem.background) for one in masked]
            loss = each[0] if len(each) == 1 else torch.stack(each).mean()
            if not torch.isfinite(loss):
                raise MedfmError(
                    f"the segmentation loss is no longer a number in step {step + 1}. Lower finetune.strategy.lr and head_lr."
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        if self.settings.grad_clip:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.grad_clip)
        self.optimizer.step()
        return loss.item()

    def mean(self, last: int = 20) -> float:
        """Mean of the latest losses."""
        return float(np.mean(self.losses[-last:]))


def predict_dense(
    problem: DenseProblem,
    model: SegmentationModel,
    row: int,
    *,
    keep: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Segmented:
    """One record, tile by tile; ``keep``: bytes of probabilities that may be kept."""
    model.eval()
    return segment(
        caller(model, problem.autocast),
        lambda origins: problem.volumes.tiles(row, origins, problem.size),
        problem.volumes.shapes[row].tolist(),
        problem.size,
        overlap=problem.overlap,
        keep=keep,
        progress=progress,
    )


def caller(model: SegmentationModel, autocast: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
    """Tiles on whatever device to logits on the model's."""
    device = next(model.parameters()).device

    def call(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            out: torch.Tensor = model(x.to(device))
        return out

    return call


def _bare(name: str) -> str:
    """Without what peft puts between."""
    return name.replace(".base_layer", "")
