"""FROZEN. One Volume Fusion pretraining step of a U-Net in plain PyTorch: a yardstick of ``medfm bench pretrain --modality ct
--method volume_fusion``.

Not changed since it was written, so that a ratio measured today compares with one of last year. It is what a careful reader of
Wang et al. (arXiv 2306.16925) and of what their code does since 2025 would write: two windows of one volume, each enlarged,
mirrored and stretched by scipy and numpy one by one; a grid of blocks painted in a loop; a mixture of the two; a U-Net with
instance norms; half Dice and half cross-entropy. It imports nothing of medfm. B samples, K levels, S voxels an axis.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn


class Double(nn.Sequential):
    def __init__(self, width_in: int, width: int) -> None:
        layers: list[nn.Module] = []
        for i in range(2):
            layers.append(nn.Conv3d(width_in if i == 0 else width, width, 3, padding=1))
            layers += [nn.InstanceNorm3d(width, affine=True), nn.LeakyReLU(0.1, inplace=True)]
        super().__init__(*layers)


class Up(nn.Module):
    def __init__(self, width_in: int, skip: int, width: int, halve: bool) -> None:
        super().__init__()
        between = width_in // 2 if halve else width_in
        self.up = nn.ConvTranspose3d(width_in, between, 2, stride=2)
        self.convs = Double(skip + between, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.convs(torch.cat([skip, self.up(x)], dim=1))


class ReferenceVolumeFusion(nn.Module):
    """U-Net of five stages and a 1x1x1 convolution to K + 1 classes."""

    def __init__(
        self, features: tuple[int, ...] = (16, 16, 32, 64, 128, 16), levels: int = 4, channels: int = 1
    ) -> None:
        super().__init__()
        f = features
        self.conv_0 = Double(channels, f[0])
        self.downs = nn.ModuleList(Double(f[i], f[i + 1]) for i in range(4))
        self.ups = nn.ModuleList(
            Up(f[i], f[i - 1], f[i - 1] if i > 1 else f[5], halve=i > 1) for i in (4, 3, 2, 1)
        )
        self.head = nn.Conv3d(f[5], levels + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.conv_0(x)]
        for down in self.downs:
            maps.append(down(F.max_pool3d(maps[-1], 2)))
        y = maps[4]
        for up, skip in zip(self.ups, maps[3::-1]):
            y = up(y, skip)
        return self.head(y)

    def optimizer(self, lr: float = 1e-3) -> torch.optim.AdamW:
        """Weight decay on the weights of convolutions alone."""
        decayed, plain = (
            [p for p in self.parameters() if (p.ndim > 1) is wanted] for wanted in (True, False)
        )
        groups = [{"params": decayed, "weight_decay": 1e-5}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=lr)


def changed(window: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A part of the window resized to ``[S, S, S]``, mirrored, stretched between percentiles, with a gamma."""
    zoom = rng.uniform(0.7, 1.5)
    part = min(round(size / zoom), *window.shape)
    first = [rng.integers(0, n - part + 1) for n in window.shape]
    x = window[tuple(slice(f, f + part) for f in first)]
    x = ndimage.zoom(x, size / part, order=1)
    for axis in range(3):
        if rng.random() < 0.5:
            x = np.flip(x, axis)
    low, high = np.percentile(x, (rng.uniform(0.1, 2), rng.uniform(98, 99.9)))
    x = np.clip((x - low) / max(high - low, 1e-6), 0, 1)
    return np.ascontiguousarray(x ** rng.uniform(0.7, 1.5), np.float32)


def classes(size: int, levels: int, rng: np.random.Generator) -> np.ndarray:
    """A regular grid of blocks, 7 of 10 of a class 1..K, int64 ``[S, S, S]``."""
    edge = rng.integers(8, 33, 3)
    offset = [rng.integers(0, e) for e in edge]
    out = np.zeros((size, size, size), np.int64)
    counts = [math.ceil((size + o) / e) for o, e in zip(offset, edge)]
    for i in range(counts[0]):
        for j in range(counts[1]):
            for k in range(counts[2]):
                if rng.random() < 0.7:
                    starts = [n * e - o for n, e, o in zip((i, j, k), edge, offset)]
                    box = tuple(slice(max(s, 0), max(s + e, 0)) for s, e in zip(starts, edge))
                    out[box] = rng.integers(1, levels + 1)
    return out


def prepare(
    pairs: list[tuple[np.ndarray, np.ndarray]], size: int, levels: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Two windows a sample to fused volumes ``[B, 1, S, S, S]`` and targets ``[B, S, S, S]``."""
    fused, targets = [], []
    for one, other in pairs:
        front, back = changed(one, size, rng), changed(other, size, rng)
        target = classes(size, levels, rng)
        share = target.astype(np.float32) / levels
        x = share * front + (1 - share) * back
        if rng.random() < 0.25:
            x = 1 - x
        fused.append(x[None])
        targets.append(target)
    return torch.from_numpy(np.stack(fused)), torch.from_numpy(np.stack(targets))


def fusion_loss(logits: Tensor, target: Tensor) -> Tensor:
    share = logits.softmax(dim=1)
    truth = F.one_hot(target, logits.shape[1]).permute(0, 4, 1, 2, 3).float()
    axes = (0, 2, 3, 4)
    dice = (2 * (share * truth).sum(axes) + 1e-5) / (share.sum(axes) + truth.sum(axes) + 1e-5)
    return 0.5 * (1 - dice.mean()) + 0.5 * F.cross_entropy(logits, target)


def train_step(
    model: ReferenceVolumeFusion, optimizer: torch.optim.Optimizer, fused: Tensor, target: Tensor
) -> Tensor:
    """One whole optimisation step; returns the loss."""
    optimizer.zero_grad()
    loss = fusion_loss(model(fused), target)
    loss.backward()
    optimizer.step()
    return loss.detach()
