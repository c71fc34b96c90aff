"""What a training window costs: CPU seconds from the ingest store against wfdb and scipy, and the memory of the loader
as the corpus grows.
"""

from __future__ import annotations

import json
import logging
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medfm.bench.timers import interleave
from medfm.bench.wfdb_reference import read_window
from medfm.data.loader import Mixture, SignalBatches
from medfm.data.manifest import Manifest
from medfm.data.store import CHUNK, Chunk, SignalStore, ingest
from medfm.data.store import build as build_store
from medfm.modalities.ecg import ECG
from medfm.synthetic.corpus import write_corpus
from medfm.types import Batch, ConfigError, MedfmError

LEADS, SECONDS, FILE_FS = 12, 10, 500.0
SLOWEST, FASTEST = 50.0, 1000.0  # grids of ECG models, Hz
LOADER, STORE, PLAIN = "training batches", "store.read", "wfdb.rdrecord + resampling"
STATUS = Path("/proc/self/status")

log = logging.getLogger(__name__)


def bench_load(
    modality: str = "ecg",
    fs: float = 250.0,
    records: Sequence[int] = (1000, 20000),
    batch: int = 32,
    files: int = 48,
    rounds: int = 9,
    batches: int = 300,
) -> dict[str, Any]:
    """Speed (:func:`speed`) and memory (:func:`memory`) of the training loader for windows of 12 leads, 10 s, ``fs`` Hz.
    Of volumes see :mod:`medfm.bench.load_volumes`.

    ``records``: sizes of the corpora whose memory is compared; ``files``: synthetic WFDB records at 500 Hz that are
    read; ``batches``: how many are drawn from each corpus. Everything is written to a temporary folder (``TMPDIR``
    chooses where) and removed. Raises :class:`ConfigError` for another modality, a grid or a size out of range, and
    for a folder without room.
    """
    if modality != "ecg":
        raise ConfigError(f"no loading benchmark for modality {modality!r}; known: ecg, ct.")
    if not SLOWEST <= fs <= FASTEST:
        raise ConfigError(f"--fs {fs:g}: give the model's grid in Hz, {SLOWEST:g} to {FASTEST:g}.")
    if not records or min(records) < 1:
        raise ConfigError("--records: give corpus sizes of at least 1 record, such as 1000,20000.")
    with tempfile.TemporaryDirectory(prefix="medfm-bench-") as folder:
        _check_room(Path(folder), max(records), fs)
        with _one_thread():
            rows = speed(Path(folder) / "speed", fs, batch, files, rounds)
        sizes = [memory(Path(folder) / f"memory-{n}", n, fs, batch, batches) for n in records]
    used = [row["private_mb"] for row in sizes]
    known = all(value is not None for value in used)
    notes = [f"Source records: {files} synthetic WFDB records at {FILE_FS:g} Hz, read from the page cache."]
    if fs == FILE_FS:
        notes.append("The grid is the records' own rate: the plain reference had nothing to resample.")
    if not known:
        notes.append("Private memory is read from /proc/self/status, which this system does not have.")
    return {
        "modality": modality,
        "shape": [LEADS, round(fs * SECONDS)],
        "fs": fs,
        "batch": batch,
        "threads": 1,
        "rounds": rounds,
        "numpy": np.__version__,
        "speed": rows,
        "memory": sizes,
        "memory_growth_mb": used[-1] - used[0] if known and len(used) > 1 else None,
        "notes": notes,
    }


