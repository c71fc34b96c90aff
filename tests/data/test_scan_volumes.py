"""A tree of volumes: every series and file once, what is broken set aside, slices of one volume kept together."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from medfm.cli.main import app
from medfm.data.catalog import resolve_source
from medfm.data.scan import scan
from medfm.formats.series_write import write_series
from medfm.formats.volume_write import write_nifti
from medfm.modalities.ct import CT
from medfm.modalities.ct_slice import CTSlice
from medfm.types import ConfigError

SPACING = np.diag([4.0, 4.0, 5.0, 1.0])


def body(shape=(36, 32, 12), at=(8, 8, 0)):
    """Air, and a person of fat, muscle and bone, noisy enough to look like a scan."""
    rng = np.random.default_rng(0)
    x = np.full(shape, -1000.0)
    inside = x[at[0] : -8, at[1] : -8]
    inside[:] = 50
    inside[:2] = inside[:, :2] = -100
    inside[6:9, 6:9] = 700
    return (x + rng.normal(0, 8, shape)).round().astype(np.int16)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    write_nifti(folder / "a" / "one.nii.gz", body(), SPACING)
    write_series(folder / "b" / "series", body(), SPACING, record="r", patient="P7")
    write_series(folder / "c" / "gap", body(), SPACING, record="g", patient="P8", faults=["missing"])
    (folder / "d.nii.gz").write_bytes(b"no volume")
    (folder / "notes.txt").write_text("hello")
    return folder


def test_every_volume_of_a_tree_is_found_and_described(tree, tmp_path):
    found = scan(tree, CT(spacing=(4, 4, 5), size=(16, 16, 8)))
    assert [(r.format, r.patient, r.unit, r.shape) for r in found.records] == [
        ("nifti", None, "HU", (36, 32, 12)),
        ("dicom", "P7", "HU", (36, 32, 12)),
    ]
    assert {path.rpartition("/")[2] for path, _ in found.failed} == {"gap", "d.nii.gz"}
    assert "missing" in {p.rpartition("/")[2]: why for p, why in found.failed}["gap"]
    told = found.describe()
    assert told["orientation"] == {"RAS": 2} and told["units"] == {"HU": 2}
    assert told["voxels"]["median"] == "36 x 32 x 12" and told["others"] == {".txt": 1}
    np.testing.assert_allclose(told["values"][1], -1000, atol=20)
    frame = found.frame(tree)
    assert frame["path"].tolist() == ["a/one.nii.gz", "b/series"]
    assert frame["voxels"].tolist() == ["36 x 32 x 12"] * 2


def test_a_gap_is_filled_where_the_settings_say_so(tree):
    found = scan(tree / "c", CT(spacing=(4, 4, 5), size=(16, 16, 8), gaps="resample"))
    assert len(found.records) == 1 and found.records[0].shape == (36, 32, 12)
    assert any("gap" in f.code for f in found.records[0].findings)


def test_slices_of_a_volume_share_their_patient_and_their_unit(tree):
    manifest, _, _ = resolve_source(str(tree / "a"), modality=CTSlice(size=(16, 16), spacing=4.0))
    assert len(manifest) == 12 and len(set(manifest.patients)) == 1
    assert len(set(manifest.frame["volume"])) == 1
    manifest, _, _ = resolve_source(str(tree / "b"), modality=CTSlice(size=(16, 16), spacing=4.0, every=9))
    assert set(manifest.patients) == {"P7"} and manifest.paths[1].endswith("series#slice=2")


def test_the_commands_say_what_there_is(tree, tmp_path):
    runner = CliRunner()
    out = runner.invoke(
        app, ["data", "scan", str(tree), "--modality", "ct", "--output", str(tmp_path / "m.csv")]
    )
    assert out.exit_code == 0, out.output
    assert "axes      RAS (2)" in out.output and "set aside: 2 of 4" in out.output
    picture = tmp_path / "sheet.html"
    out = runner.invoke(app, ["data", "show", str(tree / "b"), "--modality", "ct", "--output", str(picture)])
    assert out.exit_code == 0 and "data:image/png;base64" in picture.read_text()


def test_a_table_of_slices_keeps_patients_together_and_says_what_each_shows(tree, tmp_path):
    site = tmp_path / "site"
    mask = np.zeros((36, 32, 12), np.uint8)
    mask[14:20, 14:20, 3:6] = 2
    mask[14, 14, 8] = 2  # less than a slice needs to show it
    for name in ("p", "q"):
        write_nifti(site / f"{name}.nii.gz", body(), SPACING)
        write_nifti(site / f"{name}-mask.nii.gz", mask, SPACING)
    (site / "table.csv").write_text(
        "path,mask,patient_id,lesion\np.nii.gz,p-mask.nii.gz,one,1\nq.nii.gz,q-mask.nii.gz,two,0\ngone.nii.gz,x.nii.gz,three,0\n"
    )
    (site / "labels.json").write_text(json.dumps({"2": "liver"}))
    output = tmp_path / "slices.csv"
    runner = CliRunner()
    words = ["data", "slices", str(site / "table.csv"), "--mask", "mask", "--output", str(output)]
    out = runner.invoke(app, words)
    assert out.exit_code == 0, out.output
    assert "24 slices of 2 volumes, 2 patients" in out.output and "liver (6)" in out.output
    assert "set aside" in out.output
    import pandas as pd

    frame = pd.read_csv(output)
    assert frame.groupby("patient_id").size().to_dict() == {"one": 12, "two": 12}
    assert frame["has_liver"].tolist() == [int(n in (3, 4, 5)) for n in range(12)] * 2
    assert frame["lesion"].tolist() == [1] * 12 + [0] * 12 and frame["position"].iloc[3] == 15.0
    assert isinstance(runner.invoke(app, words).exception, ConfigError)  # the table exists
    wrong = runner.invoke(app, [*words[:3], "--mask", "nothing", "--output", str(tmp_path / "x.csv")])
    assert "no such column" in str(wrong.exception)
