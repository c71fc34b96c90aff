"""The door of the room: recognition by content, refusals, addresses, folder scans, broken files."""

import contextlib
import tracemalloc
import zipfile

import numpy as np
import pytest
from ecg_files import LEADS, aecg, atc, muse, steps

from medfm import formats
from medfm.formats import dicom, edf, table, wfdb
from medfm.types import ReadError, Signal

X = np.random.default_rng(8).standard_normal((12, 500)) * 0.3


def intact(folder):
    """One small file of each format, by format name."""
    import h5py
    import pandas as pd
    from scipy.io import savemat

    folder.mkdir(exist_ok=True)
    files = {
        "hea": wfdb.write(folder / "w", X, 250, LEADS),
        "edf": edf.write(folder / "e.edf", X, 250, LEADS),
        "bdf": edf.write(folder / "b.bdf", X, 250, LEADS),
        "dcm": dicom.write_ecg(folder / "d.dcm", X, 250, LEADS),
        "csv": table.write_csv(folder / "t.csv", X, 250, LEADS),
    }
    files["dat"] = folder / "w.dat"
    for name, data in {
        "muse.xml": muse(steps(samples=200)),
        "aecg.xml": aecg([("20240101100000", {"I": steps(1, 200)[0]})]),
        "k.atc": atc(steps(3, 300)),
    }.items():
        (folder / name).write_bytes(data)
        files[name] = folder / name
    np.save(folder / "a.npy", X)
    np.savez(folder / "a.npz", x=X, fs=250)
    np.savez_compressed(folder / "c.npz", x=X, fs=250)
    savemat(folder / "m.mat", {"val": X, "fs": 250}, do_compression=True)
    pd.DataFrame({"time": np.arange(500) / 250, "I": X[0]}).to_parquet(folder / "p.parquet")
    with h5py.File(folder / "h.h5", "w") as file:
        file["ecg"], file["fs"] = X, 250
    return files | {n: folder / n for n in ("a.npy", "a.npz", "c.npz", "m.mat", "p.parquet", "h.h5")}


KINDS = ("hea", "dat", "edf", "bdf", "dcm", "csv", "muse.xml", "aecg.xml", "k.atc", "a.npy", "a.npz", "c.npz",
         "m.mat", "p.parquet", "h.h5")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_content_goes_before_the_suffix(tmp_path, kind):
    """A renamed file is still what it is (WFDB headers and tables are plain text: their suffix speaks)."""
    file = intact(tmp_path)[kind]
    assert isinstance(formats.read(file, fs=250 if kind == "a.npy" else None), Signal)
    if kind in ("hea", "dat", "csv", "m.mat"):
        return
    for name in ("renamed.csv", "renamed.unknown", "renamed"):
        other = tmp_path / name
        other.write_bytes(file.read_bytes())
        assert isinstance(formats.read(other, fs=250 if kind == "a.npy" else None), Signal)


@pytest.mark.parametrize(
    "name, head, sentence",
    [
        ("a.scp", b"\x12\x34\x00\x10\x00\x00" + b"\0" * 10 + b"SCPECG" + b"\0" * 50, "SCP-ECG.*export"),
        ("noname", b"\x12\x34\x00\x10\x00\x00" + b"\0" * 10 + b"SCPECG" + b"\0" * 50, "SCP-ECG.*export"),
        ("a.scp", b"anything else", "SCP-ECG.*export"),
        ("a.ecg", b"ISHNE1.0" + b"\0" * 500, "ISHNE Holter.*EDF"),
        ("holter.dcm", b"ISHNE1.0" + b"\0" * 500, "ISHNE Holter.*EDF"),
        ("scan.pdf", b"%PDF-1.7\n", "PDF.*export the waveform"),
        ("scan.csv", b"%PDF-1.7\n", "PDF.*export the waveform"),
        ("photo.jpg", b"\xff\xd8\xff\xe0", "picture.*export the waveform"),
        ("photo.png", b"\x89PNG\r\n\x1a\n", "picture.*export"),
        ("a.zip", b"PK\x03\x04" + b"\0" * 30, "archive.*unpack"),
        ("a.gz", b"\x1f\x8b\x08", "archive.*unpack"),
        ("a.xlsx", b"PK\x03\x04" + b"\0" * 30, "office document.*CSV"),
        ("a.wav", b"RIFF\0\0\0\0WAVE", "audio"),
        ("a.xyz", b"something", "format is not recognised"),
    ],
)
def test_refused_with_what_to_export_instead(tmp_path, name, head, sentence):
    (tmp_path / name).write_bytes(head)
    with pytest.raises(ReadError, match=f"(?s){name}.*{sentence}"):
        formats.read(tmp_path / name)


