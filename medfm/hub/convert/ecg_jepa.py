"""Official ECG-JEPA checkpoints (github.com/kweimann/ECG-JEPA, arXiv 2410.13867) as a medfm backbone.

Three layouts: a training file (model, optimizer, config, step), a minified one (target encoder and
config), a fine-tuned one (encoder, head, config, preprocess). The target encoder is used where there is
one. Width, depth, patch, registers, biases and layer scale are read from the tensors; the number of heads
and the sampling rate only stand in the config. The other method called ECG-JEPA (arXiv 2410.08559) is
recognised and refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from medfm.backbones.vit import ViT
from medfm.config.modalities import ECG_LEADS, ECGSettings
from medfm.hub.convert.base import ConvertedBackbone, plain_names, read_checkpoint
from medfm.types import ReadError

HEADS = {192: 4, 384: 6, 768: 12}  # XS, S, B of the paper, for a file without its config
# Deviation of each lead over PTB-XL folds 1-8 in mV, by which the official code divides (means are about 0).
PTB_XL_STD = (0.191, 0.166, 0.173, 0.142, 0.149, 0.147, 0.235, 0.338, 0.335, 0.299, 0.294, 0.242)
NORMALISATION = (
    "The checkpoint carries no normalisation (official pretraining divides each data set by its own "
    "deviations): PTB-XL's per-lead deviations in mV stand in; refit them where your records differ."
)
LAYER_SCALE = {"attn_ls.weight": "ls1.gamma", "mlp_ls.weight": "ls2.gamma"}


def convert(checkpoint: Path) -> ConvertedBackbone:
    """Read ``checkpoint`` and rebuild its encoder. Raises :class:`ReadError` for anything else than the three
    layouts.
    """
    checkpoint = Path(checkpoint)
    content = read_checkpoint(checkpoint)
    _refuse_namesake(checkpoint.name, content)
    model = content["model"] if isinstance(content.get("model"), dict) else content
    weights, notes = _encoder(checkpoint.name, plain_names(model))
    config = content["config"] if isinstance(content.get("config"), dict) else {}
    backbone = _build(checkpoint.name, weights, config, notes)
    settings = _modality(checkpoint.name, content.get("preprocess"), config, backbone, notes)
    return ConvertedBackbone(backbone, settings, notes)


def _refuse_namesake(name: str, content: dict[str, Any]) -> None:
    """The namesake embeds patches of one lead with a layer ``W_P`` and keeps its blocks in
    ``encoder_blocks``.
    """
    keys = [
        k
        for part in (content, *content.values())
        if isinstance(part, dict)
        for k in part
        if isinstance(k, str)
    ]
    if any("W_P." in k or "encoder_blocks." in k for k in keys):
        raise ReadError(
            f"{name} is a checkpoint of the other method called ECG-JEPA (Kim, arXiv 2410.08559: 8 leads at "
            "250 Hz, patches of one lead); this converter reads Weimann and Conrad's (arXiv 2410.13867)."
        )


def _encoder(name: str, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The encoder's tensors without prefix: the target encoder's, or what a fine-tuned file has."""
    for prefix in ("target_encoder.", "encoder."):
        found = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        if "patch_embed.proj.weight" in found:
            dropped = {
                k.split(".")[0]
                for k in weights
                if not k.startswith(("target_encoder.", "encoder.", "predictor."))
            }
            notes = (
                [f"The head ({', '.join(sorted(dropped))}) of the fine-tuned file was left out."]
                if dropped
                else []
            )
            if prefix == "encoder." and not dropped:
                notes.append("The file has no target encoder; its context encoder was used.")
            return found, notes
    raise ReadError(
        f"{name} is no ECG-JEPA checkpoint: it holds neither target_encoder.patch_embed.proj.weight nor "
        "encoder.patch_embed.proj.weight."
    )


