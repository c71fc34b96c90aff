"""VoCo (Wu, Zhuang and Chen, CVPR 2024, arXiv 2402.17300): tell by its look alone where in a volume a crop was cut.

    q_1..q_k = h(f(base crops))                  a grid of crops that touch, of one window of the volume
    p = h(f(random crop))                        of the same size, anywhere in the window
    y_i = |crop and base i| / |crop|             share of the crop that lies in base i; these sum to one
    l_i = relu(cos(p, q_i))                      the guess of y_i
    loss = prediction(y, l) + inter + base       base: relu(cos(q_i, sg(q_j)))^r, mean over pairs i < j; r 2 or 1

``f`` is the backbone (its maps averaged over space and put together) and what is exported, ``h`` a projector, thrown away.
prediction, with c(v) = -log(v), per volume over its n crops and k bases, then the mean over volumes:

    paper   mean of c(1 - |y - l|)
    v1      sum y c(1 - |y - l|) / sum y  +  mean of l^2 where y = 0;  l is the mean of cos(p, q') and cos(p', q)
    v2      the same, but c(1 - l) where y = 0, and l = relu(cos(p, q'))

q', p' are the teacher's (no gradient), a moving average of f and h (``full``) or of h on the student's features (``head``);
without one they are the student's own, held fixed. inter (v2): the same loss of l between the crops of a volume and the bases
of the next one in the batch, with what the teacher makes of them for y. Paper: ``form=paper grid=[4,4,1] teacher=none
inter=false regulariser=linear projector=[2048,2048,2048] dropout=0``; first repository: ``form=v1 grid=[4,4,1] cut=[96,96,96]
crop=[64,64,64] teacher=full inter=false projector=[2048,2048,2048] dropout=0 shift=.1``; the defaults are the second one.

Departures, all for the reason that runs with flat losses are what users report most: the teacher starts as the student (there
as another random network); everything after h is float32 under autocast (there float16); c is bounded: below ``floor`` it
goes on as its tangent (there -log(1e-6) = 13.8 for a crop on the grid, with slopes up to a million). Dropout zeroes features
of all crops, as meant (theirs zeroes whole crops, because it takes the matrix of them for one sample). With a
grid of several layers overlaps are of volumes, as in nnssl. The value of the loss says little, because a crop close to the
grid costs far more than one between four bases; the position correlation (Pearson of l with y) tells whether anything is
learned, see ``verdict``.

Backbones: any of rank 3. SwinUNETR needs crops of 64 or more, in multiples of 32. A ViT has one map, so that h sees no
fine detail by itself. Networks with batch norm work: a teacher follows its statistics.

B volumes, k bases, n random crops, m = k + n, D width of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.backbones.base import Backbone, Pyramid
from medfm.backbones.patches import silenced
from medfm.config.methods import VoCoSettings
from medfm.config.run import OptimSettings
from medfm.pretraining import diagnostics, momentum
from medfm.pretraining.base import Method
from medfm.types import Batch, ConfigError, Truths, ViewSpec

SHIFT = 0.1  # of values that a modality brings to 0..1
FLAT = 0.3  # a position correlation below this is a flat run,
GAIN = 0.05  # and so is one that is no more than this above the untrained network's
AT_ONCE = 64  # crops in one pass of a measure


def projector(width: int, widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of ``widths`` with batch norm (of what it is given, without scale) and ReLU between."""
    layers: list[nn.Module] = []
    for n, out in enumerate(widths):
        layers += [nn.BatchNorm1d(width, affine=False, track_running_stats=False), nn.ReLU()] if n else []
        layers.append(nn.Linear(width, out))
        width = out
    return nn.Sequential(*layers)


def overlaps(crops: Tensor, bases: Tensor, size: Tensor) -> Tensor:
    """Share of each crop that lies in each base, 0 to 1: first corners ``[B, n, 3]`` and ``[k, 3]``, all of one ``size [3]``,
    to ``[B, n, k]``.
    """
    apart = (crops[:, :, None] - bases).abs()
    return ((size - apart).clamp_min(0) / size).prod(-1)


def bounded_log(v: Tensor, floor: float) -> Tensor:
    """-log(v), and below ``floor`` its tangent there: at most 1 - log(floor), with a slope of at most 1 / floor."""
    held = v.clamp_min(floor)
    return (held - v) / floor - held.log()


