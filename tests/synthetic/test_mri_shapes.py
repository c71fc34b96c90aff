"""Solids of the head: distances inside, and the share of a voxel that they fill."""

import numpy as np
import pytest

from medfm.synthetic.mri_shapes import chain, ellipsoid, fill, join, sheet, wave


def grid(step=1.0, half=20.0):
    axis = np.arange(-half, half + step / 2, step)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3).astype(np.float32)


def test_an_ellipsoid_has_its_volume_and_its_distance():
    p = grid()
    inside = ellipsoid(p, (1, 2, 0), (8, 12, 6))
    assert fill(inside, 1.0).sum() == pytest.approx(4 / 3 * np.pi * 8 * 12 * 6, rel=0.02)
    ball = ellipsoid(p, (0, 0, 0), (10, 10, 10))
    np.testing.assert_allclose(ball, 10 - np.sqrt((p**2).sum(1)), atol=0.01)
    near = ellipsoid(np.array([[1, 2, 6.5], [9.5, 2, 0]], np.float32), (1, 2, 0), (8, 12, 6))
    np.testing.assert_allclose(near, [-0.5, -0.5], atol=0.06)
    boxy = ellipsoid(p, (1, 2, 0), (8, 12, 6), 3.0)
    assert fill(boxy, 1.0).sum() > 1.1 * fill(inside, 1.0).sum()
    np.testing.assert_allclose(
        ellipsoid(np.array([[9.5, 2, 0]]), (1, 2, 0), (8, 12, 6), 3.0), -0.5, atol=0.06
    )


def test_a_tube_follows_its_knots():
    tube = chain(grid(), (((-10, 0, 0), 3.0), ((10, 0, 0), 3.0)))
    assert fill(tube, 1.0).sum() == pytest.approx(np.pi * 9 * 20 + 4 / 3 * np.pi * 27, rel=0.03)
    cone = chain(np.array([[0, 3, 0], [10, 3, 0]], np.float32), (((0, 0, 0), 5.0), ((10, 0, 0), 1.0)))
    np.testing.assert_allclose(cone, [2, -2], atol=1e-5)


@pytest.mark.parametrize("half", [0.3, 1.0, 4.0])
def test_sheets_keep_their_thickness_however_coarse_the_voxels(half):
    for edge in (0.5, 2.0, 5.0):
        at = np.arange(-30, 30, edge) + 0.17 * edge
        assert sheet(at, half, edge).sum() * edge == pytest.approx(2 * half, rel=1e-4)


def test_a_union_is_smooth_and_holds_both():
    a, b = np.array([3.0, -2.0, 0.0]), np.array([-5.0, 4.0, 0.0])
    np.testing.assert_allclose(join(a, b, 4), [3, 4, 1], atol=1e-6)


def test_waves_have_unit_power():
    rng = np.random.default_rng(0)
    table = np.concatenate([rng.normal(size=(20, 3)), rng.uniform(0, 6, (20, 1))], 1).astype(np.float32)
    assert wave(grid(1.0, 15), table).var() == pytest.approx(1, abs=0.1)
