"""The two pretraining steps of radiographs beside their frozen references, from equal weights, on equal masks."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from medfm.backbones.base import build
from medfm.bench import mae_reference, spark_reference
from medfm.bench.timers import interleave
from medfm.config.methods import MAESettings, SparKSettings
from medfm.config.run import OptimSettings
from medfm.pretraining.base import Method
from medfm.pretraining.mae import MAE
from medfm.pretraining.spark import SparK
from medfm.types import Batch, ConfigError

STEPS, CHANNELS = 1000, 1
# He et al. and Tian et al.: their betas, and one weight decay.
OPTIM = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.05, "weight_decay_end": 0.05}


@dataclass
class Pair:
    """The same step twice. Each call is one optimisation step on the same batch and mask; drawing the mask is part of
    medfm's. ``mask`` is the reference's form of it.
    """

    method: Method
    plain: Any
    train_step: Any
    batch: Batch
    mask: Tensor
    optimizer: Any = field(init=False)
    plain_optimizer: Any = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = self.method.configure_optimizers()
        self.plain_optimizer = self.plain.optimizer(lr=self.method.schedule.lr(0))

    def ours(self) -> float:
        self.optimizer.zero_grad()
        loss, _ = self.method.step(self.batch)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def theirs(self) -> float:
        return float(self.train_step(self.plain, self.plain_optimizer, self.batch.x, self.mask))


def mae_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The MAE reference's tensors under medfm's names; its class token, which has no position, is our register."""
    names = {"mask_token": "decoder.mask_token", "cls_token": "backbone.registers"}
    found = {}
    for name, value in state.items():
        if name.startswith("decoder_"):
            name = name.replace("decoder_", "decoder.", 1)
        elif name.startswith("patch_embed."):
            name = name.replace("patch_embed.", "backbone.patch_embed.proj.", 1)
        else:
            name = names.get(name, f"backbone.{name}")
        found[name] = value
    return found


def spark_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The SparK reference's tensors under medfm's names."""
    lists = {"norms": "norm", "tokens": "token", "projections": "proj"}
    found = {}
    for name, value in state.items():
        first, *rest = name.split(".")
        if first == "encoder":
            name = ".".join(["backbone.net", *rest])
        elif first in lists:
            name = ".".join(["decoder.densify", rest[0], lists[first], *rest[1:]])
        else:
            name = ".".join(["decoder", "blocks" if first == "up" else first, *rest])
        found[name] = value
    return found


def make_mae(batch: int = 8, seed: int = 0, **shape: int) -> Pair:
    """ViT-S/16 on 224 pixels, 90 % hidden, the light decoder; ``shape``: other arguments of the reference."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        plain = mae_reference.ReferenceMAE(channels=CHANNELS, **shape)
        size, dim = plain.patch * round(len(plain.positions) ** 0.5), plain.norm.normalized_shape[0]
        x = torch.randn(batch, CHANNELS, size, size)
    blocks: Any = plain.blocks
    decoder: Any = plain.decoder_blocks
    backbone = build(
        {
            "name": "vit",
            "rank": 2,
            "in_channels": CHANNELS,
            "input_size": (size, size),
            "patch": (plain.patch, plain.patch),
            "dim": dim,
            "depth": len(blocks),
            "heads": blocks[0].attn.heads,
            "bias": True,
            "registers": 1,
        }
    )
    settings = MAESettings(
        decoder_dim=plain.decoder_norm.normalized_shape[0],
        decoder_depth=len(decoder),
        decoder_heads=decoder[0].attn.heads,
    )
    method = MAE(backbone, settings, OptimSettings.model_validate(OPTIM), STEPS, seed).train()
    method.load_state_dict(mae_weights(plain.state_dict()))
    visible, _ = method.masks(batch, len(plain.positions))
    return Pair(method, plain, mae_reference.train_step, _whole(x), visible)


def make_spark(batch: int = 8, seed: int = 0, size: int = 224, decoder_width: int = 768) -> Pair:
    """ResNet-50, 60 % hidden, the paper's decoder, against the mask-multiply form."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        plain = spark_reference.ReferenceSparK(CHANNELS, decoder_width=decoder_width)
        x = torch.randn(batch, CHANNELS, size, size)
    backbone = build({"name": "resnet50", "in_channels": CHANNELS, "input_size": (size, size)})
    settings = SparKSettings(decoder_dim=decoder_width)
    method = SparK(backbone, settings, OptimSettings.model_validate(OPTIM), STEPS, seed).train()
    method.load_state_dict(spark_weights(plain.state_dict()))
    side = size // 32
    visible, _ = method.masks(batch, side**2)
    active = torch.zeros(batch, side**2, dtype=torch.bool).scatter(1, visible, True)
    return Pair(method, plain, spark_reference.train_step, _whole(x), active.view(batch, 1, side, side))


def _whole(x: Tensor) -> Batch:
    return Batch(x, torch.ones(x.shape[:2], dtype=torch.bool))


PAIRS: dict[str, Callable[..., Pair]] = {"mae": make_mae, "spark": make_spark}
NETWORKS = {"mae": "vit_small_patch16_224", "spark": "resnet50"}


def bench_xray(
    methods: tuple[str, ...] = ("mae", "spark"),
    batch: int = 8,
    threads: int = 1,
    pairs: int = 10,
    **shape: int,
) -> dict[str, Any]:
    """Median over interleaved pairs of steps, in CPU seconds (``time.process_time``), float32, of each method.

    Keys, after the method's name: ``ours_s``, ``reference_s``, ``ratio`` (median of the pairs' ratios), ``ratios``,
    ``images_per_s``; and what was run. ``shape``: smaller networks, for a test. Raises :class:`ConfigError` for a
    method without a benchmark.
    """
    if unknown := [m for m in methods if m not in PAIRS]:
        raise ConfigError(
            f"no pretraining benchmark of method {unknown[0]!r} for xray; known: {', '.join(PAIRS)}."
        )
    results: dict[str, Any] = {
        "modality": "xray",
        "batch": batch,
        "threads": threads,
        "pairs": pairs,
        "torch": torch.__version__,
    }
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for method in methods:
            pair = PAIRS[method](batch, **shape)
            costs = interleave({"ours": pair.ours, "reference": pair.theirs}, pairs)
            ratios = [own.cpu / plain.cpu for own, plain in zip(*costs.values())]
            results |= {
                f"{method}_network": NETWORKS[method],
                f"{method}_ours_s": statistics.median(c.cpu for c in costs["ours"]),
                f"{method}_reference_s": statistics.median(c.cpu for c in costs["reference"]),
                f"{method}_ratio": statistics.median(ratios),
                f"{method}_ratios": ratios,
                f"{method}_images_per_s": batch / statistics.median(c.wall for c in costs["ours"]),
            }
    finally:
        torch.set_num_threads(before)
    return results
