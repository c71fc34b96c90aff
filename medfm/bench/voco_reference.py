"""FROZEN. One VoCo pretraining step of a SegResNet encoder in plain PyTorch: a yardstick of ``medfm bench pretrain
--modality ct --method voco``.

Not changed since it was written, so that a ratio measured today compares with one of last year. It is what a careful reader of
Wu, Zhuang and Chen (arXiv 2402.17300 and the second version) would write: crops are cut and augmented one by one, base crops
and random crops go through the network one set after the other, losses are summed volume by volume. ``whole``: the first
version's teacher, a copy of network and projector; otherwise the second one's, of the projector alone, with its term between
volumes. It imports nothing of medfm. B volumes, k base crops, n random crops, S voxels an axis, D width.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.conv1 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


class Encoder(nn.Module):
    """SegResNet's encoder; ``forward`` gives the means of all maps, side by side."""

    def __init__(self, width: int, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, width, 3, padding=1, bias=False)
        self.stages = nn.ModuleList()
        for i, count in enumerate(blocks):
            wide = width * 2**i
            down = [nn.Conv3d(wide // 2, wide, 3, 2, 1, bias=False)] if i else []
            self.stages.append(nn.Sequential(*down, *(Block(wide) for _ in range(count))))
        self.width = sum(width * 2**i for i in range(len(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        x, means = self.first(x), []
        for stage in self.stages:
            x = stage(x)
            means.append(F.adaptive_avg_pool3d(x, 1).flatten(1))
        return torch.cat(means, dim=1)


def projector(width: int, hidden: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(3):
        layers.append(nn.Linear(width if i == 0 else hidden, hidden))
        if i < 2:
            layers += [nn.BatchNorm1d(hidden, affine=False, track_running_stats=False), nn.ReLU()]
    return nn.Sequential(*layers)


def cut(window: np.ndarray, corners: np.ndarray, size: int) -> list[np.ndarray]:
    """Crops ``[S, S, S]`` of a window at first voxels ``[m, 3]``."""
    return [window[x : x + size, y : y + size, z : z + size] for x, y, z in corners]


def label(corner: np.ndarray, base: np.ndarray, size: int) -> float:
    """Share of the area that a crop has in common with a base crop."""
    dx = min(corner[0], base[0]) + size - max(corner[0], base[0])
    dy = min(corner[1], base[1]) + size - max(corner[1], base[1])
    return max(dx, 0) * max(dy, 0) / size**2


def augment(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrored, turned, made lighter or darker, each now and then."""
    for axis in range(3):
        if rng.random() < 0.2:
            crop = np.flip(crop, axis)
    if rng.random() < 0.2:
        crop = np.rot90(crop, int(rng.integers(1, 4)), (0, 1))
    if rng.random() < 0.5:
        crop = crop + rng.uniform(-0.1, 0.1)
    return np.ascontiguousarray(crop, np.float32)


def prepare(
    windows: list[np.ndarray], size: int, grid: int, count: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Base crops ``[B, k, 1, S, S, S]``, random crops ``[B, n, 1, S, S, S]`` and labels ``[B, n, k]``."""
    bases = np.array([(i * size, j * size, 0) for i in range(grid) for j in range(grid)])
    all_bases, all_crops, all_labels = [], [], []
    for window in windows:
        corners = np.array([(*rng.integers(0, (grid - 1) * size + 1, 2), 0) for _ in range(count)])
        all_bases.append(np.stack([augment(c, rng) for c in cut(window, bases, size)]))
        all_crops.append(np.stack([augment(c, rng) for c in cut(window, corners, size)]))
        all_labels.append([[label(corner, base, size) for base in bases] for corner in corners])
    tensors = [torch.from_numpy(np.stack(c))[:, :, None] for c in (all_bases, all_crops)]
    return tensors[0], tensors[1], torch.tensor(all_labels)


class ReferenceVoCo(nn.Module):
    """SegResNet's encoder and a projector of three layers."""

    def __init__(
        self,
        width: int = 16,
        blocks: tuple[int, ...] = (1, 2, 2, 4),
        hidden: int = 1024,
        whole: bool = False,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.whole, self.dropout = whole, dropout
        self.encoder = Encoder(width, blocks)
        self.student = projector(self.encoder.width, hidden)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.teacher_encoder = copy.deepcopy(self.encoder).requires_grad_(False) if whole else None

    @torch.no_grad()
    def follow(self, momentum: float = 0.9) -> None:
        pairs = list(zip(self.teacher.parameters(), self.student.parameters()))
        if self.teacher_encoder is not None:
            pairs += list(zip(self.teacher_encoder.parameters(), self.encoder.parameters()))
        for slow, fast in pairs:
            slow.data = momentum * slow.data + (1 - momentum) * fast.data

    def forward(self, bases: Tensor, crops: Tensor, labels: Tensor) -> Tensor:
        B, k = bases.shape[:2]
        n = crops.shape[1]
        features = torch.cat([self.encoder(bases.flatten(0, 1)), self.encoder(crops.flatten(0, 1))])
        student = self.student(F.dropout(features, self.dropout))
        with torch.no_grad():
            if self.teacher_encoder is None:
                seen = features
            else:
                sets = (bases.flatten(0, 1), crops.flatten(0, 1))
                seen = torch.cat([self.teacher_encoder(x) for x in sets])
            teacher = self.teacher(seen)
        q, p = student[: B * k].view(B, k, -1), student[B * k :].view(B, n, -1)
        tq, tp = teacher[: B * k].view(B, k, -1), teacher[B * k :].view(B, n, -1)
        loss = torch.zeros(())
        for i in range(B):
            similar = similarity(p[i], tq[i])
            if self.whole:
                similar = (similar + similarity(tp[i], q[i])) / 2
            loss = loss + prediction_loss(labels[i], similar, squares=self.whole) / B
            loss = loss + base_loss(q[i]) / B
            if not self.whole:
                j = (i + 1) % B
                wanted = similarity(tp[i], tq[j]).detach()
                loss = loss + prediction_loss(wanted, similarity(p[i], q[j]), squares=False) / B
        return loss

    def optimizer(self, lr: float = 1e-4) -> torch.optim.AdamW:
        """Weight decay on the weights of convolutions and linear layers alone."""
        trained = [p for p in self.parameters() if p.requires_grad]
        decayed, plain = ([p for p in trained if (p.ndim > 1) is wanted] for wanted in (True, False))
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=lr)


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """ReLU of cosines ``[n, k]``."""
    return F.relu(F.cosine_similarity(a[:, None], b[None], dim=2))


def prediction_loss(y: Tensor, guess: Tensor, squares: bool) -> Tensor:
    positive = (y * -torch.log(1 - (y - guess).abs() + 1e-6)).sum() / (y.sum() + 1e-6)
    away = guess**2 if squares else -torch.log(1 - guess + 1e-6)
    none = (y == 0).float()
    return positive + (none * away).sum() / (none.sum() + 1e-6)


def base_loss(q: Tensor) -> Tensor:
    k, total = len(q), torch.zeros(())
    for i in range(k):
        for j in range(i + 1, k):
            total = total + F.relu(F.cosine_similarity(q[i], q[j].detach(), dim=0)) ** 2
    return total * 2 / (k * (k - 1))


def train_step(
    model: ReferenceVoCo, optimizer: torch.optim.Optimizer, bases: Tensor, crops: Tensor, labels: Tensor
) -> Tensor:
    """One whole optimisation step; returns the loss."""
    model.follow()
    optimizer.zero_grad()
    loss: Tensor = model(bases, crops, labels)
    loss.backward()
    optimizer.step()
    return loss.detach()
