"""The Transformer over sequences: what is absent has no influence, sets may be mixed, UNETR's decoder is MONAI's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medfm.backbones.base import Dense, Pyramid, build
from medfm.backbones.sequence_decoder import sequence_positions
from medfm.backbones.sequence_vit import Sequences, SequenceViT
from medfm.backbones.transfer import with_decoder
from medfm.backbones.unetr import UNETRDecoder, halvings
from medfm.config.backbones import SequenceViTSettings
from medfm.types import ConfigError

SIZE, PATCH = (16, 16, 8), (8, 8, 4)
MIXED = torch.tensor([[1, 1, 1], [0, 1, 0], [1, 0, 1], [0, 0, 1]]).bool()


def make(channels=3, decoder="none", double=True, **changes):
    torch.manual_seed(0)
    options = {"dim": 12, "depth": 2, "heads": 2, "mlp_dim": 24, "patch": PATCH, "features": 4}
    light = {"decoder_dim": 12, "decoder_depth": 2, "decoder_heads": 2}
    net = SequenceViT(
        in_channels=channels, input_size=SIZE, decoder=decoder, **{**options, **light, **changes}
    )
    for name, parameter in net.named_parameters():  # zero biases would hide a lost one
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return (net.double() if double else net).eval()


def volumes(batch=4, channels=3, size=SIZE):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1)).double()


def test_positions_are_written_out():
    """A third for the second axis, a third for the first, a third for the last; sines, then cosines."""
    table, dim = sequence_positions((2, 3, 4), 20), 20
    assert table.shape == (24, dim) and not table[:, 18:].any()
    for n, (i, j, k) in enumerate(itertools.product(range(2), range(3), range(4))):
        wanted = []
        for place in (j, i, k):
            angles = [place / 10000 ** (m / 3) for m in range(3)]
            wanted += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
        np.testing.assert_allclose(table[n, :18], wanted, atol=1e-6)


@torch.no_grad()
def test_the_encoder_is_the_one_written_out():
    """Convolutions a sequence, positions, class token in front, blocks, norm; the mean over sequences."""
    net, x = make(), volumes()
    tokens = [
        F.conv3d(x[:, c : c + 1], t.proj.weight, t.proj.bias, stride=PATCH).flatten(2).mT
        + net.fixed_positions
        for c, t in enumerate(net.tokenizers)
    ]
    z = torch.cat([net.cls_token.expand(4, -1, -1), *tokens], 1)
    for block in net.blocks:
        z = block(z)
    z = net.norm(z)
    found = net(x, torch.ones(4, 3).bool())
    torch.testing.assert_close(found.pooled, z[:, 0])
    torch.testing.assert_close(found.maps[0].flatten(2).mT, z[:, 1:].unflatten(1, (3, 8)).mean(1))
    assert make(pool="mean")(x).pooled.allclose(found.maps[0].mean((2, 3, 4)))


@pytest.mark.parametrize("decoder", ["none", "reconstruction", "masks"])
@torch.no_grad()
def test_whatever_lies_in_a_missing_slot_changes_no_bit(decoder):
    net = make(decoder=decoder, double=False)

    def outputs(x):
        found = [*net(x, MIXED).maps, net(x, MIXED).pooled]
        found += net.dense(x, MIXED) if decoder == "masks" else []
        return found + ([net.reconstruct(x, MIXED)] if decoder == "reconstruction" else [])

    results = []
    for value in (float("nan"), 1e9, 0.0, float("inf")):
        x = volumes().float()
        x[~MIXED] = value
        results.append(outputs(x))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert all(torch.isfinite(part).all() for part in results[0])


@pytest.mark.parametrize("decoder", ["reconstruction", "masks"])
@torch.no_grad()
def test_a_batch_of_mixed_sets_is_its_subjects_one_by_one(decoder):
    net, x = make(decoder=decoder), volumes()
    call = net.dense if decoder == "masks" else lambda x, p: [net.reconstruct(x, p)]
    together = [*net(x, MIXED), *call(x, MIXED)]
    for i in range(4):
        alone = [*net(x[i : i + 1], MIXED[i : i + 1]), *call(x[i : i + 1], MIXED[i : i + 1])]
        for a, b in zip(alone, together, strict=True):
            a, b = (a[0], b[0]) if isinstance(a, tuple) else (a, b)
            torch.testing.assert_close(a[0], b[i])


@torch.no_grad()
def test_the_order_of_the_sequences_plays_no_part():
    """Channels, their tokenizers and the decoder's embeddings permuted together."""
    order, x = [2, 0, 1], volumes()
    net, other = make(decoder="reconstruction"), make(decoder="reconstruction")
    state = net.state_dict()
    for new, old in enumerate(order):
        for part in ("weight", "bias"):
            state[f"tokenizers.{new}.proj.{part}"] = net.state_dict()[f"tokenizers.{old}.proj.{part}"]
    state["decoder.sequences"] = net.decoder.sequences[order]
    other.load_state_dict(state)
    torch.testing.assert_close(other(x[:, order], MIXED[:, order]).pooled, net(x, MIXED).pooled)
    torch.testing.assert_close(
        other.reconstruct(x[:, order], MIXED[:, order]), net.reconstruct(x, MIXED)[:, order]
    )


