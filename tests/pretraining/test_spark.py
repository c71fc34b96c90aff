"""SparK: hidden cells reach nothing, a network without a mask is the dense one, the loss is the one written out."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from medfm.backbones.base import Backbone
from medfm.backbones.decoders import PyramidDecoder
from medfm.backbones.image2d import ConvNeXtTiny, DenseNet121, ResNet18
from medfm.backbones.patches import patchify, silenced
from medfm.backbones.visible import Cells
from medfm.bench import spark_reference as reference
from medfm.config.methods import SparKSettings
from medfm.config.run import OptimSettings
from medfm.pretraining.spark import SparK
from medfm.types import Batch, ConfigError, Features

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
NORM = {
    "batch": {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
}


class Plain(Backbone):
    """A residual pyramid of rank 1, 2 or 3 with strides 2 and 8, and the norm asked for."""

    def __init__(self, rank: int, norm: str = "batch", mix: bool = False) -> None:
        super().__init__()
        self.rank, self.in_channels, self.dim = rank, 2, 8
        self.widths, self.strides, self.mix = (4, 8), ((2,) * rank, (8,) * rank), mix

        def normed(width: int) -> nn.Module:
            return nn.GroupNorm(2, width) if norm == "group" else NORM[norm][rank](width, affine=True)

        self.stem = nn.Sequential(CONV[rank](2, 4, 5, 2, 2), normed(4), nn.LeakyReLU(0.1))
        self.block = nn.Sequential(CONV[rank](4, 4, 3, 1, 1), normed(4), nn.GELU(), CONV[rank](4, 4, 3, 1, 1))
        self.down = nn.Sequential(POOL[rank](3, 2, 1), CONV[rank](4, 8, 3, 2, 1), normed(8))

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        x = x + self.block(x)
        if self.mix:
            x = x * x.flatten(2).mean(2).sigmoid().view(*x.shape[:2], *[1] * self.rank)
        return x, self.down(x)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Features:
        maps = self.pyramid(silenced(x, present))
        return Features(maps, maps[-1].flatten(2).mean(2))

    def groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        return [("stem", list(self.parameters()))]

    @property
    def adapter_targets(self) -> list[str]:
        return []

    def config(self) -> dict[str, Any]:
        return {"name": "plain", "input_size": [48] if self.rank == 1 else [24] * self.rank}


def make(backbone, seed=0, mask=0.6, dim=16, **settings):
    torch.manual_seed(0)
    for name, parameter in backbone.named_parameters():  # layer scale of 1e-6 and zero biases hide mistakes
        if parameter.ndim == 1:
            with torch.no_grad():
                parameter.add_(
                    0.3 * torch.rand_like(parameter) if "weight" in name or "gamma" in name else 0.1
                )
    settings = SparKSettings(mask=mask, decoder_dim=dim, **settings)
    return SparK(backbone, settings, OptimSettings(), 20, seed).train()


def batch(backbone, records=2, seed=1):
    size = backbone.config()["input_size"]
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(records, backbone.in_channels, *size, generator=g)
    return Batch(x, torch.ones(records, backbone.in_channels, dtype=torch.bool))


def image(kind):
    return kind(in_channels=1, input_size=(96, 64))


NETWORKS = [
    *[pytest.param(lambda r=r, n=n: Plain(r, n), id=f"{n}-{r}d") for r in (1, 2, 3) for n in ("batch", "instance", "group")],
    *[pytest.param(lambda k=k: image(k), id=k.arch) for k in (ResNet18, DenseNet121, ConvNeXtTiny)],
]  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
def test_changing_what_is_hidden_changes_no_visible_feature(network):
    method = make(network())
    data = batch(method.backbone)
    patches = method.patches(data)
    visible, masked = method.masks(*patches.shape[:2])
    other = patches.clone()
    for record, row in enumerate(masked):
        other[record, row] = 1e4
    assert not torch.equal(other, patches)
    first, again = (method.predict(p, visible, masked) for p in (patches, other))
    assert torch.equal(first[0], again[0])
    # And what is visible does change it, so that the test can fail.
    patches[0, visible[0, 0]] += 1
    assert not torch.equal(method.predict(patches, visible, masked)[0], first[0])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("training", [True, False])
def test_with_every_cell_visible_it_is_the_dense_network(network, training):
    method = make(network()).train(training)
    dense = copy.deepcopy(method.backbone).train(training)
    data = batch(method.backbone)
    cells = Cells(torch.arange(math.prod(method.usual)).expand(2, -1), method.usual)
    with torch.no_grad():
        found, expected = method.maps(method.patches(data), cells), dense.pyramid(data.x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(cells.dense(a), b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))
    for (name, a), b in zip(method.backbone.named_buffers(), dense.buffers()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


def test_features_are_those_of_a_resnet_masked_layer_by_layer():
    """The mask-multiply form of the frozen reference: the input and the output of every layer times the mask, batch
    statistics of the gathered visible positions. Loss and every gradient agree, with the decoder and without."""
    from medfm.bench.xray import spark_weights

    torch.manual_seed(0)
    plain = reference.ReferenceSparK(1, 8, (1, 1, 1, 1), 256)

    class Small(ResNet18):
        def __init__(self):
            super().__init__(in_channels=1, input_size=(96, 64))
            self.net = timm.models.resnet.ResNet(
                timm.models.resnet.Bottleneck, (1, 1, 1, 1), num_classes=0, in_chans=1, base_width=64, channels=(8, 16, 32, 64),
                stem_width=4,
            )  # fmt: skip
            self.widths = (32, 64, 128, 256)

    network = Small()
    network.net.conv1, network.net.bn1 = nn.Conv2d(1, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
    first = network.net.layer1[0]
    first.conv1, first.downsample[0] = nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 32, 1, bias=False)
    method = make(network, dim=256)
    method.load_state_dict(spark_weights(plain.state_dict()))
    # Twelve positions make the coarsest batch statistics: in single precision the two sides' rounding shows.
    plain, method, data = plain.double(), method.double(), batch(network, records=3)
    data = Batch(data.x.double(), data.present)
    visible, _ = method.masks(3, 6)
    active = torch.zeros(3, 6, dtype=torch.bool).scatter(1, visible, True).view(3, 1, 3, 2)
    loss, expected = method.step(data)[0], plain(data.x, active)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    loss.backward(), expected.backward()
    wanted = spark_weights({n: p.grad for n, p in plain.named_parameters()})
    for name, parameter in method.named_parameters():
        scale = float(wanted[name].abs().max())
        torch.testing.assert_close(
            parameter.grad, wanted[name], rtol=1e-4, atol=1e-5 * scale + 1e-9, msg=name
        )


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_loss_is_of_hidden_cells_alone_each_standardised(rank):
    method = make(Plain(rank))
    data = batch(method.backbone)
    patches = method.patches(data)
    visible, masked = method.masks(*patches.shape[:2])
    prediction = method.predict(patches, visible, masked)[0]
    errors = []
    for record in range(2):
        for i, cell in enumerate(masked[record].tolist()):
            target = patches[record, cell]
            target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            errors.append((prediction[record, i] - target).square().mean())
    torch.testing.assert_close(method.step(data)[0], torch.stack(errors).mean())
    assert masked.shape[1] == patches.shape[1] - round(patches.shape[1] * 0.4)
    x = data.x.clone().requires_grad_()
    target = method.predict(method.patches(Batch(x, data.present)), visible, masked)[1]
    target.square().sum().backward()
    moved = patchify(x.grad, method.stride).abs().sum(2)
    assert (moved.gather(1, visible) == 0).all()


def test_the_encoder_exported_is_the_plain_timm_network():
    method = make(image(ResNet18))
    optimizer = method.configure_optimizers()
    method.step(batch(method.backbone))[0].backward()
    optimizer.step()
    plain = timm.create_model("resnet18", pretrained=False, in_chans=1, num_classes=0)
    plain.load_state_dict(method.encoder.net.state_dict())
    x = batch(method.backbone, seed=3).x
    with torch.no_grad():
        expected = plain.eval().forward_features(x)
        torch.testing.assert_close(method.encoder.eval()(x).maps[-1], expected)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in method.encoder.modules())


def test_measuring_collapse_leaves_running_statistics_alone():
    method = make(Plain(2))
    before = copy.deepcopy(method.state_dict())
    measures = method.collapse_measures(batch(method.backbone, records=4))
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items()) and method.backbone.training
    assert measures["target_std"] > 0 and measures["effective_rank"] > 1


def test_a_network_that_mixes_positions_unseen_is_refused():
    with pytest.raises(ConfigError, match="brings positions together"):
        make(Plain(2, mix=True))

    class Squeezed(ResNet18):
        def __init__(self):
            super().__init__(in_channels=1, input_size=(96, 64))
            self.net = timm.create_model("seresnet18", num_classes=0, in_chans=1)

    with pytest.raises(ConfigError, match="resnet18"):
        make(Squeezed())


def test_the_check_leaves_modes_statistics_and_the_random_state_alone():
    backbone = image(ResNet18).train()
    backbone.net.layer1.eval()
    before, state = copy.deepcopy(backbone.state_dict()), torch.random.get_rng_state()
    SparK(backbone, SparKSettings(decoder_dim=8), OptimSettings(), 20, 0)._check_network()
    assert backbone.training and not backbone.net.layer1.training
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    torch.random.set_rng_state(state)


def test_inputs_of_no_whole_cells_are_errors_that_say_so():
    with pytest.raises(ConfigError, match="multiple"):
        make(ResNet18(in_channels=1, input_size=(100, 96)))
    with pytest.raises(ConfigError, match="two or more"):
        make(ResNet18(in_channels=1, input_size=(32, 32)))
    method = make(image(ResNet18))
    odd = Batch(torch.zeros(1, 1, 96, 80), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(ConfigError, match="multiple"):
        method.step(odd)


def test_other_whole_sizes_than_the_usual_one():
    method = make(image(ResNet18))
    x = torch.randn(2, 1, 64, 128, generator=torch.Generator().manual_seed(0))
    assert math.isfinite(float(method.step(Batch(x, torch.ones(2, 1, dtype=torch.bool)))[0].detach()))


def test_the_decoder_has_the_papers_size_and_takes_uneven_strides():
    with torch.device("meta"):
        decoder = PyramidDecoder((256, 512, 1024, 2048), [(s, s) for s in (4, 8, 16, 32)], 768, 3)
    count = sum(p.numel() for p in decoder.blocks.parameters()) + sum(
        p.numel() for p in decoder.head.parameters()
    )
    assert round(count / 1e6, 2) == 23.18
    densify = sum(p.numel() for p in decoder.densify.parameters())
    assert round(densify / 1e6, 2) == 6.23
    flat = PyramidDecoder((4, 8), [(1, 2, 2), (2, 8, 8)], 16, 1)
    cells = Cells(torch.tensor([[0, 3]]), (2, 2, 1))
    assert flat([torch.randn(2, 4, 2, 4, 4), torch.randn(2, 8, 1, 1, 1)], cells).shape == (1, 1, 4, 16, 8)
    fine = PyramidDecoder((4, 6, 8), [(1,), (2,), (8,)], 16, 1)
    maps = [torch.randn(2, w, n, requires_grad=True) for w, n in ((4, 8), (6, 4), (8, 1))]
    fine(maps, Cells(torch.tensor([[0, 2]]), (3,))).square().sum().backward()
    assert all(m.grad is not None and float(m.grad.abs().min()) > 0 for m in maps)
    assert all(p.grad is not None for p in fine.parameters())
    with pytest.raises(ConfigError, match="doubles"):
        PyramidDecoder((4, 8), [(2,), (6,)], 16, 1)


def test_masks_are_a_function_of_seed_and_step():
    method, again, other = make(Plain(2)), make(Plain(2)), make(Plain(2), seed=1)
    first, second, third = (m.masks(4, 9)[0] for m in (method, again, other))
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_it_learns_to_continue_a_pattern_into_hidden_cells():
    """Stripes whose phase and direction the visible cells show: below a constant prediction's loss of 1."""
    method = make(Plain(2), dim=32, mask=0.4)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    g = torch.Generator().manual_seed(0)
    axis = torch.arange(24.0)
    for _ in range(80):
        phase = torch.rand(8, 1, generator=g) * 2 * math.pi
        wave = torch.sin(axis * (2 * math.pi / 8) + phase)
        x = wave[:, None, None, :].expand(-1, 2, 24, -1)
        loss = method.step(Batch(x, torch.ones(8, 2, dtype=torch.bool)))[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5
