"""The store of volumes: crops equal the volume they are cut from, bad files are set aside, batches are functions of the step."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from medfm.data.loader import Mixture
from medfm.data.manifest import Manifest
from medfm.data.store import Chunk
from medfm.data.volume_batches import VolumeBatches
from medfm.data.volume_store import VolumeStore, build_volumes, ingest_volumes
from medfm.modalities.ct import CT
from medfm.types import MedfmError, ReadError, Volume

SHAPES = [(11, 9, 7), (8, 12, 10), (5, 5, 5)]


def volumes():
    rng = np.random.default_rng(0)
    return [rng.integers(-1000, 1500, s).astype(np.float32) for s in SHAPES]


@dataclass
class Make:
    gap: bool = False

    def __call__(self, index):
        x = volumes()[index][None]
        if self.gap:
            x[0, :2] = np.nan
        return Chunk([x], [index], [], None, {"affine": [np.eye(4) * (index + 1)]})


def store(tmp_path, **options):
    return build_volumes({"test": 1, **options}, 3, Make(**options), channels=("HU",), root=tmp_path)


def test_a_crop_is_the_part_of_the_volume(tmp_path):
    kept = store(tmp_path)
    np.testing.assert_array_equal(kept.shapes, SHAPES)
    assert kept.affines[2, 0, 0] == 3
    for row, whole in enumerate(volumes()):
        np.testing.assert_allclose(kept.whole(row)[0], whole, atol=0.05)  # a 32,767th of the range
    x, present = kept.read([1, 0, 1], np.array([[2, 3, 4], [0, 0, 0], [4, 8, 6]]), (4, 4, 4))
    assert x.shape == (3, 1, 4, 4, 4) and present.all()
    for got, row, (a, b, c) in zip(x[:, 0], (1, 0, 1), ((2, 3, 4), (0, 0, 0), (4, 8, 6))):
        np.testing.assert_allclose(got, volumes()[row][a : a + 4, b : b + 4, c : c + 4], atol=0.05)


def test_a_crop_beyond_the_volume_holds_what_there_is(tmp_path):
    x, _ = store(tmp_path).read([2, 2, 2], np.array([[-2, 0, 3], [4, 4, 4], [9, 9, 9]]), (6, 6, 6))
    expected = np.full((6, 6, 6), np.nan)
    expected[2:6, :5, :2] = volumes()[2][:4, :, 3:]
    np.testing.assert_allclose(x[0, 0], expected, atol=0.05)
    assert np.isfinite(x[1, 0]).sum() == 1 and np.isfinite(x[1, 0, 0, 0, 0])
    assert np.isnan(x[2]).all()


def test_what_was_not_measured_is_nan_in_a_crop(tmp_path):
    x, _ = store(tmp_path, gap=True).read([0], np.array([[1, 0, 0]]), (3, 3, 3))
    assert np.isnan(x[0, 0, 0]).all() and np.isfinite(x[0, 0, 1:]).all()


def test_the_second_time_nothing_is_made_and_a_store_travels_without_its_data(tmp_path):
    first = store(tmp_path)

    def never(index):
        raise AssertionError

    again = build_volumes({"test": 1}, 3, never, channels=("HU",), root=tmp_path)
    assert again.path == first.path
    first.whole(0)
    assert len(pickle.dumps(first)) < 5000
    assert VolumeStore.open(first.path).shapes.tolist() == [list(s) for s in SHAPES]


@dataclass
class Reader(CT):
    """A CT whose files are held in memory; masks through the same door."""

    files: dict

    def __init__(self, files, **settings):
        super().__init__(**settings)
        self.files = files

    def open(self, path):
        if path not in self.files:
            raise ReadError(f"{path}: no such file.")
        return self.files[path]


def manifest(names):
    return Manifest.from_frame(pd.DataFrame({"path": names, "patient_id": names}), root=None)


def body(shape=(20, 20, 20)):
    x = np.full(shape, -1000, np.int16)
    x[4:-4, 4:-4, 4:-4] = 50
    return Volume(x, np.eye(4), "HU", "test")


@pytest.mark.parametrize("fault", ["", "shape", "place"])
def test_a_mask_lies_beside_its_volume_or_the_record_is_set_aside(tmp_path, monkeypatch, fault):
    image = body()
    label = (image.x > 0).astype(np.int16) * 3
    affine = np.eye(4)
    if fault == "shape":
        label = label[:-1]
    if fault == "place":
        affine[0, 3] = 5.0
    masks = {"m.nii": Volume(label, affine, "label", "test")}
    monkeypatch.setattr("medfm.formats.volume.read_volume", lambda p, **_: masks[p], raising=False)
    table = manifest(["a.nii", "b.nii"])
    ct = Reader(dict.fromkeys(table.paths, image), spacing=(1, 1, 1), size=(8, 8, 8))
    both = [table.paths[0], "gone"]
    if fault:
        with pytest.raises(
            MedfmError, match="voxels and the image" if fault == "shape" else "lies elsewhere"
        ):
            ingest_volumes(table.take([0]), ct, tmp_path, labels=["m.nii"])
        return
    ct.files.pop(table.paths[1])
    kept = ingest_volumes(table, ct, tmp_path, labels=["m.nii", both[1]])
    assert kept.channels == ("HU", "label") and kept.kept.tolist() == [0]
    assert [(r, "no such file" in why) for r, _, why in kept.failed] == [(1, True)]
    hu, mask = kept.whole(0)
    np.testing.assert_array_equal(np.rint(mask), np.where(hu > 0, 3, 0))


def batches(kept, **options):
    ct = CT(size=(4, 4, 4), windows=[(-1000, 1500), (0, 100)])
    return VolumeBatches(Mixture([kept]), ct, 3, seed=5, stop=4, **options)


def test_a_batch_is_a_function_of_its_step_and_says_where_it_was_cut(tmp_path):
    kept = store(tmp_path)
    first, again = batches(kept).batch(2), batches(kept).batch(2)
    np.testing.assert_array_equal(first.x, again.x)
    assert not np.array_equal(first.x, batches(kept).batch(3).x)
    assert first.x.shape == (3, 2, 4, 4, 4) and first.present.shape == (3, 2)
    rows = Mixture([kept]).draw(5, 6, 3)[1]
    for x, row, (a, b, c) in zip(first.x[:, 0], rows, first.view_meta["origins"][:, 0].tolist()):
        part = volumes()[row][a : a + 4, b : b + 4, c : c + 4]
        np.testing.assert_allclose(x, (part + 1000) / 2500, atol=1e-4)


def test_views_at_any_place_are_crops_of_one_record(tmp_path):
    kept = store(tmp_path)
    batch = batches(kept, views=2, place="any", size=(3, 3, 5)).batch(0)
    assert batch.views["views"].shape == (3, 2, 2, 3, 3, 5)
    rows = Mixture([kept]).draw(5, 0, 3)[1]
    for b, row in enumerate(rows):
        for v, (i, j, k) in enumerate(batch.view_meta["origins"][b].tolist()):
            part = volumes()[row][i : i + 3, j : j + 3, k : k + 5]
            np.testing.assert_allclose(batch.views["views"][b, v, 0], (part + 1000) / 2500, atol=1e-4)


def test_a_volume_smaller_than_the_crop_lies_in_its_middle(tmp_path):
    kept = store(tmp_path)
    ct = CT(size=(9, 9, 9), windows=[(-1000, 1500)])
    batch = VolumeBatches(Mixture([kept], subsets=[np.array([2])]), ct, 1, stop=1).batch(0)
    assert batch.view_meta["origins"][0, 0].tolist() == [-2, -2, -2]
    np.testing.assert_allclose(batch.x[0, 0, 2:7, 2:7, 2:7], (volumes()[2] + 1000) / 2500, atol=1e-4)
    assert float(batch.x[0, 0, :2].abs().max()) == 0.0  # beyond it the window's black
