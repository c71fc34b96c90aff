"""DICOM waveforms against pydicom's decoder and its shipped example, and objects built by hand."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from ecg_files import LEADS

from medfm import formats
from medfm.formats import dicom
from medfm.types import ReadError


def signal(channels=12, samples=1000):
    return np.random.default_rng(2).standard_normal((channels, samples)) * 0.5


def test_round_trip_reads_the_rhythm_not_the_median_beat(tmp_path):
    x = signal()
    x[3, 5:9] = np.nan
    path = dicom.write_ecg(tmp_path / "a.dcm", x, 500, LEADS, "P1", 44, "F", median=signal(12, 600) + 5)
    read = formats.read(path)
    assert (
        read.channels == LEADS and read.units == ("uV",) * 12 and read.fs == 500 and read.x.shape == x.shape
    )
    np.testing.assert_allclose(read.x / 1000, x, atol=0.5e-3 + 1e-6)
    assert read.patient == "P1" and read.meta["age"] == 44 and read.meta["sex"] == "F"
    assert [f.code for f in read.findings] == ["waveform-groups"]


def test_written_object_is_what_pydicom_decodes(tmp_path):
    x = signal()
    data = pydicom.dcmread(dicom.write_ecg(tmp_path / "a.dcm", x, 500, LEADS))
    assert data.SOPClassUID == "1.2.840.10008.5.1.4.1.1.9.1.1"
    np.testing.assert_allclose(data.waveform_array(0).T, np.rint(x * 1000), atol=1e-6)
    codes = [c.ChannelSourceSequence[0].CodeValue for c in data.WaveformSequence[0].ChannelDefinitionSequence]
    assert codes[:6] == [f"5.6.3-9-{n}" for n in (1, 2, 61, 62, 63, 64)] and codes[6:] == [
        f"5.6.3-9-{n}" for n in range(3, 9)
    ]


def test_pydicoms_own_example():
    path = Path(pydicom.__file__).parent / "data" / "test_files" / "waveform_ecg.dcm"
    if not path.is_file():
        pytest.skip("this pydicom does not ship its example")
    read = formats.read(path)
    assert (
        read.channels == LEADS
        and read.fs == 1000
        and read.x.shape == (12, 10000)
        and set(read.units) == {"uV"}
    )
    np.testing.assert_allclose(read.x, pydicom.dcmread(path).waveform_array(0).T, rtol=1e-6)
    assert (read.x.min(), read.x.max()) == (-1125.0, 1962.5)


def edited(tmp_path, edit, samples=200):
    path = dicom.write_ecg(tmp_path / "e.dcm", signal(12, samples), 500, LEADS)
    data = pydicom.dcmread(path)
    edit(data, data.WaveformSequence[0])
    data.save_as(path)
    return path


def test_sensitivity_correction_and_baseline(tmp_path):
    def edit(data, group):
        channel = group.ChannelDefinitionSequence[1]
        channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor = 2.5, 1.5
        channel.ChannelBaseline = 100
        channel.ChannelSensitivityUnitsSequence[0].CodeValue = "mV"

    read = formats.read(edited(tmp_path, edit))
    expected = np.rint(signal(12, 200)[1] * 1000) * 2.5 * 1.5 + 100
    np.testing.assert_allclose(read.x[1], expected, rtol=1e-6)
    assert read.units[:3] == ("uV", "mV", "uV")


@pytest.mark.parametrize(
    "code, scheme, meaning, label, expected",
    [
        ("2:1", "MDC", "Lead I", "", "I"),
        ("2:63", "MDC", "x", "", "aVL"),
        ("MDC_ECG_LEAD_V3", "MDC", "x", "", "MDC_ECG_LEAD_V3"),
        ("5.6.3-9-8", "SCPECG", "x", "ignored", "V6"),
        ("99", "99LOCAL", "Lead II", "", "Lead II"),
        ("99", "99LOCAL", "x", "aVR", "aVR"),
    ],
)
def test_channel_names(tmp_path, code, scheme, meaning, label, expected):
    def edit(data, group):
        source = group.ChannelDefinitionSequence[0].ChannelSourceSequence[0]
        source.CodeValue, source.CodingSchemeDesignator, source.CodeMeaning = code, scheme, meaning
        if label:
            group.ChannelDefinitionSequence[0].ChannelLabel = label

    assert formats.read(edited(tmp_path, edit)).channels[0] == expected


def test_unlabelled_groups_take_the_original_one(tmp_path):
    x = signal(12, 900)
    path = dicom.write_ecg(tmp_path / "a.dcm", x, 500, LEADS, median=signal(12, 1500))
    data = pydicom.dcmread(path)
    for group in data.WaveformSequence:
        del group.MultiplexGroupLabel
    data.save_as(path)
    assert formats.read(path).x.shape == (12, 900)  # shorter, but ORIGINAL


def test_faults(tmp_path):
    def shorten(data, group):
        group.WaveformData = group.WaveformData[:100]

    with pytest.raises(ReadError, match=r"is truncated, its waveform holds 100 of 4800 bytes"):
        formats.read(edited(tmp_path, shorten))

    def promise(data, group):
        group.NumberOfWaveformSamples = 4_000_000_000

    with pytest.raises(ReadError, match="promises"):
        formats.read(edited(tmp_path, promise))

    def picture(data, group):
        del data.WaveformSequence
        data.Rows = data.Columns = 8

    with pytest.raises(ReadError, match="is an image"):
        formats.read(edited(tmp_path, picture))
    path = dicom.write_ecg(tmp_path / "t.dcm", signal(), 500, LEADS)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ReadError, match=r"t\.dcm"):
        formats.read(path)
