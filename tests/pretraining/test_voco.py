"""VoCo: overlaps and losses worked out by hand, teachers that follow and get no gradient, places that are learned."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.backbones.base import Backbone
from medfm.backbones.patches import silenced
from medfm.backbones.vit import ViT
from medfm.config.methods import VoCoSettings
from medfm.config.run import OptimSettings
from medfm.pretraining import voco
from medfm.pretraining.voco import VoCo, position_correlation
from medfm.types import Batch, ConfigError, Features

PLAIN: dict[str, Any] = {"projector": (12, 10), "flip": 0, "rotate": 0, "shift": 0, "dropout": 0}
FORMS: dict[str, dict[str, Any]] = {
    "v2": PLAIN,
    "v1": PLAIN | {"form": "v1", "teacher": "full", "inter": False},
    "paper": PLAIN | {"form": "paper", "teacher": "none", "inter": False, "regulariser": "linear"},
}


class Small(Backbone):
    """Two stages of convolutions, 8 and 16 wide; with ``norm`` the first has batch statistics."""

    def __init__(self, size: tuple[int, ...] = (4, 4, 4), norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rank, self.in_channels, self.dim, self.size = 3, 1, 16, size
        self.widths, self.strides = (8, 16), ((2, 2, 2), (4, 4, 4))
        first: nn.Module = nn.BatchNorm3d(8) if norm else nn.GroupNorm(2, 8)
        self.fine = nn.Sequential(nn.Conv3d(1, 8, 3, 2, 1), first, nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv3d(8, 16, 3, 2, 1), nn.ReLU())

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        fine = self.fine(x)
        return fine, self.coarse(fine)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Features:
        maps = self.pyramid(silenced(x, present))
        return Features(maps, maps[-1].flatten(2).mean(2))

    def groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        return [("stem", list(self.parameters()))]

    @property
    def adapter_targets(self) -> list[str]:
        return []

    def config(self) -> dict[str, Any]:
        return {"name": "small", "input_size": list(self.size)}


def make(size=(4, 4, 4), seed=0, norm=False, **settings: Any) -> VoCo:
    torch.manual_seed(0)
    return VoCo(Small(size, norm), VoCoSettings(**{**PLAIN, **settings}), OptimSettings(), 20, seed).train()


def batch(method: VoCo, volumes: int = 3, seed: int = 1) -> Batch:
    x = torch.randn(volumes, 1, *method.window, generator=torch.Generator().manual_seed(seed))
    return Batch(x, torch.ones(volumes, 1, dtype=torch.bool))


def jolt(method: VoCo) -> None:
    """Teacher and student apart, as after some steps."""
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for teacher in (method.teacher_backbone, method.teacher_projector):
            for p in teacher.parameters() if teacher is not None else ():
                p.add_(0.2 * torch.randn(p.shape, generator=g))


def slow_overlap(a: Any, b: Any, size: Any) -> float:
    """Voxels that two boxes share, counted one by one, over those of a box."""
    boxes = [{tuple(v + o) for v in np.ndindex(*size) for o in [np.array(c)]} for c in (a, b)]
    return len(boxes[0] & boxes[1]) / math.prod(size)


def test_overlaps_worked_out_by_hand():
    bases = torch.tensor([[0, 0, 0], [0, 4, 0], [4, 0, 0], [4, 4, 0]])
    crops = torch.tensor([[[1, 3, 0], [4, 4, 0], [2, 2, 0], [0, 0, 0]]])
    expected = [
        [3 * 1 / 16, 3 * 3 / 16, 1 * 1 / 16, 1 * 3 / 16],
        [0, 0, 0, 1],
        [0.25] * 4,
        [1, 0, 0, 0],
    ]
    found = voco.overlaps(crops, bases, torch.tensor([4, 4, 4]))
    torch.testing.assert_close(found, torch.tensor([expected], dtype=found.dtype))


@pytest.mark.parametrize("grid", [(3, 3, 1), (2, 3, 2)], ids=["area", "volume"])
def test_labels_are_shares_that_sum_to_one(grid):
    """Counted voxel by voxel; with one layer they are areas, and at most 4 (8 in three dimensions) are not zero."""
    method = make((4, 4, 3), grid=grid)
    corners = method.corners(2, 5, np.random.default_rng(0))
    y = method.labels(corners)
    k = math.prod(grid)
    assert y.shape == (2, 5, k)
    torch.testing.assert_close(y.sum(2), torch.ones_like(y[:, :, 0]))
    for b in range(2):
        for n in range(5):
            crop = corners[b, k + n].numpy()
            for i in range(k):
                assert float(y[b, n, i]) == pytest.approx(slow_overlap(crop, method.bases[i], (4, 4, 3)))
    assert int((y > 0).sum(2).max()) <= (4 if grid[2] == 1 else 8)
    assert len({tuple(c) for c in corners[:, k:].flatten(0, 1).tolist()}) > 5, "places differ"
    many = method.corners(1, 2000, np.random.default_rng(0))[0, k:]
    assert many.min(0).values.tolist() == [0, 0, 0]
    assert many.max(0).values.tolist() == [4 * grid[0] - 4, 4 * grid[1] - 4, 3 * grid[2] - 3]


def test_a_crop_on_a_base_has_label_one_and_looks_like_it():
    method = make()
    corners = method.corners(1, 9, np.random.default_rng(0))
    corners[:, 9:] = corners[:, :9]
    torch.testing.assert_close(method.labels(corners)[0], torch.eye(9))
    crops, _ = method.cropped(batch(method, 1), corners)
    assert torch.equal(crops[:9], crops[9:])


def test_crops_are_cut_where_the_corners_say():
    method = make((4, 5, 3), grid=(2, 2, 2), rotate=0)
    data = batch(method, 2)
    data.x[0, 0, 0, 0, 0] = torch.nan
    corners = method.corners(2, 3, np.random.default_rng(3))
    crops, present = method.cropped(data, corners)
    assert crops.shape == (22, 1, 4, 5, 3) and present.shape == (22, 1)
    x = torch.nan_to_num(data.x)
    for b in range(2):
        for m, (i, j, k) in enumerate(corners[b].tolist()):
            assert torch.equal(crops[b * 11 + m], x[b, :, i : i + 4, j : j + 5, k : k + 3])
    assert [tuple(c) for c in corners[0, :3].tolist()] == [(0, 0, 0), (0, 0, 3), (0, 5, 0)]


def test_larger_cuts_are_resized_and_labelled_by_the_cut():
    method = make(cut=(8, 8, 8))
    assert method.view_spec.size == (24, 24, 8)
    corners = method.corners(1, 1, np.random.default_rng(0))
    corners[0, 9] = torch.tensor([2, 0, 0])
    assert method.labels(corners)[0, 0, [0, 3]].tolist() == [0.75, 0.25]
    data = batch(method, 1)
    crops, _ = method.cropped(data, corners)
    # Half the size, trilinear without aligned corners: the mean of 2 x 2 x 2 voxels.
    expected = F.avg_pool3d(data.x[:, :, 2:10, :8], 2)
    torch.testing.assert_close(crops[9:], expected)


def log_of(v: float, floor: float) -> float:
    return -math.log(v) if v >= floor else -math.log(floor) + (floor - v) / floor


def by_hand(form: str, y: np.ndarray, guess: np.ndarray, floor: float) -> float:
    """Of volumes ``[B, n, k]``, in loops."""
    total = []
    for ys, ls in zip(y.reshape(len(y), -1), guess.reshape(len(y), -1)):
        if form == "paper":
            total.append(np.mean([log_of(1 - abs(a - b), floor) for a, b in zip(ys, ls)]))
            continue
        positive = sum(a * log_of(1 - abs(a - b), floor) for a, b in zip(ys, ls)) / sum(ys)
        away = [b**2 if form == "v1" else log_of(1 - b, floor) for a, b in zip(ys, ls) if a == 0]
        total.append(positive + (np.mean(away) if away else 0))
    return float(np.mean(total))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("floor", [0.05, 0.7])
def test_the_loss_is_the_one_written_out(form, floor):
    """Embeddings of every crop by itself, cosines, labels and losses in loops; a high floor reaches the tangent."""
    method = make(**FORMS[form], floor=floor)
    jolt(method)
    method.follow = lambda: None
    data, k = batch(method), 9
    corners = method.corners(3, 2, method.rng())
    crops, _ = method.cropped(data, corners)
    with torch.no_grad():

        def unit(backbone, projector):
            pooled = torch.cat([m.mean((2, 3, 4)) for m in backbone(crops).maps], 1)
            z = projector(pooled).double()
            return (z / z.norm(dim=1, keepdim=True)).numpy().reshape(3, k + 2, -1)

        student = unit(method.backbone, method.projector)
        teacher = student
        if method.teacher_projector is not None:
            teacher = unit(method.teacher_backbone or method.backbone, method.teacher_projector)
    y = np.array(
        [
            [
                [slow_overlap(corners[b, k + n].numpy(), base, (4, 4, 4)) for base in method.bases]
                for n in range(2)
            ]
            for b in range(3)
        ]
    )
    guess = np.maximum(student[:, k:] @ teacher[:, :k].transpose(0, 2, 1), 0)
    if form == "v1":
        guess = (guess + np.maximum(teacher[:, k:] @ student[:, :k].transpose(0, 2, 1), 0)) / 2
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    power = 1 if form == "paper" else 2
    base = np.mean([[max(s[i] @ s[j], 0) ** power for i, j in pairs] for s in student[:, :k]])
    expected = by_hand(form, y, guess, floor) + base
    inter = 0.0
    if form == "v2":
        following = [1, 2, 0]
        wanted = np.maximum(teacher[:, k:] @ teacher[following, :k].transpose(0, 2, 1), 0)
        made = np.maximum(student[:, k:] @ student[following, :k].transpose(0, 2, 1), 0)
        assert (wanted > 0).any() and (wanted == 0).any()
        inter = by_hand("v2", wanted, made, floor)
    loss, logs = method.step(data)
    assert float(loss.detach()) == pytest.approx(expected + inter, rel=1e-4)
    assert float(logs["base_loss"].detach()) == pytest.approx(base, rel=1e-4)
    parts = sum(float(v.detach()) for v in logs.values())
    assert parts == pytest.approx(float(loss.detach()), rel=1e-5)
    assert ("inter_loss" in logs) == (form == "v2")


def test_prediction_losses_of_four_pairs_by_hand():
    y = torch.tensor([[[0.75, 0.25, 0.0, 0.0]]])
    guess = torch.tensor([[[0.5, 0.5, 0.5, 0.1]]])
    error = -math.log(0.75)
    positive, negative = voco.prediction_losses(y, guess, "v1", 0.05)
    assert float(positive) == pytest.approx(error)
    assert float(negative) == pytest.approx((0.25 + 0.01) / 2)
    _, negative = voco.prediction_losses(y, guess, "v2", 0.05)
    assert float(negative) == pytest.approx((-math.log(0.5) - math.log(0.9)) / 2)
    positive, negative = voco.prediction_losses(y, guess, "paper", 0.05)
    assert float(positive + negative) == pytest.approx((2 * error - math.log(0.5) - math.log(0.9)) / 4)


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_bounded_and_still_pulls(form):
    """A crop on the grid that is taken for another costs 13.8 there, with a slope of a million."""
    y, guess = torch.eye(2)[None], torch.tensor([[[1e-4, 1.0], [1.0, 1e-4]]], requires_grad=True)
    loss = sum(voco.prediction_losses(y, guess, form, 0.05))
    assert float(loss.detach()) <= 2 * (1 - math.log(0.05)) + 1e-5
    loss.backward()
    assert float(guess.grad.abs().max()) <= 20 and float(guess.grad[0, 0, 0]) < -1
    v = torch.tensor([0.05, 0.0, 1.0, 0.5])
    found = voco.bounded_log(v, 0.05)
    torch.testing.assert_close(found, torch.tensor([-math.log(0.05), 1 - math.log(0.05), 0.0, math.log(2.0)]))


@pytest.mark.parametrize("power", [1, 2])
def test_of_two_bases_only_the_first_is_pushed(power):
    q = F.normalize(
        torch.tensor([[[1.0, 0.2, 0.1], [0.8, 0.6, 0.0], [-1.0, 0.1, 0.3]]]), dim=2
    ).requires_grad_()
    loss = voco.base_loss(q, power)
    near, *far = (float(q[0, i].detach() @ q[0, j].detach()) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert max(far) < 0 < near
    assert float(loss.detach()) == pytest.approx(near**power / 3)
    loss.backward()
    slope = 1 if power == 1 else 2 * near
    torch.testing.assert_close(q.grad[0, 0], slope * q[0, 1].detach() / 3)
    assert not q.grad[0, 1:].any()


@pytest.mark.parametrize("teacher", ["none", "head", "full"])
def test_no_gradient_reaches_the_teacher_and_it_is_not_trained(teacher):
    method = make(teacher=teacher, inter=teacher != "none")
    jolt(method)
    method.step(batch(method))[0].backward()
    trained = {id(p) for g in method.configure_optimizers().param_groups for p in g["params"]}
    held = [p for n, p in method.named_parameters() if n.startswith("teacher")]
    assert bool(held) == (teacher != "none")
    assert all(p.grad is None and not p.requires_grad and id(p) not in trained for p in held)
    assert all(p.grad is not None for p in [*method.backbone.parameters(), *method.projector.parameters()])


def test_without_a_teacher_bases_are_held_fixed_in_the_prediction():
    method = make(teacher="none", inter=False)
    student = torch.randn(33, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
    method.projector.forward = lambda x: student
    _, logs = method.step(batch(method))
    (logs["positive_loss"] + logs["negative_loss"]).backward()
    moved = student.grad.abs().sum(1).unflatten(0, (3, 11)) > 0
    assert not moved[:, :9].any() and moved[:, 9:].all()


def test_the_teacher_starts_as_the_student_and_follows_by_the_formula(monkeypatch):
    method = make(teacher="full", momentum=0.8, norm=True)
    pairs = [
        (method.teacher_backbone, method.backbone),
        (method.teacher_projector, method.projector),
    ]
    for target, online in pairs:
        assert all(
            torch.equal(a, b) for a, b in zip(target.state_dict().values(), online.state_dict().values())
        )
    jolt(method)
    before = [[p.clone() for p in t.parameters()] for t, _ in pairs]
    method.backbone(batch(method).x[..., :4, :4, :4])  # running statistics move
    statistics = method.teacher_backbone.fine[1].running_mean.clone()
    monkeypatch.setattr(VoCo, "global_step", property(lambda self: 26))
    method.follow()
    for (target, online), old in zip(pairs, before):
        for mine, theirs, was in zip(target.parameters(), online.parameters(), old, strict=True):
            torch.testing.assert_close(mine, 0.8 * was + 0.2 * theirs)
    now = method.backbone.fine[1].running_mean
    assert not torch.equal(now, statistics)
    # (1 + 26) / (10 + 26) = 0.75, faster than 0.8
    torch.testing.assert_close(method.teacher_backbone.fine[1].running_mean, 0.75 * statistics + 0.25 * now)


def test_the_teacher_follows_once_a_step_and_in_training_alone(monkeypatch):
    method = make(teacher="full")
    seen = []
    method.follow = lambda: seen.append(1)
    method.step(batch(method))
    monkeypatch.setattr(VoCo, "micro", property(lambda self: 1))
    method.step(batch(method))
    monkeypatch.setattr(VoCo, "micro", property(lambda self: 0))
    method.eval().step(batch(method))
    assert len(seen) == 1
    assert not method.train().teacher_backbone.training and method.backbone.training


def test_crops_are_altered_each_by_itself_and_stay_what_they_were():
    """Every crop is one of the 32 turned and mirrored forms of itself, plus one number of at most 0.1."""
    method = make(flip=0.5, rotate=0.5, shift=0.5)
    data, rng = batch(method), np.random.default_rng(0)
    crops, _ = method.cropped(data, method.corners(3, 6, rng))
    found, kinds, shifts = method.augmented(crops.clone(), rng), set(), []
    for was, now in zip(crops[:, 0], found[:, 0]):
        forms = [torch.rot90(was.flip(axes), k, (0, 1)) for axes in ([], [0], [2], [0, 2]) for k in range(4)]
        gaps = [float((now - form).std()) for form in forms]
        best = int(np.argmin(gaps))
        assert gaps[best] < 1e-6
        kinds.add(best)
        shifts.append(float((now - forms[best]).mean()))
    assert len(kinds) > 10 and 0.02 < max(map(abs, shifts)) <= 0.1
    assert 5 < sum(abs(s) < 1e-6 for s in shifts) < len(shifts) - 5
    still = make()
    assert torch.equal(still.augmented(crops.clone(), rng), crops)


def test_dropout_zeroes_features_and_not_whole_crops():
    method = make(dropout=0.4)
    pooled = torch.ones(200, 24)
    found = method.dropped(pooled)
    torch.testing.assert_close(found.unique(), torch.tensor([0, 1 / 0.6]))
    assert float((found == 0).float().mean()) == pytest.approx(0.4, abs=0.03)
    assert not (found == 0).all(1).any() and not (found == 0).all(0).any()
    assert torch.equal(method.dropped(pooled), found)
    method.eval()
    assert float(method.step(batch(method))[0].detach()) == float(
        make().eval().step(batch(method))[0].detach()
    )


def test_a_step_is_a_function_of_seed_step_and_micro_batch(monkeypatch):
    options = {"flip": 0.5, "rotate": 0.5, "shift": 0.5, "dropout": 0.2}
    data = batch(make())

    def loss(seed=0, step=0, micro=0):
        method = make(seed=seed, **options)
        monkeypatch.setattr(VoCo, "global_step", property(lambda self: step))
        monkeypatch.setattr(VoCo, "micro", property(lambda self: micro))
        return float(method.step(data)[0].detach())

    first = loss()
    assert loss() == first
    assert len({first, loss(seed=1), loss(step=1), loss(micro=1)}) == 4


def test_the_loss_is_float32_under_autocast():
    method = make(dropout=0.2)
    plain = float(copy.deepcopy(method).step(batch(method))[0].detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, logs = method.step(batch(method))
    assert loss.dtype == torch.float32 and all(v.dtype == torch.float32 for v in logs.values())
    assert float(loss.detach()) == pytest.approx(plain, rel=0.1)
    loss.backward()


@pytest.mark.parametrize(
    "network",
    [
        lambda: ViT(rank=3, in_channels=1, input_size=(8, 8, 8), patch=(4, 4, 4), dim=18, depth=1, heads=2),
        lambda: Small((8, 8, 8), norm=True),
    ],
)
def test_it_runs_on_tokens_and_on_batch_norm(network):
    settings = VoCoSettings(**{**PLAIN, "teacher": "full"})
    method = VoCo(network(), settings, OptimSettings(), 20, 0).train()
    loss, _ = method.step(batch(method))
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    before = copy.deepcopy(method.state_dict())
    measures = method.collapse_measures(batch(method))
    assert all(math.isfinite(v) for v in measures.values())
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items()) and method.backbone.training


def test_measures_are_those_of_the_student_in_evaluation():
    method = make(crops=5)
    jolt(method)
    data = batch(method)
    corners = method.corners(3, 5, np.random.default_rng(method.seed))
    crops, _ = method.cropped(data, corners)
    with torch.no_grad():
        maps = method.backbone(crops).maps
        z = F.normalize(method.projector(torch.cat([m.mean((2, 3, 4)) for m in maps], 1)), dim=1)
    z = z.reshape(3, 14, -1).double().numpy()
    guess = np.maximum(z[:, 9:] @ z[:, :9].transpose(0, 2, 1), 0)
    y = np.array(
        [[[slow_overlap(c, b, (4, 4, 4)) for b in method.bases] for c in row[9:].numpy()] for row in corners]
    )
    found = method.collapse_measures(data)
    assert set(VoCo.measures) < set(found)
    assert found["position_correlation"] == pytest.approx(
        np.corrcoef(guess.ravel(), y.ravel())[0, 1], abs=1e-5
    )
    assert found["similarity_positive"] == pytest.approx(guess[y > 0].mean(), abs=1e-5)
    assert found["similarity_negative"] == pytest.approx(guess[y == 0].mean(), abs=1e-5)
    cosines = [s[i] @ s[j] for s in z[:, :9] for i in range(9) for j in range(9) if i != j]
    assert found["base_cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert found["target_std"] == pytest.approx(z.reshape(42, -1).std(0).mean(), abs=1e-5)
    again = position_correlation(method, [data], crops=5, seed=method.seed)
    assert again == pytest.approx(found["position_correlation"], abs=1e-6)
    assert position_correlation(method, []) == 0.0


def coded(window: tuple[int, ...], volumes: int, seed: int) -> Batch:
    """Brightness grows along axis 0, and the pitch of waves along axis 1 falls; noise and a phase differ."""
    g = torch.Generator().manual_seed(seed)
    i, j, _ = torch.meshgrid(*(torch.linspace(0, 1, n) for n in window), indexing="ij")
    phase = torch.rand(volumes, 1, 1, 1, 1, generator=g) * 2 * math.pi
    waves = torch.sin(2 * math.pi * (1 + 5 * j) * j + phase) * (0.2 + j)
    x = 2 * i + waves + 0.1 * torch.randn(volumes, 1, *window, generator=g)
    return Batch(x, torch.ones(volumes, 1, dtype=torch.bool))


@pytest.mark.parametrize(
    ("form", "lr"),
    [
        ("v2", 3e-3),
        pytest.param("v1", 5e-4, marks=pytest.mark.slow),
        pytest.param("paper", 5e-4, marks=pytest.mark.slow),
    ],
)
def test_places_of_unseen_volumes_are_learned(form, lr, monkeypatch):
    method = make((8, 8, 8), **{**FORMS[form], "projector": (64, 64)})
    held = [coded(method.window, 10, 10_000 + s) for s in range(2)]
    before = position_correlation(method, held)
    first = method.collapse_measures(held[0])
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr)
    for step in range(700):
        monkeypatch.setattr(VoCo, "global_step", property(lambda self, step=step: step))
        loss, _ = method.step(coded(method.window, 6, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = position_correlation(method, held)
    assert before < 0.55 and after > 0.8
    assert method.verdict(first, method.collapse_measures(held[0])) == ""


def test_a_flat_run_is_said_in_one_sentence():
    def said(start, end):
        return VoCo.verdict({"position_correlation": start}, {"position_correlation": end})

    assert said(0.0, 0.31) == "" and said(0.9, 0.96) == "" and said(0.4, 0.46) == ""
    assert "0.29" in said(0.1, 0.29) and "method.teacher" in said(0.1, 0.29)
    assert said(0.5, 0.52).startswith("FLAT")
    assert VoCo.verdict({}, {}) == ""


def test_what_cannot_work_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="one base crop"):
        VoCoSettings(grid=(1, 1, 1))
    with pytest.raises(ValueError, match="inter to false"):
        VoCoSettings(teacher="none")
    assert "method.inter=false" in VoCoSettings().refuse(1)
    assert not VoCoSettings().refuse(2) and not VoCoSettings(inter=False).refuse(1)
    with pytest.raises(ConfigError, match=r"method\.rotate=0"):
        make((4, 5, 4), rotate=0.2)
    method = make()
    other = Batch(torch.zeros(2, 1, 12, 12, 5), torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(ConfigError, match="view_spec"):
        method.step(other)
    flat = ViT(rank=2, in_channels=1, input_size=(8, 8), patch=(4, 4), dim=16, depth=1, heads=2)
    with pytest.raises(ConfigError, match="volumes"):
        VoCo(flat, VoCoSettings(), OptimSettings(), 20, 0)
