"""Files of wearables and cameras: Empatica, Polar, uneven stamps, rows of units, named arrays, Vital Recorder."""

from __future__ import annotations

import gzip
import struct
import zipfile

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from medfm import formats
from medfm.types import ReadError

START = 1_600_000_000.0


def wave(t):
    return np.sin(2 * np.pi * 1.2 * np.asarray(t)) + 0.4 * np.sin(2 * np.pi * 2.4 * np.asarray(t) + 0.7)


def codes(signal):
    return {f.code for f in signal.findings}


def table(path, columns, sep=",", units=None, header=None):
    frame = pd.DataFrame(columns)
    lines = [sep.join(header or frame.columns)] + ([sep.join(units)] if units else [])
    path.write_text("\n".join(lines) + "\n" + frame.to_csv(sep=sep, index=False, header=False))
    return path


# Tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_uneven_stamps_are_brought_to_an_even_grid(tmp_path, suffix):
    rng = np.random.default_rng(0)
    t = np.cumsum(np.concatenate([[0.0], (1 + rng.uniform(-0.4, 0.4, 900)) / 30]))
    t = np.round(t * 1000)  # a camera's milliseconds
    lost = (t > 10_000) & (t < 11_000)
    t = t[~lost]
    path = tmp_path / f"a.{suffix}"
    frame = pd.DataFrame({"time": t, "R": 200 + wave(t / 1000), "G": 50.0 + wave(t / 1000), "B": 0.0})
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    signal = formats.read(path)
    assert (
        formats.is_candidate(path)
        and signal.channels == ("R", "G", "B")
        and signal.fs == pytest.approx(30, abs=0.5)
    )
    assert codes(signal) == {"uneven-time", "time-gaps", "assumed-time-unit", "rate-from-time"}
    at = np.arange(signal.x.shape[1]) / signal.fs
    there = np.isfinite(signal.x[1])
    # Taken as even, the jitter of 40 % of a step would leave errors of a tenth; the spline leaves a hundredth.
    assert np.abs(signal.x[1] - 50 - wave(at))[there][3:-3].max() < 0.03
    gap = at[~there]
    assert gap.min() > 9.95 and gap.max() < 11.05 and (~there).sum() == pytest.approx(30, abs=2)


def test_even_stamps_keep_their_samples(tmp_path):
    x = wave(np.arange(500) / 50).round(4)
    signal = formats.read(table(tmp_path / "a.csv", {"time (s)": np.arange(500) / 50, "ppg (a.u.)": x}))
    assert (signal.fs, signal.channels, signal.units) == (50.0, ("ppg",), ("a.u.",))
    assert np.array_equal(signal.x[0], x.astype(np.float32))
    assert "50 Hz, from 500 time stamps" in next(f.message for f in signal.findings)


@pytest.mark.parametrize("units", [["s", "counts", "g"], ["[s]", "nW", "m/s2"], ["s", "", "g"]])
def test_a_row_of_units_is_no_sample(tmp_path, units):
    t = np.arange(300) / 25
    path = table(tmp_path / "a.csv", {"time": t, "ppg": wave(t), "acc_x": t}, units=units)
    signal = formats.read(path)
    assert signal.x.shape == (2, 300) and signal.fs == 25 and signal.units[1] == units[2]
    assert np.isfinite(signal.x).all() and signal.channels == ("ppg", "acc_x")


