"""What every backbone answers, so that freezing, layer decay, adapters, export and tests are written once.

B batch, C channels, N tokens, D width. A backbone knows nothing of training.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from medfm.backbones.attention import DropPath
from medfm.types import ConfigError, Features


class Backbone(nn.Module):
    """``forward(x [B, C, *S], present [B, C] | None) -> Features``; an absent channel is NaN in ``x`` and
    zeroed here.
    """

    rank: int
    in_channels: int
    dim: int

    @abstractmethod
    def forward(self, x: Tensor, present: Tensor | None = None) -> Features: ...

    @abstractmethod
    def groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Named parameter groups, stem to top; each parameter stands in exactly one."""

    @property
    @abstractmethod
    def adapter_targets(self) -> list[str]:
        """Full names of the modules (Linear or Conv) that adapters may wrap."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain JSON that rebuilds it: ``build(config)``; holds ``name``."""

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth for a training to come: of n residual blocks, block i (from 0) is dropped at ``rate * i /
        (n - 1)`` while training, as timm and MAE's fine-tuning have it. Evaluation, weights and :meth:`config` stay.
        Raises :class:`ConfigError` where the network has no residual blocks.
        """
        blocks: list[Any] = [m for m in self.modules() if m is not self and hasattr(m, "drop_path")]
        if not blocks:
            raise ConfigError(
                f"{type(self).__name__} has no residual blocks to drop; set finetune.strategy.drop_path=null."
            )
        for i, block in enumerate(blocks):
            share = rate * i / max(len(blocks) - 1, 1)
            block.drop_path = (DropPath(share) if share else nn.Identity()).train(block.training)


@runtime_checkable
class Tokens(Protocol):
    """Capability of token networks: cut patches, embed any subset of them, encode any subset of the
    tokens.
    """

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """Patches an axis of ``x [B, C, *S]``; N is their product."""
        ...

    def patchify(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """``[B, C, *S] -> [B, N, P]``, P values a patch; absent channels and NaN are zero."""
        ...

    def embed(self, patches: Tensor) -> Tensor:
        """``[B, K, P] -> [B, K, D]``, without positions."""
        ...

    def positions(self, grid: tuple[int, ...]) -> Tensor:
        """``[N, D]``, to be added by the caller to the tokens that it encodes."""
        ...

    def tokenize(self, x: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``embed(patchify(x))`` ``[B, N, D]`` and ``positions`` ``[N, D]``."""
        ...

    def encode(self, tokens: Tensor, keep: Tensor | None = None, prefix: bool = False) -> Tensor:
        """``[B, K, D] -> [B, K, D]`` through blocks and final norm; registers are added and removed
        inside. ``keep [B, M]``: only these tokens' outputs are wanted. ``prefix``: return the extra tokens
        too, in front.
        """
        ...


@runtime_checkable
class Pyramid(Protocol):
    """Capability of convolutional networks: feature maps at several resolutions, fine to coarse.

    ``widths[i]`` channels and ``strides[i]`` (input steps a cell, one number an axis) of map i. A network that is
    to learn by SparK brings positions together in its Conv, pooling and normalisation modules alone.
    """

    widths: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        """``x [B, C, *S]`` without NaN to maps ``[B, widths[i], *S / strides[i]]``."""
        ...


@runtime_checkable
class Dense(Protocol):
    """Capability of networks with a decoder: maps at the input's own resolution, from which a mask is read voxel by voxel.

    ``dense_widths[i]`` channels and ``dense_strides[i]`` (input steps a cell, one number an axis) of dense map i, fine to
    coarse; the first has strides of 1. ``has_decoder`` is False where the network was built without its decoder.
    """

    has_decoder: bool
    dense_widths: tuple[int, ...]
    dense_strides: tuple[tuple[int, ...], ...]

    def dense(self, x: Tensor) -> tuple[Tensor, ...]:
        """``x [B, C, *S]`` (NaN throughout in channels that are absent) to maps ``[B, dense_widths[i], *S /
        dense_strides[i]]``, before any classifier."""
        ...


def build(config: dict[str, Any]) -> Backbone:
    """Rebuild a backbone from its :meth:`Backbone.config` (the inverse, up to weights)."""
    from medfm.config.backbones import BACKBONES

    config = dict(config)
    return BACKBONES[config.pop("name")].load()(**config)
