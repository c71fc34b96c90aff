"""The phantom: the same person in every batch, organs where they belong, of the size of organs."""

import numpy as np
import pytest

from medfm.synthetic.anatomy import draw_thoraces, near, window
from medfm.synthetic.draws import Draws
from medfm.synthetic.lung_trees import vessels
from medfm.synthetic.skeleton import airways, bones


def people(numbers, age=50.0, male=True, enlarged=False, lying=False):
    n = len(numbers)
    person = Draws([(5, 1, k) for k in numbers], 4096 + 256)
    day = Draws([(5, 2, k) for k in numbers], 64)
    flags = (np.full(n, v) for v in (age, male, enlarged, lying))
    return draw_thoraces(person, day, *flags)


@pytest.fixture(scope="module")
def grid():
    """3 mm voxels: x, y and z broadcast to [z, y, x]."""
    x, y, z = (np.arange(-a, a, 3, dtype=np.float32) for a in (180, 130, 280))
    return x[None, None], y[None, :, None], z[:, None, None]


def test_a_person_is_the_same_alone_and_among_others(grid):
    among, alone = people([3, 4, 5])[1], people([4])[0]
    np.testing.assert_array_equal(among.pleural_space(*grid), alone.pleural_space(*grid))
    np.testing.assert_array_equal(bones(among)[0].points, bones(alone)[0].points)
    assert people([3])[0].width != alone.width


def test_lungs_have_the_volume_of_lungs(grid):
    """Total lung capacity of men is some 5 to 8 litres; an average of a few people, gas and vessels together."""
    litres = [(t.pleural_space(*grid) > 0).sum() * 27e-6 for t in people(range(8))]
    assert 4.5 < np.mean(litres) < 7.5 and min(litres) > 3
    women = [(t.pleural_space(*grid) > 0).sum() * 27e-6 for t in people(range(8), male=False)]
    assert np.mean(women) < 0.92 * np.mean(litres)


def test_organs_do_not_share_room_and_stand_on_their_side(grid):
    t = people([1])[0]
    lung = t.pleural_space(*grid) > 0
    heart = t.in_heart(*grid) > 0
    assert not (lung & heart).any() and not (lung & (t.in_mediastinum(*grid) > 0)).any()
    x = np.broadcast_to(grid[0], lung.shape)
    z = np.broadcast_to(grid[2], lung.shape)
    assert x[heart].mean() > 8  # the apex points to the left
    assert lung[x < 0].sum() > 0 and lung[x > 0].sum() > 0
    assert 300 < heart.sum() * 27e-3 < 1000  # ml, great vessels' roots included
    # the right half of the diaphragm is higher
    assert t.domes[0] > t.domes[1]
    assert z[lung].max() == pytest.approx(126 * t.height, abs=4)


def test_the_window_leaves_nothing_out(grid):
    """Fields are evaluated in parts of the grid only; the whole grid says the same."""
    t = people([2])[0]
    whole = np.minimum(t.hull(*grid), t.above_diaphragm(*grid))
    whole = np.minimum(whole, np.minimum(-t.in_heart(*grid), -t.in_mediastinum(*grid)))
    whole = np.where(grid[2] > 126 * t.height, -1, whole)
    np.testing.assert_array_equal(whole > 0, t.pleural_space(*grid) > 0)
    box = window(grid, (-10, -20, 30), (10, 500, 60))
    assert (
        np.ptp(near(grid[0], box)) == 18
        and near(grid[1], box).min() == -19
        and near(grid[2], box).max() <= 60
    )
    assert np.broadcast_shapes(*(near(v, box).shape for v in grid)) == lung_shape(box)


def lung_shape(box):
    return tuple(s.stop - s.start for s in box)


def test_a_shallow_breath_and_a_large_heart_do_what_they_do(grid):
    deep, shallow = people([6])[0], people([6], lying=True)[0]
    assert shallow.domes[0] > deep.domes[0] and shallow.inspiration < deep.inspiration
    assert (shallow.pleural_space(*grid) > 0).sum() < (deep.pleural_space(*grid) > 0).sum()
    assert people([6], enlarged=True)[0].heart > 1.04 * deep.heart


def test_bones_surround_the_lungs_and_vessels_stay_inside():
    t = people([7])[0]
    outer, marrow = bones(t)
    depth = t.pleural_space(*outer.points.astype(np.float32).T)
    assert depth.max() < 0
    assert outer.points[:, 0].min() == pytest.approx(-outer.points[:, 0].max(), rel=0.02)
    assert np.all(marrow.radius < outer.radius.max()) and len(marrow.points) > 0.8 * len(outer.points)
    tree = vessels(t, t.pleural_space)
    assert np.all(t.pleural_space(*tree.points.astype(np.float32).T) > -2)
    assert tree.radius.max() > 5 and np.median(tree.radius) < 2
    ml = np.sum(np.pi * tree.radius**2 * tree.length) / 1000
    assert 80 < ml < 500  # blood in the lungs' vessels outside the hila
    assert airways(t).points[:, 2].max() > 150


def test_twelve_ribs_a_side_at_falling_heights():
    t = people([8])[0]
    from medfm.synthetic.skeleton import ribs

    for side, (points, _, _) in zip((-1, 1), ribs(t)):
        ribs = points.reshape(12, -1, 3)
        assert np.all(np.diff(ribs[:, 0, 2]) < -15) and np.all(ribs[:, 100, 0] * side > 0)
        assert np.all(ribs[:10, -1, 2] < ribs[:10, 0, 2])  # their front ends lie lower
