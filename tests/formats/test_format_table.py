"""Tables of samples as people export them: separators, decimal commas, units, time columns and their gaps."""

import json

import numpy as np
import pandas as pd
import pytest
from ecg_files import LEADS

from medfm import formats
from medfm.formats import table
from medfm.formats.time_axis import regular
from medfm.types import ReadError

X = np.round(np.random.default_rng(4).standard_normal((12, 600)) * 0.4, 3)


def text(folder, content, name="t.csv", encoding="utf-8"):
    (folder / name).write_bytes(content.encode(encoding))
    return folder / name


def rows(*columns, sep=","):
    return "\n".join(sep.join(str(v) for v in row) for row in zip(*columns))


def test_round_trip_with_gaps(tmp_path):
    x = X.copy()
    x[3, 50:60] = np.nan
    read = formats.read(table.write_csv(tmp_path / "a.csv", x, 500, LEADS))
    assert read.channels == LEADS and set(read.units) == {"mV"} and read.fs == 500 and read.format == "table"
    np.testing.assert_allclose(read.x, x, atol=1e-6)


@pytest.mark.parametrize(
    "sep, suffix", [(",", "csv"), (";", "csv"), ("\t", "tsv"), ("|", "txt"), (" ", "txt")]
)
@pytest.mark.parametrize("header", [True, False])
def test_separators(tmp_path, sep, suffix, header):
    content = rows(X[0], X[1], sep=sep)
    path = text(tmp_path, (sep.join(["I", "II"]) + "\n" if header else "") + content, f"t.{suffix}")
    read = formats.read(path, fs=100)
    np.testing.assert_allclose(read.x, X[:2], atol=1e-6)
    assert read.channels == (("I", "II") if header else ("", "")) and read.fs == 100
    assert [f.code for f in read.findings] == ([] if header else ["unnamed-channels"])


def test_german_export(tmp_path):
    """Semicolons, decimal commas, Latin-1, units in the header, milliseconds."""
    lines = [f"{2 * i};{1000 * a:.1f};{b:.3f}".replace(".", ",") for i, (a, b) in enumerate(zip(X[0], X[1]))]
    read = formats.read(text(tmp_path, "Zeit (ms);II (µV);V1 [mV]\n" + "\n".join(lines), encoding="latin-1"))
    assert read.channels == ("II", "V1") and read.units == ("µV", "mV") and read.fs == 500
    np.testing.assert_allclose(read.x, [X[0] * 1000, X[1]], atol=1e-3)


def test_physionet_rdsamp_layout(tmp_path):
    """Quoted names, a second header row of units, time rounded to milliseconds at 360 Hz."""
    lines = [f"{i / 360:.3f},{a},{b}" for i, (a, b) in enumerate(zip(X[0], X[1]))]
    head = "'Elapsed time','MLII','V5'\n'seconds','mV','mV'\n"
    read = formats.read(text(tmp_path, head + "\n".join(lines)))
    assert read.channels == ("MLII", "V5") and read.units == ("mV", "mV") and read.fs == 360
    np.testing.assert_allclose(read.x, X[:2], atol=1e-6)


def test_lead_a_row(tmp_path):
    named = "\n".join(f"{n}," + ",".join(map(str, r)) for n, r in zip(LEADS, X))
    read = formats.read(text(tmp_path, named), fs=500)
    assert read.channels == LEADS
    np.testing.assert_allclose(read.x, X, atol=1e-6)
    bare = formats.read(text(tmp_path, "\n".join(",".join(map(str, r)) for r in X)), fs=500)
    np.testing.assert_allclose(bare.x, X, atol=1e-6)


@pytest.mark.parametrize(
    "title, units",
    [("II (mV)", "mV"), ("II [uV]", "uV"), ("II/mV", "mV"), ("II_uV", "uV"), ("II", ""), ("II (µV)", "µV")],
)
def test_units_in_the_header(tmp_path, title, units):
    read = formats.read(text(tmp_path, f"{title}\n" + rows(X[0])), fs=100)
    assert read.channels == ("II",) and read.units == (units,)


def test_no_sampling_rate_is_a_sentence_and_four_ways_to_say_it(tmp_path):
    body = "I,II\n" + rows(X[0], X[1])
    path = text(tmp_path, body)
    with pytest.raises(
        ReadError, match=r"t\.csv: a table without a time column states no sampling rate.*t\.json"
    ):
        formats.read(path)
    assert formats.read(path, fs=250).fs == 250
    assert formats.read(text(tmp_path, "# fs: 125\n" + body, "c.csv")).fs == 125
    text(tmp_path, json.dumps({"fs": 200, "units": "mV", "patient": 4}), "t.json")
    read = formats.read(path)
    assert (read.fs, read.units, read.patient) == (200, ("mV", "mV"), "4")
    with pytest.raises(ReadError, match="states 200 Hz, and 500 Hz were given"):
        formats.read(path, fs=500)
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(ReadError, match=r"t\.json: the sidecar"):
        formats.read(path)


@pytest.mark.parametrize("name", ["sample", "index", "Sample #", ""])
def test_a_running_number_is_no_channel_and_no_time(tmp_path, name):
    path = text(tmp_path, f"{name},I\n" + rows(range(600), X[0]))
    if name:
        read = formats.read(path, fs=360)
        assert read.channels == ("I",) and read.x.shape == (1, 600)


