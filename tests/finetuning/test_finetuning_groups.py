"""Which weights move, how fast and from when: layer decay, progressive groups, normalisation, stochastic depth."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from finetuning.tiny import backbone, inner, problem
from torch import nn

from medfm.backbones.base import build
from medfm.backbones.vit import ViT
from medfm.config.strategies import STRATEGIES, FullSettings, ProgressiveSettings
from medfm.finetuning.fit import prepare, train
from medfm.finetuning.heads import FinetuneModel, LinearHead
from medfm.finetuning.strategies.base import freeze, layerwise_groups, train_mode
from medfm.finetuning.strategies.progressive import joined
from medfm.types import MedfmError

ROWS = np.arange(48)


def vit(depth: int = 12) -> ViT:
    shape = {"rank": 2, "in_channels": 1, "input_size": (32, 32), "patch": (16, 16), "dim": 8, "heads": 2}
    return ViT(**shape, depth=depth, bias=True, class_token=True, positions="learned")  # type: ignore[arg-type]


def network(name: str = "resnet18") -> FinetuneModel:
    torch.manual_seed(0)
    net = build({"name": name, "rank": 2, "in_channels": 1, "input_size": [32, 32]})
    for part in net.modules():  # timm's last normalisations start at zero: no branch would say anything
        if isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
    model = FinetuneModel(net, LinearHead(net.dim, 1, "mean"))
    nn.init.normal_(model.head.linear.weight)  # a head at zero hands no gradient down
    return model


def progressive(model: FinetuneModel, **settings: Any) -> Any:
    strategy = STRATEGIES["progressive"].load()(ProgressiveSettings(**settings))
    strategy.apply(model)
    return strategy


def rates(model: FinetuneModel, groups: list[dict[str, Any]]) -> dict[str, float]:
    held = {id(p): g["lr"] for g in groups for p in g["params"]}
    return {n: held[id(p)] for n, p in model.named_parameters() if id(p) in held}


def test_layer_decay_has_the_official_layer_ids() -> None:
    """MAE's fine-tuning: class token, positions and patches 0, block i of 12 i + 1, the rest 13; .55 to the 13 - id."""
    model = FinetuneModel(vit(), LinearHead(8, 3))
    found = rates(model, layerwise_groups(model, FullSettings(lr=1.0, head_lr=1.0, layer_decay=0.55)))
    assert found.keys() == {n for n, _ in model.named_parameters()}
    for name, rate in found.items():
        part = name.removeprefix("backbone.")
        if part.startswith(("cls_token", "pos_embed", "patch_embed")):
            layer = 0
        elif part.startswith("blocks."):
            layer = int(part.split(".")[1]) + 1
        else:
            layer = 13
        assert rate == pytest.approx(0.55 ** (13 - layer)), name
    assert found["backbone.patch_embed.proj.weight"] == pytest.approx(4.2e-4, rel=0.01)


def test_layerwise_rates_and_decay_fall_from_the_top() -> None:
    model = FinetuneModel(backbone(), LinearHead(16, 1))
    settings = FullSettings(lr=1.0, head_lr=7.0, layer_decay=0.5, weight_decay=0.1, head_weight_decay=0.3)
    groups = layerwise_groups(model, settings)
    found = rates(model, groups)
    assert found["backbone.norm.weight"] == 1.0 and found["backbone.blocks.1.attn.qkv.weight"] == 0.5
    assert found["backbone.patch_embed.proj.weight"] == 0.125 and found["head.linear.weight"] == 7.0
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert decay[id(model.backbone.registers)] == 0 and decay[id(model.head.linear.weight)] == 0.3
    assert decay[id(model.backbone.patch_embed.proj.weight)] == 0.1 and decay[id(model.head.linear.bias)] == 0


def test_the_neonatal_schedule_opens_stages_at_2_6_and_12_of_20_epochs() -> None:
    model = network()
    given = {
        "epochs": 20,
        "starts": {"stage4": 0.1, "stage3": 0.3, "stage2": 0.6},
        "never": ("stem", "stage1"),
        "rates": {"stage4": 5e-4, "stage3": 2.5e-4, "stage2": 1e-4},
        "head_lr": 1e-3,
    }
    strategy = progressive(model, **given)
    first: dict[str, int] = {}
    for epoch in range(20):
        strategy.on_epoch(model, epoch)
        for name, parameters in model.backbone.groups():
            states = {p.requires_grad for p in parameters}
            assert len(states) == 1
            if states.pop():
                first.setdefault(name, epoch)
    assert first == {"stage4": 2, "stage3": 6, "stage2": 12}
    found = rates(model, strategy.param_groups(model))
    by_layer = {n.split(".")[2]: r for n, r in found.items() if n.startswith("backbone.net.layer")}
    assert by_layer == {"layer4": 5e-4, "layer3": 2.5e-4, "layer2": 1e-4}
    assert found["head.linear.weight"] == 1e-3
    assert progressive(network(), **{**given, "epochs": 30}).changes == [18, 9, 3]
    saved = strategy.saved_keys(model)
    assert "backbone.net.layer2.0.conv1.weight" in saved and "backbone.net.layer1.0.conv1.weight" not in saved
    assert not any(k.endswith("conv1.weight") and k.count(".") == 3 for k in saved), "nor the stem"


