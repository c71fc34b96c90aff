"""MoCo: the loss is InfoNCE written out, keys follow and give nothing of their batch away, the queue goes round."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medfm.backbones.base import Backbone
from medfm.config.load import resolve_pretrain
from medfm.config.methods import MoCoSettings
from medfm.config.run import OptimSettings
from medfm.pretraining.moco import MoCo
from medfm.types import Batch, ConfigError, Features

SMALL: dict[str, Any] = {"projector": (6, 4), "predictor": (5, 4)}
V2: dict[str, Any] = {"projector": (6, 4), "predictor": (), "momentum": (0.9, 0.9)}


class Plain(Backbone):
    """A convolution with batch norm over ``[B, C, *S]``, pooled."""

    def __init__(self, rank: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rank, self.in_channels, self.dim = rank, 2, 8
        conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        norm: Any = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1]
        self.net = nn.Sequential(conv(2, 8, 3), norm(8), nn.ReLU())

    def forward(self, x: Tensor, present: Tensor | None = None) -> Features:
        features = self.net(torch.nan_to_num(x))
        return Features((features,), features.flatten(2).mean(2))

    def groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        return [("stem", list(self.parameters()))]

    @property
    def adapter_targets(self) -> list[str]:
        return []

    def config(self) -> dict[str, Any]:
        return {"name": "plain"}


class Linear(Plain):
    """``[B, 2, 3]`` to eight numbers of it, without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(6, 8))

    def forward(self, x: Tensor, present: Tensor | None = None) -> Features:
        return Features((), self.net(x))


def make(backbone: Backbone, seed: int = 0, lr: float = 1e-3, **settings: Any) -> MoCo:
    torch.manual_seed(0)
    return MoCo(backbone, MoCoSettings(**settings), OptimSettings(lr=lr), 20, seed).train()


def batch(size: tuple[int, ...], records: int = 5, seed: int = 1) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(records, 2, *size, generator=g)
    views = x[:, None] + 0.3 * torch.randn(records, 2, 2, *size, generator=g)
    return Batch(x, torch.ones(records, 2, dtype=torch.bool), views={"views": views})


def jolt(method: MoCo) -> None:
    """Key network and query network apart, as after some steps."""
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in [*method.key_backbone.parameters(), *method.key_projector.parameters()]:
            p.add_(0.15 * torch.randn(p.shape, generator=g))


def embedded(modules: list[nn.Module], x: np.ndarray) -> np.ndarray:
    """Linear layers, batch norms (statistics of ``x``) and ReLUs in numpy, to unit length."""
    for layer in (m for module in modules for m in module.modules()):
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.detach().double().numpy().T
            x = x if layer.bias is None else x + layer.bias.detach().double().numpy()
        elif isinstance(layer, nn.BatchNorm1d):
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
            if layer.affine:
                x = x * layer.weight.detach().double().numpy() + layer.bias.detach().double().numpy()
        elif isinstance(layer, nn.ReLU):
            x = np.maximum(x, 0)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize(("queue", "predictor"), [(0, (5, 4)), (12, ())], ids=["v3", "v2"])
def test_the_loss_is_infonce_written_out(queue, predictor):
    method = make(Linear(), queue=queue, projector=(6, 4), predictor=predictor, temperature=0.3)
    jolt(method)
    data = batch((3,))
    views = data.views["views"].double().numpy().reshape(5, 2, 6)
    both = np.concatenate([views[:, 0], views[:, 1]])
    queries = embedded([method.backbone, method.projector, method.predictor], both).reshape(2, 5, 4)
    keys = embedded([method.key_backbone, method.key_projector], both).reshape(2, 5, 4)
    losses, own, other, found = [], [], [], []
    old = method.queue.double().numpy().copy()
    for q, k in ((queries[0], keys[1]), (queries[1], keys[0])):
        for i in range(5):
            negatives = old @ q[i] if queue else np.delete(k, i, 0) @ q[i]
            right = math.exp(q[i] @ k[i] / 0.3)
            losses.append(-math.log(right / (right + sum(math.exp(n / 0.3) for n in negatives))))
            own.append(q[i] @ k[i])
            other.append(negatives.mean())
            found.append(q[i] @ k[i] > negatives.max())
    method.follow = lambda m: None  # the networks as they are
    loss, logs = method.step(data)
    assert float(loss.detach()) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(logs["positive_similarity"]) == pytest.approx(np.mean(own), rel=1e-4, abs=1e-6)
    assert float(logs["negative_similarity"]) == pytest.approx(np.mean(other), rel=1e-4, abs=1e-6)
    assert float(logs["own_key_found"]) == pytest.approx(np.mean(found)) and 0 < np.mean(found) < 1
    assert logs["momentum"] == 0.99


