"""EDF and BDF against pyedflib."""

from datetime import date, datetime

import numpy as np
import pyedflib
import pytest

from medfm import formats
from medfm.formats import edf
from medfm.types import MedfmError, ReadError

LEADS = ("I", "II", "V1")


def signal(samples=2500):
    return np.random.default_rng(1).standard_normal((3, samples)) * 0.4


@pytest.mark.parametrize("suffix, bits", [("edf", 16), ("bdf", 24)])
def test_round_trip(tmp_path, suffix, bits):
    x = signal()
    path = edf.write(tmp_path / f"a.{suffix}", x, 500, LEADS, patient="P-3")
    read = formats.read(path)
    np.testing.assert_allclose(read.x, x, atol=2 * np.abs(x).max() / 2**bits + 1e-7)
    assert read.channels == LEADS and read.units == ("mV",) * 3 and read.fs == 500 and read.patient == "P-3"
    with pyedflib.EdfReader(str(path)) as file:
        np.testing.assert_allclose(file.readSignal(1), read.x[1], atol=1e-6)


@pytest.mark.parametrize("samples, fs", [(2500, 500), (4999, 257), (999, 360), (1000, 128), (77, 500)])
def test_rates_and_lengths_survive(tmp_path, samples, fs):
    """pyEDFlib #179: a record that is not one second long must not bend the sampling rate."""
    x = signal(samples)
    read = formats.read(edf.write(tmp_path / "a.edf", x, fs, LEADS))
    assert read.fs == pytest.approx(fs, rel=1e-9) and read.x.shape[1] >= samples
    np.testing.assert_allclose(read.x[:, :samples], x, atol=1e-4)
    assert (read.x[:, samples:] == read.x[:, samples - 1 : samples]).all()


def test_window(tmp_path):
    path = edf.write(tmp_path / "a.edf", signal(), 500, LEADS)
    np.testing.assert_array_equal(formats.read(path, start=1, stop=2.5).x, formats.read(path).x[:, 500:1250])


def test_mixed_rates_and_annotations(tmp_path):
    path = str(tmp_path / "m.edf")
    rates = {"ECG I": 250, "ECG II": 250, "SpO2": 10}
    data = [np.sin(np.arange(r * 4) / 9) for r in rates.values()]
    with pyedflib.EdfWriter(path, 3, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        for i, (name, rate) in enumerate(rates.items()):
            limits = {"physical_max": 2, "physical_min": -2, "digital_max": 32767, "digital_min": -32768}
            file.setSignalHeader(i, {"label": name, "dimension": "uV", "sample_frequency": rate, **limits})
        file.setSex(0)
        file.setBirthdate(date(1950, 6, 1))
        file.setStartdatetime(datetime(2020, 5, 1))
        file.setPatientName("Somebody")
        file.writeSamples(data)
        file.writeAnnotation(1.0, -1, "beat")
    read = formats.read(path)
    assert read.channels == ("ECG I", "ECG II") and read.fs == 250 and read.units == ("uV", "uV")
    assert [f.code for f in read.findings] == ["mixed-sampling-rates"] and "SpO2 (10 Hz)" in read.findings[
        0
    ].message
    assert read.meta == {"sex": "F", "age": 69.0} and "Somebody" not in repr(read.meta)


def test_truncated_and_gaps(tmp_path):
    path = edf.write(tmp_path / "a.edf", signal(), 500, LEADS)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ReadError, match=r"a\.edf: is truncated, it holds 4\.7 s of 5\.0 s.*EDFbrowser"):
        formats.read(path)
    data = bytearray(edf.write(path, signal(), 500, LEADS).read_bytes())
    data[236:244] = b"-1      "
    path.write_bytes(data)
    with pytest.raises(ReadError, match="never closed"):
        formats.read(path)
    x = signal()
    x[0, 3] = np.nan
    with pytest.raises(MedfmError, match="write this record as WFDB"):
        edf.write(tmp_path / "b.edf", x, 500, LEADS)