def test_an_absent_tokenizer_has_a_gradient_of_zero_and_others_have_not():
    net, present = make(decoder="reconstruction"), torch.tensor([[1, 0, 1]] * 4).bool()
    net(volumes(), present).maps[0].square().sum().backward()
    for c, tokenizer in enumerate(net.tokenizers):
        for p in tokenizer.parameters():
            assert p.grad is not None and bool(p.grad.any()) == (c != 1)


@torch.no_grad()
def test_present_is_read_from_nan_where_it_is_not_given():
    net, x = make(), volumes()
    x[~MIXED] = torch.nan
    x[0, 0, :3] = torch.nan  # a gap is zero, the sequence is there
    assert torch.equal(net(x).pooled, net(x, MIXED).pooled)
    filled = torch.where(MIXED[:, :, None, None, None], torch.nan_to_num(x), torch.nan)
    assert torch.equal(net(filled).pooled, net(x).pooled)


@torch.no_grad()
def test_only_visible_tokens_reach_the_encoder():
    net, x = make(), volumes(batch=2)
    patches, visible = net.sequence_patches(x), torch.tensor([[0, 5, 17], [9, 10, 23]])
    first = net.encode_visible(patches, visible, net.grid)
    other = torch.full_like(patches.flatten(1, 2), torch.nan)
    for row, chosen in enumerate(visible):
        other[row, chosen] = patches.flatten(1, 2)[row, chosen]
    assert torch.equal(net.encode_visible(other.view_as(patches), visible, net.grid), first)
    other[0, 5] += 1
    moved = net.encode_visible(other.view_as(patches), visible, net.grid)
    assert not torch.equal(moved[0], first[0]) and torch.equal(moved[1], first[1])
    rows = torch.tensor([1])
    assert net.encode_visible(patches, visible[1:], net.grid, rows).allclose(first[1:])


@torch.no_grad()
def test_the_decoder_is_the_plain_one_over_all_places():
    """All tokens in their places through whole blocks, as the paper has it; for few subjects and for many."""
    net = make(decoder="reconstruction")
    decoder, tokens = net.decoder, 24
    for batch in (1, 3):
        rng = np.random.default_rng(batch)
        order = torch.from_numpy(np.argsort(rng.random((batch, tokens)), 1))
        visible, masked = order[:, :6].sort(1).values, order[:, 6:].sort(1).values
        encoded = torch.randn(batch, 7, 12).double()
        full = decoder.mask_token.expand(batch, tokens, -1).clone()
        latent = decoder.embed(encoded)
        for row in range(batch):
            full[row, visible[row]] = latent[row, 1:]
        place = torch.cat([decoder.table + decoder.sequences[c] for c in range(3)])
        z = torch.cat([latent[:, :1], full + place], 1)
        for block in decoder.blocks:
            z = block(z)
        z = decoder.pred(decoder.norm(z))[:, 1:]
        found = net.decode_masked(encoded, visible, masked, net.grid)
        torch.testing.assert_close(found, torch.stack([z[r, masked[r]] for r in range(batch)]))


