"""What a crop of a volume costs: CPU seconds from the ingest store against nibabel on ``.nii.gz``, and the memory of the
loader as the corpus grows."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medfm.bench.load import _one_thread, _private_mb
from medfm.bench.nifti_reference import read_windows
from medfm.bench.timers import interleave
from medfm.data.loader import Mixture
from medfm.data.manifest import Manifest
from medfm.data.store import Chunk
from medfm.data.volume_batches import VolumeBatches
from medfm.data.volume_store import VolumeStore, build_volumes, ingest_volumes
from medfm.formats.volume_write import write_nifti
from medfm.modalities.ct import CT
from medfm.types import ConfigError, MedfmError

CROP = (96, 96, 96)
EXTENT = (256, 256, 192)  # voxels of the files: a trunk at 1.5 mm
SMALL = (112, 112, 104)  # of the volumes whose number grows
LOADER, STORE, PLAIN = "training batches", "store.read", "nibabel, .nii.gz"


def bench_load_volumes(
    volumes: Sequence[int] = (50, 1000),
    batch: int = 2,
    files: int = 3,
    rounds: int = 5,
    batches: int = 100,
    extent: Sequence[int] = EXTENT,
) -> dict[str, Any]:
    """Speed and memory of the training loader for crops of 96 cubed, as :func:`medfm.bench.load.bench_load` has them for
    signals.

    ``volumes``: sizes of the corpora whose memory is compared (5 MB each on disk); ``files``: written as ``.nii.gz`` of
    ``extent`` voxels and read from the page cache. Raises :class:`ConfigError` for a size out of range.
    """
    if not volumes or min(volumes) < 1:
        raise ConfigError("--records: give corpus sizes of at least 1 volume, such as 50,1000.")
    with tempfile.TemporaryDirectory(prefix="medfm-bench-") as folder:
        with _one_thread():
            rows = speed(Path(folder), batch, files, rounds, extent)
        sizes = [memory(Path(folder) / f"memory-{n}", n, batch, batches) for n in volumes]
    used = [row["private_mb"] for row in sizes]
    known = all(value is not None for value in used)
    return {
        "modality": "ct",
        "shape": list(CROP),
        "batch": batch,
        "threads": 1,
        "rounds": rounds,
        "numpy": np.__version__,
        "speed": rows,
        "memory": sizes,
        "memory_growth_mb": used[-1] - used[0] if known and len(used) > 1 else None,
        "notes": [
            f"Files: {files} of {' x '.join(map(str, extent))} voxels, int16 with noise, read from the page cache."
        ],
    }


def speed(folder: Path, batch: int, files: int, rounds: int, extent: Sequence[int]) -> list[dict[str, Any]]:
    """A row a way to get crops: ``windows_per_cpu_s`` (one thread) and ``ratio``, its speed over the plain reference's,
    both the median of interleaved rounds; ``ratios`` of all of them."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(files):
        smooth = np.repeat(
            np.repeat(np.repeat(rng.normal(0, 200, [-(-n // 16) for n in extent]), 16, 0), 16, 1), 16, 2
        )
        x = smooth[tuple(slice(0, n) for n in extent)] + rng.normal(0, 12, extent)
        paths.append(
            write_nifti(folder / f"{i}.nii.gz", x.round().astype(np.int16), np.diag([1.5, 1.5, 1.5, 1.0]))
        )
    modality = CT(size=CROP, foreground="none", units="any")
    manifest = Manifest.from_frame(_frame(paths), root=None, patient=None)
    store = ingest_volumes(manifest, modality, folder / "store")
    loader = VolumeBatches(Mixture([store]), modality, batch, stop=1 << 30)
    draws, state = max(1, 8 // batch), {"step": 0}

    def batches() -> None:
        for _ in range(draws):
            loader.batch(state["step"])
            state["step"] += 1

    def read() -> None:
        for _ in range(draws):
            rows = rng.integers(0, files, batch)
            room = store.shapes[rows] - np.array(CROP)
            store.read(rows, rng.integers(0, np.maximum(room, 0) + 1), CROP)

    def plain() -> None:
        read_windows(str(paths[int(rng.integers(files))]), (1.5,) * 3, (-175.0, 250.0), CROP, 1, rng)

    median = statistics.median
    costs = interleave({LOADER: batches, STORE: read, PLAIN: plain}, rounds)
    crops = {LOADER: draws * batch, STORE: draws * batch, PLAIN: 1}
    each = {name: [cost.cpu / crops[name] for cost in costs[name]] for name in costs}
    rows = []
    for name, seconds in each.items():
        ratios = [reference / own for own, reference in zip(seconds, each[PLAIN])]
        rows.append(
            {
                "what": name,
                "windows_per_cpu_s": 1 / median(seconds),
                "ratio": median(ratios),
                "ratios": ratios,
            }
        )
    return rows


def _frame(paths: Sequence[Path]) -> Any:
    import pandas as pd

    return pd.DataFrame({"path": [str(p) for p in paths]})


def memory(folder: Path, volumes: int, batch: int, batches: int) -> dict[str, Any]:
    """As :func:`medfm.bench.load.memory`, of a store of ``volumes`` equal volumes of noise."""
    noise = np.random.default_rng(0).normal(0, 200, (1, *SMALL)).astype(np.float32)

    def chunk(index: int) -> Chunk:
        return Chunk([noise], [index], [], None, {"affine": [np.eye(4)]})

    store = build_volumes({"noise": volumes}, volumes, chunk, channels=("HU",), root=folder)
    words = [sys.executable, "-m", "medfm.bench.load_volumes", str(store.path), str(batch), str(batches)]
    done = subprocess.run(words, capture_output=True, text=True, start_new_session=True)
    if done.returncode:
        raise MedfmError(
            f"the loader failed in its own process: {(done.stderr.strip() or 'no word').splitlines()[-1]}"
        )
    return {"records": volumes, "store_gb": store.nbytes / 1e9, **json.loads(done.stdout)}


def draw(store: Path, batch: int, batches: int) -> dict[str, float | None]:
    """The child's part of :func:`memory`: batches at random, and the highest private memory after any of them."""
    import time

    torch.set_num_threads(1)
    before = _private_mb()
    loader = VolumeBatches(Mixture([VolumeStore.open(store)]), CT(size=CROP), batch, stop=batches)
    peak, wall, cpu = before, time.perf_counter(), time.process_time()
    for _ in loader:
        if peak is not None:
            peak = max(peak, _private_mb() or 0.0)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    speeds = {"samples_per_s": batch * batches / wall, "samples_per_cpu_s": batch * batches / cpu}
    return {"private_mb": peak, "at_start_mb": before, **speeds}


if __name__ == "__main__":
    print(json.dumps(draw(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
