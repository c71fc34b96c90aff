"""MRI through the workflows: pretraining, masks with and without sequences, reconstruction, and what each refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from mri_site import SEQUENCES, make_backbone, make_site

import medfm
from medfm.config.load import resolve_finetune, resolve_pretrain
from medfm.finetuning.patches import Places
from medfm.formats.synthetic import is_synthetic
from medfm.hub.bundle import load_bundle
from medfm.types import ConfigError, MedfmError
from medfm.workflows import segment_report
from medfm.workflows.finetune import finetune
from medfm.workflows.patterns import KeptRecords, KeptVolumes, patterns_of, without_some
from medfm.workflows.pretrain import pretrain

REGIONS = {"whole tumour": ["core", "oedema", "enhancement"], "enhancing part": ["enhancement"]}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDFM_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("mri") / "site")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_backbone(tmp_path_factory.mktemp("mri") / "backbone")


def test_pretraining_leaves_a_bundle_that_can_reconstruct(tmp_path: Path) -> None:
    config = resolve_pretrain(
        "mri",
        preset="quick",
        flags={"output.dir": str(tmp_path / "run")},
        overrides=[
            "data.synthetic.patients=6",
            "modality.size=[16,16,16]",
            "modality.spacing=[10,10,10]",
            "backbone.size=null",
            "backbone.dim=24",
            "backbone.depth=1",
            "backbone.heads=2",
            "backbone.mlp_dim=24",
            "backbone.patch=[8,8,8]",
            "backbone.decoder_dim=24",
            "backbone.decoder_depth=1",
            "backbone.decoder_heads=2",
            "trainer.batch_size=3",
            "trainer.max_seconds=null",
            "trainer.steps=3",
            "trainer.log_every=1",
            "probe.patients=0",
            "output.publish=false",
        ],
    )
    run = pretrain(config, progress=False)
    bundle = load_bundle(run.bundle)
    assert bundle.card.modality == "mri" and bundle.card.simulated_only
    assert "An absent sequence takes part in nothing" in bundle.card.preprocessing
    assert bundle.build().config()["decoder"] == "reconstruction"
    assert (run.path / "figures" / "mask.png").is_file() and "Reconstruction" in run.report.read_text("utf-8")
    assert run.results["held_out"] == {} or np.isfinite(run.results["reconstruction"]["network"])


def segmenting(site: Path, backbone: Path, output: Path, **more: Any) -> Any:
    flags = {
        "finetune.table": str(site),
        "finetune.backbone": str(backbone),
        "finetune.target": ["label"],
        "finetune.task": "segmentation",
        "finetune.classes": {"core": 1, "oedema": 2, "enhancement": 4},
        "finetune.regions": REGIONS,
        "finetune.folds": 2,
        "finetune.steps": 4,
        "finetune.bootstrap": 20,
        "finetune.baseline": False,
        "finetune.select": "never",
        "output.publish": False,
        "output.dir": str(output),
    }
    return resolve_finetune(flags={**flags, **more})


def test_masks_are_measured_by_region_and_under_every_pattern(
    site: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, Any] = {}
    monkeypatch.setattr(segment_report, "write", lambda run, results, *_: written.update(run=run))
    config = segmenting(site, backbone, tmp_path / "run", **{"finetune.pattern_models": True})
    results = finetune(config, progress=False).results
    assert list(results["pretrained"]["targets"]) == list(REGIONS)
    assert results["regions"] == REGIONS and results["values"] == {"core": 1, "oedema": 2, "enhancement": 4}
    lines = {tuple(line["pattern"]): line for line in results["patterns"]}
    assert len(lines) == 1 + 4 + 4
    assert lines[SEQUENCES]["volumes"] == 4 and lines[("t1",)]["volumes"] == 6
    assert lines[("t1", "t2", "flair")]["volumes"] == 5 and "difference" in lines[("flair",)]
    assert lines[("t2",)]["dice"]["value"] == pytest.approx(
        np.nanmean(np.nanmean(written["run"].patterned["patterns"][list(lines).index(("t2",))], 0))
    )
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert set(table["value"]) == {"1+2+4", "4"} and len(table) == 12
    model = medfm.load(tmp_path / "run")
    masks = medfm.predict(site, model=tmp_path / "run", output=tmp_path / "masks")
    assert len(list(Path(masks).glob("*.nii.gz"))) == 6 and model.card.targets == list(REGIONS)


def test_one_model_answers_from_any_sequences(backbone: Path, tmp_path: Path) -> None:
    table = make_site(tmp_path / "site", patients=14)
    flags = {
        "finetune.table": str(table),
        "finetune.backbone": str(backbone),
        "finetune.target": ["subtype"],
        "finetune.strategy.name": "linear-probe",
        "finetune.folds": 2,
        "finetune.repeats": 2,
        "finetune.bootstrap": 20,
        "finetune.baseline": False,
        "finetune.pattern_models": True,
        "output.publish": False,
        "output.dir": str(tmp_path / "run"),
    }
    run = finetune(resolve_finetune(flags=flags), progress=False)
    lines = {tuple(line["pattern"]): line for line in run.results["patterns"]}
    assert len(lines) == 9 and lines[SEQUENCES]["records"] == 12
    assert lines[("t2",)]["records"] == 13 and lines[("t1",)]["records"] == 14
    # The model of the sequences that all twelve have is not that of all fourteen records; its figures differ.
    assert {"headline", "alone"} <= set(lines[SEQUENCES])
    assert lines[("t1",)]["headline"]["value"] != lines[("flair",)]["headline"]["value"]
    assert "With fewer sequences" in run.report.read_text(encoding="utf-8")


def test_survival_is_scored_under_every_pattern(backbone: Path, tmp_path: Path) -> None:
    table = make_site(tmp_path / "site", patients=26)
    rng = np.random.default_rng(0)
    frame = pd.read_csv(table).assign(
        months=rng.exponential(10, 26).round(2) + 0.1, death=[1, 1, 0] * 8 + [1, 1]
    )
    frame.to_csv(table, index=False)
    flags = {
        "finetune.table": str(table),
        "finetune.backbone": str(backbone),
        "finetune.target": ["months", "death"],
        "finetune.task": "survival",
        "finetune.group": "site",
        "finetune.strategy.name": "linear-probe",
        "finetune.bootstrap": 10,
        "finetune.baseline": False,
        "output.publish": False,
        "output.dir": str(tmp_path / "run"),
    }
    lines = finetune(resolve_finetune(flags=flags), progress=False).results["patterns"]
    counts = {tuple(line["pattern"]): line["records"] for line in lines}
    assert counts[SEQUENCES] == 24 and counts[("t2",)] == 25 and counts[("t1",)] == 26
    assert all(0 <= line["headline"]["value"] <= 1 for line in lines)
    assert lines[0]["headline"]["metric"] == "harrell_c"


def test_a_network_trained_without_a_sequence_never_sees_it(site: Path, backbone: Path) -> None:
    from medfm.data.manifest import Manifest
    from medfm.workflows.kinds import kind_of
    from medfm.workflows.segment_volumes import StoreVolumes, find_classes

    modality = load_bundle(backbone).modality()
    manifest = Manifest.from_table(site)
    masks = manifest.frame["label"].tolist()
    store = kind_of(modality).reading.ingest(manifest, modality, labels=masks)
    classes, _ = find_classes(store, {}, "refuse", masks, manifest.patients)
    volumes = StoreVolumes(store, modality, classes)
    rng = np.random.default_rng(0)
    rows, origins = np.array([0, 2, 5]), np.zeros((3, 3), int)
    x, _ = volumes.patches(rows, origins, (8, 8, 8), rng)
    absent = x.isnan().flatten(2).all(2)
    assert absent.tolist() == [[False] * 4, [False, False, True, False], [False, True, False, False]]
    assert not x[~absent].isnan().any()
    kept = KeptVolumes(volumes, np.array([True, False, True, False]))
    less, _ = kept.patches(rows, origins, (8, 8, 8), rng)
    assert less[:, [1, 3]].isnan().all() and torch.equal(less[0, 0], x[0, 0])
    assert kept.tiles(2, origins[:1], (8, 8, 8)).isnan().flatten(2).all(2).tolist() == [
        [False, True, True, True]
    ]
    places = Places.find(kept, len(classes.names))
    assert (places.counts == Places.find(volumes, len(classes.names)).counts).all()
    records = KeptRecords(
        kind_of(modality).reading.records(store, modality), np.array([False, True, True, True])
    )
    value, present = records.read(np.array([0, 5]), np.zeros(2, int))
    assert present.tolist() == [[False, True, True, True], [False, False, True, True]]
    assert value.isnan().flatten(2).all(2).tolist() == (~present).tolist()


def test_sequences_are_dropped_but_never_all() -> None:
    rng = np.random.default_rng(3)
    present = np.tile([[True, True, True, False]], (4000, 1))
    less = without_some(present, 0.5, rng)
    assert not less[:, 3].any() and less.any(1).all()
    lost = 3 - less.sum(1)
    assert (lost > 0).mean() == pytest.approx(0.5, abs=0.03)
    assert (lost[lost > 0] == 2).mean() == pytest.approx(0.5, abs=0.04)
    np.testing.assert_allclose(less[:, :3].mean(0), 1 - 0.5 * 1.5 / 3, atol=0.03)
    alone = np.array([[False, True, False, False]])
    assert without_some(alone, 1.0, rng).tolist() == alone.tolist()


def test_patterns_are_of_modalities_with_sequences(site: Path, backbone: Path, tmp_path: Path) -> None:
    modality = load_bundle(backbone).modality()
    assert len(patterns_of(modality, "all")) == 15 and patterns_of(modality, "none") == []
    nobody_has_t2 = np.array([[True, True, False, True], [True, False, False, True]])
    tried = patterns_of(modality, "auto", nobody_has_t2)
    assert ("t1", "flair") in tried and len(tried) == 7 and not any("t2" in p for p in tried)
    from ct_site import make_backbone as make_ct
    from ct_site import make_site as make_scans

    scans = make_scans(tmp_path / "ct")
    with pytest.raises(ConfigError, match=r"finetune\.pattern_models: for subjects of several sequences"):
        finetune(
            segmenting(scans, make_ct(tmp_path / "net"), tmp_path / "x",
                       **{"finetune.target": ["mask"], "finetune.pattern_models": True}),
            progress=False,
        )  # fmt: skip
    with pytest.raises(ConfigError, match=r"regions: rim holds 'edge', which is no class"):
        finetune(
            segmenting(site, backbone, tmp_path / "y", **{"finetune.regions": {"rim": ["edge"]}}),
            progress=False,
        )
    with pytest.raises(
        MedfmError, match=r"the mask holds the value 4.*enhancement is 4 until 2021 and 3 since 2023"
    ):
        wrong = {"core": 1, "oedema": 2, "enhancement": 3}
        finetune(segmenting(site, backbone, tmp_path / "z", **{"finetune.classes": wrong}), progress=False)


def test_reconstruction_is_marked_compared_and_refused_as_input(
    site: Path, backbone: Path, tmp_path: Path
) -> None:
    made = medfm.reconstruct(site, backbone=backbone, output=tmp_path / "made", progress=False)
    assert made["files"] == 1 and made["compared"] == []  # t1ce of the other subject is not made
    (file,) = (tmp_path / "made").glob("*.nii.gz")
    assert file.name.endswith("_t2_SYNTHETIC.nii.gz") and is_synthetic(file)
    image = nibabel.load(file)
    assert image.shape == (12, 12, 11) and bytes(image.header["descrip"]).startswith(b"SYNTHETIC t2")
    head = nibabel.load(site.parent / "p2_t1.nii.gz").get_fdata() != 0
    assert (np.asarray(image.dataobj)[~head] == 0).all() and np.asarray(image.dataobj)[head].std() > 0
    said = json.loads(file.with_name(file.name.replace(".nii.gz", ".json")).read_text("utf-8"))
    assert said["Synthetic"] is True and said["MadeFrom"] == ["t1", "t1ce", "flair"]
    assert file.with_name(file.name.replace(".nii.gz", ".png")).is_file()
    table = pd.read_csv(site)
    table[list(SEQUENCES)] = table[list(SEQUENCES)].map(lambda v: str(site.parent / v), na_action="ignore")
    table["label"] = [str(site.parent / v) for v in table["label"]]
    table.loc[2, "t2"] = str(file)
    table.to_csv(tmp_path / "with.csv", index=False)
    run = finetune(segmenting(tmp_path / "with.csv", backbone, tmp_path / "run"), progress=False)
    assert len(run.results["set_aside"]) == 1


def test_reconstruction_measures_what_it_hides(site: Path, backbone: Path, tmp_path: Path) -> None:
    made = medfm.reconstruct(
        site,
        backbone=backbone,
        output=tmp_path / "made",
        sequences=["flair"],
        scale=(100.0, 10.0),
        progress=False,
    )
    by = {line["arm"]: line for line in made["compared"]}
    assert set(by) == {"this model", "mean of the others", "linear regression"}
    assert all(line["subjects"] == 6 and line["psnr"] > 0 and line["rmse tumour"] > 0 for line in by.values())
    # The sequences of this site are linear in one another but for noise.
    assert by["linear regression"]["psnr"] > by["mean of the others"]["psnr"] > by["this model"]["psnr"]
    assert any("NOT better" in v for v in made["verdicts"])
    rows = pd.read_csv(tmp_path / "made" / "reconstruction.csv")
    assert len(rows) == 18 and set(rows["from"]) == {"t1+t1ce+t2", "t1+t1ce", "t1+t2"}
    file = sorted((tmp_path / "made").glob("*flair_SYNTHETIC.nii.gz"))[0]
    values = nibabel.load(file).get_fdata()
    assert 60 < values[values != 0].mean() < 140  # in the units of the scale


def test_reconstruction_refuses_what_it_cannot_do(site: Path, backbone: Path, tmp_path: Path) -> None:
    def call(**more: Any) -> Any:
        given = {"backbone": backbone, "output": tmp_path / "out", "progress": False, **more}
        return medfm.reconstruct(given.pop("source", site), **given)

    with pytest.raises(
        ConfigError, match=r"--sequence t1ce: a post-contrast sequence.*--allow-synthetic-contrast"
    ):
        call(sequences=["t1ce"])
    with pytest.raises(ConfigError, match=r"--sequence adc: tiny-mri-sim knows t1, t1ce, t2, flair"):
        call(sequences=["adc"])
    with pytest.raises(ConfigError, match="no decoder that makes sequences"):
        call(backbone=make_backbone(tmp_path / "plain", decoder="none"))
    with pytest.raises(ConfigError, match="--scale is of one sequence"):
        call(scale=(0.0, 1.0))
    whole = pd.read_csv(site).iloc[:2]
    whole.to_csv(site.parent / "whole.csv", index=False)
    with pytest.raises(MedfmError, match=r"no subject could be read that lacks a sequence.*--sequence"):
        call(source=site.parent / "whole.csv")
    assert call(sequences=["t1ce"], allow_synthetic_contrast=True)["files"] == 6
