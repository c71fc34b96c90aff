"""Bad input among good radiographs: every file is read rightly or named with its reason in one sentence, whether a
person scans, shows or embeds, and none ends the run."""

from __future__ import annotations

import re
import struct
import zlib

import numpy as np
import pandas as pd
import pydicom
import pytest
from dicom_images import compress, dataset, write
from PIL import Image
from xray_pictures import chest, with_text

from medfm.cli.main import main
from medfm.data.scan import scan
from medfm.formats.pictures import read
from medfm.modalities.xray import Xray
from medfm.modalities.xray_sheet import draw


def film(seed: int = 0) -> np.ndarray:
    return np.rint(chest(200, 160, seed) * 4095).astype(np.uint16)


def photograph() -> np.ndarray:
    y, x = np.mgrid[0:200, 0:300]
    return np.stack(
        [128 + 100 * np.sin(x / 40), 128 + 90 * np.cos(y / 30), 128 + 90 * np.sin((x + y) / 50)], 2
    )


def edited(path, sop=None, without=(), **tags):
    """A film whose header is not as a radiograph's."""
    data = dataset(film(), modality="CT" if sop is None else "OT")
    for word in without:
        delattr(data, word)
    for word, value in tags.items():
        setattr(data, word, value)
    data.save_as(path, enforce_file_format=True)


