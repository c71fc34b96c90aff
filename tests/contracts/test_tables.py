"""Every name that a user can choose: it loads, its settings are typed and strict, and it says what it is."""

import importlib
import inspect
import json

import pytest

from medfm.config.backbones import BACKBONES
from medfm.config.methods import METHODS
from medfm.config.modalities import MODALITIES
from medfm.config.strategies import STRATEGIES

TABLES = {"backbone": BACKBONES, "method": METHODS, "modality": MODALITIES, "strategy": STRATEGIES}
ENTRIES = [
    pytest.param(name, entry, id=f"{k}-{name}") for k, t in TABLES.items() for name, entry in t.items()
]


@pytest.mark.parametrize(("name", "entry"), ENTRIES)
def test_it_loads_and_says_what_it_is(name, entry):
    loaded = entry.load()
    module = importlib.import_module(entry.target.split(":")[0])
    assert inspect.isclass(loaded) and loaded.__module__ == module.__name__
    assert len(inspect.getdoc(loaded) or "") >= 40 and len(module.__doc__ or "") >= 40


@pytest.mark.parametrize(("name", "entry"), ENTRIES)
def test_its_settings_are_complete_described_and_strict(name, entry):
    settings = entry.settings()
    assert settings.name == name
    again = entry.settings.model_validate(json.loads(settings.model_dump_json()))
    assert again == settings
    assert entry.settings.__doc__
    with pytest.raises(ValueError, match="qqq"):
        entry.settings(qqq=1)
    with pytest.raises(ValueError):
        entry.settings(name="another")


@pytest.mark.parametrize("name", MODALITIES)
def test_a_modality_is_built_from_its_settings_and_gives_them_back(name):
    settings = MODALITIES[name].settings()
    modality = MODALITIES[name].load()(**settings.model_dump(exclude={"name"}))
    assert modality.name == name and len(modality.size) == len(modality.spacing) == modality.rank
    assert MODALITIES[name].settings(**json.loads(json.dumps(modality.settings()))) == settings


@pytest.mark.parametrize("name", METHODS)
def test_a_method_states_what_it_needs(name):
    method = METHODS[name].load()
    assert method.needs is not None and set(method.ranks) <= {1, 2, 3} and method.ranks


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_answers_the_protocol(name):
    strategy = STRATEGIES[name].load()
    for part in ("apply", "param_groups", "on_epoch", "saved_keys"):
        assert callable(getattr(strategy, part)), part
