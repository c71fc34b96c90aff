"""Weights of TorchXRayVision (github.com/mlmed/torchxrayvision, arXiv 2111.00595) as a medfm backbone.

Its DenseNet-121 (224 pixels) is released as a whole module, its ResNet-50 (512 pixels) as a state dict. Both take one
channel from -1024 to 1024. The names are torchvision's, which timm shares. Kept is what its ``features2`` and
``features`` compute: the last map after ReLU, averaged (1024 and 2048 numbers); the classifier is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medfm.backbones.base import Backbone
from medfm.config.modalities import XraySettings
from medfm.hub.convert.base import ConvertedBackbone, ObjectsError, plain_names, read_checkpoint
from medfm.hub.convert.pickled import module_tensors
from medfm.types import ReadError

SIDES = {"densenet121": 224, "resnet50": 512}
RELEASE = "https://github.com/mlmed/torchxrayvision/releases/download/v1/"
_DENSENET = "-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
# Name of the weights in torchxrayvision -> released file, data that they were trained on
RELEASED = {
    "densenet121-res224-all": (
        f"nih-pc-chex-mimic_ch-google-openi-kaggle{_DENSENET}",
        "NIH ChestX-ray14 (also with Google's labels), PadChest, CheXpert, MIMIC-CXR (CheXpert's labels), OpenI and the "
        "RSNA pneumonia challenge",
    ),
    "densenet121-res224-nih": (f"nih{_DENSENET}", "NIH ChestX-ray14"),
    "densenet121-res224-pc": (f"pc{_DENSENET}", "PadChest"),
    "densenet121-res224-chex": (f"chex{_DENSENET}", "CheXpert"),
    "densenet121-res224-rsna": (f"kaggle{_DENSENET}", "the RSNA pneumonia challenge"),
    "densenet121-res224-mimic_nb": (f"mimic_nb{_DENSENET}", "MIMIC-CXR (NegBio's labels)"),
    "densenet121-res224-mimic_ch": (f"mimic_ch{_DENSENET}", "MIMIC-CXR (CheXpert's labels)"),
    "resnet50-res512-all": (
        "pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt",
        "PadChest, NIH ChestX-ray14, the RSNA pneumonia challenge, SIIM-ACR pneumothorax and VinBigData",
    ),
}
CITATIONS = [
    "Cohen, J. P. et al.: TorchXRayVision: A library of chest X-ray datasets and models. MIDL 2022. arXiv 2111.00595.",
    "Cohen, J. P. et al.: On the limits of cross-domain generalization in automated X-ray prediction. MIDL 2020. "
    "arXiv 2002.02497.",
]
TERMS = (
    "TorchXRayVision's licence file puts xrv.models under Apache-2.0 and says nothing of the weights by themselves; the "
    "data sets that they were trained on have terms of their own, some for research alone."
)
PREPROCESSING = (
    "As TorchXRayVision prepares it: the whole range that the stored bits can hold becomes -1024 to 1024 (no window, no "
    "percentiles; MONOCHROME1 is turned round), the centre is cropped to a square and resampled to {side} x {side} "
    "pixels. Different here: pixels that are not square are made so, colour becomes grey by its brightness, and the "
    "reduction is bilinear with antialiasing, as the library's models resize, not scikit-image's. A DICOM that uses a small part of "
    "its bits stays dark, as in TorchXRayVision; modality.voi=0 takes the file's window instead."
)
NOTE = (
    "The classifier of 18 findings and its operating points were left out; medfm finetune trains a head on your "
    "labels. Not evaluated by medfm."
)


def convert(checkpoint: Path) -> ConvertedBackbone:
    """Read ``checkpoint`` and rebuild its network. Raises :class:`ReadError` for any other layout."""
    checkpoint = Path(checkpoint)
    try:
        content = read_checkpoint(checkpoint)
    except ObjectsError:
        content = module_tensors(checkpoint)
    nested = next((content[k] for k in ("state_dict", "model") if isinstance(content.get(k), dict)), content)
    weights = {k.removeprefix("model."): v.detach() for k, v in plain_names(nested).items()}
    arch = _recognised(checkpoint.name, weights)
    backbone = _build(checkpoint.name, arch, weights)
    name = next((k for k, (file, _) in RELEASED.items() if file == checkpoint.name), "")
    return ConvertedBackbone(backbone, settings(SIDES[arch]), [NOTE], card(arch, name))


def settings(side: int) -> dict[str, Any]:
    """The official input as settings: grey g in [0, 1] of all that the bits hold becomes 2048 (g - 0.5)."""
    official = XraySettings(
        size=(side, side), fit="crop", voi=-2, normalise="dataset", mean=(0.5,), std=(1 / 2048,)
    )
    return official.model_dump(mode="json")


def card(arch: str, name: str) -> dict[str, Any]:
    """What the card says of the weights called ``name`` (empty: a file that its makers did not release so named)."""
    known = (
        f"Trained by its authors to classify up to 18 findings of chest radiographs: on {RELEASED[name][1]}."
        if name
        else "The file's name is none of TorchXRayVision's releases; ask its source what it was trained on."
    )
    return {
        "summary": f"TorchXRayVision's {name or arch} as a feature extractor: weights unchanged, classifier left out.",
        "data": f"{known} {TERMS}",
        "preprocessing": PREPROCESSING.format(side=SIDES[arch]),
        "tags": ["chest-x-ray"],
        "citations": CITATIONS,
    }


def _recognised(name: str, weights: dict[str, Tensor]) -> str:
    """``densenet121`` or ``resnet50`` by the names and the number of layers."""
    if "features.conv0.weight" in weights:
        blocks = [
            len({k.split(".")[2] for k in weights if k.startswith(f"features.denseblock{i}.")})
            for i in range(1, 5)
        ]
        if blocks == [6, 12, 24, 16]:
            return "densenet121"
        raise ReadError(
            f"{name} is a DenseNet with blocks of {blocks} layers; only DenseNet-121 ([6, 12, 24, 16]) is read."
        )
    if "layer1.0.conv3.weight" in weights and "conv1.weight" in weights:
        stages = [len({k.split(".")[1] for k in weights if k.startswith(f"layer{i}.")}) for i in range(1, 5)]
        if stages == [3, 4, 6, 3]:
            return "resnet50"
        raise ReadError(
            f"{name} is a ResNet with stages of {stages} blocks; only ResNet-50 ([3, 4, 6, 3]) is read."
        )
    raise ReadError(
        f"{name} is neither TorchXRayVision's DenseNet-121 (it has no features.conv0.weight) nor its ResNet-50 (no "
        "layer1.0.conv3.weight); its autoencoders and baseline models are not read."
    )


def _build(name: str, arch: str, weights: dict[str, Tensor]) -> Backbone:
    from medfm.backbones.base import build

    stem = weights["features.conv0.weight" if arch == "densenet121" else "conv1.weight"]
    if stem.shape[1] != 1:
        raise ReadError(
            f"{name} takes {stem.shape[1]} channels, TorchXRayVision's networks one: weights in colour are loaded with "
            "backbone.weights=FILE."
        )
    side = SIDES[arch]
    backbone = build({"name": arch, "rank": 2, "in_channels": 1, "input_size": [side, side]})
    expected: dict[str, Tensor] = backbone.net.state_dict()  # type: ignore[assignment,operator,union-attr]
    counters = {
        k: torch.tensor(0) for k in expected if k.endswith("num_batches_tracked")
    }  # not in older files
    kept = {
        k: v
        for k, v in {**counters, **weights}.items()
        if not k.startswith(("classifier.", "fc.", "op_threshs"))
    }
    wrong = sorted(
        k
        for k in expected.keys() | kept.keys()
        if k not in expected or k not in kept or expected[k].shape != kept[k].shape
    )
    if wrong:
        raise ReadError(
            f"{name} does not fit {arch}: {', '.join(wrong[:3])} is missing, extra or of another shape."
        )
    backbone.net.load_state_dict(kept)  # type: ignore[operator,union-attr]
    return backbone.eval()