def png(width: int, height: int) -> bytes:
    """All black, packed into some kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def damaged(path):
    """Compressed pixels of which a part was lost on the way."""
    data = pydicom.dcmread(compress(write(path, film()), "JPEGLSLossless"))
    pixels = bytearray(data.PixelData)
    pixels[len(pixels) // 3 : len(pixels) // 2] = bytes(len(pixels) // 2 - len(pixels) // 3)
    data.PixelData = bytes(pixels)
    data.save_as(path)


HOUNSFIELD = {"RescaleIntercept": "-1024", "RescaleSlope": "1"}
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
BAD = {
    "photo.jpg": (lambda p: Image.fromarray(photograph().astype(np.uint8)).save(p), "a colour picture"),
    "slice.dcm": (lambda p: write(p, film(), modality="CT"), "is a CT slice, not a radiograph"),
    "mute.dcm": (lambda p: edited(p, without=["Modality"]), "is a CT slice"),
    "units.dcm": (
        lambda p: edited(p, without=["Modality"], SOPClassUID=SECONDARY, RescaleType="HU"),
        "states no modality, but Hounsfield units",
    ),
    "capture.dcm": (
        lambda p: edited(p, SECONDARY, SliceThickness="5"),
        "states no modality, but SliceThickness.*set its Modality",
    ),
    "air.dcm": (lambda p: edited(p, SECONDARY, **HOUNSFIELD), "values down to -1024, as Hounsfield units are"),
    "volume.dcm": (
        lambda p: write(p, np.stack([film()] * 2), modality="CT", NumberOfFrames=2),
        "2 frames.*not a radiograph",
    ),
    "run.dcm": (lambda p: write(p, np.stack([film()] * 2), modality="RF", NumberOfFrames=2), r"run\.dcm#0"),
    "icon.png": (lambda p: Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(p), "8 x 8 pixels, too few"),
    "even.dcm": (lambda p: write(p, np.full((200, 160), 700, np.uint16)), "the value 700 everywhere"),
    "lost.dcm": (lambda p: edited(p, SECONDARY, without=["PixelData"]), "holds no pixel data"),
    "half.dcm": (lambda p: (write(p, film()), cut(p, 0.5)), r"holds 3\d,\d+ of the 64,000 bytes.*cut short"),
    "packed.dcm": (
        lambda p: (compress(write(p, film()), "JPEG2000Lossless").replace(p), cut(p, 0.5)),
        "ends in the middle: it was cut short",
    ),
    "head.dcm": (lambda p: (write(p, film()), cut(p, 0.005)), "ends before its image: it was cut short"),
    "torn.dcm": (damaged, "JPEG-LS.*cannot be decoded.*uncompressed"),
    "page.dcm": (lambda p: p.write_text("<html>not found</html>"), "is no DICOM file, whatever its name says"),
    "page.png": (lambda p: p.write_text("<html>not found</html>"), r"is no \.png file, whatever its name says"),
    "none.dcm": (lambda p: p.write_bytes(b""), "empty"),
    "bits.dcm": (lambda p: write(p, film(), BitsStored=17), "17 bits stored in 16 allocated, which cannot be"),
    "bomb.png": (lambda p: p.write_bytes(png(14_000, 14_000)), "170 million"),
    "print.jpg": (lambda p: Image.fromarray((film() >> 4).astype(np.uint8)).convert("CMYK").save(p), "CMYK"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    for seed in range(2):
        write(site / f"good{seed}.dcm", film(seed), PatientID=f"p{seed}", ViewPosition="PA")
    for name, (make, _) in BAD.items():
        make(site / name)
    for extra in site.glob("*_*.dcm"):  # what the compressor left beside
        extra.unlink()
    (site / "clip.gif").write_bytes(b"GIF89a")
    return site


def test_a_scan_names_every_file_with_its_reason(folder, capsys):
    result = scan(folder, Xray(size=(64, 64)))
    reasons = {path.rsplit("/", 1)[1]: reason for path, reason in result.failed}
    assert {r.record for r in result.records} == {"good0", "good1"}
    assert reasons.keys() == BAD.keys() and result.others == {".gif": 1}
    for name, (_, sentence) in BAD.items():
        assert re.search(sentence, reasons[name]), f"{name}: {reasons[name]}"
        assert "\n" not in reasons[name] and len(reasons[name]) < 260, name
    arguments = ["--modality", "xray", "--output", str(folder.parent / "m.csv")]
    assert main(["data", "scan", str(folder), *arguments, "--show", "2"]) == 0
    said = capsys.readouterr().out
    assert "2 records, 2 patients" in said and "no record .gif (1)" in said
    assert f"set aside: {len(BAD)} of {len(BAD) + 2}" in said and "all by reason:" in said


def test_show_draws_the_good_and_names_the_bad(folder, capsys):
    arguments = ["--modality", "xray", "--output", str(folder.parent / "s.png"), "--records", "99"]
    assert main(["data", "show", str(folder), *arguments]) == 0
    out, err = capsys.readouterr()
    assert "2 record(s)" in out
    for name in BAD:
        assert name.split(".")[0] in err, name
    assert main(["data", "show", str(folder / "slice.dcm"), *arguments]) == 1
    assert "slice: is a CT slice, not a radiograph." in capsys.readouterr().err


def test_wrong_bits_raw_data_wrong_polarity_and_writing_are_said(tmp_path):
    """What is read all the same, with a warning."""
    write(tmp_path / "bits.dcm", film(), bits=8)
    write(tmp_path / "raw.dcm", film(1), modality="DX", PresentationIntentType="FOR PROCESSING")
    write(tmp_path / "turned.dcm", 4095 - film(2))
    named = with_text(chest(400, 320, 3), "DOE JOHN 1970", (10, 10), 24)
    write(tmp_path / "named.dcm", np.rint(named * 4095).astype(np.uint16))
    image = read(tmp_path / "raw.dcm")
    (_, right) = draw([(image, Xray().from_image(image))]).axes
    assert right.get_title().endswith("\nfor-processing")
    warned = {r.record: {f.code for f in r.warnings} for r in scan(tmp_path, Xray(size=(64, 64))).records}
    assert warned == {
        "bits": {"wrong-bits-stored"}, "raw": {"for-processing"}, "turned": {"polarity"}, "named": {"burned-in-text"},
    }  # fmt: skip


def test_a_mammogram_is_a_radiograph_of_another_part(tmp_path, capsys):
    write(tmp_path / "left.dcm", film(), modality="MG", ViewPosition="CC", PatientID="p")
    write(
        tmp_path / "chest.dcm",
        film(1)[::-1].copy(),
        BodyPartExamined="CHEST",
        ViewPosition="PA",
        PatientID="p",
    )
    assert (
        main(["data", "scan", str(tmp_path), "--modality", "xray", "--output", str(tmp_path / "m.csv")]) == 0
    )
    said = capsys.readouterr().out
    assert "body part CHEST (1), BREAST (1)" in said and "views     PA (1), CC (1)" in said
    assert "1 patients (up to 2 records each)" in said


def test_copies_across_patients_and_splits_are_counted(tmp_path, capsys):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.dcm", film(), PatientID=name)
    frame = pd.DataFrame({"path": ["a.dcm", "b.dcm"], "patient_id": ["a", "b"], "split": ["train", "test"]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    about = scan(tmp_path / "t.csv", Xray(size=(64, 64))).describe()
    assert len(about["duplicates"]) == 1 and about["duplicates_across"] == {"patients": 1, "splits": 1}
    assert main(["data", "describe", str(tmp_path / "t.csv"), "--modality", "xray"]) == 0
    assert "same film 1 pair, 1 across patients, 1 across splits" in capsys.readouterr().out
    frame.assign(patient_id=["a", "a"], split=["train", None]).to_csv(tmp_path / "t.csv", index=False)
    about = scan(tmp_path / "t.csv", Xray(size=(64, 64))).describe()
    assert about["duplicates_across"] == {"patients": 0, "splits": 0}
