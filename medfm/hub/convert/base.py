"""What every converter shares: reading a stranger's file without running it, and what a conversion yields."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from medfm.backbones.base import Backbone
from medfm.types import ReadError


@dataclass(frozen=True)
class ConvertedBackbone:
    """A backbone with official weights, the settings of the modality it expects, and what a person should
    know.
    """

    backbone: Backbone
    modality_settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=dict)
    """Fields of the card that the converter knows better than the general words."""


class ObjectsError(ReadError):
    """A checkpoint that holds Python objects beside its weights."""


def read_checkpoint(path: Path, allow: tuple[type, ...] = ()) -> dict[str, Any]:
    """The mapping that a PyTorch file holds. Tensors and plain values only: a file that wants to run code is
    refused. ``allow``: further types that an official file holds and that cannot run code either.

    Raises :class:`ReadError` when it cannot be read that way, :class:`ObjectsError` when that is because of objects.
    """
    import torch

    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(allow)):
            warnings.simplefilter("ignore")  # torch's remarks on pickle protocols; a refusal says more
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ReadError(f"{path}: no such file.") from error
    except Exception as error:  # torch raises many kinds: broken archive, foreign format, forbidden object
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise ObjectsError(
                f"{path.name} holds Python objects beside its weights, which could run code when opened. Ask "
                "its source for a file of tensors only, or save its state dict alone where you trust it."
            ) from error
        raise ReadError(f"{path.name} is not a readable PyTorch checkpoint; it may be truncated.") from error
    if not isinstance(content, dict):
        raise ReadError(f"{path.name} holds a {type(content).__name__}, not a checkpoint with named weights.")
    return content


def plain_names(state: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors by name, without the prefixes that data-parallel training and compilation leave."""
    return {
        name.removeprefix("module.").replace("_orig_mod.", ""): value.float()
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
