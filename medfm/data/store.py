"""The ingest store: every record decoded once, kept as int16 in one memory-mapped array with an offset table.

Layout of ``<root>/<key>/``::

    signals.i16    records one after another, each ``[C, T_i]`` C-contiguous int16; -32768 is NaN
    index.npz      row (manifest row), offset (in samples), length, gain [n, C] (unit per step), present [n, C], gaps [n],
                   and what else a kind of record has (volumes: shape, affine)
    labels.csv     only for generated corpora: the labels, row by row
    store.json     sampling rate, channels, what failed and why, and the inputs of the key

The key is a hash of the sources (names, sizes, modification times), the settings applied before storage, and the
versions, so that a changed filter never meets old samples. A kill loses at most one chunk: finished chunks stay in
``<key>.parts`` and are reused. Publication is one rename; two processes that ingest the same data agree on the result.
Normalisation and augmentation are not stored: they come from the bundle when a batch is made.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medfm import paths
from medfm.data.manifest import Manifest
from medfm.formats.subject import subject_files
from medfm.formats.synthetic import sidecar
from medfm.types import MedfmError

STORE_VERSION = 1
NAN = np.int16(-32768)
CHUNK = 128
INDEX = ("row", "length", "gain", "present", "gaps")  # columns of every store


class Chunk(NamedTuple):
    """What one chunk of the corpus yields: arrays ``[C, T]`` float32 (NaN where absent), their manifest rows,
    failures ``(row, path, reason)``, optional labels (one row a kept record), and more columns of the index (one row a
    kept record each)."""

    signals: list[np.ndarray]
    rows: list[int]
    failed: list[tuple[int, str, str]]
    labels: pd.DataFrame | None = None
    extra: dict[str, list[np.ndarray]] | None = None


@dataclass
class SignalStore:
    """A published store, read-only. Cheap to pickle: spawned workers map the file again by themselves."""

    path: Path
    fs: float
    channels: tuple[str, ...]
    rows: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    gains: np.ndarray
    present: np.ndarray
    gaps: np.ndarray
    failed: list[tuple[int, str, str]]
    extra: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    _map: np.ndarray | None = field(default=None, repr=False)

    @classmethod
    def open(cls, path: Path) -> SignalStore:
        meta = json.loads((path / "store.json").read_text(encoding="utf-8"))
        with np.load(path / "index.npz", allow_pickle=False) as index:
            arrays = {k: index[k] for k in index.files}
        return cls(
            path=path,
            fs=meta["fs"],
            channels=tuple(meta["channels"]),
            rows=arrays["row"],
            offsets=arrays["offset"],
            lengths=arrays["length"],
            gains=arrays["gain"],
            present=arrays["present"],
            gaps=arrays["gaps"],
            failed=[(int(r), str(p), str(why)) for r, p, why in meta["failed"]],
            extra={k: v for k, v in arrays.items() if k not in INDEX and k != "offset"},
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    @property
    def kept(self) -> np.ndarray:
        """Manifest rows in store order."""
        return self.rows

    @property
    def labels(self) -> pd.DataFrame:
        """Labels of a generated corpus, in store order."""
        return pd.read_csv(self.path / "labels.csv", dtype={"patient_id": str, "record": str})

    @property
    def nbytes(self) -> int:
        return (self.path / "signals.i16").stat().st_size

    @property
    def codes(self) -> np.ndarray:
        """All samples, int16, mapped from the file."""
        if self._map is None:
            # A plain view: slicing a np.memmap makes a new np.memmap each time, which costs more than the copy.
            self._map = (
                np.memmap(self.path / "signals.i16", dtype=np.int16, mode="r").view(np.ndarray)
                if self.nbytes
                else np.empty(0, np.int16)
            )
        return self._map

    def read(
        self, rows: Sequence[int] | np.ndarray, starts: np.ndarray | None = None, length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Windows ``x [B, C, length]`` float32 in mV (NaN: absent, gap or past the end) and ``present [B, C]``.

        ``rows`` index the store; ``starts`` are sample offsets (default 0); ``length`` defaults to the longest of
        the rows.
        """
        rows, codes_of_all = np.asarray(rows), self.codes
        lengths = self.lengths[rows]
        length = int(lengths.max()) if length is None else length
        starts = np.zeros(len(rows), np.int64) if starts is None else np.asarray(starts)
        present = self.present[rows]
        channels = len(self.channels)
        x = np.empty((len(rows), channels, length), np.float32)
        # Comparing every sample costs as much as reading it; most records have neither gaps nor absent leads.
        missing = (self.gaps[rows] | ~present.all(axis=1)).tolist()
        place = zip(self.offsets[rows].tolist(), starts.tolist(), lengths.tolist())
        for b, (offset, start, full) in enumerate(place):
            record = codes_of_all[offset : offset + channels * full].reshape(channels, full)
            codes = record[:, start : start + length]
            held = codes.shape[1]
            x[b, :, :held] = codes
            if missing[b]:
                x[b, :, :held][codes == NAN] = np.nan
            if held < length:
                x[b, :, held:] = np.nan
        x *= self.gains[rows][:, :, None]
        return x, present


