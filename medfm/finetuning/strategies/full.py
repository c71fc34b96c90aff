"""Full fine-tuning: every weight trains, deeper layers slower (layer-wise decay)."""

from __future__ import annotations

from typing import Any

from medfm.finetuning.heads import FinetuneModel
from medfm.finetuning.strategies.base import Strategy, layerwise_groups


class Full(Strategy):
    starts_from_probe = False

    def param_groups(self, model: FinetuneModel) -> list[dict[str, Any]]:
        return layerwise_groups(model, self.settings)