def test_keys_and_queue_get_no_gradient_and_are_not_trained():
    method = make(Plain(), queue=20, **SMALL)
    loss = method.step(batch((9,)))[0]
    loss.backward()
    keys = [*method.key_backbone.parameters(), *method.key_projector.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in keys) and not method.queue.requires_grad
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.backbone.net[0].parameters())
    trained = {id(p) for g in method.configure_optimizers().param_groups for p in g["params"]}
    assert not trained & {id(p) for p in keys}


def test_the_key_network_follows_by_the_formula(monkeypatch):
    method = make(Plain(), **SMALL)
    jolt(method)
    method.backbone(batch((9,)).x)  # running statistics move
    pairs = [(method.key_backbone, method.backbone), (method.key_projector, method.projector)]
    before = [[p.clone() for p in t.parameters()] for t, _ in pairs]
    statistics = method.key_backbone.net[1].running_mean.clone()
    monkeypatch.setattr(MoCo, "global_step", property(lambda self: 26))
    method.follow(0.9)
    for (target, online), old in zip(pairs, before):
        for mine, theirs, was in zip(target.parameters(), online.parameters(), old, strict=True):
            torch.testing.assert_close(mine, 0.9 * was + 0.1 * theirs)
    now = method.backbone.net[1].running_mean
    assert not torch.equal(now, statistics)
    # (1 + 26) / (10 + 26) = 0.75, faster than 0.9
    torch.testing.assert_close(method.key_backbone.net[1].running_mean, 0.75 * statistics + 0.25 * now)
    monkeypatch.setattr(MoCo, "global_step", property(lambda self: 10_000))
    held = method.key_backbone.net[1].running_mean.clone()
    method.follow(0.9)
    torch.testing.assert_close(method.key_backbone.net[1].running_mean, 0.9 * held + 0.1 * now)


def test_momentum_grows_by_half_a_cosine_and_the_network_follows_before_its_keys(monkeypatch):
    method = make(Plain(), **SMALL)
    seen = []
    follow = method.follow
    method.follow = lambda m: (seen.append(m), follow(m))
    for at in (0, 10, 20):
        monkeypatch.setattr(MoCo, "global_step", property(lambda self, at=at: at))
        assert method.step(batch((9,)))[1]["momentum"] == seen[-1]
    assert seen == pytest.approx([0.99, 0.995, 1.0])
    monkeypatch.setattr(MoCo, "micro", property(lambda self: 1))  # the second batch of an accumulated step
    method.step(batch((9,)))
    method.eval().step(batch((9,)))
    assert len(seen) == 3


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_queued_key_tells_nothing_of_its_batch(rank):
    """Batch norm would mark every key with the statistics of its batch, which the own key shares with the query."""
    method = make(Plain(rank), queue=20, **V2)
    data = batch((7,) * rank, records=4)
    for _ in range(3):
        method.step(data)
    other = data.x.clone()
    other[1:] = 5 * other[1:] + 1
    key, again = (method.keys(x, data.present)[0][0] for x in (data.x, other))
    torch.testing.assert_close(key, again)
    first, second = (method.projector(method.backbone(x, data.present).pooled)[0] for x in (data.x, other))
    assert not torch.allclose(first, second, atol=1e-2)


def test_without_a_queue_all_keys_share_one_normalisation():
    method = make(Plain(), **SMALL)
    data = batch((9,), records=6)
    keys, first = method.keys(data.x, data.present)
    assert keys.shape == (6, 4) and first == 0
    torch.testing.assert_close(keys.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(keys.std(0, correction=0), torch.ones(4), atol=0.02, rtol=0)


def test_the_queue_is_first_in_first_out_and_goes_round():
    method = make(Plain(), queue=10, **V2)
    start = method.queue.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(10))
    for number in (1.0, 2.0):
        method.enqueue(torch.full((4, 4), number))
    assert method.queue[:8, 0].tolist() == [1.0] * 4 + [2.0] * 4
    assert torch.equal(method.queue[8:], start[8:])
    method.enqueue(torch.full((4, 4), 3.0))
    assert method.queue[:, 3].tolist() == [3.0] * 2 + [1.0] * 2 + [2.0] * 4 + [3.0] * 2
    assert int(method.place) == 2
    other = make(Plain(), queue=10, seed=1, **V2)
    assert not torch.equal(other.queue, start)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.queue, method.queue) and int(other.place) == 2


