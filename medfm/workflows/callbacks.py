"""What a training run does beside training: numbers to metrics.csv, progress, checkpoints, collapse guard, probe."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from medfm.types import Batch, MedfmError
from medfm.workflows.progress import Progress

LOG = logging.getLogger("medfm.run")


def move(batch: Batch, device: torch.device) -> Batch:
    return batch.to(device)


class Metrics(pl.Callback):
    """One row a logging step in ``metrics.csv``; on resume, rows past the checkpoint are dropped first, so that the
    file equals the uninterrupted run's. ``losses``, ``rates`` and ``measures``: what the method logs and measures beside
    what every method does."""

    RATES = ("lr", "weight_decay")
    MEASURES = ("target_std", "context_std", "effective_rank", "probe_auroc", "samples_per_s")

    def __init__(
        self,
        path: Path,
        every: int,
        start: int = 0,
        losses: Sequence[str] = (),
        rates: Sequence[str] = (),
        measures: Sequence[str] = (),
    ) -> None:
        self.path, self.every, self.written = path, every, start
        self.fields = ("step", "loss", *losses, *self.RATES, *rates, *self.MEASURES, *measures)
        self.extra: dict[str, float] = {}

    def on_fit_start(self, trainer: pl.Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        rows = [r for r in read_metrics(self.path) if int(r["step"]) <= self.written] if self.written else []
        with self.path.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, self.fields)
            writer.writeheader()
            writer.writerows(rows)

    def add(self, **numbers: float) -> None:
        """Numbers of another callback, written with the next row."""
        self.extra.update(numbers)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self.written:  # a micro-batch of an accumulated step
            return
        if not trainer.is_global_zero or (step % self.every and step != trainer.max_steps and not self.extra):
            return
        numbers = {k: float(v) for k, v in {**module.logged, **self.extra}.items()}
        self.extra, self.written = {}, step
        row = {k: f"{numbers[k]:.6g}" for k in self.fields if k in numbers}
        with self.path.open("a", newline="", encoding="utf-8") as out:
            csv.DictWriter(out, self.fields).writerow({"step": step, **row})


def read_metrics(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


class Bar(pl.Callback):
    """Loss, samples/s and time left."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % 5 == 0 or trainer.global_step == trainer.max_steps:
            self.bar.update(trainer.global_step, loss=float(module.logged.get("loss", math.nan)))


class Checkpoints(pl.Callback):
    """``checkpoints/last.ckpt`` every so many steps, written beside and renamed: a kill never leaves half a file."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every, self.saved = folder, every, 0

    def _save(self, trainer: pl.Trainer) -> None:
        temporary = self.folder / "writing.ckpt"
        try:
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                temporary.replace(self.folder / "last.ckpt")
        finally:
            if trainer.is_global_zero:
                temporary.unlink(missing_ok=True)  # half a file on a full disk would keep it full

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Only where a step has just ended: between two accumulated batches a checkpoint would lose gradients.
        if trainer.global_step % self.every == 0 and trainer.global_step != self.saved:
            self.saved = trainer.global_step
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._save(trainer)


class FiniteLoss(pl.Callback):
    """A loss that is no number ends the run with its remedy; looked at every ``every`` steps (reading it waits for a
    GPU) and before any other callback measures or saves."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps
        if due and not math.isfinite(float(module.logged["loss"])):
            raise MedfmError(
                f"the loss is no longer a number at step {trainer.global_step}. Lower optim.lr, set trainer.grad_clip=1 "
                "or trainer.precision=32, then run again with --resume."
            )


class CollapseGuard(pl.Callback):
    """Measures collapse on one fixed batch: deviation of targets and embeddings over records, and effective rank.

    A collapse is logged the first time it shows; what a method says of its own measures (``verdict``: it learns nothing)
    once, when half of the steps are done.
    """

    def __init__(
        self,
        batch: Batch,
        every: int,
        metrics: Metrics,
        remedy: str = "Lower optim.lr.",
        verdict: Callable[[dict[str, float], dict[str, float]], str] = lambda first, last: "",
    ) -> None:
        self.batch, self.every, self.metrics, self.remedy, self.verdict = (
            batch,
            every,
            metrics,
            remedy,
            verdict,
        )
        self.first: dict[str, float] | None = None
        self.last: dict[str, float] = {}
        self.warned = self.told = False

    def measure(self, module: Any) -> dict[str, float]:
        return {k: float(v) for k, v in module.collapse_measures(move(self.batch, module.device)).items()}

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.first = self.measure(module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every and trainer.global_step != trainer.max_steps:
            return
        self.last = self.measure(module)
        self.metrics.add(**self.last)
        if (sentence := self.problem()) and not self.warned:
            self.warned = True
            LOG.warning("step %d: %s", trainer.global_step, sentence)
        late = trainer.global_step >= trainer.max_steps / 2
        if late and not self.told and (sentence := self.verdict(self.first or {}, self.last)):
            self.told = True
            LOG.warning("step %d: %s", trainer.global_step, sentence)

    def problem(self) -> str:
        """Empty while healthy. Collapse is judged against the network's own start: a tenth of its deviation, or an
        effective rank under two, means that records are no longer told apart."""
        first, last = self.first or {}, self.last
        if last and last["target_std"] < 0.1 * first.get("target_std", 0.0):
            return (
                f"COLLAPSE: the targets' deviation fell to {last['target_std']:.3g} from {first['target_std']:.3g}; every "
                f"record gets nearly the same embedding. {self.remedy}"
            )
        # A handful of records spans few dimensions whatever the network does.
        if last and first.get("effective_rank", 99.0) > 3.0 and last.get("effective_rank", 99.0) < 2.0:
            return f"COLLAPSE: the embeddings span {last['effective_rank']:.1f} effective dimensions. {self.remedy}"
        return ""


class OnlineProbe(pl.Callback):
    """A frozen probe on a fixed labelled set: embeddings as numpy to ``score`` (evaluation), every ``every`` steps."""

    def __init__(
        self,
        score: Callable[[np.ndarray], float],
        embed: Callable[[Any], np.ndarray],
        every: int,
        metrics: Metrics,
    ) -> None:
        self.score, self.embed, self.every, self.metrics = score, embed, every, metrics
        self.history: list[tuple[int, float]] = []

    def run(self, module: Any, step: int) -> float:
        value = self.score(self.embed(module.encoder))
        self.history.append((step, value))
        return value

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % self.every == 0 and step != trainer.max_steps:
            self.metrics.add(probe_auroc=self.run(module, step))
