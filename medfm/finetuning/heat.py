"""Heat maps: where in its input the output of a fine-tuned network comes from, and where a Transformer attends.

Neither changes the network: weights, gradients, statistics and mode stay as they were. B batch, C channels, S spatial or
time axes, D width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medfm.backbones.base import Pyramid
from medfm.backbones.vit import ViT
from medfm.finetuning.heads import FinetuneModel, LinearHead, pool
from medfm.types import Features


@dataclass(frozen=True)
class Heat:
    """``values [*grid]`` of one record, at least 0, a ``cell`` of so many input steps each; those of attention sum to one."""

    values: np.ndarray
    cell: tuple[int, ...]
    name: Literal["grad-cam", "attention"]

    @property
    def strongest(self) -> float:
        """The largest value; of attention, as a multiple of the share that every cell would have of an even one."""
        return float(self.values.max()) * (self.values.size if self.name == "attention" else 1)

    @property
    def shade(self) -> np.ndarray:
        """``[*grid]`` from 0 to 1, the strongest place. Attention counts where it is above its even share."""
        even = 1 / self.values.size if self.name == "attention" else 0.0
        above = np.clip(self.values - even, 0, None)
        return above / (above.max() or 1.0)  # type: ignore[no-any-return]


def heat_map(model: FinetuneModel, x: Tensor, present: Tensor, output: int) -> Heat:
    """Of one record, x ``[1, C, *S]`` and present ``[1, C]``: attention of a ViT, else Grad-CAM of ``output``.

    The model is in evaluation mode.
    """
    assert not model.training and len(x) == 1
    net = model.backbone
    if isinstance(net, ViT):
        return Heat(attention_map(net, x, present)[0].cpu().numpy(), net.patch_embed.patch, "attention")
    values = class_map(model, x, present, output)[0].cpu().numpy()
    return Heat(values, cast(Pyramid, net).strides[-1], "grad-cam")


class _OnMap(nn.Module):
    """A head on the last feature map ``[B, D, *grid]``, which ``maps`` passes on for hooks to see."""

    def __init__(self, head: LinearHead) -> None:
        super().__init__()
        self.maps, self.head = nn.Identity(), copy.deepcopy(head)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pool(Features((self.maps(x),), x), self.head.pool))


def class_map(model: FinetuneModel, x: Tensor, present: Tensor, output: int) -> Tensor:
    """Grad-CAM (Selvaraju et al., arXiv 1610.02391) of one ``output`` on the last feature map: ``[B, *grid]``, at least 0.

    Gradient times activation position by position, as HiResCAM (Draelos and Carin, arXiv 2011.08891): averaged over the
    positions first, as in Grad-CAM, the gradient of a pooled deviation is always zero. For a pooled mean the two are the
    same. Before negative values are cut, all positions together make up the logit less its constant.
    """
    from monai.visualize import GradCAM

    class PositionCAM(GradCAM):
        def compute_map(self, x: Tensor, class_idx: int) -> Tensor:  # type: ignore[override]
            _, (activation,), (gradient,) = self.nn_module(x, class_idx=class_idx)
            return F.relu((gradient * activation).sum(1))

    with torch.no_grad():
        last = model.backbone(x, present).maps[-1].float()
    # Only the head is differentiated, on a copy: a frozen backbone has no gradient to give, and needs none.
    return PositionCAM(_OnMap(model.head), "maps").compute_map(last.requires_grad_(), output).detach()


@torch.no_grad()
def attention_map(vit: ViT, x: Tensor, present: Tensor) -> Tensor:
    """Attention rollout (Abnar and Zuidema, arXiv 2005.00928): the share ``[B, *grid]`` of each patch of the input in the
    patch tokens that the head pools, summing to one.

    Heads are averaged, the residual branch counts half, blocks are multiplied; extra tokens are left out at the end.
    """
    rolled: Any = None
    for weights in vit.attention(x, present):
        mean = weights.float().mean(1)
        step = (mean + torch.eye(mean.shape[1], device=mean.device)) / 2
        rolled = step if rolled is None else step @ rolled
    share = rolled[:, vit.prefix :, vit.prefix :].mean(1)
    return (share / share.sum(1, keepdim=True)).unflatten(1, vit.grid_of(x))
