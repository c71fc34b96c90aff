"""DICOM radiographs: each expected number is derived by hand or comes from pydicom's own functions."""

from __future__ import annotations

import zlib

import numpy as np
import pydicom
import pytest
from dicom_images import compress, dataset, lut_item, ramp, recode, write
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from medfm.formats import pictures, radiograph
from medfm.types import ReadError


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_every_depth_and_sign_comes_back(tmp_path, bits, signed):
    stored = ramp(bits=bits, signed=signed)
    image = pictures.read(write(tmp_path / "a.dcm", stored, bits))
    assert np.array_equal(image.x[0], stored) and image.x.dtype == np.float32
    assert (image.bits, image.patient, image.record, image.format) == (bits, "p1", "a", "dicom")
    assert image.findings == () and image.valid is None


@pytest.mark.parametrize(
    "name",
    [
        "JPEGLosslessProcess14",
        "JPEGLosslessProcess14_1",
        "JPEGLSLossless",
        "JPEG2000Lossless",
        "RLELossless",
        "JPEGExtendedProcess2_4",
    ],
)
def test_compressed_by_gdcm(tmp_path, name):
    stored = ramp()
    path = compress(write(tmp_path / "a.dcm", stored), name)
    lossy = name == "JPEGExtendedProcess2_4"
    assert np.abs(pictures.read(path).x[0] - stored).max() <= (8 if lossy else 0)


@pytest.mark.parametrize(
    "syntax",
    [RLELossless, JPEGLSLossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian],
    ids=lambda uid: uid.keyword,
)
def test_encoded_by_pydicom(tmp_path, syntax):
    stored = ramp()
    assert np.array_equal(pictures.read(recode(write(tmp_path / "a.dcm", stored), syntax)).x[0], stored)


def test_jpeg_baseline_as_a_capture_station_writes_it(tmp_path):
    import io

    from PIL import Image

    stored = ramp(bits=8)
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG", quality=95)
    data = dataset(stored, 8, "OT")
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.PixelData = encapsulate([buffer.getvalue()])
    data["PixelData"].is_undefined_length = True
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    image = pictures.read(tmp_path / "a.dcm")
    assert np.abs(image.x[0] - stored).max() <= 4 and image.meta["windowed"]


def test_deflated_image_frames(tmp_path):
    """Supplement 244: pydicom 3.0 writes no such file, so the transfer syntax of an encapsulated one is exchanged."""
    from pydicom.filewriter import write_file_meta_info

    stored = ramp()
    packer = zlib.compressobj(wbits=-15)
    data = dataset(stored)
    data.file_meta.TransferSyntaxUID = RLELossless
    data.PixelData = encapsulate([packer.compress(stored.tobytes()) + packer.flush()])
    data["PixelData"].is_undefined_length = True
    data.save_as(tmp_path / "rle.dcm", enforce_file_format=True)
    meta = pydicom.dcmread(tmp_path / "rle.dcm").file_meta
    body = (tmp_path / "rle.dcm").read_bytes()[144 + meta.FileMetaInformationGroupLength :]
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.8.1"
    with (tmp_path / "a.dcm").open("wb") as out:
        out.write(b"\0" * 128 + b"DICM")
        write_file_meta_info(out, meta)
        out.write(body)
    assert np.array_equal(pictures.read(tmp_path / "a.dcm").x[0], stored)


