"""DICOM series: geometry against highdicom and by hand, and every fault that can be planted with what is said of it."""

from __future__ import annotations

import highdicom
import numpy as np
import pydicom
import pytest
from scipy.ndimage import map_coordinates
from volume_files import body, same_places, turned

from medfm.formats.series import find_series
from medfm.formats.series_write import FAULTS, SeriesHeader, write_series
from medfm.formats.volume import describe_volume, read_volume
from medfm.types import ConfigError, ReadError

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXIAL = turned(signs=(-1, -1, 1))  # rows to the left, columns to the back, slices to the head
GRIDS = {
    "axial": AXIAL,
    "descending": turned(signs=(-1, -1, -1)),
    "sagittal": turned((1, 2, 0), (-1, -1, 1)),
    "coronal": turned((0, 2, 1), (-1, -1, 1)),
    "oblique": turned(signs=(-1, -1, 1), angles=(12, -7, 20)),
}


def series(tmp_path, *faults, x=None, affine=AXIAL, name="series", **options):
    x = body() if x is None else x
    return write_series(
        tmp_path / name, x, affine, record="r1", patient="secret-id", faults=faults, **options
    )


def datasets(folder):
    return [pydicom.dcmread(p) for p in sorted(folder.iterdir())]


def refused(path, **options):
    with pytest.raises(ReadError) as error:
        read_volume(path, **options)
    assert "secret-id" not in str(error.value)
    return str(error.value)


def found(volume, code):
    return next(f.message for f in volume.findings if f.code == code)


@pytest.mark.parametrize("name", GRIDS)
def test_geometry_is_highdicoms(tmp_path, name):
    folder = series(tmp_path, "shuffled", affine=GRIDS[name])
    volume, head = read_volume(folder), describe_volume(folder)
    oracle = highdicom.get_volume_from_series(datasets(folder))
    assert same_places(volume.x, volume.affine, oracle.array, LPS @ oracle.affine)
    assert same_places(volume.x, volume.affine, body(), GRIDS[name])  # what was written
    assert np.allclose(sorted(volume.spacing), sorted(oracle.spacing), atol=1e-6)
    assert np.allclose(head.affine, volume.affine) and head.shape == volume.x.shape
    assert np.linalg.det(LPS[:3, :3] @ volume.affine[:3, :3]) > 0  # slices follow the normal
    assert volume.unit == "HU" and volume.patient == "secret-id" and volume.x.dtype == np.int16


def test_the_affine_by_hand(tmp_path):
    folder = series(tmp_path, x=body((6, 5, 4)))
    for i, path in enumerate(sorted(folder.iterdir())):
        data = pydicom.dcmread(path)
        data.ImageOrientationPatient = [
            0,
            1,
            0,
            0,
            0,
            -1,
        ]  # rows to the back, columns to the feet: normal to the right
        data.ImagePositionPatient = [90 - 4 * i, -110, 50]
        data.PixelSpacing = [0.5, 0.75]  # between rows, between columns
        data.save_as(path)
    volume = read_volume(folder)
    # x: 0.75 mm to the back; y: 0.5 mm to the feet; z: 4 mm to the right, from the first position; LPS to RAS
    assert volume.affine.tolist() == [[0, 0, 4, -90], [-0.75, 0, 0, 110], [0, -0.5, 0, 50], [0, 0, 0, 1]]
    assert describe_volume(folder).orientation == "PIR"
    assert np.array_equal(volume.x, body((6, 5, 4)))


@pytest.mark.parametrize("syntax", ["rle", "jpeg2000"])
def test_compressed_series(tmp_path, syntax):
    x = body((40, 32, 4))
    folder = series(tmp_path, x=x, header=SeriesHeader(syntax=syntax))
    volume = read_volume(folder)
    assert np.array_equal(volume.x, x) and describe_volume(folder).orientation == "LPS"
    assert syntax.upper()[:3] in volume.meta["report"].syntax[0].upper()


def test_files_are_the_same_each_time(tmp_path):
    first, again = series(tmp_path, "shuffled"), series(tmp_path, "shuffled", name="again")
    assert [p.read_bytes() for p in sorted(first.iterdir())] == [
        p.read_bytes() for p in sorted(again.iterdir())
    ]
    with pytest.raises(ConfigError, match="unknown fault 'holes'"):
        series(tmp_path, "holes")
    with pytest.raises(ConfigError, match="unknown syntax"):
        series(tmp_path, header=SeriesHeader(syntax="zip"))
    with pytest.raises(ConfigError, match="at least 32 x 32"):
        series(tmp_path, header=SeriesHeader(syntax="jpeg2000"))
    with pytest.raises(ConfigError, match="do not fit 16 bits"):
        series(tmp_path, header=SeriesHeader(slope=0.001))


