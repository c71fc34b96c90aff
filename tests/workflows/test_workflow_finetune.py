"""Fine-tuning from files to bundle: what is written, that it resumes, chains and predicts, and every
refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from site_files import make_backbone, make_site

import medfm
from medfm.config.load import resolve_finetune
from medfm.hub.bundle import load_bundle
from medfm.types import ConfigError, MedfmError
from medfm.workflows import finetune_folds, finetune_report
from medfm.workflows.finetune import finetune
from medfm.workflows.predict import predict

QUICK = {"finetune.bootstrap": 50, "finetune.folds": 3, "output.publish": False}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("site")
    return make_site(folder / "records"), make_backbone(folder / "backbone")


def config(site: tuple[Path, Path], output: Path, strategy: str = "linear-probe", **more: Any) -> Any:
    flags = {
        **QUICK,
        "finetune.table": str(site[0]),
        "finetune.backbone": str(site[1]),
        "finetune.target": ["y"],
        "finetune.strategy.name": strategy,
        "finetune.repeats": 1,
        "output.dir": str(output),
        **more,
    }
    return resolve_finetune(flags=flags)


def run(site: tuple[Path, Path], output: Path, strategy: str = "linear-probe", **more: Any) -> Any:
    """Without the pictures, which cost more than everything else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_report, "write", lambda *_: None)
        return finetune(config(site, output, strategy, **more), progress=False)


def test_a_run_leaves_everything_the_contract_names(site: tuple[Path, Path], tmp_path: Path) -> None:
    done = finetune(config(site, tmp_path / "run", "lora", **{"finetune.strategy.epochs": 2}), progress=False)
    for name in ("config.yaml", "metrics.csv", "train.log", "results.json", "predictions.csv", "report.html"):
        assert (done.path / name).stat().st_size > 0, name
    for name in ("environment.txt", "cite.bib", "bundle/manifest.json", "bundle/adapter/adapter_config.json"):
        assert (done.path / name).is_file(), name
    results = json.loads((done.path / "results.json").read_text())
    assert results["records"] == results["patients"] == 24
    assert {"pretrained", "random", "difference"} <= set(results)
    assert "not a medical device" in (done.path / "report.html").read_text()
    table = pd.read_csv(done.path / "predictions.csv")
    assert list(table.columns) == ["row", "record", "patient", "fold", "y_y", "p_y", "p_random_y"]
    assert len(table) == 24 and table.groupby("patient")["fold"].nunique().max() == 1
    assert table["p_y"].between(0, 1).all()
    bundle = load_bundle(done.bundle)
    assert bundle.card.task == "binary" and bundle.card.parents[0].ref == "tiny-sim"
    assert not bundle.card.id.endswith("-sim")
    assert bundle.config["adapter"]["backbone_sha256"] == load_bundle(site[1]).weights_sha256