def test_a_deflated_bomb_is_refused_before_it_is_unpacked_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(radiograph, "MAX_PIXELS", 100_000)
    path = recode(write(tmp_path / "a.dcm", np.zeros((800, 800), np.uint16)), DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 10_000
    with pytest.raises(ReadError, match="unpacks to more than"):
        pictures.read(path)


def test_what_cannot_be_decoded_is_named_with_its_package(tmp_path, monkeypatch):
    from pydicom.pixels.decoders import JPEGLSLosslessDecoder

    path = recode(write(tmp_path / "a.dcm", ramp()), JPEGLSLossless)
    monkeypatch.setattr(JPEGLSLosslessDecoder, "_available", {})
    with pytest.raises(ReadError, match=r"JPEG-LS.*pip install pyjpegls"):
        pictures.read(path)
    data = dataset(ramp())
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    data.PixelData = encapsulate([b"\0\0"])
    data["PixelData"].is_undefined_length = True
    data.save_as(tmp_path / "v.dcm", enforce_file_format=True)
    with pytest.raises(ReadError, match="is a video"):
        pictures.read(tmp_path / "v.dcm")


def test_no_meta_header(tmp_path):
    data = dataset(ramp())
    del data.file_meta
    data.save_as(tmp_path / "a.dcm", implicit_vr=True, little_endian=True)
    assert np.array_equal(pictures.read(tmp_path / "a.dcm").x[0], ramp())
    bare = tmp_path / "1.2.840.99.1"
    bare.write_bytes((tmp_path / "a.dcm").read_bytes())
    assert pictures.is_candidate(bare) and np.array_equal(pictures.read(bare).x[0], ramp())


# Bits ----------------------------------------------------------------------------------------------------------------


def test_the_high_bit_may_lie_at_the_top(tmp_path):
    """12 bits in the upper part of the word, as film digitisers wrote: value = word / 16."""
    stored = ramp()
    path = write(tmp_path / "a.dcm", (stored << 4).astype(np.uint16), HighBit=15)
    image = pictures.read(path)
    assert np.array_equal(image.x[0], stored) and image.findings == ()


def test_an_overlay_in_unused_bits_is_taken_off(tmp_path):
    stored = ramp()
    words = stored.copy()
    words[10:14, 5:30] |= 1 << 12
    path = write(tmp_path / "a.dcm", words)
    data = pydicom.dcmread(path)
    data.add_new(0x60000102, "US", 12)
    data.save_as(path)
    assert np.array_equal(pictures.read(path).x[0], stored) and pictures.read(path).findings == ()
    image = pictures.read(write(tmp_path / "undeclared.dcm", words))
    assert np.array_equal(image.x[0], stored) and [f.code for f in image.findings] == ["unused-bits"]


def test_wrong_bits_stored_do_not_tear_the_picture(tmp_path):
    """14-bit values in a file that states 12: taking the upper bits off would wrap them."""
    stored = ramp(bits=14)
    image = pictures.read(write(tmp_path / "a.dcm", stored, bits=12))
    assert np.array_equal(image.x[0], stored) and [f.code for f in image.findings] == ["wrong-bits-stored"]
    unsigned = ramp(bits=12).astype(np.int16)  # 0 to 4095, stated as 12 bits with a sign
    image = pictures.read(write(tmp_path / "b.dcm", unsigned, bits=12))
    assert np.array_equal(image.x[0], unsigned) and [f.code for f in image.findings] == ["wrong-bits-stored"]


@pytest.mark.parametrize("noise", [0, 20, 300])  # of 4096, a pixel
@pytest.mark.parametrize("bits", [8, 10, 11])
def test_steep_and_noisy_pictures_are_told_from_stray_bits(tmp_path, bits, noise):
    rng = np.random.default_rng(0)
    x = ramp(rows=200, columns=160).astype(float) + noise * rng.standard_normal((200, 160))
    x[:, :60] = 0  # not exposed
    stored = np.clip(np.rint(x), 0, 4095).astype(np.uint16)
    image = pictures.read(write(tmp_path / "a.dcm", stored, bits=bits))
    assert np.array_equal(image.x[0], stored) and [f.code for f in image.findings] == ["wrong-bits-stored"]
    if noise < 300:  # half of them is more than any film has
        few = stored >> (12 - bits)
        words = few.copy()
        words[20:40:3, 70:150] |= 1 << bits  # writing in the next bit, undeclared
        words[60:120, 80:140] |= 1 << (bits + 2)
        image = pictures.read(write(tmp_path / "b.dcm", words, bits=bits))
        assert np.array_equal(image.x[0], few) and [f.code for f in image.findings] == ["unused-bits"]


@pytest.mark.parametrize("bits", [0, 17])
def test_bits_that_cannot_be(tmp_path, bits):
    path = write(tmp_path / "a.dcm", ramp())
    data = pydicom.dcmread(path)
    data.BitsStored = bits
    data.save_as(path)
    with pytest.raises(ReadError, match=f"{bits} bits stored in 16"):
        pictures.read(path)


# Modality LUT, windows, presentation ---------------------------------------------------------------------------------


def test_rescale(tmp_path):
    path = write(tmp_path / "a.dcm", ramp(), RescaleSlope="0.5", RescaleIntercept="-100")
    image = pictures.read(path)
    assert np.array_equal(image.x[0], ramp() * 0.5 - 100)
    data = pydicom.dcmread(path)
    assert np.allclose(image.x[0], apply_modality_lut(data.pixel_array, data))


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_modality_lut(tmp_path, bits):
    """Entry k stands for stored value first + k; what lies outside takes the nearest entry. pydicom reads 8 and 16."""
    stored = ramp(bits=8).astype(np.uint16)
    table = (np.arange(100)[::-1] * 2).astype(np.uint16)
    path = write(tmp_path / "a.dcm", stored, 8, ModalityLUTSequence=[lut_item(table, 50, bits)])
    x = pictures.read(path).x[0]
    assert np.array_equal(x, table[np.clip(stored.astype(int) - 50, 0, 99)])
    if bits != 12:
        data = pydicom.dcmread(path)
        assert np.array_equal(x, apply_modality_lut(data.pixel_array, data))


def test_windows_and_luts_are_handed_over_in_order(tmp_path):
    path = write(
        tmp_path / "a.dcm",
        ramp(),
        VOILUTSequence=[lut_item(np.arange(4096), 0, 12)],
        WindowCenter=["2048", "600", "100"],
        WindowWidth=["4096", "400", "0"],
        WindowCenterWidthExplanation=["NORMAL", "HARD", "NONE"],
        VOILUTFunction="SIGMOID",
    )
    table, normal, hard = pictures.read(path).voi  # a window of width 0 is none
    assert table.table is not None and table.table.tolist() == list(range(4096)) and table.bits == 12
    assert (normal.centre, normal.width, normal.function, normal.explanation) == (
        2048,
        4096,
        "SIGMOID",
        "NORMAL",
    )
    assert (hard.centre, hard.width, hard.explanation) == (600, 400, "HARD")


def test_a_lut_of_a_signed_image_starts_below_zero(tmp_path):
    stored = ramp(bits=12, signed=True)
    path = write(tmp_path / "a.dcm", stored, VOILUTSequence=[lut_item(np.arange(4096), -2048, 12)])
    assert pictures.read(path).voi[0].first == -2048
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data.save_as(tmp_path / "b.dcm", implicit_vr=True, little_endian=True)
    assert pictures.read(tmp_path / "b.dcm").voi[0].first == -2048
    data.VOILUTSequence[0].add_new(
        "LUTDescriptor", "US", [4096, 65536 - 2048, 12]
    )  # its sign lost, as some write it
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.save_as(tmp_path / "c.dcm", implicit_vr=False, little_endian=True)
    assert pictures.read(tmp_path / "c.dcm").voi[0].first == -2048


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted", "codes"),
    [
        ("MONOCHROME2", None, False, []),
        ("MONOCHROME1", None, True, []),
        ("MONOCHROME1", "INVERSE", True, []),
        ("MONOCHROME2", "IDENTITY", False, []),
        ("MONOCHROME2", "INVERSE", True, ["presentation-contradiction"]),
        ("MONOCHROME1", "IDENTITY", True, ["presentation-contradiction"]),
        ("GREY", "INVERSE", True, ["photometric"]),
    ],
)
def test_presentation(tmp_path, photometric, shape, inverted, codes):
    tags = {"PresentationLUTShape": shape} if shape else {}
    image = pictures.read(write(tmp_path / "a.dcm", ramp(), PhotometricInterpretation=photometric, **tags))
    assert image.inverted is inverted and [f.code for f in image.findings] == codes
    assert np.array_equal(image.x[0], ramp()), "values are not turned round before the window"


