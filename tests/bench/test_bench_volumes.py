"""Loading and pretraining benchmarks of volumes at a tiny size: what is compared is the same, and memory is measured."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.bench import load_volumes
from medfm.bench.nifti_reference import read_windows
from medfm.bench.phantoms import bench_phantoms
from medfm.data.manifest import Manifest
from medfm.data.volume_store import ingest_volumes
from medfm.formats.volume_write import write_nifti
from medfm.modalities.ct import CT
from medfm.types import ConfigError


def test_a_crop_from_the_store_is_the_crop_that_nibabel_reads(tmp_path):
    x = np.random.default_rng(0).normal(0, 100, (20, 18, 16)).round().astype(np.int16)
    path = write_nifti(tmp_path / "a.nii.gz", x, np.diag([1.5, 1.5, 1.5, 1.0]))
    modality = CT(size=(20, 18, 16), foreground="none", units="any")
    store = ingest_volumes(
        Manifest.from_frame(load_volumes._frame([path]), root=None, patient=None), modality, tmp_path / "s"
    )
    ours = modality.normalise(*store.read([0], np.zeros((1, 3), int), (20, 18, 16)))[0, 0]
    plain = read_windows(str(path), (1.5,) * 3, (-175.0, 250.0), (20, 18, 16), 1, np.random.default_rng(0))[0]
    np.testing.assert_allclose(ours, plain, atol=1e-4)


def test_speed_and_memory_of_crops(monkeypatch):
    monkeypatch.setattr(load_volumes, "CROP", (8, 8, 8))
    monkeypatch.setattr(load_volumes, "SMALL", (12, 12, 12))
    monkeypatch.setattr(
        load_volumes, "memory", lambda folder, n, batch, batches: {"records": n, "private_mb": 1.0 * n}
    )
    found = load_volumes.bench_load_volumes((2, 4), files=2, rounds=2, extent=(24, 20, 18))
    rows = {row["what"]: row for row in found["speed"]}
    assert rows[load_volumes.PLAIN]["ratio"] == 1.0 and rows[load_volumes.STORE]["ratio"] > 1.0
    assert found["memory_growth_mb"] == 2.0
    with pytest.raises(ConfigError, match="at least 1 volume"):
        load_volumes.bench_load_volumes((0,))


def test_steps_on_phantoms_against_plain_ones_that_read_their_files():
    found = bench_phantoms(2, 12.0, rounds=1, methods=("voco",), crop=8, hidden=8)
    assert found["voco_ratio"] > 0 and found["volumes"] == 2 and "x" in found["voxels"][0]
