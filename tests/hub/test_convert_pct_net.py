"""The converter of official PCT-Net checkpoints, on files that the test lays out as official code does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from medfm.backbones.base import build
from medfm.backbones.pct_net import relative_index
from medfm.cli.main import app
from medfm.config.modalities import CTSettings
from medfm.hub.bundle import load_bundle
from medfm.hub.convert import CONVERTERS
from medfm.hub.convert.pct_net import convert
from medfm.hub.official import convert_checkpoint
from medfm.types import ConfigError, ReadError

CHANNELS, SIZE, CLASSES = [4, 6, 8, 12, 16], [32, 16, 16], 5
OUT = ("pred_heads.{}.out_conv0", "pred_heads.{}.out_conv1", "pyramid_ct.out_conv2", "pyramid_ct.out_conv3")


def network(mode, seed=0, size=SIZE):
    torch.manual_seed(seed)
    made = build(
        {
            "name": "pct_net", "in_channels": 1, "input_size": size, "channels": CHANNELS, "heads": [2, 3, 4],
            "depths": [2, 1, 2], "windows": [3, 3, 3], "resolution_mode": mode, "decoder": True,
        }
    )  # fmt: skip
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    for name, parameter in made.named_parameters():
        if "bias_table" in name:
            torch.nn.init.normal_(parameter)
    return made.eval()


def official(trained=0, counted=True, size=SIZE):
    """All three embeddings and heads, classifiers, norms that nothing passes, and the order of the bias tables."""
    state = {}
    for mode in range(3):
        state |= network(mode, mode + 1, size).net.state_dict()
    state |= network(trained, 7, size).net.state_dict()
    for key, value in list(state.items()):
        if key.endswith("num_batches_tracked"):
            ours = key.startswith(("pyramid_ct.", f"embeddings.{trained}.", f"pred_heads.{trained}."))
            state[key] = torch.tensor(1000 if ours and counted else 0)
        if key.endswith("attn.relative_position_bias_table"):
            window = {125: 3, 27: 2, 1: 1}[value.shape[0]]
            state[key.replace("bias_table", "index")] = relative_index(window)
        if key.endswith("blocks.0.norm1.weight"):
            for part in ("weight", "bias"):
                state[key.replace("trans.blocks.0.norm1.weight", f"norm_layer.{part}")] = value.clone()
    for mode in range(3):
        for name in OUT:
            width = state[name.format(mode) + ".conv.0.weight"].shape[0]
            state[name.format(mode) + ".conv.2.weight"] = torch.randn(CLASSES, width, 1, 1, 1)
            state[name.format(mode) + ".conv.2.bias"] = torch.randn(CLASSES)
    return state


def save(tmp_path, state, wrapped=True):
    path = tmp_path / "pctnet_ct10k_volf.pt"
    torch.save({"model_state_dict": state, "iteration": 1000, "valid_pred": 0.5} if wrapped else state, path)
    return path


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_the_converted_backbone_computes_what_the_trained_one_does(tmp_path, mode):
    state = official(mode)
    converted = convert(save(tmp_path, state, wrapped=mode != 1), input_size="32x16x16")
    backbone, original = converted.backbone, network(mode, seed=7)
    config, expected = backbone.config(), original.config()
    assert {k: v for k, v in config.items() if "drop" not in k} == {
        k: v for k, v in expected.items() if "drop" not in k
    }
    assert all(
        torch.equal(backbone.state_dict()[k], v) for k, v in original.state_dict().items() if "num_b" not in k
    )
    x = torch.randn(1, 1, *SIZE)
    with torch.no_grad():
        for found, ours, name in zip(backbone.dense(x), original.dense(x), OUT, strict=True):
            weight, bias = (state[f"{name.format(mode)}.conv.2.{p}"] for p in ("weight", "bias"))
            assert torch.equal(F.conv3d(found, weight, bias), F.conv3d(ours, weight, bias))
    assert any("5 classes" in note for note in converted.notes) and not backbone.training


def test_the_mode_is_asked_for_where_no_counter_says_it(tmp_path):
    path = save(tmp_path, official(1, counted=False))
    with pytest.raises(ReadError, match="--set resolution_mode"):
        convert(path)
    assert convert(path, resolution_mode="1", input_size="32x16x16").backbone.config()["resolution_mode"] == 1
    with pytest.raises(ConfigError, match="0, 1 or 2"):
        convert(path, resolution_mode="4")
    with pytest.raises(ConfigError, match="never trained"):
        convert(save(tmp_path, official(1)), resolution_mode="0")


def test_the_size_is_the_papers_unless_said(tmp_path):
    large = official(size=[64, 64, 64])  # no level is as small as its window
    converted = convert(save(tmp_path, large))
    settings = CTSettings(**converted.modality_settings)
    assert settings.size == (64, 128, 128) == tuple(converted.backbone.config()["input_size"])
    assert settings.orientation == "SPL" and settings.windows == ((-1000, 1000),)
    assert (settings.mean, settings.std) == ((0.5,), (0.5,))
    assert any("--set input_size" in note for note in converted.notes)
    for state, given, kind, word in (
        (large, "64x64", ConfigError, "three numbers"), (large, "64x64x60", ReadError, "multiples"),
        (large, "32x16x16", ReadError, r"not made for an input of \[32, 16, 16\].*--set input_size"),
        (official(), None, ReadError, r"not made for an input of \[64, 128, 128\]"),
    ):  # fmt: skip
        with pytest.raises(kind, match=word):
            convert(save(tmp_path, state), input_size=given)


def test_hub_convert_makes_a_bundle_of_it(tmp_path):
    assert CONVERTERS["pct-net"].endswith("pct_net:convert")
    path, output = save(tmp_path, official(counted=False)), tmp_path / "bundle"
    call = ["hub", "convert", "pct-net", str(path), "--output", str(output)]
    options = ["--set", "resolution_mode=0", "--set", "input_size=32x16x16"]
    result = CliRunner().invoke(app, [*call, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    bundle, x = load_bundle(output), torch.randn(1, 1, *SIZE)
    with torch.no_grad():
        assert torch.equal(bundle.build().dense(x)[0], network(0, seed=7).dense(x)[0])
    assert bundle.modality().size == tuple(SIZE) and bundle.card.modality == "ct"
    with pytest.raises(ConfigError, match="has no option width"):
        convert_checkpoint("pct-net", path, tmp_path / "other", options={"width": "1"})
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        CliRunner().invoke(
            app, [*call, "--set", "resolution_mode"], catch_exceptions=False, standalone_mode=False
        )


def test_other_layouts_are_refused_with_a_sentence(tmp_path):
    state = official()
    key = "pyramid_ct.convtrans_e2.trans.blocks.0.attn.relative_position_index"
    without = {k: v for k, v in state.items() if k != "pyramid_ct.up3.conv.2.bias"}
    for content, word in (
        ({"block0.conv.weight": torch.zeros(1)}, "FMUNet"), (without, "up3.conv.2.bias"),
        (state | {key: state[key].flip(0)}, "orders the offsets"),
        ({k: v for k, v in state.items() if "down4" not in k}, "pyramid_ct.down4"),
    ):  # fmt: skip
        with pytest.raises(ReadError, match=word):
            convert(save(tmp_path, content), input_size="32x16x16")
