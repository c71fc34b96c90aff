"""Redundant films of a site: what is dropped, why, what a person must look at, and that the keep list works as a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_bundle import save as save_ecg
from xray_pictures import chest

import medfm
from medfm.backbones.vit import ViT
from medfm.data.catalog import resolve_source
from medfm.data.manifest import Manifest
from medfm.hub.bundle import save_bundle
from medfm.hub.card import Card
from medfm.modalities.xray import Xray
from medfm.synthetic.corpus import write_corpus
from medfm.types import ConfigError, MedfmError
from medfm.workflows.dedup import dedup


def film(seed: int) -> np.ndarray:
    """Grey ``[150, 120]`` of another person for every seed."""
    spots = np.random.default_rng(seed).random((6, 5))
    return 0.6 * chest(150, 120, seed) + 0.4 * np.kron(spots, np.ones((25, 24)))


def save(path: Path, grey: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)).save(path)
    return f"films/{path.name}"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Patient 1: a film, one a little to the side, the same with another label. Patient 2 shows the first film again, made
    smaller. Patient 3: a film of his own, and it again, labelled otherwise; a broken file."""
    films = tmp_path / "films"
    aside = np.roll(film(0), 3, axis=1)
    small = np.asarray(
        Image.fromarray(np.rint(film(0) * 255).astype(np.uint8)).resize((60, 75), Image.Resampling.BOX)
    )
    rows = [
        (save(films / "first.png", film(0)), "p1", 0),
        (save(films / "aside.png", aside), "p1", 0),
        (save(films / "worse.png", np.roll(film(0), -3, axis=1)), "p1", 1),
        (save(films / "again.jpg", small / 255), "p2", None),
        (save(films / "own.png", film(1)), "p3", 1),
        (save(films / "twice.png", film(1)), "p3", 0),
        ("films/broken.png", "p3", 0),
    ]
    (films / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    frame = pd.DataFrame(rows, columns=["path", "patient_id", "effusion"])
    frame["age"] = range(7)
    frame.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def lists(folder: Path, name: str = "keep") -> tuple[pd.DataFrame, pd.DataFrame]:
    keep = pd.read_csv(folder / f"{name}.csv")
    dropped = pd.read_csv(folder / f"{name}.dropped.csv", keep_default_na=False)
    return keep, dropped.set_index("path")


def test_what_is_dropped_and_why(site, tmp_path):
    frame = pd.read_csv(site).iloc[[6, 0, 1, 2, 3, 4, 5]]  # what cannot be read stands first
    frame.to_csv(site, index=False)
    found = medfm.dedup(site, output=tmp_path / "keep.csv", progress=False)
    keep, dropped = lists(tmp_path)
    assert keep["path"].tolist() == ["films/first.png", "films/worse.png", "films/own.png"]
    assert (
        list(keep) == list(frame)
        and keep["age"].tolist() == [0, 2, 4]
        and keep["effusion"].tolist() == [0, 1, 1]
    )
    assert dropped["reason"].to_dict() == {
        "films/aside.png": "look-alike",
        "films/again.jpg": "copy",
        "films/twice.png": "copy",
        "films/broken.png": "unreadable",
    }
    assert dropped["repeats"].tolist() == ["films/first.png", "films/first.png", "films/own.png", ""]
    assert dropped["repeats_patient_id"].tolist() == ["p1", "p1", "p3", ""]
    assert dropped["contradicts"].tolist() == ["", "", "effusion: 0 here, 1 there", ""]
    assert (
        dropped.loc["films/twice.png", "bits"] == "0"
        and float(dropped.loc["films/twice.png", "correlation"]) == 1
    )
    assert dropped.loc["films/broken.png", "note"].startswith("cannot be read")
    assert {
        k: found[k] for k in ("pictures", "kept", "copies", "look_alikes", "unreadable", "kept_for_labels")
    } == {
        "pictures": 6,
        "kept": 3,
        "copies": 2,
        "look_alikes": 1,
        "unreadable": 1,
        "kept_for_labels": 1,
    }
    assert (
        found["within"] == "patient_id" and found["labels"] == ["effusion"] and found["without_patient"] == 0
    )
    assert [f["code"] for f in found["findings"]] == ["copies-contradict", "copies-across-patients"]
    assert all(f["message"].startswith("1 of the dropped copies") for f in found["findings"])


def test_the_keep_list_is_a_table_from_where_it_lies(site, tmp_path):
    frame = pd.read_csv(site).rename(columns={"patient_id": "mrn"})
    frame.to_csv(site, index=False)
    for output in (tmp_path / "keep.csv", tmp_path / "elsewhere" / "keep.csv"):
        dedup(site, output, patient="mrn", progress=False)
        manifest = Manifest.from_table(output)
        assert manifest.patients == ["p1", "p1", "p3"] and all(Path(p).is_file() for p in manifest.paths)
        assert manifest.frame["mrn"].tolist() == manifest.patients
        again, _, _ = resolve_source(str(output), modality=Xray())
        assert again.patients_known and again.paths == manifest.paths
    again = dedup(tmp_path / "keep.csv", tmp_path / "keep2.csv", progress=False)
    assert again["kept"] == again["pictures"] == 3, "nothing is left to drop"


def test_labels_of_ones_choosing(site, tmp_path):
    """With the column of words as well, the two films of patient 1 that look alike have the same labels; without labels
    to compare, all three look alike."""
    frame = pd.read_csv(site).drop(columns=["effusion"])
    frame["kind"] = ["a", "a", "b", "a", "a", "b", "b"]
    frame.to_csv(site, index=False)
    found = dedup(site, tmp_path / "none.csv", progress=False)
    assert (found["labels"], found["look_alikes"], found["kept_for_labels"]) == ([], 2, 0)
    found = dedup(site, tmp_path / "kind.csv", target=["kind"], progress=False)
    assert (found["labels"], found["look_alikes"], found["kept_for_labels"]) == (["kind"], 1, 1)
    assert lists(tmp_path, "kind")[1].loc["films/twice.png", "contradicts"] == "kind: b here, a there"
    with pytest.raises(ConfigError, match=r"--target: .*table.csv has no column sort"):
        dedup(site, tmp_path / "x.csv", target=["sort"], progress=False)


def test_only_columns_of_zeros_and_ones_are_labels_by_themselves(site, tmp_path):
    frame = pd.read_csv(site)
    frame["windowed"] = [0, 1] * 3 + [0]  # what a scan says of a file
    frame["grade"] = [0, 1, "unclear", 1, 0, 0, 1]
    frame["nodule"] = [True, True, None, False, False, True, False]
    frame.to_csv(site, index=False)
    found = dedup(site, tmp_path / "keep.csv", progress=False)
    assert found["labels"] == ["effusion", "nodule"]


def test_of_copies_the_one_with_labels_stays(site, tmp_path):
    frame = pd.read_csv(site).iloc[[3, 0]]
    frame.to_csv(site, index=False)
    dedup(site, tmp_path / "keep.csv", progress=False)
    assert lists(tmp_path)[0]["path"].tolist() == ["films/first.png"]


def test_a_copy_on_both_sides_of_a_split_is_found(site, tmp_path):
    frame = pd.read_csv(site)
    frame["split"] = ["old", "old", "old", "new", "old", "new", "new"]
    frame["patient_id"] = range(7)
    frame.to_csv(site, index=False)
    found = dedup(site, tmp_path / "keep.csv", progress=False)
    assert "2 of the dropped copies stand in another split" in found["findings"][-1]["message"]
    assert found["look_alikes"] == 0 and lists(tmp_path)[1].loc["films/again.jpg", "split"] == "new"


def test_without_patients_only_copies_are_dropped(site, tmp_path):
    for output, patient in (("a", None), ("b", "patient_id")):
        if patient:
            pd.read_csv(site).drop(columns=["patient_id"]).to_csv(site, index=False)
        found = dedup(site, tmp_path / f"{output}.csv", patient=patient, progress=False)
        assert (found["within"], found["without_patient"]) == (None, 6)
        assert (found["copies"], found["look_alikes"]) == (2, 0)
        assert [f["code"] for f in found["findings"]] == ["copies-contradict"]
    assert "patient_id" not in lists(tmp_path, "b")[0]


def test_an_unknown_patient_is_nobody_else(site, tmp_path):
    """The copy whose patient is blank is dropped, and nobody is said to stand under two ids."""
    frame = pd.read_csv(site)
    frame.loc[3, "patient_id"] = None
    frame.to_csv(site, index=False)
    found = dedup(site, tmp_path / "keep.csv", progress=False)
    assert (found["within"], found["without_patient"]) == ("patient_id", 1)
    assert (found["copies"], found["look_alikes"]) == (2, 1)
    assert [f["code"] for f in found["findings"]] == ["copies-contradict"]


def test_a_study_column_parts_the_films_of_a_patient(site, tmp_path):
    frame = pd.read_csv(site).drop(columns=["effusion"]).assign(study_id=[1, 1, 2, 3, 4, 4, 4])
    frame.to_csv(site, index=False)
    found = dedup(site, tmp_path / "keep.csv", progress=False)
    assert found["within"] == "study_id"
    assert lists(tmp_path)[0]["path"].tolist() == ["films/first.png", "films/worse.png", "films/own.png"]


def test_a_folder_of_dicom_states_its_patients(tmp_path):
    write_corpus("xray", 3, tmp_path / "sim", seed=2, size=64, records_per_patient=3, views=("PA",))
    found = dedup(tmp_path / "sim" / "records", tmp_path / "keep.csv", distance=20, progress=False)
    keep, dropped = lists(tmp_path)
    assert (
        list(keep) == ["path", "patient_id"] and keep["patient_id"].nunique() == 3 and found["labels"] == []
    )
    assert found["look_alikes"] > 1 and (dropped["patient_id"] == dropped["repeats_patient_id"]).all()
    # A folder with its table is that table, as for --data.
    dedup(tmp_path / "sim", tmp_path / "own.csv", progress=False)
    assert "effusion" in lists(tmp_path, "own")[0]


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    modality = Xray(size=(32, 32), normalise="record")
    torch.manual_seed(0)
    shape = {"rank": 2, "in_channels": 1, "input_size": (32, 32), "patch": (8, 8)}
    card = Card(id="tiny-sim", summary="Never trained: 0 seconds on simulated data, for tests.", modality="xray",
                architecture="ViT", simulated_only=True)  # fmt: skip
    save_bundle(tmp_path / "bundle", ViT(**shape, dim=16, depth=1, heads=2), modality.settings(), card)
    return tmp_path / "bundle"


def test_by_embedding(site, backbone, tmp_path):
    """The selection of a plain loop over the embeddings that ``medfm embed`` writes."""
    frame = pd.read_csv(site).drop(columns=["effusion"]).iloc[:6]
    frame["path"] = [
        save(tmp_path / "films" / f"{i}.png", np.roll(film(i // 3), 9 * (i % 3), axis=0)) for i in range(6)
    ]
    frame["patient_id"] = list("aaabbb")
    frame.to_csv(site, index=False)
    z = np.load(medfm.embed(site, backbone=backbone, output=tmp_path / "z.npz", progress=False))["embedding"]
    z = z - z.mean(axis=0)
    cosine = z @ z.T / np.outer(*[np.linalg.norm(z, axis=1)] * 2)
    limit = float(np.median([1 - cosine[i, j] for i, j in ((0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5))]))
    kept: list[int] = []
    for i in range(6):
        if not any(i // 3 == k // 3 and 1 - cosine[i, k] <= limit for k in kept):
            kept.append(i)
    found = dedup(
        site, tmp_path / "keep.csv", by="embedding", backbone=str(backbone), distance=limit, progress=False
    )
    assert lists(tmp_path)[0]["path"].tolist() == [f"films/{i}.png" for i in kept] and 2 <= len(kept) < 6
    assert found["by"] == "embedding" and found["distance"] == limit
    loose = dedup(site, tmp_path / "loose.csv", by="embedding", backbone=str(backbone), progress=False)
    assert loose["distance"] == 0.1


def test_wrong_calls_say_what_to_do(site, tmp_path):
    def said(match, **settings):
        with pytest.raises(ConfigError, match=match):
            dedup(site, settings.pop("output", tmp_path / "x.csv"), progress=False, **settings)

    said("redundant records are found among pictures", modality="ecg")
    said("--modality eeg is unknown", modality="eeg")
    said("--by eye is unknown", by="eye")
    said("--by embedding needs --backbone", by="embedding")
    said("goes with --by embedding", backbone="x")
    said("whole number of bits", distance=2.5)
    said("whole number of bits", distance=64)
    said("cosine distance from 0", by="embedding", backbone="x", distance=1)
    said(r"must end in \.csv", output=tmp_path / "keep.parquet")
    said("no patient column 'mrn'", patient="mrn")
    said("is for ecg", by="embedding", backbone=str(save_ecg(tmp_path / "ecg").path))
    dedup(site, tmp_path / "keep.csv", progress=False)
    said("keep.csv exists already", output=tmp_path / "keep.csv")
    (tmp_path / "keep.csv").unlink()
    said("keep.dropped.csv exists already", output=tmp_path / "keep.csv")
    before = site.read_text()
    said("is the table itself", output=site, overwrite=True)
    assert site.read_text() == before
    pd.read_csv(site).iloc[-1:].to_csv(site, index=False)
    with pytest.raises(MedfmError, match="none of the 1 records could be read"):
        dedup(site, tmp_path / "y.csv", progress=False)
    assert not (tmp_path / "y.csv").exists()
