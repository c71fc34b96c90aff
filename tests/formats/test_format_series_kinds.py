"""DICOM series of other kinds: enhanced multi-frame, zips, rescales, thickness, units, odd folders."""

from __future__ import annotations

import shutil
import zipfile

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from volume_files import body, same_places, turned, write_enhanced

from medfm.formats import archive
from medfm.formats import series as assembler
from medfm.formats.series import find_series
from medfm.formats.series_write import SeriesHeader, write_series
from medfm.formats.volume import describe_volume, read_volume, records
from medfm.formats.volume_write import write_nifti
from medfm.types import ReadError

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXIAL = turned(signs=(-1, -1, 1))


def series(tmp_path, *faults, affine=AXIAL, name="series", **options):
    return write_series(
        tmp_path / name, body(), affine, record=name, patient="secret-id", faults=faults, **options
    )


def edit(folder, change):
    for i, path in enumerate(sorted(folder.iterdir())):
        data = pydicom.dcmread(path)
        change(i, data)
        data.save_as(path)
    return folder


def refused(path, **options):
    with pytest.raises(ReadError) as error:
        read_volume(path, **options)
    assert "secret-id" not in str(error.value)
    return str(error.value)


def codes(volume):
    return [f.code for f in volume.findings]


def stored(k):
    return (body()[:, :, k].T + 1024).astype(np.int16)


def test_enhanced_by_highdicom(tmp_path):
    affine = turned(signs=(-1, -1, 1), angles=(12, -7, 20))
    classic = [pydicom.dcmread(p) for p in sorted(series(tmp_path, "shuffled", affine=affine).iterdir())]
    converted = LegacyConvertedEnhancedCTImage(classic, "1.2.3.4", 5, "1.2.3.4.5", 1)
    path = tmp_path / "enhanced.dcm"
    converted.save_as(path)
    volume, oracle = read_volume(path), highdicom.imread(path).get_volume()
    assert same_places(volume.x, volume.affine, oracle.array, LPS @ oracle.affine)
    assert same_places(volume.x, volume.affine, body(), affine)
    assert volume.meta["report"].enhanced and volume.unit == "HU" and volume.patient == "secret-id"


def test_enhanced_frames_in_any_order(tmp_path):
    order = [3, 0, 7, 1, 6, 2, 5, 4]
    frames = [
        (stored(k), (12.5, -20.25, 31 + 2.5 * k), {"StackID": "1", "InStackPositionNumber": 8 - k})
        for k in order
    ]
    path = write_enhanced(tmp_path / "e.dcm", frames)
    volume, head = read_volume(path), describe_volume(path)
    assert (
        np.array_equal(volume.x, body()) and volume.unit == "HU" and np.allclose(head.affine, volume.affine)
    )
    assert volume.affine.tolist() == [[-0.8, 0, 0, -12.5], [0, -0.7, 0, 20.25], [0, 0, 2.5, 31], [0, 0, 0, 1]]
    data = pydicom.dcmread(path)
    data.compress(pydicom.uid.RLELossless)
    data.save_as(tmp_path / "rle.dcm")
    assert np.array_equal(read_volume(tmp_path / "rle.dcm").x, body())


def test_enhanced_phases_and_stacks_are_parted(tmp_path):
    frames = [
        (stored(k) + 10 * t, (12.5, -20.25, 31 + 2.5 * k), {"TemporalPositionIndex": t + 1})
        for k in range(8)
        for t in (0, 1)
    ]
    path = write_enhanced(tmp_path / "e.dcm", frames)
    assert "holds 2 series" in refused(path) and "temporal position 2, 8 slices" in refused(path)
    assert np.array_equal(read_volume(f"{path}#2").x, body() + 10)
    assert [np.array_equal(read_volume(a).x, body() + t) for a, t in zip(records(path), (0, 10))] == [
        True,
        True,
    ]


def test_multi_frame_without_positions(tmp_path):
    path = write_enhanced(tmp_path / "e.dcm", [(stored(k), (0, 0, k), {}) for k in range(4)])
    data = pydicom.dcmread(path)
    del data.PerFrameFunctionalGroupsSequence
    data.save_as(path)
    assert "1 multi-frame object without positions of its frames (e.dcm)" in refused(path)