def test_every_fault_is_noticed(tmp_path):
    """No fault passes without a refusal or a finding; names and numbers in any order are no fault."""
    for fault in FAULTS:
        folder = series(tmp_path, fault, name=fault)
        try:
            volume = read_volume(folder)
        except ReadError as error:
            assert str(folder) in str(error) and "secret-id" not in str(error)
        else:
            assert fault == "shuffled" or volume.findings, fault
            assert not any("secret-id" in f.message for f in volume.findings)


def test_missing_slices(tmp_path):
    folder = series(tmp_path, "missing")
    assert "1 missing between 38.50 and 43.50 mm" in refused(folder) and "gaps=resample" in refused(folder)
    volume = read_volume(folder, gaps="resample")
    assert np.allclose(volume.affine, AXIAL) and volume.x.shape == (20, 16, 8) and volume.x.dtype == np.int16
    between = np.rint(0.5 * body()[:, :, 3] + 0.5 * body()[:, :, 5])
    assert np.array_equal(volume.x[:, :, 4], between)
    kept = [0, 1, 2, 3, 5, 6, 7]
    assert np.array_equal(volume.x[:, :, kept], body()[:, :, kept])
    assert found(volume, "gaps-resampled").startswith(
        "1 of 8 slices were interpolated, 2.5 mm apart: 1 missing"
    )
    report = describe_volume(folder).report
    assert [(g.after, g.before, g.missing) for g in report.gaps] == [
        (38.5, 43.5, 1)
    ] and report.refusal in refused(folder)


def test_a_wide_gap_is_refused_even_when_asked_for(tmp_path):
    folder = series(tmp_path, x=body((6, 5, 14)))
    for i in (5, 6, 7):  # three in a row: a step of four
        (folder / f"IM{i:04d}.dcm").unlink()
    assert read_volume(folder, gaps="resample").x.shape == (6, 5, 14)
    (folder / "IM0008.dcm").unlink()
    assert "A gap of 5.0 steps is more than the 4" in refused(folder, gaps="resample")


def test_irregular_steps(tmp_path):
    folder = series(tmp_path, "irregular")
    said = refused(folder)
    assert "usual step 2.5 mm" in said and "3.50 mm apart at 38.50 and 42.00 mm" in said
    assert "1.50 mm apart at 42.00 and 43.50 mm" in said
    volume = read_volume(folder, gaps="resample")
    # at 41 mm: 2.5 of the 3.5 mm from slice 3 to the moved slice
    mixed = body()[:, :, 3] * (1 / 3.5) + body()[:, :, 4] * (2.5 / 3.5)
    assert np.abs(volume.x[:, :, 4] - mixed).max() <= 0.51
    assert np.array_equal(volume.x[:, :, 5], body()[:, :, 5])


def place(folder, at):
    """Slices of a folder at other positions along the normal, mm, in the order of their names."""
    for path, z in zip(sorted(folder.iterdir()), at):
        data = pydicom.dcmread(path)
        data.ImagePositionPatient = [*data.ImagePositionPatient[:2], z]
        data.save_as(path)
    return folder


def test_rounded_positions_are_no_fault(tmp_path):
    at = [round(2.504 * i, 2) for i in range(8)]  # the last one at 17.53 mm
    assert read_volume(place(series(tmp_path), at)).spacing[2] == pytest.approx(17.53 / 7, abs=1e-6)
    # more than 1 % of the step is one
    assert "2.60 mm apart at 7.50 and 10.10 mm" in refused(
        place(series(tmp_path, name="b"), [0, 2.5, 5, 7.5, 10.1, 12.5, 15, 17.5])
    )


def test_a_gap_of_two_steps_among_three_slices(tmp_path):
    folder = place(series(tmp_path, x=body((6, 5, 3))), [0, 2.5, 7.5])
    assert "usual step 2.5 mm): 1 missing between 2.50 and 7.50 mm" in refused(folder)