def test_a_step_puts_both_views_keys_into_the_queue_and_evaluation_none():
    method = make(Plain(), queue=16, **V2)
    data = batch((9,))
    start = method.queue.clone()
    method.step(data)
    keys, _ = method.keys(data.views["views"].transpose(0, 1).flatten(0, 1), data.present.repeat(2, 1))
    torch.testing.assert_close(method.queue[:10], nn.functional.normalize(keys, dim=1))
    assert torch.equal(method.queue[10:], start[10:]) and int(method.place) == 10
    method.eval().step(data)
    assert int(method.place) == 10


def test_the_loss_is_in_single_precision_under_autocast():
    method = make(Plain(), **SMALL)
    kinds = []
    similarities = method.similarities

    def seen(q, k, first):
        similarity, own = similarities(q, k, first)
        kinds.append((q.dtype, k.dtype, similarity.dtype))
        return similarity, own

    method.similarities = seen
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.step(batch((9,)))[0]
    assert kinds == [(torch.float32,) * 3] and loss.dtype == torch.float32


@pytest.mark.parametrize("queue", [0, 12])
def test_a_device_finds_its_own_keys_among_those_of_all(queue):
    """Six records on two devices: the second one's are the last three, in both views."""
    method = make(Plain(), queue=queue, **V2)
    g = torch.Generator().manual_seed(3)
    q, k = (nn.functional.normalize(torch.randn(2, 6, 4, generator=g), dim=2) for _ in range(2))
    whole, own = method.similarities(q, k, 0)
    for first in (0, 3):
        part, mine = method.similarities(q[:, first : first + 3], k, first)
        rows = [first, first + 1, first + 2, first + 6, first + 7, first + 8]
        torch.testing.assert_close(part, whole[rows])
        assert mine.tolist() == own[rows].tolist() == ([0] * 6 if queue else [r % 6 for r in rows])


