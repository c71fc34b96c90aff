"""LoRA (Hu et al., arXiv 2106.09685) through peft: W + (alpha / rank) B A on every ``adapter_targets``
module.

B starts at zero, so that training starts from the frozen network exactly. The backbone's own weights never
move.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from medfm.finetuning.heads import FinetuneModel
from medfm.finetuning.strategies.base import Strategy, freeze, split_decay
from medfm.types import MedfmError

ADAPTER = "default"
PREFIX = "base_model.model."


class LoRA(Strategy):
    def apply(self, model: FinetuneModel) -> None:
        from peft import inject_adapter_in_model

        backbone: Any = model.backbone
        targets = [name for name in backbone.adapter_targets if f"{name}.weight" not in self.fresh]
        if not targets:
            raise MedfmError(
                f"strategy lora: the backbone {type(backbone).__name__} names no layer that an adapter "
                "can wrap; "
                "use --strategy lp-ft or linear-probe."
            )
        freeze(backbone.parameters())
        inject_adapter_in_model(self._config(targets), backbone, adapter_name=ADAPTER)
        self._targets = targets

    def _config(self, targets: list[str]) -> Any:
        from peft import LoraConfig

        s = self.settings
        return LoraConfig(
            r=s.rank, lora_alpha=s.alpha, lora_dropout=s.dropout, target_modules=targets, bias="none"
        )

    def param_groups(self, model: FinetuneModel) -> list[dict[str, Any]]:
        s = self.settings
        adapters = [(n, p) for n, p in model.backbone.named_parameters() if p.requires_grad]
        of_head = s.weight_decay if s.head_weight_decay is None else s.head_weight_decay
        return [
            *split_decay(model.head.named_parameters(), s.head_lr, of_head),
            *split_decay(adapters, s.lr, s.weight_decay),
        ]

    def saved_keys(self, model: FinetuneModel) -> list[str]:
        own = {f"backbone.{name}" for name in self.fresh}
        return [k for k in model.state_dict() if ".lora_" in k or k.startswith("head.") or k in own]

    def merge(self, model: FinetuneModel) -> None:
        """Replace every wrapped module by a plain one holding W + (alpha / rank) B A."""
        for name in self._targets:
            wrapped: Any = model.backbone.get_submodule(name)
            if wrapped.weight.ndim == 5:
                _merge_conv3d(wrapped)
            else:
                wrapped.merge(safe_merge=True)
        _unwrap(model.backbone, self._targets)

    def adapter(self, model: FinetuneModel) -> Any:
        """A ``PeftModel`` over a copy of the backbone as it was before, holding the trained adapter. Its
        names are peft's own, so that the saved folder loads with peft alone."""
        from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

        base: Any = copy.deepcopy(model.backbone)
        _unwrap(base, self._targets)
        del base.peft_config
        base.config = {}  # peft reads a mapping there, where our backbones have a method
        wrapped = get_peft_model(base, self._config(self._targets))
        # Names lack peft's prefix where the adapter was inserted without its wrapper; unknown names are
        # ignored there.
        trained = get_peft_model_state_dict(model.backbone, adapter_name=ADAPTER)
        told: Any = set_peft_model_state_dict(
            wrapped, {PREFIX + name: value for name, value in trained.items()}
        )
        assert not told.unexpected_keys, told.unexpected_keys
        return wrapped.eval()


@torch.no_grad()
def _merge_conv3d(wrapped: Any) -> None:
    """peft 0.21 takes a kernel of 1 x 1 x n for one of 1 x 1 in two dimensions, and its merge fails."""
    inner = wrapped.get_base_layer().weight
    up, down = (part[ADAPTER].weight.flatten(1) for part in (wrapped.lora_B, wrapped.lora_A))
    inner += wrapped.scaling[ADAPTER] * (up @ down).view_as(inner)


def _unwrap(backbone: nn.Module, targets: list[str]) -> None:
    """Put each wrapped module's inner one back in its place, trainable as before."""
    for name in targets:
        parent_name, _, leaf = name.rpartition(".")
        wrapped: Any = backbone.get_submodule(name)
        setattr(backbone.get_submodule(parent_name), leaf, wrapped.get_base_layer())
    for parameter in backbone.parameters():
        parameter.requires_grad_(True)
