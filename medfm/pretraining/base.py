"""What every self-supervised method shares: optimiser, schedules as functions of the step, randomness by the
step.

A subclass states ``needs``, ``ranks``, ``view_spec``, and writes ``step(batch) -> loss, logs`` and
``encoder``. Nothing but weights and optimiser state is needed to resume exactly: learning rate, weight
decay, momentum and masks are functions of the seed and of ``global_step``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from medfm.backbones.base import Backbone
from medfm.config.base import Settings
from medfm.config.run import OptimSettings
from medfm.pretraining import schedules
from medfm.types import Batch, ConfigError, Truths, ViewSpec

SHAPES = {1: "signals (rank 1)", 2: "pictures (rank 2)", 3: "volumes (rank 3)"}
NEEDED = {
    "Tokens": "tokens, a Vision Transformer (Tokens: backbone.name=vit)",
    "Pyramid": "maps of several scales, a convolutional network (Pyramid: backbone.name=resnet18)",
    "Dense": "a decoder, a segmentation network (Dense: backbone.name=unet3d)",
}


class Method(pl.LightningModule):
    """``backbone`` is trained in place; ``steps`` is the optimiser steps of the whole run.

    ``truths`` are those of the training records, where some are simulated; a method may leave them aside.
    ``logged`` holds the last training step's numbers (loss, lr, weight_decay and the method's own).
    Raises :class:`ConfigError` when the backbone lacks the capability or the rank that the method needs.
    """

    needs: ClassVar[type]
    ranks: ClassVar[tuple[int, ...]]
    # What ``step`` logs that metrics.csv has a column for: parts of the loss, and rates that follow a schedule.
    losses: ClassVar[tuple[str, ...]] = ()
    rates: ClassVar[tuple[str, ...]] = ()
    # What ``collapse_measures`` returns beside the three that every method has.
    measures: ClassVar[tuple[str, ...]] = ()
    # What data.reduce=auto means: "hash" where negatives that show the same do harm, as in contrastive methods.
    reduction: ClassVar[str] = "none"
    # Whether hidden values themselves are predicted (``patches``, ``masks``, ``predict``), so that an error can be shown.
    reconstructs: ClassVar[bool] = False
    # The report's picture: parts hidden (mask), views that are to meet (views), or of the method alone.
    figure: ClassVar[str] = "mask"
    # Words of the report: what was hidden and guessed, and what to do about a collapse.
    title: ClassVar[str] = "What the model had to guess"
    guess: ClassVar[str] = (
        "Parts of each record were hidden, and the network guessed their values from the rest. The loss is the squared "
        "error of that guess: it falls as details are learned, and says little of how useful the features are."
    )
    remedy: ClassVar[str] = "Lower optim.lr."

    @classmethod
    def check(cls, backbone: Backbone) -> None:
        """Refuse what the method cannot train: asked before hours of reading, and again when it is built."""
        if backbone.rank not in cls.ranks:
            able = " and ".join(SHAPES[rank] for rank in cls.ranks)
            raise ConfigError(
                f"method {cls.__name__} is for {able}, and these are {SHAPES[backbone.rank]}: choose another --method."
            )
        if not isinstance(backbone, cls.needs):
            wanted = NEEDED.get(cls.needs.__name__, cls.needs.__name__)
            raise ConfigError(
                f"method {cls.__name__} needs a backbone with {wanted}, which {type(backbone).__name__} has not: set "
                "backbone.name."
            )

    def __init__(
        self,
        backbone: Backbone,
        settings: Settings,
        optim: OptimSettings,
        steps: int,
        seed: int,
        truths: Truths | None = None,
    ) -> None:
        super().__init__()
        self.check(backbone)
        self.backbone, self.settings = backbone, settings
        self.optim, self.steps, self.seed = optim, steps, seed
        self.schedule = schedules.from_settings(optim, steps)
        self.logged: dict[str, float | Tensor] = {}
        self._at = (-1, 0)

    @property
    def view_spec(self) -> ViewSpec:
        return ViewSpec()

    @property
    def patch(self) -> tuple[int, ...]:
        """Size of what is hidden at once, in samples or pixels an axis."""
        return tuple(self.backbone.config()["patch"])

    @property
    @abstractmethod
    def encoder(self) -> Backbone:
        """What is exported."""

    @abstractmethod
    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Loss of one batch and what to log. Deterministic for a seed, ``global_step`` and micro-batch."""

    @abstractmethod
    def collapse_measures(self, batch: Batch) -> dict[str, float]:
        """``target_std``, ``context_std`` and ``effective_rank`` on a fixed batch (see ``diagnostics``)."""

    @classmethod
    def verdict(cls, first: Mapping[str, float], last: Mapping[str, float]) -> str:
        """One sentence when the ``measures`` before and at the end of training say that it learned nothing; else empty."""
        return ""

    def held_out(self, batches: Iterable[Batch]) -> dict[str, float]:
        """How well the method's own task is done on records that it was not trained on, of its ``measures``."""
        return {}

    def compile_blocks(self) -> None:
        """``torch.compile`` of every Transformer block in place, weights and their names unchanged."""
        for module in self.modules():
            if isinstance(module, nn.ModuleList):
                for block in module:
                    block.compile()

    @property
    def micro(self) -> int:
        """Number of this batch among those whose gradients are accumulated into one optimiser step."""
        return self._at[1] if self._at[0] == self.global_step else 0

    def rng(self, purpose: int = 0) -> np.random.Generator:
        """A generator for this step alone: by seed, optimiser step, micro-batch and rank."""
        return np.random.default_rng((self.seed, purpose, self.global_step, self.micro, self.global_rank))

    @property
    def progress(self) -> float:
        """0 to 1 over the run (a wsd or infinite trunk stays at 0)."""
        return self.schedule.progress(self.global_step)

    @property
    def weight_decay(self) -> float:
        return schedules.cosine_between(self.optim.weight_decay, self.optim.weight_decay_end, self.progress)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        step, micro = self._at
        self._at = (self.global_step, micro + 1 if step == self.global_step else 0)
        loss, logs = self.step(batch)
        plain = {k: v.detach() if isinstance(v, Tensor) else v for k, v in logs.items()}
        rates = {"lr": self.schedule.lr(self.global_step), "weight_decay": self.weight_decay}
        self.logged = {"loss": loss.detach(), **rates, **plain}
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; decay on the weights of Linear and Conv layers alone."""
        kinds = (nn.Linear, _ConvNd)
        weights = {id(m.weight) for m in self.modules() if isinstance(m, kinds)}
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if id(p) in weights], "decayed": True},
            {"params": [p for p in trained if id(p) not in weights], "decayed": False},
        ]
        # On a CPU the fused step is several times faster than the loop; on a GPU the default is as fast.
        fused = all(p.device.type == "cpu" for p in trained)
        optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]],
            lr=self.optim.lr,
            betas=self.optim.betas,
            eps=self.optim.eps,
            weight_decay=0.0,
            fused=fused or None,
        )
        self.set_rates(optimizer)
        return optimizer

    def set_rates(self, optimizer: Any) -> None:
        """Learning rate and weight decay of the current ``global_step``."""
        for group in optimizer.param_groups:
            group["lr"] = self.schedule.lr(self.global_step)
            group["weight_decay"] = self.weight_decay if group["decayed"] else 0.0

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By the norm of all gradients. Lightning's own way refuses a fused optimiser in half precision, because its scaler
        may not have been undone yet; a fused one is used on a CPU alone, where nothing is scaled.
        """
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        self.set_rates(optimizer)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
