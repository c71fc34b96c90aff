"""The converter of official BM-MAE checkpoints, on files that the test lays out as official code does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from medfm.cli.main import app
from medfm.config.modalities import MRISettings
from medfm.hub.bundle import load_bundle
from medfm.hub.convert import CONVERTERS
from medfm.hub.convert.bm_mae import SEQUENCES, convert
from medfm.types import ConfigError, ReadError

DIM, MLP, DECODER, DECODER_MLP, PATCH, SIDE = 24, 40, 12, 30, 4, 2
TOKENS = SIDE**3


def positions(dim):
    """As MONAI 1.6 makes them for a cube: a sum over its own way to lay out the grid."""
    from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding

    return build_sincos_position_embedding((SIDE,) * 3, dim, 3).detach().clone()


def block(prefix, dim, mlp, cross):
    shapes = {
        "norm1.weight": (dim,), "norm1.bias": (dim,), "norm2.weight": (dim,), "norm2.bias": (dim,),
        "attn.qkv.weight": (3 * dim, dim), "attn.qkv.bias": (3 * dim,),
        "attn.out_proj.weight": (dim, dim), "attn.out_proj.bias": (dim,),
        "mlp.linear1.weight": (mlp, dim), "mlp.linear1.bias": (mlp,),
        "mlp.linear2.weight": (dim, mlp), "mlp.linear2.bias": (dim,),
    }  # fmt: skip
    if cross:
        shapes |= {"norm_cross_attn.weight": (dim,), "norm_cross_attn.bias": (dim,)}
    return {f"{prefix}.{k}": v for k, v in shapes.items()}


def official(cross=True, depth=12, decoder_depth=3, sequences=SEQUENCES):
    """237 tensors with the norms of a cross-attention, 207 without."""
    shapes = {"cls_token": (1, 1, DIM), "norm.weight": (DIM,), "norm.bias": (DIM,)}
    for s in sequences:
        shapes[f"tokenizers.{s}.patch_embedding.patch_embeddings.weight"] = (DIM, 1, *(PATCH,) * 3)
        shapes[f"tokenizers.{s}.patch_embedding.patch_embeddings.bias"] = (DIM,)
    for s in sorted(SEQUENCES):
        shapes[f"decoder.modality_embeddings.{s}"] = (1, 1, DECODER)
    shapes |= {
        "decoder.mask_tokens": (1, 1, DECODER),
        "decoder.decoder_embed.weight": (DECODER, DIM), "decoder.decoder_embed.bias": (DECODER,),
        "decoder.decoder_norm.weight": (DECODER,), "decoder.decoder_norm.bias": (DECODER,),
        "decoder.decoder_pred.weight": (PATCH**3, DECODER), "decoder.decoder_pred.bias": (PATCH**3,),
    }  # fmt: skip
    for i in range(depth):
        shapes |= block(f"blocks.{i}", DIM, MLP, cross)
    for i in range(decoder_depth):
        shapes |= block(f"decoder.decoder_blocks.{i}", DECODER, DECODER_MLP, cross)
    g = torch.Generator().manual_seed(0)
    state = {k: 0.3 * torch.randn(v, generator=g) for k, v in shapes.items()}
    for s in sequences:
        state[f"tokenizers.{s}.patch_embedding.position_embeddings"] = positions(DIM)
    return state | {"decoder.position_embeddings": positions(DECODER)}


def save(tmp_path, state, name="bmmae.pth"):
    torch.save(state, tmp_path / name)
    return tmp_path / name


def blocks(state, prefix, x, dim, mlp, heads=12):
    from monai.networks.blocks import TransformerBlock

    for i in range(len({k.removeprefix(prefix).split(".")[0] for k in state if k.startswith(prefix)})):
        theirs = TransformerBlock(dim, mlp, heads, qkv_bias=True).eval()
        own = {k.removeprefix(f"{prefix}{i}."): v for k, v in state.items() if k.startswith(f"{prefix}{i}.")}
        theirs.load_state_dict(own, strict=False)
        x = theirs(x)
    return x


def reference(state, x, sequences, visible):
    """Encoded tokens and all predictions, of MONAI's blocks: one subject, ``visible`` numbered over all four sequences."""
    tokens = []
    for c, s in enumerate(SEQUENCES):
        prefix = f"tokenizers.{s}.patch_embedding."
        weight, bias = (state[f"{prefix}patch_embeddings.{p}"] for p in ("weight", "bias"))
        made = F.conv3d(x[:, c : c + 1], weight, bias, stride=PATCH).flatten(2).mT
        tokens.append(made + state[f"{prefix}position_embeddings"])
    z = torch.cat([state["cls_token"], torch.cat(tokens, 1)[:, visible]], 1)
    z = blocks(state, "blocks.", z, DIM, MLP)
    z = F.layer_norm(z, (DIM,), state["norm.weight"], state["norm.bias"])
    y = F.linear(z, state["decoder.decoder_embed.weight"], state["decoder.decoder_embed.bias"])
    full = state["decoder.mask_tokens"].repeat(1, 4 * TOKENS, 1)
    full[:, visible] = y[:, 1:]
    place = state["decoder.position_embeddings"]
    full = full + torch.cat([place + state[f"decoder.modality_embeddings.{s}"] for s in SEQUENCES], 1)
    d = blocks(state, "decoder.decoder_blocks.", torch.cat([y[:, :1], full], 1), DECODER, DECODER_MLP)
    d = F.layer_norm(d, (DECODER,), state["decoder.decoder_norm.weight"], state["decoder.decoder_norm.bias"])
    pred = F.linear(d, state["decoder.decoder_pred.weight"], state["decoder.decoder_pred.bias"])
    return z, pred[:, 1:]