def test_evenly_spaced_groups_open_from_the_top_and_never_the_forbidden() -> None:
    of = problem("progressive", epochs=8, head_epochs=2, never=("stem",))
    model, strategy, _ = prepare(of, of.strategy(), ROWS, inner(48), seed=1)
    names = [name for name, _ in model.backbone.groups()]
    assert names == ["stem", "blocks.0", "blocks.1", "norm"]
    opened = []
    for epoch in range(8):
        strategy.on_epoch(model, epoch)
        opened.append([all(p.requires_grad for p in ps) for _, ps in model.backbone.groups()])
        assert all(p.requires_grad for p in model.head.parameters())
    assert opened[0] == opened[1] == [False] * 4
    assert opened[2] == [False, False, False, True]
    assert opened[4] == [False, False, True, True]
    assert opened[7] == [False, True, True, True]
    for head, epochs, total in ((0, 7, 3), (3, 15, 10), (2, 5, 8)):  # the closed form of how many are open
        changes = progressive(
            FinetuneModel(vit(total - 2), LinearHead(8, 1)), head_epochs=head, epochs=epochs
        )
        for epoch in range(epochs):
            expected = 0 if epoch < head else min(total, 1 + (epoch - head) * total // (epochs - head))
            assert sum(epoch >= c for c in changes.changes) == expected


def test_what_is_closed_in_an_epoch_does_not_move_in_it() -> None:
    """Weights of closed groups, and running statistics of their normalisations, to the bit; open ones move."""
    for direction in ("deep-to-shallow", "shallow-to-deep"):
        model = network()
        settings = {
            "starts": {"stem": 0.8, "stage1": 0.6, "stage2": 0.4, "stage3": 0.2, "stage4": 0.0},
            "epochs": 5,
        }
        if direction == "shallow-to-deep":
            settings["starts"] = {"stem": 0.2, "stage1": 0.4, "stage2": 0.6, "stage3": 0.8, "stage4": 1.0}
        strategy = progressive(model, direction=direction, **settings)
        optimizer = torch.optim.AdamW(strategy.param_groups(model))
        groups = {name: {id(p) for p in ps} for name, ps in model.backbone.groups()}
        names = {n: g for g, ids in groups.items() for n, p in model.named_parameters() if id(p) in ids}
        for epoch in range(5):
            before = copy.deepcopy(model.state_dict())
            strategy.on_epoch(model, epoch)
            for _ in range(2):
                optimizer.zero_grad(set_to_none=True)
                model(torch.randn(4, 1, 32, 32)).square().sum().backward()
                optimizer.step()
            order = ["stem", "stage1", "stage2", "stage3", "stage4"]
            closed = order[: 4 - epoch] if direction == "deep-to-shallow" else order[:epoch]
            after = model.state_dict()
            for name, group in names.items():
                assert torch.equal(after[name], before[name]) == (group in closed), (direction, epoch, name)
                statistics = name.replace("weight", "running_mean")
                if statistics in after:
                    assert torch.equal(after[statistics], before[statistics]) == (group in closed), statistics


@pytest.mark.parametrize(
    ("policy", "moved"), [("frozen", [False, True]), ("all", [False] * 2), ("none", [True] * 2)]
)
def test_which_normalisations_follow_the_batches(policy: str, moved: list[bool]) -> None:
    net = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4))
    freeze(net[1].parameters())
    before = net[1].running_mean.clone(), net[3].running_mean.clone()
    train_mode(net, policy)
    net(torch.randn(8, 3, 20) + 5)
    assert [not torch.equal(net[i].running_mean, b) for i, b in zip((1, 3), before)] == moved


def test_freezing_from_the_stem_leaves_the_head_alone_at_last() -> None:
    strategy = progressive(FinetuneModel(vit(2), LinearHead(8, 1)), direction="shallow-to-deep", epochs=10)
    assert strategy.changes == [2, 4, 6, 8]  # stem, two blocks, norm


