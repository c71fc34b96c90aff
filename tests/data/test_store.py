"""The ingest store keeps what it was given, survives a kill, and never serves old samples for new settings."""

from __future__ import annotations

import copy
import errno
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medfm.data import store as stores
from medfm.data.manifest import Manifest
from medfm.data.store import Chunk, SignalStore, build, encode, ingest
from medfm.types import MedfmError, ReadError, Sample


class Npy:
    """A minimal modality: three leads at 100 Hz from .npy files; lead C is absent where it is all NaN."""

    channels = ("A", "B", "C")
    spacing = (0.01,)
    size = (50,)

    def __init__(self, gain: float = 1.0) -> None:
        self.gain, self.calls = gain, 0

    def ingest_settings(self) -> dict[str, float]:
        return {"gain": self.gain}

    def read(self, path: str, fs: float | None = None, quality: bool = True) -> Sample:
        self.calls += 1
        try:
            x = np.load(path, allow_pickle=False).astype(np.float32) * self.gain
        except (OSError, ValueError) as error:
            raise ReadError(f"{path}: not an array") from error
        return Sample(x, self.spacing, self.channels, ~np.isnan(x).all(1), "npy")


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Manifest, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    arrays, rows = [], []
    for i in range(300):
        x = rng.normal(0, 1, (3, 40 + i)).astype(np.float32)
        if i % 7 == 0:
            x[2] = np.nan
        if i % 11 == 0:
            x[0, 5:9] = np.nan
        path = tmp_path / f"r{i:03d}.npy"
        if i == 13:
            path.write_bytes(b"not an array")
        else:
            np.save(path, x)
        arrays.append(x)
        rows.append({"path": path.name, "patient_id": i // 2})
    table = tmp_path / "table.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    return Manifest.from_table(table), arrays


def test_every_record_comes_back_to_half_a_step(corpus, tmp_path):
    manifest, arrays = corpus
    store = ingest(manifest, Npy(), tmp_path / "store")
    assert len(store) == 299 and [row for row, _, _ in store.failed] == [13]
    for index, row in enumerate(store.kept):
        x, present = store.read([index])
        expected = arrays[row]
        assert np.array_equal(np.isnan(x[0]), np.isnan(expected))
        assert np.array_equal(present[0], ~np.isnan(expected).all(1))
        step = np.nanmax(np.abs(expected)) / 32767
        assert np.nanmax(np.abs(x[0] - expected)) <= 0.51 * step


def test_windows_equal_slices_and_the_end_is_missing_not_zero(corpus, tmp_path):
    manifest, _ = corpus
    store = ingest(manifest, Npy(), tmp_path / "store")
    whole, _ = store.read([4])
    window, _ = store.read([4, 4], np.array([10, 30]), 20)
    assert np.array_equal(window[0], whole[0, :, 10:30])
    assert np.array_equal(window[1, :, :14], whole[0, :, 30:44]) and np.isnan(window[1, :, 14:]).all()


def test_second_ingest_reads_nothing_and_changed_settings_read_again(corpus, tmp_path):
    manifest, _ = corpus
    first = ingest(manifest, Npy(), tmp_path / "store")
    again = Npy()
    second = ingest(manifest, again, tmp_path / "store")
    assert again.calls == 0 and second.path == first.path
    other = ingest(manifest, Npy(gain=2.0), tmp_path / "store")
    assert other.path != first.path
    assert np.allclose(np.nan_to_num(other.read([0])[0]), 2 * np.nan_to_num(first.read([0])[0]), atol=1e-3)


def test_changed_file_is_read_again(corpus, tmp_path):
    manifest, _ = corpus
    first = ingest(manifest, Npy(), tmp_path / "store")
    np.save(manifest.paths[3], np.ones((3, 999), np.float32))
    assert ingest(manifest, Npy(), tmp_path / "store").path != first.path


def test_a_file_whose_rights_were_mended_is_read_anew(corpus, tmp_path, monkeypatch):
    manifest, _ = corpus
    with monkeypatch.context() as patch:
        patch.setattr(stores.os, "access", lambda path, _: Path(path).name != "r003.npy")
        locked = ingest(manifest, Npy(), tmp_path / "store").path
    assert ingest(manifest, Npy(), tmp_path / "store").path != locked


def test_a_full_disk_is_left_no_fuller(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    def make(index: int) -> Chunk:
        return Chunk([np.ones((1, 4), np.float32)], [index], [])

    with monkeypatch.context() as patch, pytest.raises(MedfmError, match=r"Make room.*MEDFM_HOME"):
        patch.setattr(stores, "_merge", full)
        build({"k": 1}, 2, make, fs=1.0, channels=["A"], root=tmp_path)
    assert not list(tmp_path.glob("*.tmp")) and list(tmp_path.glob("*.parts"))
    assert len(build({"k": 1}, 2, make, fs=1.0, channels=["A"], root=tmp_path)) == 2


def test_killed_ingest_keeps_its_finished_chunks(tmp_path):
    made = []

    def make(index: int) -> Chunk:
        if index == 2 and 2 not in made:
            made.append(2)
            raise KeyboardInterrupt
        made.append(index)
        return Chunk([np.full((1, 4), float(index), np.float32)], [index], [])

    with pytest.raises(KeyboardInterrupt):
        build({"k": 1}, 4, make, fs=1.0, channels=["A"], root=tmp_path)
    store = build({"k": 1}, 4, make, fs=1.0, channels=["A"], root=tmp_path)
    assert made == [0, 1, 2, 2, 3]
    assert store.read([0, 1, 2, 3])[0][:, 0, 0] == pytest.approx([0, 1, 2, 3], abs=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == [store.path.name]


def test_parallel_equals_serial(corpus, tmp_path):
    manifest, _ = corpus
    a = ingest(manifest, Npy(), tmp_path / "a")
    b = ingest(manifest, Npy(), tmp_path / "b", jobs=2)
    assert (a.path / "signals.i16").read_bytes() == (b.path / "signals.i16").read_bytes()
    assert np.array_equal(a.kept, b.kept)


def test_pickle_carries_no_samples(corpus, tmp_path):
    manifest, _ = corpus
    store = ingest(manifest, Npy(), tmp_path / "store")
    store.read([0])
    text = pickle.dumps(store)
    assert len(text) < store.nbytes / 4
    back: SignalStore = copy.deepcopy(store)  # goes through the same __getstate__
    assert np.array_equal(back.read([7])[0], store.read([7])[0], equal_nan=True)


def test_nothing_readable_is_an_error_and_not_cached(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"x")
    manifest = Manifest.from_frame(pd.DataFrame({"path": [str(tmp_path / "a.npy")]}), patient=None)
    with pytest.raises(MedfmError, match="none of the 1 records could be read"):
        ingest(manifest, Npy(), tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


def test_encode_uses_the_whole_range_and_keeps_gaps():
    codes, gain = encode(np.array([[0.5, -1.0, np.nan], [0.0, 0.0, 0.0]], np.float32))
    assert codes.tolist() == [[16384, -32767, -32768], [0, 0, 0]]
    assert gain == pytest.approx([1 / 32767, 1.0])


def test_memory_stays_flat_as_the_corpus_grows(tmp_path):
    """Opening and reading a batch allocates for the batch, not for the corpus."""
    import tracemalloc

    def peak(records: int) -> int:
        def make(index: int) -> Chunk:
            x = np.random.default_rng(index).normal(0, 1, (stores.CHUNK, 12, 500)).astype(np.float32)
            return Chunk(list(x), list(range(index * stores.CHUNK, (index + 1) * stores.CHUNK)), [])

        store = build(
            {"n": records},
            records // stores.CHUNK,
            make,
            fs=50.0,
            channels=list("ABCDEFGHIJKL"),
            root=tmp_path,
        )
        tracemalloc.start()
        for i in range(5):
            store.read(np.arange(i, len(store), len(store) // 32)[:32], length=250)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    small, large = peak(256), peak(2560)
    assert large < 1.2 * small
