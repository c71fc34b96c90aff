"""What networks for volumes share: sizes that they can take, an encoder, a decoder that may be left out, groups.

The network stands in ``net`` under its makers' names; a subclass says in which order its parts work. B batch, C channels,
S voxels an axis, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medfm.backbones.base import Backbone
from medfm.backbones.patches import silenced
from medfm.types import ConfigError, Features

Parts = list[tuple[str, list[nn.Module]]]


class VolumeNet(Backbone):
    """A network for volumes with the capabilities ``Pyramid`` and, with its decoder, ``Dense``.

    ``forward`` runs the encoder alone; ``pooled`` is the mean of the coarsest map, ``[B, D]``. ``by_position``: its norms
    compare the positions of one record, so that a coarsest map of a single one has no deviation. Raises
    :class:`ConfigError` for sizes that are no multiple of the total stride.
    """

    name: ClassVar[str]
    by_position: bool = False
    net: Any

    def __init__(
        self,
        net: nn.Module,
        *,
        rank: int,
        in_channels: int,
        input_size: Sequence[int],
        decoder: bool,
        widths: Sequence[int],
        strides: Sequence[int | tuple[int, ...]],
        dense: int,
        **options: Any,
    ) -> None:
        """``dense``: so many of the finest ``widths`` and ``strides`` does the decoder bring back. ``options``: further
        arguments of the subclass, as :meth:`config` gives them.
        """
        super().__init__()
        self.rank, self.in_channels, self.net = rank, in_channels, net
        self.widths = tuple(widths)
        self.strides = tuple((s,) * 3 if isinstance(s, int) else tuple(s) for s in strides)
        self.dim = self.widths[-1]
        self.has_decoder = decoder
        self.dense_widths, self.dense_strides = self.widths[:dense], self.strides[:dense]
        shape = {"rank": rank, "in_channels": in_channels, "input_size": [int(n) for n in input_size]}
        lists = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
        self._config = {"name": self.name, **shape, "decoder": decoder, **lists}
        self.check_size(tuple(input_size))

    @classmethod
    def check_rank(cls, rank: int, input_size: Sequence[int]) -> None:
        """To be asked before MONAI builds anything."""
        if rank != 3 or len(input_size) != 3:
            raise ConfigError(
                f"backbone.name {cls.name} is for volumes; for other records take backbone.name vit."
            )

    def check_size(self, size: Sequence[int], cell: bool = False) -> None:
        """:class:`ConfigError` for a ``size`` that the network cannot take. ``cell``: a coarsest map of one position may
        be right, as it is where SparK hands the cells of a record together.
        """
        stride = self.strides[-1]
        wrong = any(s < n or s % n for s, n in zip(size, stride))
        single = self.by_position and tuple(size) == stride and not cell
        if wrong or single:
            more = f", and at least {2 * stride[0]} along one of them" if self.by_position else ""
            every = (
                f"{stride[0]} along each axis" if len(set(stride)) == 1 else f"{list(stride)} along its axes"
            )
            raise ConfigError(
                f"backbone.name {self.name} takes volumes of multiples of {every}{more}, not {list(size)}; set the "
                "modality's size, or pad."
            )

    def forward(self, x: Tensor, present: Tensor | None = None) -> Features:
        """``x [B, C, *S]`` to the encoder's maps, fine to coarse, and the mean of the last."""
        self._check(x)
        maps = self.pyramid(silenced(x, present))
        return Features(maps, maps[-1].mean((2, 3, 4)))

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps ``[B, widths[i], *S / strides[i]]``; :class:`ConfigError` for sizes that do not fit."""
        self.check_size(tuple(x.shape[2:]), cell=True)
        return tuple(self._encoded(x)[: len(self.widths)])

    def dense(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps ``[B, dense_widths[i], *S / dense_strides[i]]``, to be read by a convolution of 1 x 1 x 1; absent channels
        are NaN in ``x`` and zeroed here.

        Raises :class:`ConfigError` where the network was built without its decoder.
        """
        if not self.has_decoder:
            raise ConfigError(f"this {self.name} was built without its decoder; set backbone.decoder=true.")
        self._check(x)
        return tuple(self.decode(self._encoded(torch.nan_to_num(x))))

    def _encoded(self, x: Tensor) -> list[Tensor]:
        try:
            return self.encode(x)
        except ValueError as error:
            if "more than 1" not in str(error):
                raise
            raise ConfigError(
                f"backbone.name {self.name} brings {list(x.shape[2:])} down to a single position, of which its norms "
                "have no deviation; take a larger modality.size or crop, or a larger batch."
            ) from error

    @abstractmethod
    def encode(self, x: Tensor) -> list[Tensor]:
        """Maps of the pyramid, then whatever else the decoder takes."""

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        """Dense maps, fine to coarse, of what :meth:`encode` gave; none where there is no decoder."""
        return []

    @abstractmethod
    def encoder_parts(self) -> Parts:
        """Named groups of modules in the order in which a record meets them; the first is the stem."""

    def decoder_parts(self) -> Parts:
        """The same of the decoder, from the coarsest map up."""
        return []

    def groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Stem, stages, then the decoder's."""
        parts = self.encoder_parts() + (self.decoder_parts() if self.has_decoder else [])
        return [(name, [p for module in modules for p in module.parameters()]) for name, modules in parts]

    @property
    def adapter_targets(self) -> list[str]:
        """Linear layers and dense convolutions of stages and decoder: not the stem, nothing transposed."""
        stem = {id(p) for p in self.groups()[0][1]}
        return [
            name
            for name, part in self.named_modules()
            if isinstance(part, nn.Linear | nn.Conv3d)
            and id(part.weight) not in stem
            and getattr(part, "groups", 1) == 1
        ]

    def set_drop_path(self, rate: float) -> None:
        """As :meth:`Backbone.set_drop_path`; :class:`ConfigError` where MONAI's blocks know no stochastic depth."""
        if not any(hasattr(m, "drop_path") for m in self.net.modules()):
            raise ConfigError(
                f"backbone.name {self.name} cannot drop blocks; set finetune.strategy.drop_path=null."
            )
        super().set_drop_path(rate)

    def config(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, list) else v for k, v in self._config.items()}

    def _check(self, x: Tensor) -> None:
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ConfigError(
                f"this backbone takes [batch, {self.in_channels} channels, 3 axes], not {list(x.shape)}."
            )
        self.check_size(tuple(x.shape[2:]))


def remove(net: nn.Module, names: Iterable[str]) -> None:
    """Modules that are not used are not there: no gradient would reach their parameters."""
    for name in names:
        delattr(net, name)