def test_duplicates(tmp_path):
    volume = read_volume(series(tmp_path, "duplicate"))
    assert np.array_equal(volume.x, body()) and found(volume, "duplicate-slices").startswith(
        "1 duplicate slice(s)"
    )
    assert "(33.50 mm)" in found(volume, "duplicate-slices") and volume.meta["report"].duplicates == (33.5,)
    said = refused(series(tmp_path, "conflict", name="b"))
    assert "two different slices (IM0002.dcm and IM0009.dcm) lie at 33.50 mm" in said


@pytest.mark.parametrize("name", ["axial", "coronal", "oblique"])
def test_gantry_tilt(tmp_path, name):
    x = body((20, 30, 8))
    x[:, :9] = x[:, 21:] = -1000
    folder = series(tmp_path, "tilt", x=x, affine=GRIDS[name])
    said = refused(folder)
    assert "tilted by 12.0 degrees" in said and "tilt=resample" in said
    report = describe_volume(folder).report
    assert abs(report.tilt_deg - 12) < 0.01
    volume = read_volume(folder, tilt="resample")
    assert "gantry tilt of 12.0 degrees was undone" in found(volume, "tilt-resampled")
    # 17.5 mm of table, tan(12): 3.72 mm, 5.3 rows of 0.7 mm: six more rows
    assert volume.x.shape == (20, 36, 8) and volume.x.dtype == np.int16
    # Interpolated twice (by the scanner that moved it, and back): every organ is where it was, by mm of the patient.
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.x.shape), indexing="ij"))
    mm = np.tensordot(volume.affine[:3, :3], index, 1) + volume.affine[:3, 3, None, None, None]
    there = np.tensordot(np.linalg.inv(GRIDS[name])[:3, :3], mm - GRIDS[name][:3, 3, None, None, None], 1)
    assert (
        np.abs(there[0] - np.rint(there[0])).max() < 1e-5
        and np.abs(there[2] - np.rint(there[2])).max() < 1e-5
    )
    before = map_coordinates(x.astype(float), there.round(6), order=1, cval=-1000, prefilter=False)
    for k in range(8):
        known = volume.valid[:, :, k]
        assert known.sum() >= 20 * 29
        assert np.corrcoef(volume.x[:, :, k][known], before[:, :, k][known])[0, 1] > 0.98
    # The outermost slices define the frame: each leaves the rows that only the other one covers.
    assert not volume.valid[:, -5:, 0].any() if name != "coronal" else not volume.valid[:, :5, 0].any()


def test_scouts_and_screenshots_are_left_out_by_name(tmp_path):
    volume = read_volume(series(tmp_path, "localizer", "secondary_capture"))
    assert np.array_equal(volume.x, body())
    assert (
        found(volume, "left-out") == "left out: 1 localizer (IM0009.dcm), 1 secondary capture (IM0010.dcm)."
    )
    assert {d.reason for d in volume.meta["report"].dropped} == {"localizer", "secondary capture"}


def test_several_series_are_listed_and_chosen(tmp_path):
    folder = series(tmp_path, "second_series", "shuffled")
    said = refused(folder)
    assert "holds 2 series: #1 'CT Body' (CT, 8 slices of 20 x 16); #2 'CT Body thin'" in said
    assert f"as {folder}#1, or as {folder}#UID" in said
    assert np.array_equal(read_volume(f"{folder}#1").x, body())
    assert np.array_equal(read_volume(f"{folder}#2").x, body() + 5)
    reports = find_series(folder)
    assert [r.description for r in reports] == ["CT Body", "CT Body thin"]
    assert reports[1].address == f"{folder}#{reports[1].uid}"
    assert np.array_equal(read_volume(reports[1].address).x, body() + 5)
    with pytest.raises(ReadError, match="has no single series '3'; it holds 2 series"):
        read_volume(f"{folder}#3")


def test_phases_in_one_series_are_parted(tmp_path):
    folder = series(tmp_path, "phases")
    assert "#2 'CT Body' (CT, acquisition 2, 8 slices" in refused(folder)
    reports = find_series(folder)
    assert [r.part for r in reports] == ["acquisition 1", "acquisition 2"] and not any(
        r.gaps for r in reports
    )
    assert np.array_equal(read_volume(reports[1].address).x, body() + 30)
    with pytest.raises(ReadError, match="has no single series"):
        read_volume(f"{folder}#{reports[0].uid}")
    # A slice lost from one phase is a gap of that phase, not a mixture.
    (folder / "IM0005.dcm").unlink()
    assert "1 missing between 38.50 and 43.50 mm" in refused(f"{folder}#1")
    assert np.array_equal(read_volume(f"{folder}#2").x, body() + 30)


