"""The worst errors of a fine-tuning run: chosen by hand-derived rules, drawn with what made them, and never in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from site_files import make_backbone, make_site

from medfm.backbones.image2d import ResNet18
from medfm.config.load import resolve_finetune
from medfm.finetuning.heads import FinetuneModel
from medfm.finetuning.heat import heat_map
from medfm.hub.bundle import load_bundle, save_bundle
from medfm.hub.card import Card
from medfm.modalities.xray import Xray
from medfm.synthetic.corpus import write_corpus
from medfm.workflows import finetune_report, finetune_worst
from medfm.workflows.finetune import finetune
from medfm.workflows.finetune_folds import load_kept
from medfm.workflows.finetune_run import PRETRAINED, FineTuning, Fold
from medfm.workflows.finetune_worst import Error, errors_of, quotas, worst_of

FOLD = Fold(0, 0, "1", np.array([10, 11, 12, 13, 14]))


def error(row: int, output: int, missed: bool, p: float) -> Error:
    return Error(row, output, missed, p, FOLD)


def test_pictures_are_shared_out_over_kinds_of_error_and_the_first_targets():
    assert quotas(6, 1) == {(0, True): 3, (0, False): 3}
    assert quotas(5, 1) == {(0, True): 3, (0, False): 2}
    assert quotas(1, 4) == {(0, True): 1}
    assert quotas(6, 2) == {(0, True): 2, (1, True): 1, (0, False): 2, (1, False): 1}
    assert quotas(6, 14) == {(k, missed): 1 for missed in (True, False) for k in range(3)}


def test_an_error_is_a_record_that_its_fold_ranks_wrongly():
    y = np.array([[1, 0, 1], [1, 0, np.nan], [0, 0, 0], [0, 0, 1], [np.nan, 0, 0]])
    p = np.array([[0.9, 0.1, 0.2], [0.3, 0.2, 0.9], [0.4, 0.3, 0.1], [0.2, 0.4, 0.3], [0.99, 0.5, 0.05]])
    found = errors_of(y, p, FOLD)
    # Target 0: the positive at .3 and the negative at .4 are swapped. Target 1 has one class. Target 2 is ranked right.
    assert found == [error(11, 0, True, 0.3), error(12, 0, False, 0.4)]
    assert [e.size for e in found] == pytest.approx([0.7, 0.4])


def test_the_worst_are_taken_kind_by_kind():
    errors = [
        error(1, 0, True, 0.2),
        error(2, 0, True, 0.01),
        error(3, 0, False, 0.6),
        error(4, 0, False, 0.7),
        error(5, 1, True, 0.001),
    ]
    assert [e.row for e in worst_of(errors, quotas(2, 1))] == [2, 4]
    assert [e.row for e in worst_of(errors, quotas(6, 2))] == [2, 1, 5, 4, 3]
    assert worst_of([], quotas(6, 2)) == []


def test_a_heat_map_belongs_to_a_record_and_a_target():
    kept = {
        "heat": np.arange(3.0)[:, None] * np.ones((3, 4)),
        "heat_of": np.array([(5, 0), (5, 1), (6, 1)]),
        "heat_cell": np.array([20]),
        "heat_name": np.array("attention"),
    }
    found = finetune_worst._heat(kept, error(5, 1, True, 0.1))
    assert found is not None and found.values.tolist() == [1, 1, 1, 1]
    assert (found.cell, found.name) == ((20,), "attention")
    assert finetune_worst._heat(kept, error(6, 0, True, 0.1)) is None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twelve records in two windows each, of which some have the wrong label."""
    folder = tmp_path_factory.mktemp("site")
    path = make_site(folder / "records", patients=12, seconds=6)
    table = pd.read_csv(path)
    table.loc[[2, 7], "y"] = 1 - table.loc[[2, 7], "y"]
    table.to_csv(path, index=False)
    return path, make_backbone(folder / "backbone")


def run(site: tuple[Path, Path], output: Path, **more: Any) -> FineTuning:
    """A finished run, without its other pictures."""
    flags = {
        "finetune.table": str(site[0]),
        "finetune.backbone": str(site[1]),
        "finetune.target": ["y"],
        "finetune.strategy.name": "linear-probe",
        "finetune.repeats": 1,
        "finetune.folds": 2,
        "finetune.baseline": False,
        "finetune.bootstrap": 0,
        "output.publish": False,
        "output.dir": str(output),
        **more,
    }
    runs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_report, "write", lambda made, *_: runs.append(made))
        finetune(resolve_finetune(flags=flags), progress=False)
    return runs[0]


def sections(made: FineTuning) -> list[Any]:
    return finetune_worst.sections(made, PRETRAINED, lambda fold: load_kept(made, PRETRAINED, fold))


def test_what_is_shown_is_what_the_predictions_say(site: tuple[Path, Path], tmp_path: Path) -> None:
    made = run(site, tmp_path / "run", **{"finetune.worst": 4})
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    (section,) = sections(made)
    columns, rows = section.table
    assert columns == ["Row", "Target", "Error", "Truth", "Predicted", "Fold"]
    assert len(rows) == len(section.figures) > 0
    for row, (_, alt, caption) in zip(rows, section.figures):
        (record,) = table[table["row"] == int(row[0])].to_dict("records")
        assert record["p_y"] == pytest.approx(row[4], abs=1e-6) and str(record["fold"]) == row[5]
        assert (row[2], row[3], record["y_y"]) in [("missed", "yes", 1), ("false alarm", "no", 0)]
        assert f"**Row {row[0]}**" in caption and "times an even share" in caption and "attention" in alt
        assert caption.endswith("the first of its 2 windows")
    wrong: dict[str, list[tuple[float, str]]] = {"missed": [], "false alarm": []}
    for _, fold in table.groupby("fold"):
        yes, no = (fold[fold["y_y"] == value] for value in (1, 0))
        wrong["missed"] += [(r.p_y, str(r.row)) for r in yes.itertuples() if r.p_y < no["p_y"].max()]
        wrong["false alarm"] += [(-r.p_y, str(r.row)) for r in no.itertuples() if r.p_y > yes["p_y"].min()]
    expected = [row for kind in wrong.values() for _, row in sorted(kind)[:2]]
    assert [r[0] for r in rows] == expected and len(expected) == 4
    assert "does not say whether" in section.text and "where the network looks, not why" in section.text
    names = "|".join([*made.cohort.records, *made.cohort.patients])
    assert not pd.Series([section.text, *(c + a for _, a, c in section.figures)]).str.contains(names).any()


