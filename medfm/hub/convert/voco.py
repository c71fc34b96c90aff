"""Official VoCo checkpoints (github.com/Luffy03/VoCo and Large-Scale-Medical, arXiv 2402.17300) as a medfm backbone.

What is released is a state dict of MONAI's SwinUNETR (second version), encoder alone (``*_SSL_head``) or with the decoder
(``VoComni``). What a user trained holds it under prefixes (``module.``, ``backbone.``, ``student.``, ``teacher.``), wrapped
in ``state_dict``, ``network_weights``, ``net`` or ``student``, with projection heads, and with the optimiser saved whole, an
object that is never built here. Width and channels are read from the tensors. Names that do not match are counted and
said: nothing is left at random quietly. nnU-Net's network of the same authors is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from medfm.backbones.base import Backbone, build
from medfm.config.modalities import CTSettings
from medfm.hub.convert.base import ConvertedBackbone, ObjectsError, read_checkpoint
from medfm.hub.convert.pickled import checkpoint_tensors
from medfm.types import ConfigError, ReadError

WRAPPED = ("state_dict", "network_weights", "net", "student")
PART = re.compile(
    r"(?P<prefix>(?:(?:module|_orig_mod|backbone|student|teacher)\.)*)"
    r"(?P<name>(?:swinViT|swin_vit|encoder\d+|decoder\d+|out)\..+)"
)
STEM = "swinViT.patch_embed.proj.weight"
ENOUGH = 0.95
NOTE = (
    "Pretrained on crops of 64 x 64 x 64 voxels; 96 is the size of the official downstream tasks. The preprocessing is that of "
    "abdomen and head-neck in the official code (1.5 mm, -175 to 250 HU); for chests it used -1000 to 500 HU. Not "
    "evaluated by medfm."
)
CITATIONS = [
    "Wu, L. et al.: VoCo: A Simple-yet-Effective Volume Contrastive Learning Framework for 3D Medical Image Analysis. "
    "CVPR 2024. arXiv 2402.17300."
]


@dataclass(frozen=True)
class LoadReport:
    """What became of a file's tensors: names in MONAI's SwinUNETR, ``unexpected`` as in the file."""

    matched: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = len(self.matched) + len(self.missing)
        parts = [f"{len(self.matched)} of {total} tensors taken over"]
        for word, names in (
            ("reshaped", self.reshaped),
            ("missing and random", self.missing),
            ("of the file not used", self.unexpected),
        ):
            if names:
                more = ", ..." if len(names) > 3 else ""
                parts.append(f"{len(names)} {word} ({', '.join(names[:3])}{more})")
        return "; ".join(parts) + "."


def convert(checkpoint: Path) -> ConvertedBackbone:
    """Read ``checkpoint`` and rebuild its network. Raises :class:`ReadError` for any other layout, and when less than
    19 in 20 of the network's tensors are in the file.
    """
    checkpoint = Path(checkpoint)
    try:
        content = read_checkpoint(checkpoint)
    except ObjectsError:
        content = checkpoint_tensors(checkpoint)
    weights, unused, source = _network(checkpoint.name, _unwrapped(content))
    backbone, report = _build(checkpoint.name, weights, unused)
    notes = [str(report), NOTE]
    if source:
        notes.insert(0, f"Of the file's networks, {source.rstrip('.')} was taken.")
    settings = CTSettings(size=(96, 96, 96), spacing=(1.5, 1.5, 1.5), windows=((-175.0, 250.0),))
    card = {
        "summary": f"Converted from the official VoCo checkpoint {checkpoint.name}, whose weights are unchanged.",
        "data": "What the official authors state of their checkpoint; medfm does not know it. Their code is under Apache-2.0; "
        "whether their weights are, and what the data sets' terms ask, is not verified.",
        "citations": CITATIONS,
    }
    return ConvertedBackbone(backbone, settings.model_dump(mode="json"), notes, card)


def _unwrapped(content: dict[str, Any]) -> dict[str, Any]:
    """The innermost mapping of tensors under the names that official files use."""
    while inner := next((content[k] for k in WRAPPED if isinstance(content.get(k), dict)), None):
        content = inner
    return content


def _network(name: str, content: dict[str, Any]) -> tuple[dict[str, Tensor], list[str], str]:
    """Tensors of one SwinUNETR under MONAI's names, names of the rest, and the prefix that was taken.

    Of student and teacher the student, as the official fine-tuning has it.
    """
    found: dict[str, dict[str, Tensor]] = {}
    origin: dict[str, list[str]] = {}
    rest = []
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            continue
        parts = PART.fullmatch(key)
        if parts is None:
            rest.append(key)
            continue
        prefix = re.sub(r"(module|_orig_mod)\.", "", parts["prefix"])
        inner = re.sub(r"^swin_vit\.", "swinViT.", parts["name"])
        found.setdefault(prefix, {})[inner] = value.float() if value.is_floating_point() else value
        origin.setdefault(prefix, []).append(key)
    networks = [p for p, tensors in found.items() if STEM in tensors]
    if not networks:
        _refuse(name, list(content))
    taken = min(networks, key=lambda p: ("teacher." in p, "student." in p))
    left = [k for prefix, keys in origin.items() if prefix != taken for k in keys]
    several = len(networks) > 1 or "teacher." in taken
    return found[taken], rest + left, taken if several else ""


def _refuse(name: str, keys: list[Any]) -> None:
    if any(str(k).startswith(("encoder.stages.", "decoder.stages.")) for k in keys):
        raise ReadError(
            f"{name} is nnU-Net's network of VoCo (PlainConvUNet); this converter reads its SwinUNETR."
        )
    raise ReadError(
        f"{name} is no VoCo checkpoint: no tensor is named {STEM}, with or without a prefix; it holds "
        f"{', '.join(map(str, keys[:3])) or 'nothing'}."
    )


def _build(name: str, weights: dict[str, Tensor], unused: list[str]) -> tuple[Backbone, LoadReport]:
    stem = weights[STEM]
    if not any(k.startswith("swinViT.layers1c.") for k in weights):
        raise ReadError(
            f"{name} is a SwinUNETR of the first version (no swinViT.layers1c); VoCo's have the second's blocks."
        )
    if stem.ndim != 5 or stem.shape[1] != 1:
        raise ReadError(f"{name} does not take one channel of CT: {STEM} is {list(stem.shape)}.")
    decoder = any(k.startswith("decoder") for k in weights)
    shape = {"name": "swin_unetr", "in_channels": 1, "input_size": (96, 96, 96)}
    try:
        backbone = build({**shape, "feature_size": stem.shape[0], "decoder": decoder})
    except ConfigError as error:
        raise ReadError(f"{name} cannot be built: {error}") from error
    expected: dict[str, Tensor] = backbone.net.state_dict()  # type: ignore[assignment,operator,union-attr]
    report = LoadReport(unexpected=[*unused, *[k for k in weights if k not in expected]])
    kept = {}
    for key, own in expected.items():
        value = weights.get(key)
        if value is None or value.numel() != own.numel():
            report.missing.append(key)
            continue
        if value.shape != own.shape:
            report.reshaped.append(key)
        kept[key] = value.reshape(own.shape)
        report.matched.append(key)
    if wrong := [k for k in kept if k.endswith("relative_position_index") and not kept[k].equal(expected[k])]:
        raise ReadError(f"{name} orders the offsets of its windows in another way than MONAI: {wrong[0]}.")
    if len(report.matched) < ENOUGH * len(expected):
        raise ReadError(f"{name} does not fit SwinUNETR of width {stem.shape[0]}: {report}")
    backbone.net.load_state_dict(kept, strict=False)  # type: ignore[operator,union-attr]
    return backbone.eval(), report
