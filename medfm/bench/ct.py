"""The two pretraining steps of CT volumes, each with its loader, beside plain ones that read NIfTI files; from equal weights.

Steps on volumes are bound by convolutions, which both sides have alike, so what is measured is loader and step together.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medfm.backbones.base import build
from medfm.bench import nifti_reference, voco_reference, volume_fusion_reference
from medfm.bench.timers import interleave
from medfm.config.backbones import SEGRESNET_SIZES, UNET3D_SIZES
from medfm.config.methods import VoCoSettings, VolumeFusionSettings
from medfm.config.run import OptimSettings
from medfm.pretraining.base import Method
from medfm.pretraining.voco import VoCo
from medfm.pretraining.volume_fusion import VolumeFusion
from medfm.types import Batch, ConfigError, ViewSpec

STEPS = 1000
OPTIM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "weight_decay_end": 0.01}


@dataclass
class Pair:
    """Both sides of one method. ``prepare`` makes of windows and a generator what the reference's ``train_step`` takes
    after model and optimiser; ``windows``: how many the reference cuts from each file.
    """

    method: Method
    plain: Any
    train_step: Callable[..., Tensor]
    prepare: Callable[[list[Any], np.random.Generator], tuple[Tensor, ...]]
    batch: int
    windows: int = 1
    optimizer: Any = field(init=False)
    plain_optimizer: Any = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = self.method.configure_optimizers()
        self.plain_optimizer = self.plain.optimizer(lr=self.method.schedule.lr(0))

    def ours(self, batch: Batch) -> float:
        """One optimisation step."""
        self.optimizer.zero_grad()
        loss, _ = self.method.step(batch)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def theirs(self, prepared: tuple[Tensor, ...]) -> float:
        return float(self.train_step(self.plain, self.plain_optimizer, *prepared))


def same_order(names: Sequence[str], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under other names, in the order in which both networks have their layers."""
    return dict(zip(names, state.values(), strict=True))


def make_voco(
    batch: int = 2,
    crop: int = 32,
    size: str = "quick",
    hidden: int = 1024,
    whole: bool = False,
    seed: int = 0,
    **options: Any,
) -> Pair:
    """VoCo of 9 base crops and 2 random ones; ``size`` of the SegResNet, ``whole``: the first version with its teacher.
    ``options``: other settings of the method.
    """
    width, blocks = SEGRESNET_SIZES[size]
    kind = {"form": "v1", "teacher": "full", "inter": False, "dropout": 0.0} if whole else {}
    settings = VoCoSettings.model_validate({"projector": (hidden,) * 3, **kind, **options})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        plain = voco_reference.ReferenceVoCo(width, blocks, hidden, whole, settings.dropout)
    shape = {"rank": 3, "in_channels": 1, "input_size": (crop,) * 3}
    backbone = build({"name": "segresnet", **shape, "init_filters": width, "blocks_down": blocks})
    backbone.load_state_dict(same_order(list(backbone.state_dict()), plain.encoder.state_dict()))
    method = VoCo(backbone, settings, OptimSettings.model_validate(OPTIM), STEPS, seed).train()
    method.projector.load_state_dict(plain.student.state_dict())
    assert method.teacher_projector is not None
    method.teacher_projector.load_state_dict(plain.teacher.state_dict())

    def prepare(windows: list[Any], rng: np.random.Generator) -> tuple[Tensor, ...]:
        return voco_reference.prepare(windows, crop, settings.grid[0], settings.crops, rng)

    return Pair(method, plain, voco_reference.train_step, prepare, batch)


def make_volume_fusion(
    batch: int = 2, crop: int = 64, size: str = "quick", seed: int = 0, **options: Any
) -> Pair:
    """Volume Fusion as the authors' code of 2025 has it; ``size`` of the U-Net."""
    settings = VolumeFusionSettings.model_validate(options)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        plain = volume_fusion_reference.ReferenceVolumeFusion(UNET3D_SIZES[size], settings.levels)
    shape = {"rank": 3, "in_channels": 1, "input_size": (crop,) * 3}
    backbone = build({"name": "unet3d", **shape, "features": UNET3D_SIZES[size], "decoder": True})
    method = VolumeFusion(backbone, settings, OptimSettings.model_validate(OPTIM), STEPS, seed).train()
    method.load_state_dict(same_order(list(method.state_dict()), plain.state_dict()))

    def prepare(windows: list[Any], rng: np.random.Generator) -> tuple[Tensor, ...]:
        pairs = list(zip(windows[::2], windows[1::2]))
        return volume_fusion_reference.prepare(pairs, crop, settings.levels, rng)

    return Pair(method, plain, volume_fusion_reference.train_step, prepare, batch, windows=2)


