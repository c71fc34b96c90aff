"""Masks from files to bundle and back: what a run leaves, that it resumes, grids and orientations, and every refusal."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from ct_site import SPACING, affine, make_backbone, make_site, volume

import medfm
from medfm.backbones.vit import ViT
from medfm.config.load import resolve_finetune
from medfm.evaluation.segmentation import measure
from medfm.finetuning import tiles
from medfm.formats.volume import read_volume
from medfm.formats.volume_write import write_nifti
from medfm.hub.bundle import load_bundle, save_bundle
from medfm.modalities.ct import CT
from medfm.types import ConfigError, MedfmError
from medfm.workflows import segment_report
from medfm.workflows.finetune import finetune
from medfm.workflows.predict import predict
from medfm.workflows.segment_predict import file_names
from medfm.workflows.segment_volumes import Classes, OneVolume, find_classes

QUICK = {
    "finetune.bootstrap": 50,
    "finetune.folds": 2,
    "finetune.steps": 6,
    "finetune.strategy.name": "full",
    "output.publish": False,
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("ct")
    return make_site(folder / "site"), make_backbone(folder / "backbone", seed=1)


def config(site: tuple[Path, Path], output: Path, **more: Any) -> Any:
    places = {"finetune.table": str(site[0]), "finetune.backbone": str(site[1]), "output.dir": str(output)}
    return resolve_finetune(flags={**QUICK, **places, "finetune.target": ["mask"], **more})


def run(site: tuple[Path, Path], output: Path, resume: bool = False, **more: Any) -> Any:
    """Without the pictures of the report, which cost more than everything else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_report, "write", lambda *_: None)
        return finetune(config(site, output, **more), progress=False, resume=resume)


