"""Small ECG files made by hand, byte by byte and tag by tag, for the format tests."""

import base64
import struct

import numpy as np

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def steps(channels=8, samples=500, seed=0):
    """int16 samples, as a cart stores them."""
    return np.random.default_rng(seed).integers(-2000, 2000, (channels, samples)).astype("<i2")


def muse(x, per_bit=4.88, names=("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"), statement="Sinus rhythm"):
    """A RestingECG with a Median of 100 samples before the Rhythm."""

    def wave(kind, data):
        leads = "".join(
            f"<LeadData><LeadSampleCountTotal>{len(row)}</LeadSampleCountTotal>"
            f"<LeadAmplitudeUnitsPerBit>{per_bit}</LeadAmplitudeUnitsPerBit>"
            "<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits><LeadSampleSize>2</LeadSampleSize>"
            f"<LeadID>{name}</LeadID><WaveFormData>\n{base64.encodebytes(row.tobytes()).decode()}</WaveFormData>"
            "</LeadData>"
            for name, row in zip(names, data)
        )
        return (
            f"<Waveform><WaveformType>{kind}</WaveformType><SampleBase>500</SampleBase>"
            f"<SampleExponent>0</SampleExponent>{leads}</Waveform>"
        )

    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n'
        "<RestingECG>"
        "<PatientDemographics><PatientID>77</PatientID><PatientAge>58</PatientAge><AgeUnits>YEARS</AgeUnits>"
        "<Gender>FEMALE</Gender><PatientLastName>Ménard</PatientLastName></PatientDemographics>"
        f"<Diagnosis><StmtText>{statement}</StmtText></Diagnosis>"
        f"{wave('Median', x[:, :100] * 0 + 7)}{wave('Rhythm', x)}</RestingECG>"
    ).encode("latin-1")


def aecg(columns, increment='value="0.002" unit="s"', scale=5.0, origin=0.0):
    """An AnnotatedECG: ``columns`` is a list of (begin, {lead: int array}), one sequence set each."""
    sets = []
    for begin, leads in columns:
        head = (
            '<component><sequence><code code="TIME_ABSOLUTE"/><value xsi:type="GLIST_TS">'
            f'<head value="{begin}"/><increment {increment}/></value></sequence></component>'
        )
        body = "".join(
            f'<component><sequence><code code="MDC_ECG_LEAD_{name.upper()}"/><value xsi:type="SLIST_PQ">'
            f'<origin value="{origin}" unit="uV"/><scale value="{scale}" unit="uV"/>'
            f"<digits>{' '.join(map(str, row))}</digits></value></sequence></component>"
            for name, row in leads.items()
        )
        sets.append(f"<component><sequenceSet>{head}{body}</sequenceSet></component>")
    beat = (
        '<component><series><code code="REPRESENTATIVE_BEAT"/>'
        + sets[0].replace("<digits>", "<digits>9 9 9 9 ")
        + "</series></component>"
    )
    return (
        '<?xml version="1.0"?>'
        '<AnnotatedECG xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        "<componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject>"
        '<id extension="S-4"/><subjectDemographicPerson><administrativeGenderCode code="F"/>'
        "</subjectDemographicPerson></trialSubject>"
        "</subject></subjectAssignment></componentOf></timepointEvent></componentOf>"
        f'{beat}<component><series><code code="RHYTHM"/>{"".join(sets)}</series></component></AnnotatedECG>'
    ).encode()


def _lzw(data):
    """LZW with 10-bit codes, most significant bit first, dictionary full at 1022 codes (as XLI has it)."""
    table = {bytes([i]): i for i in range(256)}
    codes, word = [], b""
    for byte in data:
        longer = word + bytes([byte])
        if longer in table:
            word = longer
            continue
        codes.append(table[word])
        if len(table) <= 1022:
            table[longer] = len(table)
        word = bytes([byte])
    codes.append(table[word])
    bits = "".join(f"{c:010b}" for c in codes)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _xli(row):
    """One lead as XLI: second differences from the two samples before, high bytes then low bytes, LZW.

    The decoder's rule is x[n] = 2 x[n-1] - x[n-2] - last, with last = code[n-1] - 64 and code[0:2] = x[0:2];
    the header carries the value of `last` that serves n = 2.
    """
    x = [int(v) for v in row]
    last = [2 * x[n - 1] - x[n - 2] - x[n] for n in range(2, len(x))]
    codes = x[:2] + [v + 64 for v in last[1:]] + [64]
    words = np.array(codes, dtype=">i2").tobytes()
    packed = _lzw(words[0::2] + words[1::2])
    return struct.pack("<iHh", len(packed), 0, last[0]) + packed


def philips(x, resolution=5):
    """A restingecgdata 1.03 with XLI; of ``x [12, T]`` III and aV* are stored as identity residuals."""
    i, ii, iii, avr, avl, avf = (row.astype(int) for row in x[:6])
    stored = [i, ii, ii - i - iii, -avr - (i + ii) // 2, (i - iii) // 2 - avl, (ii + iii) // 2 - avf, *x[6:]]
    packed = base64.b64encode(b"".join(_xli(row) for row in stored)).decode()
    stated = f"<resolution>{resolution}</resolution>" if resolution else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><restingecgdata xmlns="http://www3.medical.philips.com">'
        "<documentinfo><documenttype>SierraECG</documenttype><documentversion>1.03</documentversion>"
        "</documentinfo><dataacquisition><signalcharacteristics><samplingrate>500</samplingrate>"
        f"{stated}<acquisitiontype>10-WIRE</acquisitiontype>"
        "<numberchannelsallocated>12</numberchannelsallocated></signalcharacteristics></dataacquisition>"
        "<patient><generalpatientdata><patientid>P9</patientid><sex>Male</sex><age><years>63</years></age>"
        "</generalpatientdata></patient><waveforms>"
        '<parsedwaveforms dataencoding="Base64" compressmethod="XLI" '
        f'durationperchannel="{x.shape[1] * 2}" numberofleads="12">{packed}</parsedwaveforms></waveforms>'
        "</restingecgdata>"
    ).encode()


def atc(rows, fs=300, nanovolts=500):
    """An Alive file: info, format and one ECG block a lead."""

    def block(kind, body):
        return kind + struct.pack("<I", len(body)) + body + struct.pack("<I", 0)

    info = bytearray(264)
    info[180:196] = b"kardia_6l".ljust(16, b"\0")
    blocks = [block(b"info", bytes(info)), block(b"fmt ", struct.pack("<BHHBH", 1, fs, nanovolts, 14, 0))]
    blocks += [block(kind, row.tobytes()) for kind, row in zip((b"ecg ", b"ecg2", b"ecg3"), rows)]
    return b"ALIVE\0\0\0" + struct.pack("<I", 4) + b"".join(blocks) + block(b"avg ", rows[0][:5].tobytes())
