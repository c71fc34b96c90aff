"""Progressive unfreezing, deep to shallow, with discriminative rates; or freezing, shallow to deep.

After the recipe for a hundred and sixty neonatal radiographs of arXiv 2507.12269 (whose title says freezing): the head
alone, then a further parameter group after a given share of the epochs, each at its own peak rate; what is named in
``never`` stays as it was pretrained. There, ten epochs of the head alone come first: here ``probe_first``, the
regularised logistic regression on the frozen features, the optimum that such epochs move towards. Departures: the number of
epochs is chosen on inner patients (there the last one counts), batch normalisations of frozen groups stay in evaluation
mode, and features are standardised. Evenly spaced starts are ours. Generic in the backbone's ``groups()``, which
``stages`` joins: four of them make a ViT's blocks what a ResNet's stages are.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from torch import nn

from medfm.backbones.base import Backbone
from medfm.finetuning.heads import FinetuneModel
from medfm.finetuning.strategies.base import Stack, Strategy, freeze, layerwise_groups
from medfm.types import ConfigError


class Progressive(Strategy):
    """``changes[g]``: the epoch in which group g (stem 0) opens, or freezes."""

    @property
    def starts_from_probe(self) -> bool:  # type: ignore[override]
        return bool(self.settings.probe_first)

    def stack(self, backbone: Backbone) -> Stack:
        """The groups that the settings name, stem to top. Raises :class:`ConfigError` for names that are none."""
        s = self.settings
        stack = joined(backbone.groups(), s.stages) if s.stages else backbone.groups()
        names = [name for name, _ in stack]
        for setting in ("never", "starts", "rates"):
            if unknown := [n for n in getattr(s, setting) if n not in names]:
                raise ConfigError(
                    f"finetune.strategy.{setting}: the backbone has no group {unknown[0]!r}; its groups: "
                    f"{', '.join(names)}."
                )
        if both := [n for n in s.never if n in s.starts or n in s.rates]:
            raise ConfigError(
                f"finetune.strategy: {both[0]} stands in never, and in starts or rates; choose."
            )
        if s.starts and (silent := [n for n in names if n not in s.starts and n not in s.never]):
            raise ConfigError(
                f"finetune.strategy.starts says nothing of {', '.join(silent)}: give each a share of the epochs, or "
                "put it into finetune.strategy.never."
            )
        return stack

    def check(self, backbone: Backbone) -> None:
        super().check(backbone)
        self.stack(backbone)

    def apply(self, model: FinetuneModel) -> None:
        self._named = self.stack(model.backbone)
        for name, parameters in self._named:
            if name in self.settings.never:
                freeze(parameters)
        # Which ones may open at all: a backbone's own fixed parameters never do.
        stack = [(name, [p for p in ps if p.requires_grad]) for name, ps in self._named]
        stack = [(name, ps) for name, ps in stack if ps]
        self._stack: list[list[nn.Parameter]] = [ps for _, ps in stack]
        self.changes = self._changes([name for name, _ in stack])

    def _changes(self, names: list[str]) -> list[int]:
        s, total = self.settings, len(names)
        if s.starts:  # 0.29 of 100 epochs are 29 of them, whatever the product of the floats
            return [math.floor(s.starts[name] * s.epochs + 1e-9) for name in names]
        if s.direction == "shallow-to-deep":
            return [-(-(g + 1) * s.epochs // (total + 1)) for g in range(total)]
        room = max(1, s.epochs - s.head_epochs)
        return [s.head_epochs - (-(total - 1 - g) * room // total) for g in range(total)]

    def param_groups(self, model: FinetuneModel) -> list[dict[str, Any]]:
        return layerwise_groups(model, self.settings, self._named, self.settings.rates)

    def on_epoch(self, model: FinetuneModel, epoch: int) -> None:
        opening = self.settings.direction == "deep-to-shallow"
        for change, parameters in zip(self.changes, self._stack):
            for parameter in parameters:
                parameter.requires_grad_((epoch >= change) == opening)
        super().on_epoch(model, epoch)

    def saved_keys(self, model: FinetuneModel) -> list[str]:
        fixed = {id(p) for name, ps in self._named if name in self.settings.never for p in ps}
        names = {name for name, p in model.named_parameters() if id(p) in fixed}
        return [k for k in super().saved_keys(model) if k not in names]


def joined(stack: Stack, count: int) -> Stack:
    """The stem, and the other groups as ``stage1`` (shallow) to ``stageN``, as even as they come; a final norm belongs
    to the last. Raises :class:`ConfigError` when there are fewer groups than that."""
    stem, body = stack[0], stack[1:]
    if len(body) > 1 and body[-1][0] == "norm":
        body = [*body[:-2], (body[-2][0], body[-2][1] + body[-1][1])]
    if len(body) < count:
        raise ConfigError(
            f"finetune.strategy.stages={count}: the backbone has {len(body)} groups above its stem; ask for no more."
        )
    bounds = [i * len(body) // count for i in range(count + 1)]
    return [
        stem,
        *(
            (f"stage{i + 1}", [p for _, ps in body[first:last] for p in ps])
            for i, (first, last) in enumerate(pairwise(bounds))
        ),
    ]