@pytest.fixture(scope="module")
def done(site: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    more = {
        "finetune.steps": 60,
        "finetune.strategy.lr": 1e-2,
        "finetune.strategy.head_lr": 1e-2,
        "finetune.marks": [30],
        "finetune.classes": {"bright": 2, "dim": 5},
    }
    more |= {"finetune.tolerance": {"bright": 2.0, "dim": 4.0}}
    return finetune(config(site, tmp_path_factory.mktemp("run") / "run", **more), progress=False)


def test_in_python_it_is_a_backbone_that_says_how_masks_are_drawn(done: Any, site: tuple[Path, Path]) -> None:
    model = medfm.load(done.path)
    image = site[0].parent / pd.read_csv(site[0])["path"][0]
    z = model.embed(image)
    assert z.shape == (1, model.backbone.dim) and np.isfinite(z).all()
    with pytest.raises(MedfmError, match=r"draws masks, one a volume, and writes them: medfm\.predict"):
        model.predict(image)


def test_a_run_leaves_everything_that_was_promised(done: Any) -> None:
    for name in ("config.yaml", "metrics.csv", "train.log", "results.json", "predictions.csv", "report.html"):
        assert (done.path / name).stat().st_size > 0, name
    for name in (
        "environment.txt",
        "cite.bib",
        "bundle/manifest.json",
        "figures/slices.png",
        "figures/volumes.png",
    ):
        assert (done.path / name).is_file(), name
    results = json.loads((done.path / "results.json").read_text())
    assert results["records"] == results["patients"] == 4
    assert results["values"] == {"bright": 2, "dim": 5} and results["tolerance_mm"] == {
        "bright": 2.0,
        "dim": 4.0,
    }
    assert [m["step"] for m in results["marks"]] == [30, 60]
    for mark in results["marks"]:
        gain = mark["pretrained"]["value"] - mark["random"]["value"]
        assert mark["difference"]["value"] == pytest.approx(gain) and mark["difference"]["low"] is not None
    text = (done.path / "report.html").read_text()
    for words in (
        "not a medical device",
        "within",
        "2 mm",
        "4 mm",
        "Step by step",
        "random initialisation",
        "Worst: row",
    ):
        assert words in text, words
    bundle = load_bundle(done.bundle)
    assert bundle.card.task == "segmentation" and bundle.card.results[0].metric == "Dice"
    assert bundle.head is not None and bundle.head["values"] == [2, 5]
    assert not any(str(p) in (done.path / "train.log").read_text() for p in ("ct0.nii", "mask0"))


def test_the_written_masks_are_what_was_measured_on_the_grid_of_the_files(
    site: tuple[Path, Path], done: Any
) -> None:
    table = pd.read_csv(done.path / "predictions.csv")
    assert len(table) == 8 and table.groupby("patient")["fold"].nunique().max() == 1
    for row in range(4):
        mine = table[table["row"] == row + 2].sort_values("value")
        drawn = nibabel.load(done.path / "masks" / f"{mine['record'].iloc[0]}.nii.gz")
        ct = nibabel.load(site[0].parent / f"ct{row}.nii.gz")
        np.testing.assert_allclose(drawn.affine, ct.affine)
        labels, truth = (
            np.asanyarray(f.dataobj) for f in (drawn, nibabel.load(site[0].parent / f"mask{row}.nii.gz"))
        )
        assert set(np.unique(labels)) <= {0, 2, 5}
        either = [np.select([m == 2, m == 5], [1, 2]) for m in (truth, labels)]
        again = measure(*either, SPACING, 2, (2.0, 4.0))
        for column, values in (("dice", again.dice), ("hd95_mm", again.hd95), ("nsd", again.nsd)):
            np.testing.assert_allclose(mine[column], np.round(values, 5), err_msg=column)
        np.testing.assert_allclose(mine["true_ml"], [(truth == v).sum() * 0.064 for v in (2, 5)], atol=1e-3)
    headline = json.loads((done.path / "results.json").read_text())["pretrained"]["headline"]["value"]
    assert headline == pytest.approx(table["dice"].mean(), abs=1e-4) and headline > 0.5


@pytest.mark.parametrize(("order", "flips"), [((0, 1, 2), (0,)), ((2, 0, 1), ()), ((1, 2, 0), (0, 2))])
def test_another_orientation_of_a_file_gives_the_same_mask_turned(
    done: Any, tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    x, _ = volume(20)
    where = affine()
    write_nifti(tmp_path / "plain.nii.gz", x, where)
    turned, matrix = x.transpose(order), np.eye(4)
    matrix[:3, :3] = where[:3, :3][:, list(order)]
    matrix[:3, 3] = where[:3, 3]
    for axis in flips:
        matrix[:3, 3] += matrix[:3, axis] * (turned.shape[axis] - 1)
        matrix[:3, axis] *= -1
    write_nifti(tmp_path / "turned.nii.gz", np.ascontiguousarray(np.flip(turned, flips)), matrix)
    for name in ("plain", "turned"):
        predict(tmp_path / f"{name}.nii.gz", done.path, tmp_path / name, progress=False)
    plain, found = (nibabel.load(tmp_path / n / f"{n}.nii.gz") for n in ("plain", "turned"))
    np.testing.assert_allclose(found.affine, matrix, atol=1e-5)
    expected = np.flip(np.asanyarray(plain.dataobj).transpose(order), flips)
    assert len(np.unique(expected)) == 3
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), expected)
    assert (tmp_path / "plain" / "plain.png").stat().st_size > 1000


