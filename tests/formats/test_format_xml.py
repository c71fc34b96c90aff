"""GE MUSE, HL7 aECG and Philips Sierra XML, against files written tag by tag."""

import sys

import numpy as np
import pytest
from ecg_files import LEADS, aecg, muse, philips, steps

from medfm import formats
from medfm.types import ReadError


def write(folder, data, name="e.xml"):
    (folder / name).write_bytes(data)
    return folder / name


def test_muse_rhythm_not_median_in_microvolts(tmp_path):
    x = steps()
    signal = formats.read(write(tmp_path, muse(x)))
    assert signal.channels == ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")  # eight stored, eight returned
    assert signal.fs == 500 and set(signal.units) == {"uV"} and signal.format == "muse-xml"
    np.testing.assert_allclose(signal.x, x * 4.88, rtol=1e-6)
    assert signal.patient == "77" and signal.meta == {"age": 58.0, "sex": "F"}


def test_muse_sample_exponent_and_invalid_samples(tmp_path):
    x = steps(samples=50)
    x[2, 7] = -32768
    data = muse(x).replace(b"<SampleBase>500", b"<SampleBase>25").replace(b"Exponent>0<", b"Exponent>1<")
    signal = formats.read(write(tmp_path, data))
    assert signal.fs == 250
    assert np.argwhere(np.isnan(signal.x)).tolist() == [[2, 7]]


@pytest.mark.parametrize(
    "statement", ["QT < 400 & rising", "R&D", "A &amp; B & C", "<10 beats", "x<y", "a &nbsp; b", "bell \x07"]
)
def test_muse_stray_markup_in_text_is_repaired(tmp_path, statement):
    x = steps(samples=40)
    signal = formats.read(write(tmp_path, muse(x, statement=statement)))
    np.testing.assert_allclose(signal.x, x * 4.88, rtol=1e-6)
    assert [f.code for f in signal.findings] == ["repaired-xml"]


def test_intact_muse_is_not_called_repaired(tmp_path):
    assert formats.read(write(tmp_path, muse(steps(), statement="A &amp; B &lt; C"))).findings == ()


def test_muse_truncated_lead_and_missing_rhythm(tmp_path):
    x = steps(samples=60)
    with pytest.raises(ReadError, match=r"e\.xml: lead I is truncated, it holds 60 of 99 samples"):
        formats.read(write(tmp_path, muse(x).replace(b"Total>60<", b"Total>99<")))
    with pytest.raises(ReadError, match="no Rhythm waveform"):
        formats.read(write(tmp_path, muse(x).replace(b">Rhythm<", b">Median<")))


def test_entities_are_not_expanded(tmp_path):
    bomb = (
        b'<!DOCTYPE r [<!ENTITY a "'
        + b"x" * 50
        + b'"><!ENTITY b "'
        + b"&a;" * 50
        + b'">]><RestingECG>&b;</RestingECG>'
    )
    with pytest.raises(ReadError, match="entities"):
        formats.read(write(tmp_path, bomb))


def test_aecg_scale_origin_and_increment(tmp_path):
    i, v1 = steps(2, 300)
    data = aecg([("20240101100000.000", {"I": i, "V1": v1})], 'value="4" unit="ms"', scale=2.5, origin=10)
    signal = formats.read(write(tmp_path, data))
    assert signal.channels == ("MDC_ECG_LEAD_I", "MDC_ECG_LEAD_V1") and signal.units == ("uV", "uV")
    assert signal.fs == pytest.approx(250)
    np.testing.assert_allclose(signal.x, np.stack([i, v1]) * 2.5 + 10, rtol=1e-6)
    assert signal.patient == "S-4" and signal.meta == {"sex": "F"}


def test_aecg_columns_are_laid_on_one_time_axis(tmp_path):
    x = steps(2, 250)
    data = aecg([("20240101100000.000", {"I": x[0]}), ("20240101100002.500", {"V1": x[1]})])
    signal = formats.read(write(tmp_path, data))
    assert signal.x.shape == (2, 1250 + 250)  # 2.5 s at 500 Hz, then 250 samples
    np.testing.assert_allclose(signal.x[0, :250], x[0] * 5.0)
    np.testing.assert_allclose(signal.x[1, 1250:], x[1] * 5.0)
    assert np.isnan(signal.x[0, 250:]).all() and np.isnan(signal.x[1, :1250]).all()


def test_aecg_without_time_increment(tmp_path):
    data = aecg([("20240101100000", {"I": steps(1, 20)[0]})]).replace(b"<increment", b"<other")
    with pytest.raises(ReadError, match="no time increment"):
        formats.read(write(tmp_path, data))


def limb_consistent(samples=400):
    """Twelve leads that keep Einthoven's and Goldberger's identities up to a step."""
    t = np.arange(samples)
    i, ii = (300 * np.sin(t / 9)).astype(int), (500 * np.cos(t / 13)).astype(int)
    rows = [i, ii, ii - i, -(i + ii) // 2, i - ii // 2, ii - i // 2]
    return np.stack(rows + [(100 * (k + 1) * np.sin(t / (7 + k))).astype(int) for k in range(6)])


def test_philips_xli(tmp_path):
    pytest.importorskip("sierraecg")
    x = limb_consistent()
    signal = formats.read(write(tmp_path, philips(x)))
    assert signal.channels == LEADS and signal.fs == 500 and set(signal.units) == {"uV"}
    np.testing.assert_allclose(signal.x, x * 5.0)
    assert signal.patient == "P9" and signal.meta == {"age": 63.0, "sex": "M"}
    assert formats.read(write(tmp_path, philips(x, resolution=0))).findings[0].code == "assumed-resolution"


def test_philips_without_the_extra_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sierraecg", None)
    with pytest.raises(ReadError, match=r"pip install 'medfm\[philips\]'"):
        formats.read(write(tmp_path, philips(limb_consistent(50))))


def test_philips_unknown_version(tmp_path):
    pytest.importorskip("sierraecg")
    with pytest.raises(ReadError, match=r"SierraECG 9\.9"):
        formats.read(write(tmp_path, philips(limb_consistent(50)).replace(b">1.03<", b">9.9<")))


def test_other_xml_is_refused_by_its_root(tmp_path):
    with pytest.raises(ReadError, match="XML of the kind <html>"):
        formats.read(write(tmp_path, b"<html><body/></html>"))
    with pytest.raises(ReadError, match="electrocardiograms/"):
        formats.read(write(tmp_path, b'<?xml version="1.0"?><HealthData/>'))
