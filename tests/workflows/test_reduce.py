"""``data.reduce``: which pictures a pretraining run draws from, what it says of that, and when it is on."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from xray_pictures import chest

from medfm.config.load import resolve_pretrain
from medfm.config.methods import METHODS
from medfm.config.run import RunConfig
from medfm.modalities.xray import Xray
from medfm.pretraining.mae import MAE
from medfm.types import ConfigError
from medfm.workflows.pretrain import _mixture, pretrain
from medfm.workflows.pretrain_run import Pretraining
from medfm.workflows.run_folder import RunFolder
from medfm.workflows.sources import open_sources

LOG = logging.getLogger("medfm.run")
TINY = [
    "modality.size=[32,32]",
    "backbone.size=null",
    "backbone.dim=16",
    "backbone.depth=1",
    "backbone.heads=2",
    "backbone.patch=[8,8]",
    "method.decoder_dim=16",
    "method.decoder_depth=1",
    "method.decoder_heads=2",
    "data.synthetic.patients=4",
    "data.synthetic.records_per_patient=3",
    "trainer.batch_size=4",
    "trainer.max_seconds=null",
    "trainer.steps=2",
    "probe.patients=0",
]


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Five patients with two films, the second one a pixel to the side; the last patient's film is the first one's."""
    rows = []
    for i in range(5):
        spots = np.random.default_rng(i % 4).random((6, 5))
        grey = 0.6 * chest(150, 120, i % 4) + 0.4 * np.kron(spots, np.ones((25, 24)))
        for k in range(2 if i < 4 else 1):
            name = f"{i}-{k}.png"
            Image.fromarray(np.rint(np.roll(grey, 2 * k, 1) * 255).astype(np.uint8)).save(tmp_path / name)
            rows.append({"path": name, "patient_id": f"p{i}", "effusion": k})
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def config(*more: str, modality: str = "xray", method: str | None = None, **flags: object) -> RunConfig:
    overrides = [*TINY, *more] if modality == "xray" else list(more)
    return resolve_pretrain(modality, method=method, preset="quick", flags=flags, overrides=overrides)


def test_the_rows_of_files_are_restricted_and_it_is_said(films, tmp_path, caplog):
    run = pretrain(config("data.reduce=hash", **{"data.sources": [str(films)], "output.dir": str(tmp_path / "run")}),
                   progress=False)  # fmt: skip
    (source,) = run.results["composition"]
    assert source["records"] == 4 and source["patients"] == 4
    assert "reduced 9 to 4 pictures" in source["notes"][-1]
    assert "reduced 9 to 4 pictures" in (run.path / "train.log").read_text()
    assert "reduced 9 to 4 pictures" in run.report.read_text(encoding="utf-8")
    assert json.loads((run.path / "results.json").read_text())["composition"][0]["records"] == 4
    assert "reduce: hash" in (run.path / "config.yaml").read_text()


def test_only_kept_pictures_are_drawn(films, tmp_path):
    settings = config("data.reduce=hash", **{"data.sources": [str(films)]})
    run = Pretraining(settings, RunFolder(tmp_path), LOG, False)
    run.modality = Xray(size=(32, 32))
    run.sources = open_sources(settings, run.modality, LOG, show=False)
    assert run.sources[0].rows.tolist() == [0, 2, 4, 6]  # labels have no say here
    _, rows = _mixture(run).draw(0, 0, 40)
    assert sorted(set(rows.tolist())) == [0, 2, 4, 6]
    (again,) = open_sources(settings, run.modality, LOG, show=False)
    assert again.rows.tolist() == [0, 2, 4, 6], "a resumed run draws from the same"


def test_auto_is_what_the_method_says(films, monkeypatch):
    flags = {"data.sources": [str(films)]}

    def rows(reduce: str, reduction: str) -> int:
        opened = open_sources(
            config(f"data.reduce={reduce}", **flags), Xray(size=(32, 32)), LOG, False, reduction
        )
        return len(opened[0].rows)

    assert [rows("auto", "none"), rows("auto", "hash"), rows("none", "hash"), rows("hash", "none")] == [
        9,
        4,
        9,
        4,
    ]
    assert config(**flags).data.reduce == "auto"
    said = {name: entry.load().reduction for name, entry in METHODS.items()}
    assert (
        set(said.values()) <= {"none", "hash"} and said["mae"] == said["spark"] == said["ecg_jepa"] == "none"
    )


def test_the_method_is_asked(films, tmp_path, monkeypatch):
    def opened(config, modality, log, show, reduction):
        raise ConfigError(f"reduction {reduction}")

    monkeypatch.setattr("medfm.workflows.sources.open_sources", opened)
    monkeypatch.setattr(MAE, "reduction", "hash")
    with pytest.raises(ConfigError, match="reduction hash"):
        pretrain(config(**{"output.dir": str(tmp_path / "run")}), progress=False)


def test_a_simulated_corpus_keeps_a_film_of_every_patient():
    (source,) = open_sources(config("data.reduce=hash"), Xray(size=(32, 32)), LOG, show=False)
    kept = [source.patients[r] for r in source.rows]
    assert len(source.store) == 12 > len(kept) and set(kept) == set(source.patients)
    assert source.simulated and len(set(kept)) == 4


def test_signals_are_not_compared(tmp_path, monkeypatch):
    def never(*_, **__):
        pytest.fail("records were read for nothing")

    monkeypatch.setattr("medfm.workflows.sources.synthetic_store", never)
    ecg = config("data.reduce=hash", modality="ecg", **{"output.dir": str(tmp_path / "run")})
    with pytest.raises(ConfigError, match=r"data\.reduce=hash compares pictures, and these are ECGs"):
        pretrain(ecg, progress=False)
    with pytest.raises(ConfigError, match=r"data\.reduce"):
        config("data.reduce=some")


def test_signals_are_never_reduced_by_a_method(monkeypatch):
    made = config("data.synthetic.patients=3", modality="ecg")
    monkeypatch.setattr("medfm.workflows.sources.looks", lambda *_: pytest.fail("signals were compared"))
    from medfm.config.modalities import MODALITIES

    modality = MODALITIES["ecg"].load()(fs=100, seconds=4)
    (source,) = open_sources(made, modality, LOG, False, "hash")
    assert len(source.rows) == 3
