"""ECG-JEPA's masks: exact counts, the measured distribution of the official ones, no short runs, speed."""

from __future__ import annotations

import time

import numpy as np
import pytest

from medfm.pretraining.masking import interval_masks


def draw(seed, batch=64, tokens=200, keep=(0.15, 0.25), min_block=10):
    return interval_masks(np.random.default_rng(seed), batch, tokens, keep, min_block)


def runs(hidden: np.ndarray) -> np.ndarray:
    """Lengths of the runs of True."""
    edges = np.diff(np.concatenate([[0], hidden.astype(int), [0]]))
    return np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)


@pytest.mark.parametrize(("tokens", "min_block"), [(200, 10), (100, 5), (50, 2), (7, 1), (3, 10)])
def test_visible_and_masked_are_a_partition_of_equal_sizes(tokens, min_block):
    for seed in range(20):
        visible, masked = draw(seed, 8, tokens, min_block=min_block)
        assert visible.shape[1] + masked.shape[1] == tokens and 0 < visible.shape[1] < tokens
        for v, m in zip(visible, masked):
            assert sorted([*v, *m]) == list(range(tokens))
            assert (np.diff(v) > 0).all() and (np.diff(m) > 0).all()


def test_the_visible_count_is_the_ceiling_of_a_uniform_share():
    counts = np.array([draw(seed, 1)[0].shape[1] for seed in range(4000)])
    assert counts.min() == 31 and counts.max() == 50  # ceil of (30, 50): 30 itself has probability zero
    share = np.bincount(counts)[31:51] / len(counts)
    assert np.abs(share - 1 / 20).max() < 4 * np.sqrt(0.05 * 0.95 / 4000)


def test_distribution_of_runs_is_the_official_one():
    """Mean 2.68 masked runs of mean length 59.6 tokens, quartiles 19, 42, 97; 1, 3, 4 runs at 5, 50, 95 %."""
    lengths, counts = [], []
    for seed in range(250):
        visible, _ = draw(seed, 20)
        for row in visible:
            hidden = np.ones(200, bool)
            hidden[row] = False
            found = runs(hidden)
            lengths.extend(found)
            counts.append(len(found))
    counts, lengths = np.array(counts), np.array(lengths)
    assert len(counts) == 5000
    # Both figures come from 5000 draws too, so their difference has twice the variance of one.
    assert abs(counts.mean() - 2.68) < 4 * counts.std() * np.sqrt(2 / 5000) + 0.005
    assert abs(lengths.mean() - 59.6) < 4 * lengths.std() * np.sqrt(2 / len(lengths)) + 0.05
    assert np.abs(np.percentile(lengths, [25, 50, 75]) - [19, 42, 97]).max() <= 4
    assert np.percentile(counts, [5, 50, 95]).tolist() == [1, 3, 4]


def test_every_position_is_hidden_about_as_often_as_its_mirror_image():
    hidden = np.zeros(200)
    for seed in range(200):
        for row in draw(seed, 20)[1]:
            hidden[row] += 1
    hidden /= 4000
    assert np.abs(hidden - hidden[::-1]).max() < 6 * np.sqrt(2 * 0.25 / 4000)


def test_no_masked_run_is_shorter_than_the_minimum():
    """The last, small block leans on a run that is masked already."""
    short = 0
    for seed in range(300):
        for row in draw(seed, 4)[0]:
            hidden = np.ones(200, bool)
            hidden[row] = False
            short += int((runs(hidden) < 10).sum())
    assert short == 0


def test_masks_are_a_function_of_the_generator():
    first, again, other = draw(3), draw(3), draw(4)
    assert np.array_equal(first[1], again[1])
    assert first[1].shape != other[1].shape or not np.array_equal(first[1], other[1])


def test_records_of_a_batch_have_masks_of_their_own():
    visible, _ = draw(0)
    assert len({tuple(row) for row in visible}) > 60


def test_a_batch_of_64_takes_under_two_milliseconds():
    draw(0)
    times = []
    for seed in range(30):
        start = time.process_time()
        draw(seed)
        times.append(time.process_time() - start)
    assert min(times) < 2e-3
