"""Volumes on the model's grid and back: every voxel keeps its place in mm."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest

from medfm.modalities.ct import CT
from medfm.modalities.volume_grid import Turn, axis_codes, body_box, grid_of, nearest, resample
from medfm.modalities.volume_views import axial_slices, plane
from medfm.types import Volume

SLOPE, START = np.array([2.0, -3.0, 1.5]), 40.0


def field(shape, affine):
    """A value that says where it lies: linear in mm."""
    at = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return ((at @ affine[:3, :3].T + affine[:3, 3]) @ SLOPE + START).astype(np.float32)


def oblique(codes="LPS", spacing=(1.0, 2.0, 3.0), angle=0.2):
    affine = np.eye(4)
    for axis, code in enumerate(codes):
        world = next(i for i, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[:3, axis] = 0
        affine[world, axis] = spacing[axis] * (1 if code in "RAS" else -1)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (10.0, -20.0, 30.0)
    return affine


ALL = ["".join(c) for pairs in itertools.permutations(("LR", "PA", "IS")) for c in itertools.product(*pairs)]


@pytest.mark.parametrize("codes", ALL)
def test_axes_turn_as_nibabel_turns_them(codes):
    affine, x = oblique(codes, (1, 1, 1)), np.arange(24.0).reshape(2, 3, 4)
    assert axis_codes(affine) == codes == "".join(nib.aff2axcodes(affine))
    turn = Turn.to(affine, "RAS")
    expected = nib.as_closest_canonical(nib.Nifti1Image(x, affine))
    np.testing.assert_array_equal(turn.apply(x), np.asarray(expected.dataobj))
    np.testing.assert_allclose(turn.affine(affine, x.shape), expected.affine)
    np.testing.assert_array_equal(turn.undo(turn.apply(x)), x)
    np.testing.assert_array_equal(turn.undo(turn.apply(x)[None])[0], x)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SAL"])
@pytest.mark.parametrize("spacing", [(1.0, 2.0, 3.0), (2.5, 2.5, 1.0), (0.7, 0.7, 5.0)])
def test_every_voxel_of_the_new_grid_holds_the_value_of_its_place(codes, spacing):
    affine = oblique(codes, (1.0, 2.0, 3.0))
    volume = Volume(field((45, 30, 40), affine), affine, "HU", "test")
    turn, _, full, steps, grid = grid_of(volume, spacing, "RAS")
    got = resample(turn.apply(volume.x), full, steps)
    assert got.shape == full
    np.testing.assert_allclose(np.linalg.norm(grid[:3, :3], axis=0), spacing, rtol=1e-6)
    margin = tuple(slice(int(np.ceil(max(2, 2 / s))), -int(np.ceil(max(2, 2 / s)))) for s in steps)
    inner = field(full, grid)[margin]
    assert inner.size
    np.testing.assert_allclose(got[margin], inner, atol=2e-3)


def test_larger_voxels_are_means_of_those_they_cover():
    x = np.zeros((40, 1, 1), np.float32)
    x[19] = 8.0  # a plate one voxel thick
    small = resample(x, (10, 1, 1), (4.0, 1.0, 1.0))[:, 0, 0]
    # Box of sqrt(15) about 17.5 and 21.5, of the hat about 19: integrals up to 19.436 and from 19.564.
    width = 15**0.5
    first = 1 - (1 - (17.5 + width / 2 - 19)) ** 2 / 2
    second = (1 - (21.5 - width / 2 - 19)) ** 2 / 2
    np.testing.assert_allclose(small[[4, 5]], 8 * np.array([first, second]) / width, rtol=1e-5)
    assert np.count_nonzero(small > 1e-6) == 2
    # A wave that voxels of 4 cannot hold is gone, and not folded into another.
    wave = np.cos(2 * np.pi * np.arange(400) / 4.4).astype(np.float32)[:, None, None]
    assert np.abs(resample(wave, (100, 1, 1), (4.0, 1.0, 1.0))[5:-5]).max() < 0.15
    assert np.abs(nearest(wave, (100, 1, 1), (4.0, 1.0, 1.0))).max() > 0.9


def test_labels_go_to_the_nearest_voxel():
    np.testing.assert_array_equal(nearest(np.array([1, 2, 3])[:, None, None], (6, 1, 1), (0.5, 1, 1))[:, 0, 0],
                                  [1, 1, 2, 2, 3, 3])  # fmt: skip


def body(shape=(30, 26, 22), at=(6, 5, 4), extent=(12, 10, 9)):
    x = np.full(shape, -1000, np.int16)
    x[tuple(slice(a, a + e) for a, e in zip(at, extent))] = 50
    return x


def test_the_body_box_holds_the_body_and_not_the_table():
    x = body()
    x[:, 24, :] = 100  # a thin table below
    box = body_box(x.astype(np.float32), (6.0, 6.0, 6.0))
    assert [(s.start, s.stop) for s in box] == [(4, 20), (3, 17), (2, 15)]
    assert body_box(np.full((4, 4, 4), -1000.0), (1, 1, 1)) == (slice(0, 4),) * 3


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASL"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.5, 1.0)])
def test_what_is_found_on_the_grid_comes_back_to_its_place_in_the_file(codes, spacing):
    ras = body((70, 64, 60), (24, 22, 20), (20, 16, 14))
    affine = oblique(codes, (1.0, 1.0, 1.0), angle=0.0)
    x = Turn.to(affine, "RAS").undo(ras)
    ct = CT(spacing=spacing, size=(8, 8, 8))
    placed = ct.place(Volume(np.ascontiguousarray(x), affine, "HU", "test"))
    grid = placed.sample.x[0]
    assert grid.size < ras.size  # it was cut to the body
    back = placed.back((grid > -475)[None].astype(np.uint8), order=0)[0]
    wrong = (back != (x > -475)).mean() / (x > -475).mean()
    assert wrong == 0 if spacing == (1.0, 1.0, 1.0) else wrong < 0.12
    linear = placed.back(grid[None], order=1, fill=-1000)[0]
    inner = np.zeros(ras.shape, bool)
    inner[27:41, 25:35, 23:31] = True
    inner = Turn.to(affine, "RAS").undo(inner)
    np.testing.assert_allclose(linear[inner], 50, atol=1e-3)


def test_the_affine_of_a_cut_volume_says_where_it_lies():
    affine = oblique("LPS", (1.0, 1.0, 1.0), angle=0.0)
    x = Turn.to(affine, "RAS").undo(body())
    x[tuple(n // 2 - 12 for n in (30, 26, 22))] = 50
    placed = CT(spacing=(1.0, 1.0, 1.0), size=(8, 8, 8)).place(Volume(x.copy(), affine, "HU", "t"))
    bright = np.argwhere(placed.sample.x[0] > 0).mean(0)
    there = placed.affine[:3, :3] @ bright + placed.affine[:3, 3]
    expected = affine[:3, :3] @ np.argwhere(x > 0).mean(0) + affine[:3, 3]
    np.testing.assert_allclose(there, expected, atol=1e-6)
    np.testing.assert_array_equal(placed.label(np.where(x > 0, 7, 0)) > 0, placed.sample.x[0] > 0)


def test_slices_hang_with_the_front_up_and_the_right_on_the_left():
    x = np.zeros((1, 6, 5, 4), np.float32)  # RAS
    x[0, 5, 4, 3] = 1.0  # right, front, head
    picture, _ = plane(x, "RAS", (1, 1, 1), "axial", 0.99)
    assert picture.shape == (1, 5, 6) and picture[0, 0, 0] == 1.0
    picture, aspect = plane(x, "RAS", (1, 1, 3), "coronal", 0.99)
    assert picture.shape == (1, 4, 6) and picture[0, 0, 0] == 1.0 and aspect == 3.0
    picture, _ = plane(x, "RAS", (1, 1, 1), "sagittal", 0.99)
    assert picture.shape == (1, 4, 5) and picture[0, 0, 0] == 1.0
    turned = Turn.to(oblique("RAS", (1, 1, 1), 0.0), "LPS").apply(x[0])[None]
    np.testing.assert_array_equal(plane(turned, "LPS", (1, 1, 1), "coronal", 0.99)[0], plane(x, "RAS", (1, 1, 1), "coronal", 0.99)[0])  # fmt: skip
    assert axial_slices(x[None], "RAS", (1, 2, 1)).shape == (1, 1, 10, 6)
