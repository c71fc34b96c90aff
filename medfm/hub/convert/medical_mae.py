"""Official checkpoints of medical MAE (github.com/lambert-x/medical_mae, arXiv 2210.12843) as a medfm backbone.

A training file holds ``model`` (encoder and decoder, names of timm's Vision Transformer) beside the optimiser and the
command line, an ``argparse.Namespace``, which holds values and runs nothing. The encoder is kept, the decoder left
out. Width, depth, patch and input size are read from the tensors; the number of heads stands nowhere. The
DenseNet-121 of the same authors and fine-tuned files have other layouts and are refused.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from medfm.backbones.vit import ViT
from medfm.config.modalities import XraySettings
from medfm.hub.convert.base import ConvertedBackbone, plain_names, read_checkpoint
from medfm.types import ReadError

DECODER = ("decoder_", "mask_token")
# Of grey in [0, 1], repeated in every channel.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NIH_MEAN, NIH_STD = (0.5056,), (0.252,)


def convert(checkpoint: Path) -> ConvertedBackbone:
    """Read ``checkpoint`` and rebuild its encoder. Raises :class:`ReadError` for any other layout."""
    checkpoint = Path(checkpoint)
    content = read_checkpoint(checkpoint, allow=(argparse.Namespace,))
    model = content["model"] if isinstance(content.get("model"), dict) else content
    weights = plain_names(model)
    _refuse_others(checkpoint.name, weights)
    backbone, notes = _build(checkpoint.name, weights)
    return ConvertedBackbone(backbone, _modality(checkpoint.name, backbone, notes), notes)


def _refuse_others(name: str, weights: dict[str, Tensor]) -> None:
    if any("encoder.features." in k or "denseblock" in k for k in weights):
        raise ReadError(
            f"{name} is the DenseNet-121 of medical MAE; this converter reads its Vision Transformers."
        )
    if any(k.startswith(("fc_norm.", "head.")) for k in weights):
        raise ReadError(
            f"{name} is a fine-tuned classifier; give the pretraining checkpoint, which `medfm finetune` adapts "
            "to your labels."
        )
    needed = ("patch_embed.proj.weight", "cls_token", "pos_embed", "blocks.0.mlp.fc1.weight", "norm.weight")
    if missing := [k for k in needed if k not in weights]:
        raise ReadError(f"{name} is no medical MAE checkpoint: {missing[0]} is missing.")
    if weights["patch_embed.proj.weight"].ndim != 4:
        raise ReadError(f"{name} is no medical MAE checkpoint: its patches have not two axes.")


def _build(name: str, weights: dict[str, Tensor]) -> tuple[ViT, list[str]]:
    state = {k: v for k, v in weights.items() if not k.startswith(DECODER)}
    dim, channels, *patch = state["patch_embed.proj.weight"].shape
    count = state["pos_embed"].shape[1] - 1
    side = math.isqrt(count)
    if side**2 != count:
        raise ReadError(f"{name} has positions for {count} patches, which are no square image.")
    heads = dim // 64 if dim % 64 == 0 else dim // 32
    if not heads or dim % heads:
        raise ReadError(f"{name} has a width of {dim}, from which no number of attention heads follows.")
    backbone = ViT(
        rank=2,
        in_channels=channels,
        input_size=[side * p for p in patch],
        patch=patch,
        dim=dim,
        depth=len({k.split(".")[1] for k in state if k.startswith("blocks.")}),
        heads=heads,
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        bias=True,
        class_token=True,
        positions="learned",
    )
    expected = backbone.state_dict()
    wrong = [
        k
        for k in expected.keys() | state.keys()
        if k not in expected or k not in state or expected[k].shape != state[k].shape
    ]
    if wrong:
        raise ReadError(
            f"{name} does not fit a medical MAE encoder: {', '.join(sorted(wrong)[:3])} is missing, extra or of "
            "another shape."
        )
    backbone.load_state_dict(state)
    note = (
        f"The file does not say how many attention heads it has: {heads} of {dim // heads} dimensions each."
    )
    return backbone.eval(), [note]


def _modality(name: str, backbone: ViT, notes: list[str]) -> dict[str, Any]:
    """Size, channels and normalisation of the official input as :class:`XraySettings`."""
    rgb = backbone.in_channels == 3
    if not rgb and backbone.in_channels != 1:
        raise ReadError(f"{name} takes {backbone.in_channels} channels, which are neither grey nor colour.")
    notes.append(
        "The checkpoint carries no normalisation: ImageNet's, as the official code uses for CheXpert and MIMIC-CXR, "
        "stands in (NIH alone: mean .5056, deviation .252)."
        if rgb
        else "The checkpoint carries no normalisation: that of NIH in the official code stands in."
    )
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if rgb else (NIH_MEAN, NIH_STD)
    settings = XraySettings(
        size=backbone.config()["input_size"],
        colour="rgb" if rgb else "grey",
        normalise="dataset",
        mean=mean,
        std=std,
    )
    return settings.model_dump(mode="json")
