"""The difference hash by hand, and near-duplicates against a plain double loop."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import zoom
from xray_pictures import chest

from medfm.data.dedup import SAME, alike, dhash, distinct, hamming, near_duplicates


def test_bits_by_hand():
    """Brightness falling to the right: every cell is brighter than its neighbour; rising: none is."""
    falling = np.tile(np.arange(90)[::-1], (80, 1))
    assert dhash([falling, falling[:, ::-1], np.zeros((80, 90))]).tolist() == [2**64 - 1, 0, 0]
    one = np.zeros((8, 9))
    one[0, 0] = 1  # only the first cell is brighter than its right neighbour: the highest bit
    last = np.zeros((8, 9))
    last[7, 7] = 1  # the last comparison: the lowest bit; the one before it falls the other way
    assert dhash([one, last]).tolist() == [2**63, 1]


def test_cells_are_area_averages():
    """9 x 8 cells of an image of 45 x 32 pixels are means of 5 x 4 blocks, as Pillow's BOX filter has them."""
    x = np.random.default_rng(0).random((32, 45)).astype(np.float32)
    cells = np.asarray(Image.fromarray(x).resize((9, 8), Image.Resampling.BOX))
    bits = "".join("1" if b else "0" for b in (cells[:, :-1] > cells[:, 1:]).ravel())
    assert int(dhash([x])[0]) == int(bits, 2)


def test_the_hash_survives_what_copies_go_through():
    rng = np.random.default_rng(0)
    film, other = (
        0.6 * chest(300, 240) + 0.4 * np.kron(rng.random((6, 5)), np.ones((50, 48))) for _ in range(2)
    )
    (code,) = dhash([film])
    copies = [zoom(film, 0.4, order=1), film**1.3, np.round(film * 40) / 40, np.clip(film * 1.2 - 0.05, 0, 1)]
    assert max(int(hamming(code, other)) for other in dhash(copies)) <= 6
    assert int(hamming(code, dhash([other])[0])) > 6


def test_what_is_no_picture_has_no_say():
    film = np.random.default_rng(0).random((80, 90)).astype(np.float32)
    masked = film.copy()
    masked[:3] = np.nan
    assert int(hamming(*dhash([film, masked]))) <= 8


@pytest.mark.parametrize("block", [7, 512])
def test_pairs_equal_a_double_loop(monkeypatch, block):
    monkeypatch.setattr("medfm.data.dedup.BLOCK", block)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**20, 60, dtype=np.uint64)
    split = rng.integers(0, 2, 60)
    for groups in (None, split):
        expected = {
            (i, j): bin(int(codes[i]) ^ int(codes[j])).count("1")
            for i in range(60)
            for j in range(i + 1, 60)
            if bin(int(codes[i]) ^ int(codes[j])).count("1") <= 5 and (groups is None or split[i] != split[j])
        }
        pairs, bits = near_duplicates(codes, 5, groups)
        assert {tuple(p): b for p, b in zip(pairs.tolist(), bits.tolist())} == expected and len(expected) > 10
    assert near_duplicates(codes[:0])[0].shape == (0, 2)


def test_alike_tells_a_copy_from_a_neighbour():
    rng = np.random.default_rng(0)
    film = zoom(chest(), (32 / 300, 32 / 240), order=1)
    copy = np.clip(film * 1.1 + 0.02, 0, 1) + rng.normal(0, 0.01, film.shape)
    neighbour = np.roll(film, 4, axis=1)
    score = alike(np.stack([film, copy, neighbour]), np.array([[0, 1], [0, 2]]))
    assert score[0] > SAME > score[1]
    assert score[1] == pytest.approx(np.corrcoef(film.ravel(), neighbour.ravel())[0, 1], abs=1e-5)


def test_distinct_keeps_one_of_each_group_in_order():
    codes = np.array([0, 1, 0b1111111, 0b11, 0xFF << 40, (0xFF << 40) + 1], np.uint64)
    assert distinct(codes, 2).tolist() == [0, 2, 4]
    assert distinct(codes, 0).tolist() == [0, 1, 2, 3, 4, 5]
    kept = distinct(np.random.default_rng(0).integers(0, 2**16, 300, dtype=np.uint64), 3)
    codes = np.random.default_rng(0).integers(0, 2**16, 300, dtype=np.uint64)
    far = hamming(codes[kept][:, None], codes[kept][None]) + 64 * np.eye(len(kept), dtype=int)
    assert far.min() > 3 and hamming(codes[:, None], codes[kept][None]).min(axis=1).max() <= 3
