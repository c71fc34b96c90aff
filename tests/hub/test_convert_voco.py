"""The converter of official VoCo checkpoints, on files laid out as official code does, odd prefixes included."""

from __future__ import annotations

import warnings
from collections import OrderedDict

import pytest
import torch
from monai.networks.nets import SwinUNETR

from medfm.backbones.base import build
from medfm.config.modalities import CTSettings
from medfm.hub.convert import CONVERTERS
from medfm.hub.convert.voco import convert
from medfm.hub.official import convert_checkpoint
from medfm.types import ReadError

ENCODER = ("swinViT.", "encoder")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return SwinUNETR(1, 21, feature_size=12, use_v2=True).eval()


@pytest.fixture(scope="module")
def state(network):
    return network.state_dict()


@pytest.fixture(scope="module")
def encoder(state):
    return OrderedDict((k, v) for k, v in state.items() if k.startswith(ENCODER))


def head(prefix, width=288):
    return {
        f"{prefix}proj_head.layer1.0.weight": torch.randn(8, width),
        f"{prefix}layer1.0.bias": torch.randn(8),
    }


def prefixed(state, prefix):
    return {prefix + k: v for k, v in state.items()}


def other(state):
    return {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}


def save(tmp_path, content, zipped=True):
    path = tmp_path / "VoCo_B_SSL_head.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def loaded(backbone, encoder):
    own = backbone.net.state_dict()
    return all(torch.equal(own[k], v) for k, v in encoder.items())


LAYOUTS = {
    "released": lambda e: e,
    "state_dict": lambda e: {"epoch": 3, "state_dict": e},
    "network_weights": lambda e: {"network_weights": prefixed(e, "module.")},
    "net": lambda e: {"net": e, "best": 0.1},
    "student": lambda e: {"student": prefixed(e, "backbone."), "teacher": prefixed(other(e), "backbone.")},
    "v1": lambda e: (
        prefixed(e, "student.") | prefixed(other(e), "teacher.") | head("student.") | head("teacher.")
    ),
    "v1 parallel": lambda e: {
        "state_dict": prefixed(other(e), "module.teacher.backbone.") | prefixed(e, "module.student.backbone.")
    },
    "v2": lambda e: {"state_dict": prefixed(e, "module.backbone.") | head("student.") | head("teacher.")},
    "teacher alone": lambda e: prefixed(e, "teacher."),
    "swin_vit": lambda e: {k.replace("swinViT.", "module.swin_vit."): v for k, v in e.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_encoder_and_counts_what_became_of_it(tmp_path, encoder, layout):
    content = LAYOUTS[layout](encoder)
    converted = convert(save(tmp_path, content))
    assert loaded(converted.backbone, encoder) and not converted.backbone.training
    assert converted.backbone.config()["feature_size"] == 12 and not converted.backbone.has_decoder
    assert len(encoder) == 145 and "145 of 145 tensors taken over" in " ".join(converted.notes)
    notes = " ".join(converted.notes)
    assert ("not used" in notes) == (layout in ("v1", "v1 parallel", "v2"))
    assert ("student" in notes) == (layout in ("v1", "v1 parallel")) or layout == "v2"
    assert ("networks, teacher was taken" in notes) == (layout == "teacher alone")


def test_the_converted_network_computes_what_monais_does(tmp_path, network, state):
    """With the decoder in the file (VoComni) it is kept; the classifier of 21 classes is not."""
    backbone = convert(save(tmp_path, state)).backbone
    x = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network.out(backbone.dense(x)[0]), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("zipped", [True, False])
def test_an_optimiser_saved_as_an_object_is_left_where_it_is(tmp_path, network, encoder, zipped):
    import numpy as np

    optimizer = torch.optim.AdamW(network.parameters(), amsgrad=True)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    current = {k: v for k, v in network.state_dict().items() if k in encoder}
    content = {"epoch": 7, "best": np.float64(0.5), "state_dict": current, "optimizer": optimizer}
    path = save(tmp_path, content, zipped)
    with pytest.raises(Exception, match="weights_only"):
        torch.load(path, weights_only=True)
    assert loaded(convert(path).backbone, current)


def test_an_object_that_could_run_code_is_refused(tmp_path, encoder):
    class Sly:
        def __reduce__(self):
            return print, ("ran",)

    with pytest.raises(ReadError, match="could run code"):
        convert(save(tmp_path, {"state_dict": encoder, "optimizer": Sly()}))


def test_the_modality_is_the_official_input(tmp_path, encoder):
    settings = CTSettings(**convert(save(tmp_path, encoder)).modality_settings)
    assert (settings.windows, settings.spacing) == (((-175, 250),), (1.5, 1.5, 1.5))
    assert settings.orientation == "RAS" and all(n % 32 == 0 for n in settings.size)


def test_hub_convert_makes_a_bundle_of_it(tmp_path, encoder):
    assert CONVERTERS["voco"].endswith("voco:convert")
    bundle = convert_checkpoint("voco", save(tmp_path, encoder), tmp_path / "bundle")
    assert loaded(bundle.build(), encoder) and bundle.modality().name == "ct"
    assert bundle.card.license == "other" and "not verified" in bundle.card.data


def test_a_few_missing_tensors_are_named_and_many_are_refused(tmp_path, encoder):
    lacking = {k: v for k, v in encoder.items() if "encoder10" not in k}
    notes = " ".join(convert(save(tmp_path, lacking)).notes)
    assert "143 of 145" in notes and "2 missing and random (encoder10.layer.conv1.conv.weight" in notes
    half = {k: v for k, v in encoder.items() if "layers3" not in k}
    with pytest.raises(ReadError, match=r"does not fit SwinUNETR of width 12: \d+ of 145"):
        convert(save(tmp_path, half))
    key = "encoder10.layer.conv1.conv.weight"
    flat = encoder | {key: encoder[key].flatten()}
    converted = convert(save(tmp_path, flat))
    assert loaded(converted.backbone, encoder) and f"1 reshaped ({key})" in " ".join(converted.notes)


def test_other_layouts_are_refused_with_a_sentence(tmp_path, encoder):
    stem, key = "swinViT.patch_embed.proj.weight", "swinViT.layers1.0.blocks.0.attn.relative_position_index"
    resnet = build({"name": "resnet3d_10", "in_channels": 1, "input_size": [32] * 3}).state_dict()
    for content, word in (
        ({"network_weights": {"encoder.stages.0.0.convs.0.conv.weight": torch.zeros(1)}}, "PlainConvUNet"),
        (resnet, "no VoCo checkpoint"), ({"a": 1}, "no VoCo checkpoint"), ({"state_dict": head("student.")}, "no VoCo"),
        (encoder | {stem: torch.zeros(12, 4, 2, 2, 2)}, "one channel"), (encoder | {stem: torch.zeros(10, 1, 2, 2, 2)}, "multiple"),
        ({k: v for k, v in encoder.items() if "c.0.layer" not in k}, "first version"),
        (encoder | {key: encoder[key].flip(0)}, "orders the offsets"),
    ):  # fmt: skip
        with pytest.raises(ReadError, match=word):
            convert(save(tmp_path, content))