@dataclass
class Race:
    """The four calls that are timed; each step is of what its loader gave last."""

    pair: Pair
    batches: Iterator[Batch]
    files: Sequence[Path]
    spacing: tuple[float, float, float]
    shown: tuple[float, float]
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    taken: int = 0
    batch: Batch | None = None
    prepared: tuple[Tensor, ...] = ()

    def load_ours(self) -> None:
        self.batch = next(self.batches)

    def step_ours(self) -> None:
        assert self.batch is not None
        self.pair.ours(self.batch)

    def load_theirs(self) -> None:
        """A file is read as often as it is drawn, as data sets without a cache do."""
        size, found = self.pair.method.view_spec.size, []
        assert size is not None
        how = (self.spacing, self.shown, size, self.pair.windows, self.rng)
        for _ in range(self.pair.batch):
            path = str(self.files[self.taken % len(self.files)])
            self.taken += 1
            found += nifti_reference.read_windows(path, *how)
        self.prepared = self.pair.prepare(found, self.rng)

    def step_theirs(self) -> None:
        self.pair.theirs(self.prepared)


def measure(
    pair: Pair,
    batches: Iterator[Batch],
    files: Sequence[Path],
    *,
    spacing: tuple[float, float, float] = (1.5, 1.5, 1.5),
    shown: tuple[float, float] = (-175.0, 250.0),
    rounds: int = 5,
) -> dict[str, Any]:
    """Medians over interleaved rounds, in CPU seconds of one batch (``time.process_time``), float32.

    ``batches``: as training reads them, in this process, with the ``view_spec`` of ``pair.method``; ``files``: .nii.gz of the
    same volumes; ``spacing`` in mm and ``shown`` in HU as the batches have them. Keys: ``ours_s`` and ``reference_s`` (loader
    and step), ``ratio`` (median of the rounds' ratios), ``ratios``, and ``ours_loader_s``, ``ours_step_s``,
    ``reference_loader_s``, ``reference_step_s``. Raises :class:`ConfigError` without files.
    """
    if not files:
        raise ConfigError("no NIfTI files to read for comparison: give a folder that holds .nii.gz volumes.")
    race = Race(pair, batches, files, spacing, shown)
    calls = {
        "ours_loader": race.load_ours,
        "ours_step": race.step_ours,
        "reference_loader": race.load_theirs,
        "reference_step": race.step_theirs,
    }
    costs = {name: [c.cpu for c in found] for name, found in interleave(calls, rounds).items()}
    ours, theirs = (
        [a + b for a, b in zip(costs[f"{side}_loader"], costs[f"{side}_step"])]
        for side in ("ours", "reference")
    )
    ratios = [a / b for a, b in zip(ours, theirs)]
    return {
        "ours_s": statistics.median(ours),
        "reference_s": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        **{f"{name}_s": statistics.median(seconds) for name, seconds in costs.items()},
    }


PAIRS: dict[str, Callable[..., Pair]] = {"voco": make_voco, "volume_fusion": make_volume_fusion}


def bench_ct(
    batches: Callable[[ViewSpec, int], Iterator[Batch]],
    folder: Path,
    methods: tuple[str, ...] = ("voco", "volume_fusion"),
    *,
    batch: int = 2,
    threads: int = 1,
    rounds: int = 5,
    spacing: tuple[float, float, float] = (1.5, 1.5, 1.5),
    shown: tuple[float, float] = (-175.0, 250.0),
    **shape: Any,
) -> dict[str, Any]:
    """:func:`measure` of each method on the .nii.gz files below ``folder``, its keys after the method's name.

    ``batches(view_spec, batch)`` gives the batches that training would read. ``shape``: other arguments of the pair, for a
    test. Raises :class:`ConfigError` for a method without a benchmark and for a folder without files.
    """
    if unknown := [m for m in methods if m not in PAIRS]:
        raise ConfigError(
            f"no pretraining benchmark of method {unknown[0]!r} for ct; known: {', '.join(PAIRS)}."
        )
    files = sorted(folder.rglob("*.nii.gz"))
    results: dict[str, Any] = {
        "modality": "ct",
        "batch": batch,
        "threads": threads,
        "rounds": rounds,
        "torch": torch.__version__,
    }
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in methods:
            pair = PAIRS[name](batch, **shape)
            found = measure(
                pair,
                batches(pair.method.view_spec, batch),
                files,
                spacing=spacing,
                shown=shown,
                rounds=rounds,
            )
            results |= {f"{name}_{key}": value for key, value in found.items()}
    finally:
        torch.set_num_threads(before)
    return results
