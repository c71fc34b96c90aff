"""The converter of official medical MAE checkpoints, on files that the test lays out as official code does."""

from __future__ import annotations

import argparse
import math

import pytest
import torch
import torch.nn.functional as F

from medfm.config.modalities import XraySettings
from medfm.hub.convert import CONVERTERS
from medfm.hub.convert.medical_mae import convert
from medfm.hub.official import convert_checkpoint
from medfm.types import ReadError

D, DEPTH, HEADS, PATCH, SIDE = 64, 2, 1, 8, 4


def blocks(prefix, dim, depth, normal):
    state = {}
    shapes = {
        "attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "mlp.fc1": (4 * dim, dim), "mlp.fc2": (dim, 4 * dim),
        "norm1": (dim,), "norm2": (dim,),
    }  # fmt: skip
    for i in range(depth):
        for name, shape in shapes.items():
            state[f"{prefix}.{i}.{name}.weight"] = normal(*shape)
            state[f"{prefix}.{i}.{name}.bias"] = normal(shape[0])
    return state


def model(seed=0, dim=D):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g) * 0.1

    return {
        "cls_token": normal(1, 1, dim), "pos_embed": normal(1, 1 + SIDE**2, dim), "mask_token": normal(1, 1, 32),
        "decoder_pos_embed": normal(1, 1 + SIDE**2, 32), "patch_embed.proj.weight": normal(dim, 3, PATCH, PATCH),
        "patch_embed.proj.bias": normal(dim), "norm.weight": normal(dim), "norm.bias": normal(dim),
        **blocks("blocks", dim, DEPTH, normal), "decoder_embed.weight": normal(32, dim),
        "decoder_embed.bias": normal(32), **blocks("decoder_blocks", 32, 1, normal),
        "decoder_norm.weight": normal(32), "decoder_norm.bias": normal(32),
        "decoder_pred.weight": normal(3 * PATCH**2, 32), "decoder_pred.bias": normal(3 * PATCH**2),
    }  # fmt: skip


def by_hand(state, x, heads=HEADS):
    """The official encoder without a mask, written out: class token and patches ``[B, 1 + N, D]``."""
    dim = state["norm.weight"].shape[0]

    def norm(name, t):
        return F.layer_norm(t, (dim,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(name, t):
        return F.linear(t, state[f"{name}.weight"], state[f"{name}.bias"])

    t = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    t = t.flatten(2).transpose(1, 2) + state["pos_embed"][:, 1:]
    t = torch.cat([(state["cls_token"] + state["pos_embed"][:, :1]).expand(len(x), -1, -1), t], 1)
    for i in range(DEPTH):
        b = f"blocks.{i}"
        parts = linear(f"{b}.attn.qkv", norm(f"{b}.norm1", t)).unflatten(2, (3, heads, dim // heads))
        q, k, v = (parts[:, :, j].transpose(1, 2) for j in range(3))
        weights = (q @ k.transpose(2, 3) / math.sqrt(dim // heads)).softmax(-1)
        t = t + linear(f"{b}.attn.proj", (weights @ v).transpose(1, 2).flatten(2))
        t = t + linear(f"{b}.mlp.fc2", F.gelu(linear(f"{b}.mlp.fc1", norm(f"{b}.norm2", t))))
    return norm("norm", t)


def save(tmp_path, content, name="checkpoint-799.pth"):
    path = tmp_path / name
    torch.save(content, path)
    return path


def official(state):
    """As the training script saves it: the command line is an ``argparse.Namespace``."""
    args = argparse.Namespace(model="mae_vit_small_patch16_dec512d2b", mask_ratio=0.9, data_path="images")
    return {
        "model": state,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 799,
        "scaler": {},
        "args": args,
    }


@pytest.mark.parametrize(("dim", "heads"), [(64, 1), (128, 2), (96, 3)])
@pytest.mark.parametrize("bare", [False, True])
def test_the_converted_backbone_computes_what_the_official_one_does(tmp_path, dim, heads, bare):
    state = model(dim=dim)
    converted = convert(save(tmp_path, state if bare else official(state)))
    backbone = converted.backbone
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    expected = by_hand(state, x, heads)
    with torch.no_grad():
        tokens, positions = backbone.tokenize(x)
        found, pooled = backbone.encode(tokens + positions, prefix=True), backbone(x).pooled
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled, expected[:, 1:].mean(1), rtol=1e-4, atol=1e-5)
    config = backbone.config()
    assert (config["dim"], config["depth"], config["heads"], config["input_size"]) == (
        dim,
        DEPTH,
        heads,
        [32, 32],
    )
    assert "heads" in converted.notes[0] and not backbone.training


@pytest.mark.parametrize(("channels", "colour", "mean"), [(3, "rgb", 0.485), (1, "grey", 0.5056)])
def test_the_modality_is_the_official_input(tmp_path, channels, colour, mean):
    state = model()
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :channels].clone()
    converted = convert(save(tmp_path, official(state)))
    settings = XraySettings(**converted.modality_settings)
    assert (settings.size, settings.colour, settings.mean[0]) == ((32, 32), colour, mean)
    assert len(settings.mean) == len(settings.std) == channels == converted.backbone.in_channels
    assert any("normalisation" in note for note in converted.notes)


def test_hub_convert_makes_a_bundle_of_it(tmp_path):
    assert CONVERTERS["medical-mae"].endswith("medical_mae:convert")
    state = model()
    bundle = convert_checkpoint("medical-mae", save(tmp_path, official(state)), tmp_path / "bundle")
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found = bundle.build()(x).pooled
    torch.testing.assert_close(found, by_hand(state, x)[:, 1:].mean(1), rtol=1e-4, atol=1e-5)
    assert bundle.modality().size == (32, 32)


def test_other_layouts_are_refused_with_a_sentence(tmp_path):
    state = model()
    dense = {"model.encoder.features.denseblock1.conv.weight": torch.zeros(1)}
    tuned = {k: v for k, v in state.items() if not k.startswith("norm.")} | {"fc_norm.weight": torch.ones(D)}
    lacking = {k: v for k, v in state.items() if k != "blocks.1.mlp.fc2.bias"}
    oblong = state | {"pos_embed": torch.zeros(1, 13, D)}
    for content, word in (
        ({"state_dict": {}, "model": dense}, "DenseNet"), (official(tuned), "fine-tuned"), ({"a": 1}, "missing"),
        (official(lacking), "blocks.1.mlp.fc2.bias"), (official(oblong), "12 patches"),
        (official(state | {"patch_embed.proj.weight": torch.zeros(D, 2, PATCH, PATCH)}), "2 channels"),
        (official({k: v for k, v in state.items() if k != "cls_token"}), "cls_token"),
    ):  # fmt: skip
        with pytest.raises(ReadError, match=word):
            convert(save(tmp_path, content))


def test_an_object_that_could_run_code_is_refused(tmp_path):
    class Sly:
        def __reduce__(self):
            return print, ("ran",)

    content = official(model())
    content["args"].trick = Sly()
    with pytest.raises(ReadError, match="could run code"):
        convert(save(tmp_path, content))
