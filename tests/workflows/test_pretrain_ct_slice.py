"""CT slices through the workflows on tiny networks: each recipe from phantoms to bundle and report, and a site's volumes."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest

from medfm.config.load import resolve_finetune, resolve_pretrain
from medfm.data.image_store import ingest_images
from medfm.data.manifest import Manifest
from medfm.data.splits import patient_folds
from medfm.hub.bundle import load_bundle
from medfm.modalities.ct import CT
from medfm.modalities.ct_slice import CTSlice
from medfm.synthetic.corpus import write_corpus
from medfm.workflows import callbacks, sources
from medfm.workflows.finetune import finetune
from medfm.workflows.pretrain import pretrain
from medfm.workflows.probe import probe
from medfm.workflows.slices import slices

TINY = [
    "data.synthetic.patients=4",
    "modality.size=[32,32]",
    "modality.spacing=12",
    "modality.every=16",
    "trainer.batch_size=4",
    "trainer.max_seconds=null",
    "trainer.steps=3",
    "trainer.log_every=1",
    "probe.patients=0",
    "output.publish=false",
]
OWN = {
    "spark": ["modality.size=[64,64]", "modality.spacing=6", "method.decoder_dim=16"],
    "moco": ["method.projector=[8,4]", "method.predictor=[8,4]"],
}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    os.environ["MEDFM_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    made = {}
    for method, own in OWN.items():
        config = resolve_pretrain(
            "ct_slice",
            method=method,
            preset="quick",
            flags={"output.dir": str(root / method)},
            overrides=[*TINY, *own],
        )
        made[method] = pretrain(config, progress=False)
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A table of slices of six volumes, of which patient 1 has two."""
    folder = tmp_path_factory.mktemp("site")
    table = write_corpus("ct", 6, folder, seed=3, spacing=10.0, field="abdomen")
    frame = pd.read_csv(table)
    frame.loc[frame.index[1], "patient_id"] = frame["patient_id"][0]
    frame.to_csv(table, index=False)
    slices(table, folder / "slices.csv", mask="label", every=20, progress=False)
    return folder / "slices.csv"


@pytest.mark.parametrize("method", OWN)
def test_a_recipe_leaves_a_backbone_for_slices_and_a_report(runs, method):
    run = runs[method]
    bundle = load_bundle(run.bundle)
    assert bundle.card.modality == "ct_slice" and bundle.card.simulated_only
    assert bundle.card.id == f"ct_slice-{method}-regnetx-002-sim"
    assert "-175 to 250 HU and -1000 to 400 HU" in bundle.card.preprocessing
    assert bundle.config["backbone"]["in_channels"] == 2
    rows = callbacks.read_metrics(run.path / "metrics.csv")
    assert len(rows) == 3 and all(np.isfinite(float(r["loss"])) for r in rows)
    html = run.report.read_text(encoding="utf-8")
    assert "simulated CT slice data" in html and "--target has_spleen" in run.next_command
    assert {"spark": "Parts of each record were hidden", "moco": "two views of each"}[method] in html
    (source,) = run.results["composition"]
    assert source["patients"] == 4
    assert bool(source["notes"]) == (method == "moco")  # contrastive methods alone leave look-alikes out


def test_simulated_slices_say_what_they_show_and_nothing_of_the_rest_of_the_scan(tmp_path):
    config = resolve_pretrain("ct_slice", preset="quick", overrides=[*TINY, "modality.every=40"])
    modality = CTSlice(**config.modality.model_dump(exclude={"name"}))
    store = sources.synthetic_store(config.data.synthetic, modality, tmp_path, 1, False)
    labels = store.labels
    assert len(labels) == len(store) and labels["volume"].nunique() == 4
    assert [
        c for c in labels if c not in ("record", "patient_id", "volume") and not c.startswith("has_")
    ] == []
    for _, scan in labels.groupby("volume"):
        place = np.arange(len(scan)) / len(scan)
        lungs, kidneys = (scan[c].to_numpy() == 1 for c in ("has_lung_left", "has_kidney_left"))
        assert 0 < lungs.mean() < 1 and 0 < kidneys.mean() < 1
        assert place[lungs].mean() > place[kidneys].mean()  # counted from the feet


def test_a_table_of_slices_is_read_volume_by_volume(site, tmp_path, monkeypatch):
    read, opened = CT.open, []
    monkeypatch.setattr(CT, "open", lambda self, path: opened.append(str(path)) or read(self, path))
    manifest = Manifest.from_table(site)
    store = ingest_images(manifest, CTSlice(size=(16, 16), spacing=20.0), tmp_path)
    table = pd.read_csv(site)
    assert len(store) == len(table) > 40 and store.failed == []
    assert len(opened) == len(set(opened)) == table["volume"].nunique() == 6


def test_probe_and_finetuning_keep_all_slices_of_a_patient_together(runs, site, tmp_path, monkeypatch):
    table = pd.read_csv(site)
    assert table["patient_id"].nunique() == 5
    parted = []

    def spy(y, patients, folds, *rest, **options):
        tests = patient_folds(y, patients, folds, *rest, **options)
        parted.extend((set(patients[t]), set(np.delete(patients, t))) for t in tests)
        return tests

    monkeypatch.setattr("medfm.workflows.probe.patient_folds", spy)
    ref = str(runs["moco"].path)
    results = probe(site, ref, ["has_kidney_left"], folds=2, repeats=1, bootstrap=0, progress=False)
    assert (results["patients"], results["records"]) == (5, len(table)) and results["patients_known"]
    assert len(parted) >= 4 and all(test and train and not test & train for test, train in parted)
    flags = {
        "finetune.table": str(site),
        "finetune.backbone": ref,
        "finetune.target": ["has_kidney_left"],
        "finetune.strategy": "linear-probe",
        "finetune.folds": 2,
        "finetune.bootstrap": 0,
        "output.dir": str(tmp_path / "tuned"),
    }
    run = finetune(resolve_finetune(None, flags, ["finetune.repeats=1"]), progress=False)
    told = pd.read_csv(next(run.path.rglob("predictions.csv")))
    assert told.groupby("patient")["fold"].nunique().max() == 1 and len(told) == len(table)
