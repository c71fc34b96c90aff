"""Regression and survival from files to bundle: results, predictions, resumption, the probe, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from site_files import make_backbone, make_site
from typer.testing import CliRunner

import medfm
from medfm.cli.main import app
from medfm.config.load import resolve_finetune
from medfm.finetuning.question import make_task
from medfm.hub.bundle import load_bundle
from medfm.types import ConfigError, MedfmError
from medfm.workflows import finetune_report
from medfm.workflows.finetune import finetune
from medfm.workflows.finetune_run import Fold
from medfm.workflows.finetune_worst import largest, residuals_of
from medfm.workflows.label_kinds import target_kinds
from medfm.workflows.predict import predict
from medfm.workflows.probe import probe

N = 32


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The faster waves of ``make_site`` have the higher value and the shorter time; some are censored or unknown."""
    folder = tmp_path_factory.mktemp("site")
    path = make_site(folder / "records", patients=N)
    table, rng = pd.read_csv(path), np.random.default_rng(0)
    table["dose"] = (50 + 20 * table["y"] + rng.normal(0, 3, N)).round(3)
    died, left = rng.exponential(np.where(table["y"] == 1, 3.0, 20.0)), rng.uniform(4, 30, N)
    table["months"], table["death"] = np.minimum(died, left).round(3) + 0.01, (died <= left).astype(float)
    table.loc[0, "months"], table.loc[2, "death"] = np.nan, np.nan
    table.to_csv(path, index=False)
    return path, make_backbone(folder / "backbone")


def run(
    site: tuple[Path, Path], output: Path, *, report: bool = False, resume: bool = False, **more: Any
) -> Any:
    flags = {
        "finetune.table": str(site[0]),
        "finetune.backbone": str(site[1]),
        "finetune.strategy.name": "linear-probe",
        "finetune.repeats": 2,
        "finetune.folds": 2,
        "finetune.bootstrap": 40,
        "finetune.worst": 2,
        "output.publish": False,
        "output.dir": str(output),
        **more,
    }
    with pytest.MonkeyPatch.context() as patch:
        if not report:
            patch.setattr(finetune_report, "write", lambda *_: None)
        return finetune(resolve_finetune(flags=flags), progress=False, resume=resume)


def survival(**more: Any) -> dict[str, Any]:
    return {"finetune.target": ["months", "death"], "finetune.task": "survival", **more}


