"""BM-MAE's masks: exact counts, the shares of Dirichlet, no bias, whole sequences hidden when asked."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.pretraining.sequence_masking import apportion, draw, hidden_sequences

ALL = np.ones((1, 4), bool)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_share_is_apportioned_without_bias_and_sums_exactly():
    shares, capacity = np.array([0.05, 0.123, 0.327, 0.5]), np.full(4, 100)
    found = np.stack([apportion(r, shares, capacity, 7) for r in [rng(1)] for _ in range(10_000)])
    assert (found.sum(1) == 7).all() and (np.abs(found - 7 * shares) < 1).all()
    np.testing.assert_allclose(found.mean(0), 7 * shares, atol=0.02)


def test_what_a_sequence_cannot_hold_goes_to_the_others_by_their_shares():
    found = apportion(rng(), np.array([0.8, 0.1, 0.05, 0.05]), np.array([4, 100, 100, 100]), 16)
    assert found.tolist() == [4, 6, 3, 3]
    for seed in range(200):
        r = rng(seed)
        capacity, shares = r.integers(0, 9, 5), r.dirichlet(np.ones(5))
        total, shares = int(r.integers(0, capacity.sum() + 1)), np.where(capacity, shares, 0)
        found = apportion(r, shares / shares.sum(), capacity, total)
        assert found.sum() == total and (found <= capacity).all() and (found >= 0).all()


def test_shares_are_those_of_dirichlet():
    """4 x 512 tokens, 512 visible: under 5 % of them 1 - .95^3 = 14.3 %, none about .29 % a sequence (the sheet)."""
    r = rng(3)
    counts = np.stack([apportion(r, s, np.full(4, 512), 512) for s in r.dirichlet(np.ones(4), 20_000)])
    assert (counts.sum(1) == 512).all()
    assert (counts < 0.05 * 512).mean() == pytest.approx(0.143, abs=0.006)
    assert (counts == 0).mean() == pytest.approx(0.0029, abs=0.0008)
    np.testing.assert_allclose(counts.mean(0), 128, rtol=0.02)


def test_drawn_masks_have_these_shares_and_counts():
    (group,) = draw(rng(5), np.ones((1500, 4), bool), None, 16, 0.75)
    assert group.visible.shape == (1500, 16) and group.masked.shape == (1500, 48)
    both = np.sort(np.concatenate([group.visible, group.masked], 1), 1)
    np.testing.assert_array_equal(both, np.broadcast_to(np.arange(64), both.shape))
    assert (np.diff(group.visible) > 0).all() and (np.diff(group.masked) > 0).all()
    counts = np.stack([np.bincount(v // 16, minlength=4) for v in group.visible])
    # A share below a sixteenth shows nothing as often as its rounding falls down: integral of (1 - 16 x) 3 (1 - x)^2.
    x = (np.arange(100_000) + 0.5) / 1_600_000
    nothing = ((1 - 16 * x) * 3 * (1 - x) ** 2).sum() / 1_600_000
    assert (counts == 0).mean() == pytest.approx(nothing, abs=0.015)
    inside = np.bincount(group.visible.ravel() % 16, minlength=16) / (1500 * 16)
    np.testing.assert_allclose(inside, 1 / 16, atol=0.008)


def test_subjects_with_equally_many_sequences_stand_together():
    present = np.array([[1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]], bool)
    found = draw(rng(), present, None, 8, 0.75)
    assert [g.rows.tolist() for g in found] == [[1], [2, 4], [0]]
    for group, count in zip(found, (1, 2, 4)):
        assert group.visible.shape[1] == 2 * count and group.masked.shape[1] == 6 * count
        for row, visible, masked in zip(*group):
            tokens = np.concatenate([visible, masked])
            assert sorted(tokens) == [c * 8 + n for c in np.flatnonzero(present[row]) for n in range(8)]


@pytest.mark.parametrize(
    ("tokens", "mask", "visible"), [(8, 0.75, 8), (8, 0.9, 3), (25, 0.9, 10), (1, 0.99, 1), (1, 0.01, 3)]
)
def test_the_visible_count_is_rounded_down_and_never_all_or_none(tokens, mask, visible):
    (group,) = draw(rng(), ALL, None, tokens, mask)
    assert group.visible.shape[1] == visible and group.masked.shape[1] == 4 * tokens - visible


def test_hiding_whole_sequences():
    """At 75 % one sequence can show all that four may: one, two or three are hidden, equally often, whichever."""
    (group,) = draw(rng(), np.ones((1200, 4), bool), None, 16, 0.75, drop_sequence=1.0)
    counts = np.stack([np.bincount(v // 16, minlength=4) for v in group.visible])
    hidden = np.stack([hidden_sequences(r, np.full(4, 16), 16) for r in [rng(1)] for _ in range(1200)])
    np.testing.assert_allclose(
        np.bincount(hidden.sum(1), minlength=4) / 1200, [0, 1 / 3, 1 / 3, 1 / 3], atol=0.04
    )
    np.testing.assert_allclose(hidden.mean(0), 0.5, atol=0.04)
    assert ((counts == 0).sum(1) >= 1).all() and (counts.sum(1) == 16).all()
    assert (counts == 0).mean() > 0.5  # of what is not hidden, Dirichlet leaves some unseen
    assert hidden_sequences(rng(), np.array([16, 16, 0, 0]), 17).sum() == 0  # the other cannot hold them
    assert all(hidden_sequences(rng(s), np.array([16, 16, 16, 0]), 30).sum() == 1 for s in range(20))
    assert not hidden_sequences(rng(), np.array([0, 16, 0, 0]), 4).any()
    (alone,) = draw(rng(), np.array([[0, 1, 0, 0]], bool), None, 16, 0.75, drop_sequence=1.0)
    assert (alone.visible // 16 == 1).all() and alone.visible.shape == (1, 4)


def test_how_often_a_sequence_is_hidden_is_asked_for():
    (group,) = draw(rng(2), np.ones((1500, 4), bool), None, 64, 0.75, drop_sequence=0.25)
    missing = np.mean([len(np.unique(v // 64)) < 4 for v in group.visible])
    assert missing == pytest.approx(0.25 + 0.75 * 0.09, abs=0.03)  # 1 - (1 - .0227)^4 by Dirichlet alone


def test_tokens_are_drawn_from_the_foreground():
    foreground = np.zeros((3, 2, 10), bool)
    foreground[0, :, :4] = foreground[1, :, :5] = foreground[2, :, :6] = True
    seen = np.zeros((3, 20))
    for seed in range(300):
        (group,) = draw(rng(seed), np.ones((3, 2), bool), foreground, 10, 0.5)
        assert group.visible.shape == group.masked.shape == (3, 5)  # of the median subject's ten tokens half
        for row in range(3):
            tokens = np.concatenate([group.visible[row], group.masked[row]])
            assert len(set(tokens)) == 10
            seen[row, tokens] += 1
    inside = foreground.reshape(3, 20)
    assert (seen[0][inside[0]] == 300).all()  # eight of its own, two of the background
    np.testing.assert_allclose(seen[0][~inside[0]], 300 * 2 / 12, atol=25)
    assert (seen[1] == 300 * inside[1]).all()
    assert not seen[2][~inside[2]].any()  # ten of its twelve
    np.testing.assert_allclose(seen[2][inside[2]], 300 * 10 / 12, atol=25)
    present = np.array([[1, 0]], bool)
    (group,) = draw(rng(), present, foreground[2:], 10, 0.5)
    assert set(np.concatenate([group.visible[0], group.masked[0]])) == set(range(6))
    assert draw(rng(), present, np.zeros((1, 2, 10), bool), 10, 0.5)[0].visible.shape == (1, 1)


def test_a_batch_may_hide_one_whole_sequence_of_each_subject_and_show_all_else() -> None:
    rng = np.random.default_rng(4)
    present = np.array([[True, True, False, True]] * 300 + [[False, True, False, False]])
    three, one = sorted(draw(rng, present, None, 8, 0.75, synthesise=1.0), key=lambda g: -len(g.rows))
    assert three.visible.shape == (300, 16) and three.masked.shape == (300, 8)
    hidden = three.masked // 8
    assert (hidden == hidden[:, :1]).all() and set(hidden[:, 0]) == {0, 1, 3}
    np.testing.assert_allclose(np.bincount(hidden[:, 0], minlength=4)[[0, 1, 3]] / 300, 1 / 3, atol=0.09)
    for seen, gone in zip(three.visible, three.masked):
        assert sorted([*seen, *gone]) == [*range(16), *range(24, 32)]
    assert one.visible.shape == (1, 2)  # with one sequence there is nothing to make it from: masked as always
    often = [
        len(g.visible[0]) == 16
        for s in range(400)
        for g in draw(np.random.default_rng(s), present[:2], None, 8, 0.75, synthesise=0.25)
    ]
    assert 0.18 < np.mean(often) < 0.32
