"""NumPy, MATLAB and HDF5 files: orientation, many records, CODE-15's scale and padding."""

import json
import math

import h5py
import numpy as np
import pytest
from ecg_files import LEADS
from scipy.io import savemat

from medfm import formats
from medfm.types import ReadError

X = np.random.default_rng(5).standard_normal((12, 700)).astype(np.float32)


def npy(folder, array, name="a.npy"):
    np.save(folder / name, array)
    return folder / name


@pytest.mark.parametrize("array", [X, X.T, X.astype(np.float64), np.asfortranarray(X)])
def test_npy_either_way_round(tmp_path, array):
    read = formats.read(npy(tmp_path, array), fs=400)
    np.testing.assert_allclose(read.x, X)
    assert read.channels == ("",) * 12 and read.units == ("",) * 12 and read.fs == 400
    assert [f.code for f in read.findings] == ["unnamed-channels"]


def test_npy_single_lead_and_integers(tmp_path):
    read = formats.read(npy(tmp_path, np.arange(500, dtype=np.int16)), fs=100)
    assert read.x.shape == (1, 500) and read.x.dtype == np.float32 and read.x[0, 499] == 499


def test_npy_of_many_records(tmp_path):
    path = npy(tmp_path, np.stack([X, 2 * X, 3 * X]))
    assert formats.records(path) == [f"{path}#{i}" for i in range(3)]
    read = formats.read(f"{path}#2", fs=500)
    np.testing.assert_allclose(read.x, 3 * X)
    assert read.record == "a-2"
    np.testing.assert_allclose(formats.read(f"{npy(tmp_path, X.T[None], 'b.npy')}", fs=500).x, X)
    with pytest.raises(ReadError, match=r"holds 3 records; name one as 'a\.npy#0' to 'a\.npy#2'"):
        formats.read(path, fs=500)
    with pytest.raises(ReadError, match="there is no '#3'"):
        formats.read(f"{path}#3", fs=500)


def test_no_rate_sidecar_and_names(tmp_path):
    path = npy(tmp_path, X)
    with pytest.raises(ReadError, match=r"a\.npy: the array states no sampling rate.*'fs' column.*a\.json"):
        formats.read(path)
    (tmp_path / "a.json").write_text(
        json.dumps({"fs": 360, "channels": list(LEADS), "units": "uV", "age": 40})
    )
    read = formats.read(path)
    assert (read.fs, read.channels, set(read.units), read.meta) == (360, LEADS, {"uV"}, {"age": 40})
    assert not formats.is_candidate(tmp_path / "a.json") and formats.is_candidate(path)


def test_npz(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=X, fs=250, channels=LEADS, units="mV", other=np.zeros(3))
    read = formats.read(tmp_path / "a.npz")
    np.testing.assert_allclose(read.x, X)
    assert (read.fs, read.channels, set(read.units)) == (250, LEADS, {"mV"})
    np.savez(tmp_path / "b.npz", one=X, two=X)
    with pytest.raises(ReadError, match="which of one, two is the signal"):
        formats.read(tmp_path / "b.npz", fs=100)


