"""A Vision Transformer over several sequences of one subject, any of which may be missing: the encoder of BM-MAE (Robinet
et al., arXiv 2505.00568).

Each sequence has a tokenizer of its own, and that is all that tells sequences apart; tokens of all sequences that a subject
has attend to each other. What a subject lacks gives no tokens, so whatever lies in its slot has no influence. Subjects are
encoded in groups with equally many tokens: nothing is padded.

C sequences of N patches are C N tokens, token ``c N + n`` being patch n of sequence c. B batch, K visible tokens, M masked,
D width, P values a patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.backbones.attention import Block, initialise
from medfm.backbones.base import Backbone
from medfm.backbones.patches import patchify, unpatchify
from medfm.backbones.sequence_decoder import EPS, SequenceDecoder, sequence_positions
from medfm.backbones.vit import PatchEmbed
from medfm.types import ConfigError, Features


@runtime_checkable
class Sequences(Protocol):
    """Capability: encode any subset of the tokens of several sequences, and predict others from them."""

    def sequence_patches(self, x: Tensor) -> Tensor:
        """``[B, C, *S] -> [B, C, N, P]``, NaN kept."""
        ...

    def encode_visible(
        self, patches: Tensor, visible: Tensor, grid: tuple[int, ...], rows: Tensor | None = None
    ) -> Tensor:
        """Tokens numbered ``visible [G, K]`` of the subjects ``rows [G]`` (None: all) of ``patches [B, C, N, P]`` to
        ``[G, 1 + K, D]``, class token first.
        """
        ...

    def decode_masked(
        self, encoded: Tensor, visible: Tensor, masked: Tensor, grid: tuple[int, ...]
    ) -> Tensor:
        """``encoded [B, 1 + K, D]`` to predictions ``[B, M, P]`` of the tokens numbered ``masked [B, M]``."""
        ...


class SequenceViT(Backbone):
    """Capabilities: ``Sequences`` with ``decoder="reconstruction"``, ``Dense`` with ``decoder="masks"`` (UNETR's), and a
    pyramid of the one map. ``pool``: the class token, or the mean of the map.

    ``input_size`` is the usual extent in voxels; others are possible. An input channel is a sequence. Raises
    :class:`ConfigError` for shapes that do not fit together.
    """

    fixed_positions: Tensor

    def __init__(
        self,
        *,
        in_channels: int,
        input_size: Sequence[int],
        patch: Sequence[int],
        dim: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        rank: int = 3,
        pool: Literal["class", "mean"] = "class",
        drop_path: float = 0.0,
        decoder: Literal["none", "reconstruction", "masks"] = "none",
        decoder_dim: int = 384,
        decoder_depth: int = 3,
        decoder_heads: int = 12,
        decoder_mlp_dim: int | None = None,
        features: int = 16,
        position_base: float = 10_000.0,
    ) -> None:
        super().__init__()
        patch = tuple(patch) * (3 if len(patch) == 1 else 1)
        decoder_mlp_dim = decoder_mlp_dim or 4 * decoder_dim
        self._config: dict[str, Any] = {
            "name": "sequence_vit",
            "rank": rank,
            "in_channels": in_channels,
            "input_size": [int(n) for n in input_size],
            "patch": list(patch),
            "dim": dim,
            "depth": depth,
            "heads": heads,
            "mlp_dim": mlp_dim,
            "pool": pool,
            "drop_path": drop_path,
            "decoder": decoder,
            "decoder_dim": decoder_dim,
            "decoder_depth": decoder_depth,
            "decoder_heads": decoder_heads,
            "decoder_mlp_dim": decoder_mlp_dim,
            "features": features,
            "position_base": position_base,
        }
        _check(rank, patch, input_size, ((dim, heads, ""), (decoder_dim, decoder_heads, "decoder_")))
        self.rank, self.in_channels, self.dim, self.patch = rank, in_channels, dim, patch
        self.widths, self.strides = (dim,), (patch,)
        self.grid = tuple(s // p for s, p in zip(input_size, patch))
        self.tokenizers = nn.ModuleList(PatchEmbed(1, patch, dim, bias=True) for _ in range(in_channels))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer(
            "fixed_positions", sequence_positions(self.grid, dim, position_base), persistent=False
        )
        options: Any = {"mlp_ratio": mlp_dim / dim, "bias": True, "qkv_bias": True, "norm_bias": True}
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(dim, heads, drop_path=rate, norm_eps=EPS, **options) for rate in rates
        )
        self.norm = nn.LayerNorm(dim, EPS)
        initialise(self, depth)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for tokenizer in self.tokenizers:
            nn.init.xavier_uniform_(cast(PatchEmbed, tokenizer).proj.weight.data.view(dim, -1))
        self.has_decoder = decoder == "masks"
        self.dense_widths: tuple[int, ...] = ()
        self.dense_strides: tuple[tuple[int, ...], ...] = ()
        self.decoder: Any = None
        if decoder == "reconstruction":
            shape = (decoder_dim, decoder_depth, decoder_heads, decoder_mlp_dim, math.prod(patch))
            self.decoder = SequenceDecoder(in_channels, self.grid, dim, *shape, base=position_base)
        elif decoder == "masks":
            from medfm.backbones.unetr import UNETRDecoder

            self.decoder = UNETRDecoder(in_channels, dim, patch, features)
            self.dense_widths, self.dense_strides = self.decoder.widths, self.decoder.strides

    # Whole subjects
    # -----------------------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, present: Tensor | None = None) -> Features:
        """``x [B, C, *S]`` to one map ``[B, D, *grid]``, the mean over the sequences that a subject has position by position,
        and the class token ``[B, D]`` (or the map's mean). ``present`` None: what is not NaN throughout.
        """
        final, pooled = self._averaged(x, present, ())
        map_ = final[-1]
        return Features((map_,), pooled if self._config["pool"] == "class" else map_.mean((2, 3, 4)))

    def pyramid(self, x: Tensor, present: Tensor | None = None) -> tuple[Tensor, ...]:
        """The one map ``[B, D, *grid]``."""
        return self(x, present).maps

    def dense(self, x: Tensor, present: Tensor | None = None) -> tuple[Tensor, ...]:
        """Maps ``[B, dense_widths[i], *S / dense_strides[i]]`` of UNETR's decoder over hidden states averaged over sequences.

        UNETR's finest reader takes the volume itself, all sequences in one convolution. Here those that a subject lacks are
        left out of its sum, which is scaled up by C / (number present): with all present it is UNETR's own. Raises
        :class:`ConfigError` where the network was built without that decoder, or for a size that is no multiple of the patch.
        """
        if not self.has_decoder:
            raise ConfigError(
                "this sequence_vit was built without a decoder of masks; set backbone.decoder=masks."
            )
        self._whole_patches(x)
        present = self._present(x, present)
        depth, levels = len(self.blocks), len(self.dense_widths)
        states, _ = self._averaged(x, present, [depth * i // levels for i in range(1, levels)])
        scale = self.in_channels / present.sum(1, keepdim=True).clamp_min(1)
        shown = torch.where(_wide(present), torch.nan_to_num(x), 0.0) * _wide(scale.expand_as(present))
        return cast(tuple[Tensor, ...], self.decoder(shown.to(x.dtype), states))

    def reconstruct(self, x: Tensor, present: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """All sequences of each subject, ``[B, C, *S]``: what is visible as it is, the rest as the decoder predicts it from that.

        ``visible``: bool ``[B, C]`` (whole sequences) or ``[B, C, N]`` (patches), None: all that is present; what is absent
        never is. Raises :class:`ConfigError` without the decoder, or for a size that is no multiple of the patch.
        """
        grid = self._whole_patches(x)
        if self._config["decoder"] != "reconstruction":
            raise ConfigError(
                "this sequence_vit was built without its decoder of values, so that it cannot reconstruct; take a backbone as "
                "bm_mae pretrained it, or set backbone.decoder=reconstruction."
            )
        patches = self.sequence_patches(x)
        tokens = math.prod(grid)
        shown = self._present(x, present)[:, :, None].expand(-1, -1, tokens)
        if visible is not None:
            shown = shown & (visible[:, :, None] if visible.ndim == 2 else visible)
        flat, result = shown.flatten(1), torch.nan_to_num(patches.flatten(1, 2))
        for rows, count in groups(flat.sum(1)):
            order = (~flat[rows]).to(torch.uint8).argsort(dim=1, stable=True)
            seen, hidden = order[:, :count], order[:, count:]
            if hidden.shape[1]:
                encoded = self.encode_visible(patches, seen, grid, rows)
                guess = self.decode_masked(encoded, seen, hidden, grid).to(result.dtype)
                index = hidden[..., None].expand(-1, -1, guess.shape[2])
                result = result.index_copy(0, rows, result[rows].scatter(1, index, guess))
        volumes = result.view(-1, tokens, result.shape[2])
        return unpatchify(volumes, grid, self.patch).view(x.shape)

    def _averaged(
        self, x: Tensor, present: Tensor | None, after: Sequence[int]
    ) -> tuple[list[Tensor], Tensor]:
        """Maps ``[B, D, *grid]``, means over present sequences, of the states after blocks ``after`` and of the output; and
        class tokens ``[B, D]``.
        """
        patches, grid, present = self.sequence_patches(x), self.grid_of(x), self._present(x, present)
        tokens = patches.shape[2]
        order, maps, pooled = [], [], []
        for rows, count in groups(present.sum(1)):
            channels = (~present[rows]).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
            every = channels[:, :, None] * tokens + torch.arange(tokens, device=x.device)
            states = self._states(patches, rows, every.flatten(1), grid, after)
            pooled.append(states[-1][:, 0])
            means = [s[:, 1:].unflatten(1, (count, tokens)).mean(1) if count else s.new_zeros(len(rows), tokens, self.dim)
                     for s in states]  # fmt: skip
            maps.append(torch.stack([m.transpose(1, 2).unflatten(2, grid) for m in means]))
            order.append(rows)
        back = torch.cat(order).argsort()
        whole = (maps[0] if len(maps) == 1 else torch.cat(maps, 1)).index_select(1, back)
        return list(whole), torch.cat(pooled).index_select(0, back)

    # Tokens
    # -----------------------------------------------------------------------------------------------------------------

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """Patches an axis of ``x [B, C, *S]``; :class:`ConfigError` when it is shorter than one patch."""
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ConfigError(
                f"this backbone takes [batch, {self.in_channels} sequences, 3 axes], not {list(x.shape)}."
            )
        grid = tuple(s // p for s, p in zip(x.shape[2:], self.patch))
        if 0 in grid:
            raise ConfigError(
                f"an input of {list(x.shape[2:])} is shorter than one patch of {list(self.patch)}; pad it."
            )
        return grid

    def sequence_patches(self, x: Tensor) -> Tensor:
        """``[B, C, *S] -> [B, C, N, P]``, NaN kept."""
        self.grid_of(x)
        return patchify(x.flatten(0, 1)[:, None], self.patch).unflatten(0, x.shape[:2])

    def positions(self, grid: tuple[int, ...]) -> Tensor:
        """``[N, D]``."""
        return (
            self.fixed_positions
            if grid == self.grid
            else sequence_positions(grid, self.dim, self._config["position_base"]).to(self.fixed_positions)
        )

    def encode_visible(
        self, patches: Tensor, visible: Tensor, grid: tuple[int, ...], rows: Tensor | None = None
    ) -> Tensor:
        """Tokens numbered ``visible [G, K]`` of the subjects ``rows [G]`` (None: all) of ``patches [B, C, N, P]`` to
        ``[G, 1 + K, D]``, class token first. NaN is zero.
        """
        rows = torch.arange(len(patches), device=visible.device) if rows is None else rows
        return self._states(patches, rows, visible, grid, ())[-1]

    def decode_masked(
        self, encoded: Tensor, visible: Tensor, masked: Tensor, grid: tuple[int, ...]
    ) -> Tensor:
        """``encoded [B, 1 + K, D]`` to predictions ``[B, M, P]`` of the tokens numbered ``masked [B, M]``."""
        return cast(Tensor, self.decoder(encoded, visible, masked, grid))

    def _states(
        self, patches: Tensor, rows: Tensor, visible: Tensor, grid: tuple[int, ...], after: Sequence[int]
    ) -> list[Tensor]:
        """``[G, 1 + K, D]`` after each block of ``after``, and the output; ``visible [G, K]`` are tokens of the subjects ``rows``."""
        tokens = self._embedded(patches, rows, visible) + F.embedding(
            visible % patches.shape[2], self.positions(grid)
        )
        x, found = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1), []
        for i, block in enumerate(self.blocks):
            x = block(x)
            found += [x] if i in after else []
        return [*found, self.norm(x)]

    def _embedded(self, patches: Tensor, rows: Tensor, visible: Tensor) -> Tensor:
        """``[G, K, D]`` without positions: one matrix product a sequence, over its visible patches alone. A tokenizer without
        any has a gradient of zero, so that distributed training waits for none.
        """
        channels = torch.div(visible, patches.shape[2], rounding_mode="floor").flatten()
        order = channels.argsort(stable=True)
        counts = torch.bincount(channels, minlength=self.in_channels).tolist()
        flat = (visible + rows[:, None] * math.prod(patches.shape[1:3])).flatten()[order]
        chosen = torch.nan_to_num(patches.reshape(-1, patches.shape[3]).index_select(0, flat))
        parts = [embed(part) for embed, part in zip(self.tokenizers, chosen.split(counts))]
        return torch.cat(parts).index_select(0, order.argsort()).view(*visible.shape, self.dim)

    def _present(self, x: Tensor, present: Tensor | None) -> Tensor:
        return ~x.isnan().flatten(2).all(2) if present is None else present.to(x.device, torch.bool)

    def _whole_patches(self, x: Tensor) -> tuple[int, ...]:
        grid = self.grid_of(x)
        if any(s % p for s, p in zip(x.shape[2:], self.patch)):
            raise ConfigError(
                f"an input of {list(x.shape[2:])} is no whole number of patches of {list(self.patch)}; set the modality's size "
                "to a multiple, or pad."
            )
        return grid

    # What every backbone answers
    # -----------------------------------------------------------------------------------------------------------------

    def groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Stem (tokenizers, class token), each block, final norm, then the decoder's."""
        blocks = [(f"blocks.{i}", list(b.parameters())) for i, b in enumerate(self.blocks)]
        found = [("stem", [self.cls_token, *self.tokenizers.parameters()]), *blocks]
        found.append(("norm", list(self.norm.parameters())))
        if self.has_decoder:
            return found + cast(list[tuple[str, list[nn.Parameter]]], self.decoder.parts())
        return (
            found if self.decoder is None else [*found, ("reconstruction", list(self.decoder.parameters()))]
        )

    @property
    def adapter_targets(self) -> list[str]:
        """Attention and MLP projections of every block of the encoder."""
        parts = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        return [f"blocks.{i}.{part}" for i in range(len(self.blocks)) for part in parts]

    def set_drop_path(self, rate: float) -> None:
        """As :meth:`Backbone.set_drop_path`, of the encoder's blocks alone."""
        decoder, self.decoder = self.decoder, None
        super().set_drop_path(rate)
        self.decoder = decoder

    def config(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, list) else v for k, v in self._config.items()}


def _check(
    rank: int,
    patch: Sequence[int],
    input_size: Sequence[int],
    widths: Sequence[tuple[int, int, str]],
) -> None:
    """Raise :class:`ConfigError` for shapes that do not fit together; widths: of encoder and decoder, heads, name."""
    if rank != 3 or len(patch) != 3 or len(input_size) != 3:
        raise ConfigError(
            "backbone.name sequence_vit is for volumes, with three numbers in patch and size; for other records take "
            "backbone.name vit."
        )
    for width, count, name in widths:
        if width % count:
            raise ConfigError(f"backbone.{name}dim {width} is not divisible by backbone.{name}heads {count}.")


def groups(counts: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Rows ``[G]`` of equal ``counts [B]``, and that count; smaller ones first."""
    for count in counts.unique().tolist():
        yield (counts == count).nonzero()[:, 0], int(count)


def _wide(flags: Tensor) -> Tensor:
    """``[B, C] -> [B, C, 1, 1, 1]``."""
    return flags[:, :, None, None, None]
