"""Line integrals of simple bodies against what a hand works out."""

import numpy as np
import pytest

from medfm.synthetic.projection import Beam, ellipsoid, enlarge, filled, smoothing, sweep

PARALLEL = Beam("PA", (96, 128), 1.0, sid=np.inf)


def _line(direction, length, centre=(0.0, 0.0, 0.0), step=0.25):
    n = round(length / step)
    along = (np.arange(n) + 0.5) * step - length / 2
    return np.array(centre) + along[:, None] * np.array(direction, float), np.full(n, step)


def test_a_flat_wall_fills_slabs_by_its_position():
    """Planes at 0, 10 and 20 mm, a wall at 13: the first slab is full, the second to three tenths."""
    planes = np.array([13.0, 3.0, -7.0], np.float32)[:, None, None]
    assert filled(planes, 0.5)[:, 0, 0] == pytest.approx([1.0, 0.3], abs=1e-6)
    assert filled(-planes, 0.5)[:, 0, 0] == pytest.approx([0.0, 0.7], abs=1e-6)


def test_a_wall_along_the_ray_is_rounded_over_the_softness():
    inside = np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32)
    share = filled(np.stack([inside, inside])[:, None], 1.0)[0, 0]
    assert share == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-6)


@pytest.mark.parametrize("view", ["PA", "AP", "LL"])
def test_a_ball_in_slabs_has_the_chords_of_a_ball(view):
    beam = Beam(view, (96, 128), 1.0, sid=np.inf)
    heights = np.linspace(-45, 45, 31)
    x, y, z = beam.points(heights)
    inside = 40 - np.sqrt(x**2 + y**2 + z**2)
    chord = filled(inside, 0.5).sum(axis=0) * 3
    r2 = (np.arange(96) - 47.5)[:, None] ** 2 + (np.arange(128) - 63.5) ** 2
    away = np.abs(np.sqrt(r2) - 40) > 2
    np.testing.assert_allclose(chord[away], 2 * np.sqrt(np.maximum(1600 - r2, 0))[away], atol=0.9)
    assert chord.sum() == pytest.approx(4 / 3 * np.pi * 40**3, rel=0.003)


def test_a_tube_across_the_rays_has_the_chord_of_a_cylinder():
    points, length = _line((1, 0, 0), 60)
    image = sweep(PARALLEL, points, np.full(len(points), 10.0), length, blur=0.35)
    d = np.arange(96) - 47.5
    chord = 2 * np.sqrt(np.maximum(100 - d**2, 0))
    inner = np.abs(d) < 8
    # shared between the two tabled discs next to 10 mm: a few percent of the radius
    np.testing.assert_allclose(image[inner, 64], chord[inner], rtol=0.08)
    assert image[:, 64].sum() == pytest.approx(np.pi * 100, rel=0.01)
    assert image.sum() == pytest.approx(np.pi * 100 * 60, rel=0.001)
    assert np.abs(image[np.abs(d) > 15]).max() < 0.1


def test_a_tube_along_the_rays_is_as_deep_as_it_is_long():
    points, length = _line((0, 1, 0), 30)
    image = sweep(PARALLEL, points, np.full(len(points), 13.0), length, blur=0.35)
    assert image[47, 63] == pytest.approx(30, rel=0.02)
    assert image.sum() == pytest.approx(np.pi * 169 * 30, rel=0.001)


@pytest.mark.parametrize("radius", [0.1, 0.33, 2.0, 5.5])
def test_volumes_are_kept_for_every_radius(radius):
    points, length = _line((0.6, 0.0, 0.8), 40)
    image = sweep(PARALLEL, points, np.full(len(points), radius), length, blur=0.35)
    assert image.sum() == pytest.approx(np.pi * radius**2 * 40, rel=0.002)


def test_what_leaves_the_detector_does_not_come_back_on_the_other_side():
    points, length = _line((1, 0, 0), 40, centre=(74, 0, 0))
    image = sweep(PARALLEL, points, np.full(len(points), 4.0), length, blur=0.35)
    assert image[:, 100:].max() > 5 and np.abs(image[:, :20]).max() < 0.05
    assert not sweep(
        PARALLEL, points + np.array([500, 0, 0]), np.full(len(points), 4.0), length, blur=0.35
    ).any()


def test_a_point_source_enlarges_what_is_near_it():
    """At height w the detector shows each mm as sid / (sid - mid - w) mm."""
    beam = Beam("PA", (101, 101), 2.0, sid=1000.0, mid=200.0, shift=(6.0, -4.0))
    column, row, m = beam.project(np.array([[30.0, 0, 10.0], [30.0, 100.0, 10.0]]))
    assert m == pytest.approx([1.25, 1000 / 700])
    assert column == pytest.approx([50 + (30 * 1.25 + 6) / 2, 50 + (30 * 1000 / 700 + 6) / 2])
    assert row == pytest.approx([50 + (-10 * 1.25 - 4) / 2, 50 + (-10 * 1000 / 700 - 4) / 2])
    x, y, z = beam.points(np.array([100.0]))
    back = beam.project(np.array([x[0, 0, 20], y[0, 0, 20], z[0, 30, 0]]))
    assert back[0] == pytest.approx(20, abs=1e-4) and back[1] == pytest.approx(30, abs=1e-4)


def test_sides_and_heights_of_the_views():
    """PA and AP show the patient's left on the right; the source is behind, before, and on the right side."""
    left, behind = np.array([50.0, 0, 0]), np.array([0, 80.0, 0])
    for view, near in (("PA", True), ("AP", False)):
        beam = Beam(view, (64, 64), 4.0, sid=1000)
        assert beam.project(left)[0] > 32
        assert (beam.project(behind)[2] > beam.project(-behind)[2]) == near
    lateral = Beam("LL", (64, 64), 4.0, sid=1000)
    assert lateral.project(behind)[0] > 32 and lateral.project(left)[2] < lateral.project(-left)[2]


def test_a_turned_patient_is_a_turned_axis():
    beam = Beam("PA", (65, 65), 1.0, sid=np.inf, turn=30.0)
    column, _, _ = beam.project(np.array([20.0, 0, 0]))
    assert column == pytest.approx(32 + 20 * np.cos(np.deg2rad(30)))


def test_an_ellipsoid_keeps_its_volume_and_its_middle_chord():
    radii = np.array([12.0, 30.0, 20.0])
    image = ellipsoid(PARALLEL, np.array([5.0, 0, -6.0]), radii)
    assert image.sum() == pytest.approx(4 / 3 * np.pi * radii.prod(), rel=0.005)
    assert image.max() == pytest.approx(60, rel=0.01)
    turned = Beam("PA", (96, 128), 1.0, sid=np.inf, turn=20.0)
    assert ellipsoid(turned, np.zeros(3), radii).sum() == pytest.approx(image.sum(), rel=0.005)


def test_enlarging_keeps_straight_lines_and_smoothing_keeps_constants():
    ramp = np.arange(20.0)
    fine = enlarge(20, 35) @ ramp
    expected = (np.arange(35) + 0.5) * 20 / 35 - 0.5
    np.testing.assert_allclose(fine[4:-4], expected[4:-4], atol=1e-5)
    np.testing.assert_allclose(smoothing(50, 3.0) @ np.ones(50), 1, atol=1e-6)
    step = smoothing(200, 5.0) @ (np.arange(200) >= 100)
    assert step[105] - step[94] == pytest.approx(0.729, abs=0.005)  # 2 Phi(1.1) - 1
