"""Networks for volumes against MONAI's own classes with the same weights, and what they refuse."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import BasicUNet, DynUNet, ResNet, SegResNet, SwinUNETR

from medfm.backbones.base import build
from medfm.backbones.transfer import with_decoder
from medfm.config.backbones import BACKBONES
from medfm.config.methods import METHODS
from medfm.config.run import OptimSettings
from medfm.types import Batch, ConfigError

SEG = {"name": "segresnet", "init_filters": 8, "blocks_down": [1, 2, 1], "input_size": [16, 16, 16]}
UNET = {"name": "unet3d", "features": [2, 3, 4, 5, 6, 3], "input_size": [32, 16, 16]}
DYN = {"name": "dynunet", "filters": [2, 3, 4, 5], "input_size": [16, 16, 16]}
SWIN = {"name": "swin_unetr", "feature_size": 12, "input_size": [64, 32, 32]}
RES = {"name": "resnet3d_10", "input_size": [32, 32, 32]}
CLASSES = 3


def monai(name):
    """MONAI's class, and the last convolution by name."""
    if name == "segresnet":
        network = SegResNet(3, 8, 2, CLASSES, blocks_down=(1, 2, 1), blocks_up=(1, 1))
        return network, "conv_final.2.conv"
    if name == "unet3d":
        return BasicUNet(3, 2, CLASSES, tuple(UNET["features"])), "final_conv"
    if name == "dynunet":
        network = DynUNet(3, 2, CLASSES, [3] * 4, [1, 2, 2, 2], [2, 2, 2], DYN["filters"])
        return network, "output_block.conv.conv"
    return SwinUNETR(2, CLASSES, feature_size=12, use_v2=True), "out.conv.conv"


def made(config, seed=0, **options):
    torch.manual_seed(seed)
    return build({"in_channels": 2, **config, **options}).eval()


def volume(config, batch=1, seed=1):
    return torch.randn(batch, 2, *config["input_size"], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [SEG, UNET, DYN, SWIN], ids=lambda c: c["name"])
def test_dense_map_and_monais_last_convolution_are_monais_forward(config):
    backbone, x = made(config, decoder=True), volume(config)
    network, last = monai(config["name"])
    said = network.load_state_dict(backbone.net.state_dict(), strict=False)
    assert not said.unexpected_keys
    # DynUNet names all of its weights twice.
    assert {k for k in said.missing_keys if not k.startswith("skip_layers.")} <= {
        f"{last}.weight",
        f"{last}.bias",
    }
    with torch.no_grad():
        expected, dense = network.eval()(x), backbone.dense(x)
        torch.testing.assert_close(network.get_submodule(last)(dense[0]), expected, rtol=1e-5, atol=1e-5)
        assert expected.std() > 0.01


@pytest.mark.parametrize("name", ["resnet3d_10", "resnet3d_18", "resnet3d_50"])
def test_a_resnet_is_monais(name):
    backbone = made({**RES, "name": name}).double()
    block = "bottleneck" if name.endswith("50") else "basic"
    layers = {"10": [1] * 4, "18": [2] * 4, "50": [3, 4, 6, 3]}[name.split("_")[1]]
    network = ResNet(
        block, layers, [64, 128, 256, 512], 3, 2, conv1_t_stride=2, num_classes=4, bias_downsample=False
    )
    network = network.double().eval()
    said = network.load_state_dict(backbone.net.state_dict(), strict=False)
    assert not said.unexpected_keys and said.missing_keys == ["fc.weight", "fc.bias"]
    x = volume(RES).double()
    with torch.no_grad():
        torch.testing.assert_close(network.fc(backbone(x).pooled), network(x))
    assert sum(p.numel() for p in backbone.parameters()) > 1e7


@pytest.mark.parametrize("config", [SEG, UNET, DYN, SWIN], ids=lambda c: c["name"])
def test_the_encoder_alone_is_the_same_encoder(config):
    whole, x = made(config, decoder=True), volume(config)
    alone, report = with_decoder(whole, False)
    assert set(alone.state_dict()) < set(whole.state_dict()) and report.left and not report.new
    assert not any("up" in n.split(".")[1] or "decoder" in n for n, _ in alone.named_parameters())
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(alone(x).maps, whole(x).maps, strict=True))


def test_vocos_maps_are_averaged_to_24_widths_and_as_large_as_published():
    assert sum(made(SWIN).widths) == 24 * 12
    shape = {"name": "swin_unetr", "in_channels": 1, "input_size": [96] * 3}
    network = build({**shape, "feature_size": 48, "decoder": True})
    total = sum(p.numel() for p in network.parameters())
    decoder = sum(p.numel() for n, g in network.groups() if n.startswith("decoder") for p in g)
    # 72.76 and 53.16 million with a classifier of 21 classes, as measured on MONAI's class.
    assert round((total + 21 * 49) / 1e6, 2) == 72.76 and round((total - decoder) / 1e6, 2) == 53.16
    assert len(made(SWIN).net.state_dict()) == 145


def test_a_decoder_is_added_at_random_and_the_encoder_kept():
    alone = made(SEG)
    alone.net.convInit.conv.weight.requires_grad_(False)
    before = copy.deepcopy(alone.state_dict())
    whole, report = with_decoder(alone, True)
    assert whole.has_decoder and not alone.has_decoder and not whole.training
    state = whole.state_dict()
    assert all(torch.equal(state[k], before[k]) for k in report.copied) and set(report.copied) == set(before)
    assert set(report.new) == set(state) - set(before) and not report.left
    assert str(report).startswith(f"{len(before)} tensors taken over, {len(report.new)} new")
    still = {n for n, p in whole.named_parameters() if not p.requires_grad}
    assert still == {"net.convInit.conv.weight"}
    again, report = with_decoder(whole, True)
    assert not report.new and all(torch.equal(v, state[k]) for k, v in again.state_dict().items())
    with pytest.raises(ConfigError, match="has no decoder"):
        with_decoder(made(RES), True)
    with pytest.raises(ConfigError, match="segresnet"):
        with_decoder(build({"name": "resnet18", "in_channels": 1, "input_size": [32, 32]}), True)