@pytest.mark.parametrize(("settings", "others"), [(SMALL, 23), ({**V2, "queue": 64}, 64)], ids=["v3", "v2"])
def test_it_learns_to_find_the_other_view(settings, others):
    method = make(Plain(), **settings)
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=5e-3)
    held = batch((9,), records=24, seed=99)
    before = method.collapse_measures(held)
    logged = []
    for step in range(120):
        loss, logs = method.step(batch((9,), records=24, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        logged.append((float(loss.detach()), float(logs["own_key_found"])))
    loss, found = np.mean(logged[-10:], 0)
    assert loss < 0.8 * math.log(1 + others) and found > 5 / (1 + others)
    after = method.collapse_measures(held)
    assert after["target_std"] > 0.5 * before["target_std"] and after["effective_rank"] > 2


def test_collapse_shows_in_the_measures_and_leaves_statistics_alone():
    method = make(Plain(), **SMALL)
    data = batch((9,))
    for _ in range(3):
        method.step(data)
    running = method.backbone.net[1].running_mean.clone()
    healthy = method.collapse_measures(data)
    assert torch.equal(running, method.backbone.net[1].running_mean) and method.backbone.training
    assert 0.02 < healthy["target_std"] < 0.36  # eight numbers of unit length: at most about 1 / sqrt(8)
    with torch.no_grad():
        for net in (method.backbone, method.key_backbone):
            net.net[1].weight.zero_()
            net.net[1].bias.fill_(1.0)
    dead = method.collapse_measures(data)
    assert dead["target_std"] < 1e-5 and dead["context_std"] < 1e-5 and dead["effective_rank"] < 1.5


def test_v2_has_no_batch_norm_and_no_predictor():
    method = make(Plain(), queue=16, **V2)
    kinds = [type(m) for m in method.projector.modules()]
    assert kinds.count(nn.Linear) == 2 and nn.BatchNorm1d not in kinds and not list(method.predictor)
    v3 = make(Plain())
    widths = [m.weight.shape for m in v3.projector if isinstance(m, nn.Linear)]
    assert widths == [(4096, 8), (4096, 4096), (256, 4096)]
    assert [m.affine for m in v3.projector if isinstance(m, nn.BatchNorm1d)] == [True, True, False]
    assert [m.weight.shape for m in v3.predictor if isinstance(m, nn.Linear)] == [(4096, 256), (256, 4096)]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.batch_size=1"], "trainer.batch_size=1 leaves method moco no other record"),
        (["method.queue=100", "trainer.batch_size=64"], "does not hold the 128 keys"),
        (["method.predictor=[128]"], "one width"),
        (["method.augment=[]"], "method.augment"),
        (["method.projector=[]"], "method.projector"),
        (["method.momentum=[0.9, 1.5]"], "method.momentum"),
        (["method.mask=0.5"], "a setting of method mae and spark"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_read(overrides, words):
    with pytest.raises(ConfigError) as error:
        resolve_pretrain("xray", method="moco", overrides=overrides)
    assert words in str(error.value) and "\n  :" not in str(error.value)


def test_what_the_configuration_cannot_know_is_told_in_the_first_step():
    with pytest.raises(ConfigError, match="no other record"):
        make(Plain(), **SMALL).step(batch((9,), records=1))
    with pytest.raises(ConfigError, match="does not hold the 10 keys"):
        make(Plain(), queue=6, **V2).step(batch((9,)))
    make(Plain(), queue=6, **V2).step(batch((9,), records=1))  # a queue needs no other record


RANK = """
import sys, torch
sys.path[:0] = {path!r}
import test_moco as t
torch.set_num_threads(1)
rank, file = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{{file}}", rank=rank, world_size=2)
found = []
for settings in (t.SMALL, {{**t.V2, "queue": 40}}):
    method, data = t.make(t.Linear(), **settings), t.batch((3,), records=6)
    t.jolt(method)
    mine = slice(3 * rank, 3 * rank + 3)
    part = t.Batch(data.x[mine], data.present[mine], views={{"views": data.views["views"][mine]}})
    loss, logs = method.step(part)
    loss.backward()
    grad = method.backbone.net[1].weight.grad
    torch.distributed.all_reduce(grad)
    found.append({{"loss": loss.detach(), "grad": grad / 2, "queue": method.queue}})
torch.save(found, f"{{file}}.{{rank}}")
"""


@pytest.mark.slow
def test_two_devices_compare_with_the_keys_of_both(tmp_path):
    """The loss and gradient of two processes are those of one that has all keys. Queries without batch norm (v2) may be
    made together; with it (v3), half by half, because statistics of queries are a device's own."""
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(path=[str(Path(__file__).parent)]))
    words = [[sys.executable, str(script), str(rank), str(tmp_path / "store")] for rank in (0, 1)]
    running = [subprocess.Popen(w, env={**os.environ, "OMP_NUM_THREADS": "1"}) for w in words]
    assert [p.wait(timeout=300) for p in running] == [0, 0]
    ranks = [torch.load(tmp_path / f"store.{rank}", weights_only=True) for rank in (0, 1)]
    data = batch((3,), records=6)
    for found, settings in zip(zip(*ranks), (SMALL, {**V2, "queue": 40})):
        method = make(Linear(), **settings)
        jolt(method)
        method.follow(0.9 if "queue" in settings else 0.99)
        x = data.views["views"].transpose(0, 1).flatten(0, 1)
        keys = nn.functional.normalize(method.keys(x, data.present.repeat(2, 1))[0], dim=1).unflatten(
            0, (2, 6)
        )
        losses = []
        for first in (0, 3):
            part = data.views["views"][first : first + 3].transpose(0, 1).flatten(0, 1)
            q = method.predictor(method.projector(method.backbone(part).pooled))
            q = nn.functional.normalize(q, dim=1).unflatten(0, (2, 3))
            similarity, own = method.similarities(q, keys, first)
            losses.append(nn.functional.cross_entropy(similarity / 0.2, own))
        loss = sum(losses) / 2
        loss.backward()
        torch.testing.assert_close(torch.stack([f["loss"] for f in found]), torch.stack(losses).detach())
        torch.testing.assert_close(found[0]["grad"], method.backbone.net[1].weight.grad)
        method.enqueue(keys.flatten(0, 1))
        assert torch.equal(found[0]["queue"], found[1]["queue"])
        torch.testing.assert_close(found[0]["queue"], method.queue)
