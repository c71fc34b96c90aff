"""Masked autoencoder (He et al., arXiv 2111.06377; for radiographs Xiao et al., arXiv 2210.12843): reconstruct hidden
patches from the few that are seen.

    z = f(x[visible] + positions)                   the encoder sees visible patches alone
    y = g(z, positions)                             the decoder adds a learned mask token at every hidden place
    loss = mean (y - x)^2                           over masked patches and their values

``f`` is the ViT, of any rank; ``g`` is narrower or shallower and thrown away. Radiographs are redundant: 90 % is
hidden (photographs: 75 %). With ``norm_patches`` each target patch is first normalised by its own mean and
deviation. Absent channels are neither seen nor asked for. Predicting the mean of every patch costs that patch's
variance (1 with ``norm_patches``): a loss that stays there has learned nothing.

``truths`` is ours (:mod:`medfm.pretraining.truths`): on simulated records a linear head also reads what the simulator
measured, from the visible tokens or from a share drawn for it alone.

B batch, N tokens, K visible, M = N - K masked, P values a patch, D width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from medfm.backbones.attention import take
from medfm.backbones.base import Backbone, Tokens
from medfm.backbones.decoders import TokenDecoder
from medfm.backbones.patches import known_values, masked_error, standardised
from medfm.config.methods import MAESettings
from medfm.config.run import OptimSettings
from medfm.pretraining import diagnostics
from medfm.pretraining.base import Method
from medfm.pretraining.masking import random_masks
from medfm.pretraining.truths import TruthHead
from medfm.types import Batch, Truths, ViewSpec


class MAE(Method):
    """Encoder = the backbone given, which is what is exported; the decoder is left behind."""

    needs, ranks = Tokens, (1, 2, 3)
    losses, reconstructs = ("mae_loss", "truth_loss"), True

    def __init__(
        self,
        backbone: Backbone,
        settings: MAESettings,
        optim: OptimSettings,
        steps: int,
        seed: int,
        truths: Truths | None = None,
    ) -> None:
        super().__init__(backbone, settings, optim, steps, seed, truths)
        shape = backbone.config()
        self.share, self.norm_patches, self.augment = settings.mask, settings.norm_patches, settings.augment
        assert settings.decoder_dim and settings.decoder_depth and settings.decoder_heads
        usual = torch.empty(0, shape["in_channels"], *shape["input_size"])
        self.decoder = TokenDecoder(
            grid=cast(Tokens, backbone).grid_of(usual),
            width=backbone.dim,
            dim=settings.decoder_dim,
            depth=settings.decoder_depth,
            heads=settings.decoder_heads,
            values=cast(Tokens, backbone).patchify(usual).shape[2],
        )
        self.truths_weight, self.truths_keep = settings.truths, settings.truths_keep
        self.truth_head = TruthHead.wanted(settings.truths, backbone.dim, truths)

    @property
    def view_spec(self) -> ViewSpec:
        return ViewSpec(augment=self.augment)

    @property
    def encoder(self) -> Backbone:
        return self.backbone

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        patches = self.patches(batch)
        visible, masked = self.masks(*patches.shape[:2])
        known = known_values(batch.present, patches.shape[2])
        grid = cast(Tokens, self.backbone).grid_of(batch.x)
        encoded = self.encoded(patches, visible, grid)
        predictions = self.decoder(encoded, visible, masked, grid)
        loss = masked_error(predictions, self.targets(patches, masked, known), known)
        logs: dict[str, Any] = {"visible": visible.shape[1] / patches.shape[1]}
        if self.truth_head is None:
            return loss, logs
        if self.truths_keep is None:
            rows = self.truth_head.known(batch.target)
            seen = encoded[:, encoded.shape[1] - visible.shape[1] :]
            truth_loss = (
                self.truth_head.idle()
                if rows is None
                else self.truth_head.loss(seen[rows], cast(Tensor, batch.target)[rows])
            )
        else:
            truth_loss = self.truth_head.read(
                self.backbone, patches, batch.target, self.truths_keep, self.rng(1), grid
            )
        return loss + self.truths_weight * truth_loss, {**logs, "mae_loss": loss, "truth_loss": truth_loss}

    def patches(self, batch: Batch) -> Tensor:
        """``[B, N, P]``; absent channels and NaN are zero."""
        return cast(Tokens, self.backbone).patchify(batch.x, batch.present)

    def masks(self, batch: int, tokens: int) -> tuple[Tensor, Tensor]:
        """``visible [B, K]`` and ``masked [B, M]`` of this step; K is N (1 - mask), rounded down, at least one."""
        # The small term keeps 100 * (1 - .9) from becoming 9.
        count = min(max(int(tokens * (1 - self.share) + 1e-6), 1), tokens - 1)
        pair = random_masks(self.rng(), batch, tokens, count)
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
        """Predictions and targets ``[B, M, P]`` of the masked patches; ``grid`` None: the usual one."""
        grid = grid or self.decoder.grid
        predictions = self.decoder(self.encoded(patches, visible, grid), visible, masked, grid)
        return predictions, self.targets(patches, masked, known)

    def encoded(self, patches: Tensor, visible: Tensor, grid: tuple[int, ...]) -> Tensor:
        """``[B, R + K, D]``: class token and registers, then the visible patches. Only these are embedded: what is
        masked cannot reach the encoder by construction.
        """
        encoder = cast(Tokens, self.backbone)
        return encoder.encode(
            encoder.embed(take(patches, visible)) + encoder.positions(grid)[visible], prefix=True
        )

    def targets(self, patches: Tensor, masked: Tensor, known: Tensor | None = None) -> Tensor:
        """``[B, M, P]``: the masked patches, normalised each by itself where that was asked for."""
        targets = take(patches, masked)
        return standardised(targets, known) if self.norm_patches else targets

    @torch.no_grad()
    def collapse_measures(self, batch: Batch) -> dict[str, float]:
        """Spread of the encoder's tokens over whole records (there is one encoder: ``target_std`` and
        ``context_std`` are the same number), and the effective rank of the exported embedding.
        """
        features = self.backbone(batch.x, batch.present)
        spread = diagnostics.spread(features.maps[0].flatten(2))
        return {
            "target_std": spread,
            "context_std": spread,
            "effective_rank": diagnostics.effective_rank(features.pooled),
        }
