"""Is the representation alive? Numbers and picture data, computed now and then, never in the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medfm.backbones.attention import take
from medfm.backbones.patches import known_values, masked_error, patchify, standardised, unpatchify
from medfm.types import Batch


def spread(features: Tensor) -> float:
    """Deviation over records at a fixed place, averaged: of ``[B, D, N]`` the mean over D and N, of ``[B,
    D]`` over D.

    Taken over records and not over tokens, because positions keep tokens apart even when all records look
    alike.
    """
    return float(features.float().std(dim=0, correction=0).mean())


def effective_rank(embeddings: Tensor) -> float:
    """Exponential of the entropy of the normalised singular values of ``[B, D]`` (RankMe, Garrido et al.,
    2023), here of centred embeddings: 1 when all records lie on a line, at most ``min(B - 1, D)``.
    """
    values = torch.linalg.svdvals((embeddings - embeddings.mean(0)).double())
    total = float(values.sum())
    if total == 0:
        return 0.0
    share = values / total
    return float(torch.exp(-(share * torch.log(share.clamp_min(1e-300))).sum()))


@dataclass(frozen=True)
class MaskPicture:
    """One record under one mask, per token ``[N]``: what was hidden, and the mean absolute error of its
    prediction (NaN where visible). ``spread``: the same error of the best constant prediction, to judge it
    by.
    """

    masked: np.ndarray
    error: np.ndarray
    spread: float


@torch.no_grad()
def mask_pictures(method: Any, batch: Batch) -> list[MaskPicture]:
    """Pictures for a report, one a record of ``batch``; the method offers ``patches``, ``masks`` and
    ``predict``.
    """
    patches = method.patches(batch)
    visible, masked = method.masks(*patches.shape[:2])
    predictions, targets = method.predict(patches, visible, masked)
    errors = (predictions - targets).abs().float().mean(-1).cpu().numpy()
    flat = targets.float().flatten(0, 1)
    constant = float((flat - flat.median(0).values).abs().mean())
    pictures = []
    for hidden, row in zip(masked.cpu().numpy(), errors):
        mask, error = np.zeros(patches.shape[1], bool), np.full(patches.shape[1], np.nan)
        mask[hidden], error[hidden] = True, row
        pictures.append(MaskPicture(mask, error, constant))
    return pictures


@torch.no_grad()
def reconstructions(method: Any, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Records ``[B, C, *S]`` as the network gets them, what it saw of them (NaN where hidden), and the same with its
    guess in the hidden places; for methods that predict the values of ``patches``. What does not fill a last patch is
    left out. A guess of standardised patches is shown with the mean and deviation of the true one, which it never had, and
    the last item says so. A method whose masks differ from channel to channel brings its own (``shown``).
    """
    if hasattr(method, "shown"):
        own: tuple[np.ndarray, np.ndarray, np.ndarray, bool] = method.shown(batch)
        return own
    patches = method.patches(batch)
    visible, masked = method.masks(*patches.shape[:2])
    known = known_values(batch.present, patches.shape[2])
    guess, targets = method.predict(patches, visible, masked, known=known)
    hidden = take(patches, masked)
    if borrowed := not torch.equal(targets, hidden):
        guess = guess * hidden.std(-1, keepdim=True) + hidden.mean(-1, keepdim=True)
    index = masked[..., None].expand(-1, -1, patches.shape[2])
    grid = [s // p for s, p in zip(batch.x.shape[2:], method.patch)]
    seen = patches.scatter(1, index, torch.nan)
    whole = patches.scatter(1, index, guess.to(patches.dtype))
    x, seen, whole = (unpatchify(p, grid, method.patch).float().cpu().numpy() for p in (patches, seen, whole))
    return x, seen, whole, borrowed


@dataclass(frozen=True)
class Reconstruction:
    """Mean squared errors over hidden values, in the method's own terms: of the network, of values interpolated from
    the visible ones, and of one constant (with normalised patches 0, their mean). ``normalised``: each patch was compared
    less its mean and over its deviation, of the interpolation likewise.
    """

    network: float
    interpolation: float
    constant: float
    normalised: bool


@torch.no_grad()
def reconstruction_error(
    method: Any, batch: Batch, fill: Callable[[np.ndarray], np.ndarray]
) -> Reconstruction:
    """For methods that predict the values of ``patches``. ``fill``: ``[B, C, *S]`` with NaN where hidden to the same
    without NaN. A method whose masks differ from channel to channel brings its own (``reconstruction``).
    """
    if hasattr(method, "reconstruction"):
        own: Reconstruction = method.reconstruction(batch, fill)
        return own
    patches = method.patches(batch)
    visible, masked = method.masks(*patches.shape[:2])
    known = known_values(batch.present, patches.shape[2])
    guess, targets = method.predict(patches, visible, masked, known=known)
    hidden = take(patches, masked)
    normalised = not torch.equal(targets, hidden)
    index = masked[..., None].expand(-1, -1, patches.shape[2])
    grid = [s // p for s, p in zip(batch.x.shape[2:], method.patch)]
    seen = unpatchify(patches.scatter(1, index, torch.nan), grid, method.patch)
    filled = torch.from_numpy(fill(seen.float().cpu().numpy())).to(patches.device)
    by_fill = take(patchify(filled, method.patch), masked)
    by_fill = standardised(by_fill, known) if normalised else by_fill
    total = known.sum() * targets.shape[1]
    constant = (targets.float() * known).sum() / total.clamp_min(1)

    def error(values: Tensor) -> float:
        return float(masked_error(values, targets, known))

    return Reconstruction(error(guess), error(by_fill), error(constant.expand_as(targets)), normalised)
