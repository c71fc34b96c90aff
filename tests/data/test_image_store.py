"""Pictures in the store: what went in comes out by row, decoded once, bad files set aside, batches seeded."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from dicom_images import write
from xray_pictures import chest

from medfm.data.image_batches import ImageBatches
from medfm.data.image_store import ImageStore, build_images, ingest_images
from medfm.data.loader import Mixture, loader
from medfm.data.manifest import Manifest
from medfm.data.store import Chunk
from medfm.modalities.xray import Xray
from medfm.types import MedfmError

GRID = (32, 32)


@pytest.fixture
def manifest(tmp_path):
    rows = []
    for i in range(7):
        stored = np.rint(chest(90, 60 + 10 * (i % 3), seed=i) * 4095 * (0.5 + i / 14)).astype(np.uint16)
        write(tmp_path / f"{i}.dcm", stored, WindowCenter="2048", WindowWidth="4096")
        rows.append({"path": f"{i}.dcm", "patient_id": i // 2})
    (tmp_path / "2.dcm").write_bytes(b"no picture")
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    return Manifest.from_table(tmp_path / "t.csv")


def test_every_picture_comes_back_to_half_a_step(manifest, tmp_path):
    modality = Xray(size=GRID)
    store = ingest_images(manifest, modality, tmp_path / "store")
    assert store.kept.tolist() == [0, 1, 3, 4, 5, 6] and [row for row, _, _ in store.failed] == [2]
    assert (
        len(store) == 6
        and store.grid == GRID
        and store.channels == ("grey",)
        and store.nbytes == 6 * 2 * 32 * 32
    )
    x, present = store.read([5, 0, 0])
    assert x.shape == (3, 1, 32, 32) and present.all() and np.array_equal(x[1], x[2], equal_nan=True)
    for got, row in zip(x, (6, 0, 0)):
        expected = modality.read(manifest.paths[row]).x
        assert np.array_equal(np.isnan(got), np.isnan(expected))
        assert np.nanmax(np.abs(got - expected)) <= 0.51 / 32767
    again = copy.deepcopy(ImageStore.open(store.path))
    assert np.array_equal(again.read([3])[0], store.read([3])[0], equal_nan=True)


def test_decoded_once_for_the_same_settings(manifest, tmp_path, monkeypatch):
    calls = []
    read = Xray.read
    monkeypatch.setattr(
        Xray, "read", lambda self, path, *a, **k: calls.append(path) or read(self, path, *a, **k)
    )
    first = ingest_images(manifest, Xray(size=GRID), tmp_path / "store")
    second = ingest_images(manifest, Xray(size=GRID, mean=[0.4], std=[0.2]), tmp_path / "store")
    assert len(calls) == 7 and second.path == first.path, "normalisation does not shape what is stored"
    other = ingest_images(manifest, Xray(size=GRID, fit="crop"), tmp_path / "store")
    assert len(calls) == 14 and other.path != first.path


def test_nothing_readable(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    manifest = Manifest.from_frame(pd.DataFrame({"path": [str(tmp_path / "a.png")]}), patient=None)
    with pytest.raises(MedfmError, match="none of the 1 records could be read"):
        ingest_images(manifest, Xray(), tmp_path / "store")


def _store(tmp_path, name: str, value: float, n: int = 10) -> ImageStore:
    def make(index: int) -> Chunk:
        return Chunk(
            [np.full((1, *GRID), (value + i) / 100, np.float32) for i in range(n)], list(range(n)), []
        )

    return build_images({"name": name}, 1, make, grid=GRID, channels=["grey"], root=tmp_path)


def test_batches_are_a_function_of_seed_and_step(tmp_path):
    modality = Xray(size=GRID, normalise="none")
    mixture = Mixture([_store(tmp_path, "a", 10.0)])
    full = list(ImageBatches(mixture, modality, 4, seed=3, stop=5, augment=("crop", "noise")))
    rest = list(ImageBatches(mixture, modality, 4, seed=3, start=3, stop=5, augment=("crop", "noise")))
    assert all(b.x.shape == (4, 1, 32, 32) and b.x.dtype == torch.float32 for b in full)
    assert all(torch.equal(a.x, b.x) for a, b in zip(full[3:], rest))
    plain = list(loader(ImageBatches(mixture, modality, 5, seed=1, stop=2)))
    seen = sorted(round(float(v) * 100) for b in plain for v in b.x[:, 0, 0, 0])
    assert seen == list(range(10, 20)), "one epoch sees every picture once"


def test_two_views_of_each_picture(tmp_path):
    modality = Xray(size=GRID, normalise="none")
    mixture = Mixture([_store(tmp_path, "a", 10.0)])
    asked = {"seed": 3, "augment": ("contrast", "noise"), "views": 2}
    full = list(ImageBatches(mixture, modality, 4, stop=4, **asked))
    rest = list(ImageBatches(mixture, modality, 4, start=3, stop=4, **asked))
    assert torch.equal(full[3].views["views"], rest[0].views["views"])
    views = full[3].views["views"]
    assert views.shape == (4, 2, 1, *GRID) and views.dtype == torch.float32
    # Grey pictures of one value: the record is as it lies in the store, and its views are darker or brighter.
    assert (full[3].x.amax((1, 2, 3)) == full[3].x.amin((1, 2, 3))).all()
    grey = views.mean((2, 3, 4))
    assert (grey[:, 0] - grey[:, 1]).abs().min() > 1e-3
    assert not torch.equal(views, full[2].views["views"])


def test_mixtures_and_targets(tmp_path):
    stores = [_store(tmp_path, "a", 10.0), _store(tmp_path, "b", 60.0)]
    target = np.arange(10, dtype=np.float32)[:, None]
    mixture = Mixture(stores, [0.25, 0.75], targets=[target, None])
    batch = ImageBatches(mixture, Xray(size=GRID, normalise="none"), 64, stop=3).batch(1)
    value = batch.x[:, 0, 0, 0].numpy() * 100
    first = value < 50
    assert 4 < first.sum() < 32 and np.allclose(batch.target[first, 0], np.round(value[first] - 10))
    assert torch.isnan(batch.target[~first]).all()


def test_what_is_no_picture_is_black_in_a_batch(manifest, tmp_path):
    modality = Xray(size=GRID, mean=[0.5], std=[0.25])
    store = ingest_images(manifest, modality, tmp_path / "store")
    x = ImageBatches(Mixture([store]), modality, 6, stop=1).batch(0).x
    assert torch.isfinite(x).all() and float(x[:, 0, :, 0].max()) == pytest.approx(-2)
