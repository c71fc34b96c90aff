"""Linear probe: the backbone stays frozen, the head is a logistic regression (no gradient step is taken)."""

from __future__ import annotations

from medfm.finetuning.heads import FinetuneModel
from medfm.finetuning.strategies.base import Strategy, freeze


class LinearProbe(Strategy):
    def apply(self, model: FinetuneModel) -> None:
        freeze(model.parameters())

    def saved_keys(self, model: FinetuneModel) -> list[str]:
        return [k for k in model.state_dict() if k.startswith("head.")]