# Masks and geometry --------------------------------------------------------------------------------------------------


def test_padding_is_no_picture(tmp_path):
    stored = ramp() + np.uint16(10)
    stored[:, :6], stored[:3] = 0, 4
    path = write(tmp_path / "a.dcm", stored, bits=16, PixelPaddingValue=0, PixelPaddingRangeLimit=4)
    valid = pictures.read(path).valid
    assert not valid[:, :6].any() and not valid[:3].any() and valid[3:, 6:].all()
    one = pictures.read(write(tmp_path / "b.dcm", stored, bits=16, PixelPaddingValue=0)).valid
    assert one[0, 6:].all() and not one[3:, :6].any()


def test_padding_of_signed_pixels_written_without_sign(tmp_path):
    stored = ramp(signed=True)
    stored[0] = -2000
    data = dataset(stored)
    data.add_new("PixelPaddingValue", "US", 65536 - 2000)
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert not pictures.read(tmp_path / "a.dcm").valid[0].any()


def test_shutters(tmp_path):
    rectangle = {
        "ShutterShape": "RECTANGULAR",
        "ShutterUpperHorizontalEdge": 5,
        "ShutterLowerHorizontalEdge": 36,
        "ShutterLeftVerticalEdge": 10,
        "ShutterRightVerticalEdge": 41,
    }
    valid = pictures.read(write(tmp_path / "r.dcm", ramp(), **rectangle)).valid
    assert valid[5:35, 10:40].all() and valid.sum() == 30 * 30
    circle = {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [20, 24], "RadiusOfCircularShutter": 10}
    valid = pictures.read(write(tmp_path / "c.dcm", ramp(), **circle)).valid
    assert valid[19, 23] and valid[9, 23] and not valid[8, 23] and abs(valid.sum() - np.pi * 100) < 8
    corners = [1, 1, 1, 48, 40, 1]  # row, column: the upper left triangle
    polygon = {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": corners}
    valid = pictures.read(write(tmp_path / "p.dcm", ramp(), **polygon)).valid
    assert valid[0, 0] and valid[5, 5] and not valid[39, 47] and abs(valid.mean() - 0.5) < 0.03


def test_the_collimated_field(tmp_path):
    edges = {
        "UpperHorizontalEdge": 2,
        "LowerHorizontalEdge": 31,
        "LeftVerticalEdge": 4,
        "RightVerticalEdge": 45,
    }
    path = write(
        tmp_path / "a.dcm",
        ramp(),
        CollimatorShape="RECTANGULAR",
        **{f"Collimator{k}": v for k, v in edges.items()},
    )
    image = pictures.read(path)
    assert image.field == (2, 30, 4, 44) and image.valid is None


@pytest.mark.parametrize(
    ("tags", "spacing", "plane", "aspect"),
    [
        ({}, None, None, 1),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (0.2, 0.1), "detector", 2),
        ({"PixelSpacing": [0.2, 0.2]}, (0.2, 0.2), "unknown", 1),
        ({"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.2, 0.2]}, (0.2, 0.2), "detector", 1),
        ({"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.16, 0.16]}, (0.16, 0.16), "patient", 1),
        ({"PixelSpacing": [0.1, 0.1], "PixelSpacingCalibrationType": "FIDUCIAL"}, (0.1, 0.1), "patient", 1),
        ({"NominalScannedPixelSpacing": [0.17, 0.17]}, (0.17, 0.17), "film", 1),
        ({"PixelSpacing": [0.0, 0.0], "PixelAspectRatio": [3, 2]}, None, None, 1.5),
    ],
)
def test_spacing_says_in_which_plane_it_holds(tmp_path, tags, spacing, plane, aspect):
    image = pictures.read(write(tmp_path / "a.dcm", ramp(), **tags))
    assert image.spacing == spacing and image.meta.get("spacing_plane") == plane
    assert image.aspect == pytest.approx(aspect)


def test_what_the_header_says(tmp_path):
    path = write(
        tmp_path / "a.dcm",
        ramp(),
        modality="DX",
        ViewPosition="LL",
        ImageLaterality="L",
        BodyPartExamined="CHEST",
        PresentationIntentType="FOR PROCESSING",
        BurnedInAnnotation="YES",
        PatientAge="003M",
        PatientSex="F",
    )
    meta = pictures.read(path).meta
    assert (meta["view"], meta["laterality"], meta["body_part"]) == ("lateral", "L", "CHEST")
    assert (meta["modality"], meta["intent"], meta["burned_in"]) == ("DX", "FOR PROCESSING", "YES")
    assert (meta["age"], meta["sex"], meta["windowed"]) == (0.25, "F", False)


# Colour, frames, and what is no picture ------------------------------------------------------------------------------


def test_colour_and_palette(tmp_path):
    rgb = np.stack([ramp(bits=8), 255 - ramp(bits=8), np.full((40, 48), 7, np.uint8)], axis=2)
    image = pictures.read(write(tmp_path / "a.dcm", rgb, 8, "OT"))
    assert np.array_equal(image.x, np.moveaxis(rgb, 2, 0)) and image.photometric == "RGB"
    data = dataset(ramp(bits=8), 8, "OT", PhotometricInterpretation="PALETTE COLOR")
    for name, scale in (("Red", 1), ("Green", 2), ("Blue", 0)):
        data.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        table = (np.arange(256) * scale // 2 * 257).astype("<u2")
        data.add_new(f"{name}PaletteColorLookupTableData", "OW", table.tobytes())
    data.save_as(tmp_path / "p.dcm", enforce_file_format=True)
    x = pictures.read(tmp_path / "p.dcm").x
    assert np.array_equal(x[1], ramp(bits=8)) and np.array_equal(x[0], ramp(bits=8) // 2) and not x[2].any()


def test_frames_are_taken_by_name_only(tmp_path):
    stored = np.stack([ramp(), ramp()[::-1], ramp()[:, ::-1]])
    path = write(tmp_path / "a.dcm", stored, modality="RF", NumberOfFrames=3)
    with pytest.raises(ReadError, match=r"holds 3 frames .*a\.dcm#0"):
        pictures.read(path)
    image = pictures.read(f"{path}#1")
    assert np.array_equal(image.x[0], stored[1]) and image.record == "a#1" and radiograph.frames(path) == 3
    with pytest.raises(ReadError, match="no frame 3"):
        pictures.read(f"{path}#3")


@pytest.mark.parametrize("value", [None, b""])
def test_missing_pixel_data(tmp_path, value):
    path = write(tmp_path / "a.dcm", ramp())
    data = pydicom.dcmread(path)
    if value is None:
        del data.PixelData
    else:
        data.PixelData = value
    data.save_as(path)
    with pytest.raises(ReadError, match="no pixel data"):
        pictures.read(path)


def test_damaged_and_foreign_files_are_sentences(tmp_path):
    whole = write(tmp_path / "a.dcm", ramp()).read_bytes()
    for cut in (140, 200, 400, len(whole) // 2, len(whole) - 1000):
        (tmp_path / "cut.dcm").write_bytes(whole[:cut])
        with pytest.raises(ReadError, match=r"cut\.dcm"):
            pictures.read(tmp_path / "cut.dcm")
    rng = np.random.default_rng(0)
    for trial in range(60):  # a flipped byte anywhere is read, or said
        raw = bytearray(whole)
        for at in rng.integers(132, 700, 3):
            raw[at] = rng.integers(0, 256)
        (tmp_path / "odd.dcm").write_bytes(raw)
        try:
            pictures.read(tmp_path / "odd.dcm")
        except ReadError as error:
            assert "odd.dcm" in str(error), trial
    for name, content in {"n.dcm": b"nothing at all", "e.dcm": b"", "p.dcm": b"%PDF-1.4 x"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ReadError, match=name):
            pictures.read(tmp_path / name)


def test_a_size_is_refused_before_anything_is_decoded(tmp_path):
    data = dataset(ramp())
    data.Rows = data.Columns = 60_000
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(ReadError, match="60000 x 60000 pixels"):
        pictures.read(tmp_path / "a.dcm")


def test_explicit_little_endian_is_what_is_written(tmp_path):
    """The maker itself: without it every test above might test something else."""
    data = pydicom.dcmread(write(tmp_path / "a.dcm", ramp()))
    assert data.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian and np.array_equal(
        data.pixel_array, ramp()
    )
