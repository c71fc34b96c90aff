"""Official PCT-Net checkpoints (github.com/openmedlab/MIS-FM, arXiv 2306.16925) as a medfm backbone with its decoder.

A training file holds ``model_state_dict`` beside counters. Three embeddings and heads stand in every file, of which one
was trained: which, the counters of its batch norms say where they ran. Widths, heads, depths and windows are read from
the tensors; a level with a smaller window than another is as small as that window. The input size stands nowhere else.
It decides where windows are shifted. Its axes are slices, rows, columns.
The classifiers of five fused classes are left out, with the norms of attention that nothing passes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medfm.backbones.base import Backbone, build
from medfm.backbones.pct_net import relative_index
from medfm.config.modalities import CTSettings
from medfm.hub.convert.base import ConvertedBackbone, plain_names, read_checkpoint
from medfm.types import ConfigError, ReadError

PAPER_SIZE = (64, 128, 128)
UNUSED = re.compile(
    r".*\.(norm_layer\.(weight|bias)|relative_position_index|out_conv\d\.conv\.2\.(weight|bias))"
)
BLOCKS = "pyramid_ct.convtrans_e{}.trans.blocks."
CITATIONS = [
    "Wang, G. et al.: MIS-FM: 3D Medical Image Segmentation using Foundation Models Pretrained on a Large-Scale "
    "Unannotated Dataset. arXiv 2306.16925."
]
NORMALISATION = (
    "The file carries no preprocessing: -1000 to 1000 HU become -1 to 1, as in the official demonstration on lungs, and "
    "the spacing is medfm's default."
)


def convert(
    checkpoint: Path, *, resolution_mode: str | None = None, input_size: str | None = None
) -> ConvertedBackbone:
    """Read ``checkpoint`` and rebuild its network.

    ``resolution_mode``: 0, 1 or 2, where the file does not tell; ``input_size``: slices x rows x columns, as 64x128x128
    (the paper's, and the default). Raises :class:`ReadError` for any other layout, :class:`ConfigError` for options that
    cannot be.
    """
    checkpoint = Path(checkpoint)
    content = read_checkpoint(checkpoint)
    inner = content.get("model_state_dict")
    state = content if not isinstance(inner, dict) else inner
    weights = plain_names(state)
    _refuse_others(checkpoint.name, weights)
    mode = _mode(checkpoint.name, state, resolution_mode)
    size, notes = _size(input_size)
    backbone = _build(checkpoint.name, weights, mode, size)
    classes = weights[f"pred_heads.{mode}.out_conv0.conv.2.weight"].shape[0]
    notes.append(f"The classifiers of {classes} classes were left out. Not evaluated by medfm.")
    settings = CTSettings(
        size=size,
        orientation="SPL",
        windows=((-1000.0, 1000.0),) * backbone.in_channels,
        normalise="dataset",
        mean=(0.5,) * backbone.in_channels,
        std=(0.5,) * backbone.in_channels,
    )
    card = {
        "data": "What the official authors state of their checkpoint; medfm does not know it. Their code is under Apache-2.0; "
        "whether their weights are, is not verified.",
        "citations": CITATIONS,
    }
    return ConvertedBackbone(backbone, settings.model_dump(mode="json"), [NORMALISATION, *notes], card)


def _refuse_others(name: str, weights: dict[str, Tensor]) -> None:
    if not any(k.startswith("pyramid_ct.") for k in weights):
        raise ReadError(
            f"{name} is no PCT-Net checkpoint: no tensor's name begins with pyramid_ct. (FMUNet, the other network of "
            "MIS-FM, is not read)."
        )
    needed = [
        *[f"embeddings.{m}.proj.weight" for m in range(3)],
        *[f"embeddings.{m}.down{i}.conv.2.weight" for m in range(3) for i in (1, 2)],
        *[f"pred_heads.{m}.out_conv0.conv.2.weight" for m in range(3)],
        *[f"pyramid_ct.down{i}.conv.2.weight" for i in (3, 4)],
        *[BLOCKS.format(i) + "0.attn.relative_position_bias_table" for i in (2, 3, 4)],
        *[BLOCKS.format(i) + "0.mlp.fc1.weight" for i in (2, 3, 4)],
    ]
    if missing := [k for k in needed if k not in weights]:
        raise ReadError(f"{name} is no PCT-Net checkpoint: {missing[0]} is missing.")


def _mode(name: str, state: dict[str, Any], given: str | None) -> int:
    """Of the three embeddings the one whose batch norms have counted batches, or the one ``given``."""
    if given is not None and str(given) not in ("0", "1", "2"):
        raise ConfigError(f"resolution_mode is 0, 1 or 2, not {given}.")
    counted = {
        int(k.split("embeddings.")[1][0])
        for k, v in state.items()
        if "embeddings." in k and k.endswith("num_batches_tracked") and int(v) > 0
    }
    if given is not None:
        if counted and int(given) not in counted:
            raise ConfigError(
                f"resolution_mode {given} was never trained in {name}, {counted.pop()} was; leave the option out."
            )
        return int(given)
    if len(counted) != 1:
        raise ReadError(
            f"{name} does not say which of its three resolution modes was trained; say it with "
            "--set resolution_mode=0 (slices as thin as pixels are wide), 1 (thicker) or 2 (much thicker)."
        )
    return counted.pop()


def _size(given: str | None) -> tuple[tuple[int, int, int], list[str]]:
    if given is None:
        return PAPER_SIZE, [
            f"The file does not say its input size: {list(PAPER_SIZE)} slices, rows and columns are the paper's; convert "
            "with --set input_size=AxBxC for another."
        ]
    parts = re.fullmatch(r"(\d+)x(\d+)x(\d+)", given)
    if not parts:
        raise ConfigError(
            f"input_size is three numbers, slices x rows x columns, as 64x128x128; not {given}."
        )
    a, b, c = (int(n) for n in parts.groups())
    return (a, b, c), []


def _build(name: str, weights: dict[str, Tensor], mode: int, size: tuple[int, int, int]) -> Backbone:
    fine = f"embeddings.{mode}."
    stem = weights[f"{fine}proj.weight"]
    channels = [stem.shape[0]] + [weights[f"{fine}down{i}.conv.2.weight"].shape[0] for i in (1, 2)]
    channels += [weights[f"pyramid_ct.down{i}.conv.2.weight"].shape[0] for i in (3, 4)]
    tables = [weights[BLOCKS.format(i) + "0.attn.relative_position_bias_table"] for i in (2, 3, 4)]
    depths = [
        len({k.removeprefix(BLOCKS.format(i)).split(".")[0] for k in weights if k.startswith(BLOCKS.format(i))})
        for i in (2, 3, 4)
    ]  # fmt: skip
    windows = [
        (round(t.shape[0] ** (1 / 3)) + 1) // 2 for t in tables
    ]  # shrunk to the level where that is smaller
    try:
        backbone = build(
            {
                "name": "pct_net",
                "in_channels": stem.shape[1],
                "input_size": size,
                "channels": channels,
                "depths": depths,
                "heads": [t.shape[1] for t in tables],
                "windows": [max(windows)] * 3,
                "mlp_ratio": weights[BLOCKS.format(2) + "0.mlp.fc1.weight"].shape[0] / channels[2],
                "resolution_mode": mode,
                "decoder": True,
            }
        )
    except ConfigError as error:
        raise ReadError(f"{name} cannot be built: {error}") from error
    _check_order(name, weights)
    expected: dict[str, Tensor] = backbone.net.state_dict()  # type: ignore[assignment,operator,union-attr]
    counters = {k: torch.tensor(0) for k in expected if k.endswith("num_batches_tracked")}
    other = tuple(f"{part}.{m}." for part in ("embeddings", "pred_heads") for m in range(3) if m != mode)
    kept = {k: v for k, v in weights.items() if not k.startswith(other) and not UNUSED.fullmatch(k)}
    kept = {**counters, **kept}
    wrong = sorted(
        k for k in expected.keys() | kept.keys()
        if k not in expected or k not in kept or expected[k].shape != kept[k].shape
    )  # fmt: skip
    if any("relative_position_bias_table" in k for k in wrong):
        raise ReadError(
            f"{name} was not made for an input of {list(size)}: its windows of {windows} voxels do not fit. Say its size "
            "with --set input_size=AxBxC (slices x rows x columns)."
        )
    if wrong:
        raise ReadError(
            f"{name} does not fit PCT-Net: {', '.join(wrong[:3])} is missing, extra or of another shape."
        )
    backbone.net.load_state_dict(kept)  # type: ignore[operator,union-attr]
    return backbone.eval()


def _check_order(name: str, weights: dict[str, Tensor]) -> None:
    """A file may hold the order of its bias tables; another one than ours would quietly mix up all offsets."""
    for key, index in weights.items():
        if key.endswith("relative_position_index"):
            window = round(index.shape[0] ** (1 / 3))
            if not torch.equal(index.long(), relative_index(window)):
                raise ReadError(
                    f"{name} orders the offsets of its windows in another way than PCT-Net: {key}."
                )
