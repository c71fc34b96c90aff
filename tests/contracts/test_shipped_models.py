"""Every model in the box: whole, small, honest about what it saw, and better than its own random initialisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medfm.backbones.base import build
from medfm.evaluation.metrics import auroc, macro
from medfm.evaluation.probe import probe
from medfm.hub.bundle import load_bundle
from medfm.hub.card import first_sentence
from medfm.hub.catalog import shipped_models
from medfm.synthetic.corpus import ecg_arrays, radiograph_arrays

MODELS = shipped_models()
RECORDS = {
    "ecg": lambda count, seed, like: ecg_arrays(count, seed=seed, fs=like.fs, seconds=like.seconds),
    "xray": lambda count, seed, like: radiograph_arrays(count, seed=seed, size=like.size),
}
TARGETS = {
    "ecg": ["rbbb", "lvh", "mi", "st_depression", "t_inversion"],
    "xray": ["effusion", "cardiomegaly", "consolidation", "normal"],
}


def test_the_starter_that_the_readme_names_is_in_the_box():
    assert load_bundle(MODELS["ecg-jepa-xs-sim"]).has_weights


def test_all_weights_together_stay_small():
    sizes = [file.stat().st_size for folder in MODELS.values() for file in folder.rglob("*.safetensors")]
    assert max(sizes) < 8e6 and sum(sizes) < 40e6


@pytest.mark.parametrize("name", MODELS)
def test_card_and_folder_agree(name):
    bundle = load_bundle(MODELS[name])  # every hash is checked
    assert bundle.card.id == name and bundle.card.preprocessing and bundle.card.citations
    network = bundle.build() if bundle.has_weights else build(bundle.config["backbone"])
    assert sum(p.numel() for p in network.parameters()) == bundle.card.parameters
    assert bundle.card.results if bundle.has_weights else "medfm hub convert" in bundle.card.obtain
    if name.endswith("-sim"):
        assert "simulated" in first_sentence(bundle.card.summary)


@pytest.mark.parametrize("name", [n for n in MODELS if load_bundle(MODELS[n]).has_weights])
def test_a_frozen_probe_beats_the_same_network_untrained(name):
    """On 400 simulated patients of another seed; mean-pooled, half to fit and half to score."""
    bundle = load_bundle(MODELS[name])
    modality = bundle.modality()
    kind = bundle.card.modality
    x, labels = RECORDS[kind](400, 424_242, modality)
    y, people = labels[TARGETS[kind]].to_numpy(float), labels["patient_id"].to_numpy(str)
    present = np.ones(x.shape[:2], bool)
    inputs = torch.from_numpy(modality.normalise(x, present)), torch.from_numpy(present)

    def score(network):
        with torch.no_grad():
            parts = zip(*(part.split(50) for part in inputs))
            z = torch.cat([network(*part).pooled for part in parts]).numpy()
        return float(macro(auroc, y[200:], probe(z[:200], y[:200], z[200:], people[:200])))

    torch.manual_seed(0)
    untrained = score(build(bundle.config["backbone"]).eval())
    assert score(bundle.build()) > untrained + 0.25 * (1 - untrained)
