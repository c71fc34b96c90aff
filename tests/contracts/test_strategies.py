"""Every strategy of the table on a tiny ViT: what each of them promises, written once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning.tiny import backbone, inner, problem

from medfm.config.strategies import STRATEGIES
from medfm.finetuning.fit import fit, prepare, train
from medfm.finetuning.heads import FinetuneModel, LinearHead
from medfm.finetuning.records import predict_logits

NAMES = list(STRATEGIES)
TRAINED = [n for n in NAMES if "epochs" in STRATEGIES[n].settings.model_fields]
N = 48
ROWS = np.arange(N)


def settings(name: str) -> dict[str, Any]:
    if name not in TRAINED:
        return {}
    return {"epochs": 12, "lr": 3e-3, "head_lr": 3e-3, "patience": None}


def logits(model: FinetuneModel, of: Any) -> np.ndarray:
    return predict_logits(model, of.records, ROWS)


@pytest.mark.parametrize("name", TRAINED)
def test_training_lowers_the_loss_and_changes_what_evaluation_says(name: str) -> None:
    of = problem(name, **settings(name))
    model, strategy, _ = prepare(of, of.strategy(), ROWS, inner(N), seed=1)
    before = logits(model, of)
    history = train(of, model, strategy, ROWS, 1, validation=ROWS)
    after = logits(model, of)
    assert history[-1]["validation"] < 0.8 * history[0]["validation"]
    assert np.abs(after - before).max() > 0.1
    assert not model.training


@pytest.mark.parametrize("name", TRAINED)
def test_the_backbone_itself_learns_and_not_the_head_alone(name: str) -> None:
    of = problem(name, **settings(name))
    model, strategy, _ = prepare(of, of.strategy(), ROWS, inner(N), seed=1)
    x, present = of.records.read(ROWS, np.zeros(N, int))
    with torch.no_grad():
        before = model.eval().features(x, present)
    train(of, model, strategy, ROWS, 1, epochs=12)
    model.eval()
    with torch.no_grad():
        assert (model.features(x, present) - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_predicts_the_same_in_a_network_built_anew(name: str) -> None:
    of = problem(name, **settings(name))
    result = fit(of, ROWS, inner(N), seed=2)
    expected = logits(result.model, of)
    result.strategy.merge(result.model)
    assert np.abs(logits(result.model, of) - expected).max() < 1e-5, (
        "merged weights must say what the adapter said"
    )
    new = FinetuneModel(backbone(seed=99), LinearHead(**result.model.head.config())).eval()
    new.load_state_dict(copy.deepcopy(result.model.state_dict()), strict=True)
    np.testing.assert_array_equal(logits(new, of), logits(result.model, of))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_among_the_saved_keys_never_moves(name: str) -> None:
    of = problem(name, **settings(name))
    model, strategy, _ = prepare(of, of.strategy(), ROWS, inner(N), seed=3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    if strategy.epochs:
        train(of, model, strategy, ROWS, 3, epochs=4)
    saved = set(strategy.saved_keys(model))
    for key, value in model.state_dict().items():
        if key not in saved:
            assert torch.equal(value, before[key]), key
    assert {k for k in saved if k.startswith("head.")}


def test_the_adapter_is_saved_in_pefts_own_format_and_loads_with_peft_alone(tmp_path: Path) -> None:
    from peft import PeftModel

    of = problem("lora", **settings("lora"))
    model, strategy, _ = prepare(of, of.strategy(), ROWS, inner(N), seed=4)
    train(of, model, strategy, ROWS, 4, epochs=3)
    x, present = of.records.read(ROWS, np.zeros(N, int))
    with torch.no_grad():
        expected = model.eval().backbone(x, present).pooled
    strategy.adapter(model).save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    loaded = PeftModel.from_pretrained(backbone(seed=0), str(tmp_path)).eval()
    with torch.no_grad():
        assert (loaded(x, present).pooled - expected).abs().max() < 1e-5
        assert (loaded(x, present).pooled - backbone(seed=0)(x, present).pooled).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["linear-probe", "lora"])
def test_the_frozen_backbone_is_bit_equal_afterwards(name: str) -> None:
    of = problem(name, **settings(name))
    original = backbone(seed=0).state_dict()
    result = fit(of, ROWS, inner(N), seed=4)
    found = {k.replace(".base_layer", ""): v for k, v in result.model.backbone.state_dict().items()}
    for key, value in original.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_starts_from_the_network_it_was_given(name: str) -> None:
    of = problem(name, **settings(name))
    model, strategy, _ = prepare(of, of.strategy(), ROWS, inner(N), seed=5)
    x, present = of.records.read(ROWS, np.zeros(N, int))
    with torch.no_grad():
        features = model.eval().features(x, present).numpy()
    np.testing.assert_allclose(features, of.z, atol=1e-5)
    if strategy.starts_from_probe:
        assert np.corrcoef(logits(model, of)[:, 0], of.y[:, 0])[0, 1] > 0.3
    else:
        assert np.ptp(logits(model, of)) == 0


@pytest.mark.parametrize("name", TRAINED)
def test_training_is_the_same_twice(name: str) -> None:
    of = problem(name, **{**settings(name), "epochs": 2})
    first, second = (logits(fit(of, ROWS, inner(N), seed=6).model, of) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", TRAINED)
def test_on_epoch_is_a_pure_function_of_the_epoch(name: str) -> None:
    of = problem(name, **settings(name))
    model, strategy, _ = prepare(of, of.strategy(), ROWS, inner(N), seed=7)

    def state(epoch: int) -> tuple[list[bool], list[bool]]:
        strategy.on_epoch(model, epoch)
        return [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]

    forward = [state(e) for e in range(12)]
    backward = [state(e) for e in reversed(range(12))][::-1]
    assert forward == backward


@pytest.mark.parametrize("name", TRAINED)
def test_the_optimiser_holds_every_parameter_that_ever_trains_once(name: str) -> None:
    of = problem(name, **settings(name))
    model, strategy, _ = prepare(of, of.strategy(), ROWS, inner(N), seed=8)
    held = [id(p) for group in strategy.param_groups(model) for p in group["params"]]
    assert len(held) == len(set(held))
    ever: set[int] = set()
    for epoch in range(strategy.epochs):
        strategy.on_epoch(model, epoch)
        ever |= {id(p) for p in model.parameters() if p.requires_grad}
    assert ever == set(held)
    undecayed = {id(p) for g in strategy.param_groups(model) if g["weight_decay"] == 0 for p in g["params"]}
    assert all(id(p) in undecayed for p in model.parameters() if p.ndim <= 1 and p.requires_grad)
