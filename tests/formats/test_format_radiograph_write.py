"""A radiograph written as DICOM: its header, its polarity, its window, by pydicom."""

import numpy as np
import pydicom
import pytest

from medfm.formats.radiograph_write import RadiographHeader, write_radiograph


def _write(path, image, **changes):
    facts = {"record": "r1", "patient": "p1", "age": 7, "sex": "F", "view": "PA", "device": "sim"}
    return pydicom.dcmread(write_radiograph(path / "a.dcm", image, RadiographHeader(**(facts | changes))))


def test_stored_values_and_window_by_hand(tmp_path):
    """12 bits: 0 is stored as 205 and 1 as 3890, and the window's edges are there (PS3.3 C.11.2.1.2.1)."""
    data = _write(tmp_path, np.array([[0.0, 0.5], [1.0, 2.0]]))
    assert data.pixel_array.tolist() == [[205, 2048], [3890, 3890]]
    centre, width = float(data.WindowCenter), float(data.WindowWidth)
    assert centre - 0.5 - (width - 1) / 2 == 205 and centre - 0.5 + (width - 1) / 2 == 3890
    assert data.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_a_monochrome1_file_is_the_negative_of_its_twin(tmp_path, bits):
    image = np.random.default_rng(0).random((9, 5))
    plain = _write(tmp_path, image, bits=bits)
    twin = _write(tmp_path, image, bits=bits, inverse=True)
    assert (plain.pixel_array.astype(int) + twin.pixel_array == 2**bits - 1).all()
    assert (plain.PhotometricInterpretation, twin.PhotometricInterpretation) == ("MONOCHROME2", "MONOCHROME1")
    assert twin.PresentationLUTShape == "INVERSE" and twin.PixelIntensityRelationshipSign == 1
    low = float(twin.WindowCenter) - 0.5 - (float(twin.WindowWidth) - 1) / 2
    assert low == 2**bits - 1 - round(0.95 * (2**bits - 1))


def test_the_header_is_a_machines(tmp_path):
    data = _write(tmp_path, np.zeros((20, 30)), view="AP", pixel_mm=0.2, sid_mm=1100, frame=(2, 3, 28, 19))
    assert data.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1.1" == data.file_meta.MediaStorageSOPClassUID
    assert (
        data.ViewPosition == "AP"
        and data.PatientAge == "007Y"
        and list(data.PatientOrientation) == ["L", "F"]
    )
    assert data.ViewCodeSequence[0].CodeMeaning == "antero-posterior"
    assert [float(v) for v in data.ImagerPixelSpacing] == [0.2, 0.2] and "PixelSpacing" not in data
    assert (data.CollimatorLeftVerticalEdge, data.CollimatorRightVerticalEdge) == (2, 29)
    again = _write(tmp_path, np.zeros((20, 30)), view="AP")
    assert (
        again.SOPInstanceUID
        == data.SOPInstanceUID
        != _write(tmp_path, np.zeros((2, 2)), record="r2").SOPInstanceUID
    )
    plate = _write(tmp_path, np.zeros((20, 30)), cr=True, view="LL")
    assert plate.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1" and plate.Modality == "CR"
    assert "PresentationIntentType" not in plate and list(plate.PatientOrientation) == ["P", "F"]