def test_zip(tmp_path):
    folder = series(tmp_path)
    path = shutil.make_archive(str(tmp_path / "scan"), "zip", folder)
    volume = read_volume(path)
    assert np.array_equal(volume.x, body()) and volume.record == "scan" and np.allclose(volume.affine, AXIAL)
    assert describe_volume(path).shape == (20, 16, 8) and find_series(path)[0].address == path
    both = shutil.make_archive(str(tmp_path / "two"), "zip", series(tmp_path, "second_series", name="two"))
    assert "holds 2 series" in refused(both)
    assert all(read_volume(a).x.shape == (20, 16, 8) for a in records(both)) and len(records(both)) == 2
    cut = shutil.make_archive(str(tmp_path / "cut"), "zip", series(tmp_path, "truncated", name="c"))
    assert f"{cut}/IM0008.dcm: " in refused(cut) and "medfm-zip" not in refused(cut)


def test_zips_that_are_not_unpacked(tmp_path, monkeypatch):
    def packed(name, members, method=zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / name, "w", method) as file:
            for member, content in members.items():
                file.writestr(member, content)
        return tmp_path / name

    for name in ("../evil.dcm", "/evil.dcm", "a/../../evil.dcm", "C:\\evil.dcm"):
        assert "leads out of it" in refused(packed("e.zip", {name: b"x"}))
    assert not list(tmp_path.parent.glob("evil*"))
    assert "holds no DICOM images" in refused(packed("t.zip", {"a.txt": b"hello"}))
    bomb = packed("bomb.zip", {"a.dcm": bytes(150_000_000)})
    assert "more than is unpacked unseen" in refused(bomb)
    monkeypatch.setattr(archive, "MAX_FILES", 2)
    assert "unpacks to 3 files" in refused(packed("m.zip", {f"{i}": b"x" for i in range(3)}))
    whole = packed("w.zip", {"a": bytes(1000)}).read_bytes()
    (tmp_path / "w.zip").write_bytes(whole[:-30])
    assert "cannot be unpacked" in refused(tmp_path / "w.zip")


def test_a_tree_is_listed_by_series(tmp_path, monkeypatch):
    root = tmp_path / "site"
    series(root, name="p1/ct")
    series(root, "second_series", "missing", name="p2")
    series(root, "one_slice", name="p3")
    write_nifti(root / "n.nii.gz", body(), AXIAL)
    (root / "notes.txt").write_text("no DICOM")
    monkeypatch.setattr(
        pydicom.Dataset, "pixel_array", property(lambda self: pytest.fail("pixels were decoded"))
    )
    reports = find_series(root)
    assert sorted(r.address.partition("#")[0].replace(str(root), "") for r in reports) == [
        "/p1/ct",
        "/p2",
        "/p2",
    ]
    by = {r.address: r for r in reports}
    first = by[str(root / "p1" / "ct")]
    assert (first.n_slices, first.size, first.orientation, first.modality) == (8, (20, 16), "LPS", "CT")
    assert first.spacing == pytest.approx((0.8, 0.7, 2.5)) and first.unit == "HU" and first.refusal is None
    assert (
        sum("1 missing" in (r.refusal or "") for r in reports) == 1
    )  # of the second series nothing is missing
    assert records(root) == [r.address for r in reports] + [str(root / "n.nii.gz")]
    assert "holds 3 series" in refused(root)


def test_the_index_follows_the_files(tmp_path):
    folder = series(tmp_path)
    assert read_volume(folder).x.shape == (20, 16, 8)
    (folder / "IM0008.dcm").unlink()
    assert read_volume(folder).x.shape == (20, 16, 7)


def test_rescale_of_each_slice(tmp_path):
    def change(i, data):
        data.RescaleSlope, data.Modality = str(1 + 0.5 * i), "PT"
        del data.RescaleType

    folder = edit(series(tmp_path), change)
    volume = read_volume(folder)
    expected = (body() + 1024.0) * (1 + 0.5 * np.arange(8)) - 1024
    assert volume.x.dtype == np.float32 and np.allclose(volume.x, expected)
    assert {"rescale-varies", "unit-not-hu"} <= set(codes(volume)) and volume.unit == ""
    oracle = highdicom.get_volume_from_series([pydicom.dcmread(p) for p in folder.iterdir()])
    assert same_places(volume.x.astype(np.float64), volume.affine, oracle.array, LPS @ oracle.affine)


def test_thickness_and_spacing(tmp_path):
    volume = read_volume(series(tmp_path, header=SeriesHeader(thickness=4)))
    assert "4 mm thick and 2.5 mm apart: they overlap" in volume.findings[0].message
    assert volume.meta["report"].overlap == pytest.approx(1.5) and volume.spacing[2] == pytest.approx(2.5)
    apart = read_volume(series(tmp_path, header=SeriesHeader(thickness=1), name="b"))
    assert codes(apart) == ["slices-apart"]


