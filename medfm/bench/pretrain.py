"""What a pretraining step costs: CPU seconds against the frozen plain reference, and samples/s of loader and
step.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medfm.backbones.base import build
from medfm.bench import ecg_jepa_reference as reference
from medfm.bench.xray import bench_xray
from medfm.config.backbones import VIT_SIZES
from medfm.config.methods import ECGJEPASettings
from medfm.config.run import OptimSettings
from medfm.data.loader import Mixture, SignalBatches
from medfm.data.store import CHUNK, Chunk
from medfm.data.store import build as build_store
from medfm.modalities.ecg import ECG
from medfm.pretraining.ecg_jepa import ECGJEPA
from medfm.types import Batch, ConfigError

LEADS, SAMPLES, PATCH, STEPS = 12, 5000, 25, 1000


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
    modality or size. Modality ``xray``: :func:`medfm.bench.xray.bench_xray` at its own sizes.
    """
    if modality == "xray":
        return bench_xray(batch=8, threads=threads, pairs=pairs)
    if modality != "ecg":
        raise ConfigError(f"no pretraining benchmark for modality {modality!r}; known: ecg, xray.")
    if size not in VIT_SIZES:
        raise ConfigError(f"unknown size {size!r}; known: {', '.join(VIT_SIZES)}.")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pair = make_pair(*VIT_SIZES[size], batch=batch)
        times = _interleave(pair.ours, pair.theirs, pairs)
        with tempfile.TemporaryDirectory() as folder:
            loader = _samples_per_s(load or noise_batches(Path(folder), batch).batch)
    finally:
        torch.set_num_threads(before)
    ours, theirs = (statistics.median(t[side] for t in times) for side in ("ours", "reference"))
    ratios = [t["ours"] / t["reference"] for t in times]
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
        "step_samples_per_s": batch / statistics.median(t["wall"] for t in times),
        "loader_samples_per_s": loader,
    }


def _interleave(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int) -> list[dict[str, float]]:
    """CPU seconds of both and wall seconds of ours, turn by turn and with the order swapped every other time,
    so that a noisy neighbour or a warming clock favours neither.
    """
    ours(), theirs()
    times = []
    for index in range(pairs):
        row: dict[str, float] = {}
        for name in ("ours", "reference") if index % 2 == 0 else ("reference", "ours"):
            wall, start = time.perf_counter(), time.process_time()
            (ours if name == "ours" else theirs)()
            row[name] = time.process_time() - start
            if name == "ours":
                row["wall"] = time.perf_counter() - wall
        times.append(row)
    return times


def noise_batches(folder: Path, batch: int, records: int = 128) -> SignalBatches:
    """Training batches, normalised, from a memory-mapped store of 10 s records that is made in ``folder``."""
    modality = ECG(normalise="dataset", mean=[0.0] * LEADS, std=[0.2] * LEADS)

    def chunk(index: int) -> Chunk:
        rows = range(index * CHUNK, min((index + 1) * CHUNK, records))
        rng = np.random.default_rng(index)
        signals = [rng.normal(0, 0.2, (LEADS, SAMPLES)).astype(np.float32) for _ in rows]
        return Chunk(signals, list(rows), [])

    store = build_store(
        {"noise": records}, -(-records // CHUNK), chunk, fs=500.0, channels=modality.channels, root=folder
    )
    return SignalBatches(Mixture([store]), modality, batch, stop=1)


def _samples_per_s(load: Callable[[int], Batch], seconds: float = 2.0) -> float:
    """Samples per wall second of the loader alone, after one batch to warm up."""
    load(0)
    count, step, start = 0, 1, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        count += len(load(step).x)
        step += 1
    return count / passed
