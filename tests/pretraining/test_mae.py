"""The masked autoencoder: equal to independent ones, blind to what is masked, the same twice."""

from __future__ import annotations

import math

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from medfm.backbones.patches import known_values
from medfm.backbones.vit import ViT
from medfm.config.methods import MAESettings
from medfm.config.run import OptimSettings
from medfm.pretraining.mae import MAE
from medfm.types import Batch, ConfigError

SHAPES = {1: ((80,), (10,)), 2: ((32, 48), (8, 8)), 3: ((16, 16, 32), (8, 8, 8))}
LIGHT = {"decoder": None, "decoder_dim": 24, "decoder_depth": 2, "decoder_heads": 2}


def make(rank=2, seed=0, channels=2, vit=None, **settings):
    size, patch = SHAPES[rank]
    torch.manual_seed(0)
    options = {"dim": 24, "depth": 2, "heads": 2, "bias": True, "registers": 1, **(vit or {})}
    backbone = ViT(rank=rank, in_channels=channels, input_size=size, patch=patch, **options)
    settings = MAESettings.model_validate({**LIGHT, **settings})
    return MAE(backbone, settings, OptimSettings(), 20, seed).train()


def batch(rank=2, records=3, channels=2, size=None):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(records, channels, *(size or SHAPES[rank][0]), generator=g)
    return Batch(x, torch.ones(records, channels, dtype=torch.bool))