def test_acquisitions_counted_slice_by_slice_stay_together(tmp_path):
    folder = series(tmp_path)
    for i, path in enumerate(sorted(folder.iterdir())):
        data = pydicom.dcmread(path)
        data.AcquisitionNumber, data.EchoNumbers = i // 2, i
        data.save_as(path)
    assert np.array_equal(read_volume(folder).x, body())
    for i, path in enumerate(sorted(folder.iterdir())):
        data = pydicom.dcmread(path)
        data.AcquisitionNumber = i
        data.save_as(path)
    (folder / "IM0004.dcm").unlink()
    assert "1 missing between 36.00 and 41.00 mm" in refused(folder)


@pytest.mark.parametrize(
    "tag, values, part",
    [
        ("EchoNumbers", (1, 2), "echo 1"),
        ("TemporalPositionIdentifier", (1, 2), "temporal position 1"),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]), "image type"),
    ],
)
def test_kinds_that_take_turns_are_never_one_volume(tmp_path, tag, values, part):
    folder = series(tmp_path)
    for i, path in enumerate(sorted(folder.iterdir())):
        data = pydicom.dcmread(path)
        setattr(data, tag, values[i % 2])
        data.save_as(path)
    reports = find_series(folder)
    assert [r.n_slices for r in reports] == [4, 4] and part in reports[0].part
    assert np.array_equal(read_volume(f"{folder}#2").x, body()[:, :, 1::2])


def test_padding(tmp_path):
    volume = read_volume(series(tmp_path, "padding"))
    y, x = np.ogrid[:16, :20]
    circle = ((y - 7.5) ** 2 + (x - 9.5) ** 2 <= 64).T
    assert np.array_equal(volume.valid, np.repeat(circle[:, :, None], 8, 2)) and volume.unit == "HU"
    assert np.array_equal(volume.x[volume.valid], body()[volume.valid]) and volume.x.dtype == np.int16
    assert (volume.x[~volume.valid] == volume.x[volume.valid].min()).all()
    assert found(volume, "padding").startswith(f"{(~circle).mean():.1%} of its voxels")
    # where a neighbour was not measured, what is interpolated was not either
    both = read_volume(series(tmp_path, "padding", "missing", name="b"), gaps="resample")
    assert np.array_equal(both.valid, volume.valid)
    folder = tmp_path / "b"
    data = pydicom.dcmread(folder / "IM0004.dcm")
    pixels = data.pixel_array.copy()
    pixels[7, 10] = -2000
    data.PixelData = pixels.tobytes()
    data.save_as(folder / "IM0004.dcm")
    both = read_volume(folder, gaps="resample")
    assert not both.valid[10, 7, 3:5].any() and both.valid[10, 7, 5]


def test_orientation_that_cannot_be(tmp_path):
    said = refused(series(tmp_path, "orientation"), gaps="resample", tilt="resample")
    assert "(1, 0, 0, 0.196116, 0.980581, 0) is no pair of perpendicular unit vectors" in said
    folder = series(tmp_path, name="b")
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.ImageOrientationPatient = [0.9, 0, 0, 0, 1, 0]
        data.save_as(path)
    assert "(0.9, 0, 0, 0, 1, 0) is no pair" in refused(folder)


def test_one_slice(tmp_path):
    folder = series(tmp_path, "one_slice")
    assert "is one slice, not a volume" in refused(folder)
    assert "is one slice, not a volume" in refused(folder / "IM0001.dcm")
    assert "is one slice" in refused(series(tmp_path, name="b") / "IM0003.dcm")
    assert find_series(folder) == []


def test_truncated(tmp_path):
    folder = series(tmp_path, "truncated")
    assert f"{folder / 'IM0008.dcm'}: " in refused(folder) and "cut short" in refused(folder)
    whole = (folder / "IM0004.dcm").read_bytes()
    (folder / "IM0004.dcm").write_bytes(whole[:300])  # inside its header
    report = describe_volume(folder).report
    assert report.gaps and [d.name for d in report.dropped] == ["IM0004.dcm"]
