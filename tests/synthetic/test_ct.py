"""The CT phantom: who lies where, how large and how bright; the scanner's slices, noise and table."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medfm.synthetic import ct_scan
from medfm.synthetic.ct import simulate
from medfm.synthetic.ct_grid import Grid, Pose
from medfm.synthetic.ct_measures import findings, measure
from medfm.synthetic.ct_paint import LABEL, ORGANS
from medfm.types import ConfigError

HEALTHY = [(s, 0) for s in range(12)]


@pytest.fixture(scope="module")
def healthy():
    return simulate(HEALTHY, 5, spacing=4.0, conditions="normal", keep=True)


@pytest.fixture(scope="module")
def ill():
    found = ("liver_lesion", "lung_nodule", "kidney_cyst", "splenomegaly", "aneurysm", "effusion")
    return simulate([(s, 0) for s in range(5)], 6, spacing=3.5, conditions=found, keep=True)


def centre(scan, name):
    """mm, RAS+, of the middle of an organ."""
    at = np.argwhere(scan.label == LABEL[name]).mean(0)
    return scan.affine[:3, :3] @ at + scan.affine[:3, 3]


def inside(scan, name, edge=1):
    """Voxels of an organ that lie ``edge`` voxels below its surface."""
    return ndimage.binary_erosion(scan.label == LABEL[name], iterations=edge)


def test_a_scan_does_not_depend_on_who_is_scanned_beside(healthy):
    alone = simulate([(7, 0)], 5, spacing=4.0, conditions="normal", keep=True)
    for name in ("x", "label", "affine", "clean"):
        np.testing.assert_array_equal(getattr(alone.scans[0], name), getattr(healthy.scans[7], name))
    again = simulate([(7, 1)], 5, spacing=4.0, conditions="normal")
    assert again.patients == alone.patients and again.records != alone.records
    # another day: another field and pose, the same liver
    assert not np.array_equal(again.scans[0].affine, alone.scans[0].affine)
    liver = [c.measures["volume_liver_ml"][0] for c in (alone, again)]
    assert liver[1] == pytest.approx(liver[0], rel=0.1)
    other = simulate([(7, 0)], 6, spacing=4.0, conditions="normal")
    assert other.scans[0].x.shape != alone.scans[0].x.shape or (other.scans[0].x != alone.scans[0].x).any()


def test_volumes_have_shapes_of_their_own_and_are_ras(healthy):
    assert len({s.x.shape for s in healthy.scans}) == len(healthy.scans)
    for s in healthy.scans:
        assert s.x.dtype == np.int16 and s.label.dtype == np.uint8 and s.label.shape == s.x.shape
        assert nib.aff2axcodes(s.affine) == ("R", "A", "S")
        np.testing.assert_allclose(np.diag(s.affine), [4, 4, 4, 1])
        assert set(np.unique(s.label)) <= set(range(len(ORGANS)))


def test_organs_lie_where_they_belong(healthy):
    for s in healthy.scans:
        at = {name: centre(s, name) for name in ORGANS[2:14]}
        right, front, up = range(3)
        assert at["liver"][right] > at["spleen"][right] + 80
        assert at["lung_right"][right] > at["lung_left"][right] + 80
        assert at["kidney_right"][right] > at["spine"][right] + 30 > at["kidney_left"][right] + 60
        assert at["stomach"][right] < at["spine"][right]
        assert at["heart"][right] < at["spine"][right] + 5
        # behind the liver, and the right one not above the left
        assert max(at["kidney_right"][front], at["kidney_left"][front]) < at["liver"][front] - 20
        assert at["spleen"][front] < at["stomach"][front]
        tops = [np.flatnonzero((s.label == LABEL[n]).any((0, 1)))[-1] for n in ("liver", "kidney_right")]
        assert at["heart"][up] > at["liver"][up] and tops[0] > tops[1] + 1
        low = s.label[:, :, : s.label.shape[2] // 3]  # of the lower aorta: left of and before the spine
        aorta, spine = (np.argwhere(low == LABEL[n]).mean(0) for n in ("aorta", "spine"))
        assert aorta[0] < spine[0] and aorta[1] > spine[1] + 5
        assert np.mean(s.x[s.label == LABEL["background"]] < -700) > 0.9


def test_hounsfield_units_are_those_of_the_tissues(healthy):
    ranges = {
        "none": {"liver": (48, 68), "spleen": (42, 58), "aorta": (30, 52), "heart": (35, 52)},
        "arterial": {"liver": (50, 75), "spleen": (85, 145), "aorta": (220, 400)},
        "portal": {"liver": (88, 130), "spleen": (95, 150), "aorta": (115, 190)},
    }
    seen = set()
    for s, setting in zip(healthy.scans, healthy.settings):
        seen.add(setting.phase)
        for name, (low, high) in ranges[setting.phase].items():
            assert low < np.median(s.clean[inside(s, name)]) < high, (setting.phase, name)
        for name in ("lung_right", "lung_left"):
            assert -920 < np.median(s.clean[inside(s, name)]) < -760
        assert np.median(s.clean[s.label == LABEL["airways"]]) < -850
        assert 150 < np.median(s.clean[s.label == LABEL["spine"]]) < 700
        body = s.clean[s.label == LABEL["body"]]
        # fat and muscle are two peaks
        counts, edges = np.histogram(body, bins=np.arange(-200, 200, 10))
        peaks = edges[:-1][
            (counts > np.roll(counts, 1)) & (counts > np.roll(counts, -1)) & (counts > len(body) / 40)
        ]
        assert any(-120 <= p <= -85 for p in peaks) and any(35 <= p <= 75 for p in peaks)
    assert seen == set(ranges)


def test_the_renal_cortex_lights_up_first():
    scans = simulate(
        [(s, 0) for s in range(20, 25)], 5, spacing=3.0, conditions="normal", keep=True, field="abdomen"
    )
    spread = {}
    for s, setting in zip(scans.scans, scans.settings):
        kidney = s.label == LABEL["kidney_left"]
        depth = ndimage.distance_transform_edt(kidney) * 3
        rim, core = (np.median(s.clean[where]) for where in ((depth > 3) & (depth < 6), depth > 10))
        spread.setdefault(setting.phase, []).append(rim - core)
        # nothing of the chest is painted over a kidney
        assert np.percentile(s.clean[depth > 3], 5) > 10
    assert min(spread["arterial"]) > 40 > 12 > np.abs(spread["portal"]).max()


def test_organs_have_the_volumes_of_adults(healthy):
    m = healthy.measures
    lungs = m["volume_lung_right_ml"] + m["volume_lung_left_ml"]
    assert lungs.min() > 2900 and lungs.max() < 7200 and np.ptp(lungs) > 1500
    assert (m["volume_lung_right_ml"] > m["volume_lung_left_ml"]).mean() > 0.8
    for name, low, high in (
        ("liver", 1000, 2200),
        ("spleen", 80, 400),
        ("kidney_right", 100, 250),
        ("kidney_left", 100, 250),
        ("heart", 280, 1200),
    ):
        known = m[f"volume_{name}_ml"][~np.isnan(m[f"volume_{name}_ml"])]
        assert len(known) >= 6 and low <= known.min() and known.max() <= high, name


def test_measures_are_those_of_the_label_map(healthy, ill):
    for part in (healthy, ill):
        ml = np.prod(np.diag(part.scans[0].affine)[:3]) / 1000
        for k, s in enumerate(part.scans):
            np.testing.assert_allclose(
                part.measures["volume_heart_ml"][k], (s.label == LABEL["heart"]).sum() * ml, rtol=1e-6
            )
            # an organ that the field cuts has no volume
            liver = (s.label == LABEL["liver"]) | (s.label == LABEL["liver_lesion"])
            cut = (s.label == LABEL["liver"])[:, :, [0, -1]].any()
            expected = np.nan if cut else liver.sum() * ml
            np.testing.assert_allclose(part.measures["volume_liver_ml"][k], expected, rtol=1e-6)
    box = np.zeros((40, 30, 20), np.uint8)
    box[10:20, 5:15, 5:15] = LABEL["heart"]
    box[2:27, 16:20, 5:15] = LABEL["lung_left"]
    assert measure(box, (2.0, 2.0, 2.0))["ctr"] == pytest.approx(10 / 25)
    box[25:31, 20:26, 8:14] = LABEL["lung_nodule"]
    known = measure(box, (8.0, 8.0, 8.0))
    assert known["nodule_mm"] == pytest.approx((6 * 216 * 512 / np.pi) ** (1 / 3))
    assert np.isnan(known["liver_lesion_ml"]) and np.isnan(findings(known)["liver_lesion"])


def test_the_ill_have_what_was_drawn_and_the_healthy_do_not(healthy, ill):
    for name in ("liver_lesion", "lung_nodule", "kidney_cyst", "aneurysm", "effusion", "splenomegaly"):
        assert (ill.labels[name] == 1).all(), name
        assert not (healthy.labels[name] == 1).any(), name
    assert ill.measures["aorta_mm"].min() > 40 > healthy.measures["aorta_mm"].max()


def test_lesions_lie_in_their_organs_and_look_like_themselves(ill):
    around = ndimage.generate_binary_structure(3, 1)
    homes = {
        "liver_lesion": ({"liver", "liver_lesion"}, 0.85),
        "lung_nodule": ({"lung_right", "lung_left", "lung_nodule"}, 0.75),
        "kidney_cyst": ({"kidney_right", "kidney_left", "kidney_cyst"}, 0.2),
    }
    for s, setting in zip(ill.scans, ill.settings):
        for name, (home, share) in homes.items():
            mask = s.label == LABEL[name]
            shell = ndimage.binary_dilation(mask, around) & ~mask
            assert mask.any() and np.isin(s.label[shell], [LABEL[n] for n in home]).mean() > share, name
        liver, lesion = (np.median(s.clean[inside(s, n)]) for n in ("liver", "liver_lesion"))
        assert lesion < liver - 12, setting.phase
        assert -10 < np.median(s.clean[s.label == LABEL["kidney_cyst"]]) < 40
        assert -10 < np.median(s.clean[inside(s, "effusion")]) < 25
        fluid = np.argwhere(s.label == LABEL["effusion"])[:, 1].mean()  # lying: it runs to the back
        lungs = np.argwhere(np.isin(s.label, (LABEL["lung_right"], LABEL["lung_left"])))[:, 1].mean()
        assert fluid < lungs - 5


def test_thick_slices_are_the_mean_of_thin_ones():
    rng = np.random.default_rng(0)
    fine = rng.normal(size=(4, 3, 18)).astype(np.float32)
    expected = fine.reshape(4, 3, 6, 3).mean(-1)
    np.testing.assert_allclose(ct_scan.thicken(fine, 3, 3), expected, atol=1e-6)
    over = ct_scan.thicken(fine, 3, 5)  # thicker than the step: neighbours overlap
    np.testing.assert_allclose(over[:, :, 2], fine[:, :, 5:10].mean(-1), atol=1e-6)
    np.testing.assert_array_equal(ct_scan.thicken(fine, 3, 1), fine[:, :, 1::3])


def test_a_thick_scan_is_a_thin_one_averaged():
    found = {"spacing": (4.0, 4.0, 9.0), "conditions": "normal", "keep": True, "field": "chest"}
    thick = simulate([(3, 0)], 8, **found)
    n = thick.scans[0].x.shape[2]
    assert thick.settings[0].thickness == 9
    thin = simulate([(3, 0)], 8, **(found | {"spacing": (4.0, 4.0, 3.0), "size": (1000, 1000, 3 * n)}))
    a, b = thick.scans[0], thin.scans[0]
    assert b.x.shape[2] == 3 * n  # the same field to the slice
    np.testing.assert_allclose(a.clean, b.clean.reshape(*b.x.shape[:2], n, 3).mean(-1), atol=0.05)
    np.testing.assert_array_equal(a.label, b.label[:, :, 1::3])
    np.testing.assert_allclose(a.affine[2, 3], b.affine[2, 3] + 3)


@pytest.mark.parametrize("level", [5.0, 20.0])
def test_noise_is_as_loud_as_asked_for(level):
    part = simulate([(1, 0), (2, 0)], 3, spacing=4.0, noise=level, conditions="normal", keep=True)
    for s in part.scans:
        asked = ct_scan.noise_level(s.clean, (4.0, 4.0, 4.0), level)
        organ = inside(s, "liver")
        measured = (s.x - s.clean)[organ] / asked[organ]
        assert measured.std() == pytest.approx(1, abs=0.06) and abs(measured.mean()) < 0.05
        assert 0.4 * level < asked[organ].mean() < 2.5 * level
    silent = simulate([(1, 0)], 3, spacing=4.0, noise=0.0, conditions="normal", keep=True)
    inner = silent.scans[0].label > 1
    assert np.abs(silent.scans[0].x - silent.scans[0].clean)[inner].max() <= 0.5
    np.testing.assert_array_equal(silent.scans[0].clean, part.scans[0].clean)


def test_noise_grows_with_the_body_and_towards_its_middle():
    x, y = (np.arange(80) - 39.5)[:, None, None], (np.arange(80) - 39.5)[None, :, None]
    radius = np.array([20.0, 30.0, 36.0])
    water = np.where(np.hypot(x, y) < radius, 0.0, -1000.0).astype(np.float32)
    level = ct_scan.noise_level(water, (5.0, 5.0, 5.0), 10.0)
    middle = level[40, 40]
    assert middle[0] < middle[1] < middle[2]
    assert level[12, 40, 1] < 0.85 * middle[1]
    # 270 mm of water is the body for which noise is stated
    disc = np.where(np.hypot(x, y) < 27, 0.0, -1000.0).astype(np.float32)
    assert ct_scan.noise_level(disc, (5.0, 5.0, 5.0), 10.0)[40, 40, 0] == pytest.approx(10, rel=0.02)


def test_smooth_noise_has_unit_deviation_and_the_length_asked_for():
    noise = ct_scan.smooth_noise(np.random.default_rng(1), (60, 60, 60), np.array([1.5, 1.5, 0.0]))
    assert noise.std() == pytest.approx(1, abs=0.02)
    along = [np.mean(noise * np.roll(noise, 1, axis)) for axis in range(3)]
    # the autocorrelation of a Gaussian kernel: exp(-d^2 / 4 s^2)
    np.testing.assert_allclose(along, [np.exp(-1 / 9), np.exp(-1 / 9), 0], atol=0.03)


def test_there_is_a_table_under_the_patient_and_padding_where_a_vendor_has_it(healthy):
    for s, setting in zip(healthy.scans, healthy.settings):
        air = (s.label == 0) & (s.clean > -900)
        body = s.label > 0
        behind = np.argwhere(air)[:, 1].mean()
        assert air.sum() > 200 and behind < np.argwhere(body)[:, 1].mean() - 15
        assert (s.x[0, 0] == -1024).all() == setting.device.circle
        assert s.x.min() >= -1024


def test_the_grid_and_its_points_agree():
    rng = np.random.default_rng(2)
    waves = rng.normal(0, 3, (2, 3, 7))
    waves[..., 1:4] = 2 * np.pi / 400
    grid = Grid(
        (3.0, 4.0, 5.0), (50, 40, 30), (70.0, 80.0, -75.0), Pose(6.0, (0.03, -0.02), (5.0, -9.0), waves)
    )
    x, y, z = grid.body
    spots = rng.integers(0, grid.shape, (40, 3))
    i, j, k = spots.T
    points = np.stack([x[i, j, k], y[i, j, k], z[0, 0, k]], -1).astype(float)
    np.testing.assert_allclose(grid.index(points), spots, atol=0.02)
    mm = spots @ grid.affine[:3, :3].T + grid.affine[:3, 3]  # RAS+: x to the right, y to the front
    u, v, w = (a.ravel()[n] for a, n in zip(grid.scanner, spots.T))
    np.testing.assert_allclose(mm, np.stack([-u, -v, w], -1), atol=1e-3)
    low, high = (-30, -20, -50), (10, 25, 0)
    box = grid.box(low, high)
    held = np.zeros(grid.shape, bool)
    held[box] = True
    full = np.broadcast_to(z, x.shape)
    within = np.all([(v >= a) & (v <= b) for v, a, b in zip((x, y, full), low, high)], axis=0)
    assert within.any() and held[within].all() and held.mean() < 0.5


def test_stamped_tubes_have_their_volume():
    grid = Grid(
        (2.0, 2.0, 2.0), (40, 40, 40), (39.0, 39.0, -39.0), Pose(0, (0, 0), (0, 0), np.zeros((2, 1, 7)))
    )
    line = np.stack([np.zeros(120), np.zeros(120), np.linspace(-25, 25, 120)], -1)
    for radius, tolerance in ((6.0, 0.03), (2.0, 0.06), (0.8, 0.15), (0.3, 0.15)):
        _, share = grid.stamp(line, np.full(120, radius))
        volume = np.pi * radius**2 * (50 + 4 / 3 * radius)
        assert share.sum() * 8 == pytest.approx(volume, rel=tolerance)
    box, share = grid.stamp(line + 500, np.full(120, 3.0))
    assert share.size == 0
    # a ball that sticks out of the grid is cut off
    box, share = grid.stamp(np.array([[39.0, 0, 0]]), np.array([6.0]))
    assert box[0].start == 0 and (share > 0).any((1, 2)).sum() == 4


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"field": "head"}, "trunk"),
        ({"spacing": (1, 2)}, "three"),
        ({"spacing": 0.1}, "0.5"),
        ({"thickness": 90.0}, "thickness"),
        ({"size": 4}, "8 or more"),
        ({"noise": -1.0}, "noise"),
        ({"conditions": "gout"}, "gout"),
        ({"prevalence": {"gout": 0.1}}, "gout"),
    ],
)
def test_wrong_settings_are_answered(options, word):
    with pytest.raises(ConfigError, match=word):
        simulate([(0, 0)], 1, **({"spacing": 4.0} | options))


def test_fields_hold_what_they_say():
    keys = [(0, 0)]
    chest, abdomen = (
        simulate(keys, 2, spacing=5.0, field=f, conditions="normal") for f in ("chest", "abdomen")
    )
    assert chest.measures["volume_lung_right_ml"][0] > 500 and np.isnan(
        chest.measures["volume_kidney_left_ml"][0]
    )
    assert abdomen.measures["volume_kidney_left_ml"][0] > 100 and np.isnan(abdomen.measures["ctr"][0])
    small = simulate(keys, 2, spacing=5.0, size=(40, 30, 20), conditions="normal").scans[0]
    assert small.x.shape == (40, 30, 20)
