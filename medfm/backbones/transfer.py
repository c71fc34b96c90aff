"""A backbone with its decoder or without it, keeping what both have: an encoder pretrained alone learns to draw masks."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from medfm.backbones.base import Backbone, build
from medfm.types import ConfigError


class Transfer(NamedTuple):
    """Names in ``state_dict``: taken over, new (at random initialisation), and left behind."""

    copied: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        new = (
            f"{len(self.new)} new at random ({', '.join(self.new[:3])}{', ...' if len(self.new) > 3 else ''})"
        )
        left = f", {len(self.left)} left behind" if self.left else ""
        return f"{len(self.copied)} tensors taken over, {new if self.new else 'none new'}{left}"


def with_decoder(backbone: Backbone, decoder: bool) -> tuple[Backbone, Transfer]:
    """``backbone`` built anew with or without its decoder of masks, every shared weight copied, and what became of each
    tensor. Where decoders have names (sequence_vit), one of another kind is left behind.

    The given one stays as it is. Kept are device, precision, training mode and which parameters are trained; new ones
    are trained. A stochastic depth set by ``set_drop_path`` is to be set again. Raises :class:`ConfigError` for a
    network that has no such choice.
    """
    config = backbone.config()
    if "decoder" not in config:
        raise ConfigError(
            f"backbone.name {config['name']} has no decoder; for masks take segresnet, unet3d, dynunet, swin_unetr, "
            "pct_net or sequence_vit."
        )
    choice = ("masks" if decoder else "none") if isinstance(config["decoder"], str) else decoder
    other = build({**config, "decoder": choice})
    old: dict[str, Tensor] = backbone.state_dict()
    names = list(other.state_dict())
    copied = tuple(k for k in names if k in old)
    other.load_state_dict({k: old[k] for k in copied}, strict=False)
    like = next(backbone.parameters())
    other.to(device=like.device, dtype=like.dtype).train(backbone.training)
    trained = {k: p.requires_grad for k, p in backbone.named_parameters()}
    for name, parameter in other.named_parameters():
        parameter.requires_grad_(trained.get(name, True))
    new = tuple(k for k in names if k not in old)
    return other, Transfer(copied, new, tuple(k for k in old if k not in set(names)))
