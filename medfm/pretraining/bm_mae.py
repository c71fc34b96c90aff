"""BM-MAE (Robinet, Berjaoui and Cohen-Jonathan Moyal, arXiv 2505.00568): a masked autoencoder over MRI sequences, of which a
subject may have any.

    K = (1 - mask) of all tokens of the sequences that are there, split over them by Dirichlet(1, .., 1)
    z = f(x[visible] + positions)                   one encoder sees the visible tokens of all sequences together
    y = g(z, positions, sequence embeddings)        one decoder for all sequences
    loss = sum over sequences of mean (y - x)^2     over its masked patches in the batch

``f`` and ``g`` are the backbone's (:mod:`medfm.backbones.sequence_vit`), and both are exported: whoever has the bundle can
reconstruct a missing sequence. Predicting the mean of every sequence costs its variance: a loss near the number of sequences
has learned nothing, as z-scores have a variance of one over the foreground (less over whole crops, whose background is 0).

Ours: a subject may lack sequences, in pretraining too; these are neither seen nor asked for, and a sequence that no subject
of the batch has, or that is all visible, adds nothing. Values outside a volume (NaN) are not asked for. ``drop_sequence``
hides whole sequences, which Dirichlet does in 0.3 % of draws; ``synthesise`` shows all of the others then, which is what a
missing sequence is made from, and which no draw of the paper's is like (a quarter of all patches is seen there). Subjects with equally many sequences go through the network
together, so that nothing is padded; counts are exact (:mod:`medfm.pretraining.sequence_masking`).

B batch, C sequences, N patches each, K visible tokens, M masked, P values a patch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from medfm.backbones.base import Backbone
from medfm.backbones.patches import standardised, unpatchify
from medfm.backbones.sequence_vit import Sequences, SequenceViT
from medfm.config.methods import BMMAESettings
from medfm.config.run import OptimSettings
from medfm.pretraining import diagnostics
from medfm.pretraining.base import Method
from medfm.pretraining.sequence_masking import draw
from medfm.types import Batch, ConfigError, Truths, ViewSpec

FLAT = 0.95  # of the error of each sequence's mean: above it, nothing was learned


class BMMAE(Method):
    """Encoder = the backbone given, with its decoder, which is what is exported."""

    needs, ranks = Sequences, (3,)
    reconstructs = True
    measures = ("masked_error", "mean_error")

    def __init__(
        self,
        backbone: Backbone,
        settings: BMMAESettings,
        optim: OptimSettings,
        steps: int,
        seed: int,
        truths: Truths | None = None,
    ) -> None:
        super().__init__(backbone, settings, optim, steps, seed, truths)
        self.options = settings

    @classmethod
    def check(cls, backbone: Backbone) -> None:
        """A ``sequence_vit`` with its decoder of values."""
        if not isinstance(backbone, Sequences) or backbone.config()["decoder"] != "reconstruction":
            raise ConfigError(
                "method bm_mae trains a Transformer over sequences and its decoder: set backbone.name=sequence_vit and "
                "backbone.decoder=reconstruction."
            )

    @property
    def network(self) -> SequenceViT:
        return cast(SequenceViT, self.backbone)

    @property
    def view_spec(self) -> ViewSpec:
        return ViewSpec(augment=self.options.augment)

    @property
    def encoder(self) -> Backbone:
        return self.backbone

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        patches = self.network.sequence_patches(batch.x)
        grid = self.network.grid_of(batch.x)
        channels, tokens = patches.shape[1:3]
        errors, asked = patches.new_zeros(2, channels, dtype=torch.float32)
        seen = total = 0
        for rows, visible, masked in self.groups(batch, patches, self.rng()):
            guess, targets, known = self.predict(patches, rows, visible, masked, grid)
            error, weight = token_errors(guess, targets, known)
            sequence = torch.div(masked, tokens, rounding_mode="floor").flatten()
            errors = errors.index_add(0, sequence, error.flatten())
            asked = asked.index_add(0, sequence, weight.flatten())
            seen, total = seen + visible.numel(), total + visible.numel() + masked.numel()
        if not total:  # a batch without any truth: every parameter takes part with nothing
            return torch.stack([p.sum() * 0 for p in self.parameters()]).sum(), {"visible": 0.0}
        return (errors / asked.clamp_min(1)).sum(), {"visible": seen / total}

    def groups(
        self, batch: Batch, patches: Tensor, rng: np.random.Generator, drop: float | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows, visible and masked tokens of subjects with equally many sequences. ``drop``: in place of ``drop_sequence``."""
        foreground = None
        if self.options.background == "brain":
            # Augmentation may move the background away from zero, but not make it uneven. NaN compares as False.
            foreground = (patches.amax(3) > patches.amin(3)).cpu().numpy()
        whole = self.options.synthesise if drop is None else 0.0
        drop = self.options.drop_sequence if drop is None else drop
        present = batch.present.cpu().numpy()
        for group in draw(rng, present, foreground, patches.shape[2], self.options.mask, drop, whole):
            rows, visible, masked = (torch.from_numpy(v).to(patches.device, non_blocking=True) for v in group)
            yield rows, visible, masked

    def predict(
        self, patches: Tensor, rows: Tensor, visible: Tensor, masked: Tensor, grid: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions and targets ``[G, M, P]`` of the masked tokens of the subjects ``rows [G]``, and which values are known."""
        encoded = self.network.encode_visible(patches, visible, grid, rows)
        guess = self.network.decode_masked(encoded, visible, masked, grid)
        channels, tokens, values = patches.shape[1:]
        index = (masked + rows[:, None] * (channels * tokens)).flatten()
        targets = patches.reshape(-1, values).index_select(0, index).view(guess.shape)
        known = ~targets.isnan()
        targets = torch.nan_to_num(targets)
        return guess, standardised(targets, known.float()) if self.options.norm_patches else targets, known

    def guesses(
        self, batch: Batch, rng: np.random.Generator, drop: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of every patch ``[B, C, N, P]``: prediction and target where it was masked and is known, NaN elsewhere; and the true
        values where the network saw them, NaN elsewhere.
        """
        patches = self.network.sequence_patches(batch.x)
        grid, flat = self.network.grid_of(batch.x), patches.flatten(1, 2)
        guessed, wanted, shown = (torch.full_like(flat, torch.nan) for _ in range(3))
        for rows, visible, masked in self.groups(batch, patches, rng, drop):
            guess, targets, known = self.predict(patches, rows, visible, masked, grid)
            at, seen = (rows[:, None], masked), (rows[:, None], visible)
            guessed[at] = torch.where(known, guess.to(flat.dtype), torch.nan)
            wanted[at] = torch.where(known, targets, torch.nan)
            shown[seen] = flat[seen]
        return tuple(v.view(patches.shape) for v in (guessed, wanted, shown))  # type: ignore[return-value]

    @torch.no_grad()
    def shown(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
        """For a report, as :func:`medfm.pretraining.diagnostics.reconstructions`: a sequence is a channel, NaN where absent."""
        guess, _, seen = self.guesses(batch, self.rng())
        patches = self.network.sequence_patches(batch.x)
        hidden = ~guess.isnan()
        truth = torch.where(hidden, patches, torch.nan)
        if self.options.norm_patches:
            mean = truth.nanmean(-1, keepdim=True)
            guess = guess * (truth - mean).square().nanmean(-1, keepdim=True).sqrt() + mean
        x = torch.where(batch.present[:, :, None, None], patches, torch.nan)
        whole = torch.where(hidden, guess, x)
        pictures = (self.volumes(part, batch.x).float().cpu().numpy() for part in (x, seen, whole))
        return *pictures, self.options.norm_patches  # type: ignore[return-value]

    @torch.no_grad()
    def reconstruction(self, batch: Batch, fill: Any) -> diagnostics.Reconstruction:
        """As :func:`medfm.pretraining.diagnostics.reconstruction_error`: what is absent or outside enters nothing."""
        guess, wanted, seen = self.guesses(batch, self.rng())
        known = ~wanted.isnan()
        filled = torch.from_numpy(fill(self.volumes(seen, batch.x).float().cpu().numpy())).to(guess.device)
        by_fill = torch.nan_to_num(self.network.sequence_patches(filled))
        if self.options.norm_patches:
            by_fill = standardised(by_fill, known.float())
        truth = torch.nan_to_num(wanted)

        def error(values: Tensor) -> float:
            return float(
                ((torch.nan_to_num(values) - truth).square() * known).sum() / known.sum().clamp_min(1)
            )

        constant = torch.full_like(truth, float(truth.sum() / known.sum().clamp_min(1)))
        return diagnostics.Reconstruction(
            error(guess), error(by_fill), error(constant), self.options.norm_patches
        )

    def volumes(self, patches: Tensor, x: Tensor) -> Tensor:
        """``[B, C, N, P] -> [B, C, *S]``, less what fills no last patch of ``x``."""
        grid, patch = self.network.grid_of(x), self.network.patch
        return unpatchify(patches.flatten(0, 1), grid, patch).unflatten(0, patches.shape[:2])[:, :, 0]

    @torch.no_grad()
    def errors(self, batch: Batch, seed: int) -> dict[str, float]:
        """Mean over sequences of the squared error of masked values (``masked_error``), and of their mean in its place
        (``mean_error``); masks by ``seed`` and no sequence hidden on purpose.
        """
        guess, wanted, _ = self.guesses(batch, np.random.default_rng(seed), drop=0.0)
        guess, wanted = (v.float().transpose(0, 1).flatten(1) for v in (guess, wanted))
        mine = (guess - wanted).square().nanmean(1)
        theirs = (wanted - wanted.nanmean(1, keepdim=True)).square().nanmean(1)
        return {"masked_error": float(mine.nanmean()), "mean_error": float(theirs.nanmean())}

    def held_out(self, batches: Iterable[Batch]) -> dict[str, float]:
        found = [self.errors(batch.to(self.device), self.seed + i) for i, batch in enumerate(batches)]
        return {name: float(np.mean([f[name] for f in found])) for name in self.measures} if found else {}

    @torch.no_grad()
    def collapse_measures(self, batch: Batch) -> dict[str, float]:
        """Spread of the map over whole subjects (there is one encoder: ``target_std`` and ``context_std`` are one number),
        effective rank of the exported embedding, and :meth:`errors`, all in evaluation.
        """
        training = self.training
        self.eval()
        features = self.backbone(batch.x, batch.present)
        spread = diagnostics.spread(features.maps[0].flatten(2))
        found = {
            "target_std": spread,
            "context_std": spread,
            "effective_rank": diagnostics.effective_rank(features.pooled.float()),
            **self.errors(batch, self.seed),
        }
        self.train(training)
        return found

    @classmethod
    def verdict(cls, first: Mapping[str, float], last: Mapping[str, float]) -> str:
        """One sentence when masked values are predicted hardly better than by their mean; empty otherwise."""
        if "masked_error" not in last or last["masked_error"] < FLAT * last["mean_error"]:
            return ""
        return (
            f"FLAT: masked values are predicted with a squared error of {last['masked_error']:.3f}, and their mean has "
            f"{last['mean_error']:.3f}: nothing is learned yet. Train for more trainer.steps, or raise optim.lr to 1e-3."
        )


def token_errors(guess: Tensor, targets: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error ``[G, M]`` of each token over its known values, in float32, and 1.0 where it has any."""
    count = known.sum(-1)
    error = ((guess.float() - targets.float()) * known).square().sum(-1)
    return error / count.clamp_min(1), (count > 0).float()