def speed(folder: Path, fs: float, batch: int, files: int, rounds: int) -> list[dict[str, Any]]:
    """A row a way to get windows: ``windows_per_cpu_s`` (one thread) and ``ratio``, its speed over the plain
    reference's, both the median of interleaved rounds; ``ratios`` of all of them.

    Training batches are drawn at random and normalised, ``store.read`` gives the same windows in mV, and the reference
    reads and resamples the records that the store was made of, in order and without normalising.
    """
    table = write_corpus("ecg", files, folder / "files", fs=FILE_FS, seconds=SECONDS)
    manifest, modality = Manifest.from_table(table), _modality(fs)
    batches = SignalBatches(Mixture([ingest(manifest, modality, folder / "store")]), modality, batch, stop=1)
    store, (samples,) = batches.mixture.stores[0], modality.size
    names = [path.removesuffix(".hea") for path in manifest.paths]
    draws = max(1, 1000 // batch)  # where CPU clocks tick in milliseconds, a turn must take many of them

    def loader() -> None:
        for step in range(draws):
            batches.batch(step)

    def read() -> None:
        for step in range(draws):
            _, rows = batches.mixture.draw(0, step * batch, batch)
            store.read(rows, length=samples)

    def plain() -> None:
        for name in names:
            read_window(name, fs, samples)

    median = statistics.median
    costs = interleave({LOADER: loader, STORE: read, PLAIN: plain}, rounds)
    windows = {LOADER: draws * batch, STORE: draws * batch, PLAIN: len(names)}
    each = {name: [cost.cpu / windows[name] for cost in costs[name]] for name in costs}
    rows = []
    for name, seconds in each.items():
        ratios = [reference / own for own, reference in zip(seconds, each[PLAIN])]
        speeds = {"windows_per_cpu_s": 1.0 / median(seconds), "ratio": median(ratios), "ratios": ratios}
        rows.append({"what": name, **speeds})
    return rows


def memory(folder: Path, records: int, fs: float, batch: int, batches: int) -> dict[str, Any]:
    """What a training loader holds for itself while it draws ``batches`` from a corpus, in a process of its own.

    ``private_mb``: the most anonymous memory (Linux: RssAnon), that is without the pages of the mapped store, which the
    system takes back when it likes; ``at_start_mb`` of it is Python and its libraries. Both are None on other systems.
    ``samples_per_s`` of wall time, with whatever the disk and the neighbours take; ``samples_per_cpu_s``. The store is
    removed.
    """
    began = time.monotonic()
    store = noise_batches(folder, batch, records, fs).mixture.stores[0]
    size = store.nbytes / 1e9
    log.info("%s records: store of %.2f GB made in %.0f s", f"{records:,}", size, time.monotonic() - began)
    words = [sys.executable, "-m", "medfm.bench.load", str(store.path), str(batch), str(batches)]
    # A session of its own: Ctrl-C reaches this process only, which then ends the child.
    done = subprocess.run(words, capture_output=True, text=True, start_new_session=True)
    if done.returncode:
        raise MedfmError(
            f"the loader failed in its own process: {(done.stderr.strip() or 'no word').splitlines()[-1]}"
        )
    shutil.rmtree(folder)
    return {"records": records, "store_gb": size, **json.loads(done.stdout)}


def draw(store: Path, batch: int, batches: int) -> dict[str, float | None]:
    """The child's part of :func:`memory`: batches at random, and the highest private memory after any of them."""
    torch.set_num_threads(1)
    before = _private_mb()
    opened = SignalStore.open(store)
    loader = SignalBatches(Mixture([opened]), _modality(opened.fs), batch, stop=batches)
    peak, wall, cpu = before, time.perf_counter(), time.process_time()
    for _ in loader:
        if peak is not None:
            peak = max(peak, _private_mb() or 0.0)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    speeds = {"samples_per_s": batch * batches / wall, "samples_per_cpu_s": batch * batches / cpu}
    return {"private_mb": peak, "at_start_mb": before, **speeds}


def noise_batches(folder: Path, batch: int, records: int = 128, fs: float = 500.0) -> SignalBatches:
    """Training batches, normalised, from a memory-mapped store of 10 s records that is made in ``folder``: noise,
    the same in every chunk.
    """
    modality = _modality(fs)
    rng = np.random.default_rng(0)
    signals = [
        rng.normal(0, 0.2, (LEADS, *modality.size)).astype(np.float32) for _ in range(min(CHUNK, records))
    ]

    def chunk(index: int) -> Chunk:
        rows = range(index * CHUNK, min((index + 1) * CHUNK, records))
        return Chunk(signals[: len(rows)], list(rows), [])

    store = build_store(
        {"noise": records}, -(-records // CHUNK), chunk, fs=fs, channels=modality.channels, root=folder
    )
    return SignalBatches(Mixture([store]), modality, batch, stop=1)


def samples_per_s(load: Callable[[int], Batch], seconds: float = 2.0) -> float:
    """Samples per wall second of the loader alone, after one batch to warm up."""
    load(0)
    count, step, start = 0, 1, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        count += len(load(step).x)
        step += 1
    return count / passed


def _modality(fs: float) -> ECG:
    """Scaled as training data are; the cost does not depend on the numbers."""
    return ECG(fs=fs, seconds=SECONDS, normalise="dataset", mean=[0.0] * LEADS, std=[0.2] * LEADS)


def _private_mb() -> float | None:
    if not STATUS.is_file():
        return None
    found = [line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith("RssAnon:")]
    return int(found[0]) / 1024 if found else None


def _check_room(folder: Path, records: int, fs: float) -> None:
    # int16, and twice: finished chunks are joined into one file before they are removed
    need = 2 * 2 * LEADS * fs * SECONDS * records
    free = shutil.disk_usage(folder).free
    log.info("stores of up to %s records: %.1f GB in %s for the moment", f"{records:,}", need / 1e9, folder)
    if free < need:
        raise ConfigError(
            f"--records {records}: needs {need / 1e9:.1f} GB in {folder.parent}, where {free / 1e9:.1f} GB are free. "
            "Give fewer records, or another folder with the environment variable TMPDIR."
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    print(json.dumps(draw(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
