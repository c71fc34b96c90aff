"""The converter of TorchXRayVision's weights, on torchvision's networks laid out as the releases are.

torchxrayvision 1.5.7 itself was the oracle once, by hand, with random weights: pooled features were equal to the bit.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision import models

from medfm.config.modalities import XraySettings
from medfm.hub.bundle import load_bundle, verify_bundle
from medfm.hub.catalog import shipped_models
from medfm.hub.convert import CONVERTERS
from medfm.hub.convert.torchxrayvision import RELEASED, convert, settings
from medfm.hub.official import convert_checkpoint
from medfm.modalities.xray import Xray
from medfm.types import MedfmError, ReadError


def shaken(network):
    """Random weights and running statistics: fresh ones (0 and 1) would hide a swap."""
    g = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.copy_(torch.randn(value.shape, generator=g) * 0.2)
        elif name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            value.copy_(0.5 + torch.rand(value.shape, generator=g))
    return network.eval()


@pytest.fixture(scope="module")
def dense():
    """As ``torchxrayvision.models.DenseNet``: torchvision's, one channel, 18 findings."""
    network = models.densenet121(weights=None, num_classes=18)
    network.features.conv0 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return shaken(network)


@pytest.fixture(scope="module")
def residual():
    network = models.resnet50(weights=None, num_classes=18)
    network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return shaken(network)


def picture(count=2):
    return 2048 * torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(1)) - 1024


def save(tmp_path, content, name="weights.pt", **options):
    torch.save(content, tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.filterwarnings("ignore")
def test_a_densenet_saved_whole_gives_the_features_of_torchvisions(tmp_path, dense):
    name = RELEASED["densenet121-res224-all"][0]
    with torch.no_grad():
        expected = F.relu(dense.features(picture())).mean((2, 3))
    # The releases are of the layout from before PyTorch 1.6.
    converted = convert(save(tmp_path, dense, name, _use_new_zipfile_serialization=False))
    with torch.no_grad():
        features = converted.backbone(picture())
    torch.testing.assert_close(features.pooled, expected, rtol=1e-4, atol=1e-5)
    assert features.pooled.shape == (2, 1024) and features.maps[-1].min() == 0
    assert "PadChest" in converted.card["data"] and "densenet121-res224-all" in converted.card["summary"]


@pytest.mark.parametrize("wrap", [False, True])
def test_a_resnet_as_state_dict_gives_the_features_of_torchvisions(tmp_path, residual, wrap):
    state = residual.state_dict()
    if wrap:  # torchxrayvision's own module around it
        state = {f"model.{k}": v for k, v in state.items()} | {"op_threshs": torch.zeros(18)}
    converted = convert(save(tmp_path, state))
    with torch.no_grad():
        headless = nn.Sequential(*list(residual.children())[:-1])
        expected = headless(picture()).flatten(1)
        torch.testing.assert_close(converted.backbone(picture()).pooled, expected, rtol=1e-4, atol=1e-4)
    assert converted.backbone.config()["input_size"] == [512, 512]
    assert "none of TorchXRayVision's releases" in converted.card["data"]


def test_the_input_is_the_official_one(tmp_path):
    """(2 x / 255 - 1) 1024 of the centre square, reduced as torch does it, whatever greys the picture uses."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 140, (12, 16)).astype(np.uint8)
    grey = np.kron(coarse, np.ones((50, 50), np.uint8))
    Image.fromarray(grey).save(tmp_path / "film.png")
    plain = settings(224)
    modality = Xray(**{k: v for k, v in plain.items() if k != "name"})
    found = modality.prepare(modality.read(tmp_path / "film.png")).x
    official = torch.from_numpy((2 * (grey[:, 100:700].astype(np.float32) / 255) - 1) * 1024)
    expected = F.interpolate(official[None, None], (224, 224), mode="bilinear", antialias=True)[0].numpy()
    assert found.shape == (1, 224, 224) and -560 < found.min() < -500
    np.testing.assert_allclose(found[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], atol=0.05)
    assert XraySettings(**plain).voi == -2


def test_hub_convert_makes_a_bundle_whose_card_says_what_was_left_out(tmp_path, dense):
    assert CONVERTERS["torchxrayvision"].endswith("torchxrayvision:convert")
    bundle = convert_checkpoint("torchxrayvision", save(tmp_path, dense.state_dict()), tmp_path / "xrv")
    card = verify_bundle(bundle.path).card
    assert card.license == "other" and "Apache-2.0" in card.data and "2111.00595" in card.citations[0]
    assert "classifier" in card.limitations and "-1024 to 1024" in card.preprocessing
    assert card.parameters == 6_947_584 and card.architecture == "densenet121"
    assert bundle.modality().settings()["std"] == [1 / 2048]


@pytest.mark.filterwarnings("ignore")
def test_other_files_are_refused_with_a_sentence(tmp_path, dense, residual):
    state, other = dense.state_dict(), models.resnet18(weights=None).state_dict()
    colour = state | {"features.conv0.weight": torch.zeros(64, 3, 7, 7)}
    lacking = {k: v for k, v in state.items() if k != "features.norm5.bias"}
    deeper = state | {"features.denseblock3.denselayer25.conv1.weight": torch.zeros(1)}
    longer = residual.state_dict() | {"layer3.6.conv1.weight": torch.zeros(1)}
    for content, word in (
        (other, "neither.*ResNet-50"), ({"a": 1}, "neither"), (colour, "3 channels.*backbone.weights"),
        (lacking, r"features\.norm5\.bias"), (deeper, r"\[6, 12, 25, 16\]"), (longer, r"\[3, 4, 7, 3\]"),
        (argparse.Namespace(a=1), "argparse.Namespace, which is no part of a network"),
        (state | {"args": argparse.Namespace()}, "argparse.Namespace"), ([1.0], "list"),
    ):  # fmt: skip
        with pytest.raises(ReadError, match=word):
            convert(save(tmp_path, content))
    path = save(tmp_path, state)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ReadError, match="truncated"):
        convert(path)


@pytest.mark.parametrize("name", ["densenet121-res224-all", "resnet50-res512-all"])
def test_the_catalogue_has_a_card_that_says_how_to_get_them(name, tmp_path, dense, residual):
    bundle = load_bundle(shipped_models()[f"torchxrayvision-{name}"])
    network = dense if name.startswith("dense") else residual
    made = convert_checkpoint(
        "torchxrayvision", save(tmp_path, network.state_dict(), RELEASED[name][0]), tmp_path / "x"
    )
    config = json.loads((bundle.path / "config.json").read_text())
    for key in ("backbone", "modality"):
        assert config[key] == json.loads((made.path / "config.json").read_text())[key]
    assert made.card.parameters == bundle.card.parameters and made.card.data == bundle.card.data
    assert (
        made.card.preprocessing == bundle.card.preprocessing
        and made.card.limitations in bundle.card.limitations
    )
    assert (
        RELEASED[name][0] in bundle.card.obtain and "medfm hub convert torchxrayvision" in bundle.card.obtain
    )
    with pytest.raises(MedfmError, match=r"only the card is here.*medfm hub convert torchxrayvision"):
        bundle.build()