@pytest.mark.parametrize(
    "changes, unit, code",
    [
        ({"RescaleType": None}, "HU", None),  # a CT with an intercept
        ({"RescaleType": "US"}, "HU", "unit-implied"),
        ({"RescaleType": None, "RescaleIntercept": None, "RescaleSlope": None}, "", "unit-offset"),
        ({"RescaleType": None, "RescaleIntercept": "0", "PixelRepresentation": 0}, "", "unit-offset"),
        ({"RescaleType": "US", "ImageType": ["DERIVED", "PRIMARY", "PERFUSION"]}, "", "unit-not-hu"),
        ({"Modality": "MR"}, "HU", None),  # the type is said outright
        ({"Modality": "MR", "RescaleType": None}, "", "unit-not-hu"),
    ],
)
def test_units(tmp_path, changes, unit, code):
    def change(i, data):
        for name, value in changes.items():
            setattr(data, name, value)
            if value is None:
                delattr(data, name)

    volume = read_volume(edit(series(tmp_path), change))
    assert volume.unit == unit and ([code] if code else []) == [
        c for c in codes(volume) if c.startswith("unit")
    ]


def test_colour_reports_and_other_objects(tmp_path):
    folder = series(tmp_path)

    def other(name, **tags):
        data = pydicom.dcmread(folder / "IM0001.dcm")
        for tag, value in tags.items():
            setattr(data, tag, value)
            if value is None:
                delattr(data, tag)
        data.SOPInstanceUID = "1.2.3.9"
        data.save_as(folder / name)

    other("seg.dcm", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", Modality="SEG")
    other("sr.dcm", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", Rows=None, Columns=None, PixelData=None)
    other("rgb.dcm", SamplesPerPixel=3)
    other("nowhere.dcm", ImagePositionPatient=None)
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    volume = read_volume(folder)
    assert np.array_equal(volume.x, body())
    reasons = {d.name: d.reason for d in volume.meta["report"].dropped}
    assert reasons["seg.dcm"] == "Segmentation Storage" and "Dose" in reasons["sr.dcm"]
    assert (
        reasons["rgb.dcm"] == "colour image"
        and reasons["nowhere.dcm"] == "image without position in the patient"
    )
    assert "broken.dcm" in reasons and "DICOMDIR" not in reasons


def test_two_patients_with_one_series_uid_stay_apart(tmp_path):
    folder = series(tmp_path)

    def change(i, data):
        data.PatientID, data.SeriesInstanceUID = "secret-id-2", find_series(folder)[0].uid
        data.ImagePositionPatient = [*data.ImagePositionPatient[:2], data.ImagePositionPatient[2] + 20]

    for path in edit(series(tmp_path, name="other"), change).iterdir():
        shutil.copy(path, folder / f"b{path.name}")
    assert "holds 2 series" in refused(folder)
    assert [read_volume(r.address).patient for r in find_series(folder)] == ["secret-id", "secret-id-2"]


def test_orientations_in_one_series_are_parted(tmp_path):
    folder = series(tmp_path)
    other = series(tmp_path, affine=turned((0, 2, 1), (-1, -1, 1)), name="coronal")
    for path in edit(
        other, lambda i, d: setattr(d, "SeriesInstanceUID", find_series(folder)[0].uid)
    ).iterdir():
        shutil.copy(path, folder / f"c{path.name}")
    assert [r.orientation for r in find_series(folder)] == ["LPS", "LIA"] or "holds 2 series" in refused(
        folder
    )
    assert len(find_series(folder)) == 2


def test_slices_beside_the_line(tmp_path):
    def change(i, data):
        data.ImagePositionPatient = [
            float(data.ImagePositionPatient[0]) + (5 if i == 3 else 0),
            *data.ImagePositionPatient[1:],
        ]

    assert "do not lie on one line" in refused(
        edit(series(tmp_path), change), tilt="resample", gaps="resample"
    )


def test_labels_of_a_series(tmp_path):
    folder = write_series(tmp_path / "m", (body() > 0).astype(np.int16), AXIAL, record="m")
    volume = read_volume(folder, label=True)
    assert volume.unit == "label" and np.array_equal(volume.x, body() > 0)
    (folder / "IM0004.dcm").unlink()
    assert "labels are never interpolated" in refused(folder, label=True, gaps="resample")


def test_what_is_no_series(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no DICOM images" in refused(tmp_path / "empty")
    assert find_series(tmp_path / "empty") == []
    assert assembler.MAX_GAP == 4
