"""MoCo v3 (Chen, Xie and He, arXiv 2104.02057), and v2 (Chen et al., arXiv 2003.04297) by its settings: find a record's
other view among those of other records.

    theta_k <- m theta_k + (1 - m) theta            moving average, before the keys are made
    q = g(h(f_theta(v))), k = h_k(f_theta_k(v'))    v, v' two augmented views of one record; unit length, no gradient to k
    loss = -log( exp(q k / T) / sum_j exp(q k_j / T) )    InfoNCE, the mean over records and both ways round

``f`` is the backbone (any rank; its ``pooled`` embedding) and what is exported, ``h`` the projector, ``g`` the predictor;
both are thrown away. v3 (``queue=0``): k_j are the other view's keys of the whole batch, over all devices, so the batch is
to be large; ``trainer.accumulate`` adds none. v2 (``queue=65536, projector=[2048, 128], predictor=[], momentum=[.999,
.999]`` with a ResNet-50): k_j are the own key and the keys of past steps, first in first out, and the heads have no batch
norm. The loss at chance is log(1 + others); similarities and how often the own key is the nearest are logged beside it.

Batch norm: a key with the statistics of its batch gives the batch away, and with it the answer; v2 therefore shuffles
records over devices, v3 shares statistics. Here the key backbone uses moving averages of the query backbone's statistics
(EMAN, Cai et al., arXiv 2101.08482), and the key projector those of all keys of the step on all devices, so that no
candidate is marked. Queries use the statistics of their device, of both views at once.

Other departures: v3's factor 2T of the loss is left out (AdamW does not see it) and its frozen random patch projection is
trained; v2's loss is made both ways round, with AdamW for SGD. False negatives: two records of one patient are told apart
like any others; near-duplicates are dropped before (``reduction``), and a queue is best kept below half of the records, or
it holds a record's own older keys.

B records a device, W devices, D width of the keys, Q queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.backbones.base import Backbone
from medfm.config.methods import MoCoSettings
from medfm.config.run import OptimSettings
from medfm.pretraining import diagnostics, momentum
from medfm.pretraining.base import Method
from medfm.pretraining.schedules import cosine_between
from medfm.types import Batch, ConfigError, Truths, ViewSpec


def head(width: int, widths: Sequence[int], norm: bool) -> nn.Sequential:
    """Linear layers of ``widths`` with ReLU between; with ``norm`` each has a batch norm, the last one without scale.
    It uses the statistics of what it is given in training and out of it: a head is never used alone.
    """
    layers: list[nn.Module] = []
    for n, out in enumerate(widths):
        last = n == len(widths) - 1
        layers.append(nn.Linear(width, out, bias=not norm))
        layers += [nn.BatchNorm1d(out, affine=not last, track_running_stats=False)] if norm else []
        layers += [] if last else [nn.ReLU(inplace=True)]
        width = out
    return nn.Sequential(*layers)


def gathered(x: Tensor) -> tuple[Tensor, int]:
    """``[2, B, D]`` of all devices ``[2, W * B, D]``, and where this device's own begin."""
    if not (dist.is_available() and dist.is_initialized()):
        return x, 0
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts, 1), dist.get_rank() * x.shape[1]


