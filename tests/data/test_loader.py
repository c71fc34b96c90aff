"""Batches are a pure function of (seed, step, rank)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medfm.data.loader import Mixture, SignalBatches, loader
from medfm.data.store import Chunk, build


class Plain:
    """Identity modality of two leads; the window is 20 samples."""

    channels = ("A", "B")
    spacing = (0.1,)
    size = (20,)

    def normalise(self, x, present, copy=True):
        return x

    def augment_batch(self, x, present, rng, names):
        return x + rng.normal(0, 1, (len(x), 1, 1)).astype(np.float32), present


def _store(tmp_path, name: str, value: float, records: int = 12, length: int = 30):
    def make(index: int) -> Chunk:
        ramp = np.arange(length, dtype=np.float32)
        return Chunk(
            [np.stack([ramp, np.full(length, value + i)]) for i in range(records)], list(range(records)), []
        )

    return build({"name": name}, 1, make, fs=10.0, channels=["A", "B"], root=tmp_path)


@pytest.fixture
def mixture(tmp_path):
    return Mixture([_store(tmp_path, "one", 100.0)])


def test_resume_at_a_step_gives_the_same_batches(mixture):
    full = list(SignalBatches(mixture, Plain(), 5, seed=3, stop=6, augment=("noise",)))
    rest = list(SignalBatches(mixture, Plain(), 5, seed=3, start=4, stop=6, augment=("noise",)))
    assert all(torch.equal(a.x, b.x) for a, b in zip(full[4:], rest))
    other = list(SignalBatches(mixture, Plain(), 5, seed=4, stop=1, augment=("noise",)))
    assert not torch.equal(full[0].x, other[0].x)


@pytest.mark.slow
def test_spawned_workers_change_nothing(mixture):
    batches = SignalBatches(mixture, Plain(), 5, seed=3, stop=7)
    plain = list(loader(batches))
    spawned = list(loader(batches, workers=2))
    assert len(plain) == len(spawned) == 7
    assert all(torch.equal(a.x, b.x) for a, b in zip(plain, spawned))


def test_one_epoch_sees_every_record_once(mixture):
    _, rows = mixture.draw(0, 0, 12)
    assert sorted(rows) == list(range(12))
    _, more = mixture.draw(0, 12, 12)
    assert sorted(more) == list(range(12)) and more.tolist() != rows.tolist()


def test_ranks_share_an_epoch_without_overlap(mixture):
    seen = []
    for rank in (0, 1):
        for batch in SignalBatches(mixture, Plain(), 3, seed=1, stop=2, rank=rank, world=2):
            seen += batch.x[:, 1, 0].round().int().tolist()
    assert len(set(seen)) == 12


def test_windows_are_cut_at_random_inside_the_record(mixture):
    starts = torch.cat([b.x[:, 0, 0] for b in SignalBatches(mixture, Plain(), 12, stop=40)]).round()
    assert starts.min() == 0 and starts.max() == 10 and abs(float(starts.mean()) - 5) < 0.6


def test_mixture_follows_its_weights(tmp_path):
    mixture = Mixture([_store(tmp_path, "a", 0.0, 40), _store(tmp_path, "b", 1000.0, 4)], [0.25, 0.75])
    which = np.concatenate([mixture.draw(0, k * 64, 64)[0] for k in range(60)])
    assert abs(which.mean() - 0.75) < 0.03


def test_short_records_end_in_missing_values(tmp_path):
    short = Mixture([_store(tmp_path, "short", 5.0, 3, length=12)])
    x = SignalBatches(short, Plain(), 3, stop=1).batch(0).x
    assert torch.isnan(x[:, :, 12:]).all() and not torch.isnan(x[:, :, :12]).any()


def test_targets_follow_their_records_and_are_unknown_for_the_other_store(tmp_path):
    """A record of store ``one`` holds 100 + row in lead B: its target must be that row's."""
    stores = [_store(tmp_path, "one", 100.0), _store(tmp_path, "two", 500.0)]
    known = np.stack([np.arange(12), -np.arange(12)], 1).astype(np.float32)
    batch = SignalBatches(Mixture(stores, [1, 1], targets=[known, None]), Plain(), 64, stop=9).batch(3)
    value = batch.x[:, 1, 0].numpy()
    first = value < 400
    assert 10 < first.sum() < 54
    np.testing.assert_allclose(batch.target[first, 0], np.round(value[first] - 100))
    np.testing.assert_allclose(batch.target[first, 1], -np.round(value[first] - 100))
    assert torch.isnan(batch.target[~first]).all()
    assert SignalBatches(Mixture(stores, [1, 1]), Plain(), 4, stop=9).batch(0).target is None


def test_views_are_drawn_apart_and_again_the_same(mixture):
    asked = {"seed": 3, "stop": 6, "augment": ("noise",), "views": 2}
    batch = SignalBatches(mixture, Plain(), 5, **asked).batch(4)
    assert batch.views["views"].shape == (5, 2, 2, 20) and batch.views["views"].dtype == torch.float32
    plain = SignalBatches(mixture, Plain(), 5, seed=3, stop=6).batch(4)
    assert torch.equal(batch.x, plain.x) and not plain.views
    # Each is the record and one number more, another for every record and view.
    added = (batch.views["views"] - batch.x[:, None]).mean((2, 3))
    torch.testing.assert_close(
        batch.views["views"], batch.x[:, None] + added[:, :, None, None], atol=1e-4, rtol=0
    )
    assert len(set(added.flatten().round(decimals=4).tolist())) == 10
    again = next(iter(SignalBatches(mixture, Plain(), 5, start=4, **asked)))
    assert torch.equal(batch.views["views"], again.views["views"])
    others = (SignalBatches(mixture, Plain(), 5, **{**asked, "seed": 4}).batch(4), *[
        SignalBatches(mixture, Plain(), 5, **asked).batch(5),
        SignalBatches(mixture, Plain(), 5, rank=1, world=2, **asked).batch(4),
    ])  # fmt: skip
    for other in others:
        moved = (other.views["views"] - other.x[:, None]).mean((2, 3))
        assert not torch.isin(moved.round(decimals=4), added.round(decimals=4)).any()
    assert batch.to("cpu").views["views"].shape == (5, 2, 2, 20)


def test_a_lead_that_a_view_drops_is_missing_there_alone(mixture):
    class Dropping(Plain):
        def augment_batch(self, x, present, rng, names):
            x, present = x.copy(), present.copy()
            present[np.arange(len(x)), rng.integers(0, 2, len(x))] = False
            x[~present] = np.nan
            return x, present

    batch = SignalBatches(mixture, Dropping(), 12, stop=1, augment=("drop",), views=2).batch(0)
    assert batch.present.all() and not torch.isnan(batch.x).any()
    missing = torch.isnan(batch.views["views"]).all(3)
    assert (missing.sum(2) == 1).all() and not torch.equal(missing[:, 0], missing[:, 1])