def test_objects_are_never_unpickled(tmp_path):
    """The pickle would create a file; the reader must not run it."""

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.save(tmp_path / "o.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=np.array([Trap()], dtype=object))
    for name in ("o.npy", "o.npz"):
        with pytest.raises(ReadError, match="Python objects"):
            formats.read(tmp_path / name, fs=100)
    assert not (tmp_path / "sprung").exists()


def header(shape, descr="<f4"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_a_promise_of_a_trillion_samples_allocates_nothing(tmp_path):
    (tmp_path / "a.npy").write_bytes(header((12, 10**12)) + b"\0" * 400)
    with pytest.raises(ReadError, match=r"a\.npy: is truncated, it holds 400 of 48000000000000 bytes"):
        formats.read(tmp_path / "a.npy", fs=100)
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", header((12, 10**12)) + b"\0" * 400)
    with pytest.raises(ReadError, match="truncated"):
        formats.read(tmp_path / "a.npz", fs=100)


def test_shapes_that_are_no_record(tmp_path):
    with pytest.raises(ReadError, match="neither axis can be the channels"):
        formats.read(npy(tmp_path, np.zeros((300, 400))), fs=100)
    with pytest.raises(ReadError, match="complex128 values"):
        formats.read(npy(tmp_path, np.zeros((2, 400), complex)), fs=100)
    with pytest.raises(ReadError):
        formats.read(npy(tmp_path, np.zeros((2, 2, 2, 2))), fs=100)


def test_matlab(tmp_path):
    savemat(tmp_path / "a.mat", {"val": (X * 1000).astype(np.int16), "Fs": 500.0})
    read = formats.read(tmp_path / "a.mat")
    assert read.fs == 500 and read.x.shape == (12, 700)
    np.testing.assert_allclose(read.x, (X * 1000).astype(np.int16))
    savemat(
        tmp_path / "n.mat",
        {"ecg": X.T, "fs": 250, "leads": np.array(LEADS, dtype=object)},
        do_compression=True,
    )
    assert formats.read(tmp_path / "n.mat").channels == LEADS
    savemat(tmp_path / "cpsc.mat", {"ECG": {"sex": "Male", "age": 61, "data": X}})
    read = formats.read(tmp_path / "cpsc.mat", fs=500)
    np.testing.assert_allclose(read.x, X)
    assert read.meta == {"age": 61, "sex": "Male"}
    savemat(tmp_path / "e.mat", {"name": "nothing here"})
    with pytest.raises(ReadError, match="no matrix of samples"):
        formats.read(tmp_path / "e.mat", fs=500)


def test_matlab_73_is_hdf5(tmp_path):
    with h5py.File(tmp_path / "v.mat", "w", userblock_size=512) as file:
        file["val"], file["fs"] = X.T, np.array([[360.0]])
    with (tmp_path / "v.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, made for a test".ljust(124) + b"\x00\x02IM")
    read = formats.read(tmp_path / "v.mat")
    np.testing.assert_allclose(read.x, X)
    assert read.fs == 360


def code15(folder, ids=(101, 102, 103)):
    tracings = np.zeros((3, 4096, 12), np.float32)
    rng = np.random.default_rng(6)
    tracings[0, 648:3448] = rng.standard_normal((2800, 12)) + 0.01
    tracings[1, 48:4048] = rng.standard_normal((4000, 12)) + 0.01
    with h5py.File(folder / "exams_part0.hdf5", "w") as file:
        file["tracings"], file["exam_id"] = tracings, np.array(ids)
    return folder / "exams_part0.hdf5", tracings


def test_code15_scale_rate_and_padding(tmp_path):
    path, tracings = code15(tmp_path)
    assert formats.records(path) == [f"{path}#{i}" for i in range(3)]
    for row, (first, last) in enumerate([(648, 3448), (48, 4048)]):
        read = formats.read(f"{path}#{row}")
        assert read.x.shape == (12, last - first) and read.fs == 400 and read.record == f"{101 + row}"
        np.testing.assert_allclose(read.x, tracings[row, first:last].T * 0.5, rtol=1e-6)  # mV were doubled
        assert read.channels[:4] == ("DI", "DII", "DIII", "AVR") and set(read.units) == {"mV"}
    with pytest.raises(ReadError, match="zeros only"):
        formats.read(f"{path}#2")
    with pytest.raises(ReadError, match="holds 3 exams; name one"):
        formats.read(path)
    with pytest.raises(ReadError, match="holds 3 exams; name one"):
        formats.read(f"{path}#7")


def test_code15_scale_can_be_overruled(tmp_path):
    path, tracings = code15(tmp_path)
    path.with_suffix(".json").write_text('{"units": "mV"}')
    np.testing.assert_allclose(formats.read(f"{path}#0").x, tracings[0, 648:3448].T)


def test_hdf5_data_sets_with_attributes(tmp_path):
    with h5py.File(tmp_path / "g.h5", "w") as file:
        for name in "ab":
            data = file.create_dataset(f"night/{name}", data=X.T)
            data.attrs["sampling_rate"], data.attrs["leads"], data.attrs["units"] = 200, LEADS, "mV"
    assert formats.records(tmp_path / "g.h5") == [f"{tmp_path}/g.h5#night/a", f"{tmp_path}/g.h5#night/b"]
    read = formats.read(f"{tmp_path}/g.h5#night/b")
    np.testing.assert_allclose(read.x, X)
    assert (read.fs, read.channels, set(read.units)) == (200, LEADS, {"mV"})
    with pytest.raises(ReadError, match="name one after '#'"):
        formats.read(tmp_path / "g.h5")
    with h5py.File(tmp_path / "n.h5", "w") as file:
        file["ecg"], file["fs"] = np.stack([X, 2 * X]), 500
    np.testing.assert_allclose(formats.read(f"{tmp_path}/n.h5#1").x, 2 * X)


def test_hdf5_promise_is_not_allocated(tmp_path):
    """A chunked data set that was never written may state any size in a few bytes of file."""
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file.create_dataset("ecg", shape=(12, 10**12), dtype="f4", chunks=(12, 1024))
    assert math.log10((tmp_path / "p.h5").stat().st_size) < 5
    with pytest.raises(ReadError, match="promises"):
        formats.read(tmp_path / "p.h5", fs=100)


def test_window_of_a_format_that_reads_whole(tmp_path):
    read = formats.read(npy(tmp_path, X), fs=100, start=1, stop=3)
    np.testing.assert_allclose(read.x, X[:, 100:300])
    with pytest.raises(ReadError, match=r"holds 7\.000 s"):
        formats.read(npy(tmp_path, X), fs=100, start=9)
