"""Full fine-tuning: every weight trains, deeper layers slower (layer-wise decay)."""

from __future__ import annotations

from typing import Any

from medfm.finetuning.heads import FinetuneModel
from medfm.finetuning.strategies.base import Strategy, layerwise_groups


class Full(Strategy):
    starts_from_probe = False

    def param_groups(self, model: FinetuneModel) -> list[dict[str, Any]]:
        s = self.settings
        return layerwise_groups(
            model, lr=s.lr, head_lr=s.head_lr, decay=s.layer_decay, weight_decay=s.weight_decay
        )
