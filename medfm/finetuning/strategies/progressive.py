"""Progressive unfreezing, deep to shallow, with discriminative rates.

After the recipe of arXiv 2507.12269 (whose title says freezing): the head alone, then one more parameter
group at a time from the top. Generic in the backbone's ``groups()``; evenly spaced starts are ours.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from medfm.finetuning.heads import FinetuneModel
from medfm.finetuning.strategies.base import Strategy, freeze, layerwise_groups, train_mode
from medfm.types import MedfmError


class Progressive(Strategy):
    starts_from_probe = False

    def apply(self, model: FinetuneModel) -> None:
        stack = model.backbone.groups()
        names = [name for name, _ in stack]
        if unknown := [n for n in self.settings.never if n not in names]:
            raise MedfmError(
                f"finetune.strategy.never: the backbone has no group {unknown[0]!r}; its groups: "
                f"{', '.join(names)}."
            )
        for name, parameters in stack:
            if name in self.settings.never:
                freeze(parameters)
        # Which ones may open at all: a backbone's own fixed parameters never do.
        self._stack: list[list[nn.Parameter]] = [[p for p in ps if p.requires_grad] for _, ps in stack]
        self._stack = [ps for ps in self._stack if ps]

    def param_groups(self, model: FinetuneModel) -> list[dict[str, Any]]:
        s = self.settings
        return layerwise_groups(
            model, lr=s.lr, head_lr=s.head_lr, decay=s.layer_decay, weight_decay=s.weight_decay
        )

    def open_groups(self, epoch: int) -> int:
        """How many groups train in this epoch, counted from the top."""
        head, total = self.settings.head_epochs, len(self._stack)
        if epoch < head:
            return 0
        return min(total, 1 + (epoch - head) * total // max(1, self.epochs - head))

    def on_epoch(self, model: FinetuneModel, epoch: int) -> None:
        first_open = len(self._stack) - self.open_groups(epoch)
        for index, parameters in enumerate(self._stack):
            for parameter in parameters:
                parameter.requires_grad_(index >= first_open)
        train_mode(model)
