"""probe, embed and predict: what they write, that they agree with the network, and what they refuse."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from site_files import make_backbone, make_site

from medfm.hub.bundle import load_bundle
from medfm.types import ConfigError, MedfmError
from medfm.workflows.embed import embed
from medfm.workflows.predict import predict
from medfm.workflows.probe import probe


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("site")
    return make_site(folder / "records", 16), make_backbone(folder / "backbone")


def test_probe_scores_both_probes_beside_random_initialisation(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    results = probe(
        site[0], str(site[1]), ["y"], folds=3, bootstrap=50, output=tmp_path / "probe.json", progress=False
    )
    named = [(row["backbone"], row["probe"]) for row in results["rows"]]
    assert named[:2] == [(str(site[1]), "prototypes"), (str(site[1]), "logistic regression")]
    assert named[2:] == [
        ("mean, variance, heart rate", "logistic regression"),
        ("classical features", "logistic regression"),
    ]
    for row in results["rows"]:
        b = row["random_initialisation"]  # where it is perfect there is no gap to close
        assert row["gap_closed"] == (None if b == 1 else pytest.approx((row["auroc"] - b) / (1 - b)))
    for row in results["rows"]:
        assert 0 <= row["interval"][0] <= row["auroc"] <= row["interval"][1] <= 1
        assert row["difference"] == pytest.approx(row["auroc"] - row["random_initialisation"])
    assert results["rows"][1]["auroc"] > 0.8  # the rate of the waves is plain even to a random network
    assert json.loads((tmp_path / "probe.json").read_text())["rows"] == results["rows"]
    both = probe(site[0], str(site[1]), ["y", "partly"], folds=2, bootstrap=0, progress=False)
    assert [r["target"] for r in both["by_target"]] == ["y", "partly"] * 4


def test_probe_of_all_models_takes_those_that_have_weights(site: tuple[Path, Path]) -> None:
    from medfm import paths
    from medfm.hub.folder import FolderStore

    FolderStore(paths.hub()).publish(site[1], "tiny-sim")
    results = probe(site[0], "all", ["y"], folds=2, bootstrap=0, progress=False)
    named = {row["backbone"] for row in results["rows"]}
    assert {"tiny-sim", "ecg-jepa-xs-sim"} <= named
    assert "xray-spark-xs-sim" not in named, "it reads no ECG"


def test_embeddings_are_the_networks_and_say_whose_they_are(site: tuple[Path, Path], tmp_path: Path) -> None:
    frame = pd.read_parquet(embed(site[0], str(site[1]), tmp_path / "z.parquet", progress=False))
    assert list(frame.columns) == ["record", "patient", "path", *[f"e{i}" for i in range(16)]]
    assert frame["patient"].tolist() == [f"p{i:03d}" for i in range(16)]
    bundle = load_bundle(site[1])
    sample = bundle.modality().prepare(bundle.modality().read(frame["path"][3]))
    with torch.no_grad():
        expected = bundle.build()(
            torch.from_numpy(sample.x)[None], torch.from_numpy(sample.present)[None]
        ).pooled.numpy()
    # the store keeps int16 steps of each lead's range
    np.testing.assert_allclose(frame.iloc[3, 3:].to_numpy(float), expected[0], atol=2e-3)
    with np.load(
        embed(site[0].parent, str(site[1]), tmp_path / "z.npz", pool="mean-std", progress=False),
        allow_pickle=False,
    ) as arrays:
        assert arrays["embedding"].shape == (16, 32) and set(arrays["patient"]) == {""}
    one = pd.read_csv(embed(frame["path"][3], str(site[1]), tmp_path / "one.csv", progress=False))
    np.testing.assert_allclose(one.iloc[0, 3:].to_numpy(float), frame.iloc[3, 3:].to_numpy(float), atol=1e-5)


def test_what_could_not_be_read_is_listed(site: tuple[Path, Path], tmp_path: Path) -> None:
    table = pd.read_csv(site[0])
    extra = pd.DataFrame([{"path": "absent.hea", "patient_id": "px"}])
    path = site[0].with_name("more.csv")
    pd.concat([table, extra]).to_csv(path, index=False)
    written = embed(path, str(site[1]), tmp_path / "z.csv", progress=False)
    failed = pd.read_csv(f"{written}.failed.csv")
    assert len(pd.read_csv(written)) == 16 and failed["path"].tolist()[0].endswith("absent.hea")


def test_predictions_keep_a_row_for_every_record(
    site: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medfm import finetune
    from medfm.workflows import finetune_report

    monkeypatch.setattr(finetune_report, "write", lambda *_: None)
    done = finetune(
        site[0],
        backbone=str(site[1]),
        target="kind",
        strategy="linear-probe",
        folds=2,
        repeats=1,
        output=tmp_path / "run",
        progress=False,
        finetune__bootstrap=0,
        finetune__baseline=False,
        output__publish=False,
    )
    new = make_site(tmp_path / "new", 4, seconds=9)
    table = pd.concat([pd.read_csv(new), pd.DataFrame([{"path": "gone.hea", "patient_id": "px"}])])
    table.drop(columns="patient_id").to_csv(new, index=False)
    frame = pd.read_csv(predict(new, done.path, tmp_path / "p.csv", progress=False))
    assert len(frame) == 5 and frame["error"].notna().tolist() == [False] * 4 + [True]
    assert frame["patient"].isna().all()
    p = frame.loc[:3, ["p_a", "p_b", "p_c"]].to_numpy()
    assert [list("abc")[i] for i in p.argmax(1)] == frame["predicted"].tolist()[:4]


def test_wrong_calls_have_their_sentence(site: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.parquet or \.csv or \.npz"):
        embed(site[0], str(site[1]), tmp_path / "z.xls", progress=False)
    (tmp_path / "z.csv").write_text("kept")
    with pytest.raises(ConfigError, match="exists already"):
        embed(site[0], str(site[1]), tmp_path / "z.csv", progress=False)
    assert (tmp_path / "z.csv").read_text() == "kept"
    with pytest.raises(MedfmError, match="without a head"):
        predict(site[0], site[1], tmp_path / "p.csv", progress=False)
    with pytest.raises(MedfmError, match="nowhere"):
        embed(tmp_path / "nowhere", str(site[1]), tmp_path / "q.csv", progress=False)


def test_a_blank_patient_is_no_reason_to_refuse_embeddings(site: tuple[Path, Path], tmp_path: Path) -> None:
    frame = pd.read_csv(site[0]).head(3)
    frame.loc[1, "patient_id"] = None
    path = site[0].with_name("blank.csv")
    frame.to_csv(path, index=False)
    written = pd.read_csv(embed(path, str(site[1]), tmp_path / "z.csv", progress=False))
    assert written["patient"].fillna("").tolist() == ["p000", "", "p002"]


def test_an_output_that_cannot_be_written_is_refused_before_the_work_and_leaves_nothing(
    site: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medfm.workflows import embed as module

    with monkeypatch.context() as patch, pytest.raises(MedfmError, match="read-only"):
        patch.setattr(module.os, "access", lambda *_: False)
        patch.setattr(module, "load_bundle", lambda *_: pytest.fail("the work was begun"))
        embed(site[0], str(site[1]), tmp_path / "z.csv", progress=False)

    def full(self: pd.DataFrame, path: Path, **_: object) -> None:
        Path(path).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(MedfmError, match=r"Free space.*command again"):
        patch.setattr(pd.DataFrame, "to_csv", full)
        embed(site[0], str(site[1]), tmp_path / "z.csv", progress=False)
    assert not list(tmp_path.iterdir())


def test_of_a_single_file_the_reason_is_its_own(site: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("")
    with pytest.raises(MedfmError, match=r"^.*e\.csv is empty"):
        embed(tmp_path / "e.csv", str(site[1]), tmp_path / "z.csv", progress=False)


def test_probe_keeps_a_file_that_exists_and_replaces_it_when_told(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    words = (site[0], str(site[1]), ["y"])
    options: dict[str, Any] = {"folds": 2, "repeats": 1, "bootstrap": 0, "progress": False}
    (tmp_path / "p.json").write_text("mine")
    with pytest.raises(MedfmError, match="exists already"):
        probe(*words, **options, output=tmp_path / "p.json")
    assert (tmp_path / "p.json").read_text() == "mine"
    results = probe(*words, **options, output=tmp_path / "p.json", overwrite=True)
    assert json.loads((tmp_path / "p.json").read_text())["rows"] == results["rows"]
