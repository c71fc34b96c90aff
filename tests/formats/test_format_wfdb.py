"""WFDB against the wfdb library: every sample format, segments, mixed rates, odd headers, the writer."""

import time

import numpy as np
import pytest
import wfdb

from medfm import formats
from medfm.formats import wfdb as ours
from medfm.types import ReadError

LEADS = ["I", "II", "V1"]
FORMATS = ("8", "16", "24", "32", "61", "80", "160", "212", "310", "311", "508", "516", "524")


def signal(samples=400, channels=3, seed=0):
    """A slow wave (format 8 stores differences, of at most 127 steps) plus little noise, in mV."""
    t = np.arange(samples)[:, None]
    rng = np.random.default_rng(seed)
    return 0.3 * np.sin(t / 17 + np.arange(channels)) + 0.01 * rng.standard_normal((samples, channels))


def wrsamp(folder, name, fmt="16", x=None, **more):
    x = signal() if x is None else x
    c = x.shape[1]
    options = {"fs": 250, "units": ["mV"] * c, "sig_name": LEADS[:c], "p_signal": x, "fmt": [fmt] * c}
    options |= {"adc_gain": [200.0] * c, "baseline": [0] * c, "write_dir": str(folder)} | more
    wfdb.wrsamp(name, **options)
    return folder / f"{name}.hea"


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f not in ("8", "61", "160", "310", "311")])
def test_every_format_that_wfdb_writes(tmp_path, fmt):
    header = wrsamp(tmp_path, "r", fmt)
    read = formats.read(header)
    np.testing.assert_allclose(read.x.T, signal(), atol=0.5 / 200 + 1e-6)  # half a step of 1/200 mV
    np.testing.assert_allclose(read.x.T, wfdb.rdrecord(str(tmp_path / "r")).p_signal, rtol=1e-6)
    assert (
        read.fs == 250
        and read.channels == tuple(LEADS)
        and read.units == ("mV",) * 3
        and read.format == "wfdb"
    )


def packed(fmt, values):
    """Bytes of integer samples in the formats that wfdb only reads (signal(5) of the WFDB manual)."""
    v = np.asarray(values)
    if fmt == "8":
        return np.diff(v, prepend=0).astype("i1").tobytes()
    if fmt == "61":
        return v.astype(">i2").tobytes()
    if fmt == "160":
        return (v + 32768).astype("<u2").tobytes()
    a, b, c = (v[i::3].astype(int) & 1023 for i in range(3))
    if fmt == "310":  # ten bits of a and b in the upper bits of two words, those of c in what is left of both
        low, high = (a << 1) | ((c & 31) << 11), (b << 1) | ((c >> 5) << 11)
        return np.stack([low, high], 1).astype("<u2").tobytes()
    return (a | (b << 10) | (c << 20)).astype("<u4").tobytes()


@pytest.mark.parametrize("fmt", ["8", "61", "160", "310", "311"])
def test_every_format_that_wfdb_only_reads(tmp_path, fmt):
    values = np.round(100 * np.sin(np.arange(300) / 9)).astype(int)
    (tmp_path / "r.dat").write_bytes(packed(fmt, values))
    (tmp_path / "r.hea").write_text(f"r 1 360 300\nr.dat {fmt} 100(0)/mV 12 0 0 0 0 II\n")
    read = formats.read(tmp_path / "r")
    np.testing.assert_allclose(read.x[0], values / 100, atol=1e-6)


def test_addresses(tmp_path):
    header = wrsamp(tmp_path, "a-1")
    for address in (header, tmp_path / "a-1", str(tmp_path / "a-1"), tmp_path / "a-1.dat"):
        assert formats.read(address).record == "a-1"
    assert formats.records(header) == [str(header)]


def test_matlab_data_file(tmp_path):
    """PhysioNet/CinC: a MATLAB v4 matrix `val` behind a 24-byte header, named by the .hea with offset 24."""
    from scipy.io import savemat

    x = np.round(signal(channels=2).T * 1000).astype("<i2")
    savemat(tmp_path / "A1.mat", {"val": x}, format="4")
    lines = ["A1 2 500 400 05-Feb-2020 11:39:16"]
    lines += [f"A1.mat 16+24 1000/mV 16 0 {row[0]} 0 0 {n}" for n, row in zip(LEADS, x)]
    lines += ["#Age: 74", "#Sex: Female", "#Dx: 164889003,39732003", "#Rx: Unknown"]
    (tmp_path / "A1.hea").write_text("\n".join(lines))
    for name in ("A1.hea", "A1.mat"):
        read = formats.read(tmp_path / name)
        np.testing.assert_allclose(read.x, x / 1000, atol=1e-6)
        assert {k: read.meta[k] for k in ("age", "sex", "dx")} == {
            "age": 74.0,
            "sex": "F",
            "dx": ["164889003", "39732003"],
        }
    assert formats.is_candidate(tmp_path / "A1.hea") and not formats.is_candidate(tmp_path / "A1.mat")


