"""Radiographs through the workflows on tiny networks: pretraining, resuming, files of a site, and what a backbone is for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch

import medfm
from medfm.config.load import resolve_finetune, resolve_pretrain
from medfm.config.run import RunConfig
from medfm.hub.bundle import load_bundle
from medfm.synthetic.corpus import write_corpus
from medfm.types import ConfigError, MedfmError
from medfm.workflows import callbacks
from medfm.workflows.embed import embed
from medfm.workflows.finetune import finetune
from medfm.workflows.predict import predict
from medfm.workflows.pretrain import pretrain
from medfm.workflows.probe import probe

SHARED = [
    "data.synthetic.patients=10",
    "data.synthetic.records_per_patient=1",
    "trainer.batch_size=4",
    "trainer.max_seconds=null",
    "trainer.checkpoint_every=4",
    "trainer.log_every=1",
    "probe.patients=0",
]
MAE = [
    "modality.size=[32,32]",
    "backbone.size=null",
    "backbone.dim=16",
    "backbone.depth=2",
    "backbone.heads=2",
    "backbone.patch=[8,8]",
    "method.decoder_dim=16",
    "method.decoder_depth=1",
    "method.decoder_heads=2",
    "trainer.steps=10",
]


def tiny(output: Path, *more: str, **flags: object) -> RunConfig:
    return resolve_pretrain(
        "xray", preset="quick", flags={"output.dir": str(output), **flags}, overrides=[*SHARED, *MAE, *more]
    )


def same(a: Path, b: Path) -> bool:
    one, two = load_bundle(a / "bundle").state, load_bundle(b / "bundle").state
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One uninterrupted run, with a store and hub of its own."""
    root = tmp_path_factory.mktemp("whole")
    os.environ["MEDFM_HOME"] = str(root / "home")
    return pretrain(tiny(root / "run", "probe.patients=40"), progress=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Eighteen patients as DICOM files, every other one with an effusion as far as the table goes; one file is broken."""
    folder = tmp_path_factory.mktemp("site")
    table = write_corpus("xray", 18, folder, seed=5, size=48)
    frame = pd.read_csv(table)
    frame["effusion"] = np.arange(len(frame)) % 2
    frame.to_csv(table, index=False)
    (folder / frame["path"][3]).write_bytes(b"\0" * 128 + b"DICM and nothing else")
    return table


def test_a_run_on_the_simulated_corpus_leaves_a_backbone_and_a_report(whole):
    bundle = load_bundle(whole.bundle)
    assert bundle.card.id == "xray-mae-d16-sim" and bundle.card.simulated_only
    assert "32 x 32 pixels" in bundle.card.preprocessing and "ViT, rank 2" in bundle.card.architecture
    settings = bundle.modality().settings()
    assert settings["size"] == [32, 32] and 0.05 < settings["std"][0] < 0.5
    rows = callbacks.read_metrics(whole.path / "metrics.csv")
    assert [int(r["step"]) for r in rows] == list(range(1, 11)) and "momentum" not in rows[0]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    html = whole.report.read_text(encoding="utf-8")
    assert "guessed their values" in html and "not asked for" not in html and "not a medical device" in html
    assert (whole.path / "figures" / "mask.png").is_file()
    assert "2111.06377" in (whole.path / "cite.bib").read_text()
    assert "synthesize xray" in whole.next_command and "--target effusion" in whole.next_command
    targets = whole.results["probe"]["targets"]
    assert "effusion" in targets and not any(t.startswith(("cond_", "truth_")) for t in targets)


def test_resuming_gives_the_same_weights_and_metrics(whole, tmp_path, monkeypatch):
    def interrupt(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 7:
            raise KeyboardInterrupt

    config = tiny(tmp_path / "run", "probe.patients=40")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(callbacks.FiniteLoss, "on_train_batch_end", interrupt)
        pretrain(config, progress=False)
    run = pretrain(config, resume=True, progress=False)
    assert same(whole.path, run.path)
    assert (run.path / "metrics.csv").read_text() == (whole.path / "metrics.csv").read_text()


def test_spark_on_a_convolutional_network(tmp_path):
    config = resolve_pretrain(
        "xray",
        method="spark",
        preset="quick",
        flags={"output.dir": str(tmp_path / "run")},
        overrides=[*SHARED, "modality.size=[64,64]", "method.decoder_dim=16", "trainer.steps=2"],
    )
    run = pretrain(config, progress=False)
    bundle = load_bundle(run.bundle)
    assert "not asked for" in run.report.read_text(encoding="utf-8")
    assert bundle.card.id == "xray-spark-regnetx-002-sim" and "regnetx_002" in bundle.card.architecture
    assert (
        bundle.config["backbone"]["in_channels"] == 1 and "2301.03580" in (run.path / "cite.bib").read_text()
    )
    assert medfm.load(run.bundle).embed(np.random.default_rng(0).random((2, 80, 70))).shape == (2, 368)


def test_a_folder_of_files_and_a_mixture_set_bad_files_aside(site, tmp_path, caplog):
    folder = tmp_path / "films"
    folder.mkdir()
    for path in (site.parent / "records").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    grey = np.random.default_rng(0).integers(0, 255, (60, 50), np.uint8)
    PIL.Image.fromarray(grey).save(folder / "film.png")
    run = pretrain(
        tiny(tmp_path / "run", **{"data.sources": ["synthetic@0.75", f"{folder}@0.25"]}), progress=False
    )
    simulated, files = run.results["composition"]
    assert simulated["share"] == 0.75 and simulated["simulated"]
    assert (files["records"], files["patients"], files["set_aside"]) == (18, 18, 1)
    card = load_bundle(run.bundle).card
    assert not card.simulated_only and "1 unreadable set aside" in card.data
    log = (run.path / "train.log").read_text()
    assert "set aside: row 6 (r-" in log and ".dcm" not in log and caplog.text.count(".dcm") >= 1
    assert files["name"] == "site-xray" and "films" not in log


def test_continuing_keeps_architecture_and_preprocessing(whole, tmp_path):
    run = pretrain(tiny(tmp_path / "run", "backbone.dim=32", init=str(whole.path)), progress=False)
    before, after = load_bundle(whole.bundle), load_bundle(run.bundle)
    assert after.config["backbone"] == before.config["backbone"]
    assert after.modality().settings() == before.modality().settings()


def test_embeddings_of_files_arrays_and_tables_agree(whole, site, tmp_path):
    frame = pd.read_parquet(embed(site, str(whole.path), tmp_path / "z.parquet", progress=False))
    table = pd.read_csv(site).drop(index=3)
    assert frame["patient"].tolist() == table["patient_id"].tolist()
    failed = pd.read_csv(tmp_path / "z.parquet.failed.csv")
    assert len(failed) == 1 and failed["path"][0].endswith(pd.read_csv(site)["path"][3])
    model = medfm.load(whole.bundle)
    z = model.embed(site)
    assert np.isnan(z[3]).all() and z.shape == (18, 16)
    # the store keeps int16 steps of each picture's range
    np.testing.assert_allclose(np.delete(z, 3, 0), frame.iloc[:, 3:].to_numpy(float), atol=2e-3)
    modality = model.modality
    sample = modality.prepare(modality.read(frame["path"][0]))
    with torch.no_grad():
        features = model.backbone(torch.from_numpy(sample.x)[None], torch.from_numpy(sample.present)[None])
    np.testing.assert_allclose(z[0], features.pooled[0], atol=1e-5)
    grey = np.random.default_rng(0).random((3, 50, 40))
    np.testing.assert_array_equal(model.embed(grey), model.embed(grey[:, None]))
    assert model.embed(grey[0], pool="tokens").shape == (1, 16, 16)
    with pytest.raises(MedfmError, match="sampling rate"):
        model.embed(grey, fs=500)
    with pytest.raises(MedfmError, match="1 or 3 channels"):
        model.embed(np.stack([grey, grey], axis=1))


def test_probe_finetune_and_predict(whole, site, tmp_path):
    results = probe(site, str(whole.path), ["effusion"], folds=2, repeats=1, bootstrap=0, progress=False)
    assert [row["backbone"] for row in results["rows"]][2:] == [
        "mean and deviation of the grey",
        "the picture at 16 x 16 pixels",
    ]
    assert any("could not be read" in note for note in results["notes"])
    flags = {
        "finetune.table": str(site),
        "finetune.backbone": str(whole.path),
        "finetune.target": ["effusion"],
        "finetune.strategy": "linear-probe",
        "finetune.folds": 2,
        "finetune.bootstrap": 0,
        "output.dir": str(tmp_path / "tuned"),
    }
    with pytest.raises(ConfigError, match="for signals"):
        finetune(resolve_finetune(None, {**flags, "finetune.crop_seconds": 2}, []), progress=False)
    run = finetune(resolve_finetune(None, flags, ["finetune.repeats=1"]), progress=False)
    told = pd.read_csv(predict(site, str(run.path), tmp_path / "p.csv", progress=False))
    assert told["p_effusion"].notna().sum() == 17 and told["error"].notna().sum() == 1
    direct = medfm.load(run.bundle).predict(site)
    known = told["p_effusion"].dropna().to_numpy()
    np.testing.assert_allclose(direct["p_effusion"].dropna(), known, atol=2e-3)


def test_one_step_of_full_finetuning_draws_augmented_pictures(whole, site, tmp_path):
    flags = {
        "finetune.table": str(site),
        "finetune.backbone": str(whole.path),
        "finetune.target": ["effusion"],
        "finetune.strategy": {"name": "full", "epochs": 1},
        "finetune.augment": ["zoom"],
        "finetune.folds": 2,
        "finetune.bootstrap": 0,
        "output.dir": str(tmp_path / "tuned"),
    }
    run = finetune(resolve_finetune(None, flags, ["finetune.baseline=false"]), progress=False)
    assert load_bundle(run.bundle).head["window"] == 0