@torch.no_grad()
def test_reconstruct_keeps_what_is_visible_and_predicts_the_rest_from_it():
    net, x = make(decoder="reconstruction"), volumes()
    shown = torch.tensor([[1, 1, 0]] * 4).bool()
    found = net.reconstruct(x, MIXED, shown)
    seen = MIXED & shown
    assert torch.equal(found[seen], x[seen]) and not torch.isclose(found[~seen], x[~seen]).all(-1).any()
    other = x.clone()
    other[~seen] = 7.0
    assert torch.equal(net.reconstruct(other, MIXED, shown), found)
    tokens = torch.zeros(4, 3, 8, dtype=torch.bool)
    tokens[:, 0, :3] = True
    part = net.reconstruct(x, None, tokens)
    patches, given = net.sequence_patches(part), net.sequence_patches(x)
    assert torch.equal(patches[tokens], given[tokens]) and not torch.equal(patches[~tokens], given[~tokens])
    assert torch.equal(net.reconstruct(x), x)
    larger = net.reconstruct(volumes(1, size=(24, 16, 12)), MIXED[1:2])
    assert larger.shape == (1, 3, 24, 16, 12) and torch.isfinite(larger).all()


def test_sizes_that_do_not_fit_are_refused():
    net = make(decoder="reconstruction")
    for call, x, word in (
        (net.reconstruct, volumes(size=(17, 16, 8)), "whole number of patches"),
        (make(decoder="masks").dense, volumes(size=(17, 16, 8)), "whole number of patches"),
        (net, volumes(size=(4, 16, 8)), "shorter than one patch"),
        (net, volumes(channels=2), "3 sequences"),
        (make().reconstruct, volumes(), "decoder=reconstruction"),
        (net.dense, volumes(), "decoder=masks"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            call(x)
    for wrong in ({"heads": 5}, {"rank": 2}, {"decoder_heads": 5}):
        with pytest.raises(ConfigError):
            make(**wrong)
    with pytest.raises(ConfigError, match="powers of two"):
        make(decoder="masks", patch=(6, 8, 4))


def test_decoders_are_exchanged_and_the_encoder_kept():
    net, x = make(decoder="reconstruction"), volumes()
    dense, change = with_decoder(net, True)
    assert isinstance(dense, Dense) and dense.has_decoder and dense.config()["decoder"] == "masks"
    assert all(k.startswith("decoder.") for k in (*change.new, *change.left)) and change.new and change.left
    plain, change = with_decoder(dense, False)
    assert plain.config()["decoder"] == "none" and not change.new
    assert torch.equal(plain(x).pooled, net(x).pooled) and torch.equal(dense(x).pooled, net(x).pooled)
    assert isinstance(net, Sequences) and isinstance(net, Pyramid)


def test_stochastic_depth_is_of_the_encoder_alone():
    net = make(decoder="reconstruction", double=False)
    net.set_drop_path(0.5)
    assert [getattr(b.drop_path, "rate", 0.0) for b in net.blocks] == [0.0, 0.5]
    assert all(isinstance(b.drop_path, torch.nn.Identity) for b in net.decoder.blocks)


# The decoder of masks


def test_halvings_of_a_flat_patch_come_first_in_plane():
    assert halvings((16, 16, 16)) == [(2, 2, 2)] * 4
    assert halvings((16, 16, 4)) == [(2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)]
    for wrong in ((1, 1, 1), (16, 16, 12)):
        with pytest.raises(ConfigError, match="powers of two"):
            halvings(wrong)


@torch.no_grad()
def test_the_decoder_of_masks_is_monais_unetr():
    from monai.networks.nets import UNETR

    torch.manual_seed(0)
    theirs = UNETR(3, 1, (32, 32, 32), feature_size=4, hidden_size=12, mlp_dim=24, num_heads=2).eval()
    ours = UNETRDecoder(3, 12, (16, 16, 16), 4).eval()
    names = [f"encoder{i}" for i in range(1, 5)], [f"decoder{i}" for i in range(2, 6)]
    for i, (encoder, decoder) in enumerate(zip(*names)):
        for mine, other in (
            (ours.readers[i], getattr(theirs, encoder)),
            (ours.ups[i], getattr(theirs, decoder)),
        ):
            own, values = mine.state_dict(), other.state_dict().values()
            mine.load_state_dict(dict(zip(own, values, strict=True)))
    x = torch.randn(1, 3, 32, 32, 32)
    final, hidden = theirs.vit(x)
    states = [theirs.proj_feat(s) for s in (hidden[3], hidden[6], hidden[9], final)]
    maps = ours(x, states)
    torch.testing.assert_close(theirs.out(maps[0]), theirs(x))
    assert ours.widths == (4, 8, 16, 32) and ours.strides == tuple((2**i,) * 3 for i in range(4))


@torch.no_grad()
def test_the_decoder_of_masks_reads_hidden_states_as_unetr_does(monkeypatch):
    """Of 12 blocks and 4 halvings the outputs of blocks 3, 6 and 9, counted from 0, and the final norm's."""
    net = make(depth=12, decoder="masks", patch=(16, 16, 16), channels=2, heads=3)
    outputs, got = {}, {}
    for i, block in enumerate(net.blocks):
        block.register_forward_hook(lambda m, a, out, i=i: outputs.__setitem__(i, out))
    net.norm.register_forward_hook(lambda m, a, out: outputs.__setitem__("norm", out))
    net.decoder.register_forward_hook(lambda m, a, out: got.update(x=a[0], states=a[1]))
    x, present = volumes(2, 2, (32, 16, 16)), torch.tensor([[1, 1]] * 2).bool()
    net.dense(x, present)
    for state, name in zip(got["states"], (3, 6, 9, "norm"), strict=True):
        mean = outputs[name][:, 1:].unflatten(1, (2, 2)).mean(1)
        torch.testing.assert_close(state.flatten(2).mT, mean)
    assert torch.equal(got["x"], x)
    present[0, 1] = False
    net.dense(x, present)
    assert torch.equal(got["x"][0, 0], 2 * x[0, 0]) and not got["x"][0, 1].any()


def test_settings_name_sizes():
    b = SequenceViTSettings(size="b")
    assert (b.dim, b.depth, b.heads, b.mlp_dim) == (768, 12, 12, 1536)
    assert (b.decoder_dim, b.decoder_depth, b.decoder_heads) == (384, 3, 12)
    for size in ("quick", "xs", "s", "b"):
        options = SequenceViTSettings(size=size).model_dump(exclude={"size", "name"})
        with torch.device("meta"):
            SequenceViT(in_channels=4, input_size=(32, 32, 32), **options)
    for wrong in ({"size": None}, {"heads": 7}, {"decoder_heads": 7}):
        with pytest.raises(ValueError):
            SequenceViTSettings(**wrong)


def test_the_full_size_is_the_official_one():
    """Counted from the layout of the official file, whose 207 tensors include five of fixed positions."""
    with torch.device("meta"):
        options = SequenceViTSettings(size="b", decoder="reconstruction").model_dump(exclude={"size", "name"})
        net = SequenceViT(in_channels=4, input_size=(128,) * 3, **options)

    def block(d, mlp):
        return 4 * d + 3 * d * d + 3 * d + d * d + d + 2 * d * mlp + mlp + d

    encoder = 4 * (768 * 4096 + 768) + 768 + 12 * block(768, 1536) + 2 * 768
    decoder = 768 * 384 + 384 + 384 + 4 * 384 + 3 * block(384, 1536) + 2 * 384 + 384 * 4096 + 4096
    assert sum(p.numel() for p in net.parameters()) == encoder + decoder
    # One embedding of all sequences here, one of each there; five position tables there.
    assert len(net.state_dict()) - 1 + 4 + 5 == 207


def test_positions_of_a_small_base_tell_the_places_of_a_small_grid_apart() -> None:
    """Encoder and decoder both; a grid that is not the usual one has waves of the same base."""
    from medfm.backbones.sequence_decoder import sequence_positions

    shape = {
        "in_channels": 2,
        "input_size": (8, 8, 8),
        "patch": (4, 4, 4),
        "dim": 24,
        "depth": 1,
        "heads": 2,
        "mlp_dim": 24,
    }
    small = {"decoder": "reconstruction", "decoder_dim": 24, "decoder_depth": 1, "decoder_heads": 2}
    network = build({"name": "sequence_vit", **shape, **small, "position_base": 20.0})
    for grid in ((2, 2, 2), (3, 2, 2)):
        assert torch.equal(network.positions(grid), sequence_positions(grid, 24, 20.0))
        table = network.decoder.places(grid) - network.decoder.sequences[:1].expand(2, -1).repeat_interleave(
            len(network.positions(grid)), 0
        )
        assert torch.allclose(
            table[: len(network.positions(grid))], sequence_positions(grid, 24, 20.0), atol=1e-6
        )
    near = lambda base: float((sequence_positions((2, 1, 1), 24, base).diff(dim=0) ** 2).sum())  # noqa: E731
    assert near(20.0) > near(10_000.0)
