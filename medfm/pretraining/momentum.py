"""The slowly moving copy of an encoder that self-distillation predicts."""

from __future__ import annotations

import copy

import torch
from torch import nn


def teacher(online: nn.Module) -> nn.Module:
    """A copy without gradients, for :func:`update`."""
    return copy.deepcopy(online).requires_grad_(False).eval()


@torch.no_grad()
def update(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """``target <- momentum * target + (1 - momentum) * online`` over parameters, in one fused pass."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1.0 - momentum)


@torch.no_grad()
def update_statistics(target: nn.Module, online: nn.Module, momentum: float, step: int) -> None:
    """The same of batch statistics (EMAN, Cai et al., arXiv 2101.08482), but faster in the first steps, when those of
    ``online`` are still on their way from 0 and 1. A network without any is left alone.
    """
    mine, theirs = ([b for b in net.buffers() if b.is_floating_point()] for net in (target, online))
    if mine:
        torch._foreach_lerp_(mine, theirs, 1.0 - min(momentum, (1 + step) / (10 + step)))


def linear(span: tuple[float, float], progress: float) -> float:
    """Momentum that grows linearly from the first to the last value of ``span``."""
    return span[0] + (span[1] - span[0]) * progress