def prediction_losses(y: Tensor, guess: Tensor, form: str, floor: float) -> tuple[Tensor, Tensor]:
    """The loss of pairs that overlap and of those that do not, each averaged over volumes; ``y`` and ``guess [B, n, k]``."""
    inside, outside = y > 0, y == 0
    error = bounded_log(1 - (y - guess).abs(), floor)
    if form == "paper":
        positive, negative = ((error * part).mean() for part in (inside, outside))
        return positive, negative
    away = guess.square() if form == "v1" else bounded_log(1 - guess, floor)
    positive = (y * error).sum((1, 2)) / y.sum((1, 2)).clamp_min(1e-6)
    negative = (outside * away).sum((1, 2)) / outside.sum((1, 2)).clamp_min(1)
    return positive.mean(), negative.mean()


def base_loss(q: Tensor, power: int) -> Tensor:
    """Similarity of base crops of one volume, unit ``q [B, k, D]``; of each pair the later one gets no gradient."""
    similar = F.relu(q @ q.detach().mT)
    first, second = torch.triu_indices(q.shape[1], q.shape[1], 1, device=q.device)
    return similar[:, first, second].pow(power).mean()


class VoCo(Method):
    """Encoder = the backbone given; ``teacher_backbone`` and ``teacher_projector`` follow it where there is a teacher.

    ``batch.x`` is one window ``[B, C, *window]``, drawn by the loader at any place of a volume. Raises
    :class:`ConfigError` for a window of another size, and for crops to turn that are no squares.
    """

    needs, ranks = Backbone, (3,)
    losses = ("positive_loss", "negative_loss", "inter_loss", "base_loss")
    measures = ("position_correlation", "similarity_positive", "similarity_negative", "base_cosine")
    figure, title = "positions", "Where the model had to place a crop"
    guess = (
        "Crops were cut from each volume at random, and the network guessed how much each one shares with the crops of a "
        "fixed grid. What counts is the position correlation, of that guess with the true share: 0 is ignorance, 1 is right."
    )
    remedy = "Lower optim.lr, or set method.regulariser=squared."

    def __init__(
        self,
        backbone: Backbone,
        settings: VoCoSettings,
        optim: OptimSettings,
        steps: int,
        seed: int,
        truths: Truths | None = None,
    ) -> None:
        super().__init__(backbone, settings, optim, steps, seed, truths)
        self.options = settings
        self.crop = settings.crop or tuple(backbone.config()["input_size"])
        self.cut = settings.cut or self.crop
        self.window = tuple(g * c for g, c in zip(settings.grid, self.cut))
        self.bases = np.array(list(np.ndindex(*settings.grid))) * self.cut
        if settings.rotate and self.crop[0] != self.crop[1]:
            raise ConfigError(
                f"method voco turns crops in plane, and crops of {self.crop} are no squares: set method.rotate=0 or "
                "method.crop."
            )
        width = sum(backbone.widths) if isinstance(backbone, Pyramid) else backbone.dim
        self.projector = projector(width, settings.projector)
        whole, some = settings.teacher == "full", settings.teacher != "none"
        self.teacher_backbone = momentum.teacher(backbone) if whole else None
        self.teacher_projector = momentum.teacher(self.projector) if some else None
        # U-Nets with instance norms are a third faster so on a CPU, other networks not slower.
        cast(nn.Module, self).to(memory_format=torch.channels_last_3d)

    @property
    def view_spec(self) -> ViewSpec:
        return ViewSpec(size=self.window, augment=self.options.augment)

    @property
    def patch(self) -> tuple[int, ...]:
        return self.crop

    @property
    def encoder(self) -> Backbone:
        return self.backbone

    def train(self, mode: bool = True) -> VoCo:
        super().train(mode)
        if self.teacher_backbone is not None:
            self.teacher_backbone.eval()
        return self

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        if self.micro == 0 and self.training:
            self.follow()
        rng, k = self.rng(), len(self.bases)
        corners = self.corners(len(batch.x), self.options.crops, rng)
        crops, present = self.cropped(batch, corners)
        crops = self.augmented(crops, rng)
        pooled = self.pooled(self.backbone, crops, present)
        student = self.projector(self.dropped(pooled) if self.training else pooled)
        teacher = self.taught(crops, present, pooled, student)
        y = self.labels(corners)
        # Cosines of half precision come in steps of 1/256, and their logarithms in larger ones.
        with torch.autocast(self.device.type, enabled=False):
            unit = (
                F.normalize(z.float(), dim=1).unflatten(0, (-1, k + y.shape[1])) for z in (student, teacher)
            )
            (q, p), (q_taught, p_taught) = ((z[:, :k], z[:, k:]) for z in unit)
            form, floor = self.options.form, self.options.floor
            similar = F.relu(p @ q_taught.mT)
            if form == "v1":
                similar = (similar + F.relu(p_taught @ q.mT)) / 2
            positive, negative = prediction_losses(y, similar, form, floor)
            base = base_loss(q, 2 if self.options.regulariser == "squared" else 1)
            logs = {"positive_loss": positive, "negative_loss": negative, "base_loss": base}
            loss = positive + negative + base
            if self.options.inter:
                wanted, guess = (F.relu(a @ b.roll(-1, 0).mT) for a, b in ((p_taught, q_taught), (p, q)))
                overlapping, apart = prediction_losses(wanted, guess, form, floor)
                inter = overlapping + apart
                loss, logs["inter_loss"] = loss + inter, inter
        return loss, logs

    def corners(self, volumes: int, crops: int, rng: np.random.Generator) -> Tensor:
        """First corners ``[B, m, 3]`` of all crops in their windows, on the processor: bases, then random ones."""
        room = np.array(self.window) - self.cut
        drawn = rng.integers(0, room + 1, (volumes, crops, 3))
        fixed = np.broadcast_to(self.bases, (volumes, *self.bases.shape))
        return torch.from_numpy(np.concatenate([fixed, drawn], 1))

    def labels(self, corners: Tensor) -> Tensor:
        """Overlaps ``[B, n, k]`` on the device."""
        bases, size = torch.from_numpy(self.bases), torch.tensor(self.cut)
        return overlaps(corners[:, len(bases) :], bases, size).to(self.device, non_blocking=True)

    def cropped(self, batch: Batch, corners: Tensor) -> tuple[Tensor, Tensor]:
        """Crops ``[B * m, C, *crop]`` of a batch, absent channels and NaN zero, and ``present [B * m, C]``."""
        if tuple(batch.x.shape[2:]) != self.window:
            raise ConfigError(
                f"method voco cuts windows of {self.window} voxels, and got {tuple(batch.x.shape[2:])}: read volumes with "
                "the view_spec of the method."
            )
        views = silenced(batch.x, batch.present)
        for axis, length in enumerate(self.cut):
            views = views.unfold(2 + axis, length, 1)
        many = corners.shape[1]
        volume = torch.arange(len(batch.x)).repeat_interleave(many)
        places = torch.cat([volume[:, None], corners.flatten(0, 1)], 1).to(batch.x.device, non_blocking=True)
        at, x, y, z = places.unbind(1)
        crops = views[at, :, x, y, z]
        if self.cut != self.crop:
            crops = F.interpolate(crops, self.crop, mode="trilinear", align_corners=False)
        return crops, batch.present.repeat_interleave(many, 0)

    def augmented(self, crops: Tensor, rng: np.random.Generator) -> Tensor:
        """Crops mirrored, turned and made lighter or darker, each by itself and in place; where they were cut stays true."""
        count, options = len(crops), self.options
        for axis in (2, 3, 4):
            rows = torch.from_numpy(np.flatnonzero(rng.random(count) < options.flip)).to(crops.device)
            crops[rows] = crops[rows].flip(axis)
        turns = np.where(rng.random(count) < options.rotate, rng.integers(1, 4, count), 0)
        for turn in (1, 2, 3):
            rows = torch.from_numpy(np.flatnonzero(turns == turn)).to(crops.device)
            crops[rows] = crops[rows].rot90(turn, (2, 3))
        shifts = np.where(rng.random(count) < options.shift, rng.uniform(-SHIFT, SHIFT, count), 0)
        return crops.add_(torch.from_numpy(shifts).to(crops).view(-1, 1, 1, 1, 1))

    def pooled(self, backbone: nn.Module, crops: Tensor, present: Tensor) -> Tensor:
        """Means over space of all maps, side by side ``[B * m, sum of widths]``."""
        return torch.cat([x.flatten(2).mean(2) for x in backbone(crops, present).maps], 1)

    def dropped(self, pooled: Tensor) -> Tensor:
        share = self.options.dropout
        if not share:
            return pooled
        generator = torch.Generator(pooled.device).manual_seed(int(self.rng(1).integers(2**62)))
        keep = torch.rand(pooled.shape, generator=generator, device=pooled.device) >= share
        return pooled * keep / (1 - share)

    @torch.no_grad()
    def taught(self, crops: Tensor, present: Tensor, pooled: Tensor, student: Tensor) -> Tensor:
        """Embeddings ``[B * m, D]`` to be learned from, without gradient."""
        if self.teacher_projector is None:
            return student.detach()
        if self.teacher_backbone is not None:
            pooled = self.pooled(self.teacher_backbone, crops, present)
        taught: Tensor = self.teacher_projector(pooled.detach())
        return taught

    def follow(self) -> None:
        """Teacher <- moving average of the student."""
        m = self.options.momentum
        if self.teacher_projector is not None:
            momentum.update(self.teacher_projector, self.projector, m)
        if self.teacher_backbone is not None:
            momentum.update(self.teacher_backbone, self.backbone, m)
            momentum.update_statistics(self.teacher_backbone, self.backbone, m, self.global_step)

    @torch.no_grad()
    def embedded(self, batch: Batch, corners: Tensor) -> tuple[Tensor, Tensor]:
        """By the student in evaluation, of crops as they are: the exported embeddings and the unit ones ``[B, m, D]``."""
        training = self.backbone.training
        self.backbone.eval()
        crops, present = self.cropped(batch, corners)
        parts = [self.backbone(*part) for part in zip(crops.split(AT_ONCE), present.split(AT_ONCE))]
        self.backbone.train(training)
        pooled = torch.cat([torch.cat([x.flatten(2).mean(2) for x in part.maps], 1) for part in parts])
        unit = F.normalize(self.projector(pooled).float(), dim=1)
        exported = torch.cat([part.pooled for part in parts]).float()
        many = corners.shape[1]
        return exported.unflatten(0, (-1, many)), unit.unflatten(0, (-1, many))

    def pairs(self, batch: Batch, crops: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Of every random crop with every base crop of its volume, the student's similarity and the true overlap, each
        ``[B * crops * k]``. The projector's batch norm takes its statistics from the batch: give several volumes in one.
        """
        corners = self.corners(len(batch.x), crops, np.random.default_rng(seed))
        _, unit = self.embedded(batch.to(self.device), corners)
        k = len(self.bases)
        similar = F.relu(unit[:, k:] @ unit[:, :k].mT)
        return similar.cpu().numpy().ravel(), self.labels(corners).cpu().numpy().ravel()

    def held_out(self, batches: Iterable[Batch]) -> dict[str, float]:
        return {"position_correlation": position_correlation(self, batches)}

    @torch.no_grad()
    def collapse_measures(self, batch: Batch) -> dict[str, float]:
        """Deviation over crops of the student's unit embedding (``target_std``) and of the exported one at unit length, the
        effective rank of the latter, and whether places are told: ``position_correlation`` of similarity with overlap over
        all crop-base pairs, mean similarity of those that overlap and of others (0: none), and mean cosine of a volume's bases.
        """
        corners = self.corners(len(batch.x), max(self.options.crops, 4), np.random.default_rng(self.seed))
        exported, unit = self.embedded(batch, corners)
        y, k = self.labels(corners), len(self.bases)
        cosine = unit[:, :k] @ unit[:, :k].mT
        similar = F.relu(unit[:, k:] @ unit[:, :k].mT)
        return {
            "target_std": diagnostics.spread(unit.flatten(0, 1)),
            "context_std": diagnostics.spread(F.normalize(exported.flatten(0, 1), dim=1)),
            "effective_rank": diagnostics.effective_rank(exported.flatten(0, 1)),
            "position_correlation": pearson(similar.cpu().numpy(), y.cpu().numpy()),
            "similarity_positive": float(similar[y > 0].mean()),
            "similarity_negative": float(torch.where(y == 0, similar, 0).sum() / (y == 0).sum().clamp_min(1)),
            "base_cosine": float((cosine.sum((1, 2)) - k).mean() / (k * (k - 1))),
        }

    @classmethod
    def verdict(cls, first: Mapping[str, float], last: Mapping[str, float]) -> str:
        """One sentence when places are not learned: a position correlation below 0.3, or hardly above the untrained
        network's; empty where they are, or where it was not measured.
        """
        name = "position_correlation"
        if name not in last:
            return ""
        start, end = first.get(name, 0.0), last[name]
        if end >= max(FLAT, min(start + GAIN, 1 - GAIN)):
            return ""
        return (
            f"FLAT: the position correlation is {end:.2f} (untrained {start:.2f}; {FLAT} and a gain of {GAIN} are the least), "
            "so the network does not learn where a crop lies. Try optim.lr=1e-4 or 1e-3, method.teacher=head, more "
            "trainer.steps or trainer.precision=32, and see that crops are smaller than the organs' distances."
        )


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of all values of two arrays; 0 where one is constant."""
    a, b = (v.astype(np.float64).ravel() - v.mean(dtype=np.float64) for v in (a, b))
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 1e-12 else 0.0


def position_correlation(method: VoCo, batches: Iterable[Batch], crops: int = 16, seed: int = 0) -> float:
    """Pearson correlation of the student's similarity with the true overlap, over all pairs of ``crops`` random crops and
    the base crops of every volume, -1 to 1. Batches of windows as training reads them, of volumes that it has not seen;
    equal seeds cut equal crops. The projector's batch norm takes its statistics from each batch: give several volumes in
    one. Raises :class:`ConfigError` for windows of another size.
    """
    parts = [method.pairs(batch, crops, seed + i) for i, batch in enumerate(batches)]
    return pearson(*(np.concatenate(side) for side in zip(*parts))) if parts else 0.0