@pytest.mark.parametrize(
    ("config", "size", "word"),
    [
        (SEG, [18, 16, 16], "multiples of 4"), (UNET, [16, 16, 16], "at least 32"), (DYN, [8, 8, 8], "at least 16"),
        (SWIN, [32, 32, 32], "at least 64"), (SWIN, [64, 64, 48], "multiples of 32"), (RES, [16, 32, 32], "multiples of 32"),
        (SEG, [16, 16], "for volumes"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused_when_built_and_when_used(config, size, word):
    with pytest.raises(ConfigError, match=word):
        made({**config, "input_size": size})
    with pytest.raises(ConfigError, match=word if len(size) == 3 else "3 axes"):
        made(config)(torch.zeros(1, 2, *size))


def test_wrong_arguments_are_refused_with_a_sentence():
    for config, word in (
        ({**SEG, "rank": 2}, "for volumes"), ({**SEG, "init_filters": 12}, "multiples of 8"),
        ({**SEG, "blocks_down": [1]}, "two stages"), ({**RES, "decoder": True}, "segresnet"),
        ({**UNET, "features": [2, 2]}, "six widths"), ({**DYN, "filters": [2, 2]}, "three widths"),
        ({**SWIN, "feature_size": 10}, "multiple of 12"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            made(config)
    with pytest.raises(ConfigError, match="2 channels"):
        made(SEG)(torch.zeros(1, 3, 16, 16, 16))
    with pytest.raises(ConfigError, match="cannot drop"):
        made(SEG).set_drop_path(0.1)
    for config, size in ((UNET, [16, 16, 16]), (RES, [32, 32, 32])):
        with pytest.raises(ConfigError, match="single position"):
            made(config).train().pyramid(torch.zeros(1, 2, *size))


def test_stochastic_depth_acts_in_training_alone():
    backbone, x = made(SWIN), volume(SWIN)
    expected = backbone(x).pooled
    backbone.set_drop_path(0.9)
    assert torch.equal(backbone(x).pooled, expected)
    torch.manual_seed(0)
    assert not torch.allclose(backbone.train()(x).pooled, expected, atol=1e-3)


def test_adapters_wrap_no_stem_and_nothing_transposed():
    names = made(SWIN, decoder=True).adapter_targets
    assert not any("transp" in n or "patch_embed" in n or "encoder1." in n for n in names)
    assert sum(n.endswith("attn.qkv") for n in names) == 8
    assert any(n.startswith("net.decoder1.conv_block") for n in names)


@pytest.mark.parametrize("config", [SEG, RES, UNET, DYN], ids=lambda c: c["name"])
def test_spark_hides_cells_from_convolutional_encoders(config):
    stride = made(config).strides[-1][0]
    small = {**config, "input_size": [2 * stride] * 3}
    method = spark(made(small))
    x, present = volume(small, batch=2), torch.ones(2, 2, dtype=torch.bool)
    method.step(Batch(x, present))[0].backward()
    assert not [n for n, p in method.named_parameters() if p.grad is None]


@pytest.mark.slow
def test_spark_refuses_windows_of_attention():
    with pytest.raises(ConfigError, match="SparK cannot hide"):
        spark(made(SWIN))


def spark(backbone):
    entry = METHODS["spark"]
    return entry.load()(backbone, entry.settings(decoder_dim=16), OptimSettings(), 10, 0).train()


def test_masked_autoencoding_runs_on_volumes():
    vit = {"name": "vit", "rank": 3, "in_channels": 2, "patch": [8] * 3, "input_size": [16] * 3}
    backbone = build({**vit, "dim": 24, "depth": 2, "heads": 2})
    entry = METHODS["mae"]
    method = entry.load()(backbone, entry.settings(), OptimSettings(), 10, 0).train()
    loss, _ = method.step(Batch(torch.randn(2, 2, 16, 16, 16), torch.ones(2, 2, dtype=torch.bool)))
    loss.backward()
    assert torch.isfinite(loss) and backbone.patch_embed.proj.weight.grad.abs().sum() > 0


def test_a_size_stands_for_widths_and_explicit_ones_win():
    settings = BACKBONES["segresnet"].settings
    assert settings(size="b").init_filters == 32 and settings(size="b").blocks_down == (1, 2, 2, 4)
    assert settings(size="quick", blocks_down=(2, 2)).model_dump() == {
        "decoder": False, "name": "segresnet", "size": "quick", "init_filters": 8, "blocks_down": (2, 2),
    }  # fmt: skip
    assert [BACKBONES["swin_unetr"].settings(size=s).feature_size for s in "blh"] == [48, 96, 192]
    for name, word in (("segresnet", "init_filters"), ("unet3d", "features"), ("pct_net", "channels")):
        with pytest.raises(ValueError, match=f"set {word}"):
            BACKBONES[name].settings(size=None)
    with pytest.raises(ValueError, match="segresnet"):
        BACKBONES["resnet3d_18"].settings(decoder=True)
    for name, entry in BACKBONES.items():
        if "decoder" in entry.settings.model_fields:
            options = entry.settings(**({"size": "quick"} if "size" in entry.settings.model_fields else {}))
            size = [64] * 3
            network = build(
                {**options.model_dump(exclude={"size"}), "rank": 3, "in_channels": 1, "input_size": size}
            )
            assert network.config()["name"] == name