def test_polar_is_read_by_its_sensors_clock(tmp_path):
    n = 550
    sensor = (5e17 + np.arange(n) * 1e9 / 55).round().astype(np.int64)
    phone = pd.Timestamp("2024-05-01T10:00:00") + pd.to_timedelta(
        np.repeat(np.arange(n // 11) * 0.2, 11), "s"
    )
    x = 400_000 + 900 * wave(np.arange(n) / 55)
    columns = {"p": phone.strftime("%Y-%m-%dT%H:%M:%S.%f"), "s": sensor, "0": x, "1": 2 * x, "2": x, "a": 7.0}
    header = ["Phone timestamp", "sensor timestamp [ns]", "channel 0", "channel 1", "channel 2", "ambient"]
    signal = formats.read(table(tmp_path / "p.txt", columns, ";", header=header))
    assert signal.fs == 55 and signal.channels == ("ppg0", "ppg1", "ppg2", "ambient")
    assert np.allclose(signal.x[0], x, rtol=1e-5)


@pytest.mark.parametrize("first", ["seconds", "milliseconds"])
def test_seconds_mixed_with_milliseconds_are_refused(tmp_path, first):
    t = np.arange(400) / 25
    t = np.where((np.arange(400) < 200) == (first == "seconds"), t, 1000 * t)
    with pytest.raises(ReadError, match=r"a\.csv: its time column 'time' mixes units: .* in one unit"):
        formats.read(table(tmp_path / "a.csv", {"time": t, "ppg": wave(t)}))


def test_stamps_that_go_back_and_missing_rates_are_sentences(tmp_path):
    t = np.arange(400) / 25
    back = table(tmp_path / "a.csv", {"time": np.concatenate([t[200:], t[:200]]), "ppg": wave(t)})
    with pytest.raises(ReadError, match="does not run forward"):
        formats.read(back)
    bare = table(tmp_path / "b.csv", {"ppg": wave(t)})
    with pytest.raises(ReadError, match="states no sampling rate"):
        formats.read(bare)
    assert formats.read(bare, fs=25).fs == 25


def test_tables_of_records_and_of_leads_are_left_to_the_other_readers(tmp_path):
    records = table(tmp_path / "r.csv", {"path": ["a", "b"], "ppg": [1, 2]})
    features = table(tmp_path / "f.csv", {"patient_id": [1, 2], "ppg_rate": [60, 70]})
    assert not formats.is_candidate(records) and not formats.is_candidate(features)
    t = np.arange(300) / 100
    ecg = formats.read(table(tmp_path / "e.csv", {"time (s)": t, "II (mV)": t}))
    assert ecg.format == "table"


# Empatica ----------------------------------------------------------------------------------------------------


def session(folder, seconds=20, late=2.0):
    """BVP at 64 Hz, and an acceleration of 1 g rising by 1 g a second that begins ``late`` seconds later."""
    t, moving = np.arange(64 * seconds) / 64, np.arange(round(32 * (seconds - late))) / 32
    counts = 64 * (1 + moving)
    files = {
        "BVP.csv": [START, 64.0, *wave(t)],
        "ACC.csv": ["%f, %f, %f" % ((START + late,) * 3), "32.0, 32.0, 32.0"]
        + [f"{c},{-c},0" for c in counts],
        "EDA.csv": [START, 4.0, *np.ones(4 * seconds)],
        "IBI.csv": [f"{START}, IBI", "1.0,0.8"],
    }
    for name, rows in files.items():
        (folder / name).write_text("\n".join(map(str, rows)) + "\n")
    return folder, list(files)


@pytest.mark.parametrize("packed", [True, False])
def test_an_e4_session(tmp_path, packed):
    folder, names = session(tmp_path)
    path = folder / "BVP.csv"
    if packed:
        path = folder / "1600000000_A01234.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.write(folder / name, f"1600000000_A01234/{name}")
    signal = formats.read(path)
    assert (signal.fs, signal.channels) == (64.0, ("BVP", "ACC_X", "ACC_Y", "ACC_Z"))
    assert np.allclose(signal.x[0], wave(np.arange(1280) / 64), atol=1e-5) and signal.meta["start"] == START
    # Two seconds later it began, at 1 g; then 1 g a second, on the clock of the pulse wave.
    assert np.isnan(signal.x[1, :128]).all() and np.allclose(
        signal.x[1, 128:1270], 1 + np.arange(1142) / 64, atol=1e-4
    )
    assert np.allclose(signal.x[2, 128:1270], -signal.x[1, 128:1270]) and codes(signal) == {
        "resampled-channel"
    }
    found = {p.name for p in folder.iterdir() if formats.is_candidate(p)}
    assert found == {"BVP.csv"} | ({path.name} if packed else set())


def test_damaged_and_other_zips(tmp_path):
    folder, _ = session(tmp_path)
    for name, text, words in (
        ("a", "x,y\n1,2\n", "start time|cannot be read"),
        ("b", f"{START}\n64.0\n", "no samples|cannot be read"),
        ("c", "12.0\n64.0\n1\n2\n", "no start time"),
    ):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.writestr("BVP.csv", text)
        with pytest.raises(ReadError, match=words):
            formats.read(folder / f"{name}.zip")
    with zipfile.ZipFile(folder / "d.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    assert not formats.is_candidate(folder / "d.zip")
    with pytest.raises(ReadError, match="is an archive"):
        formats.read(folder / "d.zip")


# Arrays ------------------------------------------------------------------------------------------------------


def arrays(path, **vectors):
    if path.suffix == ".npz":
        np.savez(path, **vectors)
    elif path.name.endswith("v73.mat"):
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, value in vectors.items():
                file[name] = np.atleast_2d(value)
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    else:
        savemat(path, vectors)
    return path


@pytest.mark.parametrize("name", ["a.npz", "a.mat", "a_v73.mat"])
def test_named_vectors_are_channels(tmp_path, name):
    t = np.arange(1000) / 125
    path = arrays(tmp_path / name, ecg=np.cos(t), ppg=wave(t), fs=125.0, acc=np.ones(250), age=61)
    signal = formats.read(path)
    assert signal.fs == 125 and set(signal.channels) == {"ecg", "ppg"} and formats.is_candidate(path)
    assert np.allclose(signal.x[signal.channels.index("ppg")], wave(t), atol=1e-6)
    assert "acc" in next(f.message for f in signal.findings if f.code == "mixed-sampling-rates")
    assert float(signal.meta["age"]) == 61 and formats.records(path) == [str(path)]


@pytest.mark.parametrize("name", ["a.npz", "a.mat", "a_v73.mat"])
def test_times_beside_a_vector_imply_its_rate(tmp_path, name):
    t = np.arange(1000) / 50
    assert formats.read(arrays(tmp_path / name, ppg=wave(t), timer=1000 * t)).fs == 50
    bare = arrays(tmp_path / f"b{name}", ppg=wave(t))
    with pytest.raises(ReadError, match="states no sampling rate"):
        formats.read(bare)
    mixed = arrays(tmp_path / f"c{name}", ppg=wave(t), t=np.where(t < 10, t, 1000 * t))
    with pytest.raises(ReadError, match="mixes units"):
        formats.read(mixed)


# Vital Recorder ----------------------------------------------------------------------------------------------


def text(value):
    return struct.pack("<I", len(value)) + value.encode()


def packet(kind, body):
    return struct.pack("<bI", kind, len(body)) + body


def track(number, name, unit, kind, form, fs, gain=1.0, offset=0.0):
    body = struct.pack("<HBB", number, kind, form) + text(name) + text(unit)
    return packet(0, body + struct.pack("<ffIfddBI", 0, 100, 0, fs, gain, offset, 0, 0))


def block(number, moment, values):
    return packet(1, struct.pack("<HdHI", 10, moment, number, len(values)) + values.tobytes())


def vital(path, cut=0):
    pulse, lead = (100 * wave(np.arange(1000) / 100)).astype("<i2"), np.arange(1000, dtype="<f4")
    body = (
        b"VITA" + struct.pack("<IH", 3, 10) + bytes(10) + packet(9, struct.pack("<I", 1) + text("SNUADC") * 3)
    )
    body += track(1, "PLETH", "", 1, 5, 100.0, 0.01, 2.0) + track(2, "ECG_II", "mV", 1, 1, 100.0, 7.0)
    body += track(3, "CO2", "mmHg", 1, 1, 25.0) + track(4, "HR", "/min", 2, 1, 0.0)
    for i in range(10):
        if i != 4:  # a second of the pulse was not recorded
            body += block(1, START + i, pulse[100 * i : 100 * i + 100])
        body += block(2, START + i, lead[100 * i : 100 * i + 100]) + block(3, START + i, lead[:25])
    path.write_bytes(gzip.compress(body[: len(body) - cut]))
    return path, pulse, lead


def test_a_vital_file(tmp_path):
    path, pulse, lead = vital(tmp_path / "1.vital")
    signal = formats.read(path)
    assert (signal.fs, signal.channels, signal.units) == (100.0, ("PLETH", "ECG_II"), ("", "mV"))
    assert np.isnan(signal.x[0]).nonzero()[0].tolist() == list(range(400, 500))
    there = np.isfinite(signal.x[0])
    assert np.allclose(signal.x[0][there], (0.01 * pulse + 2)[there], atol=1e-6)
    assert np.array_equal(signal.x[1], lead) and formats.is_candidate(path)
    assert "not CO2 (25 Hz)" in signal.findings[0].message


def test_vitaldb_reads_the_same(tmp_path):
    vitaldb = pytest.importorskip("vitaldb", reason="the oracle is not installed")
    path, _, _ = vital(tmp_path / "1.vital")
    theirs = vitaldb.VitalFile(str(path)).to_numpy(["PLETH", "ECG_II"], 1 / 100)[:1000].T
    assert np.allclose(formats.read(path).x, theirs, atol=1e-5, equal_nan=True)


def test_damaged_vital_files(tmp_path):
    path, _, _ = vital(tmp_path / "1.vital", cut=30)
    with pytest.raises(ReadError, match="cut short"):
        formats.read(path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ReadError, match=r"1\.vital"):
        formats.read(path)
    path.write_bytes(gzip.compress(b"VITA" + struct.pack("<IH", 3, 10) + bytes(10)))
    with pytest.raises(ReadError, match="no waveform"):
        formats.read(path)
    path.write_bytes(gzip.compress(b"nothing of the kind"))
    with pytest.raises(ReadError, match="Vital Recorder"):
        formats.read(path)


# The formats that ECGs share ---------------------------------------------------------------------------------


def test_a_multi_segment_record_with_a_gap_and_an_edf(tmp_path):
    from medfm.formats.edf import write as write_edf
    from medfm.formats.wfdb import write as write_wfdb

    x = wave(np.arange(1250) / 125)[None]
    for part in ("m_0001", "m_0002"):
        write_wfdb(tmp_path / part, x, 125.0, ["PLETH"])
    (tmp_path / "m.hea").write_text("m/3 1 125 3125\nm_0001 1250\n~ 625\nm_0002 1250\n")
    signal = formats.read(tmp_path / "m.hea")
    assert signal.x.shape == (1, 3125) and np.isnan(signal.x[0]).nonzero()[0].tolist() == list(
        range(1250, 1875)
    )
    edf = formats.read(write_edf(tmp_path / "a.edf", x, 125.0, ["Pleth"], units=""))
    assert edf.channels == ("Pleth",) and edf.fs == 125 and np.abs(edf.x - x).max() < 1e-3
