"""The shipped recipes for radiographs, by name, on a few small pictures: what reaches the training and the bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch

from medfm.backbones.base import build
from medfm.config.load import resolve_finetune
from medfm.finetuning import fit as loop
from medfm.hub.bundle import load_bundle, save_bundle
from medfm.hub.card import Card
from medfm.modalities.xray import Xray
from medfm.types import ConfigError, MedfmError
from medfm.workflows import finetune_report
from medfm.workflows.finetune import finetune
from medfm.workflows.predict import predict

NETS = {
    "resnet18": {"name": "resnet18"},
    "vit": {"name": "vit", "patch": [8, 8], "dim": 16, "depth": 4, "heads": 2, "bias": True, "registers": 1},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen patients with a bright half in every third, and untrained networks."""
    folder = tmp_path_factory.mktemp("recipes")
    rng, rows = np.random.default_rng(0), []
    for n in range(18):
        grey = rng.uniform(40, 90, (40, 40)) + np.linspace(0, 60, 40)
        grey[20:] += 80 * (n % 3 == 0)
        PIL.Image.fromarray(grey.astype(np.uint8)).save(folder / f"p{n}.png")
        rows.append(
            {"path": f"p{n}.png", "patient_id": f"p{n}", "bpd": int(n % 3 == 0), "left": n % 2, "b": n % 2}
        )
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    modality = Xray(size=(32, 32), normalise="record")
    for name, arguments in NETS.items():
        torch.manual_seed(0)
        net = build({**arguments, "rank": 2, "in_channels": 1, "input_size": [32, 32]})
        card = Card(id=f"tiny-{name}", summary="Never trained.", modality="xray", architecture=name)
        save_bundle(folder / name, net, modality.settings(), card)
    return folder


def config(place: Path, recipe: str, net: str, target: str, **more: Any) -> Any:
    flags = {
        "finetune.table": str(place / "table.csv"),
        "finetune.backbone": str(place / net),
        "finetune.target": target.split(","),
        "finetune.folds": 2,
        "finetune.repeats": 1,
        "finetune.baseline": False,
        "finetune.bootstrap": 20,
        "output.publish": False,
        **more,
    }
    return resolve_finetune(recipe, flags)


def run(monkeypatch: pytest.MonkeyPatch, *args: Any, **more: Any) -> Any:
    """Without the pictures, which cost more than everything else here."""
    monkeypatch.setattr(finetune_report, "write", lambda *_: None)
    return finetune(config(*args, **more), progress=False)


def test_the_neonatal_recipe_is_what_it_says() -> None:
    given = resolve_finetune(
        "xray_progressive", {"finetune.table": "t", "finetune.backbone": "b", "finetune.target": ["y"]}
    )
    asked, strategy = given.finetune, given.finetune.strategy
    assert (asked.folds, asked.repeats, asked.batch_size) == (5, 6, 8)
    assert (asked.mix, asked.mix_probability, asked.mix_alpha) == ("cutmix", 0.5, 1.0)
    assert "flip" not in asked.augment
    assert (strategy.name, strategy.schedule, strategy.warmup, strategy.epochs) == (
        "progressive",
        "one-cycle",
        0.3,
        20,
    )
    assert strategy.starts == {"stage4": 0.1, "stage3": 0.3, "stage2": 0.6} and strategy.never == (
        "stem",
        "stage1",
    )
    assert strategy.rates == {"stage4": 5e-4, "stage3": 2.5e-4, "stage2": 1e-4} and strategy.head_lr == 1e-3
    assert (strategy.probe_first, strategy.batch_norm, strategy.head_dropout) == (True, "frozen", 0.1)


def test_the_transformer_recipe_is_what_it_says() -> None:
    path = "configs/finetune/xray_multilabel.yaml"  # from anywhere, with or without a repository
    given = resolve_finetune(
        path, {"finetune.table": "t", "finetune.backbone": "b", "finetune.target": ["y"]}
    )
    asked, strategy = given.finetune, given.finetune.strategy
    assert (strategy.name, strategy.layer_decay, strategy.drop_path, strategy.epochs) == (
        "lp-ft",
        0.55,
        0.2,
        75,
    )
    assert (asked.augment, asked.mix, strategy.weight_decay) == (("rand-m6-n2",), "none", 0.05)
    assert strategy.warmup * 75 == pytest.approx(
        5, abs=0.05
    ) and strategy.end_share * strategy.lr == pytest.approx(1e-5)


