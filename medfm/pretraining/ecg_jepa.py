"""ECG-JEPA (Weimann and Conrad, arXiv 2410.13867): predict the representation of hidden stretches of an
ECG.

    theta_bar <- m theta_bar + (1 - m) theta       moving average, before the targets are made
    s = f_theta_bar(x)[masked]                     targets: the whole record seen, no gradient
    z = f_theta(x[visible])                        context: 15 to 25 % of the tokens, nothing else
    loss = mean |g_phi(z, positions) - s|          over masked tokens and dimensions (L1)

A token is 50 ms of all leads, so no lead gives away another. ``f`` is the ViT; ``g`` is a narrower one
(half the width) that sees the context and a learned mask token at every masked position. What is exported
is ``f_theta_bar``. The loss falls fast and may rise again while the representation improves: it compares
runs badly, a probe is the guide.

Beyond the paper, off by default (``truths=0``): simulated records also teach what their simulator knows of them
(:mod:`medfm.pretraining.truths`), through a second pass of the context encoder over half of the tokens.

B batch, N tokens, K visible, M = N - K masked, P values a patch, D width. Not to be confused with the
unrelated ECG-JEPA of arXiv 2410.08559.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.backbones.attention import Block, initialise, take
from medfm.backbones.base import Backbone, Tokens
from medfm.backbones.positions import sincos
from medfm.config.methods import ECGJEPASettings
from medfm.config.run import OptimSettings
from medfm.pretraining import diagnostics, momentum
from medfm.pretraining.base import Method
from medfm.pretraining.masking import interval_masks
from medfm.pretraining.truths import TruthHead
from medfm.types import Batch, Truths, ViewSpec


class Predictor(nn.Module):
    """Context ``[B, K, D]`` to predictions ``[B, M, D]`` at the masked positions. 923,328 parameters for XS.

    Residual projections are initialised with the **encoder's** depth, as in the official code.
    """

    positions: Tensor

    def __init__(self, tokens: int, width: int, dim: int, depth: int, heads: int, encoder_depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(width, dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, 1e-6, bias=False)
        self.proj = nn.Linear(dim, width, bias=False)
        self.register_buffer("positions", sincos((tokens,), dim), persistent=False)
        initialise(self, encoder_depth)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, context: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        context = self.embed(context) + self.positions[visible]
        tokens = torch.cat([context, self.mask_token + self.positions[masked]], dim=1)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        tokens = self.blocks[-1](tokens, slice(visible.shape[1], None))
        return self.proj(self.norm(tokens))


class ECGJEPA(Method):
    """Context encoder = the backbone given; ``encoder`` = its moving average."""

    needs, ranks = Tokens, (1,)
    losses, rates = ("jepa_loss", "truth_loss"), ("momentum",)
    guess = (
        "Shaded parts were hidden from the context encoder; it predicts their embeddings, not their samples. "
        "The line below is the error of that prediction, token by token. The loss of such a method is no measure "
        "of quality: its target moves as the network learns."
    )
    remedy = "Raise the first EMA momentum or lower optim.lr."

    def __init__(
        self,
        backbone: Backbone,
        settings: ECGJEPASettings,
        optim: OptimSettings,
        steps: int,
        seed: int,
        truths: Truths | None = None,
    ) -> None:
        super().__init__(backbone, settings, optim, steps, seed, truths)
        shape = backbone.config()
        self.keep, self.span = settings.keep, settings.momentum
        self.min_block, self.augment = settings.min_block, settings.augment
        self.target_encoder = momentum.teacher(backbone)
        self.predictor = Predictor(
            tokens=shape["input_size"][0] // shape["patch"][0],
            width=backbone.dim,
            dim=settings.predictor_dim or backbone.dim // 2,
            depth=settings.predictor_depth or shape["depth"],
            heads=settings.predictor_heads or shape["heads"],
            encoder_depth=shape["depth"],
        )
        self.truths_weight, self.truths_keep = settings.truths, settings.truths_keep
        self.truth_head = TruthHead.wanted(settings.truths, backbone.dim, truths)

    @property
    def view_spec(self) -> ViewSpec:
        return ViewSpec(augment=self.augment)

    @property
    def encoder(self) -> Backbone:
        return cast(Backbone, self.target_encoder)

    def train(self, mode: bool = True) -> ECGJEPA:
        super().train(mode)
        self.target_encoder.eval()  # a teacher drops no paths
        return self

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        m = momentum.linear(self.span, self.progress)
        if self.micro == 0 and self.training:
            momentum.update(self.target_encoder, self.backbone, m)
        patches = self.patches(batch)
        visible, masked = self.masks(*patches.shape[:2])
        predictions, targets = self.predict(patches, visible, masked)
        loss = F.l1_loss(predictions, targets)
        logs: dict[str, Any] = {"momentum": m, "visible": visible.shape[1] / patches.shape[1]}
        if self.truth_head is None:
            return loss, logs
        truth_loss = self.truth_loss(patches, batch.target)
        return loss + self.truths_weight * truth_loss, {
            **logs,
            "jepa_loss": loss,
            "truth_loss": truth_loss,
        }

    def truth_loss(self, patches: Tensor, target: Tensor | None) -> Tensor:
        assert self.truth_head is not None
        return self.truth_head.read(
            self.backbone, patches, target, self.truths_keep, self.rng(1), (patches.shape[1],)
        )

    def patches(self, batch: Batch) -> Tensor:
        """``[B, N, P]``, cut once for both encoders."""
        return cast(Tokens, self.backbone).patchify(batch.x, batch.present)

    def masks(self, batch: int, tokens: int) -> tuple[Tensor, Tensor]:
        """``visible [B, K]`` and ``masked [B, M]`` of this step."""
        shortest = max(1, tokens // 20) if self.min_block is None else self.min_block
        pair = interval_masks(self.rng(), batch, tokens, self.keep, shortest)
        visible, masked = (torch.from_numpy(index).to(self.device, non_blocking=True) for index in pair)
        return visible, masked

    def predict(self, patches: Tensor, visible: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions and targets ``[B, M, D]`` of the masked tokens."""
        online = cast(Tokens, self.backbone)
        positions = online.positions((patches.shape[1],))
        # Only visible patches are embedded: what is masked cannot reach the context by construction.
        context = online.encode(online.embed(take(patches, visible)) + positions[visible])
        return self.predictor(context, visible, masked), self.targets(patches, masked)

    @torch.no_grad()
    def targets(self, patches: Tensor, masked: Tensor) -> Tensor:
        """The teacher's output ``[B, M, D]`` at the masked tokens of whole records."""
        teacher = cast(Tokens, self.target_encoder)
        tokens = teacher.embed(patches) + teacher.positions((patches.shape[1],))
        return teacher.encode(tokens, keep=masked)

    @torch.no_grad()
    def collapse_measures(self, batch: Batch) -> dict[str, float]:
        """Spread of both encoders' tokens over records, and the effective rank of the exported embedding."""
        targets = self.encoder(batch.x, batch.present)
        context = self.backbone(batch.x, batch.present)
        return {
            "target_std": diagnostics.spread(targets.maps[0].flatten(2)),
            "context_std": diagnostics.spread(context.maps[0].flatten(2)),
            "effective_rank": diagnostics.effective_rank(targets.pooled),
        }
