"""SparK (Tian et al., arXiv 2301.03580): masked modelling for convolutional networks of any rank.

    m_1..m_4 = f(x[visible cells])                  f never sees a hidden position, nor mixes one in
    d_i = conv(norm(m_i) in its places, a learned token where hidden)
    y = g(d_4, ..., d_1)                            light U-Net decoder, thrown away
    loss = mean (y - standardised x)^2              over hidden cells and their values

A cell is as large as the network's total stride (32 pixels for a ResNet), so that a hidden cell is hidden in every
map. Each hidden cell is predicted normalised by its own mean and deviation: predicting the mean costs 1. How the
network is kept from hidden positions stands in :mod:`medfm.backbones.visible`; what is exported is the network as it
was given, with weights that a plain one takes. Batch statistics, also the running ones, are of visible positions.
``truths`` is ours (:mod:`medfm.pretraining.truths`): on simulated records a linear head also reads what the simulator
measured, from the coarsest map's visible positions or from whole records.

B batch, N cells, K visible, M = N - K hidden, P values a cell.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from medfm.backbones.attention import take
from medfm.backbones.base import Backbone, Pyramid
from medfm.backbones.decoders import PyramidDecoder
from medfm.backbones.patches import (
    known_values,
    masked_error,
    patchify,
    silenced,
    standardised,
    unpatchify,
)  # fmt: skip
from medfm.backbones.visible import Cells, VisibleNetwork
from medfm.config.methods import SparKSettings
from medfm.config.run import OptimSettings
from medfm.pretraining import diagnostics
from medfm.pretraining.base import Method
from medfm.pretraining.masking import random_masks
from medfm.pretraining.truths import TruthHead
from medfm.types import Batch, ConfigError, Truths, ViewSpec


class SparK(Method):
    """Encoder = the backbone given, which is what is exported; the decoder is left behind.

    Raises :class:`ConfigError` for a network that mixes positions outside convolutions, pools and norms, and for an
    input that is no whole number of cells.
    """

    needs, ranks = Pyramid, (1, 2, 3)
    losses, reconstructs = ("spark_loss", "truth_loss"), True

    def __init__(
        self,
        backbone: Backbone,
        settings: SparKSettings,
        optim: OptimSettings,
        steps: int,
        seed: int,
        truths: Truths | None = None,
    ) -> None:
        super().__init__(backbone, settings, optim, steps, seed, truths)
        self.share, self.augment = settings.mask, settings.augment
        network = cast(Pyramid, backbone)
        self.stride = network.strides[-1]
        self.visible_network = VisibleNetwork(backbone)
        self._check_network()
        self.usual = self.grid_of(tuple(backbone.config()["input_size"]))
        self.decoder = PyramidDecoder(
            network.widths, network.strides, settings.decoder_dim, backbone.in_channels
        )
        self.truths_weight, self.truths_keep = settings.truths, settings.truths_keep
        self.truth_head = TruthHead.wanted(settings.truths, backbone.dim, truths)
        if backbone.rank == 2:
            # Visible cells are cut with channels last; convolutions of whole pictures are a third faster so, too.
            cast(nn.Module, self).to(memory_format=torch.channels_last)

    @property
    def view_spec(self) -> ViewSpec:
        return ViewSpec(augment=self.augment)

    @property
    def patch(self) -> tuple[int, ...]:
        return self.stride

    @property
    def encoder(self) -> Backbone:
        return self.backbone

    def grid_of(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Cells an axis; :class:`ConfigError` when the input is no whole number of them, or only one."""
        grid = tuple(s // n for s, n in zip(size, self.stride))
        if any(s % n for s, n in zip(size, self.stride)) or math.prod(grid) < 2:
            raise ConfigError(
                f"SparK hides cells of {self.stride}, and an input of {size} is not made of two or more; set the "
                "modality's size to a multiple."
            )
        return grid

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        patches = self.patches(batch)
        visible, masked = self.masks(*patches.shape[:2])
        known = known_values(batch.present, patches.shape[2])
        cells = Cells(visible, self.grid_of(tuple(batch.x.shape[2:])))
        maps = self.maps(take(patches, visible), cells)
        loss = masked_error(
            self.decoded(maps, masked, cells), standardised(take(patches, masked), known), known
        )
        logs: dict[str, Any] = {"visible": visible.shape[1] / patches.shape[1]}
        if self.truth_head is None:
            return loss, logs
        truth_loss = self.truth_loss(patches, maps[-1], batch.target, cells.grid)
        return loss + self.truths_weight * truth_loss, {**logs, "spark_loss": loss, "truth_loss": truth_loss}

    def truth_loss(
        self, patches: Tensor, coarsest: Tensor, target: Tensor | None, grid: tuple[int, ...]
    ) -> Tensor:
        """Of the records whose truths are known: read from the coarsest map ``[B * K, D, *s]`` of the visible cells, or
        with ``truths_keep`` from that of other cells, at 1 of the whole records.
        """
        assert self.truth_head is not None
        rows = self.truth_head.known(target)
        if target is None or rows is None:
            return self.truth_head.idle()
        if self.truths_keep is None:
            seen = coarsest.unflatten(0, (len(target), -1))[rows].transpose(1, 2).flatten(2)
        elif self.truths_keep == 1:
            x = unpatchify(patches[rows], grid, self.stride)
            x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
            seen = cast(Pyramid, self.backbone).pyramid(x)[-1].flatten(2)
        else:
            count = min(max(round(self.truths_keep * math.prod(grid)), 2), math.prod(grid) - 1)
            index = torch.from_numpy(random_masks(self.rng(1), len(rows), math.prod(grid), count)[0])
            index = index.to(patches.device, non_blocking=True)
            part = self.maps(take(patches[rows], index), Cells(index, grid))[-1]
            seen = part.unflatten(0, (len(rows), -1)).transpose(1, 2).flatten(2)
        return self.truth_head.loss(seen.transpose(1, 2), target[rows])

    def patches(self, batch: Batch) -> Tensor:
        """All cells ``[B, N, P]``; absent channels and NaN are zero."""
        self.grid_of(tuple(batch.x.shape[2:]))
        return patchify(silenced(batch.x, batch.present), self.stride)

    def masks(self, batch: int, cells: int) -> tuple[Tensor, Tensor]:
        """``visible [B, K]`` and ``masked [B, M]`` of this step; K is N (1 - mask), rounded, two where that can be: a
        norm over one record's positions has no deviation of a single one.
        """
        count = min(max(round(cells * (1 - self.share)), 2), cells - 1)
        pair = random_masks(self.rng(), batch, cells, count)
        visible, masked = (torch.from_numpy(index).to(self.device, non_blocking=True) for index in pair)
        return visible, masked

    def predict(
        self,
        patches: Tensor,
        visible: Tensor,
        masked: Tensor,
        grid: tuple[int, ...] | None = None,
        known: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predictions and targets ``[B, M, P]`` of the hidden cells; ``grid`` None: the usual one."""
        cells = Cells(visible, grid or self.usual)
        predictions = self.decoded(self.maps(take(patches, visible), cells), masked, cells)
        return predictions, standardised(take(patches, masked), known)

    def decoded(self, maps: tuple[Tensor, ...], masked: Tensor, cells: Cells) -> Tensor:
        """Predictions ``[B, M, P]`` of the hidden cells."""
        return take(patchify(self.decoder(maps, cells), self.stride), masked)

    def maps(self, patches: Tensor, cells: Cells) -> tuple[Tensor, ...]:
        """Visible cells ``[B, K, P]`` to the network's maps of them, ``[B * K, C_i, *s_i]``, fine to coarse."""
        x = patches.reshape(-1, self.backbone.in_channels, *self.stride)
        with self.visible_network.sees(cells):
            return cast(Pyramid, self.backbone).pyramid(x)

    @torch.no_grad()
    def _check_network(self) -> None:
        """With every cell visible the network must be what it is without a mask; what is not (attention, squeeze and
        excitation, pooling outside a module) would quietly mix cells or keep them apart.
        """
        modes = [(m, m.training) for m in self.backbone.modules()]
        size = [2 * s for s in self.stride]  # two cells an axis
        x = torch.randn(2, self.backbone.in_channels, *size, generator=torch.Generator().manual_seed(0)).to(
            next(self.backbone.parameters())
        )
        cells = Cells(torch.arange(2 ** len(size)).expand(2, -1).to(x.device), [2] * len(size))
        try:
            self.backbone.eval()
            expected = cast(Pyramid, self.backbone).pyramid(x)
            found = [cells.dense(m) for m in self.maps(patchify(x, self.stride), cells)]
            alike = all(
                a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))
                for a, b in zip(found, expected)
            )
        except RuntimeError:  # shapes that no cell has
            alike = False
        for module, mode in modes:
            module.training = mode
        if not alike:
            raise ConfigError(
                f"SparK cannot hide parts of the input from backbone.name {self.backbone.config()['name']}: it "
                "brings positions together outside its convolutions, pools and norms. Choose another one."
            )

    def compile_blocks(self) -> None:
        """The decoder's blocks alone: the network's layers change their neighbourhood every step."""
        for block in self.decoder.blocks:
            block.compile()

    @torch.no_grad()
    def collapse_measures(self, batch: Batch) -> dict[str, float]:
        """Spread of the coarsest map over whole records (there is one encoder: ``target_std`` and ``context_std`` are
        the same number), and the effective rank of the exported embedding. Leaves running statistics alone.
        """
        training = self.backbone.training
        features = self.backbone.eval()(batch.x, batch.present)
        self.backbone.train(training)
        spread = diagnostics.spread(features.maps[-1].flatten(2))
        return {
            "target_std": spread,
            "context_std": spread,
            "effective_rank": diagnostics.effective_rank(features.pooled),
        }
