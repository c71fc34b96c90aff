"""What a run will cost, measured on this machine before it starts."""

from __future__ import annotations

import copy
import time

import numpy as np
import torch

from medfm.data.loader import SignalBatches
from medfm.workflows.pretrain_run import Pretraining
from medfm.workflows.progress import duration
from medfm.workflows.threads import settle_threads

OVERHEAD = 1.08  # callbacks, checkpoints and logging, beside a bare step


def settle(run: Pretraining, batches: SignalBatches) -> None:
    """The CPU threads of the run, measured where the settings leave them open, and saved with them."""
    trial = copy.deepcopy(run.method)
    batch = batches.batch(0)
    settings = run.config.trainer
    settings.threads = settle_threads(settings.threads, lambda: trial.step(batch)[0].backward())
    run.log.info("%d CPU thread(s)", settings.threads)


def seconds_per_step(run: Pretraining, batches: SignalBatches, trials: int) -> float:
    """Median seconds of an optimiser step (all its accumulated batches) on a copy of the method; loading counts."""
    trial = copy.deepcopy(run.method)
    optimizer = trial.configure_optimizers()
    timings = []
    for step in range(trials + 2):
        began = time.perf_counter()
        loss, _ = trial.step(batches.batch(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        timings.append(time.perf_counter() - began)
    accumulate = run.config.trainer.accumulate
    return float(np.median(timings[2:])) * accumulate * OVERHEAD  # the first two warm caches up


def affordable_steps(run: Pretraining, batches: SignalBatches) -> int:
    """As many steps as ``max_seconds`` allows at the measured speed, so that the schedule ends when the time does. On a
    machine with a GPU the steps asked for stand: presets with a limit are made for CPUs."""
    settings = run.config.trainer
    assert settings.max_seconds
    if torch.cuda.is_available():
        return settings.steps
    steps = min(settings.steps, max(20, int(settings.max_seconds / seconds_per_step(run, batches, 6))))
    if steps < settings.steps:
        run.log.info(
            "%d steps fit into %s (asked: %d)", steps, duration(settings.max_seconds), settings.steps
        )
    return steps


def estimate(run: Pretraining, batches: SignalBatches) -> None:
    """Say before the start how long it will take and what it will hold in memory."""
    settings = run.config.trainer
    parameters = sum(p.numel() for p in run.method.parameters())
    trained = sum(p.numel() for p in run.method.parameters() if p.requires_grad)
    # Weights of student and teacher, gradients and two Adam moments, 4 bytes each; activations come on top.
    state = 4 * (parameters + 3 * trained) / 2**20
    # The method is still on the CPU here; on a machine with a GPU only the progress bar knows the time.
    seconds = 0 if torch.cuda.is_available() else settings.steps * seconds_per_step(run, batches, 2)
    run.log.info(
        "%d steps of %d records, %.1f M parameters: %s, %.0f MiB of model state",
        settings.steps,
        settings.batch_size * settings.accumulate,
        parameters / 1e6,
        f"about {duration(seconds)} on this CPU" if seconds else "on the GPU",
        state,
    )
