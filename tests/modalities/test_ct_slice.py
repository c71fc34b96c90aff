"""CT slices: where they lie, what they hold, and that a volume is read once for all of them."""

from __future__ import annotations

import numpy as np
import pytest

from medfm.config.modalities import CTSliceSettings
from medfm.modalities.ct_slice import CTSlice, Cutter, split_address
from medfm.modalities.volume_grid import Turn
from medfm.types import ReadError, Volume


def body(codes="RAS", spacing=(2.0, 2.0, 4.0)):
    """RAS: 40 x 30 x 6, the body 20 x 10 voxels about (24.5, 12.5), brighter slice by slice, brighter on the right."""
    x = np.full((40, 30, 6), -1000, np.int16)
    for z in range(6):
        x[15:35, 8:18, z] = 10 * z
        x[25:35, 8:18, z] += 100
    affine = np.diag([*spacing, 1.0])
    turn = Turn.to(affine, codes)
    return Volume(np.ascontiguousarray(turn.apply(x)), turn.affine(affine, x.shape), "HU", "test", record="v")


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL"])
def test_slices_are_counted_from_the_feet_and_hang_the_same_whatever_the_files_axes(codes):
    cutter = Cutter(body(codes), "axial", 2.0, (16, 28))
    assert cutter.count == 6 and cutter.step == 4.0
    for number in range(6):
        x = cutter.cut(number)
        assert x.shape == (16, 28)
        row = x[8][x[8] > -500]
        np.testing.assert_allclose(
            row[1:9], 10 * number + 100, atol=1e-3
        )  # the right of the body is on the left
        np.testing.assert_allclose(row[12:-1], 10 * number, atol=1e-3)
        columns, rows = (np.flatnonzero((x > -500).any(a)) for a in (0, 1))
        assert abs(columns.mean() - 13.5) <= 1.5 and abs(rows.mean() - 7.5) <= 1.5  # in the middle, to 6 mm
        assert len(columns) in (20, 21) and len(rows) in (10, 11)
    label = cutter.label((body(codes).x > -500).astype(np.uint8), 2)
    assert label.sum() == 200 and ((label > 0) & (cutter.cut(2) > -500)).sum() > 180


def test_a_pixel_has_its_size_in_mm():
    x = Cutter(body(), "axial", 4.0, (10, 14)).cut(1)
    assert (x > -500).sum() in range(45, 67) and np.isnan(Cutter(body(), "axial", 8.0, (10, 14)).cut(1)).any()
    coronal = Cutter(body(), "coronal", 4.0, (10, 14))
    assert coronal.count == 30 and coronal.step == 2.0
    assert (coronal.cut(12) > -500).sum() in (60, 66)  # 24 mm of height, 40 of width


def test_thinned_slices_are_at_least_so_far_apart():
    cutter = Cutter(body(), "axial", 2.0, (8, 8))
    assert cutter.numbers() == list(range(6))
    assert (
        cutter.numbers(4.0) == list(range(6))
        and cutter.numbers(5.0) == [0, 2, 4]
        and cutter.numbers(99) == [0]
    )
    with pytest.raises(ReadError, match="has 6 slices in this plane, and none with the number 6"):
        cutter.cut(6)


def test_a_volume_is_read_once_for_its_slices(monkeypatch):
    modality, reads = CTSlice(size=(16, 28), spacing=2.0, windows=[(-175, 250), (0, 100)]), []
    monkeypatch.setattr(modality.volumes, "open", lambda p: reads.append(p) or body())
    addresses = modality.slices("a.nii.gz")
    assert addresses[3] == "a.nii.gz#slice=3"
    samples = [modality.read(a) for a in addresses]
    assert reads == ["a.nii.gz"] and samples[3].record == "v#3"
    assert samples[3].x.shape == (2, 16, 28)
    assert samples[3].x[1, 8, 20] == pytest.approx(0.3) and samples[3].x[0, 8, 20] == pytest.approx(205 / 425)
    np.testing.assert_array_equal(samples[2].x, modality.from_volume(body())[2])
    prepared = modality.prepare(samples[3])
    assert np.isfinite(prepared.x).all() and prepared.x.min() == 0
    with pytest.raises(ReadError, match=r"a\.nii\.gz: names a volume and no slice"):
        modality.read("a.nii.gz")
    with pytest.raises(ReadError, match="none with the number 9"):
        modality.read("a.nii.gz#slice=9")


def test_addresses_and_settings():
    assert split_address("x/y.zip#2#slice=12") == ("x/y.zip#2", 12) and split_address("x.nii") == (
        "x.nii",
        None,
    )
    with pytest.raises(ReadError, match="number of a slice"):
        split_address("x.nii#slice=top")
    modality = CTSlice(size=(32, 32), plane="coronal", every=5, windows=[(0, 80)])
    again = CTSlice(**CTSliceSettings(**modality.settings()).model_dump(exclude={"name"}))
    assert again.settings() == modality.settings()