def test_a_folder_of_other_grids_is_drawn_on_each_and_a_bad_file_keeps_its_row(
    done: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Finer voxels, a volume smaller than a tile, and a file that is none."""
    x, y = volume(21)
    fine = np.kron(x, np.ones((2, 2, 2))).astype(np.int16)
    where = affine((2.0, 2.0, 2.0))
    where[:3, 3] -= 1.0  # the same body: eight voxels in the place of one
    source = tmp_path / "in"
    write_nifti(source / "fine.nii.gz", fine, where)
    write_nifti(source / "small.nii.gz", np.ascontiguousarray(x[0:14, 4:16, 3:14]), affine())
    (source / "broken.nii.gz").write_bytes(b"no volume")
    with caplog.at_level(logging.INFO, logger="medfm.run"):
        predict(source, done.path, tmp_path / "out", progress=False)
    assert any("tiles of 16 x 16 x 16 voxels on cpu" in r.message for r in caplog.records)
    table = pd.read_csv(tmp_path / "out" / "volumes.csv")
    assert table["error"].notna().sum() == 1 and table.loc[table["error"].notna(), "record"].iloc[
        0
    ].startswith("broken")
    labels = {n: read_volume(tmp_path / "out" / f"{n}.nii.gz", label=True).x for n in ("fine", "small")}
    assert labels["fine"].shape == fine.shape and labels["small"].shape == (14, 12, 11)
    truth = np.kron(y, np.ones((2, 2, 2), int))
    got = measure(
        np.select([truth == 2, truth == 5], [1, 2]),
        np.select([labels["fine"] == 2, labels["fine"] == 5], [1, 2]),
        (2, 2, 2),
        2,
    )
    assert got.dice[0] > 0.6
    for name, part in table[table["error"].isna()].groupby("record"):
        mm = 0.008 if "fine" in name else 0.064
        here = labels["fine" if "fine" in name else "small"]
        np.testing.assert_allclose(part["ml"], [(here == v).sum() * mm for v in part["value"]], atol=1e-3)


def test_finished_folds_are_not_run_again_and_a_lost_one_comes_back_the_same(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    first = run(site, tmp_path / "run", **{"finetune.select": "always", "finetune.strategy.epochs": 2})
    before = json.loads((first.path / "results.json").read_text())
    assert all(len(f["history"]) == 2 for f in before["fits"]["pretrained"])
    (first.path / "checkpoints" / "random-1-2.npz").unlink()
    kept = (first.path / "checkpoints" / "random-1-1.npz").stat().st_mtime_ns
    again = run(site, tmp_path / "run", True, **{"finetune.select": "always", "finetune.strategy.epochs": 2})
    assert (first.path / "checkpoints" / "random-1-1.npz").stat().st_mtime_ns == kept
    assert again.results["random"]["headline"] == pytest.approx(before["random"]["headline"])


def test_an_encoder_alone_gets_a_decoder_and_lora_keeps_its_adapter(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    encoder = make_backbone(tmp_path / "encoder", decoder=False)
    more = {
        "finetune.strategy.name": "lora",
        "finetune.baseline": False,
        "finetune.masks": False,
        "finetune.worst": 0,
    }
    grown = run((site[0], encoder), tmp_path / "grown", **more)
    assert load_bundle(grown.bundle).config["backbone"]["decoder"] is True
    assert any("pretrained without a decoder" in n for n in grown.results["notes"])
    assert not (grown.bundle / "adapter").exists() and not (grown.path / "masks").exists()
    assert "difference" not in grown.results
    whole = run(site, tmp_path / "whole", **more)
    assert (whole.bundle / "adapter" / "adapter_config.json").is_file()
    predict(site[0].parent / "ct0.nii.gz", whole.path, tmp_path / "out", progress=False)


def test_a_table_of_masks_is_known_as_one(site: tuple[Path, Path], tmp_path: Path) -> None:
    """task=auto; and the defaults of masks hold for it."""
    resolved = config(site, tmp_path / "run", **{"finetune.baseline": False})
    assert resolved.finetune.task == "auto" and resolved.finetune.batch_size == 32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_report, "write", lambda *_: None)
        finetune(resolved, progress=False)
    saved = resolve_finetune(config=tmp_path / "run").finetune
    assert (saved.task, saved.batch_size, saved.strategy.lr) == ("segmentation", 2, 1e-3)


# Refusals


def _table(site: tuple[Path, Path], folder: Path, row: int, **cells: str) -> Path:
    frame = pd.read_csv(site[0])
    frame["path"] = [str(site[0].parent / p) for p in frame["path"]]
    frame["mask"] = [str(site[0].parent / p) for p in frame["mask"]]
    for name, value in cells.items():
        frame.loc[row, name] = value
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def test_masks_that_do_not_fit_are_set_aside_with_a_sentence(
    site: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shapes = tmp_path / "shape.nii.gz"
    write_nifti(shapes, np.zeros((22, 20, 17), np.int16), affine())
    halves = tmp_path / "half.nii.gz"
    write_nifti(halves, np.full((22, 20, 18), 0.5, np.float32), affine())
    with caplog.at_level(logging.WARNING, logger="medfm.run"):
        for mask, words in ((shapes, "has 22 x 20 x 17 voxels"), (halves, "no whole number")):
            table = _table(site, tmp_path, 1, mask=str(mask))
            got = run((table, site[1]), tmp_path / mask.stem, **{"finetune.baseline": False})
            assert got.results["records"] == 3 and got.results["set_aside"][0]["row"] == 3
            assert any(mask.name in r.message and words in r.message for r in caplog.records), words


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"finetune.classes": {"bright": 2}}, "holds the value 5, which is none of the classes .bright = 2"),
        ({"finetune.tolerance": {"class 2": 3.0}}, "'class 5' has no tolerance"),
        ({"finetune.marks": [7]}, "7 is not among the steps 1 to 6"),
        ({"finetune.marks": [3], "finetune.select": "always"}, "choose one"),
        ({"finetune.mix": "mixup"}, "finetune.mix: not for --task segmentation"),
        ({"finetune.repeats": 3}, "cross-validated once"),
        ({"finetune.folds": 5}, "4 patients with masks cannot be split into 5 folds"),
        ({"finetune.patch": [15, 16, 16]}, "multiples of 2"),
        ({"finetune.augment": ["flip"]}, "flip may falsify labels of laterality"),
        (
            {"finetune.target": ["nothing"], "finetune.task": "segmentation"},
            "names the one column with the path of each mask",
        ),
    ],
)
def test_a_wrong_setting_is_a_sentence(
    site: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(MedfmError, match=words):
        run(site, tmp_path / "run", **settings)


def test_a_flip_is_taken_where_no_class_has_a_side(site: tuple[Path, Path], tmp_path: Path) -> None:
    more = {"finetune.augment": ["flip", "rotation"], "finetune.label_kinds": {"mask": ["presence"]}}
    done = run(site, tmp_path / "run", **{**more, "finetune.baseline": False})
    assert any("changed in training (flip, rotation)" in n for n in done.results["notes"])


def test_other_values_may_be_background(site: tuple[Path, Path], tmp_path: Path) -> None:
    more = {
        "finetune.classes": {"bright": 2},
        "finetune.other_values": "background",
        "finetune.baseline": False,
    }
    done = run(site, tmp_path / "run", **more)
    assert done.results["targets"] == ["bright"]


def test_a_class_of_one_patient_cannot_be_tested(site: tuple[Path, Path], tmp_path: Path) -> None:
    _, y = volume(2)
    y[0, 0, 0] = 9
    write_nifti(tmp_path / "odd.nii.gz", y, affine())
    table = _table(site, tmp_path, 2, mask=str(tmp_path / "odd.nii.gz"))
    with pytest.raises(
        MedfmError, match=r"class 9 \(value 9\) stands in the masks of 1 patient\(s\) \(.*odd.nii.gz\)"
    ):
        run((table, site[1]), tmp_path / "run")


def test_what_is_too_small_for_the_models_grid_is_said_and_counts_as_background(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    """On a grid of 2 mm, single voxels of value 9 between the centres of the model's 4 mm."""
    frame = pd.read_csv(site[0])
    where = affine((2.0, 2.0, 2.0))
    where[:3, 3] -= 1.0
    for row in range(4):
        x, y = (np.kron(part, np.ones((2, 2, 2), np.int16)).astype(np.int16) for part in volume(row))
        y[1, 1, 1] = 9
        write_nifti(tmp_path / f"ct{row}.nii.gz", x, where)
        write_nifti(tmp_path / f"mask{row}.nii.gz", y, where)
    frame.to_csv(tmp_path / "table.csv", index=False)
    done = run((tmp_path / "table.csv", site[1]), tmp_path / "run", **{"finetune.baseline": False})
    assert done.results["targets"] == ["class 2", "class 5"]
    assert any(
        "the value 9 in the masks is too small for the model's grid of 4 x 4 x 4 mm" in n
        for n in done.results["notes"]
    )


def test_networks_that_cannot_draw_and_settings_of_the_other_kind_are_refused(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle = load_bundle(site[1])
    vit = ViT(
        rank=3, in_channels=1, input_size=(16, 16, 16), patch=(8, 8, 8), dim=16, depth=1, heads=2, registers=1
    )
    save_bundle(tmp_path / "vit", vit, bundle.modality().settings(), bundle.card)
    with pytest.raises(ConfigError, match="cannot draw a mask"):
        run((site[0], tmp_path / "vit"), tmp_path / "run")
    frame = pd.read_csv(site[0]).assign(side=[0, 1, 0, 1])
    frame.to_csv(site[0].with_name("sides.csv"), index=False)
    with pytest.raises(ConfigError, match=r"finetune.foreground: only for --task segmentation"):
        run(
            (site[0].with_name("sides.csv"), site[1]),
            tmp_path / "run",
            **{"finetune.target": ["side"], "finetune.foreground": 0.5, "finetune.steps": 1000},
        )


def test_predict_refuses_a_file_as_output_old_masks_and_too_little_memory(
    site: tuple[Path, Path], done: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ct = site[0].parent / "ct0.nii.gz"
    with pytest.raises(ConfigError, match="give a folder"):
        predict(ct, done.path, tmp_path / "out.csv", progress=False)
    predict(ct, done.path, tmp_path / "out", codes=True, progress=False)
    assert not any("ct0" in p.name for p in (tmp_path / "out").iterdir())
    assert "ct0" not in (tmp_path / "out" / "volumes.csv").read_text()
    with pytest.raises(ConfigError, match="holds masks already"):
        predict(ct, done.path, tmp_path / "out", progress=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedfmError, match="no volume"):
        predict(tmp_path / "empty", done.path, tmp_path / "out2", progress=False)
    monkeypatch.setattr(tiles, "available", lambda device: 1000)
    with pytest.raises(MedfmError, match="one tile of 16 x 16 x 16 voxels needs more memory than there is"):
        predict(ct, done.path, tmp_path / "out3", progress=False)


# Pieces


def test_values_become_classes_and_come_back() -> None:
    classes = Classes(("a", "b"), (2, 300), other=0)
    labels = np.array([0.0, 2.0, 300.0, 7.0, np.nan])
    assert classes.of(labels).tolist() == [0, 1, 2, 0, -1]
    assert Classes(("a", "b"), (2, 300)).of(labels).tolist() == [0, 1, 2, -1, -1]
    back = classes.back(np.array([0, 1, 2], np.uint8))
    assert back.tolist() == [0, 2, 300] and back.dtype == np.int16
    assert Classes(("a",), (7,)).back(np.array([1])).dtype == np.uint8


def test_tiles_of_a_volume_in_memory_are_its_voxels_and_black_outside() -> None:
    modality = CT(size=(8, 8, 8), spacing=SPACING, windows=((-100.0, 300.0),), foreground="none")
    x = np.random.default_rng(0).uniform(-100, 300, (1, 10, 9, 6)).astype(np.float32)
    first, last = (
        OneVolume(modality, x, np.ones(1, bool))
        .tiles(np.array([[0, 1, -1], [2, 1, -1]]), (8, 8, 8))[:, 0]
        .numpy()
    )
    grey = np.pad((x[0] + 100) / 400, ((0, 0), (0, 0), (1, 1)))
    np.testing.assert_allclose(first, grey[:8, 1:9], atol=1e-6)
    np.testing.assert_allclose(last, grey[2:10, 1:9], atol=1e-6)


def test_masks_of_background_only_teach_nothing() -> None:
    class Store:
        def __len__(self) -> int:
            return 2

        def whole(self, row: int) -> np.ndarray:
            return np.zeros((2, 3, 3, 3), np.float32)

    with pytest.raises(MedfmError, match="nothing to learn"):
        find_classes(Store(), {}, "refuse", ["a", "b"], ["p", "q"])  # type: ignore[arg-type]


def test_names_of_files_are_safe_and_unique() -> None:
    names = file_names(pd.Series(["a.nii.gz", "x/a.nii", "series#2", "A.nrrd"]))
    assert names == ["a", "a-2", "series-2", "A-3"]
    assert torch.get_num_threads() >= 1
