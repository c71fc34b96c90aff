"""Volume Fusion (Wang et al., arXiv 2306.16925): segment a volume by how much of another was mixed into it.

    X = a I_f + (1 - a) I_b        voxel by voxel; a in {0, 1/K, .., 1}, constant over patches
    target = round(a K)            K + 1 classes, 0: nothing of the foreground
    logits = 1x1x1 convolution of g(f(X))
    loss = (1 - Dice) / 2 + cross-entropy / 2        Dice is of all classes, of probabilities, over the batch

``f`` and ``g`` are encoder and decoder of a segmentation network (its first dense map; with ``deep_supervision`` also the
coarser ones, against every n-th voxel of the target, each with half the weight of the finer one). Both are exported, so that
a fine-tuning for segmentation starts with a decoder too; the convolution is thrown away.

``pairs``: I_b is another volume, the one before in the batch (``volumes``, the paper), or another window of the same volume
(``same``, the authors' code of 2025). ``patches``: 10 to 40 boxes anywhere, later ones over earlier ones, each of a class 1..K,
edges of an eighth (a sixteenth in plane) to five eighths of the crop, which are the paper's 8 to 40 and 8 to 80 voxels of 64
x 128 x 128 (``2023``); or one regular grid a sample with a random block size and offset, 70 % of its blocks of a class
1..K (``current``). Before fusion each window is enlarged by a factor of ``zoom``, mirrored, stretched between two of its
percentiles, and given a gamma; after it some are made their negative, which is the same as doing so to both parts.

Choices of ours: the factor is one for all axes, and the loader reads windows of ``crop / zoom[0]`` voxels, so that a window
made smaller is still full; zoom, mirroring and place in the window are one trilinear interpolation. Percentiles are those of
every n-th voxel (about 30,000 in all). The loss is float32 under autocast. Dice of guessing by prevalence is 1 / (K + 1), which
is what an untrained network has at most; see ``fusion_dice``.

Backbones: those of rank 3 with a decoder (Dense). A ViT and a ResNet have none.

B samples, C channels, S the crop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.backbones.base import Backbone, Dense
from medfm.backbones.patches import silenced
from medfm.config.methods import VolumeFusionSettings
from medfm.config.run import OptimSettings
from medfm.pretraining import diagnostics
from medfm.pretraining.base import Method
from medfm.types import Batch, ConfigError, Truths, ViewSpec

BOXES = (10, 40)
EDGES = np.array(
    [[1 / 16, 1 / 16, 1 / 8], [5 / 8, 5 / 8, 5 / 8]]
)  # of boxes, shares of the crop: smallest, largest
FOREGROUND = 0.7
PERCENTILES = ((0.1, 2.0), (98.0, 99.9))
GAMMA = (0.7, 1.5)
RANKED = 30_000  # voxels that percentiles are taken from
GAIN = 0.05  # Dice above chance that counts as learned


def painted(first: Tensor, edges: Tensor, classes: Tensor, size: tuple[int, ...]) -> Tensor:
    """Boxes painted one over the other: first voxels and ``edges [B, M, 3]`` (clipped at the border), ``classes [B, M]``, M
    at most 52, to classes ``[B, *S]`` int64, 0 where no box lies. A box of class 0 is none.

    The boxes over a voxel are the bits of one integer, box m the bit m, first along each axis and then together; the highest
    bit is the last box.
    """
    bit = (1 << torch.arange(first.shape[1], device=first.device)) * (classes > 0)
    covering = []
    for axis, length in enumerate(size):
        place = torch.arange(length, device=first.device)
        start = first[:, :, axis, None]
        inside = (place >= start) & (place < start + edges[:, :, axis, None])
        shape = [length if a == axis else 1 for a in range(len(size))]
        covering.append((inside * bit[:, :, None]).sum(1).view(-1, *shape))
    together = covering[0] & covering[1] & covering[2]
    last = torch.frexp(together.double()).exponent.long()  # 0: no box, m + 1: box m
    return F.pad(classes, (1, 0)).gather(1, last.flatten(1)).view(last.shape)


def boxes(rng: np.random.Generator, batch: int, size: tuple[int, ...], levels: int) -> tuple[Tensor, ...]:
    """The paper's patches, for :func:`painted`: first voxels, edges, classes."""
    most = BOXES[1]
    low, high = np.maximum(np.rint(EDGES * size), 1).astype(int)
    edges = rng.integers(low, high + 1, (batch, most, 3))
    first = rng.integers(0, size, (batch, most, 3)) - edges // 2
    drawn = np.arange(most) < rng.integers(BOXES[0], most + 1, (batch, 1))
    classes = rng.integers(1, levels + 1, (batch, most)) * drawn
    return tuple(torch.from_numpy(v) for v in (first, edges, classes))


