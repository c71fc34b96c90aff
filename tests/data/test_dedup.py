"""The difference hash by hand; near-duplicates and copies against a plain double loop."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import zoom
from xray_pictures import chest

from medfm.data.dedup import SAME, SHARP, alike, copies, dhash, hamming, near_duplicates, reduced


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


def test_reductions_are_block_means_and_no_picture_is_black():
    x = np.random.default_rng(0).random((64, 96)).astype(np.float32)
    blocks = x.reshape(32, 2, 32, 3).mean(axis=(1, 3))
    assert np.array_equal(reduced(x), np.rint(255 * blocks).astype(np.uint8))
    x[:4] = np.nan
    assert not reduced(x)[:2].any() and reduced(x)[2:].any() and reduced(x[:20, :20]).shape == (32, 32)


def pairs_of_every_kind() -> list[np.ndarray]:
    """Seven pictures ``[64, 64]`` of coarse noise: for each condition of a copy there are two that miss it alone."""
    rng = np.random.default_rng(0)

    def noise(side: int = 32) -> np.ndarray:
        return np.kron(rng.random((side, side)), np.ones((64 // side, 64 // side)))

    film, down, right = noise(), np.linspace(0, 1, 64)[:, None], np.linspace(1, 0, 64)[None]
    corner = np.zeros((64, 64))
    corner[:16, :16] = noise()[:16, :16]
    return [
        film * 0.3,
        film * 0.3 + rng.normal(0, 0.003, film.shape),  # a copy of the first
        film * 0.3 + 0.7 * down,  # its edges and its hash, but not its grey
        right * 0.9 + 0.1 * noise(),
        right * 0.9 + 0.1 * noise(),  # grey and hash of the one before, and other edges
        corner + 1e-4 * noise(8),
        corner + 1e-4 * noise(8),  # grey and edges of the one before, and in the dark another hash
    ]


@pytest.mark.parametrize("block", [2, 512])
def test_copies_equal_a_double_loop(monkeypatch, block):
    monkeypatch.setattr("medfm.data.dedup.BLOCK", block)
    films = pairs_of_every_kind()
    codes, small = dhash(films), np.stack([reduced(f) for f in films])
    grey = small.astype(float)
    edges = [np.r_[np.diff(g, axis=0).ravel(), np.diff(g, axis=1).ravel()] for g in grey]
    met = {}
    for i in range(7):
        for j in range(i + 1, 7):
            bits = bin(int(codes[i]) ^ int(codes[j])).count("1")
            whole = np.corrcoef(grey[i].ravel(), grey[j].ravel())[0, 1]
            sharp = np.corrcoef(edges[i], edges[j])[0, 1]
            assert alike(small, np.array([[i, j]]), edges=True)[0] == pytest.approx(sharp, abs=1e-5)
            met[i, j] = (bits <= 6, bool(whole > SAME), bool(sharp > SHARP))
    assert [pair for pair, each in met.items() if all(each)] == [(0, 1)] and copies(
        codes, small
    ).tolist() == [[0, 1]]
    assert [met[pair] for pair in ((0, 2), (3, 4), (5, 6))] == [
        (True, False, True),
        (True, True, False),
        (False, True, True),
    ]
    assert copies(codes[:0], small[:0]).shape == (0, 2)


def test_copies_by_what_happens_to_films():
    """Recompressed, made smaller, another gamma, another window: still one film. Another posture is another one."""
    rng = np.random.default_rng(0)
    film, other = (
        0.6 * chest(300, 240) + 0.4 * np.kron(rng.random((6, 5)), np.ones((50, 48))) for _ in range(2)
    )
    same = [zoom(film, 0.4, order=1), film**1.3, np.round(film * 40) / 40, np.clip(film * 1.2 - 0.05, 0, 1)]
    everything = [film, *same, other, np.roll(film, 12, axis=1)]
    pairs = copies(dhash(everything), np.stack([reduced(f) for f in everything]))
    assert {tuple(p) for p in pairs.tolist()} == {(i, j) for i in range(5) for j in range(i + 1, 5)}