class MoCo(Method):
    """Encoder = the backbone given, which makes the queries; ``key_backbone`` and ``key_projector`` follow it."""

    needs, ranks = Backbone, (1, 2, 3)
    losses, rates = ("positive_similarity", "negative_similarity", "own_key_found"), ("momentum",)
    reduction, figure = "hash", "views"
    title = "What the model had to tell apart"
    guess = (
        "Two views of each record were drawn; of one the network finds the other among the views of other records. The loss "
        "is the error of that choice. What differs between two views of a record, the embedding learns to ignore."
    )
    remedy = "Lower optim.lr, or raise trainer.batch_size."

    queue: Tensor
    place: Tensor

    def __init__(
        self,
        backbone: Backbone,
        settings: MoCoSettings,
        optim: OptimSettings,
        steps: int,
        seed: int,
        truths: Truths | None = None,
    ) -> None:
        super().__init__(backbone, settings, optim, steps, seed, truths)
        self.span, self.temperature, self.augment = settings.momentum, settings.temperature, settings.augment
        width, norm = settings.projector[-1], not settings.queue
        self.projector = head(backbone.dim, settings.projector, norm)
        self.predictor = head(width, settings.predictor, norm)
        self.key_backbone, self.key_projector = momentum.teacher(backbone), momentum.teacher(self.projector)
        start = torch.randn(settings.queue, width, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("queue", F.normalize(start, dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @property
    def view_spec(self) -> ViewSpec:
        return ViewSpec(views=2, augment=self.augment)

    @property
    def encoder(self) -> Backbone:
        return self.backbone

    def train(self, mode: bool = True) -> MoCo:
        super().train(mode)
        self.key_backbone.eval()
        return self

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        m = cosine_between(*self.span, self.progress)
        if self.micro == 0 and self.training:
            self.follow(m)
        x = batch.views["views"].transpose(0, 1).flatten(0, 1)
        present = batch.present.repeat(2, 1)
        queries = self.predictor(self.projector(self.backbone(x, present).pooled))
        keys, first = self.keys(x, present)
        # The exponents of half precision are coarse: 0.01 of similarity is e^0.05 of a candidate's share.
        with torch.autocast(self.device.type, enabled=False):
            q, k = (F.normalize(z.float(), dim=1).unflatten(0, (2, -1)) for z in (queries, keys))
            similarity, own = self.similarities(q, k, first)
            loss = F.cross_entropy(similarity / self.temperature, own)
        if self.training:
            self.enqueue(k.flatten(0, 1))
        return loss, {"momentum": m, **_found(similarity.detach(), own)}

    @torch.no_grad()
    def keys(self, x: Tensor, present: Tensor) -> tuple[Tensor, int]:
        """Both views ``x [2 B, C, *S]`` of the records to the keys ``[2 W B, D]`` of all devices, not yet of unit length,
        and where in each view this device's own begin.
        """
        pooled, first = gathered(self.key_backbone(x, present).pooled.unflatten(0, (2, -1)))
        return self.key_projector(pooled.flatten(0, 1)), first

    def similarities(self, q: Tensor, k: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Unit queries ``[2, B, D]`` and the keys of all devices ``[2, W * B, D]``, both by view, to the cosine of every
        query with its candidates ``[2 B, n]``, and which of them is its own ``[2 B]``.
        """
        other, records = k.flip(0), q.shape[1]
        if len(self.queue):
            positive = (q * other[:, first : first + records]).sum(2).view(-1, 1)
            # A copy, because the queue changes before the gradient is taken.
            negative = q.flatten(0, 1) @ self.queue.clone().T
            return torch.cat([positive, negative], 1), torch.zeros_like(positive[:, 0], dtype=torch.long)
        if k.shape[1] < 2:
            raise ConfigError(
                "method moco has no other record to tell this one from: set trainer.batch_size to 2 or more, or "
                "method.queue."
            )
        own = torch.arange(first, first + records, device=q.device).repeat(2)
        return (q @ other.mT).flatten(0, 1), own

    @torch.no_grad()
    def follow(self, m: float) -> None:
        """Key network <- moving average of the query network: weights by ``m``, batch statistics too, but faster in the
        first steps, when those of the query network are still on their way from 0 and 1.
        """
        momentum.update(self.key_projector, self.projector, m)
        momentum.update(self.key_backbone, self.backbone, m)
        networks = (self.key_backbone, self.backbone)
        mine, theirs = ([b for b in net.buffers() if b.is_floating_point()] for net in networks)
        if mine:
            quick = min(m, (1 + self.global_step) / (10 + self.global_step))
            torch._foreach_lerp_(mine, theirs, 1.0 - quick)

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Unit keys ``[n, D]`` in the place of the oldest, going round."""
        if not len(self.queue):
            return
        if len(keys) > len(self.queue):
            raise ConfigError(
                f"method.queue={len(self.queue)} does not hold the {len(keys)} keys of one step: raise it, or lower "
                "trainer.batch_size."
            )
        self.queue[(self.place + torch.arange(len(keys), device=keys.device)) % len(self.queue)] = keys
        self.place.add_(len(keys)).remainder_(len(self.queue))

    @torch.no_grad()
    def collapse_measures(self, batch: Batch) -> dict[str, float]:
        """Deviation over records of the embedding at unit length, of the key network and of the exported one, and the
        effective rank of the latter. Leaves running statistics alone.
        """
        training = self.backbone.training
        pooled = self.backbone.eval()(batch.x, batch.present).pooled.float()
        self.backbone.train(training)
        target = self.key_backbone(batch.x, batch.present).pooled.float()
        return {
            "target_std": diagnostics.spread(F.normalize(target, dim=1)),
            "context_std": diagnostics.spread(F.normalize(pooled, dim=1)),
            "effective_rank": diagnostics.effective_rank(pooled),
        }


def _found(similarity: Tensor, own: Tensor) -> dict[str, Tensor]:
    """Mean cosine with the own key and with the others, and how often the own one is the nearest."""
    positive = similarity.gather(1, own[:, None]).squeeze(1)
    others = (similarity.sum(1) - positive) / (similarity.shape[1] - 1)
    return {
        "positive_similarity": positive.mean(),
        "negative_similarity": others.mean(),
        "own_key_found": (similarity.argmax(1) == own).float().mean(),
    }
