"""timm's networks as backbones: the same numbers as timm, local weights only, a grey stem that sees grey as RGB."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from medfm.backbones.base import Pyramid, Tokens, build
from medfm.backbones.image2d import ConvNeXtTiny, DenseNet121, ResNet18, ResNet50, ViTTiny
from medfm.types import ConfigError


def noisy(network, seed=0):
    """Weights and statistics that no zero or one hides."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.fixture(scope="module")
def rgb():
    return noisy(timm.create_model("resnet18", pretrained=False))


def saved(network, path, **more):
    if path.suffix == ".safetensors":
        save_file(network.state_dict(), path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}, **more}, path)
    return str(path)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_maps_are_timms_for_weights_of_a_local_file(rgb, tmp_path, name):
    path = saved(rgb, tmp_path / name)
    backbone = ResNet18(in_channels=3, input_size=(64, 64), weights=path).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features, expected = backbone(x), rgb.forward_features(x)
    torch.testing.assert_close(features.maps[-1], expected)
    torch.testing.assert_close(features.pooled, rgb.global_pool(expected))
    assert path not in str(backbone.config()) and build(backbone.config()).widths == (64, 128, 256, 512)


@pytest.mark.parametrize("kind", [ResNet50, DenseNet121, ConvNeXtTiny])
def test_the_network_is_timms_under_timms_names(kind):
    backbone = noisy(kind(in_channels=1, input_size=(64, 64)))
    plain = timm.create_model(kind.arch, pretrained=False, in_chans=1, num_classes=0)
    lost = plain.load_state_dict(backbone.net.state_dict(), strict=False)
    assert not lost.unexpected_keys and all(k.startswith("head.norm") for k in lost.missing_keys)
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x).maps[-1], plain.eval().forward_features(x))
    assert isinstance(backbone, Pyramid) and not isinstance(backbone, Tokens)


def test_one_channel_sees_a_grey_image_as_three_equal_channels_were_seen(rgb, tmp_path):
    path = saved(rgb, tmp_path / "weights.safetensors")
    grey = ResNet18(in_channels=1, input_size=(64, 64), weights=path).eval()
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            grey(x).maps[-1], rgb.forward_features(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(grey.net.conv1.weight, rgb.conv1.weight.sum(1, keepdim=True))


@pytest.mark.parametrize(("size", "channels"), [((224, 224), 3), ((96, 96), 1)])
def test_a_vit_name_is_the_projects_vit_with_timms_numbers(tmp_path, size, channels):
    official = noisy(timm.create_model("vit_tiny_patch16_224", pretrained=False))
    path = saved(official, tmp_path / "vit.safetensors")
    vit = ViTTiny(in_channels=channels, input_size=size, weights=path).eval()
    assert vit.config()["name"] == "vit" and isinstance(vit, Tokens)
    resized = timm.create_model(
        "vit_tiny_patch16_224", pretrained=True, img_size=size, num_classes=0, in_chans=channels,
        pretrained_cfg_overlay={"file": path},
    ).eval()  # fmt: skip
    x = torch.randn(1, channels, *size)
    with torch.no_grad():
        expected = resized.forward_features(x)[:, 1:].mean(1)
        torch.testing.assert_close(vit(x).pooled, expected, rtol=1e-4, atol=1e-4)


def test_wrong_weights_are_refused_and_nothing_is_fetched(rgb, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("weights were fetched")

    for target in ("load_state_dict_from_hf", "load_state_dict_from_url"):
        monkeypatch.setattr(f"timm.models._builder.{target}", refuse, raising=False)
    ResNet18(in_channels=1, input_size=(64, 64))
    garbage = tmp_path / "broken.pth"
    garbage.write_bytes(b"no weights")
    other = saved(timm.create_model("resnet26", pretrained=False), tmp_path / "other.safetensors")
    slim = timm.create_model("resnet18", pretrained=False, base_width=64)
    slim.layer4[1].bn2 = nn.BatchNorm2d(7)
    for weights, word in (
        (str(tmp_path / "absent.pth"), "does not exist"), (str(garbage), "cannot be read"), (other, "resnet18"),
        (saved(slim, tmp_path / "slim.safetensors"), "does not fit"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            ResNet18(in_channels=1, input_size=(64, 64), weights=weights)


def test_a_file_that_wants_to_run_code_is_refused(rgb, tmp_path):
    class Sly:
        def __reduce__(self):
            return print, ("ran",)

    path = saved(rgb, tmp_path / "sly.pth", args=Sly())
    with pytest.raises(ConfigError, match="tensors alone"):
        ResNet18(in_channels=3, input_size=(64, 64), weights=path)


@pytest.mark.parametrize("kind", [ResNet18, ViTTiny])
def test_other_ranks_and_channels_are_errors_that_say_so(kind):
    with pytest.raises(ConfigError, match="images"):
        kind(in_channels=12, input_size=(5000,), rank=1)
    with pytest.raises(ConfigError, match="channels"):
        kind(in_channels=1, input_size=(64, 64))(torch.zeros(1, 3, 64, 64))


def test_groups_are_stem_and_stages():
    firsts = {
        ResNet18: ["conv1", "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1"],
        DenseNet121: ["features.conv0", *[f"features.denseblock{i}.denselayer1.norm1" for i in range(1, 5)]],
        ConvNeXtTiny: ["stem.0", "stages.0.blocks.0", *[f"stages.{i}.downsample.0" for i in range(1, 4)]],
    }
    for kind, expected in firsts.items():
        backbone = kind(in_channels=1, input_size=(64, 64))
        groups = dict(backbone.groups())
        assert list(groups) == ["stem", "stage1", "stage2", "stage3", "stage4"]
        names = {id(p): n for n, p in backbone.net.named_parameters()}
        assert all(names[id(g[0])].startswith(e) for g, e in zip(groups.values(), expected))


def test_adapters_wrap_dense_layers_of_the_stages():
    backbone = ConvNeXtTiny(in_channels=1, input_size=(64, 64))
    assert not any("conv_dw" in n or "stem" in n for n in backbone.adapter_targets)
    assert sum(n.endswith(("mlp.fc1", "mlp.fc2")) for n in backbone.adapter_targets) == 2 * 18
