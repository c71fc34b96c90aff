"""A network that answers at every voxel: a backbone's dense maps, a 1 x 1 x 1 classifier on each, and their loss.

Deep supervision: coarser maps learn from the truth at their own places, each with a share of the weight of the next finer
one. The loss is cross-entropy and Dice at equal weight. B batch, K classes and background (label 0), S spatial axes; -1 in
a target is unknown and enters nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medfm.backbones.base import Backbone, Dense
from medfm.backbones.transfer import with_decoder
from medfm.types import ConfigError

SMOOTH = 1e-5  # of both sides of the Dice quotient, as MONAI has it
DENSE_NAMES = "segresnet, swin_unetr, unet3d, dynunet, pct_net or, for MRI, sequence_vit"


class DenseHead(nn.Module):
    """One 1 x 1 x 1 convolution a supervised map, fine to coarse; the first one answers."""

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.widths, self.outputs = tuple(int(w) for w in widths), outputs
        self.dropout = 0.0  # share of the map's channels zeroed while training; no part of the model
        self.classifiers = nn.ModuleList(nn.Conv3d(width, outputs, 1) for width in self.widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps ``[B, widths[i], *S_i]`` -> logits ``[B, K + 1, *S_i]``, of as many as there are classifiers."""
        if self.dropout and self.training:
            maps = [F.dropout3d(m, self.dropout) for m in maps]
        return [classify(m) for classify, m in zip(self.classifiers, maps)]

    def config(self) -> dict[str, Any]:
        return {"widths": list(self.widths), "outputs": self.outputs}


class SegmentationModel(nn.Module):
    """``forward(x [B, C, *S] without NaN) -> logits [B, K + 1, *S]``; ``head(maps(x))`` gives those of all maps."""

    def __init__(self, backbone: Backbone, head: DenseHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        return cast(Dense, self.backbone).dense(x)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head.classifiers[0](self.maps(x)[0])
        return logits


def dense_backbone(backbone: Backbone) -> tuple[Backbone, frozenset[str]]:
    """``backbone`` with a decoder, and the names of the parameters that were drawn for it (none where it had one).

    Raises :class:`ConfigError` for a network that cannot have a decoder.
    """
    if isinstance(backbone, Dense) and backbone.has_decoder:
        return backbone, frozenset()
    try:
        grown, change = with_decoder(backbone, True)
    except ConfigError as error:
        name = backbone.config().get("name", type(backbone).__name__)
        raise ConfigError(
            f"backbone {name} gives no map of the input's own resolution, so that it cannot draw a mask: use one that has or "
            f"can have a decoder ({DENSE_NAMES})."
        ) from error
    parameters = {name for name, _ in grown.named_parameters()}
    return grown, frozenset(change.new) & parameters


def supervision_weights(maps: int, share: float) -> list[float]:
    """``share ** i`` of map i (0 finest), summing to one; without zeros."""
    raw = [share**i for i in range(maps)]
    return [w / sum(raw) for w in raw if w > 0]


def coarse(target: Tensor, shape: Sequence[int]) -> Tensor:
    """``target [B, *S]`` at the middle of each cell of a coarser grid ``[B, *shape]``."""
    for axis, (n, m) in enumerate(zip(target.shape[1:], shape), 1):
        if n != m:
            at = ((torch.arange(m, device=target.device) + 0.5) * (n / m)).long()
            target = target.index_select(axis, at)
    return target


def supervised_loss(
    logits: Sequence[Tensor], target: Tensor, share: float, background: bool = False
) -> Tensor:
    """Weighted sum of :func:`dice_cross_entropy` over maps; target int64 ``[B, *S]``."""
    weights = supervision_weights(len(logits), share)
    parts = [
        w * dice_cross_entropy(one, coarse(target, one.shape[2:]), background)
        for w, one in zip(weights, logits)
    ]
    return torch.stack(parts).sum()


def dice_cross_entropy(logits: Tensor, target: Tensor, background: bool = False) -> Tensor:
    """Mean cross-entropy over known voxels plus one minus the mean soft Dice; logits ``[B, K + 1, *S]``.

    Dice is taken over the whole batch, of the classes that occur in it (background only where asked for): one that does
    not occur has nothing to overlap with, and the cross-entropy speaks against finding it.
    """
    logits = logits.float()
    known = target >= 0
    if not known.any():
        return logits.sum() * 0.0
    entropy = F.cross_entropy(logits, target.masked_fill(~known, -100), ignore_index=-100)
    p = logits.softmax(1) * known[:, None]
    truth = F.one_hot(target.clamp_min(0), logits.shape[1]).movedim(-1, 1) * known[:, None]
    axes = (0, *range(2, logits.ndim))
    both, total, occurs = (p * truth).sum(axes), p.sum(axes) + truth.sum(axes), truth.sum(axes) > 0
    if not background:
        both, total, occurs = both[1:], total[1:], occurs[1:]
    if not occurs.any():
        return entropy
    dice = (2 * both + SMOOTH) / (total + SMOOTH)
    return entropy + 1 - dice[occurs].mean()