@pytest.mark.parametrize("cross", [True, False])
@torch.no_grad()
def test_the_converted_network_computes_what_monais_blocks_do(tmp_path, cross):
    state = official(cross)
    assert len(state) == (237 if cross else 207)
    converted = convert(save(tmp_path, state))
    net, x = converted.backbone, torch.randn(1, 4, *(SIDE * PATCH,) * 3)
    config = net.config()
    assert (config["depth"], config["decoder_depth"], config["mlp_dim"]) == (12, 3, MLP)
    assert (config["decoder_mlp_dim"], config["heads"], config["patch"]) == (DECODER_MLP, 12, [PATCH] * 3)
    every = torch.arange(4 * TOKENS)
    for present in ([1, 1, 1, 1], [1, 0, 0, 1]):
        visible = torch.cat([every[c * TOKENS : (c + 1) * TOKENS] for c in range(4) if present[c]])
        tokens, predictions = reference(state, x, SEQUENCES, visible)
        patches = net.sequence_patches(x)
        torch.testing.assert_close(
            net.encode_visible(patches, visible[None], net.grid), tokens, rtol=1e-4, atol=1e-4
        )
        found = net(x, torch.tensor([present]).bool())
        torch.testing.assert_close(found.pooled, tokens[:, 0], rtol=1e-4, atol=1e-4)
        whole = net.sequence_patches(net.reconstruct(x, torch.tensor([present]).bool())).flatten(1, 2)
        hidden = [t for t in every.tolist() if t not in visible.tolist()]
        torch.testing.assert_close(whole[:, hidden], predictions[:, hidden], rtol=1e-4, atol=1e-4)
        assert torch.equal(whole[:, visible], patches.flatten(1, 2)[:, visible])


def test_the_bundle_says_what_the_file_cannot(tmp_path):
    assert CONVERTERS["bm-mae"].endswith("bm_mae:convert")
    path, output = save(tmp_path, official(depth=1, decoder_depth=1)), tmp_path / "bundle"
    call = ["hub", "convert", "bm-mae", str(path), "--output", str(output), "--set", "heads=4"]
    result = CliRunner().invoke(app, call, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    bundle = load_bundle(output)
    net = bundle.build()
    assert net.config()["heads"] == 4 and net.config()["decoder_heads"] == 12
    assert torch.equal(net.tokenizers[3].proj.weight, official(depth=1, decoder_depth=1)["tokenizers.flair.patch_embedding.patch_embeddings.weight"])  # fmt: skip
    settings = MRISettings(**bundle.modality().settings())
    assert settings.size == (SIDE * PATCH,) * 3 and settings.spacing == (1, 1, 1)
    assert settings.sequences == SEQUENCES and settings.foreground == "nonzero"
    assert "heads" in bundle.card.limitations and "CC BY-NC" in bundle.card.data


def test_a_file_of_fewer_sequences_is_read(tmp_path):
    converted = convert(save(tmp_path, official(depth=1, decoder_depth=1, sequences=("flair", "t1"))))
    assert converted.modality_settings["sequences"] == ["t1", "flair"]
    state = official(depth=1, decoder_depth=1, sequences=("flair", "t1"))
    assert torch.equal(
        converted.backbone.decoder.sequences[1], state["decoder.modality_embeddings.flair"].flatten()
    )


def test_other_layouts_are_refused_with_a_sentence(tmp_path):
    state = official(depth=1, decoder_depth=1)
    moved = {k: v + 0.1 if k == "decoder.position_embeddings" else v for k, v in state.items()}
    flat = {k: v[:, :6] if "position_embeddings" in k else v for k, v in state.items()}
    for content, word in (
        ({"patch_embed.proj.weight": torch.zeros(1)}, "no BM-MAE checkpoint"),
        ({k: v for k, v in state.items() if not k.startswith("decoder.")}, "fine-tuned"),
        ({k: v for k, v in state.items() if k != "norm.bias"}, "norm.bias"),
        (state | {"head.weight": torch.zeros(2)}, "head.weight"), (moved, "other positions"), (flat, "no cube"),
        ({k.replace(".t1.", ".dwi."): v for k, v in state.items()}, "dwi"),
    ):  # fmt: skip
        with pytest.raises(ReadError, match=word):
            convert(save(tmp_path, content))
    for option in ({"heads": "7"}, {"decoder_heads": "x"}):
        with pytest.raises(ConfigError, match="--set"):
            convert(save(tmp_path, state), **option)