@pytest.mark.parametrize(
    "comments, expected",
    [
        (["<age>: 48  <sex>: M  <diagnoses> x"], {"age": 48.0, "sex": "M"}),
        (["69 M 1085 1629 x1"], {"age": 69.0, "sex": "M"}),
        (["Age: NaN", "Sex: Unknown"], {}),
        (["age: 81", "sex: female"], {"age": 81.0, "sex": "F"}),
    ],
)
def test_identity_in_comments(tmp_path, comments, expected):
    header = ours.write(tmp_path / "c", signal().T, 250, LEADS, comments=comments)
    meta = formats.read(header).meta
    assert {k: v for k, v in meta.items() if k != "comments"} == expected
    assert meta["comments"] == comments


@pytest.mark.parametrize(
    "line",
    [
        "r.1 3 250 400",
        "r 3 250 400 12:00:00 31/02/2020",
        "r 3 250 400 24:10:00 01/01/2020",
        "r 3 250 400 11:39:16 2020-02-05",
        "r 3 250 400 11:39:16 05.02.2020",
        "r 3 250 400 05-Feb-2020 11:39:16",
        "r 3 250",
    ],
)
def test_odd_record_lines_are_read(tmp_path, line):
    header = wrsamp(tmp_path, "r")
    lines = header.read_text().splitlines()
    header.write_text("\n".join([line, *lines[1:]]))
    read = formats.read(header)
    assert read.x.shape == (3, 400) and read.fs == 250
    np.testing.assert_allclose(read.x.T, signal(), atol=0.003)
    np.testing.assert_array_equal(formats.read(header, start=0.4, stop=0.8).x, read.x[:, 100:200])


def test_window_reads_those_seconds_only(tmp_path):
    header = wrsamp(tmp_path, "r")
    whole = formats.read(header).x
    np.testing.assert_array_equal(formats.read(header, start=0.2, stop=1.0).x, whole[:, 50:250])
    np.testing.assert_array_equal(formats.read(header, start=1.2).x, whole[:, 300:])
    with pytest.raises(ReadError, match=r"holds 1\.600 s"):
        formats.read(header, start=2)


def test_several_samples_a_frame_keep_the_ecg_rate(tmp_path):
    """II at 4 samples a frame, RESP at 1: II is read at 4 x 125 Hz, not averaged down."""
    ii, resp = np.arange(400) % 97, np.arange(100) % 50
    frames = np.concatenate([ii.reshape(100, 4), resp[:, None]], axis=1).astype("<i2")
    frames.tofile(tmp_path / "m.dat")
    (tmp_path / "m.hea").write_text(
        "m 2 125 100\nm.dat 16x4 100/mV 16 0 0 0 0 II\nm.dat 16 10/pm 16 0 0 0 0 RESP\n"
    )
    read = formats.read(tmp_path / "m.hea")
    assert read.channels == ("II",) and read.fs == 500
    np.testing.assert_allclose(read.x[0], ii / 100, atol=1e-6)
    assert [f.code for f in read.findings] == ["mixed-sampling-rates"] and "RESP (125 Hz)" in read.findings[
        0
    ].message
    np.testing.assert_allclose(
        formats.read(tmp_path / "m", start=0.08, stop=0.16).x[0], ii[40:80] / 100, atol=1e-6
    )


def test_invalid_samples_are_nan(tmp_path):
    x = signal().T
    x[1, 10:20] = np.nan
    read = formats.read(ours.write(tmp_path / "n", x, 500, LEADS))
    np.testing.assert_array_equal(np.isnan(read.x), np.isnan(x))


def multi(folder, layout=True):
    """A record of segments a (I, II; 100 samples), a gap of 50, b (II only; 80): variable layout."""
    x = signal(180, 2)
    ours.write(folder / "a", x[:100].T, 250, ["I", "II"])
    ours.write(folder / "b", x[100:, 1:].T, 250, ["II"])
    (folder / "m_layout.hea").write_text(
        "m_layout 2 250 0\n~ 0 1000/mV 16 0 0 0 0 I\n~ 0 1000/mV 16 0 0 0 0 II\n"
    )
    (folder / "m.hea").write_text("m/4 2 250 230\nm_layout 0\na 100\n~ 50\nb 80\n")
    return x


def test_variable_layout(tmp_path):
    x = multi(tmp_path)
    read = formats.read(tmp_path / "m")
    assert read.channels == ("I", "II") and read.x.shape == (2, 230)
    np.testing.assert_allclose(read.x[:, :100], x[:100].T, atol=6e-4)
    np.testing.assert_allclose(read.x[1, 150:], x[100:, 1], atol=6e-4)
    assert np.isnan(read.x[:, 100:150]).all() and np.isnan(read.x[0, 150:]).all()
    reference = wfdb.rdrecord(str(tmp_path / "m")).p_signal.T
    np.testing.assert_allclose(read.x, reference, rtol=1e-5)
    np.testing.assert_allclose(
        formats.read(tmp_path / "m", start=0.36, stop=0.8).x, reference[:, 90:200], rtol=1e-5
    )