def test_predictions_do_not_depend_on_the_pictures(site: tuple[Path, Path], tmp_path: Path) -> None:
    more = {"finetune.strategy.name": "full", "finetune.strategy.epochs": 1}
    run(site, tmp_path / "with", **more)
    without = run(site, tmp_path / "without", **more, **{"finetune.worst": 0})
    assert sections(without) == []
    for name in ("predictions.csv", "metrics.csv"):
        a, b = ((tmp_path / folder / name).read_bytes() for folder in ("with", "without"))
        assert a == b
    states = [load_bundle(tmp_path / folder / "bundle").state for folder in ("with", "without")]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[1])
    with np.load(tmp_path / "without" / "checkpoints" / "pretrained-1-1.npz") as kept:
        assert set(kept.files) == {"rows", "logits", "facts"}


def test_what_cannot_be_drawn_ends_no_run(
    site: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of\nmemory")

    with monkeypatch.context() as patch:
        patch.setattr(finetune_worst, "heat_map", fails)
        made = run(site, tmp_path / "run")
    assert "no heat maps for fold 1: RuntimeError: out of memory" in caplog.text
    (section,) = sections(made)  # pictures without heat maps, and not a word of those
    assert section.figures and "heat map" not in section.text
    assert all(caption.split("; ")[1] == "no heat map" for _, _, caption in section.figures)
    monkeypatch.setattr(finetune_worst, "kind_of", fails)
    assert sections(made) == [] and "worst errors could not be drawn" in caplog.text


def test_many_targets_unknown_labels_classes_and_repeats(site: tuple[Path, Path], tmp_path: Path) -> None:
    several = run(site, tmp_path / "a", **{"finetune.target": ["y", "partly"], "finetune.repeats": 2})
    (section,) = sections(several)
    assert "the first repeat is shown" in section.text
    unknown = set(several.cohort.rows[np.isnan(several.cohort.y[:, 1])])
    assert not {int(r[0]) for r in section.table[1] if r[1] == "partly"} & unknown
    with np.load(tmp_path / "a" / "checkpoints" / "pretrained-2-1.npz") as kept:
        assert "heat" not in kept.files
    kinds = run(site, tmp_path / "b", **{"finetune.target": ["kind"]})
    for row in sections(kinds)[0].table[1]:
        truth = kinds.cohort.frame["kind"][list(kinds.cohort.rows).index(int(row[0]))]
        assert row[3] == truth and (truth == row[1]) == (row[2] == "missed")


def test_no_error_is_said(site: tuple[Path, Path], tmp_path: Path) -> None:
    made = run(site, tmp_path / "run")
    made.predicted[PRETRAINED] = np.where(made.cohort.y == 1, 0.9, 0.1)[None]
    (section,) = sections(made)
    assert "all positives were ranked above all negatives" in section.text and not section.figures


def test_a_radiograph_is_shown_under_the_map_of_the_fold_that_predicted_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two targets of a convolutional network; each kept map is made again from the fold's own model."""
    write_corpus("xray", 16, tmp_path / "site", seed=3, size=64)
    table = pd.read_csv(tmp_path / "site" / "table.csv")
    table["a"], table["b"] = np.arange(16) % 2, np.arange(16) // 2 % 2
    table.to_csv(tmp_path / "site" / "table.csv", index=False)
    modality = Xray(size=(64, 64), normalise="record")
    torch.manual_seed(0)
    net = ResNet18(in_channels=1, input_size=(64, 64)).eval()
    card = Card(
        id="tiny-cnn-sim",
        summary="Never trained: 0 seconds on simulated data, for tests.",
        modality="xray",
        architecture="ResNet-18",
        simulated_only=True,
    )
    save_bundle(tmp_path / "backbone", net, modality.settings(), card)
    models: list[FinetuneModel] = []
    real = finetune_worst.keep_heat
    monkeypatch.setattr(
        "medfm.workflows.finetune_folds.keep_heat",
        lambda made, model, *rest: models.append(model) or real(made, model, *rest),
    )
    made = run(
        (tmp_path / "site" / "table.csv", tmp_path / "backbone"),
        tmp_path / "run",
        **{"finetune.target": ["a", "b"]},
    )
    assert len(models) == len(made.folds) == 2
    for fold, model in zip(made.folds, models):
        kept = load_kept(made, PRETRAINED, fold)
        assert kept["heat"].shape[1:] == (2, 2) and tuple(kept["heat_cell"]) == (32, 32)
        for values, (row, output) in zip(kept["heat"], kept["heat_of"]):
            assert row in fold.test
            x, present = made.records.read(np.array([row]), np.array([0]))
            np.testing.assert_allclose(heat_map(model, x, present, int(output)).values, values, rtol=1e-5)
    (section,) = sections(made)
    assert "Grad-CAM" in section.text and "attention" not in section.text
    assert any(len(figure.axes) == 2 for figure, _, _ in section.figures)