def encode(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 ``[C, T]`` with NaN -> int16 codes and gain ``[C]``; the step is a 32,767th of each lead's range."""
    finite = np.isfinite(x)
    peak = np.max(np.abs(np.where(finite, x, 0.0)), axis=1) if x.shape[1] else np.zeros(x.shape[0])
    gain = np.where(peak > 0, peak / 32767.0, 1.0).astype(np.float32)
    codes = np.rint(np.where(finite, x, 0.0) / gain[:, None]).clip(-32767, 32767).astype(np.int16)
    codes[~finite] = NAN
    return codes, gain


def build(
    inputs: dict[str, Any],
    chunks: int,
    make: Callable[[int], Chunk],
    *,
    fs: float,
    channels: Sequence[str],
    root: Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> SignalStore:
    """Build, or open if it exists, the store whose key is the hash of ``inputs``.

    ``make(i)`` yields chunk ``i`` and must be picklable when ``jobs`` is not 1. ``progress(done, chunks)`` is called
    as chunks finish.
    """
    root = root or paths.store()
    text = json.dumps(
        {"version": STORE_VERSION, "fs": fs, "channels": list(channels), **inputs}, sort_keys=True
    )
    key = hashlib.sha256(text.encode()).hexdigest()
    final = root / key
    if (final / "store.json").is_file():
        return SignalStore.open(final)
    parts = root / f"{key}.parts"
    try:
        parts.mkdir(parents=True, exist_ok=True)
        missing = [i for i in range(chunks) if not (parts / f"{i:06d}.npz").is_file()]
        done = chunks - len(missing)
        for _ in _run(missing, make, parts, jobs):
            done += 1
            if progress:
                progress(done, chunks)
        _publish(parts, final, chunks, text, fs, channels)
    except FileNotFoundError:
        # Another process published the same store and cleared the parts under us.
        if not (final / "store.json").is_file():
            raise
    except OSError as error:
        raise MedfmError(
            f"the ingest store at {root} cannot be written ({error.strerror or error}). Make room or give the "
            "right to write there, or choose another folder: data.store=PATH, or MEDFM_HOME=PATH in the environment."
        ) from error
    shutil.rmtree(parts, ignore_errors=True)
    return SignalStore.open(final)


def ingest(
    manifest: Manifest,
    modality: Any,
    root: Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> SignalStore:
    """Read every record of ``manifest`` once through ``modality.read``. A bad file is set aside in ``.failed``.

    Raises :class:`MedfmError` when nothing at all could be read, with the first reason.
    """
    inputs = {
        "sources": fingerprint(manifest.paths),
        "rates": manifest.rates,
        "settings": modality.ingest_settings(),
    }
    make = FileChunks(manifest.paths, modality, manifest.rates)
    chunks = -(-len(manifest) // CHUNK)
    fs = 1.0 / modality.spacing[0]
    store = build(
        inputs, chunks, make, fs=fs, channels=modality.channels, root=root, jobs=jobs, progress=progress
    )
    return filled(store, manifest)


def filled(store: SignalStore, manifest: Manifest) -> SignalStore:
    """``store``, or an error with the first reason where nothing of ``manifest`` could be read."""
    if len(store) == 0:
        reason = store.failed[0][2] if store.failed else "the manifest is empty"
        # An all-failed store must not be reused once the user has mended the files or the reader.
        shutil.rmtree(store.path, ignore_errors=True)
        raise MedfmError(f"none of the {len(manifest)} records could be read. First reason: {reason}")
    return store


@dataclass
class FileChunks:
    """Chunk ``i`` of a list of files; a class so that spawned workers can receive it. ``rates``: of signals, Hz."""

    paths: list[str]
    modality: Any
    rates: list[float | None] | None = None

    def __call__(self, index: int) -> Chunk:
        chunk = Chunk([], [], [])
        for row in range(index * CHUNK, min((index + 1) * CHUNK, len(self.paths))):
            rate = {} if self.rates is None else {"fs": self.rates[row]}
            try:
                sample = self.modality.read(self.paths[row], quality=False, **rate)
            except Exception as error:  # one bad file never ends a run: it is set aside with its reason
                known = isinstance(error, MedfmError)
                why = str(error) if known else f"{type(error).__name__}: {error}"
                chunk.failed.append((row, self.paths[row], why))
                continue
            there = sample.present.reshape(-1, *(1,) * (sample.x.ndim - 1))
            chunk.signals.append(np.where(there, sample.x, np.nan).astype(np.float32))
            chunk.rows.append(row)
        return chunk


def _run(missing: list[int], make: Callable[[int], Chunk], parts: Path, jobs: int) -> Any:
    if jobs == 1 or len(missing) < 2:
        return (_write_part(i, make, parts) for i in missing)
    from joblib import Parallel, delayed

    return Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(_write_part)(i, make, parts) for i in missing
    )


def _write_part(index: int, make: Callable[[int], Chunk], parts: Path) -> int:
    chunk = make(index)
    encoded = [encode(x) for x in chunk.signals]
    stem = parts / f"{index:06d}"
    temporary = parts / f"{index:06d}.{os.getpid()}.tmp"
    with temporary.open("wb") as out:
        for codes, _ in encoded:
            out.write(codes.tobytes())
    temporary.replace(stem.with_suffix(".i16"))
    if chunk.labels is not None:
        chunk.labels.to_csv(temporary, index=False)
        temporary.replace(stem.with_suffix(".csv"))
    with temporary.open("wb") as out:
        more: dict[str, Any] = {name: np.array(column) for name, column in (chunk.extra or {}).items()}
        np.savez(
            out,
            row=np.array(chunk.rows, np.int64),
            length=np.array([c.shape[1] for c, _ in encoded], np.int64),
            gain=np.array([g for _, g in encoded], np.float32),
            present=np.array([~np.all(c == NAN, axis=1) for c, _ in encoded], bool),
            gaps=np.array([bool(np.any(c == NAN)) for c, _ in encoded], bool),
            **more,
            failed=np.array(json.dumps(chunk.failed)),
        )
    temporary.replace(stem.with_suffix(".npz"))  # last: its presence says that the part is whole
    return index


def _publish(parts: Path, final: Path, chunks: int, text: str, fs: float, channels: Sequence[str]) -> None:
    staging = final.with_name(f"{final.name}.{os.getpid()}.tmp")
    staging.mkdir()
    try:
        _merge(parts, staging, chunks, text, fs, channels)
        staging.rename(final)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)  # a full disk stays no fuller than it was
        if not (final / "store.json").is_file():  # otherwise another process was first, with the same bytes
            raise


def _merge(parts: Path, staging: Path, chunks: int, text: str, fs: float, channels: Sequence[str]) -> None:
    """All parts, in order, as one store in ``staging``."""
    index: dict[str, list[np.ndarray]] = {k: [] for k in INDEX}
    failed: list[list[Any]] = []
    with (staging / "signals.i16").open("wb") as out:
        for i in range(chunks):
            stem = parts / f"{i:06d}"
            with stem.with_suffix(".i16").open("rb") as part:
                shutil.copyfileobj(part, out, 1 << 22)
            with np.load(stem.with_suffix(".npz"), allow_pickle=False) as arrays:
                if len(arrays["row"]):
                    for name in arrays.files:
                        if name != "failed":
                            index.setdefault(name, []).append(arrays[name])
                failed += json.loads(str(arrays["failed"]))
            if (csv := stem.with_suffix(".csv")).is_file():
                with (staging / "labels.csv").open("ab") as labels:
                    lines = csv.read_bytes()
                    labels.write(lines if labels.tell() == 0 else lines.split(b"\n", 1)[1])
    merged = {k: np.concatenate(v) if v else np.empty(0, np.int64) for k, v in index.items()}
    sizes = merged["length"] * len(channels)
    merged["offset"] = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64) if len(sizes) else sizes
    np.savez(staging / "index.npz", **merged)  # type: ignore[arg-type]
    meta = {"fs": fs, "channels": list(channels), "failed": failed, "inputs": json.loads(text)}
    (staging / "store.json").write_text(json.dumps(meta), encoding="utf-8")


def fingerprint(files: Sequence[str]) -> str:
    """Names, sizes and modification times of the sources (WFDB: of the header and every file of that stem; a subject: of
    every file that its address names, and their sidecars)."""
    digest = hashlib.sha256()
    for name in files:
        for part in subject_files(name):
            plain = Path(part.split("#")[0])
            candidates = [
                plain,
                plain.with_suffix(".dat"),
                plain.with_suffix(".mat"),
                Path(f"{plain}.hea"),
                Path(f"{plain}.dat"),
            ]
            if part != name:
                candidates.append(sidecar(plain))
            for candidate in candidates:
                try:
                    stat = candidate.stat()
                except OSError:
                    continue
                may = os.access(candidate, os.R_OK)  # a file whose rights were mended is read anew
                digest.update(f"{candidate}\x1f{stat.st_size}\x1f{stat.st_mtime_ns}\x1f{may}\n".encode())
        digest.update(f"{name}\n".encode())
    return digest.hexdigest()
