"""Overlap, surface distances and volumes of masks: by hand, against MONAI, and the rules for empty ones."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.evaluation import segmentation_figures as figures
from medfm.evaluation.segmentation import (
    Measures,
    compare,
    confusion,
    dice_of,
    measure,
    measure_regions,
    summarise,
    surface,
    verdict,
)
from medfm.types import MedfmError


def _box(shape, *spans, label=1):
    out = np.zeros(shape, np.uint8)
    out[tuple(slice(*s) for s in spans)] = label
    return out


def test_two_boxes_by_hand():
    """A box of 4 x 4 x 4 voxels and the same one moved by two along an axis of 2 mm: half overlaps; the far face, 16
    voxels, is 4 mm away, the layer before it 2 mm or nearer to the side walls."""
    a = _box((12, 10, 10), (2, 6), (2, 6), (2, 6))
    b = _box((12, 10, 10), (4, 8), (2, 6), (2, 6))
    got = measure(a, b, (2.0, 1.0, 3.0), 1, tolerance=3.9)
    assert got.dice[0] == pytest.approx(2 * 32 / 128)
    # Surface: 4^3 - 2^3 = 56 voxels. In a, layers 2 and 3 lie below b's first layer (4): layer 2 is 4 mm away (16
    # voxels), layer 3 is 2 mm away (12 wall voxels); the inner 4 voxels of layer 5 lie 2 mm (or 1 mm) inside b.
    distances = np.r_[np.full(16, 4.0), np.full(12, 2.0), np.zeros(24), np.full(4, 1.0)]
    assert len(distances) == surface(a == 1).sum() == 56
    assert got.hd95[0] == pytest.approx(np.percentile(distances, 95)) == 4.0
    assert got.nsd[0] == pytest.approx(40 / 56)
    assert measure(a, b, (2.0, 1.0, 3.0), 1, tolerance=4.0).nsd[0] == 1.0
    assert got.true_ml[0] == pytest.approx(64 * 6 / 1000) == got.predicted_ml[0]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.5, 3.0)])
def test_equal_to_monai(spacing):
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(1)
    for _ in range(3):
        fields = [gaussian_filter(rng.normal(size=(28, 24, 20)), 3) for _ in range(2)]
        truth = np.digitize(fields[0], [0.0, 0.03])
        predicted = np.digitize(fields[0] + 0.6 * fields[1], [0.0, 0.03])
        got = measure(truth, predicted, spacing, 2, tolerance=(1.0, 2.0))
        t, p = (
            torch.nn.functional.one_hot(torch.from_numpy(m), 3).movedim(-1, 0)[None]
            for m in (truth, predicted)
        )
        hd = compute_hausdorff_distance(p, t, percentile=95, spacing=spacing)
        nsd = compute_surface_dice(p, t, [1.0, 2.0], spacing=spacing)
        np.testing.assert_allclose(got.dice, compute_dice(p, t, include_background=False)[0], rtol=1e-6)
        np.testing.assert_allclose(got.hd95, hd[0], rtol=1e-5)
        np.testing.assert_allclose(got.nsd, nsd[0], rtol=1e-5)


def test_a_map_of_distances_says_the_same_as_point_by_point(monkeypatch):
    from medfm.evaluation import segmentation

    rng = np.random.default_rng(2)
    truth, predicted = rng.random((2, 14, 12, 10)) < 0.3
    near = measure(truth.astype(int), predicted.astype(int), (1.0, 2.0, 0.5), 1)
    monkeypatch.setattr(segmentation, "MANY_POINTS", 0)
    mapped = measure(truth.astype(int), predicted.astype(int), (1.0, 2.0, 0.5), 1)
    assert near.hd95[0] == pytest.approx(mapped.hd95[0]) and near.nsd[0] == pytest.approx(mapped.nsd[0])


def test_the_rules_for_empty_masks():
    truth = _box((10, 10, 10), (1, 3), (1, 3), (1, 3), label=2)
    predicted = _box((10, 10, 10), (5, 7), (5, 7), (5, 7), label=3)
    got = measure(truth, predicted, (3.0, 4.0, 12.0), 3)
    assert np.isnan([got.dice[0], got.hd95[0], got.nsd[0]]).all() and got.absent.tolist() == [
        True,
        False,
        False,
    ]
    for k in (1, 2):
        assert (got.dice[k], got.nsd[k], got.hd95[k]) == (0.0, 0.0, pytest.approx(130.0))
    assert got.one_empty.tolist() == [False, True, True]
    summary = summarise(Measures.stack([got]), ["p"], ["a", "b", "c"], 20)
    of = summary["targets"]
    assert [of[n]["not_applicable"] for n in "abc"] == [1, 0, 0]
    assert [of[n]["missed"] for n in "abc"] == [0, 1, 0] and [of[n]["invented"] for n in "abc"] == [0, 0, 1]
    assert of["a"]["dice"]["value"] is None and summary["macro"]["dice"]["value"] == 0.0


def test_touching_the_border_is_a_surface_and_equal_masks_are_perfect():
    whole = np.ones((4, 4, 4), int)
    assert surface(whole == 1).sum() == 64 - 8
    got = measure(whole, whole, (1, 1, 1), 1)
    assert (got.dice[0], got.nsd[0], got.hd95[0]) == (1.0, 1.0, 0.0)


def test_wrong_masks_are_refused():
    with pytest.raises(MedfmError, match="differ in shape"):
        measure(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), (1, 1, 1), 1)
    with pytest.raises(MedfmError, match="outside 0 to 1"):
        confusion(np.full((2, 2, 2), 2), np.zeros((2, 2, 2), int), 1)


def _measures(dice):
    dice = np.asarray(dice, float)
    there = (~np.isnan(dice)).astype(float)
    return Measures(dice, 10 * (1 - dice), dice, there, there * (dice > 0))


def test_means_are_over_patients_then_classes():
    """Patient a has two records: (.4, .8) counts as .6. Class two exists in patient b only."""
    measures = _measures([[0.4, np.nan], [0.8, np.nan], [0.2, 0.9]])
    got = summarise(measures, ["a", "a", "b"], ["one", "two"], 500)
    assert got["targets"]["one"]["dice"]["value"] == pytest.approx(0.4)
    assert got["targets"]["two"]["dice"]["value"] == pytest.approx(0.9)
    assert got["headline"]["value"] == pytest.approx(0.65)
    # Of two patients a resample holds a twice (.6), b twice (.2) or both (.4).
    assert got["targets"]["one"]["dice"]["low"] == pytest.approx(0.2)
    assert got["targets"]["one"]["dice"]["high"] == pytest.approx(0.6)
    assert got["counts"] == {"records": 3, "patients": 2}


def test_an_interval_covers_as_it_should():
    rng = np.random.default_rng(0)
    hit = 0
    for repeat in range(200):
        values = rng.normal(0.7, 0.1, (30, 1))
        of = summarise(_measures(values), np.arange(30), ["x"], 200, repeat)["headline"]
        hit += of["low"] <= 0.7 <= of["high"]
    assert 0.88 <= hit / 200 <= 0.98


def test_a_paired_difference_is_on_the_same_resamples():
    rng = np.random.default_rng(3)
    level = rng.uniform(0.2, 0.9, (20, 1))
    a, b = np.repeat(level + 0.05, 2, 1), np.repeat(level, 2, 1)
    got = compare(a, b, np.arange(20), ["x", "y"], 300)
    macro = got["macro"]["difference"]
    assert macro["value"] == pytest.approx(0.05)
    assert macro["low"] == pytest.approx(0.05) and macro["high"] == pytest.approx(0.05)
    said = verdict(macro, ("A", "B"), 20)
    assert said.startswith("A segments better than B on these 20 patients (+0.050")
    assert "worse" in verdict(
        compare(b, a, np.arange(20), ["x", "y"], 50)["macro"]["difference"], ("A", "B"), 20
    )
    assert "cannot tell" in verdict(
        compare(a, a, np.arange(20), ["x", "y"], 50)["macro"]["difference"], ("A", "B"), 20
    )


def test_the_pictures_are_drawn():
    truth = _box((20, 30), (4, 12), (5, 15))
    image = np.random.default_rng(0).normal(size=(20, 30))
    figure = figures.overlays(
        [("best 0.9", image, truth, truth, 1.0), ("worst", image, truth, 0 * truth, 2.0)], ["organ"]
    )
    assert len(figure.axes) == 6 and [len(a.collections) for a in figure.axes] == [0, 1, 1, 0, 1, 0]
    assert len(figures.overlays([("new", image, None, truth, 1.0)], ["organ"]).axes) == 2
    dice = np.array([[0.9, np.nan], [0.7, 0.2]])
    strip = figures.class_dice({"this": dice, "random": dice / 2}, ["a", "b"]).axes[0]
    assert sum(len(c.get_offsets()) for c in strip.collections) == 6
    ml = np.array([[100.0, 0.0], [110.0, 4.0]])
    agreement = figures.volume_agreement(ml, ml * 1.1, ["a", "b"]).axes[0]
    assert sum(len(c.get_offsets()) for c in agreement.collections) == 3
    assert agreement.lines[0].get_ydata()[0] == pytest.approx((10 + 11 + 0.4) / 3)
    figures.dice_curve({"this": ([100, 400], np.array([[0.4, 0.3, 0.5], [0.6, 0.5, 0.7]]))}).canvas.draw()


def test_regions_are_unions_and_may_overlap() -> None:
    rng = np.random.default_rng(5)
    truth, found = rng.integers(0, 4, (2, 9, 8, 7))
    regions = [(1, 2, 3), (1, 3), (3,)]
    by_counts = dice_of(confusion(truth, found, 3), regions)
    measured = measure_regions(truth, found, (1.0, 2.0, 1.0), regions, [1.0, 2.0, 3.0])
    for r, (members, mm) in enumerate(zip(regions, (1.0, 2.0, 3.0))):
        a, b = np.isin(truth, members), np.isin(found, members)
        by_hand = 2 * (a & b).sum() / (a.sum() + b.sum())
        assert by_counts[r] == pytest.approx(by_hand) and measured.dice[r] == pytest.approx(by_hand)
        alone = measure(a.astype(int), b.astype(int), (1.0, 2.0, 1.0), 1, mm)
        for field in ("hd95", "nsd", "true_ml", "predicted_ml"):
            assert getattr(measured, field)[r] == getattr(alone, field)[0]
    nothing = np.zeros_like(truth)
    assert np.isnan(dice_of(confusion(nothing, nothing, 3), regions)).all()
