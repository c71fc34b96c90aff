"""Radiographs: light by Beer and Lambert, photons by Poisson, labels by criterion, findings where they are said to
be."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from test_anatomy import people

from medfm.synthetic.projection import Beam
from medfm.synthetic.radiograph import (
    CONSOLIDATION_ML,
    EFFUSION_ML,
    LABELS,
    Setting,
    count,
    finish,
    irradiate,
    label,
    simulate,
)
from medfm.synthetic.tissues import attenuation
from medfm.synthetic.xray_findings import Consolidation, Findings
from medfm.synthetic.xray_shadow import Slabs, cardiothoracic_ratio, cast, seen
from medfm.synthetic.xray_subjects import DEVICES
from medfm.types import ConfigError

BEAM = Beam("PA", (128, 128), 3.0, sid=1800.0, shift=(0.0, -10.0))
SETTING = Setting(BEAM, 60.0, 1e5, 0.4, (0.1, 0.05, 0.95, 1.0), "R", (0.2, 0.15), 0.0)


def _measures(**changes):
    sides = [f"{name}_{side}_ml" for name in ("effusion", "pneumothorax") for side in ("right", "left")]
    areas = [f"{name}_cm2" for name in ("plate", "pacemaker", "tube", "line")]
    names = ["ctr", "consolidation_ml", "nodule_mm", "nodule_contrast", *sides, *areas]
    return {name: np.atleast_1d(np.asarray(changes.get(name, 0.0), float)) for name in names}


def test_an_image_is_the_same_alone_and_among_others():
    among = simulate([(k, 0) for k in (3, 8, 9)], 2, size=64)
    alone = simulate([(8, 0)], 2, size=64)
    np.testing.assert_array_equal(among.x[1], alone.x[0])
    assert among.records[1] == alone.records[0] == "s2x000008r00"
    assert all(
        among.measures[k][1] == alone.measures[k][0] for k in ("ctr", "effusion_left_ml", "rotation_deg")
    )
    assert not np.array_equal(simulate([(8, 0)], 3, size=64).x, alone.x)
    again = simulate([(8, 1)], 2, size=64)  # another day: the same person, another breath
    assert again.subjects.age == alone.subjects.age and again.measures["ctr"] != alone.measures["ctr"]


def test_images_are_grey_values_with_bright_bones_and_dark_lungs():
    part = simulate([(k, 0) for k in range(6)], 4, conditions="normal", size=96, keep=True)
    assert part.x.dtype == np.float32 and part.x.min() >= 0 and part.x.max() <= 1
    middle, low = part.x[:, 60:72, 44:56], part.x[:, 84:92, 30:66]  # spine and heart; below the diaphragm
    lungs = part.x[:, 30:50, [18, 20, 22, 74, 76, 78]]
    assert lungs.mean() < 0.35 < 0.6 < middle.mean() and low.mean() > 0.7
    assert not any(v[0] for k, v in part.labels.items() if k not in ("normal", "cardiomegaly"))


def test_light_without_scatter_and_blur_is_beer_lambert():
    loss = np.abs(np.random.default_rng(1).normal(2, 1, BEAM.size)).astype(np.float32)
    sharp = replace(DEVICES[0], blur=0.0)
    light = irradiate(loss, BEAM, replace(SETTING, scatter=0.0), sharp)
    np.testing.assert_allclose(light, np.exp(-loss), rtol=1e-5)


def test_scatter_adds_its_share_of_a_uniform_body():
    loss = np.full(BEAM.size, 2.0, np.float32)
    light = irradiate(loss, BEAM, SETTING, DEVICES[0])
    assert light[64, 64] == pytest.approx(1.4 * np.exp(-2), rel=1e-3)
    loss[:, 64:] = 0.0  # open air beside the body: brighter, and it scatters nothing
    assert irradiate(loss, BEAM, SETTING, DEVICES[0])[64, 120] < 1.01


def test_photons_have_poisson_variance():
    light = np.full((400, 400), 0.25, np.float32)
    signal = count(light, 400.0, np.random.default_rng(3))
    assert signal.mean() == pytest.approx(0.25, rel=0.003)
    assert signal.var() == pytest.approx(0.25 / 400, rel=0.02)  # 100 photons: a tenth
    assert count(np.zeros((4, 4), np.float32), 400.0, np.random.default_rng(3)).min() == 0.5 / 400


def test_labels_are_criteria_on_what_was_measured():
    out = label(
        _measures(
            ctr=[0.5, 0.51, 0.4, 0.4, 0.4, 0.4],
            effusion_right_ml=[0, 0, EFFUSION_ML, 0.6 * EFFUSION_ML, 0, 0],
            effusion_left_ml=[0, 0, 0, 0.6 * EFFUSION_ML, 0, 0],
            consolidation_ml=[0, 0, 0, 0, CONSOLIDATION_ML, 0.9 * CONSOLIDATION_ML],
            pneumothorax_right_ml=[59, 0, 61, 0, 0, 0],
            pneumothorax_left_ml=[0] * 6,
            nodule_mm=[0, 8, 8, 5, 0, 0],
            nodule_contrast=[0, 0.05, 0.01, 0.05, 0, 0],
            plate_cm2=[0] * 6,
            pacemaker_cm2=[0, 0, 5, 0, 0, 0],
            tube_cm2=[0] * 6,
            line_cm2=[0, 0, 0, 0, 0, 0.2],
        )
    )
    assert set(out) == set(LABELS)
    assert out["cardiomegaly"].tolist() == [False, True, False, False, False, False]
    assert out["effusion"].tolist() == [False, False, True, False, False, False]
    assert out["consolidation"].tolist() == [False, False, False, False, True, False]
    assert out["pneumothorax"].tolist() == [False, False, True, False, False, False]
    assert out["nodule"].tolist() == [False, True, False, False, False, False]
    assert (
        out["support_devices"].tolist()
        == out["pacemaker"].tolist()
        == [False, False, True, False, False, False]
    )
    assert out["normal"].tolist() == [True, False, False, True, False, True]


class _Box:
    """A chest 200 mm wide with a ball of 90 mm as its heart, 10 mm off the midline."""

    height = 1.0

    def hull(self, x, y, z):
        return 100 - np.abs(x) + 0 * y + 0 * z

    def in_heart(self, x, y, z):
        return 45 - np.sqrt((x - 10) ** 2 + y**2 + z**2)


@pytest.mark.parametrize("sid", [np.inf, 1800.0])
def test_the_cardiothoracic_ratio_of_a_ball_in_a_box(sid):
    assert cardiothoracic_ratio(_Box(), replace(BEAM, sid=sid)) == pytest.approx(0.45, abs=0.008)


def test_a_heart_is_larger_from_the_front_than_from_behind():
    t = people([2])[0]
    behind = cardiothoracic_ratio(t, BEAM)
    before = cardiothoracic_ratio(t, replace(BEAM, view="AP", sid=1000.0))
    assert 1.02 * behind < before < 1.2 * behind
    assert cardiothoracic_ratio(t, replace(BEAM, view="LL")) == pytest.approx(behind, rel=1e-6)


def test_the_switch_is_not_the_label():
    """Of people with normal switches some have large hearts, and of those switched to large ones some do not."""
    part = simulate([(k, 0) for k in range(56)], 7, size=32, prevalence={"cardiomegaly": 0.5})
    switched, found = part.subjects.cond["cardiomegaly"], part.labels["cardiomegaly"]
    assert (found == (part.measures["ctr"] > 0.5)).all()
    assert (found & ~switched).any() and (switched & ~found).any()
    assert found[switched].mean() > 0.7 and found[~switched].mean() < 0.3


def test_fluid_is_as_much_as_its_volume_on_a_fine_grid():
    t = people([4])[0]
    found = Findings(effusion=(-np.inf, t.domes[1] - 20.0))
    measures = cast(t, found, BEAM, 60.0).measures
    x, y, z = (np.arange(a, b, 2.0, dtype=np.float32) for a, b in ((0, 170), (-120, 120), (-280, 130)))
    points = x[None, None], y[None, :, None], z[:, None, None]
    inside = np.minimum(t.pleural_space(*points), found.fluid(t, *points)) > 0
    assert measures["effusion_left_ml"] == pytest.approx(inside.sum() * 8e-3, rel=0.04)
    assert measures["effusion_right_ml"] < 1


def test_a_nodule_takes_what_its_chord_says():
    t = people([4])[0]
    centre = np.array([75.0, 0.0, 20.0])
    bare = cast(t, Findings(), BEAM, 60.0)
    ill = cast(t, Findings(nodules=((centre, 24.0),)), BEAM, 60.0)
    assert ill.measures["nodule_mm"] == 24
    gain = attenuation("soft", 60) - attenuation("lung", 60, 0.26 * t.density)
    column, row, m = (float(v) for v in BEAM.project(centre))
    change = ill.loss - bare.loss
    assert change[round(row), round(column)] == pytest.approx(24 * gain, rel=0.02)
    assert seen("nodule", ill.path["nodule"]).sum() == pytest.approx(
        np.pi * (12 * m / BEAM.pixel) ** 2, rel=0.1
    )
    distance = np.hypot(np.arange(128)[:, None] - row, np.arange(128) - column)
    np.testing.assert_allclose(change[distance > 12 * m / 3 + 1], 0, atol=1e-5)


FINDINGS = {
    "effusion": Findings(effusion=(-95.0, -np.inf)),
    "pneumothorax": Findings(pneumothorax=(0.0, 30.0)),
    "consolidation": Findings(
        consolidation=(Consolidation(np.array([70.0, 10, 0]), 35.0, 0.8, np.full(4, 0.3)),)
    ),
    "nodule": Findings(nodules=((np.array([-70.0, 10, 20]), 20.0),)),
    "pacemaker": Findings(devices=("pacemaker",)),
    "tube": Findings(devices=("tube",)),
    "line": Findings(devices=("line",)),
    "plate": Findings(
        plates=(np.stack([np.linspace(50, 100, 60), np.full(60, 20.0), np.full(60, -70.0)], -1),)
    ),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_an_image_changes_where_the_finding_is(name):
    """The same person with and without it: what the rays lose changes in its mask, and elsewhere only by what spills
    over an edge; the light elsewhere changes by scatter alone, which is small."""
    t = people([4])[0]
    without, ill = (cast(t, f, BEAM, 60.0) for f in (Findings(), FINDINGS[name]))
    mask = seen(name, ill.path[name])
    assert 5 < mask.sum() < 0.35 * mask.size
    change = np.abs(ill.loss - without.loss)
    around = ndimage.binary_dilation(mask, iterations=3)
    assert change[mask].mean() > (0.02 if name in ("tube", "line") else 0.05)
    assert change[~around].max() < 0.03
    assert change[around].sum() > 0.97 * change.sum()
    light = [irradiate(s.loss, BEAM, SETTING, DEVICES[0]) for s in (without, ill)]
    assert np.abs(light[1] / light[0] - 1)[~ndimage.binary_dilation(mask, iterations=6)].max() < 0.25
    dark = (ill.loss - without.loss)[mask].mean()
    assert (dark < 0) == (name == "pneumothorax")


def test_boxes_hold_their_masks():
    part = simulate([(1, 0)], 3, size=96, conditions=("effusion", "nodule", "pacemaker"), keep=True)
    for name, (left, top, right, bottom) in part.boxes[0].items():
        rows, columns = np.nonzero(part.masks[name][0])
        assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), (
            name
        )
    assert {"effusion", "nodule", "pacemaker"} <= set(part.boxes[0])


def test_marker_and_frame_are_where_the_setting_says():
    light = np.full(BEAM.size, 0.1, np.float32) * np.linspace(0.5, 1.5, 128, dtype=np.float32)
    image = finish(light, SETTING, DEVICES[0])
    assert (
        not image[:, :12].any() and not image[:, 123:].any() and not image[:5].any() and image[6:, 14:].any()
    )
    plain = finish(light, replace(SETTING, marker=""), DEVICES[0])
    rows, columns = np.nonzero(image != plain)
    assert (image[rows, columns] == 1).all() and len(rows) > 8
    assert abs(rows.mean() - 0.15 * 128) < 2 and abs(columns.mean() - 0.2 * 128) < 2


def test_lungs_are_where_the_measures_say():
    slabs = Slabs(people([4])[0], BEAM)
    lung = slabs.thickness(slabs.space)
    litres = slabs.millilitres(lung).sum() / 1000
    t = people([4])[0]
    x, y, z = (np.arange(-a, a, 3.0, dtype=np.float32) for a in (180, 130, 280))
    voxels = (t.pleural_space(x[None, None], y[None, :, None], z[:, None, None]) > 0).sum() * 27e-6
    assert litres == pytest.approx(voxels, rel=0.02)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"size": 16}, "32 to 4096"),
        ({"views": ("PA", "RAO")}, "RAO"),
        ({"views": ()}, "empty"),
        ({"conditions": ("gout",)}, "gout"),
        ({"prevalence": {"gout": 0.1}}, "gout"),
        ({"prevalence": {"nodule": 1.5}}, "between 0 and 1"),
    ],
)
def test_wrong_options_are_named(options, word):
    with pytest.raises(ConfigError, match=word):
        simulate([(0, 0)], 1, **options)


def test_views_sizes_and_lateral_truths():
    part = simulate([(k, 0) for k in range(3)], 1, size=(48, 64), views=("LL",), conditions=("effusion",))
    assert part.x.shape == (3, 48, 64) and set(part.views) == {"LL"}
    assert np.isnan(part.measures["lung_left_cm2"]).all() and np.isfinite(part.measures["ctr"]).all()
    frontal = simulate([(k, 0) for k in range(3)], 1, size=96, views=("PA",), conditions=("effusion",))
    for side in ("right", "left"):
        one, other = part.measures[f"effusion_{side}_ml"], frontal.measures[f"effusion_{side}_ml"]
        assert one.sum() == pytest.approx(other.sum(), rel=0.8, abs=60)