def hidden_voxels(method, x, masked):
    """True at every voxel of a masked patch, ``[B, 1, *S]``, by loops."""
    patch, where = method.backbone.patch_embed.patch, torch.zeros_like(x[:, :1], dtype=torch.bool)
    grid = [s // p for s, p in zip(x.shape[2:], patch)]
    for record, row in enumerate(masked.tolist()):
        for token in row:
            cell = []
            for axis in reversed(range(len(grid))):
                cell.append(slice(token % grid[axis] * patch[axis], (token % grid[axis] + 1) * patch[axis]))
                token //= grid[axis]
            where[(record, 0, *reversed(cell))] = True
    return where


def test_defaults_are_those_of_the_official_radiograph_recipe():
    settings = MAESettings()
    assert (settings.mask, settings.norm_patches) == (0.9, False)
    assert (settings.decoder_dim, settings.decoder_depth, settings.decoder_heads) == (512, 2, 16)
    assert MAESettings(decoder="full").decoder_depth == 8
    assert MAESettings(decoder="full", decoder_depth=3).decoder_depth == 3
    for wrong in ({"decoder": None}, {"decoder_dim": 100}, {"mask": 1.0}):
        with pytest.raises(ValueError):
            MAESettings(**wrong)


@pytest.mark.parametrize(
    ("tokens", "share", "visible"),
    [(196, 0.9, 19), (196, 0.75, 49), (100, 0.9, 10), (6, 0.9, 1), (2, 0.01, 1)],
)
def test_the_visible_count_is_rounded_down_as_the_official_one(tokens, share, visible):
    method = make(mask=share)
    seen, masked = method.masks(4, tokens)
    assert seen.shape == (4, visible) and masked.shape == (4, tokens - visible)
    assert all(sorted([*s, *m]) == list(range(tokens)) for s, m in zip(seen.tolist(), masked.tolist()))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_loss_is_the_one_written_out(rank, norm):
    """Decoder over all tokens in their places, one record at a time, loss from voxels: nothing shared with medfm."""
    method, data = make(rank, norm_patches=norm, mask=0.6), batch(rank)
    vit, decoder = method.backbone, method.decoder
    visible, masked = method.masks(3, math.prod(method.decoder.grid))
    errors = []
    for record in range(3):
        tokens = F.conv1d if rank == 1 else F.conv2d if rank == 2 else F.conv3d
        tokens = tokens(
            data.x[record : record + 1], vit.patch_embed.proj.weight, vit.patch_embed.proj.bias,
            stride=vit.patch_embed.patch,
        ).flatten(2)[0].T  # fmt: skip
        seen = (tokens + vit.fixed_positions)[visible[record]]
        latent = torch.cat([vit.registers[0], seen])[None]
        for block in vit.blocks:
            latent = block(latent)
        latent = decoder.embed(vit.norm(latent))[0]
        full = decoder.mask_token[0].expand(len(tokens), -1).clone()
        full[visible[record]] = latent[1:]
        full = torch.cat([latent[:1], full + decoder.table])[None]
        for block in decoder.blocks:
            full = block(full)
        values = decoder.pred(decoder.norm(full))[0, 1:]
        image = torch.zeros_like(data.x[record])
        where = hidden_voxels(method, data.x[record : record + 1], masked[record : record + 1])[0, 0]
        for token in masked[record].tolist():
            here = hidden_voxels(method, data.x[record : record + 1], torch.tensor([[token]]))[0, 0]
            target = data.x[record][:, here]
            if norm:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            image[:, here] = values[token].view(2, -1) - target
        errors.append(image[:, where].square())
    expected = torch.cat(errors, 1).mean()
    torch.testing.assert_close(method.step(data)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [False, True])
def test_the_loss_is_that_of_transformers_for_the_same_mask_and_weights(norm):
    transformers = pytest.importorskip("transformers", minversion="5")
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96, image_size=32,
        patch_size=8, num_channels=3, decoder_hidden_size=16, decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2, decoder_intermediate_size=64, mask_ratio=0.7, norm_pix_loss=norm,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    theirs = transformers.ViTMAEForPreTraining(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    vit = ViT(
        rank=2, in_channels=3, input_size=(32, 32), patch=(8, 8), dim=24, depth=2, heads=2, bias=True,
        class_token=True, positions="learned",
    )  # fmt: skip
    settings = MAESettings(
        mask=0.7, norm_patches=norm, decoder=None, decoder_dim=16, decoder_depth=2, decoder_heads=2
    )
    ours = MAE(vit, settings, OptimSettings(), 20, 0)
    _copy_transformers(theirs, ours)
    x, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)
    order = noise.argsort(1)
    visible, masked = order[:, :4].sort(1).values, order[:, 4:].sort(1).values
    ours.masks = lambda *_: (visible, masked)
    found, expected = (
        ours.step(Batch(x, torch.ones(3, 3, dtype=torch.bool)))[0],
        theirs(x, noise=noise).loss,
    )
    assert abs(float(found.detach() - expected.detach())) < 1e-5
    found.backward(), expected.backward()
    torch.testing.assert_close(
        vit.patch_embed.proj.weight.grad, theirs.vit.embeddings.patch_embeddings.projection.weight.grad,
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip


def _copy_transformers(theirs, ours):
    """Separate queries, keys and values become one matrix; a patch's values are channel first with us. Their
    decoder also gives the class token a position, zero as theirs starts; the test's noise is taken off it.
    """
    theirs.decoder.decoder_pos_embed.data[:, 0] = 0
    source = {k: v.detach() for k, v in theirs.state_dict().items()}
    pairs = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    }  # fmt: skip
    vit, decoder = ours.backbone, ours.decoder
    for blocks, prefix in ((vit.blocks, "vit.layers"), (decoder.blocks, "decoder.decoder_layers")):
        for i, block in enumerate(blocks):
            here, state = f"{prefix}.{i}.", {}
            for kind in ("weight", "bias"):
                qkv = [source[f"{here}attention.{n}_proj.{kind}"] for n in "qkv"]
                state[f"attn.qkv.{kind}"] = torch.cat(qkv)
                state |= {f"{a}.{kind}": source[f"{here}{b}.{kind}"] for a, b in pairs.items()}
            block.load_state_dict(state)
    with torch.no_grad():
        vit.cls_token.copy_(source["vit.embeddings.cls_token"])
        vit.pos_embed.copy_(source["vit.embeddings.position_embeddings"])
        decoder.table.copy_(source["decoder.decoder_pos_embed"][0, 1:])
        decoder.mask_token.copy_(source["decoder.mask_token"])
        for kind in ("weight", "bias"):
            for to, name in (
                (vit.patch_embed.proj, "vit.embeddings.patch_embeddings.projection"),
                (vit.norm, "vit.layernorm"),
                (decoder.embed, "decoder.decoder_embed"),
                (decoder.norm, "decoder.decoder_norm"),
            ):
                getattr(to, kind).copy_(source[f"{name}.{kind}"])
            pred = source[f"decoder.decoder_pred.{kind}"]
            getattr(decoder.pred, kind).copy_(pred.unflatten(0, (8, 8, 3)).movedim(2, 0).flatten(0, 2))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_masked_patches_cannot_reach_the_encoder_nor_the_predictions(rank):
    method, data = make(rank), batch(rank)
    visible, masked = method.masks(3, math.prod(method.decoder.grid))
    where = hidden_voxels(method, data.x, masked)
    assert where.any() and not where.all()
    other = torch.where(where, torch.full_like(data.x, 1e3), data.x)
    first = method.predict(method.patches(data), visible, masked)
    again = method.predict(method.patches(Batch(other, data.present)), visible, masked)
    assert torch.equal(first[0], again[0]) and not torch.equal(first[1], again[1])


def test_visible_patches_do_not_enter_the_loss():
    method, data = make(), batch()
    x = data.x.clone().requires_grad_()
    method.predict(method.patches(Batch(x, data.present)), *method.masks(3, 24))[0].sum().backward()
    _, masked = method.masks(3, 24)
    where = hidden_voxels(method, x, masked).expand_as(x)
    assert float(x.grad[where].abs().max()) == 0 < float(x.grad[~where].abs().min())
    with torch.no_grad():  # a decoder that is right about every masked patch has no loss, whatever is visible
        right = torch.ones(3, masked.shape[1], 128)
        method.decoder.forward = lambda *_: right
        method.targets = lambda *_: right
        assert float(method.step(data)[0]) == 0


def test_masks_are_a_function_of_seed_and_step():
    method = make()
    first, again, other = method.masks(4, 24), make().masks(4, 24), make(seed=1).masks(4, 24)
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    counts = torch.zeros(24)
    for seed in range(300):
        counts += torch.bincount(make_masks(method, seed).flatten(), minlength=24)
    share = counts / 300 / 4
    assert (share - 2 / 24).abs().max() < 4 * math.sqrt(2 / 24 * 22 / 24 / 1200)


def make_masks(method, seed):
    method.seed = seed
    return method.masks(4, 24)[0]


@pytest.mark.parametrize("norm", [False, True])
def test_an_absent_channel_is_neither_seen_nor_asked_for(norm):
    method, data = make(norm_patches=norm), batch()
    present = data.present.clone()
    present[1, 0] = False
    silent, loud = data.x.clone(), data.x.clone()
    silent[1, 0], loud[1, 0] = math.nan, 50.0
    first = method.step(Batch(silent, present))[0]
    assert torch.equal(first, method.step(Batch(loud, present))[0])
    patches = method.patches(Batch(silent, present))
    visible, masked = method.masks(*patches.shape[:2])
    prediction, target = method.predict(patches, visible, masked, known=known_values(present, 128))
    errors = (prediction - target).square()
    expected = torch.cat([errors[0].flatten(), errors[1, :, 64:].flatten(), errors[2].flatten()]).mean()
    torch.testing.assert_close(first, expected)
    if norm:
        torch.testing.assert_close(target[1, :, 64:].mean(-1), torch.zeros(22), atol=1e-5, rtol=0)
        torch.testing.assert_close(target[1, :, 64:].var(-1), torch.ones(22), atol=1e-4, rtol=0)


def test_other_sizes_than_the_usual_one_have_their_own_positions():
    method = make()
    for size in ((16, 32), (40, 64)):
        data = batch(size=size)
        assert math.isfinite(float(method.step(data)[0].detach()))
    with pytest.raises(ConfigError):
        method.step(batch(size=(4, 64)))


def test_it_learns_what_can_be_known_from_the_visible_patches():
    """Images of one grey level each: 10 % of the patches say everything, and the loss must fall far below the
    images' variance, which predicting the mean of all images costs."""
    method = make(channels=1, mask=0.75)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    g = torch.Generator().manual_seed(0)
    for _ in range(150):
        x = torch.randn(16, 1, 1, 1, generator=g).expand(-1, -1, 32, 48)
        loss = method.step(Batch(x, torch.ones(16, 1, dtype=torch.bool)))[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_in_either_precision(precision):
    method, norms = make(), []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            norms.append(float(torch.stack([p.grad.norm() for p in module.parameters()]).norm()))

    trainer = pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        precision=precision,
        gradient_clip_val=1e-3,
        callbacks=[Watch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, torch.utils.data.DataLoader([batch(), batch()], batch_size=None))
    assert norms == pytest.approx([1e-3] * 2, rel=1e-2)
