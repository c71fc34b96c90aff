"""medfm bench load: both sides read the same windows, memory is measured apart, nothing is left behind."""

from __future__ import annotations

import gc
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial

import numpy as np
import pytest

from medfm.bench import load, wfdb_reference
from medfm.bench.load import bench_load, draw, noise_batches
from medfm.bench.timers import interleave
from medfm.cli.main import main
from medfm.data.manifest import Manifest
from medfm.data.store import ingest
from medfm.modalities.ecg import ECG
from medfm.synthetic.corpus import write_corpus
from medfm.types import ConfigError, MedfmError

LINUX = sys.platform.startswith("linux")


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary folders are made, so that a test sees what is left of them."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_tiny_run_from_the_command_line(scratch, capsys, monkeypatch):
    """With four files the store is far ahead already, and each size has its row."""
    monkeypatch.setattr(load, "bench_load", partial(bench_load, batch=8, files=4, rounds=3, batches=4))
    assert main(["bench", "load", "--records", "8,16", "--json"]) == 0
    out, err = capsys.readouterr()
    results = json.loads(out)
    ways = {row["what"]: row for row in results["speed"]}
    assert set(ways) == {load.LOADER, load.STORE, load.PLAIN} and results["shape"] == [12, 2500]
    assert ways[load.LOADER]["ratio"] > 20 and ways[load.STORE]["ratio"] > 20
    assert ways[load.PLAIN]["ratios"] == [1.0] * 3
    for row in ways.values():
        assert min(row["ratios"]) <= row["ratio"] <= max(row["ratios"]) and row["windows_per_cpu_s"] > 0
    assert [row["records"] for row in results["memory"]] == [8, 16]
    assert all(row["samples_per_s"] > 0 < row["samples_per_cpu_s"] for row in results["memory"])
    if LINUX:
        first, last = (row["private_mb"] for row in results["memory"])
        assert results["memory_growth_mb"] == pytest.approx(last - first)
        assert all(row["private_mb"] >= row["at_start_mb"] > 10 for row in results["memory"])
    assert "16 records" in err and str(scratch) in err  # said before it is written
    assert not list(scratch.iterdir())


