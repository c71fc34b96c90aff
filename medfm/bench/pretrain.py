"""What a pretraining step costs: CPU seconds against the frozen plain reference, and samples/s of loader and
step.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medfm.backbones.base import build
from medfm.bench import ecg_jepa_reference as reference
from medfm.bench.load import LEADS, noise_batches, samples_per_s
from medfm.bench.mri import bench_mri
from medfm.bench.phantoms import bench_phantoms
from medfm.bench.timers import interleave
from medfm.bench.xray import bench_xray
from medfm.config.backbones import VIT_SIZES
from medfm.config.methods import ECGJEPASettings
from medfm.config.run import OptimSettings
from medfm.pretraining.ecg_jepa import ECGJEPA
from medfm.types import Batch, ConfigError

SAMPLES, PATCH, STEPS = 5000, 25, 1000


@dataclass
class Pair:
    """The same step twice, from equal weights: medfm's and the reference's. Each call is one optimisation
    step on the same batch and masks; drawing the masks is part of medfm's.
    """

    method: ECGJEPA
    plain: reference.ReferenceECGJEPA
    batch: Batch

    def __post_init__(self) -> None:
        self.optimizer = self.method.configure_optimizers()
        self.plain_optimizer = self.plain.optimizer(lr=self.method.schedule.lr(0))
        tokens = self.batch.x.shape[2] // PATCH
        self.visible, self.masked = self.method.masks(len(self.batch.x), tokens)

    def ours(self) -> float:
        self.optimizer.zero_grad()
        loss, _ = self.method.step(self.batch)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def theirs(self) -> float:
        step = (self.plain, self.plain_optimizer, self.batch.x, self.visible, self.masked)
        return float(reference.train_step(*step))


def make_pair(dim: int, depth: int, heads: int, batch: int, samples: int = SAMPLES, seed: int = 0) -> Pair:
    """Both networks with the same weights, and a batch of white noise (the cost does not depend on what is in
    it).
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        plain = reference.ReferenceECGJEPA(dim, depth, heads, LEADS, samples, PATCH)
        x = torch.randn(batch, LEADS, samples)
    shape = {"rank": 1, "in_channels": LEADS, "input_size": (samples,), "patch": (PATCH,), "registers": 1}
    backbone = build({"name": "vit", **shape, "dim": dim, "depth": depth, "heads": heads})
    method = ECGJEPA(
        backbone, ECGJEPASettings.model_validate({}), OptimSettings.model_validate({}), STEPS, seed
    )
    state = plain.state_dict()
    method.load_state_dict(
        {k.replace("encoder.", "backbone.") if k.startswith("encoder.") else k: v for k, v in state.items()}
    )
    return Pair(method, plain, Batch(x, torch.ones(batch, LEADS, dtype=torch.bool)))


def bench_pretrain(
    modality: str = "ecg",
    size: str = "xs",
    batch: int = 16,
    threads: int = 1,
    pairs: int = 10,
    load: Callable[[int], Batch] | None = None,
) -> dict[str, Any]:
    """Median over interleaved pairs of steps, in CPU seconds (``time.process_time``), float32.

    ``load(k)`` makes batch k as training would (``SignalBatches.batch``); None: a store of noise.
    Keys: ``ours_s``, ``reference_s``, ``ratio`` (median of the pairs' ratios), ``ratios``,
    ``step_samples_per_s``, ``loader_samples_per_s``, and what was run. Raises :class:`ConfigError` for another
    modality or size. Modality ``xray``: :func:`medfm.bench.xray.bench_xray` at its own sizes, ``ct``:
    :func:`medfm.bench.phantoms.bench_phantoms`, ``mri``: :func:`medfm.bench.mri.bench_mri`.
    """
    if modality == "mri":
        return bench_mri(threads=threads)
    if modality == "ct":
        return bench_phantoms(threads=threads)
    if modality == "xray":
        return bench_xray(batch=8, threads=threads, pairs=pairs)
    if modality != "ecg":
        raise ConfigError(f"no pretraining benchmark for modality {modality!r}; known: ecg, xray, ct, mri.")
    if size not in VIT_SIZES:
        raise ConfigError(f"unknown size {size!r}; known: {', '.join(VIT_SIZES)}.")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pair = make_pair(*VIT_SIZES[size], batch=batch)
        costs = interleave({"ours": pair.ours, "reference": pair.theirs}, pairs)
        with tempfile.TemporaryDirectory() as folder:
            loader = samples_per_s(load or noise_batches(Path(folder), batch).batch)
    finally:
        torch.set_num_threads(before)
    ours, theirs = (statistics.median(cost.cpu for cost in side) for side in costs.values())
    ratios = [own.cpu / plain.cpu for own, plain in zip(*costs.values())]
    return {
        "modality": modality,
        "method": "ecg_jepa",
        "size": size,
        "batch": batch,
        "shape": [LEADS, SAMPLES],
        "threads": threads,
        "pairs": pairs,
        "torch": torch.__version__,
        "ours_s": ours,
        "reference_s": theirs,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "step_samples_per_s": batch / statistics.median(cost.wall for cost in costs["ours"]),
        "loader_samples_per_s": loader,
    }
