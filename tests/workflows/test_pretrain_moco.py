"""MoCo through the workflows on tiny networks: views from the loader to the report, and a queue that is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medfm.config.load import resolve_pretrain
from medfm.config.run import RunConfig
from medfm.hub.bundle import load_bundle
from medfm.types import MedfmError
from medfm.workflows import callbacks
from medfm.workflows.pretrain import pretrain

SHARED = [
    "data.synthetic.patients=10",
    "backbone.size=null",
    "backbone.dim=16",
    "backbone.depth=2",
    "backbone.heads=2",
    "method.projector=[8,4]",
    "trainer.batch_size=4",
    "trainer.max_seconds=null",
    "trainer.checkpoint_every=2",
    "trainer.log_every=1",
    "probe.patients=0",
    "output.publish=false",
]
XRAY = ["modality.size=[32,32]", "backbone.patch=[8,8]", "data.synthetic.records_per_patient=1"]
V2 = ["method.predictor=[]", "method.queue=24", "trainer.accumulate=2"]


def tiny(output: Path, *more: str, modality: str = "xray") -> RunConfig:
    return resolve_pretrain(
        modality, method="moco", flags={"output.dir": str(output)}, overrides=[*SHARED, *more]
    )


def test_radiographs_without_a_queue(tmp_path):
    run = pretrain(tiny(tmp_path / "run", *XRAY, "method.predictor=[8,4]", "trainer.steps=3"), progress=False)
    bundle = load_bundle(run.bundle)
    assert bundle.card.id == "xray-moco-d16-sim" and not any("key_" in name for name in bundle.state)
    rows = callbacks.read_metrics(run.path / "metrics.csv")
    own = {"positive_similarity", "negative_similarity", "own_key_found", "momentum"}
    assert len(rows) == 3 and all(rows[0][name] for name in own)
    assert (run.path / "figures" / "views.png").is_file()
    assert not (run.path / "figures" / "mask.png").exists()
    html = run.report.read_text(encoding="utf-8")
    assert "What the model had to tell apart" in html and "Pictures and two views of each" in html
    cited = (run.path / "cite.bib").read_text()
    assert all(number in cited for number in ("2104.02057", "2003.04297", "2101.08482"))


def test_resuming_takes_up_the_queue(tmp_path, monkeypatch):
    def interrupt(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 3:
            raise KeyboardInterrupt

    def config(name):
        return tiny(tmp_path / name, *XRAY, *V2, "trainer.steps=5")

    whole = pretrain(config("whole"), progress=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(callbacks.FiniteLoss, "on_train_batch_end", interrupt)
        pretrain(config("part"), progress=False)
    part = pretrain(config("part"), resume=True, progress=False)
    assert (part.path / "metrics.csv").read_text() == (whole.path / "metrics.csv").read_text()
    one, two = (
        torch.load(r.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for r in (whole, part)
    )
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    # Five steps of two batches of four records, two keys each, through 24 places.
    assert int(one["place"]) == 5 * 2 * 8 % 24


def test_ecgs_and_augmentations_of_another_modality(tmp_path):
    ecg = ["modality.fs=50", "modality.seconds=4", "backbone.patch=[10]", "method.predictor=[8,4]"]
    run = pretrain(tiny(tmp_path / "run", *ecg, "trainer.steps=2", modality="ecg"), progress=False)
    assert load_bundle(run.bundle).card.id == "ecg-moco-d16-sim"
    assert "Two views of a record" in run.report.read_text(encoding="utf-8")
    wrong = tiny(tmp_path / "wrong", *ecg, "method.augment=[crop, gain]", modality="ecg")
    with pytest.raises(MedfmError, match=r"unknown ECG augmentation crop; known: .*gain"):
        pretrain(wrong, progress=False)
