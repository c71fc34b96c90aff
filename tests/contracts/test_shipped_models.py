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
from medfm.synthetic.ct_corpus import ct_volumes
from medfm.types import Volume

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


WITH_WEIGHTS = [n for n in MODELS if load_bundle(MODELS[n]).has_weights]


@pytest.mark.parametrize("name", [n for n in WITH_WEIGHTS if load_bundle(MODELS[n]).card.modality in RECORDS])
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


@pytest.mark.parametrize("name", [n for n in WITH_WEIGHTS if load_bundle(MODELS[n]).card.method == "voco"])
def test_a_network_of_voco_tells_where_in_plane_a_crop_was_cut_in_patients_it_has_not_seen(name):
    """Ridge regression of a crop's place from the frozen embedding, 8 phantoms to fit and 8 to score. Height is not asked of it:
    VoCo's base crops divide the plane alone."""
    bundle = load_bundle(MODELS[name])
    modality = bundle.modality()
    scans, _ = ct_volumes(16, seed=424_242, spacing=modality.spacing)
    rng = np.random.default_rng(0)
    crops, places, people = [], [], []
    for person, scan in enumerate(scans):
        x = modality.place(Volume(scan.x, scan.affine, "HU", "synthetic")).sample.x
        room = np.array(x.shape[1:]) - modality.size
        for origin in rng.integers(0, room + 1, (12, 3)):
            crops.append(x[(slice(None), *(slice(o, o + n) for o, n in zip(origin, modality.size)))])
            places.append((origin / room)[:2])
            people.append(person)
    y, fit = np.array(places), np.array(people) < 8
    inputs = torch.from_numpy(modality.normalise(np.stack(crops), np.ones((len(crops), 1), bool)))

    def score(network):
        with torch.no_grad():
            z = torch.cat([network(part).pooled for part in inputs.split(48)]).numpy()
        z = (z - z[fit].mean(0)) / (z[fit].std(0) + 1e-6)
        z = np.c_[z, np.ones(len(z))]
        weights = np.linalg.solve(z[fit].T @ z[fit] + 30 * np.eye(z.shape[1]), z[fit].T @ y[fit])
        return 1 - float(((y[~fit] - z[~fit] @ weights) ** 2).mean() / y[~fit].var(0).mean())

    torch.manual_seed(0)
    untrained = score(build(bundle.config["backbone"]).eval())
    pretrained = score(bundle.build())
    assert pretrained > 0.35 and pretrained > untrained + 0.3
