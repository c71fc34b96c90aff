"""What stays of pictures that repeat each other: the published greedy selection, units, copies, and direct relations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medfm.data.dedup import hamming
from medfm.data.manifest import Manifest
from medfm.data.reduction import (
    by_embedding,
    by_hash,
    known_patients,
    looks,
    select,
    series_column,
    units_of,
)

NONE = np.empty((0, 2), int)


def greedy(codes, most):
    """Wolf et al. in words: take the first that remains, drop all that remain within ``most`` bits, repeat."""
    remaining, kept = list(range(len(codes))), []
    while remaining:
        first = remaining[0]
        kept.append(first)
        remaining = [r for r in remaining[1:] if bin(int(codes[r]) ^ int(codes[first])).count("1") > most]
    return kept


def test_one_unit_is_the_published_selection():
    codes = np.array([0, 1, 0b1111111, 0b11, 0xFF << 40, (0xFF << 40) + 1], np.uint64)
    one = ["volume"] * 6
    assert select(one, NONE, by_hash(codes, 2)).kept.tolist() == [0, 2, 4]
    assert select(one, NONE, by_hash(codes, 2)).keeper.tolist() == [0, 0, 2, 0, 4, 4]
    assert select(one, NONE, by_hash(codes, 0)).kept.tolist() == [0, 1, 2, 3, 4, 5]
    # 1 is near 2 as well, but was dropped for 0 before.
    assert select(["v"] * 3, NONE, by_hash(np.array([0, 1, 7], np.uint64), 2)).keeper.tolist() == [0, 0, 2]
    codes = np.random.default_rng(0).integers(0, 2**16, 300, dtype=np.uint64)
    found = select(["v"] * 300, NONE, by_hash(codes, 3))
    assert found.kept.tolist() == greedy(codes, 3) and not found.copied.any()
    assert sorted([*found.kept, *found.dropped]) == list(range(300))
    assert hamming(codes[found.dropped], codes[found.keeper[found.dropped]]).max() <= 3
    assert by_hash(np.array([0, 63, 127], np.uint64))(0, np.arange(3)).tolist() == [True, True, False]


def test_units_are_selected_one_by_one():
    rng = np.random.default_rng(1)
    codes, units = rng.integers(0, 2**14, 200, dtype=np.uint64), rng.integers(0, 9, 200)
    found = select(units, NONE, by_hash(codes, 3))
    expected = [np.flatnonzero(units == u)[greedy(codes[units == u], 3)] for u in range(9)]
    assert found.kept.tolist() == sorted(np.concatenate(expected)) and len(found.dropped) > 50
    assert (units == units[found.keeper]).all()


def test_copies_cross_units_and_relations_are_direct():
    """1 is near 0, and 2, of another patient, is a copy of 1: as 1 is dropped for 0, which 2 does not show, 2 stays."""
    codes = np.array([0, 0b11, 0b11, 1 << 40, 1 << 40], np.uint64)
    found = select(["a", "a", "b", "c", "d"], np.array([[1, 2], [3, 4]]), by_hash(codes, 2))
    assert found.keeper.tolist() == [0, 0, 2, 3, 3] and found.copied.tolist() == [False] * 4 + [True]
    # Chosen in another order, 1 is kept: it repeats neither, and both repeat it.
    found = select(
        ["a", "a", "b", "c", "d"], np.array([[1, 2], [3, 4]]), by_hash(codes, 2), np.array([4, 1, 0, 2, 3])
    )
    assert found.keeper.tolist() == [1, 1, 1, 4, 4] and found.copied.tolist() == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_a_copy_of_one_patient_is_called_a_copy():
    found = select(["a", "a"], np.array([[0, 1]]), by_hash(np.zeros(2, np.uint64)))
    assert found.copied.tolist() == [False, True]


def test_embeddings_are_compared_about_their_mean():
    angles = np.radians([0, 20, 90, 180, 270])
    z = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    z = np.r_[z, -z]  # of mean 0
    near = by_embedding(z + 100, 1 - np.cos(np.radians(20)) + 1e-6)
    assert near(0, np.arange(5)).tolist() == [True, True, False, False, False]
    assert not by_embedding(z, 1 - np.cos(np.radians(19.9)))(0, np.array([1]))[0]


class Pictures:
    """A store as ``looks`` sees one."""

    def __init__(self, x):
        self.x = np.asarray(x, np.float32)

    def __len__(self):
        return len(self.x)

    def read(self, rows):
        return self.x[rows], np.ones((len(rows), self.x.shape[1]), bool)


@pytest.mark.parametrize("read", [2, 256])
def test_padding_has_no_say(monkeypatch, read):
    monkeypatch.setattr("medfm.data.reduction.READ", read)
    x = np.random.default_rng(0).random((5, 1, 64, 64))
    padded = np.full((5, 1, 64, 128), np.nan)
    padded[..., 30:94] = x
    bare, found, seen = looks(Pictures(x)), looks(Pictures(padded)), []
    assert np.array_equal(bare.codes, found.codes) and np.array_equal(bare.small, found.small)
    assert bare.codes.shape == (5,) and bare.small.shape == (5, 32, 32) and len(set(bare.codes.tolist())) == 5
    grey = looks(Pictures(np.repeat(x, 3, axis=1)), seen.append)
    assert np.array_equal(grey.codes, bare.codes) and seen[-1] == 5


def test_units_are_patients_or_what_parts_their_pictures():
    frame = pd.DataFrame({"path": list("abcdef"), "patient_id": [1, 1, 2, 2, 3, 3]})

    def units(**columns):
        patient = columns.pop("patient", "patient_id")
        return units_of(Manifest.from_frame(frame.assign(**columns), patient=patient))

    def same(found):
        return [found[i] == found[i + 1] for i in range(0, 6, 2)], len(set(found))

    assert same(units()) == ([True] * 3, 3)
    assert same(units(patient=None)) == ([False] * 3, 6)
    study = {"study_id": ["s", "s", "s", "t", None, None]}
    assert same(units(**study)) == ([True, False, True], 4), "one study number of two patients is two studies"
    # Without patients the study alone joins, and what has none stands alone.
    assert same(units(patient=None, **study)) == ([True, False, False], 4)
    assert same(units(**study, SeriesInstanceUID=["x", "y"] * 3)) == ([False] * 3, 6)
    for name, is_one in (
        ("series_uid", True),
        ("StudyInstanceUID", True),
        ("volume", True),
        ("study_date", False),
    ):
        made = Manifest.from_frame(frame.assign(**{name: 1}))
        assert series_column(made) == (name if is_one else None)


def test_patients_known_for_some():
    frame = pd.DataFrame({"record": ["a", "b", "c"], "path": ["a", "b", "c"], "patient": ["a", "P", "P"]})
    assert known_patients(Manifest(frame, False)).isna().tolist() == [True, False, False]
    assert known_patients(Manifest(frame, True)).tolist() == ["a", "P", "P"]
    first, second, third = units_of(Manifest(frame, False))
    assert first != second == third
