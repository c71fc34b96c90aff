"""UNETR's decoder (Hatamizadeh et al., arXiv 2103.10504): hidden states of a Transformer to maps of the input's own resolution.

Blocks are MONAI's. There the patch is 16 voxels along every axis; here any powers of two, and along an axis of smaller
patches the coarse steps alone double. L halvings, F ``features``, D width of the Transformer, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from monai.networks.blocks.dynunet_block import UnetResBlock
from monai.networks.blocks.unetr_block import UnetrUpBlock
from torch import Tensor, nn

from medfm.types import ConfigError

NORM = "instance"


def halvings(patch: Sequence[int]) -> list[tuple[int, ...]]:
    """Factors an axis from voxels to patches, fine to coarse: (16, 16, 4) is twice (2, 2, 1), then twice (2, 2, 2).

    Raises :class:`ConfigError` for a patch that is no power of two along an axis, or 1 along all.
    """
    powers = [p.bit_length() - 1 for p in patch]
    levels = max(powers)
    if levels < 1 or any(2**n != p for n, p in zip(powers, patch)):
        raise ConfigError(
            f"a decoder for masks doubles the resolution up from patches of {list(patch)} voxels: set backbone.patch to powers "
            "of two, for instance [16, 16, 16] or [16, 16, 4]."
        )
    return [tuple(2 if step >= levels - n else 1 for n in powers) for step in range(levels)]


def up(width: int, out: int, factor: Sequence[int]) -> nn.Module:
    x, y, z = factor
    return nn.ConvTranspose3d(width, out, (x, y, z), stride=(x, y, z), bias=False)


class UNETRDecoder(nn.Module):
    """``states``: L - 1 hidden states, from the one nearest the input, and the encoder's output, each ``[B, D, *grid]``; with the
    volume ``[B, C, *S]`` to L maps of ``widths[i] = F 2^i`` channels at ``strides[i]``, fine to coarse.
    """

    def __init__(self, channels: int, width: int, patch: Sequence[int], features: int) -> None:
        super().__init__()
        factors = halvings(patch)
        levels = len(factors)
        self.widths = tuple(features * 2**i for i in range(levels))
        self.strides = tuple(
            tuple(math.prod(f[a] for f in factors[:i]) for a in range(3)) for i in range(levels)
        )
        # Reader i brings a hidden state to the resolution of map i; the finest reads the volume itself.
        readers: list[nn.Module] = [_block(channels, features)]
        for i, out in enumerate(self.widths[1:], 1):
            steps: list[nn.Module] = [up(width, out, factors[-1])]
            for factor in factors[i:-1][::-1]:
                steps += [up(out, out, factor), _block(out, out)]
            readers.append(nn.Sequential(*steps))
        self.readers = nn.ModuleList(readers)
        above = [*self.widths[1:], width]
        self.ups = nn.ModuleList(
            UnetrUpBlock(3, a, w, 3, tuple(f), NORM, res_block=True)  # type: ignore[arg-type]
            for a, w, f in zip(above, self.widths, factors)
        )

    def forward(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        now, found = states[-1], []
        for i in reversed(range(len(self.ups))):
            skip = self.readers[i](states[i - 1] if i else x)
            found.append(now := self.ups[i](now, skip))
        return tuple(found[::-1])

    def parts(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Named groups from the coarsest map up."""
        pairs = list(zip(self.readers, self.ups))[::-1]
        return [
            (f"decoder{i}", [p for module in pair for p in module.parameters()])
            for i, pair in enumerate(pairs)
        ]


def _block(width: int, out: int) -> Any:
    return UnetResBlock(3, width, out, 3, 1, NORM)