def test_the_table_has_a_row_a_thing(capsys, monkeypatch):
    way = {"what": load.LOADER, "windows_per_cpu_s": 12345.6, "ratio": 234.5}
    sizes = [
        {
            "records": 1000,
            "store_gb": 0.06,
            "private_mb": 150.26,
            "at_start_mb": 140.0,
            "samples_per_s": 9876.0,
        },
        {"records": 20000, "store_gb": 1.2, "private_mb": None, "at_start_mb": None, "samples_per_s": 9000.0},
    ]
    for size in sizes:
        size["samples_per_cpu_s"] = 20001.0
    results = {
        "modality": "ecg",
        "shape": [12, 2500],
        "fs": 250.0,
        "batch": 32,
        "rounds": 9,
        "speed": [way],
        "memory": sizes,
    }
    answer = {**results, "memory_growth_mb": 1.25, "notes": ["A sentence."]}
    monkeypatch.setattr(load, "bench_load", lambda *a: answer)
    assert main(["bench", "load"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "training batches 12,346 234" in lines
    assert (
        "1,000 0.06 150.3 140.0 9,876 20,001" in lines
        and "20,000 1.20 not known not known 9,000 20,001" in lines
    )
    assert "From 1,000 to 20,000 records: +1.2 MB." in lines and "A sentence." in lines


@pytest.mark.parametrize("fs", [250.0, 500.0, 360.0])
def test_the_reference_reads_what_the_store_holds(tmp_path, fs):
    table = write_corpus("ecg", 3, tmp_path / "corpus")
    manifest = Manifest.from_table(table)
    store = ingest(manifest, ECG(fs=fs), tmp_path / "store")
    for row, path in enumerate(manifest.paths):
        ours = store.read([row])[0][0]
        theirs = wfdb_reference.read_window(path.removesuffix(".hea"), fs, round(10 * fs))
        assert theirs.dtype == np.float32 and theirs.shape == ours.shape == (12, round(10 * fs))
        inside = slice(round(fs), -round(fs))  # scipy takes the record to be zero outside: its ends ring
        error = np.sqrt(np.mean((ours - theirs)[:, inside] ** 2)) / np.std(ours)
        assert error < (1e-3 if fs == 500 else 0.05)


def test_the_reference_stands_alone():
    source = inspect.getsource(wfdb_reference)
    assert "import medfm" not in source and "from medfm" not in source


def test_turns_alternate_and_each_call_pays_its_own():
    order = []

    def busy():
        order.append("busy")
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass

    costs = interleave({"busy": busy, "idle": lambda: (order.append("idle"), time.sleep(0.02))}, 2)
    assert order == ["busy", "idle", "busy", "idle", "idle", "busy"]  # one to warm up, then there and back
    assert all(cost.cpu >= 0.02 for cost in costs["busy"])
    assert all(cost.cpu < 0.015 and cost.wall >= 0.02 for cost in costs["idle"])


@pytest.mark.skipif(not LINUX, reason="private memory is read from /proc")
def test_private_memory_counts_arrays_and_leaves_mapped_files_out(tmp_path):
    path = tmp_path / "mapped"
    path.write_bytes(bytes(64 << 20))
    gc.collect()  # what other tests left must not go away in between
    before = load._private_mb()
    mapped = np.memmap(path, np.uint8, "r")
    assert mapped.sum() == 0  # touches every page
    assert load._private_mb() - before < 32
    without = load._private_mb()
    held = np.ones(256 << 20, np.uint8)  # large beside what the interpreter gives back in the meantime
    assert 128 < load._private_mb() - without < 320 and held.all()


def test_without_proc_the_memory_is_left_out_with_a_sentence(scratch, monkeypatch, tmp_path):
    monkeypatch.setattr(load, "STATUS", tmp_path / "absent")
    store = noise_batches(tmp_path / "store", 4, records=6, fs=250.0).mixture.stores[0]
    assert draw(store.path, 4, 2)["private_mb"] is None
    row = {"private_mb": None, "records": 6, "store_gb": 0.0, "samples_per_s": 1.0}
    monkeypatch.setattr(load, "memory", lambda *a: row)
    results = bench_load(records=(6,), files=2, rounds=1)
    assert results["memory_growth_mb"] is None and "does not have" in results["notes"][-1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MedfmError("no")])
def test_the_folder_is_removed_when_a_run_is_stopped(scratch, monkeypatch, error):
    seen = []

    def stopped(*command, **_):
        seen.extend(scratch.rglob("signals.i16"))
        raise error

    monkeypatch.setattr(load, "speed", lambda *a: [])
    monkeypatch.setattr(subprocess, "run", stopped)
    with pytest.raises(type(error)):
        bench_load(records=(5,))
    assert len(seen) == 1 and not list(scratch.iterdir())


def test_a_child_that_fails_says_why(scratch, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback ...\nMemoryError: no room\n")
    monkeypatch.setattr(load, "speed", lambda *a: [])
    monkeypatch.setattr(subprocess, "run", lambda *command, **_: failed)
    with pytest.raises(MedfmError, match=r"failed in its own process: MemoryError: no room"):
        bench_load(records=(3,))
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--modality", "smell"], "no loading benchmark for modality 'smell'"),
        (["--fs", "10"], "--fs 10: give the model's grid in Hz, 50 to 1000."),
        (["--fs", "nan"], "--fs nan"),
        (["--records", "1000;20000"], "--records 1000;20000: give whole numbers"),
        (["--records", ""], "give whole numbers"),
        (["--records", "1000,0"], "at least 1 record"),
    ],
)
def test_a_wrong_call_is_a_sentence(scratch, capsys, words, sentence):
    assert main(["bench", "load", *words]) == 2
    out, err = capsys.readouterr()
    assert sentence in err and "Traceback" not in err and out == "" and not list(scratch.iterdir())


def test_a_full_disk_is_said_before_anything_is_written(scratch, monkeypatch):
    usage = shutil.disk_usage(scratch)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ConfigError, match=r"--records 20000: needs 2\.4 GB .* TMPDIR"):
        bench_load(records=(1000, 20000))
    assert not list(scratch.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="sends a signal and reads /proc")
def test_ctrl_c_ends_the_child_and_leaves_nothing(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-m", "medfm.cli.main", "bench", "load", "--records", "3000"]
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "store of" in line:  # made; the child is on its way
                break
        time.sleep(1.0)
        run.send_signal(signal.SIGINT)
        rest = run.stderr.read()
        assert run.wait(30) == 130 and "stopped by Ctrl-C" in rest
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="private memory is read from /proc")
def test_windows_come_200_times_faster_and_memory_stays_flat(scratch):
    """The claim itself, at its own size: windows on the grid in mV against wfdb with resampling, and 20 times the
    corpus in the same memory."""
    results = bench_load()
    ratio = {row["what"]: row["ratio"] for row in results["speed"]}
    assert ratio[load.STORE] >= 200
    assert ratio[load.LOADER] >= 200  # with drawing and normalising, which the reference does not do
    assert [row["records"] for row in results["memory"]] == [1000, 20000]
    assert abs(results["memory_growth_mb"]) < 20