def tiled(table: Tensor, edges: Tensor, offset: Tensor, size: tuple[int, ...]) -> Tensor:
    """A regular grid of blocks: their classes ``[B, n, n, n]``, ``edges`` and ``offset [B, 3]`` of the grid before the first
    voxel, to classes ``[B, *S]``.
    """
    sample = torch.arange(len(table), device=table.device).view(-1, 1, 1, 1)
    index = []
    for axis, length in enumerate(size):
        place = torch.arange(length, device=table.device) + offset[:, axis, None]
        shape = [length if a == axis else 1 for a in range(len(size))]
        index.append((place // edges[:, axis, None]).view(-1, *shape))
    return table[sample, index[0], index[1], index[2]]


def blocks(
    rng: np.random.Generator, batch: int, size: tuple[int, ...], levels: int, edge: tuple[int, int]
) -> tuple[Tensor, ...]:
    """The current patches, for :func:`tiled`: classes, edges, offset."""
    edges = rng.integers(edge[0], edge[1] + 1, (batch, 3))
    offset = rng.integers(0, edges)
    most = [(s - 1) // edge[0] + 2 for s in size]
    table = rng.integers(1, levels + 1, (batch, *most)) * (rng.random((batch, *most)) < FOREGROUND)
    return tuple(torch.from_numpy(v) for v in (table, edges, offset))


def zoomed(x: Tensor, crop: tuple[int, ...], zoom: Tensor, place: Tensor, mirror: Tensor) -> Tensor:
    """Windows ``x [N, C, *W]`` to ``[N, C, *crop]``: of each the part of ``crop / zoom [N]`` voxels that begins at the share
    ``place [N, 3]`` of what is left over, mirrored where ``mirror [N, 3]``; trilinear.
    """
    window, wanted = (torch.tensor(s, dtype=torch.float32, device=x.device) for s in (x.shape[2:], crop))
    part = (wanted / zoom[:, None]).minimum(window)
    start = place * (window - part)
    scale = torch.where(mirror, -part, part) / window
    theta = torch.zeros(len(x), 3, 4, device=x.device)
    # grid_sample counts axes from the last.
    theta[:, [0, 1, 2], [0, 1, 2]] = scale.flip(1)
    theta[:, :, 3] = ((2 * start + part) / window - 1).flip(1)
    grid = F.affine_grid(theta, [len(x), x.shape[1], *crop], align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def stretched(x: Tensor, low: Tensor, high: Tensor, gamma: Tensor) -> Tensor:
    """``x [N, C, *S]`` with its percentiles ``low`` and ``high [N]`` at 0 and 1, clipped, to the power ``gamma [N]``."""
    ranked = x.flatten(2)[:, :, :: max(1, math.prod(x.shape[2:]) // RANKED) | 1].sort(-1).values

    def percentile(share: Tensor) -> Tensor:
        at = (share / 100 * (ranked.shape[2] - 1)).round().long()
        return ranked.gather(2, at.view(-1, 1, 1).expand(-1, x.shape[1], 1)).view(*x.shape[:2], 1, 1, 1)

    bottom, top = percentile(low), percentile(high)
    shown = ((x - bottom) / (top - bottom).clamp_min(1e-6)).clamp(0, 1)
    return shown ** gamma.view(-1, 1, 1, 1, 1)


def dice(shares: Tensor, target: Tensor) -> Tensor:
    """Of each class, over all voxels of the batch: probabilities ``[B, K + 1, *S]`` and ``target [B, *S]`` to ``[K + 1]``. A
    class that is nowhere, in neither, has 1.
    """
    shares = shares.transpose(0, 1).flatten(1)
    truth = F.one_hot(target.flatten(), len(shares)).T.to(shares)
    both, either = (shares * truth).sum(1), shares.sum(1) + truth.sum(1)
    return (2 * both + 1e-5) / (either + 1e-5)


class VolumeFusion(Method):
    """Encoder = the backbone given, decoder and all; ``heads`` are left behind.

    Raises :class:`ConfigError` for a network without a decoder, and for windows of another size than it asked for.
    """

    needs, ranks = Dense, (3,)
    losses, measures = ("dice_loss", "cross_entropy"), ("fusion_dice", "fusion_dice_chance")
    figure, title = "fusion", "What the model had to take apart"
    guess = (
        "Patches of one volume were mixed into another, and the network told for every voxel how much. The Dice of that "
        "segmentation counts; guessing has 1 / (K + 1)."
    )

    @classmethod
    def check(cls, backbone: Backbone) -> None:
        super().check(backbone)
        if not cast(Dense, backbone).has_decoder:
            raise ConfigError(
                "method VolumeFusion trains a decoder too, and this network is without: set backbone.decoder=true, and "
                "backbone.name=segresnet where the network never has one."
            )

    def __init__(
        self,
        backbone: Backbone,
        settings: VolumeFusionSettings,
        optim: OptimSettings,
        steps: int,
        seed: int,
        truths: Truths | None = None,
    ) -> None:
        super().__init__(backbone, settings, optim, steps, seed, truths)
        self.options, self.levels = settings, settings.levels
        self.crop = settings.crop or tuple(backbone.config()["input_size"])
        self.window = tuple(math.ceil(c / settings.zoom[0]) for c in self.crop)
        dense = cast(Dense, backbone)
        self.strides = dense.dense_strides if settings.deep_supervision else dense.dense_strides[:1]
        self.heads = nn.ModuleList(
            nn.Conv3d(w, self.levels + 1, 1) for w, _ in zip(dense.dense_widths, self.strides)
        )
        # U-Nets with instance norms are a third faster so on a CPU, other networks not slower.
        cast(nn.Module, self).to(memory_format=torch.channels_last_3d)

    @property
    def view_spec(self) -> ViewSpec:
        views = 2 if self.options.pairs == "same" else 1
        return ViewSpec(views=views, place="any", size=self.window, augment=self.options.augment)

    @property
    def patch(self) -> tuple[int, ...]:
        return self.crop

    @property
    def encoder(self) -> Backbone:
        return self.backbone

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        fused, target = self.fused(batch, self.rng())
        maps = self.logits(fused)
        with torch.autocast(self.device.type, enabled=False):
            parts = [self.errors(x.float(), every(target, s)) for x, s in zip(maps, self.strides)]
            weights = [0.5**i / (2 - 0.5 ** (len(parts) - 1)) for i in range(len(parts))]
            overlap, entropy = (sum(w * v for w, v in zip(weights, each)) for each in zip(*parts))
            loss = (overlap + entropy) / 2
        return loss, {"dice_loss": overlap, "cross_entropy": entropy}

    def logits(self, x: Tensor) -> list[Tensor]:
        """Of each supervised map, fine to coarse, ``[B, K + 1, *S / stride]``."""
        return [head(m) for head, m in zip(self.heads, cast(Dense, self.backbone).dense(x))]

    def errors(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """1 - Dice and cross-entropy."""
        return 1 - dice(logits.softmax(1), target).mean(), F.cross_entropy(logits, target)

    @torch.no_grad()
    def fused(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Fused volumes ``[B, C, *crop]`` and their target ``[B, *crop]``, int64, 0..K."""
        front, back, present = self.parts(batch, rng)
        target = self.classes(len(front), rng)
        fused = mixed(front, back, target, self.levels)
        negative = torch.from_numpy(rng.random(len(fused)) < self.options.invert).to(fused.device)
        fused = torch.where(negative.view(-1, 1, 1, 1, 1), 1 - fused, fused)
        return fused * present.view(*present.shape, 1, 1, 1), target

    def parts(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """What is mixed, ``I_f`` and ``I_b [B, C, *crop]``, and the channels that both have ``[B, C]``."""
        if self.options.pairs == "volumes":
            x = self.altered(batch.x, batch.present, rng)
            return x, x.roll(1, 0), batch.present & batch.present.roll(1, 0)
        views = batch.views["views"].flatten(0, 1)
        x = self.altered(views, batch.present.repeat_interleave(2, 0), rng).unflatten(0, (-1, 2))
        return x[:, 0], x[:, 1], batch.present

    def altered(self, x: Tensor, present: Tensor, rng: np.random.Generator) -> Tensor:
        """Windows ``[N, C, *window]`` to ``[N, C, *crop]``, each enlarged, mirrored and stretched by itself."""
        if tuple(x.shape[2:]) != self.window:
            raise ConfigError(
                f"method volume_fusion takes windows of {self.window} voxels, and got {tuple(x.shape[2:])}: read volumes "
                "with the view_spec of the method."
            )
        n, options = len(x), self.options
        zoom, place, mirror = rng.uniform(*options.zoom, n), rng.random((n, 3)), rng.random((n, 3))
        low, high, gamma = (rng.uniform(*span, n) for span in (*PERCENTILES, GAMMA))

        def there(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values.astype(np.float32)).to(x.device, non_blocking=True)

        x = silenced(x, present).float()
        if self.window != self.crop or options.zoom != (1, 1) or options.flip:
            x = zoomed(x, self.crop, there(zoom), there(place), there(mirror) < options.flip)
        return stretched(x, there(low), there(high), there(gamma)) if options.contrast else x

    def classes(self, batch: int, rng: np.random.Generator) -> Tensor:
        """Target ``[B, *crop]`` on the device, in the form of ``patches``."""
        drawn = (batch, self.crop, self.levels)
        if self.options.patches == "2023":
            first, edges, classes = (v.to(self.device) for v in boxes(rng, *drawn))
            return painted(first, edges, classes, self.crop)
        table, edges, offset = (v.to(self.device) for v in blocks(rng, *drawn, self.options.block))
        return tiled(table, edges, offset, self.crop)

    @torch.no_grad()
    def pictured(self, batch: Batch) -> tuple[np.ndarray, ...]:
        """For a report, in evaluation: background, foreground and what was fused of their first channels, the share of the
        foreground (0..K) and the guess of it, each ``[B, 1, *crop]``.
        """
        training = self.training
        self.eval()
        rng = np.random.default_rng(self.seed)
        front, back, _ = self.parts(batch.to(self.device), rng)
        target = self.classes(len(front), rng)
        fused = mixed(front, back, target, self.levels)
        guess = torch.cat([self.logits(part)[0].argmax(1) for part in fused.split(1)])
        self.train(training)
        shown = (back[:, :1], front[:, :1], fused[:, :1], target[:, None], guess[:, None])
        return tuple(x.float().cpu().numpy() for x in shown)

    def held_out(self, batches: Iterable[Batch]) -> dict[str, float]:
        return {"fusion_dice": float(np.mean([self.collapse_measures(b)["fusion_dice"] for b in batches]))}

    @torch.no_grad()
    def collapse_measures(self, batch: Batch) -> dict[str, float]:
        """Of a fixed batch, in evaluation: spread of the encoder's coarsest map over crops from the middle (one encoder:
        ``target_std`` and ``context_std`` are one number), effective rank of the exported embedding, and the Dice of fused
        volumes, the mean over classes of the most probable one (``fusion_dice``), beside that of guessing by prevalence.
        """
        training = self.backbone.training
        self.backbone.eval()
        x, present = batch.x, batch.present
        if self.options.pairs == "same":
            x, present = batch.views["views"].flatten(0, 1), present.repeat_interleave(2, 0)
        for axis, length in enumerate(self.crop):
            x = x.narrow(2 + axis, (x.shape[2 + axis] - length) // 2, length)
        features = self.backbone(x, present)
        fused, target = self.fused(batch, np.random.default_rng(self.seed))
        guess = torch.cat([self.logits(part)[0].argmax(1) for part in fused.split(1)])
        self.backbone.train(training)
        spread = diagnostics.spread(features.maps[-1].flatten(2))
        hard = F.one_hot(guess, self.levels + 1).movedim(-1, 1).float()
        return {
            "target_std": spread,
            "context_std": spread,
            "effective_rank": diagnostics.effective_rank(features.pooled.float()),
            "fusion_dice": float(dice(hard, target).mean()),
            "fusion_dice_chance": 1 / (self.levels + 1),
        }

    @classmethod
    def verdict(cls, first: Mapping[str, float], last: Mapping[str, float]) -> str:
        """One sentence when the Dice of fused volumes is hardly above guessing; empty where it is, or was not measured."""
        if "fusion_dice" not in last or last["fusion_dice"] >= last["fusion_dice_chance"] + GAIN:
            return ""
        return (
            f"FLAT: the Dice of fused volumes is {last['fusion_dice']:.2f}, and guessing has "
            f"{last['fusion_dice_chance']:.2f}: nothing is learned yet. Train for more trainer.steps, raise optim.lr to 1e-3, "
            "or set method.patches=2023 and method.zoom=[1,1], which is easier."
        )


def every(target: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Of ``[B, *S]`` the voxel in the middle of each cell of ``stride``."""
    x, y, z = stride
    return target[:, x // 2 :: x, y // 2 :: y, z // 2 :: z]


def mixed(front: Tensor, back: Tensor, target: Tensor, levels: int) -> Tensor:
    """``a I_f + (1 - a) I_b`` with ``a = target / K`` of every voxel, the same in all channels."""
    return torch.lerp(back, front, (target[:, None] / levels).to(front.dtype))