@pytest.mark.parametrize(
    "title, stamps, fs, finding",
    [
        ("time (s)", [i / 250 for i in range(600)], 250, []),
        ("time_ms", [i * 4 for i in range(600)], 250, []),
        ("time", [i * 4 for i in range(600)], 250, ["assumed-time-unit"]),
        ("time", [round(i / 300, 3) for i in range(600)], 300, []),
        ("time", [1e9 + i / 128 for i in range(600)], 128, []),
        ("timestamp", [f"2024-01-01 10:00:{i / 100:06.3f}" for i in range(600)], 100, []),
        ("time", [f"0:00:{i / 100:06.3f}" for i in range(600)], 100, []),
    ],
)
def test_time_columns(tmp_path, title, stamps, fs, finding):
    read = formats.read(text(tmp_path, f"{title},I\n" + rows(stamps, X[0])))
    assert read.fs == fs and read.channels == ("I",)
    assert [f.code for f in read.findings] == finding
    np.testing.assert_allclose(read.x[0], X[0], atol=1e-6)


def test_time_that_counts_in_ones_is_not_guessed(tmp_path):
    with pytest.raises(ReadError, match="counts in ones and states no unit"):
        formats.read(text(tmp_path, "time,I\n" + rows(range(600), X[0])))
    assert formats.read(text(tmp_path, "time (ms),I\n" + rows(range(600), X[0]))).fs == 1000


def test_missing_rows_become_missing_samples(tmp_path):
    kept = [i for i in range(600) if not 200 <= i < 300]
    read = formats.read(text(tmp_path, "time,I\n" + rows([i / 250 for i in kept], X[0][kept])))
    assert read.fs == 250 and read.x.shape == (1, 600) and [f.code for f in read.findings] == ["time-gaps"]
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(read.x[0])), np.arange(200, 300))
    np.testing.assert_allclose(read.x[0, kept], X[0][kept], atol=1e-6)


def test_time_that_runs_backwards_or_jumps_a_year(tmp_path):
    t = np.arange(600) / 250
    with pytest.raises(ReadError, match="does not run forward"):
        formats.read(text(tmp_path, "time,I\n" + rows(t[::-1], X[0])))
    with pytest.raises(ReadError, match=r"gaps a hundred times longer|promises"):
        formats.read(text(tmp_path, "time,I\n" + rows(np.where(t < 1, t, t + 3e7), X[0])))


def test_uneven_time_is_said(tmp_path):
    t = np.arange(2000) / 250 + np.random.default_rng(0).uniform(-1, 1, 2000) * 1e-3
    fs, _, findings = regular(tmp_path, t, np.zeros((1, 2000)))
    assert fs == pytest.approx(250, rel=0.01) and [f.code for f in findings] == ["uneven-time"]


def test_words_in_a_column(tmp_path):
    frame = pd.DataFrame({"I": X[0].astype(object), "note": ["x"] * 600})
    frame.loc[5, "I"] = "artefact"
    read = formats.read(text(tmp_path, frame.to_csv(index=False)), fs=100)
    assert read.channels == ("I",) and np.flatnonzero(np.isnan(read.x[0])).tolist() == [5]
    assert {f.code for f in read.findings} == {"text-column", "unreadable-cells"}


def test_a_table_of_records_is_no_record(tmp_path):
    for head in ("path,patient_id,label", "ecg_id,filename_hr,age", "record,fold"):
        path = text(tmp_path, f"{head}\n" + ",".join("1" for _ in head.split(",")))
        assert not formats.is_candidate(path)
        with pytest.raises(ReadError, match="is a table of records, not of samples"):
            formats.read(path, fs=100)
    assert formats.is_candidate(table.write_csv(tmp_path / "s.csv", X, 500, LEADS))


def test_parquet(tmp_path):
    frame = pd.DataFrame({"time": np.arange(600) / 250, "I": X[0], "V1 (uV)": X[1]})
    frame.to_parquet(tmp_path / "a.parquet")
    read = formats.read(tmp_path / "a.parquet")
    assert read.channels == ("I", "V1") and read.units == ("", "uV") and read.fs == 250
    np.testing.assert_allclose(read.x, X[:2], atol=1e-6)
    pd.DataFrame({"path": ["a"], "patient_id": [1]}).to_parquet(tmp_path / "m.parquet")
    assert formats.is_candidate(tmp_path / "a.parquet") and not formats.is_candidate(tmp_path / "m.parquet")


def test_one_line_of_numbers(tmp_path):
    path = text(tmp_path, "\t".join(map(str, X[0])), "1_1.txt")
    assert formats.is_candidate(path)
    np.testing.assert_allclose(formats.read(path, fs=1000).x, X[:1], atol=1e-6)


def test_more_cells_than_titles_is_an_error(tmp_path):
    """pandas would drop the third column in silence."""
    with pytest.raises(ReadError, match=r"t\.csv: cannot be read as a table"):
        formats.read(text(tmp_path, "I,II\n" + rows(X[0], X[1], X[2])), fs=100)


def test_utf16_and_byte_order_mark(tmp_path):
    for encoding in ("utf-16", "utf-8-sig"):
        read = formats.read(text(tmp_path, "I,II\n" + rows(X[0], X[1]), encoding=encoding), fs=100)
        assert read.channels == ("I", "II")