def test_no_file_a_folder_and_an_empty_one(tmp_path):
    with pytest.raises(ReadError, match="no such file"):
        formats.read(tmp_path / "nothing.csv")
    with pytest.raises(ReadError, match="is a folder, not a record"):
        formats.read(tmp_path)
    for suffix in formats.SUFFIXES:
        path = tmp_path / f"empty{suffix}"
        path.write_bytes(b"")
        with pytest.raises(ReadError, match=r"empty\.\w+.*empty"):
            formats.read(path)
    for odd in ("a\0b.csv", "x" * 5000):
        with pytest.raises(ReadError):
            formats.read(odd)


def test_a_hash_in_a_name_is_no_row(tmp_path):
    path = table.write_csv(tmp_path / "pt#7.csv", X, 250, LEADS)
    assert formats.read(path).record == "pt#7"
    with pytest.raises(ReadError, match="drop '#3' from its address"):
        formats.read(f"{table.write_csv(tmp_path / 'p.csv', X, 250, LEADS)}#3")


def test_rate_that_contradicts_the_file(tmp_path):
    path = edf.write(tmp_path / "e.edf", X, 250, LEADS)
    assert formats.read(path, fs=250).fs == 250
    with pytest.raises(ReadError, match="states 250 Hz, and 500 Hz were given"):
        formats.read(path, fs=500)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ReadError, match="sampling rate"):
            formats.read(path, fs=wrong)


def test_what_a_folder_scan_takes(tmp_path):
    intact(tmp_path)
    for name, data in {
        "notes.txt": b"Please read this first, it is not a signal.\nSecond line, with words.\n",
        "README.txt": b"Files: 12\nRate: 500 per second\n",
        "photo.png": b"\x89PNG\r\n\x1a\n",
        "scan.pdf": b"%PDF-1.4",
        "cart.scp": b"\0" * 16 + b"SCPECG\0\0",
        "table.csv": b"path,patient_id,afib\nw.hea,1,0\n",
        "a.json": b'{"fs": 250}',
        "w.atr": b"\0\0",
        ".hidden.csv": b"I\n1\n",
        "page.html": b"<html/>",
    }.items():
        (tmp_path / name).write_bytes(data)
    taken = {p.name for p in tmp_path.iterdir() if formats.is_candidate(p)}
    records = "w.hea e.edf b.bdf d.dcm t.csv muse.xml aecg.xml k.atc a.npy a.npz c.npz m.mat p.parquet h.h5"
    assert taken == {*records.split(), "scan.pdf", "cart.scp"}


def outcome(path):
    """Signal or ReadError, nothing else, in bounded memory."""
    with contextlib.suppress(ReadError):
        signal = formats.read(path, fs=None if path.suffix != ".npy" else 250)
        assert signal.x.dtype == np.float32 and signal.x.ndim == 2 and signal.fs > 0
        assert not np.isinf(signal.x).any()
    formats.is_candidate(path)
    with contextlib.suppress(ReadError):
        formats.records(path)


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_anywhere(tmp_path, kind):
    file = intact(tmp_path)[kind]
    data = file.read_bytes()
    for share in (0.0005, 0.01, 0.1, 0.35, 0.5, 0.9, 0.999):
        file.write_bytes(data[: max(1, int(len(data) * share))])
        outcome(file)


@pytest.mark.parametrize("suffix", sorted(formats.SUFFIXES))
def test_garbage_of_every_suffix(tmp_path, suffix):
    rng = np.random.default_rng(9)
    for size in (1, 100, 5000):
        path = tmp_path / f"g{size}{suffix}"
        path.write_bytes(rng.bytes(size))
        outcome(path)
        path.write_bytes(bytes(rng.integers(32, 127, size, dtype=np.uint8)))
        outcome(path)


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes(tmp_path, kind):
    """Whatever byte is wrong: a Signal or a sentence, and no more memory than a small file deserves."""
    file = intact(tmp_path)[kind]
    data = file.read_bytes()
    rng = np.random.default_rng(10)
    tracemalloc.start()
    for trial in range(25):
        broken = bytearray(data)
        # headers stand at the beginning: most of the damage goes there
        reach = len(broken) if trial % 3 == 0 else min(len(broken), 600)
        for at in rng.integers(0, reach, rng.integers(1, 6)):
            broken[at] = rng.integers(0, 256)
        file.write_bytes(bytes(broken))
        outcome(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6


def test_zip_bomb_is_not_unpacked(tmp_path):
    header = (
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (12, 500000000), }".ljust(117)
        + b"\n"
    )
    with (
        zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("x.npy", "w") as member,
    ):
        member.write(header)
        for _ in range(50):
            member.write(bytes(1_000_000))
    with pytest.raises(ReadError):
        formats.read(tmp_path / "b.npz", fs=100)
