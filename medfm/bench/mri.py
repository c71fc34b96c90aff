"""BM-MAE's pretraining step beside its frozen reference, from equal weights and on equal masks: CPU seconds and peak memory."""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medfm.backbones.base import build
from medfm.bench import bm_mae_reference
from medfm.bench.timers import interleave
from medfm.bench.xray import Pair
from medfm.config.methods import BMMAESettings
from medfm.config.run import OptimSettings
from medfm.pretraining.bm_mae import BMMAE
from medfm.types import Batch

STEPS = 1000
OPTIM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.05, "weight_decay_end": 0.05}
# Edge in voxels and batch: what a CPU and what the paper takes.
SHAPES = ((64, 2), (128, 1))
NAMES = {"decoder_": "decoder.", "mask_token": "decoder.mask_token", "sequences": "decoder.sequences"}


def weights(state: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reference's tensors under medfm's names."""
    found = {}
    for name, value in state.items():
        if name.startswith("tokenizers."):
            name = name.replace(".weight", ".proj.weight").replace(".bias", ".proj.bias")
        for theirs, ours in NAMES.items():
            if name.startswith(theirs):
                name = name.replace(theirs, ours, 1)
        found[name] = value.reshape(expected[name].shape)
    return found


def make_bm_mae(batch: int = 2, seed: int = 0, **shape: int) -> Pair:
    """Four sequences of white noise, 75 % hidden; ``shape``: arguments of the reference, whose defaults are the paper's."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        plain = bm_mae_reference.ReferenceBMMAE(**shape)
        channels = len(plain.tokenizers)
        edge = plain.patch * round(len(plain.positions) ** (1 / 3))
        x = torch.randn(batch, channels, *(edge,) * 3)
    blocks: Any = plain.blocks
    decoder: Any = plain.decoder_blocks
    backbone = build(
        {
            "name": "sequence_vit",
            "in_channels": channels,
            "input_size": (edge,) * 3,
            "patch": (plain.patch,) * 3,
            "dim": plain.norm.normalized_shape[0],
            "depth": len(blocks),
            "heads": blocks[0].attn.heads,
            "mlp_dim": blocks[0].mlp.fc1.out_features,
            "decoder": "reconstruction",
            "decoder_dim": plain.decoder_norm.normalized_shape[0],
            "decoder_depth": len(decoder),
            "decoder_heads": decoder[0].attn.heads,
            "decoder_mlp_dim": decoder[0].mlp.fc1.out_features,
        }
    )
    backbone.load_state_dict(weights(plain.state_dict(), backbone.state_dict()))
    settings = BMMAESettings(drop_sequence=0)
    method = BMMAE(backbone, settings, OptimSettings.model_validate(OPTIM), STEPS, seed).train()
    whole = Batch(x, torch.ones(batch, channels, dtype=torch.bool))
    ((_, visible, _),) = method.groups(whole, method.network.sequence_patches(x), method.rng())
    return Pair(method, plain, bm_mae_reference.train_step, whole, visible)


def _child(side: str, batch: int, shape: dict[str, int], threads: int, pipe: Any) -> None:
    torch.set_num_threads(threads)
    pair = make_bm_mae(batch, **shape)
    if side == "ours":
        pair.plain = pair.plain_optimizer = None
    else:
        pair.method = pair.optimizer = None  # type: ignore[assignment]
    gc.collect()
    run = pair.ours if side == "ours" else pair.theirs
    for _ in range(2):
        run()
    pipe.send(_peak())


def _peak() -> int:
    if sys.platform == "linux":  # what getrusage says there is at least the parent's
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_bytes(side: str, batch: int, threads: int = 1, **shape: int) -> int:
    """Most memory that a process of its own holds at once which makes two steps of one side, in bytes; 0 on Windows, where
    it is not measured. Python and torch, about 0.3 GB, count on both sides.
    """
    if sys.platform == "win32":
        return 0
    context = multiprocessing.get_context("spawn")
    mine, other = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(side, batch, shape, threads, other))
    child.start()
    found: int = mine.recv() if mine.poll(600) else 0
    child.join()
    return found


def bench_mri(
    shapes: tuple[tuple[int, int], ...] = SHAPES,
    threads: int = 1,
    pairs: int = 5,
    memory: bool = True,
    **shape: int,
) -> dict[str, Any]:
    """Median over interleaved pairs of steps, in CPU seconds (``time.process_time``), float32, of each edge and batch.

    Keys, after the edge and batch as ``64x2``: ``ours_s``, ``reference_s``, ``ratio`` (median of the pairs' ratios),
    ``ratios``; with ``memory`` also ``ours_peak_bytes``, ``reference_peak_bytes`` and ``memory_ratio``; and what was run.
    ``shape``: other arguments of the reference, for a test.
    """
    results: dict[str, Any] = {
        "modality": "mri",
        "method": "bm_mae",
        "threads": threads,
        "pairs": pairs,
        "torch": torch.__version__,
    }
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for edge, batch in shapes:
            name = f"{edge}x{batch}"
            pair = make_bm_mae(batch, size=edge, **shape)
            costs = interleave({"ours": pair.ours, "reference": pair.theirs}, pairs)
            del pair
            ratios = [own.cpu / plain.cpu for own, plain in zip(*costs.values())]
            results |= {
                f"{name}_ours_s": statistics.median(c.cpu for c in costs["ours"]),
                f"{name}_reference_s": statistics.median(c.cpu for c in costs["reference"]),
                f"{name}_ratio": statistics.median(ratios),
                f"{name}_ratios": ratios,
            }
            if memory:
                peak = {
                    side: peak_bytes(side, batch, threads, size=edge, **shape)
                    for side in ("ours", "reference")
                }
                results |= {f"{name}_{side}_peak_bytes": value for side, value in peak.items()}
                results[f"{name}_memory_ratio"] = peak["ours"] / max(peak["reference"], 1)
    finally:
        torch.set_num_threads(before)
    return results