def test_stages_join_blocks_evenly_and_leave_a_resnet_as_it_is() -> None:
    net = vit(12)
    stack = joined(net.groups(), 4)
    assert [name for name, _ in stack] == ["stem", "stage1", "stage2", "stage3", "stage4"]
    ids = {id(p): n for n, p in net.named_parameters()}
    blocks = [
        sorted({ids[id(p)].rsplit(".", 1)[0].split(".")[1] for p in ps if "blocks" in ids[id(p)]}, key=int)
        for _, ps in stack
    ]
    assert blocks == [[], ["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"], ["9", "10", "11"]]
    assert any(ids[id(p)] == "norm.weight" for p in stack[-1][1])
    assert sum(len(ps) for _, ps in stack) == len(list(net.parameters()))
    resnet = network().backbone.groups()
    assert [(n, [id(p) for p in ps]) for n, ps in joined(resnet, 4)] == [
        (n, [id(p) for p in ps]) for n, ps in resnet
    ]
    with pytest.raises(MedfmError, match="has 4 groups above its stem"):
        joined(resnet, 5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"never": ("layer9",)}, r"never: the backbone has no group 'layer9'; its groups: stem, stage1"),
        ({"rates": {"layer9": 1.0}}, "rates: the backbone has no group"),
        ({"starts": {"stage4": 0.1}}, "says nothing of stem, stage1, stage2, stage3"),
        ({"rates": {"stem": 1e-3}, "never": ("stem",)}, "stem stands in never, and in starts or rates"),
    ],
)
def test_groups_that_do_not_fit_are_said(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MedfmError, match=words):
        progressive(network(), **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"starts": {"stem": 0.1}, "head_epochs": 2}, "leave it out"),
        ({"direction": "shallow-to-deep", "head_epochs": 2}, "leave it out"),
        ({"starts": {"stem": 2}}, "share of the epochs, from 0 to 1, not 2"),
        ({"rates": {"stem": 0.0}}, "put it into never"),
        ({"dropout_masks": 4}, "set head_dropout too"),
    ],
)
def test_settings_that_contradict_each_other_are_said(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ProgressiveSettings(**settings)


def test_progressive_can_start_from_the_probe() -> None:
    of = problem("progressive", probe_first=True, epochs=2)
    _, _, strengths = prepare(of, of.strategy(), ROWS, inner(48), seed=1)
    probe = problem("linear-probe")
    model, _, _ = prepare(probe, probe.strategy(), ROWS, inner(48), seed=1)
    ours = prepare(of, of.strategy(), ROWS, inner(48), seed=1)[0]
    assert strengths and torch.equal(ours.head.linear.weight, model.head.linear.weight)


@pytest.mark.parametrize("name", ["vit", "resnet18", "regnetx_002"])
def test_stochastic_depth_grows_with_depth_acts_in_training_only_and_is_no_part_of_the_network(
    name: str,
) -> None:
    torch.manual_seed(0)
    net = vit(5) if name == "vit" else network(name).backbone
    x = torch.randn(2, 1, 32, 32)
    config, keys = net.config(), list(net.state_dict())
    before = net.eval()(x).pooled
    net.set_drop_path(0.2)
    assert net.config() == config and list(net.state_dict()) == keys
    assert torch.equal(net.eval()(x).pooled, before)
    if name != "vit":  # timm's own rates when built so
        official = build({**config, "drop_path": 0.2})
        wanted = [m.drop_prob for m in official.modules() if type(m).__name__ == "DropPath"]
    else:
        wanted = [0.05, 0.1, 0.15, 0.2]
    assert [m.rate for m in net.modules() if type(m).__name__ == "DropPath"] == pytest.approx(wanted)
    for part in net.modules():  # nothing else may differ between the modes
        if isinstance(part, nn.BatchNorm2d):
            part.track_running_stats, part.running_mean, part.running_var = False, None, None
    net.set_drop_path(0.9)
    net.train()
    assert not torch.equal(net(x).pooled, net(x).pooled)
    net.set_drop_path(0.0)
    assert torch.equal(net(x).pooled, net(x).pooled)


def test_a_network_without_branches_says_so() -> None:
    with pytest.raises(
        MedfmError, match=r"no residual blocks to drop; set finetune\.strategy\.drop_path=null"
    ):
        network("densenet121").backbone.set_drop_path(0.1)


def test_drop_path_and_head_dropout_reach_the_model_and_leave_evaluation_alone() -> None:
    of = problem("full", epochs=1, drop_path=0.3, head_dropout=0.5, dropout_masks=3)
    model, strategy, _ = prepare(of, of.strategy(), ROWS, inner(48), seed=1)
    assert model.backbone.blocks[1].drop_path.rate == 0.3 and model.head.dropout == 0.5  # type: ignore[union-attr]
    with torch.no_grad():
        model.head.linear.weight.normal_()
    z = torch.randn(4, 32)
    model.train()
    assert not torch.equal(model.head(z), model.head(z))
    model.eval()
    assert torch.equal(model.head(z), model.head(z))
    assert "drop" not in str(model.head.config()) and model.backbone.config()["drop_path"] == 0.0
    calls = []
    model.head.register_forward_hook(lambda *_: calls.append(model.training))
    train(of, model, strategy, ROWS, 1, epochs=1)
    assert len(calls) == 3 * 6, "three masks a step, six steps"
