"""The store of MRI subjects: absent sequences are absent channels, whatever lies there; batches mix subjects of different sets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medfm.data.loader import Mixture
from medfm.data.manifest import Manifest
from medfm.data.volume_batches import VolumeBatches
from medfm.data.volume_store import ingest_volumes
from medfm.formats.volume_write import write_nifti
from medfm.modalities.mri import MRI
from medfm.types import MedfmError

SHAPE = (16, 16, 16)
NAMES = ("t1", "t1ce", "flair")
HAS = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1]], bool)


def values(seed):
    rng = np.random.default_rng(seed)
    x = np.zeros(SHAPE, np.float32)
    x[3:13, 3:13, 3:13] = rng.uniform(50, 90, (10, 10, 10))
    return x


@pytest.fixture
def site(tmp_path):
    """Three subjects with different sets of sequences, a mask each."""
    rows = []
    for i, has in enumerate(HAS):
        row = {"patient_id": f"p{i}", "label": None}
        for c, name in enumerate(NAMES):
            if has[c]:
                file = tmp_path / f"p{i}" / f"{name}.nii.gz"
                row[name] = str(write_nifti(file, values(10 * i + c), np.eye(4)))
        mask = np.zeros(SHAPE, np.uint8)
        mask[5:9, 5:9, 5:9] = 4
        row["label"] = str(write_nifti(tmp_path / f"p{i}" / "mask.nii.gz", mask, np.eye(4)))
        rows.append(row)
    return Manifest.from_frame(pd.DataFrame(rows))


def mri(**options):
    return MRI(sequences=NAMES, **{"size": (8, 8, 8), **options})


def test_a_subject_is_kept_with_what_it_has_and_its_mask(site, tmp_path):
    kept = ingest_volumes(site, mri(), tmp_path / "store", labels=site.frame["label"].tolist())
    assert kept.channels == (*NAMES, "label") and kept.failed == []
    np.testing.assert_array_equal(kept.flat.present, np.c_[HAS, np.ones(3, bool)])
    for row, has in enumerate(HAS):
        x = kept.whole(row)
        assert x.shape == (4, 16, 16, 16) and np.isnan(x[:3][~has]).all() and np.isfinite(x[:3][has]).all()
        for c in np.flatnonzero(has):
            inside = values(10 * row + c) != 0
            np.testing.assert_allclose(x[c][inside].mean(), 0, atol=1e-3)
            np.testing.assert_allclose(x[c][inside].std(), 1, atol=1e-3)
            assert (x[c][~inside] == 0).all()
        np.testing.assert_array_equal(np.unique(x[3]), [0, 4])
        assert (x[3] == 4).sum() == 64 and x[3, 5, 5, 5] == 4
    crops, present = kept.read([0, 2], np.array([[-2, 0, 0], [4, 4, 4]]), (8, 8, 8))
    assert np.isnan(crops[0, :, :2]).all() and np.isfinite(crops[0, :, 2:]).all()
    np.testing.assert_array_equal(present[:, :3], HAS[[0, 2]])


class Careless(MRI):
    """Puts a large number where a sequence is missing."""

    def place(self, volumes):
        import dataclasses

        placed = super().place(volumes)
        x = placed.sample.x.copy()
        x[~placed.sample.present] = 1e6
        return dataclasses.replace(placed, sample=placed.sample.replace(x=x))


def test_what_lies_in_a_missing_slot_reaches_neither_store_nor_batch(site, tmp_path):
    clean = ingest_volumes(site, mri(), tmp_path / "a")
    careless = ingest_volumes(site, Careless(sequences=NAMES, size=(8, 8, 8)), tmp_path / "b")
    np.testing.assert_array_equal(clean.flat.codes, careless.flat.codes)
    np.testing.assert_array_equal(clean.flat.gains, careless.flat.gains)
    batches = VolumeBatches(Mixture([careless]), mri(), 3, seed=1, stop=2, augment=("flip", "shift", "noise"))
    for step in range(2):
        batch = batches.batch(step)
        absent = ~batch.present.numpy()
        assert np.isnan(batch.x.numpy()[absent]).all() and np.isfinite(batch.x.numpy()[~absent]).all()
        assert np.abs(batch.x.numpy()[~absent]).max() < 5


def test_a_batch_mixes_subjects_of_different_sets_without_the_masks(site, tmp_path):
    kept = ingest_volumes(site, mri(), tmp_path, labels=site.frame["label"].tolist())
    batch = VolumeBatches(Mixture([kept]), mri(), 3, seed=5, stop=1).batch(0)
    rows = Mixture([kept]).draw(5, 0, 3)[1]
    np.testing.assert_array_equal(batch.present.numpy(), HAS[rows])
    assert batch.x.shape == (3, 3, 8, 8, 8)
    for x, row, origin in zip(batch.x.numpy(), rows, batch.view_meta["origins"][:, 0].tolist()):
        i, j, k = origin
        np.testing.assert_array_equal(x, kept.whole(row)[:3, i : i + 8, j : j + 8, k : k + 8])
    padded = VolumeBatches(Mixture([kept]), mri(size=(20, 20, 20)), 3, seed=5, stop=1).batch(0)
    x, present = padded.x.numpy(), padded.present.numpy()
    assert (x[present][:, :2] == 0).all() and np.isnan(x[~present]).all()
    views = VolumeBatches(Mixture([kept]), mri(), 3, seed=5, stop=1, views=2, place="any").batch(0)
    assert views.views["views"].shape == (3, 2, 3, 8, 8, 8)
    np.testing.assert_array_equal(
        np.isnan(views.views["views"].numpy()).all((3, 4, 5)), ~HAS[rows][:, None].repeat(2, 1)
    )


def test_a_store_of_other_sequences_is_not_taken(site, tmp_path):
    kept = ingest_volumes(site, mri(), tmp_path)
    other = MRI(sequences=("flair", "t1"), size=(8, 8, 8))
    with pytest.raises(AssertionError):
        VolumeBatches(Mixture([kept]), other, 2, stop=1).batch(0)


def test_a_mask_of_another_shape_or_place_and_a_bad_subject_are_set_aside(site, tmp_path):
    small = write_nifti(tmp_path / "small.nii.gz", np.ones((16, 16, 15), np.uint8), np.eye(4))
    away = np.eye(4)
    away[0, 3] = 3.0
    moved = write_nifti(tmp_path / "moved.nii.gz", np.ones(SHAPE, np.uint8), away)
    labels = [str(small), str(moved), site.frame["label"].iloc[2]]
    kept = ingest_volumes(site, mri(), tmp_path / "a", labels=labels)
    assert kept.kept.tolist() == [2]
    reasons = [why for _, _, why in kept.failed]
    assert "small.nii.gz has 16 x 16 x 15 voxels and its t1 16 x 16 x 16" in reasons[0]
    assert "moved.nii.gz lies elsewhere than its t1" in reasons[1]
    only = MRI(sequences=("t1ce",), size=(8, 8, 8))
    kept = ingest_volumes(site, only, tmp_path / "b")
    assert kept.kept.tolist() == [0] and all("none of the sequences t1ce" in why for _, _, why in kept.failed)
    with pytest.raises(MedfmError, match="none of the 3 records could be read"):
        ingest_volumes(site, MRI(sequences=("adc",)), tmp_path / "c")
