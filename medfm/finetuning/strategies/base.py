"""What a strategy is: which weights train, at which rate, and from when. The loop in ``fit.py`` asks nothing
else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from medfm.backbones.base import Backbone
from medfm.config.strategies import StrategySettings, TrainedSettings
from medfm.finetuning.heads import FinetuneModel
from medfm.types import MedfmError

Stack = list[tuple[str, list[nn.Parameter]]]  # named parameter groups, stem to top
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
    # Names of the backbone's parameters that were drawn for this training and never pretrained (a new decoder): they are
    # trained whole, at the head's rate, whatever else is frozen or adapted.
    fresh: frozenset[str] = frozenset()

    def __init__(self, settings: StrategySettings) -> None:
        self.settings = settings

    @property
    def epochs(self) -> int:
        return int(getattr(self.settings, "epochs", 0))

    def check(self, backbone: Backbone) -> None:
        """Raise :class:`ConfigError` where the settings do not fit this network (it may be thrown away afterwards)."""
        if isinstance(self.settings, TrainedSettings) and self.settings.drop_path is not None:
            backbone.set_drop_path(self.settings.drop_path)

    def apply(self, model: FinetuneModel) -> None:
        """Change the network before training (insert adapters, freeze). Called once."""

    def regularise(self, model: FinetuneModel) -> None:
        """What acts while training only: stochastic depth and the head's dropout. Called once, after ``apply``."""
        if isinstance(self.settings, TrainedSettings):
            model.head.dropout = self.settings.head_dropout
            if self.settings.drop_path is not None:
                model.backbone.set_drop_path(self.settings.drop_path)

    def param_groups(self, model: FinetuneModel) -> list[dict[str, Any]]:
        """Optimiser groups ``{"params", "lr", "weight_decay"}``; ``lr`` is the peak of the schedule."""
        raise MedfmError(f"strategy {self.settings.name} trains no parameters by gradient.")

    def on_epoch(self, model: FinetuneModel, epoch: int) -> None:
        """Freeze and open for this epoch, then set training modes; to be called before each epoch."""
        train_mode(model, self.settings.batch_norm)

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


def train_mode(model: nn.Module, batch_norm: str = "frozen") -> None:
    """``train()``, but a batch normalisation whose weights are frozen stays in evaluation mode: in training
    mode its running statistics would drift with every small batch although nothing else of it moves.
    ``batch_norm``: ``frozen`` is this, ``all`` keeps every one of them, ``none`` none."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and batch_norm != "none":
            trained = any(p.requires_grad for p in module.parameters(recurse=False))
            if batch_norm == "all" or not trained:
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
    model: FinetuneModel, settings: Any, stack: Stack | None = None, rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """The head at ``settings.head_lr``; group l of G (stem 0, top G - 1) at ``lr * layer_decay ** (G - 1 - l)``, or at
    what ``rates`` names.

    A ViT's own groups (``stack=None``) have the layer ids of MAE's fine-tuning: patches, positions and extra tokens 0,
    block i of L i + 1, final norm and head L + 1, at ``lr * layer_decay ** (L + 1 - id)``.
    """
    names = {id(p): n for n, p in model.backbone.named_parameters()}
    decay, head_decay, rates = settings.weight_decay, settings.head_weight_decay, rates or {}
    groups = split_decay(
        model.head.named_parameters(), settings.head_lr, decay if head_decay is None else head_decay
    )
    for depth, (name, parameters) in enumerate(reversed(stack or model.backbone.groups())):
        trained = [(names[id(p)], p) for p in parameters if p.requires_grad]
        groups += split_decay(trained, rates.get(name, settings.lr * settings.layer_decay**depth), decay)
    return groups
