"""CT through the workflows on tiny networks: each method from phantoms to bundle, report and card, and files of a site."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import medfm
from medfm.config.load import resolve_pretrain
from medfm.data.manifest import Manifest
from medfm.data.volume_store import ingest_volumes
from medfm.hub.bundle import load_bundle
from medfm.modalities.ct import CT
from medfm.synthetic.corpus import write_corpus
from medfm.types import ConfigError, MedfmError, Volume
from medfm.workflows import callbacks, finetune_worst
from medfm.workflows.embed import embed
from medfm.workflows.kinds import KINDS
from medfm.workflows.pretrain import pretrain
from medfm.workflows.volume_windows import VolumeRecords

SHARED = [
    "data.synthetic.patients=6",
    "modality.size=[16,16,16]",
    "modality.spacing=[12,12,12]",
    "trainer.batch_size=3",
    "trainer.max_seconds=null",
    "trainer.steps=3",
    "trainer.log_every=1",
    "probe.patients=0",
    "output.publish=false",
]
VIT = [
    "backbone.size=null",
    "backbone.dim=16",
    "backbone.depth=1",
    "backbone.heads=2",
    "backbone.patch=[8,8,8]",
]
CNN = ["backbone.size=null", "backbone.init_filters=8", "backbone.blocks_down=[1,1]"]
OWN = {
    "voco": ["method.projector=[8,8]", "method.grid=[2,2,1]", "modality.size=[8,8,8]", *CNN],
    "volume_fusion": ["method.zoom=[1,1]", "method.block=[2,4]", "backbone.size=null",
                      "backbone.features=[4,4,4,4,4,4]", "modality.size=[16,16,32]"],
    "mae": ["method.decoder_dim=16", "method.decoder_depth=1", "method.decoder_heads=2", *VIT],
    "spark": ["method.decoder_dim=8", *CNN],
}  # fmt: skip
PICTURE = {"voco": "positions", "volume_fusion": "fusion", "mae": "mask", "spark": "mask"}


def tiny(output, method, *more):
    return resolve_pretrain(
        "ct",
        method=method,
        preset="quick",
        flags={"output.dir": str(output)},
        overrides=[*SHARED, *OWN[method], *more],
    )


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    os.environ["MEDFM_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("method", OWN)
def test_a_method_leaves_a_bundle_a_report_and_a_card(tmp_path, method):
    run = pretrain(tiny(tmp_path / "run", method), progress=False)
    bundle = load_bundle(run.bundle)
    assert bundle.card.modality == "ct" and bundle.card.simulated_only
    assert "12 x 12 x 12 mm" in bundle.card.preprocessing
    assert (run.path / "figures" / f"{PICTURE[method]}.png").is_file()
    rows = callbacks.read_metrics(run.path / "metrics.csv")
    assert len(rows) == 3 and all(np.isfinite(float(r["loss"])) for r in rows)
    names = {"voco": ("position_correlation", "base_cosine"), "volume_fusion": ("fusion_dice",)}.get(
        method, ()
    )
    assert all(rows[-1][name] for name in names)
    html = run.report.read_text(encoding="utf-8")
    assert {"voco": "Where the model had to place a crop", "volume_fusion": "take apart"}.get(
        method, "guess"
    ) in html
    assert ("Reconstruction" in html) == (method in ("mae", "spark"))


def test_resuming_is_exact(tmp_path, monkeypatch):
    whole = pretrain(tiny(tmp_path / "whole", "voco", "trainer.checkpoint_every=2"), progress=False)

    def interrupt(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.FiniteLoss, "on_train_batch_end", interrupt)
    config = tiny(tmp_path / "broken", "voco", "trainer.checkpoint_every=2")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        pretrain(config, progress=False)
    monkeypatch.undo()
    again = pretrain(config, resume=True, progress=False)
    one, two = load_bundle(whole.bundle).state, load_bundle(again.bundle).state
    assert all(np.array_equal(one[k], two[k]) for k in one)


def test_a_run_that_learns_no_places_says_so(tmp_path):
    run = pretrain(tiny(tmp_path / "run", "voco", "optim.lr=1e-12"), progress=False)
    if "FLAT" in run.results["verdict"]:
        assert "FLAT: the position correlation" in run.report.read_text(encoding="utf-8")
        assert "FLAT" in load_bundle(run.bundle).card.limitations
    else:
        pytest.fail(f"a network that stays as it is was not called flat: {run.results['collapse']}")


@pytest.fixture(scope="module")
def site(tmp_path_factory, home):
    """Four patients as NIfTI, two of them with the wrong contents, and a backbone for them."""
    folder = tmp_path_factory.mktemp("site")
    table = write_corpus("ct", 5, folder, seed=3, spacing=12.0)
    paths = pd.read_csv(table)["path"]
    (folder / paths[1]).write_bytes(b"not a volume")
    backbone = pretrain(tiny(folder / "backbone", "mae"), progress=False)
    return table, str(backbone.path)


def test_files_of_a_site_are_embedded_and_a_bad_one_is_named(site, tmp_path):
    table, backbone = site
    written = embed(str(table), backbone=backbone, output=tmp_path / "z.csv", progress=False)
    frame = pd.read_csv(tmp_path / "z.csv")
    assert len(frame) == 4 and np.isfinite(frame.filter(regex=r"^e\d").to_numpy()).all()
    assert written is not None
    model = medfm.load(backbone)
    files = [str(table.parent / p) for p in pd.read_csv(table)["path"]]
    z = model.embed(files)
    assert z.shape == (5, 16) and np.isnan(z[1]).all() and np.isfinite(z[[0, 2, 3, 4]]).all()
    np.testing.assert_allclose(z[0], frame.filter(regex=r"^e\d").to_numpy()[0], rtol=1e-2, atol=1e-3)
    volume = model.modality.open(files[0])
    np.testing.assert_allclose(model.embed(volume)[0], z[0], rtol=1e-5, atol=1e-6)
    turned = Volume(volume.x[::-1], volume.affine @ np.array([[-1, 0, 0, volume.x.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "HU", "array")  # fmt: skip
    np.testing.assert_allclose(model.embed(turned)[0], z[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(MedfmError, match=r"give a medfm\.types\.Volume"):
        model.embed(np.zeros((8, 8, 8), np.float32))


def test_a_finding_is_learned_from_whole_volumes(site, tmp_path):
    table, backbone = site
    frame = pd.read_csv(table)
    frame["finding"] = [1, 0, 0, 0, 1]
    frame.to_csv(table, index=False)
    run = medfm.finetune(
        table,
        backbone=backbone,
        target="finding",
        strategy="lp-ft",
        folds=2,
        repeats=1,
        output=tmp_path / "run",
        progress=False,
        finetune__bootstrap=20,
        finetune__strategy__epochs=1,
        output__publish=False,
    )
    assert run.results["patients"] == 4
    assert "Grad-CAM" not in run.report.read_text(
        encoding="utf-8"
    )  # one tile's map would be shown beside a volume


def test_a_wrongly_ranked_volume_is_shown_whole_and_without_a_heat_map(site, tmp_path, monkeypatch):
    table, _ = site
    modality = CT(spacing=(12, 12, 12), size=(16, 16, 16))
    store = ingest_volumes(Manifest.from_table(table), modality, tmp_path)
    shapes, record = [], KINDS["ct"].record
    spy = replace(
        KINDS["ct"], record=lambda m, x, heat, cell: shapes.append(x.shape) or record(m, x, heat, cell)
    )
    monkeypatch.setitem(KINDS, "ct", spy)
    cohort = SimpleNamespace(rows=[2, 3], task=SimpleNamespace(classes=("finding",), kind="binary"))
    run = SimpleNamespace(modality=modality, records=VolumeRecords(store, modality), cohort=cohort)
    missed = finetune_worst.Error(1, 0, True, 0.1, None)
    _, _, caption = finetune_worst._picture(run, missed, None)
    assert shapes == [(1, *store.shapes[1])] and shapes[0] != (1, 16, 16, 16)
    assert "no heat map" in caption and "windows" not in caption
    assert finetune_worst.keep_heat(run, None, None, np.empty(0)) == {}


def test_pretraining_reads_the_files_of_a_site(site, tmp_path):
    table, _ = site
    config = tiny(tmp_path / "run", "spark")
    config.data.sources = [str(table.parent)]
    run = pretrain(config, progress=False)
    (source,) = run.results["composition"]
    assert source["records"] == 4 and source["set_aside"] == 1 and not source["simulated"]


def test_what_does_not_go_together_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match="signals"):
        pretrain(
            resolve_pretrain("ct", method="ecg_jepa", flags={"output.dir": str(tmp_path / "a")}),
            progress=False,
        )
    config = tiny(tmp_path / "b", "volume_fusion", "backbone.decoder=false")
    with pytest.raises(ConfigError, match=r"backbone\.decoder=true"):
        pretrain(config, progress=False)
    config = tiny(tmp_path / "c", "mae")
    config.data.reduce = "hash"
    with pytest.raises(ConfigError, match=r"data\.reduce=none"):
        pretrain(config, progress=False)
