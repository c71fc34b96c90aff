"""What a strategy is: which weights train, at which rate, and from when. The loop in ``fit.py`` asks nothing
else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from medfm.config.strategies import StrategySettings
from medfm.finetuning.heads import FinetuneModel
from medfm.types import MedfmError

# Kept out of weight decay beside norms and biases, as in ViT practice.
NO_DECAY = ("register", "cls", "position", "pos_embed")


class Strategy:
    """``apply`` once before training, ``param_groups`` for the optimiser, ``on_epoch`` before every epoch.

    ``on_epoch`` is a pure function of the epoch, so that an interrupted training resumes right. ``epochs`` is
    0 where nothing is trained beyond the linear probe; ``starts_from_probe``: the head begins as the probe's
    solution, else at zero weights and the prevalence.
    """

    settings: Any
    starts_from_probe = True

    def __init__(self, settings: StrategySettings) -> None:
        self.settings = settings

    @property
    def epochs(self) -> int:
        return int(getattr(self.settings, "epochs", 0))

    def apply(self, model: FinetuneModel) -> None:
        """Change the network before training (insert adapters, freeze). Called once."""

    def param_groups(self, model: FinetuneModel) -> list[dict[str, Any]]:
        """Optimiser groups ``{"params", "lr", "weight_decay"}``; ``lr`` is the peak of the schedule."""
        raise MedfmError(f"strategy {self.settings.name} trains no parameters by gradient.")

    def on_epoch(self, model: FinetuneModel, epoch: int) -> None:
        """Freeze and open for this epoch, then set training modes; to be called before each epoch."""
        train_mode(model)

    def saved_keys(self, model: FinetuneModel) -> list[str]:
        """Names in ``model.state_dict()`` that this strategy may have changed."""
        return list(model.state_dict())

    def merge(self, model: FinetuneModel) -> None:
        """Fold whatever was inserted back into plain weights, so that the backbone rebuilds from its
        config."""

    def adapter(self, model: FinetuneModel) -> Any | None:
        """What was inserted, as a ``peft.PeftModel`` over a copy of the untouched backbone (for the bundle's
        ``adapter/``); None where the strategy inserts nothing. Call before merging."""
        return None


def train_mode(model: nn.Module) -> None:
    """``train()``, but a batch normalisation whose weights are frozen stays in evaluation mode: in training
    mode its running statistics would drift with every small batch although nothing else of it moves."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            own = list(module.parameters(recurse=False))
            if not own or not any(p.requires_grad for p in own):
                module.eval()


def freeze(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(False)


def split_decay(
    named: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """One group with weight decay and one without (norms, biases, registers, positions)."""
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in named:
        bare = parameter.ndim <= 1 or any(part in name for part in NO_DECAY)
        (plain if bare else decayed).append(parameter)
    groups = [(decayed, weight_decay), (plain, 0.0)]
    return [{"params": params, "lr": lr, "weight_decay": decay} for params, decay in groups if params]


def layerwise_groups(
    model: FinetuneModel, *, lr: float, head_lr: float, decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """The head at ``head_lr``; backbone group l of G (stem 0, top G - 1) at ``lr * decay ** (G - 1 - l)``."""
    names = {id(p): n for n, p in model.backbone.named_parameters()}
    stack = model.backbone.groups()
    groups = split_decay(model.head.named_parameters(), head_lr, weight_decay)
    for depth, (_, parameters) in enumerate(reversed(stack)):
        trained = [(names[id(p)], p) for p in parameters if p.requires_grad]
        groups += split_decay(trained, lr * decay**depth, weight_decay)
    return groups