def test_fixed_layout(tmp_path):
    x = signal(180, 2)
    ours.write(tmp_path / "f_1", x[:100].T, 250, ["I", "II"])
    ours.write(tmp_path / "f_2", x[100:].T, 250, ["I", "II"])
    (tmp_path / "f.hea").write_text("f/2 2 250 180\nf_1 100\nf_2 80\n")
    np.testing.assert_allclose(formats.read(tmp_path / "f").x, x.T, atol=6e-4)


def test_segments_and_layouts_are_no_records_of_their_own(tmp_path):
    multi(tmp_path)
    taken = sorted(p.name for p in tmp_path.iterdir() if formats.is_candidate(p))
    assert taken == ["m.hea"]


def test_faults_each_with_its_sentence(tmp_path):
    multi(tmp_path)
    with pytest.raises(ReadError, match=r"m_layout\.hea: is a layout header"):
        formats.read(tmp_path / "m_layout.hea")
    (tmp_path / "b.hea").unlink()
    with pytest.raises(ReadError, match=r"m\.hea: its segment b is missing"):
        formats.read(tmp_path / "m")

    header = wrsamp(tmp_path, "r")
    data = (tmp_path / "r.dat").read_bytes()
    (tmp_path / "r.dat").write_bytes(data[: len(data) // 2])
    with pytest.raises(ReadError, match=r"r\.dat is truncated, it holds 0\.80 s of the 1\.60 s"):
        formats.read(header)
    (tmp_path / "r.dat").write_bytes(b"")
    with pytest.raises(ReadError, match=r"r\.dat is truncated, it holds 0\.00 s"):
        formats.read(header)
    (tmp_path / "r.dat").unlink()
    with pytest.raises(ReadError, match=r"its data file r\.dat is missing; put it beside the header"):
        formats.read(header)
    with pytest.raises(ReadError, match=r"nothing\.hea: no such record"):
        formats.read(tmp_path / "nothing.hea")
    (tmp_path / "lost.dat").write_bytes(b"123")
    with pytest.raises(ReadError, match=r"its header lost\.hea is missing"):
        formats.read(tmp_path / "lost.dat")
    header.write_text("r 0 250 400\n")
    with pytest.raises(ReadError, match="describes no signals"):
        formats.read(header)


def test_a_header_does_not_lead_elsewhere(tmp_path):
    """Nothing outside the folder, and nothing on a network, is opened because a header says so."""
    for name in ("../secret.dat", "/etc/hostname", "https://example.org/x.dat"):
        (tmp_path / "r.hea").write_text(f"r 1 250 10\n{name} 16 200/mV 16 0 0 0 0 I\n")
        with pytest.raises(ReadError, match=r"r\.hea"):
            formats.read(tmp_path / "r")
    with pytest.raises(ReadError, match="from disk only"):
        formats.read("s3://bucket/record")


def test_a_promise_of_a_trillion_samples_allocates_nothing(tmp_path):
    header = wrsamp(tmp_path, "r")
    header.write_text(header.read_text().replace(" 250 400", " 250 1000000000000"))
    with pytest.raises(ReadError, match="truncated"):
        formats.read(header)
    multi(tmp_path)
    (tmp_path / "m.hea").write_text("m/3 2 250 1000000000100\nm_layout 0\na 100\n~ 1000000000000\n")
    with pytest.raises(ReadError, match="promises"):
        formats.read(tmp_path / "m")
    assert formats.read(tmp_path / "m", stop=0.4).x.shape == (2, 100)


def test_writer_round_trips_through_wfdb(tmp_path):
    x = signal(5000, 3).T.astype(np.float32)
    header = ours.write(tmp_path / "w", x, 500, ["I", "aVR", "V1"], comments=["Age: 50"])
    record = wfdb.rdrecord(str(tmp_path / "w"))
    np.testing.assert_allclose(record.p_signal.T, x, atol=0.5e-3 + 1e-6)
    assert record.sig_name == ["I", "aVR", "V1"] and record.fs == 500 and record.units == ["mV"] * 3
    assert record.comments == ["Age: 50"] and header == tmp_path / "w.hea"
    digital = wfdb.rdrecord(str(tmp_path / "w"), physical=False)
    assert digital.checksum == [int(c) for c in digital.calc_checksum()]
    assert digital.init_value == digital.d_signal[0].tolist()


def test_writer_lowers_the_gain_for_large_amplitudes(tmp_path):
    x = np.array([[0.0, 100.0, -100.0, 3.0]], dtype=np.float32)
    np.testing.assert_allclose(formats.read(ours.write(tmp_path / "big", x, 500, ["I"])).x, x, atol=0.002)


def test_writer_is_quick(tmp_path):
    """Thousands of records a minute: the median of 20 is far below 20 ms on any machine."""
    x = signal(5000, 12).T.astype(np.float32)
    times = []
    for i in range(20):
        begin = time.perf_counter()
        ours.write(tmp_path / f"q{i}", x, 500, [f"V{k}" for k in range(12)])
        times.append(time.perf_counter() - begin)
    assert np.median(times) < 0.02
