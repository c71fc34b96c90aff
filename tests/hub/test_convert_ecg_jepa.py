"""The converter of official ECG-JEPA checkpoints, on files that the test lays out as official code does."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F

from medfm.config.modalities import ECG_LEADS, ECGSettings
from medfm.hub.convert import CONVERTERS
from medfm.hub.convert.ecg_jepa import PTB_XL_STD, convert
from medfm.types import ReadError

D, DEPTH, HEADS, PATCH = 16, 2, 4, 25
CONFIG = {
    "sampling_frequency": 500,
    "channels": ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"),
    "channel_size": 500,
    "patch_size": PATCH,
    "dim": D,
    "depth": DEPTH,
    "num_heads": HEADS,
    "norm_eps": 1e-6,
}


def encoder(seed, *, registers=1, norm_bias=False, layer_scale=False, bias=False, leads=12):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g) * 0.2

    state = {"patch_embed.proj.weight": normal(D, leads, PATCH), "norm.weight": 1 + normal(D)}
    if registers:
        state["registers"] = normal(1, registers, D)
    if bias:
        state["patch_embed.proj.bias"] = normal(D)
    if norm_bias:
        state["norm.bias"] = normal(D)
    shapes = {"attn.qkv": (3 * D, D), "attn.proj": (D, D), "mlp.fc1": (4 * D, D), "mlp.fc2": (D, 4 * D)}
    for i in range(DEPTH):
        for name in ("norm1", "norm2"):
            state[f"blocks.{i}.{name}.weight"] = 1 + normal(D)
            if norm_bias:
                state[f"blocks.{i}.{name}.bias"] = normal(D)
        for name, shape in shapes.items():
            state[f"blocks.{i}.{name}.weight"] = normal(*shape)
            if bias:
                state[f"blocks.{i}.{name}.bias"] = normal(shape[0])
        if layer_scale:
            state |= {f"blocks.{i}.{n}.weight": 1 + normal(D) for n in ("attn_ls", "mlp_ls")}
    return state


def by_hand(state, x):
    """The official forward pass, written out: tokens with registers ``[B, R + N, D]``."""

    def norm(name, t):
        return F.layer_norm(t, (D,), state[f"{name}.weight"], state.get(f"{name}.bias"), 1e-6)

    def linear(name, t):
        return F.linear(t, state[f"{name}.weight"], state.get(f"{name}.bias"))

    t = F.conv1d(
        x, state["patch_embed.proj.weight"], state.get("patch_embed.proj.bias"), stride=PATCH
    ).transpose(1, 2)
    place = torch.arange(t.shape[1])[:, None]
    for i in range(D // 2):
        t[:, :, 2 * i] += torch.sin(place / 10000 ** (2 * i / D)).T
        t[:, :, 2 * i + 1] += torch.cos(place / 10000 ** (2 * i / D)).T
    if "registers" in state:
        t = torch.cat([state["registers"].expand(len(x), -1, -1), t], 1)
    for i in range(DEPTH):
        b = f"blocks.{i}"
        parts = linear(f"{b}.attn.qkv", norm(f"{b}.norm1", t)).unflatten(2, (3, HEADS, D // HEADS))
        q, k, v = (parts[:, :, j].transpose(1, 2) for j in range(3))
        weights = (q @ k.transpose(2, 3) / math.sqrt(D // HEADS)).softmax(-1)
        t = t + linear(f"{b}.attn.proj", (weights @ v).transpose(1, 2).flatten(2)) * state.get(
            f"{b}.attn_ls.weight", 1.0
        )
        hidden = F.gelu(linear(f"{b}.mlp.fc1", norm(f"{b}.norm2", t)))
        t = t + linear(f"{b}.mlp.fc2", hidden) * state.get(f"{b}.mlp_ls.weight", 1.0)
    return norm("norm", t)


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def training_file(target, online=None):
    predictor = {"predictor.mask_token": torch.zeros(1, 1, 8), "predictor.embed.weight": torch.zeros(8, D)}
    model = {**prefixed("encoder.", online or encoder(9)), **predictor, **prefixed("target_encoder.", target)}
    return {"model": model, "optimizer": {"state": {}, "param_groups": []}, "config": CONFIG, "step": 100}


def check(path, state, x):
    converted = convert(path)
    backbone, expected = converted.backbone, by_hand(state, x)
    with torch.no_grad():
        tokens, positions = backbone.tokenize(x, torch.ones(len(x), x.shape[1], dtype=torch.bool))
        everything = backbone.encode(tokens + positions, prefix=True)
        features = backbone(x)
    registers = expected.shape[1] - positions.shape[0]
    torch.testing.assert_close(everything, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.pooled, expected[:, registers:].mean(1), rtol=1e-4, atol=1e-5)
    return converted


@pytest.fixture
def x():
    return torch.randn(2, 12, 500, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def save(tmp_path):
    def write(content):
        torch.save(content, tmp_path / "checkpoint.pt")
        return tmp_path / "checkpoint.pt"

    return write


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm_bias": True},
        {"layer_scale": True},
        {"registers": 3},
        {"registers": 0},
        {"bias": True, "norm_bias": True},
    ],
)
def test_a_training_file_gives_the_target_encoder(save, x, options):
    state = encoder(1, **options)
    converted = check(save(training_file(state)), state, x)
    assert converted.backbone.config()["heads"] == HEADS and not converted.backbone.training
    assert any("normalisation" in note for note in converted.notes)
    settings = converted.modality_settings
    assert settings["std"] == list(PTB_XL_STD) and settings["leads"] == list(ECG_LEADS)
    assert (settings["fs"], settings["seconds"], settings["clip"]) == (500.0, 1.0, 5.0)
    assert ECGSettings(**json.loads(json.dumps(settings))).model_dump(mode="json") == settings


def test_a_minified_file(save, x):
    state = encoder(2)
    check(save({"model": prefixed("target_encoder.", state), "config": CONFIG}), state, x)


def test_a_fine_tuned_file_brings_its_normalisation_and_loses_its_head(save, x):
    state = encoder(3)
    mean, std = torch.linspace(-0.1, 0.1, 12), torch.linspace(0.1, 0.4, 12)
    model = {**prefixed("encoder.", state), "fc.weight": torch.zeros(5, D)}
    content = {
        "model": model,
        "config": CONFIG,
        "eval_config": {},
        "preprocess": {"mean": mean, "std": std},
        "task": "all",
    }
    converted = check(save(content), state, x)
    assert converted.modality_settings["mean"] == pytest.approx(mean.tolist())
    assert converted.modality_settings["std"] == pytest.approx(std.tolist())
    assert len(converted.notes) == 1 and "fc" in converted.notes[0]


def test_prefixes_of_parallel_training_and_compilation_are_no_obstacle(save, x):
    state = encoder(4)
    content = training_file(state)
    content["model"] = {f"module._orig_mod.{k}": v for k, v in content["model"].items()}
    check(save(content), state, x)


def test_leads_follow_the_files_config(save):
    state = encoder(5, leads=2)
    content = training_file(state, encoder(6, leads=2))
    content["config"] = {**CONFIG, "channels": ["V1", "avf"], "sampling_frequency": 250}
    settings = convert(save(content)).modality_settings
    assert settings["leads"] == ["V1", "aVF"] and settings["std"] == [0.235, 0.147]
    assert (settings["fs"], settings["seconds"]) == (250.0, 2.0)


def namesake(wrapped):
    state = {
        "pos_embed": torch.zeros(400, 8), "W_P.weight": torch.zeros(8, 50), "W_P.bias": torch.zeros(8),
        "encoder_blocks.blocks.0.attn.qkv.weight": torch.zeros(24, 8), "norm.weight": torch.ones(8),
    }  # fmt: skip
    return {"encoder": state, "epoch": 100} if wrapped else state


@pytest.mark.parametrize("wrapped", [True, False])
def test_the_other_ecg_jepa_is_recognised_and_refused(save, wrapped):
    with pytest.raises(ReadError, match=r"other method called ECG-JEPA.*2410\.08559") as caught:
        convert(save(namesake(wrapped)))
    assert str(caught.value).count(". ") <= 1


class Unsafe:
    def __reduce__(self):
        return (print, ("the file ran code",))


def test_a_file_that_wants_to_run_code_is_refused(save, capsys):
    with pytest.raises(ReadError, match="run code"):
        convert(save({"model": {}, "args": Unsafe()}))
    assert "ran code" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c["model"].clear(), "no ECG-JEPA checkpoint"),
        (lambda c: c["model"].pop("target_encoder.blocks.1.attn.proj.weight"), "blocks.1.attn.proj.weight"),
        (lambda c: c["model"].update({"target_encoder.extra.weight": torch.ones(1)}), "extra.weight"),
        (lambda c: c.pop("config"), "heads"),
        (lambda c: c.update(config={**CONFIG, "num_heads": 5}), "heads"),
        (lambda c: c.update(config={**CONFIG, "channels": ["I", "X9"]}), "X9"),
        (lambda c: c.update(config={**CONFIG, "channels": ["I", "II"]}), "12"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(save, change, word):
    content = training_file(encoder(1))
    change(content)
    with pytest.raises(ReadError, match=word):
        convert(save(content))


def test_files_that_are_no_checkpoint(tmp_path, save):
    for name, content in (("text.pt", b"hello"), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ReadError, match=name):
            convert(tmp_path / name)
    whole = save(training_file(encoder(1))).read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReadError, match="truncated"):
        convert(tmp_path / "half.pt")
    with pytest.raises(ReadError, match="no such file"):
        convert(tmp_path / "absent.pt")
    with pytest.raises(ReadError, match="not a checkpoint"):
        convert(save([torch.ones(2)]))


def test_the_table_names_functions_that_exist():
    from importlib import import_module

    for target in CONVERTERS.values():
        module, function = target.split(":")
        assert callable(getattr(import_module(module), function))
