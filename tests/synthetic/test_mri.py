"""The MRI phantom: signals, anatomy, the tumour and its labels, and what a scanner adds."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medfm.synthetic import mri_scan
from medfm.synthetic.draws import Draws
from medfm.synthetic.mri import simulate
from medfm.synthetic.mri_brain import paint_brain
from medfm.synthetic.mri_head import draw_heads, hull
from medfm.synthetic.mri_subjects import SITES
from medfm.synthetic.mri_tissues import (
    ID,
    SEQUENCES,
    TISSUES,
    gadolinium,
    inversion_recovery,
    inversion_that_nulls,
    parameters,
    signals,
    spin_echo,
)
from medfm.synthetic.mri_tumour import labels
from medfm.types import ConfigError


@pytest.fixture(scope="module")
def fine():
    return simulate([(s, 0) for s in range(6)], 1, spacing=3.0, keep=True, prevalence={"tumour": 1.0})


@pytest.fixture(scope="module")
def coarse():
    return simulate([(s, 0) for s in range(40)], 2, spacing=8.0, keep=True)


def median(subject, name, tissue):
    """Of a sequence without noise where a voxel is nearly all of one tissue; NaN where none is."""
    here = subject.shares[ID[tissue]] > 0.9
    return np.median(subject.clean[name][here]) if here.sum() > 4 else np.nan


def test_signals_are_those_worked_out_by_hand():
    # 0.7 (1 - exp(-0.625)) exp(-0.2)
    assert spin_echo(0.7, 800.0, 80.0, 500.0, 16.0) == pytest.approx(0.266348, abs=1e-5)
    # at TI = T1 ln 2 only exp(-TR / T1) is left: exp(-3) exp(-1)
    assert inversion_recovery(1.0, 1000.0, 100.0, 3000.0, 100.0, 1000 * np.log(2)) == pytest.approx(
        np.exp(-4.0), rel=1e-6
    )
    # 1 per second and 4 per mM and second at 0.5 mM are 3 per second
    assert gadolinium(np.array(1000.0), 4.0, np.array(0.5)) == pytest.approx(1000 / 3)
    ti = inversion_that_nulls(4200.0, 9000.0)
    assert inversion_recovery(1.0, 4200.0, 1600.0, 9000.0, 120.0, ti) == pytest.approx(0, abs=1e-9)
    assert inversion_that_nulls(1000.0, 1e6) == pytest.approx(693.147, rel=1e-5)


def test_gadolinium_is_in_one_sequence_and_in_what_enhances():
    table = parameters(np.zeros((len(TISSUES), 3)), 3.0)
    same = SITES[0].protocols(np.ones(4), 2400.0)
    without, given = (signals(table, same, dose) for dose in (0.0, 0.4))
    changed = ~np.isclose(without, given, rtol=1e-6)
    assert set(np.array(TISSUES)[changed[1]]) == {"vessel", "choroid", "enhancing", "necrosis", "muscle"}
    assert not changed[[0, 2, 3]].any()
    np.testing.assert_allclose(without[1], without[0], rtol=1e-6)  # site-a gives both the same times
    weaker = parameters(np.zeros((len(TISSUES), 3)), 1.5)
    assert weaker[ID["white"], 1] == pytest.approx(0.8 * table[ID["white"], 1])
    assert weaker[ID["csf"], 1] == table[ID["csf"], 1]


def test_contrasts_are_those_of_the_sequences(fine):
    for s in fine.subjects:
        m = {(n, t): median(s, n, t) for n in SEQUENCES for t in ("csf", "grey", "white")}
        for name in ("t1", "t1ce"):
            assert m[name, "csf"] < 0.7 * m[name, "grey"] < 0.7 * m[name, "white"]
        assert m["t2", "csf"] > 1.4 * m["t2", "grey"] > 1.4 * 1.1 * m["t2", "white"]
        assert abs(m["flair", "csf"]) < 0.3 * m["flair", "white"] < 0.3 * m["flair", "grey"]


def test_tumours_look_like_gliomas(fine):
    seen = dict.fromkeys(("oedema", "tumour", "enhancing", "necrosis"), 0)
    for s in fine.subjects:
        white = {n: median(s, n, "white") for n in SEQUENCES}
        part = {t: {n: median(s, n, t) / white[n] for n in SEQUENCES} for t in seen}
        for tissue, r in part.items():
            seen[tissue] += not np.isnan(r["t1"])
        assert not part["oedema"]["flair"] < 1.3 and not part["oedema"]["t2"] < 1.5
        assert not part["oedema"]["t1"] > 1 and not part["tumour"]["t1"] > 1
        assert not part["enhancing"]["t1ce"] < 1.4 * part["enhancing"]["t1"]
        assert not part["necrosis"]["t1ce"] > 0.6 * part["enhancing"]["t1ce"]
        assert not part["necrosis"]["t2"] < part["oedema"]["t2"]
        gain = white["t1ce"] / white["t1"]
        still = s.label == 2  # what does not enhance is as bright after the contrast as before
        assert np.median(s.clean["t1ce"][still] / s.clean["t1"][still]) == pytest.approx(gain, rel=0.06)
    assert min(seen.values()) >= 3


def test_labels_are_what_most_of_a_voxel_is(fine):
    for s in fine.subjects:
        assert s.label.dtype == np.uint8 and set(np.unique(s.label)) <= {0, 1, 2, 4}
        solid = s.shares[ID["tumour"]] + s.shares[ID["necrosis"]]
        swollen, bright = s.shares[ID["oedema"]], s.shares[ID["enhancing"]]
        for value, own, others in (
            (1, solid, (swollen, bright)),
            (2, swollen, (solid, bright)),
            (4, bright, (solid, swollen)),
        ):
            here = s.label == value
            assert here.any() and (own[here] >= np.maximum(*others)[here]).all()
        sick = solid + swollen + bright
        np.testing.assert_array_equal(s.label > 0, sick > 0.5)
        np.testing.assert_allclose(s.shares[:, s.x["t1"] > 0].sum(0), 1, atol=1e-4)
        assert s.shares.min() > -1e-4
    shares = np.zeros((len(TISSUES), 4), np.float32)
    shares[ID["tumour"], 0], shares[ID["necrosis"], 0], shares[ID["enhancing"], 0] = 0.25, 0.25, 0.4
    shares[ID["oedema"], 1], shares[ID["enhancing"], 2], shares[ID["enhancing"], 3] = 0.6, 0.9, 0.45
    assert labels(shares).tolist() == [1, 2, 4, 0]


def test_tumours_have_their_drawn_size_and_keep_to_a_side(coarse):
    p, m = coarse.people, coarse.measures
    core = 4 / 3 * np.pi * p.radius**3 / 1000
    ill = p.tumour
    assert 0.75 < ill.mean() < 1 and (m["volume_whole_ml"][~ill] == 0).all()
    assert np.corrcoef(np.log(core[ill]), np.log(m["volume_core_ml"][ill] + 1))[0, 1] > 0.9
    assert np.median(m["volume_core_ml"][ill] / core[ill]) == pytest.approx(1, abs=0.2)
    drawn = np.log(core * p.enhancing + 1)[ill]
    assert np.corrcoef(drawn, np.log(m["volume_enhancing_ml"][ill] + 1))[0, 1] > 0.9
    assert np.corrcoef(np.log(p.oedema[ill]), np.log(m["volume_oedema_ml"][ill] + 1))[0, 1] > 0.4
    for s in np.array(coarse.subjects, object)[ill]:
        right = s.affine[0, 3] + s.affine[0, 0] * np.argwhere(s.label > 0)[:, 0]
        assert max((right > -8).mean(), (right < 8).mean()) > 0.95


def test_necrosis_lies_inside_and_oedema_around(fine):
    for s in fine.subjects:
        core = np.isin(s.label, (1, 4))
        depth = ndimage.distance_transform_edt(core)
        dead = s.shares[ID["necrosis"]] > 0.5
        if dead.sum() > 10:
            assert depth[dead].mean() > depth[core & ~dead].mean()
        near = ndimage.distance_transform_edt(~core)
        swollen = s.label == 2
        assert np.median(near[swollen]) < 0.7 * np.median(near[(s.x["t1"] > 0) & ~core & ~swollen])


def test_volumes_are_counted_on_the_labels(fine):
    for k, s in enumerate(fine.subjects):
        ml = np.prod(np.diag(s.affine)[:3]) / 1000
        m = {name: v[k] for name, v in fine.measures.items()}
        assert m["volume_core_ml"] == pytest.approx(np.isin(s.label, (1, 4)).sum() * ml)
        assert m["volume_enhancing_ml"] == pytest.approx((s.label == 4).sum() * ml)
        assert m["volume_oedema_ml"] == pytest.approx((s.label == 2).sum() * ml)
        assert m["volume_whole_ml"] == pytest.approx((s.label > 0).sum() * ml)
        brain = s.x["t1"] > 0
        assert m["volume_fluid_ml"] == pytest.approx(s.shares[ID["csf"]][brain].sum() * ml, rel=1e-4)
        assert m["volume_brain_ml"] + m["volume_fluid_ml"] == pytest.approx(brain.sum() * ml, rel=1e-4)
        assert 900 < m["volume_brain_ml"] < 1800 and 5 < m["volume_ventricles_ml"] < 120
        assert m["volume_ventricles_ml"] < m["volume_fluid_ml"]


def test_brains_shrink_with_age(coarse):
    m, atrophy = coarse.measures, coarse.people.atrophy
    fluid = m["volume_fluid_ml"] / m["volume_brain_ml"]
    assert np.corrcoef(atrophy, fluid)[0, 1] > 0.7
    assert np.corrcoef(atrophy, np.log(m["volume_ventricles_ml"]))[0, 1] > 0.5
    assert np.corrcoef(atrophy, coarse.people.age)[0, 1] > 0.8
    male = coarse.people.male
    assert m["volume_brain_ml"][male].mean() > m["volume_brain_ml"][~male].mean()


def test_sulci_widen_and_the_cortex_thins_with_atrophy():
    keys = [(1, s) for s in range(4)]
    young, old = (
        draw_heads(Draws(keys, 400), Draws(keys, 20), np.ones(4, bool), np.full(4, a)) for a in (0.0, 1.5)
    )
    axis = np.arange(-100.0, 100.0, 5.0)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    for a, b in zip(young, old):
        assert b.sulcus > a.sulcus + 0.3 and b.ribbon < a.ribbon and b.rim > a.rim and b.third > a.third
        assert min(b.ventricles) > min(a.ventricles)
        np.testing.assert_array_equal(a.folds, b.folds)
        p = a.anatomy(points)
        p = p[hull(p, a.rim).whole > 0]
        hulls = hull(p, a.rim)

        def total(head, tissue, p=p, hulls=hulls):
            return paint_brain(head, p, p, hulls, 5.0)[0][ID[tissue]].sum()

        assert total(replace(a, sulcus=a.sulcus + 0.4), "csf") > 1.1 * total(a, "csf")
        assert total(replace(a, ribbon=a.ribbon - 0.5), "grey") < 0.95 * total(a, "grey")


def test_anatomy_lies_where_it_belongs(fine):
    for s in fine.subjects:
        assert nib.aff2axcodes(s.affine) == ("R", "A", "S")
        np.testing.assert_allclose(np.diag(s.affine), [3, 3, 3, 1])

        def centre(tissue, s=s):
            return s.affine[:3, :3] @ ndimage.center_of_mass(s.shares[ID[tissue]]) + s.affine[:3, 3]

        assert np.abs(centre("stem")[0]) < 10 and centre("stem")[2] < centre("deep")[2] - 15
        assert centre("choroid")[1] < centre("pallidum")[1] - 10
        grey = s.shares[ID["grey"]].sum() / s.shares[ID["white"]].sum()
        assert 0.5 < grey < 2.5
        brain = s.x["t1"] > 0
        depth = ndimage.distance_transform_edt(brain)
        # a ribbon: cortex lies nearer to the surface than white matter
        assert (
            np.average(depth, weights=s.shares[ID["grey"]])
            < np.average(depth, weights=s.shares[ID["white"]]) - 1
        )
        assert ndimage.label(brain)[0][brain].max() <= 2 and brain.mean() < 0.8


def test_a_subject_does_not_depend_on_who_is_beside_nor_on_what_is_missing(coarse):
    alone = simulate([(7, 0)], 2, spacing=8.0, missing=1.0).subjects[0]
    beside = coarse.subjects[7]
    for name in SEQUENCES:
        np.testing.assert_array_equal(alone.x[name], beside.x[name])
    np.testing.assert_array_equal(alone.label, beside.label)
    assert beside.present == SEQUENCES and 0 < len(alone.present) < 4
    again = simulate([(7, 1)], 2, spacing=8.0)  # another day, the same tumour
    assert again.records != coarse.records[7:8] and again.patients == coarse.patients[7:8]
    assert not np.array_equal(again.subjects[0].x["t1"], beside.x["t1"])
    assert again.people.radius[0] == coarse.people.radius[7]
    other = simulate([(7, 0)], 3, spacing=8.0).subjects[0]
    assert other.x["t1"].shape != beside.x["t1"].shape or (other.x["t1"] != beside.x["t1"]).any()


def test_background_is_zero_and_the_brain_is_not(coarse):
    for s in coarse.subjects:
        seen = [x > 0 for x in s.x.values()]
        for here, x in zip(seen, s.x.values()):
            np.testing.assert_array_equal(here, seen[0])
            assert x.dtype == np.float32 and x.max() <= 32767 and np.array_equal(x, np.rint(x))
        assert not any(np.take(seen[0], k, axis).any() for axis in range(3) for k in (0, -1))
        assert (s.shares.sum(0) > 0).sum() == seen[0].sum()


def test_a_head_has_a_skull_and_air_around(fine):
    head = simulate([(0, 0)], 1, spacing=6.0, skull=True, keep=True).subjects[0]
    assert (head.x["t1"] > 0).mean() > 0.9  # air is noise and not zero
    np.testing.assert_allclose(head.shares.sum(0), 1, atol=1e-4)
    m = {t: median(head, "t1", t) for t in ("fat", "white", "air")}
    assert m["fat"] > 1.3 * m["white"] > 0 and m["air"] == 0
    bone = head.shares[ID["bone"]] + head.shares[ID["marrow"]] > 0.5
    brain = head.shares[[ID["white"], ID["grey"]]].sum(0) > 0.5
    assert not (ndimage.binary_dilation(brain) & (head.shares[ID["air"]] > 0.5)).any() and bone.any()


def test_noise_is_rician():
    rng = np.random.default_rng(3)
    none = mri_scan.rician(np.zeros((60, 60, 60), np.float32), 2.0, rng)
    assert none.mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.01)
    assert none.std() == pytest.approx(2 * np.sqrt(2 - np.pi / 2), rel=0.01)
    weak = mri_scan.rician(np.full((60, 60, 60), 3.0, np.float32), 2.0, rng)
    assert (weak.astype(float) ** 2).mean() == pytest.approx(9 + 2 * 4, rel=0.01)


def test_noise_is_as_loud_as_asked_for():
    part = simulate([(s, 0) for s in range(4)], 5, spacing=7.0, skull=True, noise=0.08, keep=True)
    for s, e in zip(part.subjects, part.settings):
        for k, name in enumerate(SEQUENCES):
            white = abs(e.signal[k, ID["white"]]) * e.gain[k]
            assert e.sigma[k] == pytest.approx(0.08 * white, rel=1e-5)
            if e.ghost[k, 0]:
                continue
            air = s.clean[name] == 0
            assert (s.x[name][air] ** 2).mean() == pytest.approx(2 * e.sigma[k] ** 2, rel=0.1)
            tissue = s.clean[name] > 5 * e.sigma[k]
            spread = s.x[name][tissue] - np.hypot(s.clean[name][tissue], e.sigma[k])
            assert spread.std() == pytest.approx(e.sigma[k], rel=0.1)
    silent = simulate([(0, 0)], 5, spacing=7.0, noise=0.0, keep=True)
    s, e = silent.subjects[0], silent.settings[0]
    for k, name in enumerate(SEQUENCES):
        if not e.ghost[k, 0] and e.site.thickness[k] < 7:
            here = s.x[name] > 1
            assert np.abs(s.x[name] - np.abs(s.clean[name]))[here].max() <= 0.51


def test_thick_slices_are_means_and_go_back_by_interpolation():
    through, back = mri_scan.slices(12, 2.0, 6.0)
    assert through.shape == (4, 12) and back.shape == (12, 4)
    ramp = np.arange(12.0)
    np.testing.assert_allclose(through @ ramp, ramp.reshape(4, 3).mean(1), atol=1e-5)
    np.testing.assert_allclose((back @ (through @ ramp))[1:-1], ramp[1:-1], atol=1e-5)
    np.testing.assert_allclose(back.sum(1), 1, atol=1e-6)
    uneven, _ = mri_scan.slices(10, 2.0, 5.0)  # slices of two and a half voxels
    np.testing.assert_allclose(uneven[0][:4], [0.4, 0.4, 0.2, 0.0], atol=1e-6)
    np.testing.assert_array_equal(mri_scan.slices(5, 3.0, 1.0)[0], np.eye(5))


def test_ghosts_lie_along_the_phase_encoding():
    x = np.zeros((3, 20, 3), np.float32)
    x[1, 5, 1] = 100
    moved = mri_scan.ghosts(x, 0.2, 0.25)
    assert moved[1, 5, 1] == pytest.approx(80) and moved[1, [0, 10], 1] == pytest.approx([10, 10])
    assert moved.sum() == pytest.approx(100)
    assert mri_scan.ghosts(x, 0.0, 0.25) is x


def test_the_coil_shades_smoothly(coarse):
    rng = np.random.default_rng(0)
    waves = np.concatenate([rng.normal(size=(4000, 5, 4)), rng.uniform(0, 2 * np.pi, (4000, 5, 1))], -1)
    spot = np.array([[10.0, 20.0, 30.0]])
    assert np.std([np.log(mri_scan.coil(spot, w, 0.15)) for w in waves]) == pytest.approx(0.15, rel=0.08)
    points = rng.uniform(-80, 80, (4000, 3)).astype(np.float32)
    fields = [mri_scan.coil(points, e.coils, 0.15) for e in coarse.settings]
    steps = [
        mri_scan.coil(points + np.float32(2), e.coils, 0.15) / f for e, f in zip(coarse.settings, fields)
    ]
    assert np.mean([np.abs(np.log(s)).max() for s in steps]) < 0.04
    for s, e in zip(coarse.subjects[:5], coarse.settings):  # the volume has it
        white = s.shares[ID["white"]] > 0.95
        flat = np.abs(e.signal[0, ID["white"]]) * e.gain[0]
        ratio = s.clean["t1"][white] / flat
        assert ratio.std() > 0.01 and 0.4 < ratio.mean() < 2


def test_sites_have_looks_of_their_own(coarse):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    looks = np.array(
        [[f(np.log(x[x > 0])) for x in s.x.values() for f in (np.mean, np.std)] for s in coarse.subjects]
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    assert cross_val_score(model, looks, coarse.people.site, cv=3).mean() > 0.8
    assert {e.site.name for e in coarse.settings} == {s.name for s in SITES}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"spacing": (1, 2)}, "three"),
        ({"spacing": 0.1}, "0.5"),
        ({"missing": 1.5}, "missing"),
        ({"noise": -1.0}, "noise"),
        ({"prevalence": {"gout": 0.1}}, "gout"),
    ],
)
def test_wrong_settings_are_answered(options, word):
    with pytest.raises(ConfigError, match=word):
        simulate([(0, 0)], 1, **({"spacing": 8.0} | options))


def test_the_spacing_may_differ_by_axis_and_does_not_change_the_subject():
    slab = simulate([(3, 0)], 4, spacing=(5.0, 6.0, 9.0))
    np.testing.assert_allclose(np.diag(slab.subjects[0].affine), [5, 6, 9, 1])
    fine = simulate([(3, 0)], 4, spacing=4.0)
    assert slab.measures["volume_brain_ml"][0] == pytest.approx(fine.measures["volume_brain_ml"][0], rel=0.05)
    assert slab.people.months[0] == fine.people.months[0]
