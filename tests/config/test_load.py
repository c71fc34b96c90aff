"""Layers, typed words, errors all at once: the configuration as a user meets it."""

import json
import subprocess
import sys
from typing import Any

import pytest

from medfm import paths
from medfm.config import layers, load, yaml12
from medfm.config.base import Entry, Settings
from medfm.config.load import dump_yaml, resolve_finetune, resolve_pretrain, resolve_saved
from medfm.config.modalities import MODALITIES
from medfm.config.run import FinetuneConfig, RunConfig
from medfm.types import ConfigError

RECIPE = """
modality: {name: ecg}
method: {name: ecg_jepa, keep: [0.1, 0.2]}
optim: {lr: 1e-3, schedule: rex}
trainer: {steps: 11}
presets:
  quick: {trainer: {steps: 22}, modality: {fs: 250}}
  small: {trainer: {steps: 33}, backbone: {size: xs}}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    folder = tmp_path / "configs" / "pretrain"
    folder.mkdir(parents=True)
    (folder / "ecg.yaml").write_text(RECIPE)
    monkeypatch.setattr(paths, "configs", lambda: tmp_path / "configs")
    return folder


def _message(call, *args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def test_each_layer_wins_over_the_one_before(recipe, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("trainer: {steps: 44}")
    flags, words = {"trainer.steps": 55}, ["trainer.steps=66"]
    steps = [
        RunConfig().trainer.steps,
        resolve_pretrain("ecg", preset="quick").trainer.steps,
        resolve_pretrain("ecg", preset="small").trainer.steps,
        resolve_pretrain("ecg", config=file).trainer.steps,
        resolve_pretrain("ecg", config=file, flags=flags).trainer.steps,
        resolve_pretrain("ecg", config=file, flags=flags, overrides=words).trainer.steps,
    ]
    assert steps == [100_000, 22, 33, 44, 55, 66]
    config = resolve_pretrain("ecg", preset="small")
    assert (config.optim.lr, config.optim.schedule, config.method.keep) == (1e-3, "rex", (0.1, 0.2))
    assert config.modality.fs == 500.0 and resolve_pretrain("ecg").modality.fs == 250.0


def test_a_saved_configuration_runs_again_without_its_modality_being_named(recipe, tmp_path):
    config = resolve_pretrain(
        "ecg", overrides=["name=no", "data.sources=[waves/@0.5, 'a: b']", "optim.lr=3e-4"]
    )
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(config))
    assert resolve_pretrain(config=file) == config
    assert resolve_pretrain(config=tmp_path) == config  # its folder will do
    assert resolve_saved(file, RunConfig) == config
    assert resolve_pretrain(config=file, preset="small") == config  # complete, so no preset shows through


def test_a_size_named_later_forgets_the_dimensions_of_an_earlier_one(recipe, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(resolve_pretrain("ecg", overrides=["backbone.size=xs"])))
    backbone = resolve_pretrain(config=file, overrides=["backbone.size=s"]).backbone
    assert (backbone.dim, backbone.depth, backbone.heads) == (384, 8, 6)
    assert (
        resolve_pretrain(config=file, overrides=["backbone.size=s", "backbone.depth=2"]).backbone.depth == 2
    )


def test_words_become_what_the_field_wants(recipe):
    config = resolve_pretrain(
        "ecg",
        overrides=[
            "trainer.steps=1e3",
            "optim.lr=1e-4",
            "trainer.deterministic=yes",
            "name=007",
            "data.patient=null",
            "data.sources=12",
            "method.keep=[.2, .3]",
            "trainer.devices=2",
            "trainer.compile=false",
        ],
    )
    assert config.trainer.steps == 1000 and config.optim.lr == 1e-4 and config.trainer.deterministic is True
    assert config.name == "007" and config.data.patient is None and config.data.sources == ["12"]
    assert (
        config.method.keep == (0.2, 0.3) and config.trainer.devices == 2 and config.trainer.compile is False
    )
    assert resolve_pretrain("ecg", overrides=["name='x y'", "trainer.devices=auto"]).name == "x y"


def test_every_mistake_is_told_at_once_with_the_nearest_key(recipe, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("optimizer: {lr: 1}\ntrainer: {stepz: 3, batch_size: 0}\n")
    text = _message(
        resolve_pretrain,
        "ecg",
        method="ecg_jep",
        preset="quik",
        config=file,
        overrides=[
            "backbone.sise=s",
            "optim.schedule=cosin",
            "steps=5",
            "nonsense",
            "trainer=3",
            "backbone.size=xl",
        ],
    )
    for expected in (
        "--method ecg_jep: unknown; did you mean ecg_jepa?",
        "--preset quik: unknown; did you mean quick?",
        "optimizer: unknown setting; did you mean optim?",
        "trainer.stepz: unknown setting; did you mean trainer.steps?",
        "trainer.batch_size: should be greater than 0 (given: 0)",
        "backbone.sise: unknown setting; did you mean backbone.size?",
        "optim.schedule: should be 'cosine', 'rex', 'wsd' or 'infinite'; did you mean cosine?",
        "steps: unknown setting; did you mean trainer.steps?",
        "'nonsense' is not of the form key.path=value",
        "trainer: is a group of settings, not 3",
        "backbone.size: should be 'quick'",
    ):
        assert expected in text, expected
    assert str(file) in text and "[command line]" in text
    assert text.startswith("11 settings are wrong:") and len(text.splitlines()) == 12


def test_a_key_without_a_like_one_is_answered_with_what_is_valid(recipe):
    text = _message(resolve_pretrain, "ecg", overrides=["qqqq=1"])
    assert "valid here: version, name, seed, modality" in text


class _OtherMethod(Settings):
    name: str = "other"
    mask_ratio: float = 0.75


def test_a_setting_of_another_method_says_whose_it_is(recipe, monkeypatch):
    table = layers.BLOCKS[(RunConfig, "method")].table
    monkeypatch.setitem(table, "other", Entry(_OtherMethod, "medfm.types:Sample"))
    text = _message(resolve_pretrain, "ecg", overrides=["method.mask_ratio=.5"])
    assert "method.mask_ratio: a setting of method other, but this run uses ecg_jepa" in text
    # Naming the other method drops what the recipe said about the first one.
    config = resolve_pretrain("ecg", method="other", overrides=["method.mask_ratio=.5"])
    assert config.method == _OtherMethod(mask_ratio=0.5)


def test_a_recipe_of_its_own_serves_a_method(recipe, monkeypatch):
    (recipe / "ecg_ecg_jepa.yaml").write_text("trainer: {steps: 77}\nmodality: ecg")
    assert resolve_pretrain("ecg", method="ecg_jepa").trainer.steps == 77


def test_modality_errors(recipe):
    assert "did you mean ecg?" in _message(resolve_pretrain, "egc")
    assert "--modality" in _message(resolve_pretrain)
    assert "did you mean ecg?" in _message(resolve_pretrain, "ecg", overrides=["modality=ecgg"])


def test_finetune_names_all_that_is_missing_and_switches_strategy(recipe):
    text = _message(resolve_finetune, overrides=["finetune.folds=1", "finetune.strategy.layerdecay=1"])
    for expected in (
        "finetune.table",
        "--backbone REF",
        "--target COLUMN",
        "finetune.folds: should be greater",
    ):
        assert expected in text
    assert "did you mean finetune.strategy.layer_decay?" in text
    flags = {"finetune.table": "a.csv", "finetune.backbone": "b", "finetune.target": ["x"]}
    config = resolve_finetune(
        flags={**flags, "finetune.strategy": "lora"}, overrides=["finetune.strategy.rank=3"]
    )
    assert config.finetune.strategy.name == "lora" and config.finetune.strategy.rank == 3
    assert "a setting of strategy lora" in _message(
        resolve_finetune, flags=flags, overrides=["finetune.strategy.rank=3"]
    )
    assert resolve_finetune(config=yaml12.parse(dump_yaml(config), "x")) == config
    assert resolve_finetune(flags={**flags, "finetune.patient": None}).finetune.patient is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1, 2]", "a configuration is a mapping"),
        ("a: [1", "line 1: not valid YAML"),
        ("seed: 1\nseed: 2", "the key 'seed' stands twice"),
        ("seed: 1\n\tname: x", "line 2"),
    ],
)
def test_a_broken_file_names_itself(recipe, tmp_path, text, expected):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    message = _message(resolve_pretrain, "ecg", config=file)
    assert str(file) in message and expected in message
    file.write_bytes(b"\xff\xfe\x00binary")
    assert str(file) in _message(resolve_pretrain, "ecg", config=file)
    assert "not found" in _message(resolve_pretrain, "ecg", config=tmp_path / "absent.yaml")


def test_an_override_is_told_from_a_file_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load.is_override("finetune.folds=3") and load.is_override("seed=3")
    assert not load.is_override("site=a.csv") and not load.is_override("table.csv")
    (tmp_path / "seed=3").touch()
    assert not load.is_override("seed=3")


def test_every_open_field_has_its_table():
    for model in (RunConfig, FinetuneConfig, type(FinetuneConfig().finetune)):
        open_fields = {name for name, field in model.model_fields.items() if field.annotation is Any}
        assert open_fields == {name for owner, name in layers.BLOCKS if owner is model}
    for (owner, name), block in layers.BLOCKS.items():
        assert getattr(owner.model_validate({}), name).name == block.default


def test_shipped_recipes_and_their_presets_resolve():
    for file in (paths.configs() / "pretrain").glob("*.yaml"):
        presets = yaml12.read(file)["presets"]
        assert list(presets) == ["quick", "small", "base", "paper"], file
        for preset in presets:
            modality = max((m for m in MODALITIES if f"{file.stem}_".startswith(f"{m}_")), key=len)
            method = file.stem.removeprefix(modality).removeprefix("_")
            config = resolve_pretrain(modality, method=method or None, preset=preset)
            assert config.modality.name == modality
            assert resolve_pretrain(config=yaml12.parse(dump_yaml(config), "x")) == config


def test_resolving_loads_no_torch_and_no_numpy():
    code = (
        "import sys, json; from medfm.config.load import *; resolve_pretrain('ecg');"
        "print(json.dumps([m for m in ('torch', 'numpy', 'pandas', 'scipy') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_configuration_of_the_other_command_is_one_mistake(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(resolve_pretrain("ecg")))
    for call in (lambda: resolve_finetune(path), lambda: resolve_saved(path, FinetuneConfig)):
        with pytest.raises(ConfigError, match="of medfm pretrain, not of medfm finetune") as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="of medfm finetune, not of medfm pretrain"):
        resolve_pretrain(config={"finetune": {"table": "t.csv"}})