def test_progressive_trains_what_it_may_on_both_kinds_of_network(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    real = loop.Objective.mixed

    def watched(self: Any, x: torch.Tensor, present: torch.Tensor, rng: np.random.Generator) -> Any:
        mixed = real(self, x, present, rng)
        drawn.append(mixed is not None)
        return mixed

    monkeypatch.setattr(loop.Objective, "mixed", watched)
    for net in NETS:
        more = {"finetune.strategy.epochs": 4, "output.dir": str(tmp_path / net)}
        done = run(monkeypatch, place, "xray_progressive", net, "bpd", **more)
        assert all(f["strengths"] for f in done.results["fits"]["pretrained"]), "from the probe"
        note = [n for n in done.results["notes"] if "cutmix" in n]
        assert len(note) == 1 and "bpd: presence" in note[0]
        bundle = load_bundle(done.bundle)
        before, after = load_bundle(place / net).state, bundle.backbone_state
        frozen = (
            ("net.conv1", "net.bn1", "net.layer1")
            if net == "resnet18"
            else ("patch_embed", "registers", "blocks.0")
        )
        kept = [k for k in before if k.removeprefix("backbone.").startswith(frozen)]
        assert kept and all(torch.equal(before[k], after[k.removeprefix("backbone.")]) for k in kept)
        assert bundle.config["training"]["mix"] == "cutmix"
        assert {"augment", "balance", "label_smoothing"} <= bundle.config["training"].keys()
    assert 0.3 < np.mean(drawn) < 0.7 and len(drawn) > 30


def test_multilabel_drops_paths_in_training_and_not_in_the_model(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"finetune.strategy.epochs": 2, "output.dir": str(tmp_path / "run")}
    done = run(monkeypatch, place, "xray_multilabel", "vit", "bpd,b", **more)
    bundle = load_bundle(done.bundle)
    assert bundle.config["method"]["drop_path"] == 0.2 and bundle.config["backbone"]["drop_path"] == 0.0
    first, second = (
        pd.read_csv(predict(place / "table.csv", done.path, tmp_path / f"{i}.csv")) for i in range(2)
    )
    assert first.equals(second) and first["p_bpd"].between(0, 1).all()
    with pytest.raises(MedfmError, match="no residual blocks"):
        network = build({"name": "densenet121", "rank": 2, "in_channels": 1, "input_size": [32, 32]})
        network.set_drop_path(0.2)


def test_what_does_not_fit_is_said_before_a_folder_is_touched(place: Path, tmp_path: Path) -> None:
    output = {"output.dir": str(tmp_path / "run")}
    for recipe, net, target, more, words in (
        ("xray_progressive", "resnet18", "left", {}, "cutmix may falsify labels of laterality"),
        ("xray_progressive", "resnet18", "bpd,b", {}, "balance=sampling takes one target"),
        (
            "xray_progressive",
            "resnet18",
            "bpd",
            {"finetune.strategy.never": ["stem"]},
            "says nothing of stage1",
        ),
        (
            "xray_progressive",
            "resnet18",
            "bpd",
            {"finetune.strategy.stages": 9},
            "has 4 groups above its stem",
        ),
        ("xray_multilabel", "vit", "bpd", {"finetune.augment": ["spin"]}, "unknown X-ray augmentation spin"),
    ):
        with pytest.raises(MedfmError, match=words):
            finetune(config(place, recipe, net, target, **more, **output), progress=False)
        assert not (tmp_path / "run").exists()


def test_the_report_says_how_it_was_trained(place: Path, tmp_path: Path) -> None:
    more = {"finetune.strategy.epochs": 1, "output.dir": str(tmp_path / "run")}
    done = finetune(config(place, "xray_progressive", "vit", "bpd", **more), progress=False)
    html = done.report.read_text(encoding="utf-8")
    assert (
        "cutmix" in html
        and "one-cycle" in html
        and "rotation" in html
        and "brought back to the prevalence" in html
    )
    assert json.loads((done.path / "results.json").read_text())["strategy"] == "progressive"


def test_recipes_are_found_by_name_and_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    flags = {"finetune.table": "t", "finetune.backbone": "b", "finetune.target": ["y"]}
    with pytest.raises(ConfigError, match="did you mean the recipe xray_progressive"):
        resolve_finetune("xray_progresive", flags)
    with pytest.raises(ConfigError, match=r"recipes: ecg, .*xray_multilabel, xray_progressive"):
        resolve_finetune("qqqq", flags)
    with pytest.raises(ConfigError, match=r"not found: .*elsewhere"):
        resolve_finetune(tmp_path / "elsewhere" / "ecg.yaml", flags)
    with pytest.raises(ConfigError, match="not found"):
        resolve_finetune("ecg.yaml", flags)