def test_predictions_of_the_run_equal_those_of_the_model_that_was_saved(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    """The bundle alone, loaded anew, on its own training table: the classes are told apart."""
    done = run(site, tmp_path / "run", "lp-ft", **{"finetune.strategy.epochs": 2, "finetune.baseline": False})
    written = pd.read_csv(predict(site[0], done.path, tmp_path / "p.csv", progress=False))
    assert list(written.columns) == ["record", "patient", "path", "p_y", "error"]
    truth = pd.read_csv(site[0])["y"]
    assert written["p_y"][truth == 1].mean() > written["p_y"][truth == 0].mean()
    assert "random" not in done.results and "difference" not in done.results


def test_a_fine_tuned_run_is_a_backbone(site: tuple[Path, Path], tmp_path: Path) -> None:
    more = {"finetune.strategy.epochs": 1, "finetune.baseline": False}
    first = run(site, tmp_path / "a", "full", **more)
    second = run((site[0], first.path), tmp_path / "b")
    assert load_bundle(second.bundle).card.parents[0].checkpoint == load_bundle(first.bundle).weights_sha256


def test_an_interrupted_run_takes_up_where_it_stopped(
    site: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(site, tmp_path / "whole", "full", **{"finetune.strategy.epochs": 2})
    real, calls = finetune_folds.fit, []

    def stops(*args: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **keywords)

    settings = config(site, tmp_path / "cut", "full", **{"finetune.strategy.epochs": 2})
    monkeypatch.setattr(finetune_folds, "fit", stops)
    monkeypatch.setattr(finetune_report, "write", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        finetune(settings, progress=False)
    kept = sorted(p.name for p in (tmp_path / "cut" / "checkpoints").glob("*.npz"))
    assert kept == ["pretrained-1-1.npz", "pretrained-1-2.npz"]
    finetune(settings, resume=True, progress=False)
    assert len(calls) == 3 + 4  # the fold that was cut, three of the other arm
    for name in ("predictions.csv", "metrics.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (whole.path / name).read_bytes()
    other = config(site, tmp_path / "cut", "lora")
    with pytest.raises(ConfigError, match=r"other settings.*finetune\.strategy"):
        finetune(other, resume=True, progress=False)
    with pytest.raises(ConfigError, match="exists already"):
        finetune(settings, progress=False)


def test_multiclass_multilabel_unknown_and_groups(site: tuple[Path, Path], tmp_path: Path) -> None:
    kinds = run(site, tmp_path / "kind", **{"finetune.target": ["kind"]})
    p = pd.read_csv(kinds.path / "predictions.csv")[["p_a", "p_b", "p_c"]]
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    several = run(site, tmp_path / "several", **{"finetune.target": ["y", "partly"]})
    table = pd.read_csv(several.path / "predictions.csv")
    assert len(table) == 24 and table["y_partly"].isna().sum() == 5
    assert several.results["pretrained"]["counts"]["unknown"]["partly"] == 5
    unknown = run(site, tmp_path / "unknown", **{"finetune.target": ["partly"]})
    assert unknown.results["records"] == 19 and any("no known target" in n for n in unknown.results["notes"])
    groups = run(site, tmp_path / "groups", **{"finetune.group": "site"})
    assert set(pd.read_csv(groups.path / "predictions.csv")["fold"]) == {"north", "south"}


def test_repeats_are_averaged_and_all_kept(site: tuple[Path, Path], tmp_path: Path) -> None:
    done = run(site, tmp_path / "run", **{"finetune.repeats": 2, "finetune.baseline": False})
    mean, each = (pd.read_csv(done.path / n) for n in ("predictions.csv", "predictions_repeats.csv"))
    assert len(each) == 2 * len(mean) == 48
    np.testing.assert_allclose(each.groupby("row")["p_y"].mean(), mean.set_index("row")["p_y"], atol=1e-5)


def test_no_patient_column_is_a_choice_that_marks_every_result(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    table = pd.read_csv(site[0]).drop(columns="patient_id")
    path = site[0].with_name("nobody.csv")
    table.to_csv(path, index=False)
    with pytest.raises(MedfmError, match="--patient none"):
        run((path, site[1]), tmp_path / "a")
    done = finetune(config((path, site[1]), tmp_path / "b", **{"finetune.patient": None}), progress=False)
    assert done.results["patients_known"] is False
    assert "Patients are not known" in done.results["verdict"]
    assert "Patients are not known" in (done.path / "report.html").read_text()
    assert "Patients were not known" in load_bundle(done.bundle).card.summary


def test_unreadable_files_are_set_aside_and_named_on_the_screen(
    site: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pd.read_csv(site[0])
    (site[0].parent / "broken.hea").write_text("broken 12 100 400\n")
    extra = {"path": "broken.hea", "patient_id": "px", "y": 1}
    missing = {"path": "nowhere.hea", "patient_id": "py", "y": 0}
    path = site[0].with_name("some.csv")
    pd.concat([table, pd.DataFrame([extra, missing])]).to_csv(path, index=False)
    done = run((path, site[1]), tmp_path / "run")
    assert done.results["records"] == 24 and [r["row"] for r in done.results["set_aside"]] == [26, 27]
    assert "broken.hea" in caplog.text and "nowhere.hea" in caplog.text
    log = (done.path / "train.log").read_text()
    assert "set aside: row 26 (r-" in log and "broken" not in log and "nowhere" not in log
    assert log.count("): no such file") == 1


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        (lambda t: t.assign(y=1), {}, "one class only"),
        (lambda t: t.head(2), {}, "2 patients cannot be split into 3 folds"),
        (lambda t: t.assign(y=[1] * 3 + [0] * 21), {"finetune.folds": 5}, "fewer than 5 folds"),
        (lambda t: t.assign(split=["train", "test"] * 12, patient_id="p"), {}, "more than one split"),
        (lambda t: t.assign(path="gone-" + t["path"]), {}, "none of its 24 files exists"),
        (lambda t: t.drop(columns="path"), {}, "no 'path' column"),
        (lambda t: t, {"finetune.target": ["partley"]}, "did you mean 'partly'"),
        (lambda t: t, {"finetune.crop_seconds": 60}, "longer than the backbone's window"),
        (lambda t: t, {"finetune.group": "ward"}, "no column 'ward'"),
    ],
)
def test_every_bad_table_has_its_sentence_before_training(
    site: tuple[Path, Path], tmp_path: Path, change: Any, settings: dict[str, Any], words: str
) -> None:
    path = site[0].with_name(f"bad{abs(hash(words))}.csv")
    change(pd.read_csv(site[0])).to_csv(path, index=False)
    with pytest.raises(MedfmError, match=words):
        run((path, site[1]), tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_mistake_does_not_cost_the_run_that_overwrite_would_replace(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    kept = run(site, tmp_path / "run").path / "results.json"
    wrong = config(site, tmp_path / "run", **{"finetune.target": ["nothing"]})
    with pytest.raises(MedfmError, match="no target column"):
        finetune(wrong, overwrite=True, progress=False)
    assert kept.is_file()


def test_unreadable_records_do_not_cost_the_run_that_overwrite_would_replace(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    kept = run(site, tmp_path / "run").path / "results.json"
    path = site[0].with_name("wrong_rate.csv")
    pd.read_csv(site[0]).assign(fs=500).to_csv(path, index=False)
    with pytest.raises(MedfmError, match="could be read"):
        finetune(config((path, site[1]), tmp_path / "run"), overwrite=True, progress=False)
    assert kept.is_file()


def test_a_full_hub_does_not_cost_the_report(
    site: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> str:
        raise MedfmError("publishing failed: no space left.")

    monkeypatch.setattr(finetune_report, "publish", full)
    done = run(site, tmp_path / "run", **{"finetune.baseline": False})
    assert (done.path / "results.json").is_file() and "medfm hub pull" in caplog.text


def test_the_python_call(site: tuple[Path, Path], tmp_path: Path) -> None:
    done = medfm.finetune(
        site[0],
        backbone=str(site[1]),
        target="y",
        strategy="linear-probe",
        folds=3,
        repeats=1,
        output=tmp_path / "run",
        progress=False,
        finetune__bootstrap=20,
        output__publish=True,
        name="tiny-site",
    )
    assert done.report is not None and done.report.is_file()
    assert medfm.load("tiny-site").card.id == "tiny-site"