def test_a_value_from_table_to_report_and_back_in_its_own_unit(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    done = run(site, tmp_path / "run", report=True, **{"finetune.target": ["dose"]})
    results = json.loads((done.path / "results.json").read_text())
    assert results["task"] == "regression" and set(results["baselines"]) == {
        "training mean",
        "training median",
    }
    table = pd.read_csv(done.path / "predictions.csv")
    assert list(table.columns)[3:] == ["fold", "y_dose", "predicted_dose", "predicted_random_dose"]
    # the file alone gives the error that is reported, up to the mean over repeats
    repeats = pd.read_csv(done.path / "predictions_repeats.csv")
    error = (
        (repeats["predicted_dose"] - repeats["y_dose"])
        .abs()
        .groupby([repeats["repeat"], repeats["fold"]])
        .mean()
    )
    assert results["pretrained"]["headline"]["value"] == pytest.approx(error.mean(), abs=1e-5)
    assert results["pretrained"]["within_fold"]["r2"]["value"] > 0.5
    assert "training median" in results["verdict"] and results["from_median"]["mae"]["difference"]["high"] < 0
    assert "only: every figure here" in results["notes"][-1]
    for name in ("predicted_observed", "bland_altman", "arms", "folds"):
        assert (done.path / "figures" / f"{name}.png").is_file()
    page = (done.path / "report.html").read_text()
    assert "Bland-Altman" in page and "farthest from the true one" in page and "dose too" in page
    bundle = load_bundle(done.bundle)
    assert bundle.head is not None and bundle.head["task"]["mean"] == pytest.approx(table["y_dose"].mean())
    assert [r.metric for r in bundle.card.results] == ["MAE", "R2"]
    written = pd.read_csv(predict(site[0], done.path, tmp_path / "p.csv", progress=False))
    assert list(written.columns) == ["record", "patient", "path", "predicted_dose", "error"]
    truth = pd.read_csv(site[0])["dose"]
    assert (written["predicted_dose"] - truth).abs().mean() < (truth - truth.median()).abs().mean() / 2
    again = medfm.load(done.path).predict(site[0].parent / "r000_0.hea")
    assert again["predicted_dose"][0] == pytest.approx(written["predicted_dose"][0], abs=1e-3)


def test_survival_from_table_to_report_and_back(site: tuple[Path, Path], tmp_path: Path) -> None:
    done = run(site, tmp_path / "run", report=True, **survival())
    results = json.loads((done.path / "results.json").read_text())
    own = results["pretrained"]
    assert results["task"] == "survival" and results["records"] == N - 2
    assert own["headline"]["value"] > 0.6 and own["within_fold"]["uno_c"]["value"] > 0.6
    assert "Harrell's C within folds" in results["verdict"] and "integrated Brier score" in results["verdict"]
    assert any("1 record(s) have no time and 1 no event status" in n for n in results["notes"])
    assert any(n.startswith(f"Horizon {own['horizon']:g} (the median") for n in results["notes"])
    # cuts are each fold's own, and each ends at the last event of its training records
    table = pd.read_csv(done.path / "predictions_repeats.csv")
    for facts in results["fits"]["pretrained"]:
        test = (table["repeat"] == facts["repeat"]) & (table["fold"] == int(facts["fold"]))
        train = table[(table["repeat"] == facts["repeat"]) & ~test]
        assert facts["fitted"]["cuts"][-1] == pytest.approx(train["y_months"][train["y_death"] == 1].max())
    risk, at = "risk_death", f"survival_death_at_{own['horizon']:g}"
    assert {"y_months", "y_death", risk, at, "risk_random_death"} <= set(table.columns)
    assert table[at].between(0, 1).all() and table[risk].between(0, own["limit"]).all()
    page = (done.path / "report.html").read_text()
    for words in (
        "Risk groups",
        "descriptive",
        "Calibration at",
        "Competing risks are not modelled",
        "Kaplan-Meier",
    ):
        assert words in page
    assert (done.path / "figures" / "risk_groups.png").is_file()
    assert [r.metric for r in load_bundle(done.bundle).card.results] == ["C-index", "integrated Brier score"]
    written = pd.read_csv(predict(site[0], done.path, tmp_path / "p.csv", progress=False))
    assert list(written.columns) == ["record", "patient", "path", risk, at, "error"]
    y = pd.read_csv(site[0])["y"]
    assert written[risk][y == 1].mean() > written[risk][y == 0].mean()


def test_an_interrupted_survival_run_goes_on_with_its_own_cut_points(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    more = survival(**{"finetune.baseline": False, "finetune.repeats": 1, "finetune.horizon": 3.0})
    done = run(site, tmp_path / "run", **more)
    before = (done.path / "predictions.csv").read_bytes()
    (done.path / "checkpoints" / "pretrained-1-2.npz").unlink()
    run(site, tmp_path / "run", resume=True, **more)
    assert (done.path / "predictions.csv").read_bytes() == before
    assert done.results["pretrained"]["horizon"] == 3 and "difference" not in done.results


def test_training_strategies_end_in_the_same_files(site: tuple[Path, Path], tmp_path: Path) -> None:
    more = {"finetune.strategy.name": "lp-ft", "finetune.strategy.epochs": 1, "finetune.repeats": 1, "finetune.mix": "mixup",
            "finetune.label_kinds": {"dose": ("presence",)}, "finetune.augment_anyway": True, "finetune.baseline": False}  # fmt: skip
    done = run(site, tmp_path / "a", **{"finetune.target": ["dose"], **more})
    assert done.results["pretrained"]["within_fold"]["r2"]["value"] > 0.3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"finetune.target": ["dose"], "finetune.horizon": 3.0}, r"finetune.horizon: only for --task survival, this is regression"),
        ({"finetune.target": ["y"], "finetune.intervals": 4}, r"finetune.intervals: only for --task survival, this is binary"),
        (survival(**{"finetune.horizon": 500.0}), "finetune.horizon=500 lies beyond"),
        ({"finetune.target": ["months"], "finetune.task": "survival"}, "takes two columns"),
        (survival(**{"finetune.target": ["months", "kind"]}), "competing risks are not supported"),
        (survival(**{"finetune.folds": 30}), "fewer than 30 folds|cannot be split"),
        ({"finetune.target": ["dose"], "finetune.strategy.name": "lp-ft", "finetune.label_smoothing": 0.1}, "label_smoothing is about classes"),
        (survival(**{"finetune.strategy.name": "lp-ft", "finetune.balance": "sampling"}), "balance is about classes, and survival has none"),
        (survival(**{"finetune.strategy.name": "lp-ft", "finetune.mix": "mixup"}), "'death' may depend on it"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_before_anything_is_trained(
    site: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(MedfmError, match=words):
        run(site, tmp_path / "run", **settings)


def test_a_value_and_survival_are_taken_to_depend_on_everything_unless_said(site: tuple[Path, Path]) -> None:
    frame = pd.read_csv(site[0])
    task, _ = make_task(frame, ["months", "death"], "survival")
    assert {"rhythm", "intervals", "laterality"} <= target_kinds(task, {})["death"]
    assert target_kinds(task, {"months": ("voltage",)}) == {"death": frozenset({"voltage"})}
    value, _ = make_task(frame, ["dose"])
    assert "voltage" in target_kinds(value, {})["dose"]
    with pytest.raises(ConfigError, match="no target of this run"):
        target_kinds(task, {"dose": ("voltage",)})


def test_the_worst_values_are_those_farthest_from_the_truth() -> None:
    fold = Fold(0, 0, "1", np.array([4, 7, 9]))
    found = largest(residuals_of(np.array([[1.0], [5], [9]]), np.array([[1.5], [2], [13]]), fold), 2)
    assert [(e.row, e.missed, e.size) for e in found] == [(9, False, 4.0), (7, True, 3.0)]


def test_probe_of_a_value_and_of_survival(site: tuple[Path, Path], tmp_path: Path) -> None:
    shared: dict[str, Any] = {"folds": 2, "repeats": 1, "bootstrap": 40, "progress": False}
    value = probe(site[0], str(site[1]), ["dose"], **shared)
    assert value["measure"] == "mae" and value["rows"][0]["probe"] == "ridge regression"
    assert value["rows"][0]["mae"] < value["rows"][0]["training_median"] and value["rows"][0]["r2"] > 0.5
    assert "the training median" in value["verdicts"][0]
    death = probe(site[0], str(site[1]), ["months", "death"], task="survival", horizon=3.0, **shared)
    first = death["rows"][0]
    assert death["measure"] == "harrell_c" and first["probe"] == "discrete hazards"
    assert 0.5 < first["harrell_c"] <= 1 and first["integrated_brier"] < 1.2 * first["kaplan_meier"]
    assert first["backbone"] == str(site[1]) and len(death["rows"]) == 3  # the two floors of ECGs beside it
    assert any(n.startswith("Horizon 3 (as asked)") for n in death["notes"])


@pytest.mark.slow
def test_probe_says_a_value_on_the_command_line(site: tuple[Path, Path]) -> None:
    words = ["probe", str(site[0]), "--backbone", str(site[1]), "--folds", "2", "--repeats", "1"]
    value = CliRunner().invoke(app, [*words, "--target", "dose"])
    assert value.exit_code == 0 and "MAE" in value.output and "smaller is better" in value.output
    death = CliRunner().invoke(app, [*words, "--target", "months,death", "--task", "survival"])
    assert death.exit_code == 0 and "Harrell's C" in death.output and "of Kaplan-Meier" in death.output