def _build(name: str, weights: dict[str, Tensor], config: dict[str, Any], notes: list[str]) -> ViT:
    patches = weights["patch_embed.proj.weight"]
    if patches.ndim != 3:
        raise ReadError(
            f"{name} is no ECG-JEPA checkpoint: its patch embedding has {patches.ndim} axes instead of 3."
        )
    dim, leads, patch = patches.shape
    heads = config.get("num_heads", HEADS.get(dim))
    if not isinstance(heads, int) or heads < 1 or dim % heads:
        raise ReadError(
            f"{name} does not say how many attention heads it has (config.num_heads), nor does its width "
            f"{dim}."
        )
    blocks = {int(k.split(".")[1]) for k in weights if k.startswith("blocks.")}
    state = {_renamed(k): v for k, v in weights.items() if k != "positions"}
    mlp = state.get("blocks.0.mlp.fc1.weight")
    if mlp is None:
        raise ReadError(f"{name} is no ECG-JEPA checkpoint: it has no Transformer block.")
    registers = state.get("registers")
    linear_bias = any(k.endswith(("proj.bias", "fc1.bias", "fc2.bias")) for k in state)
    backbone = ViT(
        rank=1,
        in_channels=leads,
        input_size=(int(config.get("channel_size", 200 * patch)),),
        patch=(patch,),
        dim=dim,
        depth=len(blocks),
        heads=heads,
        mlp_ratio=mlp.shape[0] / dim,
        bias=linear_bias,
        qkv_bias=any(k.endswith("qkv.bias") for k in state),
        norm_bias=any("norm" in k and k.endswith(".bias") for k in state),
        registers=0 if registers is None else registers.shape[1],
        norm_eps=float(config.get("norm_eps", 1e-6)),
        layer_scale=1.0 if "blocks.0.ls1.gamma" in state else None,
    )
    if not config:
        notes.append(f"The file has no config: {heads} heads, 500 Hz and twelve leads are the paper's.")
    expected = backbone.state_dict()
    # Releases differ in which layers have a bias; one that is not there is zero.
    state.update(
        {k: v.new_zeros(v.shape) for k, v in expected.items() if k.endswith(".bias") and k not in state}
    )
    wrong = [
        k
        for k in expected.keys() | state.keys()
        if k not in expected or k not in state or expected[k].shape != state[k].shape
    ]
    if wrong:
        raise ReadError(
            f"{name} does not fit an ECG-JEPA encoder: {', '.join(sorted(wrong)[:3])} is missing, extra or "
            "of another shape."
        )
    backbone.load_state_dict(state)
    return backbone.eval()


def _renamed(key: str) -> str:
    for official, ours in LAYER_SCALE.items():
        if key.endswith(official):
            return key.removesuffix(official) + ours
    return key


def _modality(
    name: str, preprocess: Any, config: dict[str, Any], backbone: ViT, notes: list[str]
) -> dict[str, Any]:
    """Leads, rate, window and normalisation as :class:`ECGSettings`."""
    known = {lead.casefold(): lead for lead in ECG_LEADS}
    names = [str(c) for c in config.get("channels", ECG_LEADS)]
    if unknown := [n for n in names if n.casefold() not in known]:
        raise ReadError(f"{name} names leads that medfm does not know: {', '.join(unknown)}.")
    if len(names) != backbone.in_channels:
        raise ReadError(f"{name} names {len(names)} leads for {backbone.in_channels} input channels.")
    leads = [known[n.casefold()] for n in names]
    fs = float(config.get("sampling_frequency", 500))
    mean, std = _statistics(preprocess, len(leads))
    if std is None:
        notes.append(NORMALISATION)
        mean, std = [0.0] * len(leads), [PTB_XL_STD[ECG_LEADS.index(lead)] for lead in leads]
    seconds = backbone.config()["input_size"][0] / fs
    plain = {"leads": leads, "fs": fs, "seconds": seconds, "normalise": "dataset", "mean": mean, "std": std}
    settings = ECGSettings.model_validate({**plain, "clip": 5.0})
    return settings.model_dump(mode="json")


def _statistics(preprocess: Any, leads: int) -> tuple[list[float] | None, list[float] | None]:
    """Per-lead mean and deviation of a fine-tuned file (lists, arrays or tensors of any shape)."""
    if not isinstance(preprocess, dict) or "mean" not in preprocess or "std" not in preprocess:
        return None, None
    import torch

    mean, std = (
        torch.as_tensor(preprocess[k], dtype=torch.float64).flatten().tolist() for k in ("mean", "std")
    )
    return (mean, std) if len(mean) == len(std) == leads else (None, None)
